//! The plan: every point of the matrix as an instance, runnable or skipped with a reason, before anything runs.

use std::collections::BTreeMap;

use imgtools::tools::ToolKind;

use super::cli::{BackendChoice, Choice, MatrixArgs};
use super::error::RunError;
use super::event::{InstanceInfo, PointInfo};
use super::select::{self, At, SET, Selector};
use super::sets::HOST;
use crate::case::{
    Aio, Backend, Cache, Capabilities, Format, Guest, Host, Instance, Known, Meta, Point, Protocol,
    Registered, Requirement, Skip, names,
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
    /// What is known of it on that set.
    pub(crate) known: Known,
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
            point: Some(PointInfo {
                row: self.instance.row.map(str::to_owned),
                format: self.instance.format,
                protocol: self.instance.protocol,
                cache: self.instance.cache,
                aio: self.instance.aio,
                backend: self.instance.backend,
                groups: self
                    .instance
                    .meta
                    .groups
                    .iter()
                    .map(|group| group.0.to_owned())
                    .collect(),
                budget: self.instance.meta.budget,
            }),
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
    entries: &'static [Registered],
    wanted: &Wanted<'_>,
    sets: &[Able],
) -> Result<Vec<Planned>, RunError> {
    check_groups(wanted.matrix)?;
    let anywhere: Vec<Instance> = entries
        .iter()
        .map(|entry| Instance::new(entry, ANY_POINT))
        .collect();
    let selectors = wanted.selectors.iter().map(|text| Selector::parse(text));
    let selectors = selectors.collect::<Result<Vec<_>, _>>()?;
    for selector in &selectors {
        check_selector(selector, &anywhere)?;
    }
    // Each selector for itself: the point that one names is none of what another means.
    let mut planned: BTreeMap<String, Planned> = BTreeMap::new();
    let in_groups = |entry: &&Registered| in_groups(&entry.meta, wanted.matrix);
    for entry in entries.iter().filter(in_groups) {
        let any = Instance::new(entry, ANY_POINT);
        let meant = selectors.iter().filter(|selector| selector.names(&any));
        let mut meant: Vec<Option<&Selector>> = meant.map(Some).collect();
        if selectors.is_empty() {
            meant.push(None);
        }
        for selector in meant {
            let at = selector.and_then(|selector| selector.point.as_ref());
            let of_set = selector.and_then(|selector| selector.set.as_deref());
            for (instance, skip) in expand(entry, wanted.matrix, at.unwrap_or(&At::default())) {
                for one in decide(instance, skip, wanted, sets) {
                    let set = sets.get(one.set).map(|set| set.name.as_str());
                    if of_set.is_none() || of_set == set {
                        planned.entry(one.id.clone()).or_insert(one);
                    }
                }
            }
        }
    }
    let planned: Vec<Planned> = planned.into_values().collect();
    if planned.is_empty() {
        return Err(RunError::NothingSelected(
            "these options leave none".to_owned(),
        ));
    }
    Ok(planned)
}

/// A selector means something, at a point that this has.
fn check_selector(selector: &Selector, anywhere: &[Instance]) -> Result<(), RunError> {
    let meant = anywhere.iter().filter(|instance| selector.names(instance));
    let meant: Vec<&Instance> = meant.collect();
    if meant.is_empty() {
        return Err(RunError::UnknownSelector {
            selector: selector.text.clone(),
            nearest: select::nearest(&selector.text, anywhere),
        });
    }
    match selector.point.as_ref().and_then(|at| at.format) {
        Some(format) => supports_format(selector, format, &meant),
        None => Ok(()),
    }
}

/// The cases that a selector means have the format that it names, or some of them do.
fn supports_format(
    selector: &Selector,
    format: Format,
    meant: &[&Instance],
) -> Result<(), RunError> {
    if meant
        .iter()
        .any(|one| one.meta.formats.to_vec().contains(&format))
    {
        return Ok(());
    }
    let names = |one: &Instance| names_of(&one.meta.formats.to_vec());
    let runs_on = |one: &&Instance| format!("{} runs on {}", one.name(), names(one).join(", "));
    let mut cases: Vec<String> = meant.iter().map(runs_on).collect();
    cases.sort();
    cases.dedup();
    Err(RunError::NothingSelected(format!(
        "`{}` is no point of its matrix:\n  {}",
        selector.text,
        cases.join("\n  ")
    )))
}

