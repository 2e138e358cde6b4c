//! The steps of a program: what is done, with all names and numbers, and how it reads in a case.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;

use iotests_core::prelude::*;

use super::model::{Bits, Shape};

/// One request of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Io {
    pub(super) kind: IoKind,
    pub(super) range: Range<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IoKind {
    Write(u8),
    Zero,
    Discard,
    Flush,
}

/// How a job is brought to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Complete,
    Cancel,
}

/// How a job goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    /// What the guest does while the job is held in its middle by its speed.
    pub(super) held: Vec<Io>,
    /// What it does when the job is ready to be completed.
    pub(super) ready: Vec<Io>,
    pub(super) becomes_ready: bool,
    pub(super) end: End,
}

impl Job {
    pub(super) fn is_held(&self) -> bool {
        !self.held.is_empty() || self.is_cancelled_early()
    }

    /// Before it was ready, or done.
    pub(super) fn is_cancelled_early(&self) -> bool {
        self.end == End::Cancel && !self.waits_ready()
    }

    pub(super) fn waits_ready(&self) -> bool {
        self.becomes_ready && !self.ready.is_empty()
    }
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Io(Io),
    /// By a second client of the same node, all at once; they do not overlap.
    Together(Vec<Io>),
    Snapshot {
        node: String,
        overlay: String,
        shape: Shape,
    },
    Commit {
        top: String,
        base: String,
        job: Job,
    },
    Stream {
        top: String,
        base: Option<String>,
        job: Job,
    },
    /// To an image that is made for it; completed, the disk goes on with that.
    Mirror {
        target: String,
        shape: Shape,
        /// What stays below the copy, if not all is copied.
        below: Option<String>,
        mode: &'static str,
        granularity: u64,
        job: Job,
    },
    /// To an image that is made for it.
    Backup {
        target: String,
        shape: Shape,
        job: Job,
    },
    Bitmap {
        node: String,
        name: String,
        change: Change,
    },
    Resize {
        size: u64,
    },
    /// The machine ends, and another one has the same images.
    Restart,
    Refused(Refusal),
}

/// How much a mirror has in flight: with more, all of a small image is copied before the speed holds the job.
pub(super) const BUFFER: u64 = 64 * KIB;

/// What happens to a bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Add {
        granularity: u64,
        persistent: bool,
        disabled: bool,
    },
    Clear,
    Enable,
    Disable,
    Remove,
    Merge(Vec<String>),
}

impl Change {
    pub(super) fn apply(&self, name: &str, bitmaps: &mut BTreeMap<String, Bits>, size: u64) {
        match self {
            Change::Add {
                granularity,
                persistent,
                disabled,
            } => {
                let bits = Bits {
                    granularity: *granularity,
                    records: !disabled,
                    persistent: *persistent,
                    dirty: Default::default(),
                    at_least: false,
                };
                bitmaps.insert(name.to_owned(), bits);
            }
            Change::Remove => {
                bitmaps.remove(name);
            }
            Change::Merge(sources) => {
                let sources: Vec<Bits> = sources
                    .iter()
                    .filter_map(|source| bitmaps.get(source).cloned())
                    .collect();
                if let Some(bits) = bitmaps.get_mut(name) {
                    for source in sources {
                        bits.at_least |= source.at_least;
                        for range in source.ranges(size) {
                            bits.set(range);
                        }
                    }
                }
            }
            Change::Clear | Change::Enable | Change::Disable => {
                let Some(bits) = bitmaps.get_mut(name) else {
                    return;
                };
                match self {
                    Change::Clear => {
                        bits.dirty.clear();
                        bits.at_least = false;
                    }
                    Change::Enable => bits.records = true,
                    _ => bits.records = false,
                }
            }
        }
    }
}

/// A command that must be refused, without any effect.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refusal {
    pub(super) command: &'static str,
    pub(super) arguments: Value,
    pub(super) says: &'static str,
}

impl Step {
    /// The image that this step needs, to be made beforehand; with what it records as its backing image.
    pub(super) fn image(&self) -> Option<(&str, &Shape, Option<&str>)> {
        match self {
            Step::Snapshot {
                node,
                overlay,
                shape,
            } => Some((overlay, shape, Some(node))),
            Step::Mirror {
                target,
                shape,
                below,
                ..
            } => Some((target, shape, below.as_deref())),
            Step::Backup { target, shape, .. } => Some((target, shape, None)),
            _ => None,
        }
    }
}

/// A number of bytes as a case has it.
pub(super) fn number(bytes: u64) -> String {
    match bytes {
        0 => "0".to_owned(),
        MIB => "MIB".to_owned(),
        _ if bytes.is_multiple_of(MIB) => format!("{} * MIB", bytes / MIB),
        KIB => "KIB".to_owned(),
        _ if bytes.is_multiple_of(KIB) => format!("{} * KIB", bytes / KIB),
        _ => bytes.to_string(),
    }
}

