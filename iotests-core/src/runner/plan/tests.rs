//! Plans for made-up declarations and capabilities.

use super::*;
use crate::case::names::{QCOW2, RAW, VMDK};
use crate::case::{Aio, Cache, Case, Declaration, Host, HostFacts, Support, ToolFacts};

fn able(name: &str, emulator: bool, luks: bool) -> Able {
    let mut capabilities = Capabilities::default();
    capabilities.tools.insert(ToolKind::Img, ToolFacts::default());
    capabilities.tools.insert(ToolKind::Io, ToolFacts::default());
    capabilities.tools.insert(ToolKind::StorageDaemon, ToolFacts::default());
    capabilities.writable = ["raw", "qcow2"].map(str::to_owned).into();
    let mut hosts = vec![(Backend::Qsd, "storage-daemon")];
    if emulator {
        capabilities.tools.insert(ToolKind::System, ToolFacts::default());
        hosts.push((Backend::System, "emulator"));
    }
    for (backend, program) in hosts {
        let facts = serde_json::from_value(serde_json::json!({
            "program": program, "version": {"major": 7, "minor": 2, "micro": 0}, "package": "",
            "target": null, "accelerators": [], "machines": [], "devices": [], "formats": null,
            "drivers": ["raw", "qcow2", "luks"], "commands": [], "objects": [], "exports": [],
        }));
        let host = HostFacts {
            facts: facts.unwrap(),
            schema_file: None,
        };
        capabilities.hosts.insert(backend, host);
    }
    if luks {
        capabilities.features.insert(crate::case::Feature::Luks, Support::Yes);
    }
    Able {
        name: name.to_owned(),
        capabilities,
    }
}

/// The entries of a case with this declaration.
fn entries(declaration: Declaration) -> &'static [Registered] {
    let case: &'static Case = Box::leak(Box::new(Case {
        module: "x::area",
        function: "case",
        description: "",
        file: "",
        line: 1,
        declaration,
        excluded: &[],
        body: Body::Single(|_| Box::pin(async { Ok(()) })),
    }));
    case.entries(&[]).leak()
}

fn planned(
    declaration: Declaration,
    sets: &[Able],
    choice: SetChoice,
    args: &[&str],
) -> Vec<String> {
    let all = ["iotests"].iter().chain(args);
    let cli = <crate::runner::cli::Cli as clap::Parser>::try_parse_from(all).unwrap();
    let wanted = Wanted {
        selectors: &cli.selectors,
        matrix: &cli.matrix,
        sets: choice,
        more: MorePoints::default(),
    };
    let show = |one: &Planned| match &one.skip {
        Some(skip) => format!("{}: {skip}", one.id),
        None => format!("{} on {}", one.id, sets[one.set].name),
    };
    plan(entries(declaration), &wanted, sets).unwrap().iter().map(show).collect()
}

#[test]
fn each_instance_runs_on_the_first_set_that_can_run_it() {
    let sets = [able("host", false, false), able("7.2", true, false)];
    let meta = Declaration::new().formats(&[QCOW2]).host(Host::Any);
    let expected = [
        "area::case@qcow2.qsd on host",
        "area::case@qcow2.system on 7.2",
    ];
    assert_eq!(planned(meta, &sets, SetChoice::Auto, &[]), expected);
}

#[test]
fn exploring_cases_run_only_if_they_or_their_group_are_named() {
    let sets = [able("host", false, false)];
    let meta = Declaration::new().formats(&[RAW]).groups(&[names::EXPLORE]);
    for named in [&["-g", "explore"][..], &["area::case"]] {
        let planned = planned(meta, &sets, SetChoice::Auto, named);
        assert_eq!(planned, ["area::case@raw on host"]);
    }
    let wanted = Wanted {
        selectors: &[],
        matrix: &<crate::runner::cli::Cli as clap::Parser>::parse_from(["iotests"]).matrix,
        sets: SetChoice::Auto,
        more: MorePoints::default(),
    };
    assert!(plan(entries(meta), &wanted, &sets).is_err());
}

