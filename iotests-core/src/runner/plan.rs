//! The plan: every point of the matrix as an instance, runnable or skipped with a reason, before anything runs.

use std::str::FromStr;

use imgtools::tools::ToolKind;

use super::cli::{BackendChoice, Choice, MatrixArgs};
use super::error::RunError;
use super::event::InstanceInfo;
use super::select;
use super::sets::HOST;
use crate::case::{
    Aio, Backend, Cache, Capabilities, Case, Format, Guest, Instance, Protocol, Requirement, Skip,
    names,
};
use crate::wire::Place;

/// What a set of programs can do, for the plan.
#[derive(Debug)]
pub(crate) struct Able {
    /// The name of the set.
    pub(crate) name: String,
    /// What its programs can do.
    pub(crate) capabilities: Capabilities,
}

/// An instance with its decision.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    /// The point of the matrix.
    pub(crate) instance: Instance,
    /// The id: the instance's, and the set where several run the same.
    pub(crate) id: String,
    /// The index of the set it runs on.
    pub(crate) set: usize,
    /// Why it does not run.
    pub(crate) skip: Option<Skip>,
}

impl Planned {
    /// What reports say about it.
    pub(crate) fn info(&self, sets: &[Able]) -> InstanceInfo {
        let case = self.instance.case;
        InstanceInfo {
            id: self.id.clone(),
            case: case.name(),
            description: case.description.to_owned(),
            place: Place {
                file: case.file.to_owned(),
                line: case.line,
            },
            upstream: self.instance.upstream().map(str::to_owned).collect(),
            set: sets
                .get(self.set)
                .map(|set| set.name.clone())
                .unwrap_or_default(),
        }
    }
}

/// Which sets instances run on: `--set`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SetChoice {
    /// Each on the first that can run it.
    Auto,
    /// Each on every one.
    All,
    /// All on this one.
    One(usize),
}

impl SetChoice {
    /// Reads `--set`.
    pub(crate) fn new(text: &str, sets: &[Able]) -> Result<Self, RunError> {
        match text {
            "auto" => Ok(Self::Auto),
            "all" => Ok(Self::All),
            name => sets
                .iter()
                .position(|set| set.name == name)
                .map(Self::One)
                .ok_or_else(|| {
                    let known: Vec<&str> = sets.iter().map(|set| set.name.as_str()).collect();
                    RunError::Usage(format!(
                        "there is no set `{name}`; there is auto, all, {}",
                        known.join(", ")
                    ))
                }),
        }
    }
}

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) selectors: &'a [String],
    pub(crate) matrix: &'a MatrixArgs,
    pub(crate) sets: SetChoice,
}

