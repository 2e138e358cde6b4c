//! What the parts of a program mean when their turn comes.

use iotests_core::prelude::*;

use super::bitmap::Bits;
use super::model::{Model, Shape};
use super::program::{Op, RawBeside, RawBitmap, RawFault, RawIo, RawJob, RawShape};
use super::step::{Action, Change, End, Fault, Io, IoKind, Job, Part, Refusal, Reopening, Step};

/// The most images that a chain has.
const LONGEST: usize = 5;
/// The names of bitmaps.
const BITMAPS: [&str; 3] = ["b0", "b1", "b2"];

pub(super) struct Resolver {
    pub(super) model: Model,
    /// How many requests there were.
    writes: usize,
    /// How many internal snapshots.
    inside: usize,
}

impl Resolver {
    pub(super) fn new(model: Model) -> Self {
        Resolver {
            model,
            writes: 0,
            inside: 0,
        }
    }

    fn io(&mut self, raw: &RawIo) -> Option<Io> {
        self.writes += 1;
        let size = self.model.disk.min(self.model.active().shape.size);
        let mut io = raw.io(size, self.writes)?;
        if io.kind == IoKind::Discard && self.model.active().shape.data_file.is_some() {
            // What a discard does to another file is that one's affair.
            io.kind = IoKind::Zero;
        }
        Some(io)
    }

    fn ios(&mut self, raw: &[RawIo]) -> Vec<Io> {
        raw.iter().filter_map(|raw| self.io(raw)).collect()
    }

    /// `filtered`: the job puts a filter below the guest for as long as it takes. `nodes` are those that it reads or writes.
    fn job(&mut self, raw: &RawJob, becomes_ready: bool, filtered: bool, nodes: &[String]) -> Job {
        if let Some(fault) = &raw.fault {
            return Job {
                held: Vec::new(),
                beside: None,
                ready: Vec::new(),
                becomes_ready,
                end: End::Complete,
                fault: self.fault(fault, nodes),
            };
        }
        let mut held = self.ios(&raw.held);
        if filtered && !becomes_ready {
            // The filter drops discards; whether it is there still, nobody knows.
            for io in held.iter_mut().filter(|io| io.kind == IoKind::Discard) {
                io.kind = IoKind::Zero;
            }
        }
        Job {
            held,
            beside: None,
            ready: match becomes_ready {
                true => self.ios(&raw.ready),
                false => Vec::new(),
            },
            becomes_ready,
            end: match raw.cancel {
                true => End::Cancel,
                false => End::Complete,
            },
            fault: None,
        }
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.model.chain.iter().map(|l| l.name.clone()).collect()
    }

    pub(super) fn step(&mut self, op: &Op) -> Option<Step> {
        let mut step = self.any_step(op)?;
        if let Some(raw) = op.beside()
            && !step.has_fault()
        {
            let beside = self.beside(&step, raw).map(Box::new);
            step.job_mut()?.beside = beside;
        }
        let after = self.model.after(&step);
        let had_data_file = |node: &str| {
            let mut layers = self.model.chain.iter();
            layers.any(|layer| layer.name == node && layer.shape.data_file.is_some())
        };
        if let Some(job) = step.job_mut()
            && let Some(fault) = &mut job.fault
            && after.position(&fault.node).is_none()
        {
            // What is not met before the node is closed must not be met then.
            match had_data_file(&fault.node) {
                true => job.fault = None,
                false if fault.event != "write_aio" => fault.event = "read_aio",
                false => {}
            }
        }
        Some(step)
    }

    /// What can be done while the job of a step is held.
    fn beside(&mut self, outer: &Step, raw: &RawBeside) -> Option<Step> {
        let at = |name: &String| self.model.position(name);
        let below = match outer {
            Step::Commit { base, .. } => at(base)?,
            Step::Stream { top, base, .. } => {
                let base = base.as_ref().and_then(at);
                if self.is_left_alone(at(top)?, base) {
                    return None;
                }
                base.map_or(0, |base| base + 1)
            }
            // What stays below the copy has it as a parent as well.
            Step::Mirror { below: Some(_), .. } => 0,
            _ => self.model.chain.len() - 1,
        };
        match raw {
            RawBeside::Bitmap(raw) => {
                let step = self.bitmap_step(self.model.active().name.clone(), raw)?;
                let Step::Bitmap { name, change, .. } = &step else {
                    return None;
                };
                let is_busy = |name: &String| match outer {
                    Step::Backup {
                        what: Part::Dirty { bitmap, .. },
                        ..
                    } => bitmap == name,
                    _ => false,
                };
                let has_busy = match change {
                    Change::Merge(sources) => sources.iter().any(is_busy),
                    _ => false,
                };
                (!is_busy(name) && !has_busy).then_some(step)
            }
            RawBeside::Stream(top, base) => {
                // A layer of those below, over another one that goes.
                let top = 1 + usize::from(*top) % below.checked_sub(1).filter(|rest| *rest > 0)?;
                let base = (usize::from(*base) % top).checked_sub(1);
                if self.is_left_alone(top, base) {
                    return None;
                }
                self.stream(top, base, &RawJob::default())
            }
        }
    }

