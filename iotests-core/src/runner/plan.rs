//! The plan, made before anything runs: every matrix point as an instance, runnable or skipped with
//! a reason.

mod matrix;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use imgtools::tools::ToolKind;
use matrix::expand;

use super::cli::MatrixArgs;
use super::error::RunError;
use super::event::{InstanceInfo, PointInfo};
use super::filter::unknown;
use super::select::{self, Places, SET, Selector};
use super::sets::HOST;
use crate::case::{
    Aio, Backend, Body, Capabilities, Format, Guest, Instance, Known, Meta, Protocol, Registered,
    Requirement, Skip, names,
};
use crate::script::DISABLED;
use crate::wire::Place;

pub(crate) use matrix::{ANY_POINT, MorePoints};

/// A set of programs and what it can do.
#[derive(Debug)]
pub(crate) struct Able {
    /// The name of the set.
    pub(crate) name: String,
    /// What its programs can do.
    pub(crate) capabilities: Capabilities,
}

/// An instance, and whether it runs.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    /// The point of the matrix.
    pub(crate) instance: Instance,
    /// The id: the instance's, plus the set's name if it runs on several.
    pub(crate) id: String,
    /// The index of the set it runs on.
    pub(crate) set: usize,
    /// Why it does not run.
    pub(crate) skip: Option<Skip>,
    /// What is known about it on that set.
    pub(crate) known: Known,
}

impl Planned {
    /// What reports show about it.
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
            set: sets.get(self.set).map(|set| set.name.clone()).unwrap_or_default(),
            point: Some(PointInfo {
                row: self.instance.row.map(str::to_owned),
                format: self.instance.format,
                protocol: self.instance.protocol,
                cache: self.instance.cache,
                aio: self.instance.aio,
                backend: self.instance.backend,
                groups: self.instance.meta.groups.iter().map(|group| group.0.to_owned()).collect(),
                budget: self.instance.meta.budget,
            }),
        }
    }
}

/// Which sets instances run on: `--set`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SetChoice {
    /// Each on the first set that can run it.
    Auto,
    /// Each on every one of these.
    Each(Vec<usize>),
    /// All on this one.
    One(usize),
}

impl SetChoice {
    /// Parses `--set`.
    pub(crate) fn new(text: &str, sets: &[Able]) -> Result<Self, RunError> {
        let all = || (0..sets.len()).collect();
        match text {
            "auto" => return Ok(Self::Auto),
            "all" => return Ok(Self::Each(all())),
            _ => {}
        }
        let mut chosen = Vec::new();
        for name in text.split(',') {
            let Some(index) = sets.iter().position(|set| set.name == name) else {
                let mut known = vec!["auto".to_owned(), "all".to_owned()];
                known.extend(sets.iter().map(|set| set.name.clone()));
                return Err(RunError::Usage(unknown("set", name, &known)));
            };
            if !chosen.contains(&index) {
                chosen.push(index);
            }
        }
        Ok(match chosen[..] {
            [one] => Self::One(one),
            _ => Self::Each(chosen),
        })
    }
}

/// What the command line selects.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) selectors: &'a [String],
    pub(crate) matrix: &'a MatrixArgs,
    pub(crate) sets: SetChoice,
    /// Points to run by default in addition to the usual ones.
    pub(crate) more: MorePoints,
}