fn names_of<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
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

fn in_groups(meta: &Meta, matrix: &MatrixArgs) -> bool {
    let has = |name: &String| meta.groups.iter().any(|group| group.0 == name);
    (matrix.groups.is_empty() || matrix.groups.iter().any(has))
        && !matrix.exclude_groups.iter().any(has)
}

/// Where an instance stands of which no more is asked than its name.
const ANY_POINT: Point = Point {
    format: Format::Raw,
    protocol: Protocol::File,
    cache: Cache::Writeback,
    aio: Aio::Threads,
    backend: None,
};

/// All points of the matrix for a case or a row that a selector leaves open. Where it has none for what was asked for, these
/// points are skips.
fn expand(
    entry: &'static Registered,
    matrix: &MatrixArgs,
    at: &At,
) -> Vec<(Instance, Option<Skip>)> {
    let meta = &entry.meta;
    let formats = Axis {
        name: "format",
        asked: &asked(at.format, &matrix.formats),
        supported: &meta.formats.to_vec(),
        default: &[Format::Qcow2, Format::Raw],
        all_else: true,
    }
    .choose();
    let protocols = Axis {
        name: "protocol",
        asked: &asked(at.protocol, &matrix.protocols),
        supported: meta.protocols,
        default: &[Protocol::File],
        all_else: true,
    }
    .choose();
    let caches = Axis {
        name: "cache mode",
        asked: &asked(at.cache, &matrix.caches),
        supported: meta.caches,
        default: &[Cache::Writeback],
        all_else: false,
    }
    .choose();
    let aios = Axis {
        name: "aio mode",
        asked: &asked(at.aio, &matrix.aios),
        supported: meta.aios,
        default: &[Aio::Threads],
        all_else: false,
    }
    .choose();
    let backend = match at.backend {
        Some(Backend::System) => BackendChoice::System,
        Some(Backend::Qsd) => BackendChoice::Qsd,
        None => matrix.backend,
    };
    let backends = backends(backend, meta.host);
    let mut all = Vec::new();
    for (format, no_format) in &formats {
        for (protocol, no_protocol) in &protocols {
            for (cache, no_cache) in &caches {
                for (aio, no_aio) in &aios {
                    for (backend, no_backend) in &backends {
                        let point = Point {
                            format: *format,
                            protocol: *protocol,
                            cache: *cache,
                            aio: *aio,
                            backend: *backend,
                        };
                        let skips = [no_format, no_protocol, no_cache, no_aio, no_backend];
                        let skip = skips.into_iter().flatten().next().cloned();
                        all.push((Instance::new(entry, point), skip));
                    }
                }
            }
        }
    }
    all
}

/// The hosts that a case runs on, of those asked for.
fn backends(choice: BackendChoice, host: Host) -> Vec<(Option<Backend>, Option<Skip>)> {
    let all = host.backends();
    let asked = match choice {
        BackendChoice::Auto => None,
        BackendChoice::System => Some(Backend::System),
        BackendChoice::Qsd => Some(Backend::Qsd),
    };
    let wanted = |one: &&Option<Backend>| one.is_none() || asked.is_none() || **one == asked;
    let chosen: Vec<_> = all.iter().filter(wanted).map(|one| (*one, None)).collect();
    if !chosen.is_empty() {
        return chosen;
    }
    let supported: Vec<Backend> = all.iter().copied().flatten().collect();
    let skip = |asked: Backend| not_in_matrix("backend", &asked, &supported);
    vec![(asked, asked.map(skip))]
}

fn not_in_matrix<T: ToString>(axis: &str, asked: &T, supported: &[T]) -> Skip {
    Skip::NotInMatrix {
        axis: axis.to_owned(),
        asked: asked.to_string(),
        supported: names_of(supported),
    }
}

/// What an id names comes before what the options say.
fn asked<T: Copy>(at: Option<T>, options: &[Choice<T>]) -> Vec<Choice<T>> {
    match at {
        Some(value) => vec![Choice::One(value)],
        None => options.to_vec(),
    }
}