/// Every selected instance, in the order of the names.
pub(crate) fn plan(
    cases: &[&'static Case],
    wanted: &Wanted<'_>,
    sets: &[Able],
) -> Result<Vec<Planned>, RunError> {
    check_groups(wanted.matrix)?;
    // An id on the command line names its point of the matrix itself, unless options say more.
    let mut instances: Vec<Instance> = Vec::new();
    for case in cases {
        if in_groups(case, wanted.matrix) {
            for row in case.rows() {
                expand(case, row, wanted, &mut instances);
            }
        }
    }
    let everything: Vec<Instance> = cases
        .iter()
        .flat_map(|case| {
            case.rows().into_iter().map(|row| Instance {
                row,
                ..any_point(case)
            })
        })
        .collect();
    for selector in wanted.selectors {
        let (selector, _) = split_set(selector);
        if selector.is_empty() {
            return Err(RunError::Usage(
                "an empty word selects nothing; leave it out for all cases".to_owned(),
            ));
        }
        let known = |instance: &&Instance| match selector.split_once('@') {
            Some((name, _)) => instance.name().contains(name) || select::matches(name, instance),
            None => select::matches(selector, instance),
        };
        let meant: Vec<&Instance> = everything.iter().filter(known).collect();
        supports_format(selector, &meant)?;
        if meant.is_empty() {
            let nearest = select::nearest(selector, &everything);
            return Err(RunError::UnknownSelector {
                selector: selector.to_owned(),
                nearest,
            });
        }
    }
    let mut planned: Vec<Planned> = Vec::new();
    for instance in instances {
        for (id, set, skip) in decide(&instance, wanted, sets) {
            let chosen = |selector: &String| {
                let (selector, of_set) = split_set(selector);
                select::matches(selector, &instance)
                    && of_set.is_none_or(|name| sets.get(set).is_some_and(|set| set.name == name))
            };
            if wanted.selectors.is_empty() || wanted.selectors.iter().any(chosen) {
                planned.push(Planned {
                    instance,
                    id,
                    set,
                    skip,
                });
            }
        }
    }
    planned.sort_by(|a, b| a.id.cmp(&b.id));
    if planned.is_empty() {
        return Err(RunError::NothingSelected(
            "these options leave none".to_owned(),
        ));
    }
    Ok(planned)
}

/// The cases that a selector means have the format that it names, or some of them do.
fn supports_format(selector: &str, meant: &[&Instance]) -> Result<(), RunError> {
    let Some(format) = point_words(selector).next() else {
        return Ok(());
    };
    let has = |case: &Case| {
        let formats = case.meta.formats.to_vec();
        formats.iter().any(|one| one.name().starts_with(format))
    };
    if meant.is_empty() || meant.iter().any(|one| has(one.case)) {
        return Ok(());
    }
    let mut cases: Vec<String> = meant
        .iter()
        .map(|one| {
            let formats = one.case.meta.formats.to_vec();
            let names: Vec<&str> = formats.iter().map(|format| format.name()).collect();
            format!("{} runs on {}", one.case.name(), names.join(", "))
        })
        .collect();
    cases.sort();
    cases.dedup();
    Err(RunError::NothingSelected(format!(
        "`{selector}` is no point of its matrix:\n  {}",
        cases.join("\n  ")
    )))
}

/// The suffix of an id that names its set.
const SET: &str = ".set=";

fn split_set(selector: &str) -> (&str, Option<&str>) {
    match selector.split_once(SET) {
        Some((rest, name)) => (rest, Some(name)),
        None => (selector, None),
    }
}

/// Whether any selector names a set, so that `--set` need not.
pub(crate) fn names_set(selectors: &[String]) -> bool {
    selectors.iter().any(|selector| selector.contains(SET))
}

fn check_groups(matrix: &MatrixArgs) -> Result<(), RunError> {
    for group in matrix.groups.iter().chain(&matrix.exclude_groups) {
        if !names::GROUPS.iter().any(|known| known.0 == group) {
            let known: Vec<&str> = names::GROUPS.iter().map(|known| known.0).collect();
            return Err(RunError::Usage(format!(
                "group `{group}` is unknown; there is {}",
                known.join(", ")
            )));
        }
    }
    Ok(())
}

fn in_groups(case: &Case, matrix: &MatrixArgs) -> bool {
    let has = |name: &String| case.meta.groups.iter().any(|group| group.0 == name);
    (matrix.groups.is_empty() || matrix.groups.iter().any(has))
        && !matrix.exclude_groups.iter().any(has)
}

fn any_point(case: &'static Case) -> Instance {
    Instance {
        case,
        row: None,
        format: Format::Raw,
        protocol: Protocol::File,
        cache: Cache::Writeback,
        aio: Aio::Threads,
        backend: None,
    }
}

/// All points of the matrix for one row of a case.
fn expand(
    case: &'static Case,
    row: Option<crate::case::RowMeta>,
    wanted: &Wanted<'_>,
    instances: &mut Vec<Instance>,
) {
    let matrix = wanted.matrix;
    let meta = &case.meta;
    let named = |axis: fn(&str) -> bool| {
        wanted
            .selectors
            .iter()
            .any(|selector| point_words(selector).any(axis))
    };
    let formats = match named(|word| Format::from_str(word).is_ok()) && matrix.formats.is_empty() {
        // `name@vmdk` means vmdk, although it is not among the defaults.
        true => meta.formats.to_vec(),
        false => chosen(
            &matrix.formats,
            &meta.formats.to_vec(),
            &[Format::Qcow2, Format::Raw],
            true,
        ),
    };
    let protocols =
        match named(|word| Protocol::from_str(word).is_ok()) && matrix.protocols.is_empty() {
            true => meta.protocols.to_vec(),
            false => chosen(&matrix.protocols, meta.protocols, &[Protocol::File], true),
        };
    let caches = match named(|word| word.starts_with("cache=")) && matrix.caches.is_empty() {
        true => meta.caches.to_vec(),
        false => chosen(&matrix.caches, meta.caches, &[Cache::Writeback], false),
    };
    let aios = match named(|word| word.starts_with("aio=")) && matrix.aios.is_empty() {
        true => meta.aios.to_vec(),
        false => chosen(&matrix.aios, meta.aios, &[Aio::Threads], false),
    };
    for &format in &formats {
        for &protocol in &protocols {
            for &cache in &caches {
                for &aio in &aios {
                    for &backend in meta.host.backends() {
                        if backend_wanted(matrix.backend, backend) {
                            instances.push(Instance {
                                case,
                                row,
                                format,
                                protocol,
                                cache,
                                aio,
                                backend,
                            });
                        }
                    }
                }
            }
        }
    }
}

/// The words of a selector after its `@`.
fn point_words(selector: &str) -> impl Iterator<Item = &str> {
    selector
        .split_once('@')
        .map_or("", |(_, point)| point)
        .split('.')
        .filter(|word| !word.is_empty())
}

/// What of `supported` runs: what was asked for, else the default, else (with `all_else`) all, or the first.
fn chosen<T: Copy + PartialEq>(
    asked: &[Choice<T>],
    supported: &[T],
    default: &[T],
    all_else: bool,
) -> Vec<T> {
    let supports = |value: &T| supported.contains(value);
    if asked.is_empty() {
        let values: Vec<T> = default.iter().copied().filter(supports).collect();
        return match (values.is_empty(), all_else) {
            (false, _) => values,
            (true, true) => supported.to_vec(),
            (true, false) => supported.iter().copied().take(1).collect(),
        };
    }
    let mut values = Vec::new();
    for choice in asked {
        match choice {
            Choice::All => {
                let more: Vec<T> = supported
                    .iter()
                    .copied()
                    .filter(|value| !values.contains(value))
                    .collect();
                values.extend(more);
            }
            Choice::One(value) if supports(value) && !values.contains(value) => values.push(*value),
            Choice::One(_) => {}
        }
    }
    values
}

fn backend_wanted(choice: BackendChoice, backend: Option<Backend>) -> bool {
    match choice {
        BackendChoice::Auto => true,
        BackendChoice::System => backend != Some(Backend::Qsd),
        BackendChoice::Qsd => backend != Some(Backend::System),
    }
}

/// On which set an instance runs, or why on none; with `--set all` one answer for each.
fn decide(
    instance: &Instance,
    wanted: &Wanted<'_>,
    sets: &[Able],
) -> Vec<(String, usize, Option<Skip>)> {
    let check_on = |index: usize| match sets.get(index) {
        Some(set) => check(instance, &set.capabilities, &wanted.matrix.imgopts).err(),
        None => Some(Skip::NoTool {
            tool: ToolKind::Img,
        }),
    };
    let id = instance.id();
    match wanted.sets {
        SetChoice::One(index) => vec![(id, index, check_on(index))],
        SetChoice::All => (0..sets.len())
            .map(|index| {
                let name = &sets[index].name;
                let id = if name == HOST {
                    id.clone()
                } else {
                    format!("{id}{SET}{name}")
                };
                (id, index, check_on(index))
            })
            .collect(),
        SetChoice::Auto => {
            let mut best: Option<(usize, Skip)> = None;
            for index in 0..sets.len().max(1) {
                match check_on(index) {
                    None => return vec![(id, index, None)],
                    // A set that has the programs knows a better reason than one that has not.
                    Some(skip)
                        if best
                            .as_ref()
                            .is_none_or(|(_, best)| lacks_tool(best) && !lacks_tool(&skip)) =>
                    {
                        best = Some((index, skip));
                    }
                    Some(_) => {}
                }
            }
            best.map(|(index, skip)| (id, index, Some(skip)))
                .into_iter()
                .collect()
        }
    }
}

fn lacks_tool(skip: &Skip) -> bool {
    matches!(skip, Skip::NoTool { .. })
}

/// Whether an instance can run with these programs: what the matrix implies, then what the case declares.
fn check(instance: &Instance, capabilities: &Capabilities, imgopts: &[String]) -> Result<(), Skip> {
    let meta = &instance.case.meta;
    let need = |requirement: Requirement| requirement.check(capabilities, instance.backend);
    need(Requirement::Tool(ToolKind::Img))?;
    // Nearly every case writes or verifies with it, and no distribution has the one without the other.
    need(Requirement::Tool(ToolKind::Io))?;
    if let Some(backend) = instance.backend {
        need(Requirement::Tool(backend.tool()))?;
    }
    match instance.format {
        Format::Luks => need(Requirement::Luks)?,
        Format::Bochs | Format::Cloop | Format::Dmg | Format::Vvfat => {
            need(Requirement::Driver(instance.format.name()))?
        }
        format => need(Requirement::WritableFormat(format.name()))?,
    }
    match instance.protocol {
        Protocol::File => {}
        Protocol::Nbd => need(Requirement::Tool(ToolKind::Nbd))?,
        Protocol::Fuse => {
            need(Requirement::Tool(ToolKind::StorageDaemon))?;
            need(Requirement::Fuse)?;
        }
        Protocol::Ssh => need(Requirement::Program("sshd"))?,
    }
    match instance.aio {
        Aio::Threads => {}
        Aio::Native if instance.cache.is_direct() => {}
        Aio::Native => {
            return Err(Skip::Feature {
                feature: "aio=native".to_owned(),
                why: "it needs a cache mode with O_DIRECT".to_owned(),
            });
        }
        Aio::IoUring => need(Requirement::IoUring)?,
    }
    if instance.backend == Some(Backend::System) {
        match meta.guest {
            Guest::Stopped | Guest::RunningIdle => {}
            Guest::Native => need(Requirement::AnyOf(&[
                Requirement::Accelerator("kvm"),
                Requirement::Accelerator("tcg"),
            ]))?,
            Guest::VirtualClock => need(Requirement::Accelerator("qtest"))?,
        }
    }
    for option in meta.unsupported_imgopts {
        if imgopts
            .iter()
            .any(|given| given == option || given.split('=').next() == Some(option))
        {
            return Err(Skip::ImageOptions {
                option: (*option).to_owned(),
            });
        }
    }
    let of_row = instance.row.map_or(&[][..], |row| row.needs);
    meta.needs
        .iter()
        .chain(of_row)
        .try_for_each(|requirement| need(*requirement))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::names::{QCOW2, RAW, VMDK};
    use crate::case::{Body, Host, HostFacts, Meta, Support, ToolFacts};

    fn able(name: &str, emulator: bool, luks: bool) -> Able {
        let mut capabilities = Capabilities::default();
        capabilities
            .tools
            .insert(ToolKind::Img, ToolFacts::default());
        capabilities
            .tools
            .insert(ToolKind::Io, ToolFacts::default());
        capabilities
            .tools
            .insert(ToolKind::StorageDaemon, ToolFacts::default());
        capabilities.writable = ["raw", "qcow2"].map(str::to_owned).into();
        if emulator {
            capabilities
                .tools
                .insert(ToolKind::System, ToolFacts::default());
            let facts = serde_json::from_value(serde_json::json!({
                "program": "emulator", "version": {"major": 7, "minor": 2, "micro": 0}, "package": "",
                "target": null, "accelerators": [], "machines": [], "devices": [], "formats": null,
                "drivers": [], "commands": [], "objects": [], "exports": [],
            }));
            capabilities.hosts.insert(
                Backend::System,
                HostFacts {
                    facts: facts.unwrap(),
                    schema_file: None,
                },
            );
        }
        if luks {
            capabilities
                .features
                .insert(crate::case::Feature::Luks, Support::Yes);
        }
        Able {
            name: name.to_owned(),
            capabilities,
        }
    }

    fn case(meta: Meta) -> &'static Case {
        let body = Body::Single(|_| Box::pin(async { Ok(()) }));
        let case = Case {
            module: "x::area",
            function: "case",
            description: "",
            file: "",
            line: 1,
            meta,
            body,
        };
        Box::leak(Box::new(case))
    }

    fn planned(meta: Meta, sets: &[Able], choice: SetChoice, args: &[&str]) -> Vec<String> {
        let all = ["iotests"].iter().chain(args);
        let cli = <crate::runner::cli::Cli as clap::Parser>::try_parse_from(all).unwrap();
        let wanted = Wanted {
            selectors: &cli.selectors,
            matrix: &cli.matrix,
            sets: choice,
        };
        let show = |one: &Planned| match &one.skip {
            Some(skip) => format!("{}: {skip}", one.id),
            None => format!("{} on {}", one.id, sets[one.set].name),
        };
        plan(&[case(meta)], &wanted, sets)
            .unwrap()
            .iter()
            .map(show)
            .collect()
    }

    #[test]
    fn each_instance_runs_on_the_first_set_that_can_run_it() {
        let sets = [able("host", false, false), able("7.2", true, false)];
        let meta = Meta::new().formats(&[QCOW2]).host(Host::Any);
        let expected = [
            "area::case@qcow2.qsd on host",
            "area::case@qcow2.system on 7.2",
        ];
        assert_eq!(planned(meta, &sets, SetChoice::Auto, &[]), expected);
    }

    #[test]
    fn a_set_that_has_the_programs_gives_the_reason_of_a_skip() {
        let sets = [able("host", false, false), able("7.2", true, false)];
        let meta = Meta::new()
            .formats(&[QCOW2])
            .host(Host::System)
            .needs(&[Requirement::Device("moon")]);
        let expected = ["area::case@qcow2.system: the emulator has no device `moon`"];
        assert_eq!(planned(meta, &sets, SetChoice::Auto, &[]), expected);
    }

    #[test]
    fn all_sets_give_each_its_own_instance_and_one_set_only_its() {
        let sets = [able("host", false, false), able("7.2", true, false)];
        let meta = Meta::new().formats(&[RAW]).host(Host::System);
        let expected = [
            "area::case@raw.system: needs an emulator (qemu-system-*)",
            "area::case@raw.system.set=7.2 on 7.2",
        ];
        assert_eq!(planned(meta, &sets, SetChoice::All, &[]), expected);
        assert_eq!(
            planned(
                meta,
                &sets,
                SetChoice::All,
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
    fn an_instance_over_fuse_is_skipped_where_fuse_does_not_work() {
        let mut sets = [able("host", false, false)];
        let meta = Meta::new().formats(&[RAW]).protocols(&[Protocol::Fuse]);
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
    fn the_default_formats_are_qcow2_and_raw_and_else_what_the_case_has() {
        let sets = [able("host", false, true)];
        let formats = |meta, args: &[&str]| planned(meta, &sets, SetChoice::Auto, args);
        assert_eq!(
            formats(Meta::new(), &[]),
            ["area::case@qcow2 on host", "area::case@raw on host"]
        );
        let vmdk = "area::case@vmdk: qemu-img cannot create vmdk images";
        assert_eq!(formats(Meta::new().formats(&[VMDK]), &[]), [vmdk]);
        assert_eq!(
            formats(Meta::new(), &["-f", "vmdk,luks"]),
            ["area::case@luks on host", vmdk]
        );
        assert_eq!(
            formats(Meta::new(), &["-f", "all"]).len(),
            Format::GENERIC.len()
        );
        assert_eq!(
            formats(Meta::new(), &["area::case@vmdk"]),
            [vmdk],
            "an id names its point itself"
        );
    }
}