/// Every selected instance, in the order of the ids.
pub(crate) fn plan(
    entries: &'static [Registered],
    wanted: &Wanted<'_>,
    sets: &[Able],
) -> Result<Vec<Planned>, RunError> {
    check_groups(wanted.matrix, entries)?;
    let anywhere: Vec<Instance> =
        entries.iter().map(|entry| Instance::new(entry, ANY_POINT)).collect();
    let selectors = wanted.selectors.iter().map(|text| Selector::parse(text));
    let selectors = selectors.collect::<Result<Vec<_>, _>>()?;
    let places = Places::of(&anywhere);
    let others = wanted.matrix.exclude.iter().chain(&wanted.matrix.start_from);
    let others = others.map(|text| Selector::parse(text)).collect::<Result<Vec<_>, _>>()?;
    for selector in selectors.iter().chain(&others) {
        check_selector(selector, &anywhere, &places)?;
    }
    let (excluded, start) = others.split_at(wanted.matrix.exclude.len());
    // Each selector separately: a point named by one does not apply to the others.
    let mut planned: BTreeMap<String, Planned> = BTreeMap::new();
    let is_wanted = |entry: &&Registered| {
        in_groups(&entry.meta, wanted.matrix)
            && (!selectors.is_empty() || !runs_only_on_request(&entry.meta, wanted.matrix))
    };
    for entry in entries.iter().filter(is_wanted) {
        let any = Instance::new(entry, ANY_POINT);
        let meant = selectors.iter().filter(|selector| selector.names(&any, &places));
        let mut meant: Vec<Option<&Selector>> = meant.map(Some).collect();
        if selectors.is_empty() {
            meant.push(None);
        }
        for selector in meant {
            let at = selector.and_then(|selector| selector.point.as_ref());
            let of_set = selector.and_then(|selector| selector.set.as_deref());
            let at = at.cloned().unwrap_or_default();
            for (instance, skip) in expand(entry, wanted.matrix, &wanted.more, &at) {
                for one in decide(instance, skip, wanted, sets) {
                    let set = sets.get(one.set).map(|set| set.name.as_str());
                    let is_excluded =
                        |selector: &Selector| selector.matches(&instance, set, &places);
                    if (of_set.is_none() || of_set == set) && !excluded.iter().any(is_excluded) {
                        planned.entry(one.id.clone()).or_insert(one);
                    }
                }
            }
        }
    }
    let mut planned: Vec<Planned> = planned.into_values().collect();
    if let Some(start) = start.first() {
        let is_start = |one: &Planned| {
            let set = sets.get(one.set).map(|set| set.name.as_str());
            start.matches(&one.instance, set, &places)
        };
        let Some(first) = planned.iter().position(is_start) else {
            return Err(RunError::NothingSelected(format!(
                "`{}` (--start-from) is not among what the other options select",
                start.text
            )));
        };
        planned.drain(..first);
    }
    if planned.is_empty() {
        return Err(RunError::NothingSelected(
            "these options exclude all".to_owned(),
        ));
    }
    Ok(planned)
}

/// Checks that a selector matches some case, and that the case has its format.
fn check_selector(
    selector: &Selector,
    anywhere: &[Instance],
    places: &Places,
) -> Result<(), RunError> {
    let meant = anywhere.iter().filter(|instance| selector.names(instance, places));
    let meant: Vec<&Instance> = meant.collect();
    if meant.is_empty() {
        return Err(RunError::UnknownSelector {
            selector: selector.text.clone(),
            hint: selector.part_before_point(anywhere),
            nearest: select::nearest(&selector.text, anywhere),
        });
    }
    match selector.point.as_ref().and_then(|at| at.format) {
        Some(format) => check_format(selector, format, &meant),
        None => Ok(()),
    }
}