/// One axis of the matrix: what was asked for, and what a case supports.
struct Axis<'a, T> {
    name: &'static str,
    asked: &'a [Choice<T>],
    supported: &'a [T],
    default: &'a [T],
    /// Where the default is not supported, everything is; else the first.
    all_else: bool,
}

impl<T: Copy + PartialEq + ToString> Axis<'_, T> {
    /// What runs. Where nothing of what was asked for is supported, it is a skip.
    fn choose(&self) -> Vec<(T, Option<Skip>)> {
        let supports = |value: &T| self.supported.contains(value);
        let mut values: Vec<T> = Vec::new();
        if self.asked.is_empty() {
            values = self.default.iter().copied().filter(supports).collect();
            if values.is_empty() {
                let count = if self.all_else { usize::MAX } else { 1 };
                values = self.supported.iter().copied().take(count).collect();
            }
        }
        for choice in self.asked {
            let more = match choice {
                Choice::All => self.supported,
                Choice::One(value) => std::slice::from_ref(value),
            };
            let is_new = |value: &T| supports(value) && !values.contains(value);
            let more: Vec<T> = more.iter().copied().filter(is_new).collect();
            values.extend(more);
        }
        if !values.is_empty() {
            return values.into_iter().map(|value| (value, None)).collect();
        }
        let skip = |choice: &Choice<T>| match choice {
            Choice::One(value) => {
                let skip = not_in_matrix(self.name, value, self.supported);
                Some((*value, Some(skip)))
            }
            Choice::All => None,
        };
        self.asked.iter().filter_map(skip).collect()
    }
}

/// On which set an instance runs, or why on none; with `--set all` one answer for each.
fn decide(
    instance: Instance,
    skip: Option<Skip>,
    wanted: &Wanted<'_>,
    sets: &[Able],
) -> Vec<Planned> {
    let point = instance.at();
    let on = |set: usize, skip: Option<Skip>| {
        let known = sets.get(set).map(|set| &set.capabilities);
        let known = known.map(|able| Known::of(instance.meta, able, &point));
        Planned {
            instance,
            id: instance.id(),
            set,
            skip,
            known: known.unwrap_or_default(),
        }
    };
    if let Some(skip) = skip {
        // No set of programs could change that.
        let set = match wanted.sets {
            SetChoice::One(index) => index,
            SetChoice::All | SetChoice::Auto => 0,
        };
        return vec![on(set, Some(skip))];
    }
    let check_on = |index: usize| match sets.get(index) {
        Some(set) => check(&instance, &set.capabilities, &wanted.matrix.imgopts).err(),
        None => Some(Skip::NoTool {
            tool: ToolKind::Img,
        }),
    };
    match wanted.sets {
        SetChoice::One(index) => vec![on(index, check_on(index))],
        SetChoice::All => (0..sets.len())
            .map(|index| {
                let mut planned = on(index, check_on(index));
                let name = &sets[index].name;
                if name != HOST {
                    planned.id += &format!("{SET}{name}");
                }
                planned
            })
            .collect(),
        SetChoice::Auto => {
            let mut best: Option<(usize, Skip)> = None;
            for index in 0..sets.len().max(1) {
                match check_on(index) {
                    None => return vec![on(index, None)],
                    // A set that has the programs knows a better reason than one that has not.
                    Some(skip)
                        if best.as_ref().is_none_or(|(_, best)| {
                            is_tool_missing(best) && !is_tool_missing(&skip)
                        }) =>
                    {
                        best = Some((index, skip));
                    }
                    Some(_) => {}
                }
            }
            best.map(|(index, skip)| on(index, Some(skip)))
                .into_iter()
                .collect()
        }
    }
}

fn is_tool_missing(skip: &Skip) -> bool {
    matches!(skip, Skip::NoTool { .. })
}