    /// A job that must not be looked at while it runs (docs/qemu-findings.md): who reads meanwhile kills QEMU, or keeps what
    /// the memory held.
    fn is_left_alone(&self, top: usize, base: Option<usize>) -> bool {
        let has_nothing_to_do = base.is_some_and(|base| base + 1 == top);
        let keeps_anything =
            top < self.model.chain.len() - 1 && self.model.is_above_a_shorter_one(top);
        has_nothing_to_do || keeps_anything
    }

    fn stream(&mut self, top: usize, base: Option<usize>, raw: &RawJob) -> Option<Step> {
        let names = self.names();
        // What a layer that goes hid behind its end would show (docs/qemu-findings.md).
        let first = base.map_or(0, |base| base + 1);
        let gone = &self.model.chain[first..top];
        let size = self.model.chain[top].shape.size;
        if base.is_some() && gone.iter().any(|layer| layer.shape.size < size) {
            return None;
        }
        let nodes = &names[first..=top];
        let mut job = self.job(raw, false, top == names.len() - 1, nodes);
        if self.is_left_alone(top, base) {
            job.held.clear();
        }
        Some(Step::Stream {
            top: names[top].clone(),
            base: base.map(|at| names[at].clone()),
            job,
        })
    }

    fn any_step(&mut self, op: &Op) -> Option<Step> {
        let length = self.model.chain.len();
        let names = self.names();
        let active = names.last()?.clone();
        Some(match op {
            Op::Io(raw) => Step::Io(self.io(raw)?),
            Op::Together(a, b) => {
                let (a, b) = (self.io(a)?, self.io(b)?);
                let is_apart = a.range.end <= b.range.start || b.range.end <= a.range.start;
                if !is_apart || a.range.is_empty() || b.range.is_empty() {
                    return None;
                }
                Step::Together(vec![a, b])
            }
            Op::Broken(raw, fault) => {
                let io = self.io(raw)?;
                let fault = self.fault(fault, &[active])?;
                Step::Broken(io, fault)
            }
            Op::Snapshot(raw, same) => Step::Snapshot {
                node: active,
                overlay: self.model.name_of_next_image(),
                shape: self.overlay(raw, *same)?,
            },
            Op::Commit(top, base, raw) => {
                // The higher ones are likelier to be meant: the disk itself.
                let top = (length - 1).saturating_sub(usize::from(top / 3));
                let base = usize::from(*base) % top.max(1);
                let [low, high] = [base, top].map(|at| &self.model.chain[at]);
                let is_known = low.reads.is_some() && high.reads.is_some();
                // A base that a stream left writable has bitmaps that are not (docs/qemu-findings.md).
                let has_read_only_bitmaps = low.streamed && !low.bitmaps.is_empty();
                let has_to_grow = low.shape.size < high.shape.size;
                if top == 0
                    || low.shape.size > high.shape.size
                    || (has_to_grow && !low.shape.can_grow())
                    || !is_known
                    || has_read_only_bitmaps
                {
                    return None;
                }
                let is_active = top == length - 1;
                // Where the overlay records the base, its name must not be that of a filter, and a base whose header cannot be
                // written takes its new size for granted (docs/qemu-findings.md).
                let keeps_base = is_active && !(has_to_grow && low.shape.data_file.is_some());
                let nodes = &names[base + usize::from(!keeps_base)..=top];
                Step::Commit {
                    top: names[top].clone(),
                    base: names[base].clone(),
                    job: self.job(raw, is_active, is_active, nodes),
                }
            }
            Op::Stream(top, base, raw) => {
                let top = (length - 1).saturating_sub(usize::from(top / 3));
                let base = match usize::from(*base) % (top + 1) {
                    0 => None,
                    at => Some(at - 1),
                };
                if top == 0 {
                    return None;
                }
                self.stream(top, base, raw)?
            }
            Op::Mirror(raw, full, mode, job) => {
                let below = (!full && length > 1).then(|| names[length - 2].clone());
                let mut shape = raw.shape(below.is_some());
                shape.size = self.model.active().shape.size;
                let target = self.model.name_of_next_image();
                let nodes = [active, target.clone()];
                Step::Mirror {
                    target,
                    shape,
                    below,
                    mode: ["background", "write-blocking"][usize::from(mode % 2)],
                    granularity: [64 * KIB, 4 * KIB, 512][usize::from(mode / 2 % 3)],
                    job: self.job(job, true, true, &nodes),
                }
            }
            Op::Backup(raw, what, job) => self.backup(raw, *what, job),
            Op::Bitmap(raw) => self.bitmap_step(active, raw)?,
            Op::Transaction(bitmaps, snapshot, fails) => {
                self.transaction(active, bitmaps, snapshot.as_ref(), *fails)?
            }
            Op::Resize(units) => {
                let size = self.model.active().shape.size + u64::from(*units) * 33 * KIB;
                let size = size.next_multiple_of(512);
                if size > 3 * MIB || !self.model.active().shape.can_grow() {
                    return None;
                }
                match self.model.grows {
                    true => Step::Resize { size },
                    false => Step::Refused(Refusal {
                        command: "block_resize",
                        arguments: json!({"node-name": active, "size": size}),
                        says: "resize",
                    }),
                }
            }
            Op::Reopen(node, how, ios) => self.reopen(&names, *node, *how, ios)?,
            Op::Frozen(raw) => Step::Frozen(self.ios(raw)),
            Op::Restart(inside) => {
                // An image whose data lie in another file has no snapshots.
                let inside = *inside && self.model.active().shape.data_file.is_none();
                self.inside += usize::from(inside);
                Step::Restart {
                    inside: inside.then(|| format!("s{}", self.inside)),
                }
            }
            Op::Refused(which, more) => Step::Refused(self.refusal(*which, *more)?),
        })
    }