/// Checks that at least one matching case has the format that the selector names.
fn check_format(selector: &Selector, format: Format, meant: &[&Instance]) -> Result<(), RunError> {
    if meant.iter().any(|one| one.meta.formats.to_vec().contains(&format)) {
        return Ok(());
    }
    let names = |one: &Instance| names_of(&one.meta.formats.to_vec());
    let runs_on = |one: &&Instance| format!("{} runs on {}", one.name(), names(one).join(", "));
    let mut cases: Vec<String> = meant.iter().map(runs_on).collect();
    cases.sort();
    cases.dedup();
    Err(RunError::NothingSelected(format!(
        "`{}` is not in its matrix:\n  {}",
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

/// All groups: those of the harness, additional ones of scripts, and those that have a meaning even
/// if nothing is in them.
pub(crate) fn groups(entries: &[Registered]) -> Vec<String> {
    let known: Vec<&str> = names::GROUPS.iter().map(|group| group.0).collect();
    let of_entries = entries.iter().flat_map(|entry| &entry.meta.groups);
    let of_entries = of_entries.map(|group| group.0);
    let others: BTreeSet<&str> = of_entries.chain(ON_REQUEST).collect();
    let others = others.into_iter().filter(|name| !known.contains(name));
    let others: Vec<&str> = others.collect();
    known.into_iter().chain(others).map(str::to_owned).collect()
}

/// Checks that the groups on the command line exist.
fn check_groups(matrix: &MatrixArgs, entries: &[Registered]) -> Result<(), RunError> {
    let known = groups(entries);
    let mut given = matrix.groups.iter().chain(&matrix.exclude_groups);
    match given.find(|group| !known.contains(group)) {
        Some(group) => Err(RunError::Usage(unknown("group", group, &known))),
        None => Ok(()),
    }
}

/// Groups whose members run only if they or the group are named: scripts disabled by their authors,
/// and cases that depend on the seed.
const ON_REQUEST: [&str; 2] = [DISABLED, names::EXPLORE.0];

fn runs_only_on_request(meta: &Meta, matrix: &MatrixArgs) -> bool {
    let is_in = |wanted: &str| meta.groups.iter().any(|group| group.0 == wanted);
    let is_named = |wanted: &str| matrix.groups.iter().any(|group| group == wanted);
    ON_REQUEST.iter().any(|group| is_in(group) && !is_named(group))
}

fn in_groups(meta: &Meta, matrix: &MatrixArgs) -> bool {
    let has = |name: &String| meta.groups.iter().any(|group| group.0 == name);
    (matrix.groups.is_empty() || matrix.groups.iter().any(has))
        && !matrix.exclude_groups.iter().any(has)
}

/// Decides on which set an instance runs, or why it does not; with several sets, once for each.
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
        // The reason is independent of the set.
        let set = match &wanted.sets {
            SetChoice::One(index) => *index,
            SetChoice::Each(_) | SetChoice::Auto => 0,
        };
        return vec![on(set, Some(skip))];
    }
    let check_on = |index: usize| match sets.get(index) {
        Some(set) => check(&instance, &set.capabilities, &wanted.matrix.imgopts).err(),
        None => Some(Skip::NoTool {
            tool: ToolKind::Img,
        }),
    };
    match &wanted.sets {
        SetChoice::One(index) => vec![on(*index, check_on(*index))],
        SetChoice::Each(chosen) => chosen
            .iter()
            .map(|&index| {
                let mut planned = on(index, check_on(index));
                let name = sets.get(index).map_or(HOST, |set| &set.name);
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
                    // The reason from a set that has the programs is more useful.
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
            best.map(|(index, skip)| on(index, Some(skip))).into_iter().collect()
        }
    }
}

fn is_tool_missing(skip: &Skip) -> bool {
    matches!(skip, Skip::NoTool { .. })
}

/// Checks whether an instance can run with these programs: first what its matrix point requires,
/// then what the case declares.
fn check(instance: &Instance, capabilities: &Capabilities, imgopts: &[String]) -> Result<(), Skip> {
    let (meta, point) = (instance.meta, instance.at());
    let need = |requirement: Requirement| requirement.check(capabilities, &point);
    need(Requirement::Tool(ToolKind::Img))?;
    // Nearly every case uses qemu-io, and distributions ship it with qemu-img.
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
        Protocol::Nbd => {
            need(Requirement::Tool(ToolKind::Nbd))?;
            // Scripts create their own exports.
            let is_script = matches!(instance.case.body, Body::Script(_));
            if !is_script && !matches!(instance.format, Format::Raw | Format::Qcow2) {
                return Err(Skip::Feature {
                    feature: format!("{} over nbd", instance.format),
                    why: "an export cannot grow".to_owned(),
                });
            }
        }
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
        if imgopts.iter().any(|given| given == option || given.split('=').next() == Some(*option)) {
            return Err(Skip::ImageOptions {
                option: (*option).to_owned(),
            });
        }
    }
    meta.needs.iter().try_for_each(|requirement| need(*requirement))
}