/// Whether an instance can run with these programs: what the matrix implies, then what the case declares.
fn check(instance: &Instance, capabilities: &Capabilities, imgopts: &[String]) -> Result<(), Skip> {
    let (meta, point) = (instance.meta, instance.at());
    let need = |requirement: Requirement| requirement.check(capabilities, &point);
    need(Requirement::Tool(ToolKind::Img))?;
    // Nearly every case writes or verifies with it, and no distribution has the one without the other.
    need(Requirement::Tool(ToolKind::Io))?;
    if let Some(backend) = instance.backend {
        need(Requirement::Tool(backend.tool()))?;
    }
    match instance.format {
        Format::Luks => need(Requirement::Luks)?,
        Format::Bochs | Format::Cloop | Format::Dmg | Format::Vvfat => {
            need(Requirement::ReadOnlyDriver(instance.format.name()))?
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
    for option in &meta.unsupported_imgopts {
        if imgopts
            .iter()
            .any(|given| given == option || given.split('=').next() == Some(*option))
        {
            return Err(Skip::ImageOptions {
                option: (*option).to_owned(),
            });
        }
    }
    meta.needs
        .iter()
        .try_for_each(|requirement| need(*requirement))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::names::{QCOW2, RAW, VMDK};
    use crate::case::{Body, Case, Declaration, HostFacts, Support, ToolFacts};

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
        let mut hosts = vec![(Backend::Qsd, "storage-daemon")];
        if emulator {
            capabilities
                .tools
                .insert(ToolKind::System, ToolFacts::default());
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
            capabilities
                .features
                .insert(crate::case::Feature::Luks, Support::Yes);
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
        };
        let show = |one: &Planned| match &one.skip {
            Some(skip) => format!("{}: {skip}", one.id),
            None => format!("{} on {}", one.id, sets[one.set].name),
        };
        plan(entries(declaration), &wanted, sets)
            .unwrap()
            .iter()
            .map(show)
            .collect()
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
    fn all_sets_give_each_its_own_instance_and_one_set_only_its() {
        let sets = [able("host", false, false), able("7.2", true, false)];
        let meta = Declaration::new().formats(&[RAW]).host(Host::System);
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
        let meta = Declaration::new()
            .formats(&[RAW])
            .protocols(&[Protocol::Fuse]);
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
    fn io_uring_is_needed_where_it_is_the_aio_mode() {
        let mut sets = [able("host", false, false)];
        let raw = Declaration::new().formats(&[RAW]);
        let plan = |sets: &[Able]| planned(raw, sets, SetChoice::Auto, &["--aio", "io_uring"]);
        let why = "io_uring does not work here: it could not be tried";
        assert_eq!(plan(&sets), [format!("area::case@raw.aio=io_uring: {why}")]);
        let features = &mut sets[0].capabilities.features;
        features.insert(crate::case::Feature::IoUring, Support::Yes);
        assert_eq!(plan(&sets), ["area::case@raw.aio=io_uring on host"]);
    }

    #[test]
    fn a_case_runs_with_its_cache_modes_only() {
        let sets = [able("host", false, false)];
        let caches = Declaration::new()
            .formats(&[RAW])
            .caches(&[Cache::None, Cache::Unsafe]);
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

    #[test]
    fn what_no_set_could_change_is_skipped_once() {
        let sets = [able("host", false, false), able("7.2", true, false)];
        let raw = Declaration::new().formats(&[RAW]).host(Host::System);
        let skipped = [
            "area::case@qcow2.system: does not run with format qcow2, only with raw",
            "area::case@vmdk.system: does not run with format vmdk, only with raw",
        ];
        let args = ["-f", "qcow2,vmdk"];
        assert_eq!(planned(raw, &sets, SetChoice::All, &args), skipped);
        let args = ["-f", "raw", "--backend", "qsd"];
        let skipped = "area::case@raw.qsd: does not run with backend qsd, only with system";
        assert_eq!(planned(raw, &sets, SetChoice::Auto, &args), [skipped]);
    }

    #[test]
    fn a_set_whose_build_may_not_use_the_format_does_not_run_it() {
        let mut sets = [able("host", true, false)];
        let host = sets[0]
            .capabilities
            .hosts
            .get_mut(&Backend::System)
            .unwrap();
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
    fn the_default_formats_are_qcow2_and_raw_and_else_what_the_case_has() {
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
}