#[test]
fn a_set_that_has_the_programs_gives_the_reason_of_a_skip() {
    let sets = [able("host", false, false), able("7.2", true, false)];
    let meta = Declaration::new()
        .formats(&[QCOW2])
        .host(Host::System)
        .needs(&[Requirement::Device("moon")]);
    let expected = ["area::case@qcow2.system: the emulator has no device `moon`"];
    assert_eq!(planned(meta, &sets, SetChoice::Auto, &[]), expected);
}

#[test]
fn several_sets_give_an_instance_each_and_one_set_gives_one() {
    let sets = [able("host", false, false), able("7.2", true, false)];
    let meta = Declaration::new().formats(&[RAW]).host(Host::System);
    let expected = [
        "area::case@raw.system: needs an emulator (qemu-system-*)",
        "area::case@raw.system.set=7.2 on 7.2",
    ];
    assert_eq!(
        planned(meta, &sets, SetChoice::Each(vec![0, 1]), &[]),
        expected
    );
    assert_eq!(
        planned(
            meta,
            &sets,
            SetChoice::Each(vec![0, 1]),
            &["area::case@raw.system.set=7.2"]
        ),
        expected[1..]
    );
    assert_eq!(
        planned(meta, &sets, SetChoice::One(1), &[]),
        ["area::case@raw.system on 7.2"]
    );
}

#[test]
fn an_instance_over_fuse_is_skipped_if_fuse_does_not_work() {
    let mut sets = [able("host", false, false)];
    let meta = Declaration::new().formats(&[RAW]).protocols(&[Protocol::Fuse]);
    let plan = |sets: &[Able]| planned(meta, sets, SetChoice::Auto, &[]);
    let skipped = ["area::case@raw.fuse: FUSE does not work here: it could not be tried"];
    assert_eq!(plan(&sets), skipped);
    let features = &mut sets[0].capabilities.features;
    features.insert(
        crate::case::Feature::Fuse,
        Support::No("no /dev/fuse".into()),
    );
    let skipped = ["area::case@raw.fuse: FUSE does not work here: no /dev/fuse"];
    assert_eq!(plan(&sets), skipped);
    let features = &mut sets[0].capabilities.features;
    features.insert(crate::case::Feature::Fuse, Support::Yes);
    assert_eq!(plan(&sets), ["area::case@raw.fuse on host"]);
}

#[test]
fn a_luks_image_needs_working_luks() {
    let luks = Declaration::new().formats(&[Format::Luks]);
    let plan = |works| planned(luks, &[able("host", false, works)], SetChoice::Auto, &[]);
    assert_eq!(plan(true), ["area::case@luks on host"]);
    let skipped = ["area::case@luks: LUKS does not work here: it could not be tried"];
    assert_eq!(plan(false), skipped);
}

#[test]
fn io_uring_is_needed_if_it_is_the_aio_mode() {
    let mut sets = [able("host", false, false)];
    let raw = Declaration::new().formats(&[RAW]);
    let plan = |sets: &[Able]| planned(raw, sets, SetChoice::Auto, &["--aio", "io_uring"]);
    let why = "io_uring does not work here: it could not be tried";
    assert_eq!(plan(&sets), [format!("area::case@raw.aio=io_uring: {why}")]);
    let features = &mut sets[0].capabilities.features;
    features.insert(crate::case::Feature::IoUring, Support::Yes);
    assert_eq!(plan(&sets), ["area::case@raw.aio=io_uring on host"]);
}

/// H32: a case may restrict the cache modes.
#[test]
fn a_case_runs_with_its_cache_modes_only() {
    let sets = [able("host", false, false)];
    let caches = Declaration::new().formats(&[RAW]).caches(&[Cache::None, Cache::Unsafe]);
    let plan = |args: &[&str]| planned(caches, &sets, SetChoice::Auto, args);
    let none = "area::case@raw.cache=none on host";
    assert_eq!(
        plan(&[]),
        [none],
        "the first where the default is none of them"
    );
    let both = [none, "area::case@raw.cache=unsafe on host"];
    assert_eq!(plan(&["-c", "all"]), both);
    assert_eq!(plan(&["-c", "writeback,none"]), [none]);
    let why = "does not run with cache mode writeback, only with none, unsafe";
    assert_eq!(
        plan(&["-c", "writeback"]),
        [format!("area::case@raw: {why}")]
    );
}