fn range(range: &Range<u64>) -> String {
    format!("{}..{}", number(range.start), number(range.end))
}

impl Io {
    fn text(&self) -> String {
        let range = range(&self.range);
        match self.kind {
            IoKind::Write(byte) => format!("disk.write({byte:#04x}, {range}).await?;"),
            IoKind::Zero => format!("disk.zero({range}).await?;"),
            IoKind::Discard => format!("disk.discard({range}).await?;"),
            IoKind::Flush => "disk.flush().await?;".to_owned(),
        }
    }

    fn client_text(&self) -> String {
        let (start, length) = (
            number(self.range.start),
            number(self.range.end - self.range.start),
        );
        match self.kind {
            IoKind::Write(byte) => {
                format!("client.write({start}, vec![{byte:#04x}; ({length}) as usize])")
            }
            IoKind::Zero => {
                format!("client.write_zeroes({start}, {length}, nbd::CommandFlags::empty())")
            }
            IoKind::Discard => format!("client.trim({start}, {length})"),
            IoKind::Flush => "client.flush()".to_owned(),
        }
    }
}

/// How an image is made, as a case has it.
pub(super) fn image_text(name: &str, shape: &Shape, backing: Option<&str>) -> String {
    let mut text = format!(
        "let {name} = t.image(\"{name}\").size({})",
        number(shape.size)
    );
    if let Some(backing) = backing {
        let _ = write!(text, ".backing(&{backing})");
    }
    for (option, value) in shape.options() {
        let _ = write!(text, ".option(\"{option}\", \"{value}\")");
    }
    for (byte, bytes) in &shape.data {
        let _ = write!(text, ".write({byte:#04x}, {})", range(bytes));
    }
    text + ".create().await?;"
}

impl Shape {
    /// Its options for `qemu-img create`.
    pub(super) fn options(&self) -> Vec<(&'static str, String)> {
        let mut options = vec![("cluster_size", self.cluster.to_string())];
        if self.subclusters {
            options.push(("extended_l2", "on".to_owned()));
        }
        options
    }
}

/// The node of an image, as a case has it.
pub(super) fn node_text(name: &str, discards: bool) -> String {
    match discards {
        true => format!("{name}.node().set(\"discard\", \"unmap\")"),
        false => format!("{name}.node()"),
    }
}

/// A job from its start to its end.
fn job_text(start: &str, job: &Job) -> Vec<String> {
    let mut first = format!(
        "let {}job = {start}",
        if job.waits_ready() { "mut " } else { "" }
    );
    if job.is_held() {
        first += ".speed(64 * KIB)";
    }
    if job.is_cancelled_early() {
        first += ".set(\"auto-finalize\", false)";
    }
    let mut lines = vec![first + ".start().await?;"];
    lines.extend(job.held.iter().map(Io::text));
    if job.is_cancelled_early() {
        lines.push("job.force_cancel().await?;".to_owned());
        return lines;
    }
    if job.is_held() {
        lines.push("let _ = job.set_speed(0).await; // It may have ended.".to_owned());
    }
    if job.waits_ready() {
        lines.push("job.wait_ready().await?;".to_owned());
        lines.extend(job.ready.iter().map(Io::text));
    }
    let last = match (job.end, job.becomes_ready) {
        (End::Cancel, _) => "job.force_cancel().await?;",
        (End::Complete, true) => "job.complete().await?;",
        (End::Complete, false) => "job.wait().await?;",
    };
    lines.push(last.to_owned());
    lines
}