    /// Whether the file of this node can be another one for a while.
    fn file_may_go(&self, node: &String) -> bool {
        let lower = self.model.chain.iter().rev().skip(1);
        self.model.writable_files || lower.into_iter().all(|layer| layer.name != *node)
    }

    fn fault(&self, raw: &RawFault, nodes: &[String]) -> Option<Fault> {
        let nodes = nodes.iter().filter(|node| self.file_may_go(node));
        raw.fault(&nodes.cloned().collect::<Vec<_>>())
    }

    fn overlay(&self, raw: &RawShape, same: bool) -> Option<Shape> {
        if self.model.chain.len() >= LONGEST {
            return None;
        }
        let mut shape = raw.shape(true);
        let size = self.model.active().shape.size;
        if same || shape.size < size {
            shape.size = size;
        }
        Some(shape)
    }

    fn backup(&mut self, raw: &RawShape, what: u8, job: &RawJob) -> Step {
        let mut shape = raw.shape(false);
        shape.size = self.model.active().shape.size;
        let known = |(_, bits): &(&String, &Bits)| !bits.at_least;
        let mut bitmaps = self.model.active().bitmaps.iter().filter(known);
        let bitmap = bitmaps.next().map(|(name, _)| name.clone());
        let part = match bitmap {
            Some(bitmap) if what.is_multiple_of(2) => Part::Dirty {
                bitmap,
                mode: ["on-success", "never", "always"][usize::from(what / 2 % 3)],
            },
            _ => Part::All,
        };
        let target = self.model.name_of_next_image();
        let nodes = [self.model.active().name.clone(), target.clone()];
        let job = self.job(job, false, true, &nodes);
        // A compressed cluster is written once, and to no place that it has already.
        let compressed = what % 8 > 5 && shape.data_file.is_none() && !shape.preallocated;
        Step::Backup {
            target,
            shape,
            what: part,
            compressed: compressed && job.fault.is_none(),
            job,
        }
    }

    fn reopen(&mut self, names: &[String], node: u8, how: u8, ios: &[RawIo]) -> Option<Step> {
        let at = usize::from(node) % names.len();
        let options = [
            ("overlap-check", json!("all")),
            ("lazy-refcounts", json!(true)),
            ("detect-zeroes", json!("on")),
            ("l2-cache-size", json!(MIB)),
            ("cache-clean-interval", json!(1)),
        ];
        let how = match how % 8 {
            0 | 1 => {
                let (name, value) = options[usize::from(how / 8) % options.len()].clone();
                Reopening::Option(name, value)
            }
            2 | 3 if at > 0 => Reopening::Filter,
            4 | 5 if at < names.len() - 1 => Reopening::Writable,
            _ if self.file_may_go(&names[at]) => Reopening::FileFilter,
            _ => return None,
        };
        Some(Step::Reopen {
            node: names[at].clone(),
            how,
            ios: self.ios(ios),
        })
    }

    fn bitmap_step(&self, node: String, raw: &RawBitmap) -> Option<Step> {
        let bitmaps = &self.model.active().bitmaps;
        let name = BITMAPS[usize::from(raw.name) % BITMAPS.len()].to_owned();
        if raw.kind > 11 && bitmaps.contains_key(&name) {
            return self.merge_from(node, name, raw.more);
        }
        let known: Vec<&String> = bitmaps.keys().collect();
        let (name, change) = raw.change(&known)?;
        Some(Step::Bitmap { node, name, change })
    }