/// H32: the aio mode is a dimension of the run like the cache mode.
#[test]
fn a_case_runs_with_its_aio_modes_only() {
    let mut sets = [able("host", false, false)];
    let features = &mut sets[0].capabilities.features;
    features.insert(crate::case::Feature::IoUring, Support::Yes);
    let aios = Declaration::new().formats(&[RAW]).aios(&[Aio::IoUring]);
    let plan = |args: &[&str]| planned(aios, &sets, SetChoice::Auto, args);
    let uring = ["area::case@raw.aio=io_uring on host"];
    assert_eq!(plan(&[]), uring);
    assert_eq!(plan(&["--aio", "threads,io_uring"]), uring);
    let why = "does not run with aio mode threads, only with io_uring";
    assert_eq!(
        plan(&["--aio", "threads"]),
        [format!("area::case@raw: {why}")]
    );
}

#[test]
fn a_skip_independent_of_the_set_is_reported_once() {
    let sets = [able("host", false, false), able("7.2", true, false)];
    let raw = Declaration::new().formats(&[RAW]).host(Host::System);
    let skipped = [
        "area::case@qcow2.system: does not run with format qcow2, only with raw",
        "area::case@vmdk.system: does not run with format vmdk, only with raw",
    ];
    let args = ["-f", "qcow2,vmdk"];
    assert_eq!(
        planned(raw, &sets, SetChoice::Each(vec![0, 1]), &args),
        skipped
    );
    let args = ["-f", "raw", "--backend", "qsd"];
    let skipped = "area::case@raw.qsd: does not run with backend qsd, only with system";
    assert_eq!(planned(raw, &sets, SetChoice::Auto, &args), [skipped]);
}

#[test]
fn a_set_whose_build_excludes_the_format_does_not_run_it() {
    let mut sets = [able("host", true, false)];
    let host = sets[0].capabilities.hosts.get_mut(&Backend::System).unwrap();
    let lists = serde_json::json!({"read_write": ["raw"], "read_only": ["qcow2"]});
    host.facts.formats = serde_json::from_value(lists).unwrap();
    let any = Declaration::new().host(Host::System);
    let expected = [
        "area::case@qcow2.system: qemu-system may only read with the block driver `qcow2` \
         (whitelist)",
        "area::case@raw.system on host",
    ];
    assert_eq!(planned(any, &sets, SetChoice::Auto, &[]), expected);
}

#[test]
fn the_default_formats_are_qcow2_and_raw_or_else_those_of_the_case() {
    let sets = [able("host", false, true)];
    let formats = |meta, args: &[&str]| planned(meta, &sets, SetChoice::Auto, args);
    assert_eq!(
        formats(Declaration::new(), &[]),
        ["area::case@qcow2 on host", "area::case@raw on host"]
    );
    let vmdk = "area::case@vmdk: qemu-img cannot create vmdk images";
    assert_eq!(formats(Declaration::new().formats(&[VMDK]), &[]), [vmdk]);
    assert_eq!(
        formats(Declaration::new(), &["-f", "vmdk,luks"]),
        ["area::case@luks on host", vmdk]
    );
    assert_eq!(
        formats(Declaration::new(), &["-f", "all"]).len(),
        Format::GENERIC.len()
    );
    assert_eq!(
        formats(Declaration::new(), &["area::case@vmdk"]),
        [vmdk],
        "an id names its point itself"
    );
}

#[test]
fn formats_that_must_grow_do_not_run_over_nbd() {
    let mut host = able("host", false, false);
    host.capabilities.writable.insert("qed".to_owned());
    let nbd = ToolKind::Nbd;
    host.capabilities.tools.insert(nbd, ToolFacts::default());
    let meta = Declaration::new().protocols(&[Protocol::Nbd]);
    let formats = ["-f", "raw,qcow2,qed"];
    let planned = planned(meta, &[host], SetChoice::Auto, &formats);
    assert_eq!(
        planned,
        [
            "area::case@qcow2.nbd on host",
            "area::case@qed.nbd: qed over nbd does not work here: an export cannot grow",
            "area::case@raw.nbd on host",
        ]
    );
}