impl Step {
    /// As a case has it, line by line. `active` is the active node before, `chain` all nodes then, the base first.
    pub(super) fn text(&self, active: &str, chain: &[&str], discards: bool) -> Vec<String> {
        match self {
            Step::Io(io) => vec![io.text()],
            Step::Together(ios) => {
                let mut lines = vec![
                    format!(
                        "let export = vm.export(\"{active}\").name(\"second\").writable().await?;"
                    ),
                    "let client = export.client().await?;".to_owned(),
                    "let (a, b) = tokio::join!(".to_owned(),
                ];
                lines.extend(ios.iter().map(|io| format!("    {},", io.client_text())));
                lines.push(");".to_owned());
                lines.push("a.and(b)?;".to_owned());
                lines.push("drop(client);".to_owned());
                lines.push("export.remove().await?;".to_owned());
                lines
            }
            Step::Snapshot { node, overlay, .. } => vec![
                format!(
                    "vm.add_node({}.no_backing()).await?;",
                    node_text(overlay, discards)
                ),
                format!("vm.snapshot(\"{node}\", \"{overlay}\").await?;"),
            ],
            Step::Commit { top, base, job } => {
                let start = match top == active {
                    true => format!("vm.commit(\"{active}\").base(\"{base}\")"),
                    false => format!("vm.commit(\"{active}\").top(\"{top}\").base(\"{base}\")"),
                };
                job_text(&start, job)
            }
            Step::Stream { top, base, job } => {
                let mut start = format!("vm.stream(\"{top}\")");
                if let Some(base) = base {
                    let _ = write!(start, ".base(\"{base}\")");
                }
                job_text(&start, job)
            }
            Step::Mirror {
                target,
                below,
                mode,
                granularity,
                job,
                ..
            } => {
                let mut start = format!("vm.mirror(\"{active}\").to(\"{target}\")");
                let mut node = node_text(target, discards);
                match below {
                    Some(below) => {
                        let _ = write!(node, ".backing(\"{below}\")");
                        start += ".sync(\"top\")";
                    }
                    None => node += ".no_backing()",
                }
                let _ = write!(
                    start,
                    ".set(\"copy-mode\", \"{mode}\").set(\"granularity\", {granularity}).set(\"buf-size\", {BUFFER})"
                );
                let mut lines = vec![format!("vm.add_node({node}).await?;")];
                lines.extend(job_text(&start, job));
                if job.end == End::Cancel {
                    lines.push(format!("vm.remove_node(\"{target}\").await?;"));
                }
                lines
            }
            Step::Backup { target, job, .. } => {
                let node = node_text(target, discards);
                let mut lines = vec![format!("vm.add_node({node}).await?;")];
                let start = format!(
                    "vm.backup(\"{active}\").to(\"{target}\").set(\"x-perf\", json!({{\"max-workers\": 1}}))"
                );
                lines.extend(job_text(&start, job));
                lines.push(format!("vm.remove_node(\"{target}\").await?;"));
                lines
            }
            Step::Bitmap { node, name, change } => vec![format!(
                "vm.bitmap(\"{node}\", \"{name}\"){}.await?;",
                change.text()
            )],
            Step::Resize { size } => vec![format!(
                "vm.cmd(\"block_resize\", json!({{\"node-name\": \"{active}\", \"size\": {size}}})).await?;"
            )],
            Step::Restart => vec![
                "vm.shutdown().await?;".to_owned(),
                format!("let vm = {};", launch_text(chain, discards)),
                format!("let disk = vm.disk(\"{active}\");"),
            ],
            Step::Refused(refusal) => vec![format!(
                "vm.cmd(\"{}\", json!({})).refused(\"{}\").await?;",
                refusal.command, refusal.arguments, refusal.says
            )],
        }
    }
}

impl Change {
    fn text(&self) -> String {
        match self {
            Change::Add {
                granularity,
                persistent,
                disabled,
            } => {
                let mut text = format!(".add().granularity({granularity})");
                if *persistent {
                    text += ".persistent()";
                }
                if *disabled {
                    text += ".disabled()";
                }
                text
            }
            Change::Clear => ".clear()".to_owned(),
            Change::Enable => ".enable()".to_owned(),
            Change::Disable => ".disable()".to_owned(),
            Change::Remove => ".remove()".to_owned(),
            Change::Merge(sources) => format!(".merge({sources:?})"),
        }
    }
}

/// The launch of a machine with this chain, the base first.
pub(super) fn launch_text(chain: &[&str], discards: bool) -> String {
    let mut node = String::new();
    for (number, name) in chain.iter().enumerate() {
        let own = node_text(name, discards);
        node = match number {
            0 => own,
            _ => format!("{own}.backing({node})"),
        };
    }
    format!("t.host().disk(Disk::of({node}).property(\"share-rw\", true)).launch().await?")
}

/// What is read from a layer, and its bitmaps, as a case has it.
pub(super) fn reads_text(from: &str, layer: &super::model::Layer) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(reads) = &layer.reads {
        let mut content = "Content::nothing()".to_owned();
        for (byte, bytes) in reads.runs().iter().filter(|(byte, _)| *byte != 0) {
            let _ = write!(content, ".written({byte:#04x}, {})", range(bytes));
        }
        lines.push(format!("{from}.assert_reads({content}).await?;"));
    }
    if from.starts_with("vm.") {
        for (name, bits) in &layer.bitmaps {
            let dirty = bits.dirty.len() as u64 * bits.granularity;
            if !bits.at_least {
                lines.push(format!(
                    "vm.bitmap(\"{}\", \"{name}\").assert(json!({{\"count\": {dirty}, \"recording\": {}}})).await?;",
                    layer.name, bits.records
                ));
            }
        }
    }
    lines
}