    /// A merge of a bitmap of a layer below, which is refused where that one has another size.
    fn merge_from(&self, node: String, name: String, more: u8) -> Option<Step> {
        let (_, below) = self.model.chain.split_last()?;
        let all = below.iter().flat_map(|layer| {
            let bitmaps = layer.bitmaps.keys();
            bitmaps.map(|name| (layer.name.clone(), name.clone(), layer.shape.size))
        });
        let all: Vec<(String, String, u64)> = all.collect();
        let (from, bitmap, size) = all.get(usize::from(more) % all.len().max(1))?.clone();
        if size != self.model.active().shape.size {
            let source = json!({"node": from, "name": bitmap});
            return Some(Step::Refused(Refusal {
                command: "block-dirty-bitmap-merge",
                arguments: json!({"node": node, "target": name, "bitmaps": [source]}),
                says: "different sizes",
            }));
        }
        let change = Change::MergeFrom { node: from, bitmap };
        Some(Step::Bitmap { node, name, change })
    }

    fn transaction(
        &self,
        node: String,
        bitmaps: &[RawBitmap],
        snapshot: Option<&RawShape>,
        fails: u8,
    ) -> Option<Step> {
        let is_refused = fails < 5;
        let bitmaps_there = &self.model.active().bitmaps;
        let is_stored = |name: &str| bitmaps_there.get(name).is_some_and(|bits| bits.persistent);
        let mut known: Vec<String> = bitmaps_there.keys().cloned().collect();
        let mut actions = Vec::new();
        for raw in bitmaps {
            let names: Vec<&String> = known.iter().collect();
            let Some((name, change)) = raw.change(&names) else {
                continue;
            };
            let is_last = change == Change::Remove;
            if is_last && is_refused && is_stored(&name) {
                // It goes from the image all the same (docs/qemu-findings.md).
                continue;
            }
            if matches!(change, Change::Add { .. }) {
                known.push(name.clone());
            }
            actions.push(Action::Bitmap(name, change));
            if is_last {
                // Until the end it is there, and busy.
                break;
            }
        }
        if let Some(shape) = snapshot.and_then(|raw| self.overlay(raw, true)) {
            let overlay = self.model.name_of_next_image();
            actions.push(Action::Snapshot { overlay, shape });
        }
        let refused = match fails % 2 {
            0 => Action::Refused {
                kind: "block-dirty-bitmap-clear",
                data: json!({"node": node, "name": "missing"}),
                says: "'missing' not found",
            },
            _ => Action::Refused {
                kind: "blockdev-backup",
                data: json!({"job-id": "no", "device": node, "target": node, "sync": "full"}),
                says: "cannot be the same",
            },
        };
        if is_refused {
            let at = usize::from(fails).min(actions.len());
            actions.insert(at, refused);
        }
        (!actions.is_empty()).then_some(Step::Transaction { node, actions })
    }
}

impl RawFault {
    fn fault(&self, nodes: &[String]) -> Option<Fault> {
        const EVENTS: [&str; 10] = [
            "read_aio",
            "write_aio",
            "cow_read",
            "cow_write",
            "l2_load",
            "l2_update",
            "l2_alloc_write",
            "cluster_alloc",
            "refblock_update_part",
            "flush_to_disk",
        ];
        // Most of a job's requests are for data.
        let event = match usize::from(self.event) {
            event if event < EVENTS.len() => EVENTS[event],
            event => EVENTS[event % 2],
        };
        Some(Fault {
            node: nodes.get(usize::from(self.node) % nodes.len().max(1))?.clone(),
            event,
            policy: ["report", "ignore", "stop"][usize::from(self.policy % 3)],
        })
    }
}

impl RawBitmap {
    /// What happens to which bitmap, where there are those.
    fn change(&self, known: &[&String]) -> Option<(String, Change)> {
        let name = BITMAPS[usize::from(self.name) % BITMAPS.len()];
        let is_known = known.iter().any(|other| *other == name);
        let change = match (self.kind, is_known) {
            (_, false) => Change::Add {
                granularity: 512 << (self.more % 9),
                persistent: self.more & 64 != 0,
                disabled: self.more & 128 != 0 && self.more & 1 != 0,
            },
            (0 | 1, true) => Change::Clear,
            (2 | 3, true) => Change::Disable,
            (4 | 5, true) => Change::Enable,
            (6, true) => Change::Remove,
            (_, true) => {
                let others = known.iter().filter(|other| **other != name);
                let others: Vec<String> = others.map(|other| (*other).clone()).collect();
                if others.is_empty() {
                    return None;
                }
                Change::Merge(others)
            }
        };
        Some((name.to_owned(), change))
    }
}
