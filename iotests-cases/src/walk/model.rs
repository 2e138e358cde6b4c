//! What QEMU must show: a model of a chain of images, kept in memory.

use std::collections::BTreeMap;
use std::ops::Range;

use iotests_core::prelude::*;

use super::bitmap::Bits;
use super::bytes::Bytes;
use super::step::{Action, Change, End, Io, IoKind, Job, Part, Step};

/// How an image is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) size: u64,
    pub(super) cluster: u64,
    pub(super) subclusters: bool,
    /// Its data lie in another file; whether they lie there as the guest sees them.
    pub(super) data_file: Option<bool>,
    /// Its clusters have their places from the start.
    pub(super) preallocated: bool,
    /// Whole clusters of what is written at first are compressed.
    pub(super) compressed: bool,
    /// What is written to it before anything else, in this order.
    pub(super) data: Vec<(u8, Range<u64>)>,
}

impl Shape {
    /// Whether it can grow: a compressed cluster is not zeroed in subclusters
    /// (docs/qemu-findings.md).
    pub(super) fn can_grow(&self) -> bool {
        let is_cut = !self.size.is_multiple_of(self.cluster);
        !(self.subclusters && self.compressed && is_cut)
    }
}

/// An image of the chain, or one that was made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) name: String,
    pub(super) shape: Shape,
    /// What is read from it, whatever lies below; nothing where a job stopped half-way.
    pub(super) reads: Option<Bytes>,
    pub(super) bitmaps: BTreeMap<String, Bits>,
    /// The node was added by name, and stays until it is removed.
    pub(super) stays: bool,
    /// A job has streamed into it: newer QEMUs leave it writable (docs/qemu-findings.md).
    pub(super) streamed: bool,
    /// A request for its tables has failed, which may leave clusters that nothing uses.
    pub(super) leaks: bool,
    /// Its internal snapshots, with what is read from those that do not depend on what is below.
    pub(super) inside: Vec<(String, Option<Bytes>)>,
}

impl Layer {
    pub(super) fn new(name: String, shape: Shape, below: Option<&Layer>) -> Self {
        let mut reads = match below {
            Some(below) => below.reads.clone(),
            None => Some(Bytes::zeroes(shape.size)),
        };
        if let Some(reads) = &mut reads {
            reads.resize(shape.size);
            for (byte, range) in &shape.data {
                reads.fill(*byte, range.clone());
            }
        }
        Layer {
            name,
            shape,
            reads,
            bitmaps: BTreeMap::new(),
            stays: true,
            streamed: false,
            leaks: false,
            inside: Vec::new(),
        }
    }

    fn write(&mut self, io: &Io, discards: bool) {
        let size = self.shape.size;
        let range = io.range.start..io.range.end.min(size);
        let (byte, written) = match io.kind {
            IoKind::Write(byte) => (byte, range.clone()),
            IoKind::Zero | IoKind::Unmap => (0, range.clone()),
            IoKind::Flush => return,
            // Nodes without `discard=unmap` drop the request.
            IoKind::Discard if !discards => return,
            IoKind::Discard => (0, self.whole_clusters(&range)),
        };
        if let Some(reads) = &mut self.reads {
            reads.fill(byte, written);
        }
        for bits in self.bitmaps.values_mut().filter(|bits| bits.records) {
            bits.set(range.clone());
        }
    }

    /// Whether the image can go back to a snapshot inside of it: not with bitmaps.
    pub(super) fn can_go_back(&self) -> bool {
        !self.bitmaps.values().any(|bits| bits.persistent)
    }

    /// The clusters that lie in a range; the last one may be cut by the end of the image.
    fn whole_clusters(&self, range: &Range<u64>) -> Range<u64> {
        let cluster = self.shape.cluster;
        let start = range.start.next_multiple_of(cluster);
        let end = match range.end == self.shape.size {
            true => range.end,
            false => range.end / cluster * cluster,
        };
        start..end.max(start)
    }
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Model {
    /// The base first.
    pub(super) chain: Vec<Layer>,
    /// Copies that jobs have made.
    pub(super) copies: Vec<Layer>,
    /// Whether nodes are opened with `discard=unmap`.
    pub(super) discards: bool,
    /// Whether the disk grows with its node: that of a storage daemon is an export, which does not let it.
    pub(super) grows: bool,
    /// Whether the disk has a thread of its own.
    pub(super) iothread: bool,
    /// Whether the file of a layer can be written to while the layer cannot. If not, only that of the active image can be
    /// replaced: another one would not follow its image when that becomes writable.
    pub(super) writable_files: bool,
    /// Whether the tables of an image do not fit into the memory for them.
    pub(super) small_caches: bool,
    /// What a guest can reach.
    pub(super) disk: u64,
    /// The name of the disk: that of the node on which it was launched.
    pub(super) disk_name: String,
    /// Numbers of images.
    pub(super) images: usize,
}

impl Model {
    pub(super) fn new(shapes: &[Shape], discards: bool, grows: bool) -> Self {
        let mut model = Model {
            chain: Vec::new(),
            copies: Vec::new(),
            discards,
            grows,
            iothread: false,
            writable_files: false,
            small_caches: false,
            disk: 0,
            disk_name: String::new(),
            images: 0,
        };
        for shape in shapes {
            let name = model.next_image();
            let layer = Layer::new(name, shape.clone(), model.chain.last());
            model.chain.push(layer);
        }
        model.launched();
        model
    }

    /// The options of its nodes. The default of `discard` depends on whether a node was made within the one above it.
    pub(super) fn node_options(&self) -> Vec<(&'static str, Value)> {
        let discard = match self.discards {
            true => "unmap",
            false => "ignore",
        };
        let mut options = vec![("discard", discard.into())];
        if self.writable_files {
            options.push(("file.read-only", false.into()));
        }
        if self.small_caches {
            options.push(("l2-cache-entry-size", json!(512)));
            options.push(("l2-cache-size", json!(1024)));
        }
        options
    }

    /// The name of the next image, which is taken.
    fn next_image(&mut self) -> String {
        self.images += 1;
        format!("image{}", self.images)
    }

    pub(super) fn name_of_next_image(&self) -> String {
        format!("image{}", self.images + 1)
    }

    fn launched(&mut self) {
        let last = self.chain.len() - 1;
        for (at, layer) in self.chain.iter_mut().enumerate() {
            layer.stays = at == last;
            layer.streamed = false;
        }
        if let Some(active) = self.chain.last() {
            (self.disk, self.disk_name) = (active.shape.size, active.name.clone());
        }
    }

    pub(super) fn active(&self) -> &Layer {
        &self.chain[self.chain.len() - 1]
    }

    /// The layers below the active one that can be read by whoever does not write, while others use them.
    pub(super) fn below(&self) -> impl Iterator<Item = &Layer> {
        let (_, below) = self.chain.split_last().unzip();
        below.into_iter().flatten().filter(|layer| !layer.streamed)
    }

    fn active_mut(&mut self) -> &mut Layer {
        let last = self.chain.len() - 1;
        &mut self.chain[last]
    }

    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.chain.iter().position(|layer| layer.name == name)
    }

    /// Whether the layer at this place is larger than the one below it.
    pub(super) fn is_above_a_shorter_one(&self, at: usize) -> bool {
        let below = at.checked_sub(1).map(|below| self.chain[below].shape.size);
        below.is_some_and(|below| below < self.chain[at].shape.size)
    }

    /// `top -> … -> base`.
    pub(super) fn chain_text(&self) -> String {
        let names: Vec<&str> = self.chain.iter().rev().map(|l| l.name.as_str()).collect();
        names.join(" -> ")
    }

    fn write_all(&mut self, ios: &[Io]) {
        let discards = self.discards;
        for io in ios {
            self.active_mut().write(io, discards);
        }
    }

    /// What is so after a step. Returns the nodes that the step leaves behind, the higher ones first: they have to be removed.
    pub(super) fn apply(&mut self, step: &Step) -> Vec<String> {
        let before = self.chain.clone();
        self.change(step);
        if matches!(step, Step::Restart { .. }) {
            return Vec::new();
        }
        let left = before.into_iter().rev();
        let left = left.filter(|layer| layer.stays && self.position(&layer.name).is_none());
        left.map(|layer| layer.name).collect()
    }

    pub(super) fn after(&self, step: &Step) -> Model {
        let mut after = self.clone();
        after.apply(step);
        after
    }

    fn change(&mut self, step: &Step) {
        match step {
            Step::Io(io) => self.write_all(std::slice::from_ref(io)),
            Step::Together(ios) => self.write_all(ios),
            Step::Broken(io, fault) => {
                self.may_leak(&fault.node);
                self.write_all(std::slice::from_ref(io));
            }
            Step::Snapshot { shape, .. } => self.snapshot(shape),
            Step::Commit { top, base, job } => {
                self.play(job);
                self.commit(top, base, job.end);
            }
            Step::Stream { top, base, job } => {
                self.play(job);
                let top = self.position(top);
                if let Some(top) = top {
                    self.chain[top].streamed = true;
                }
                let base = base.as_ref().and_then(|base| self.position(base));
                if let (Some(top), End::Complete) = (top, job.end) {
                    let first = base.map_or(0, |base| base + 1);
                    self.chain.drain(first..top);
                }
            }
            Step::Mirror {
                shape, below, job, ..
            } => {
                self.play(job);
                let copy = self.copy(shape, job);
                if job.end == End::Complete {
                    match below {
                        None => self.chain.clear(),
                        Some(_) => drop(self.chain.pop()),
                    }
                    self.chain.push(copy);
                }
            }
            Step::Backup {
                shape, what, job, ..
            } => self.backup(shape, what, job),
            Step::Bitmap { node, name, change } => self.bitmap(node, name, change),
            Step::Transaction { node, actions } => {
                let is_refused = actions.iter().any(Action::is_refused);
                for action in actions {
                    match action {
                        Action::Bitmap(name, change) if !is_refused => {
                            self.bitmap(node, name, change);
                        }
                        Action::Snapshot { shape, .. } if !is_refused => self.snapshot(shape),
                        // The image was made.
                        Action::Snapshot { .. } => drop(self.next_image()),
                        _ => {}
                    }
                }
            }
            Step::Resize { size } => {
                let size = *size;
                let active = self.active_mut();
                active.shape.size = size;
                if let Some(reads) = &mut active.reads {
                    reads.resize(size);
                }
            }
            Step::Reopen { ios, .. } => self.write_all(ios),
            Step::Frozen(ios) => self.filtered(|model| model.write_all(ios)),
            Step::Restart { inside } => {
                let is_base = self.chain.len() == 1;
                if let Some(name) = inside {
                    let active = self.active_mut();
                    let reads = active.reads.clone().filter(|_| is_base);
                    active.inside.push((name.clone(), reads));
                }
                for layer in &mut self.chain {
                    layer.bitmaps.retain(|_, bits| bits.persistent);
                }
                self.launched();
            }
            Step::Refused(_) => {}
        }
        if self.grows {
            self.disk = self.active().shape.size;
        }
    }

    /// Filters below the guest drop its discards.
    fn filtered(&mut self, act: impl FnOnce(&mut Self)) {
        let discards = std::mem::take(&mut self.discards);
        act(self);
        self.discards = discards;
    }

    /// What the guest does meanwhile.
    fn play(&mut self, job: &Job) {
        if let Some(fault) = &job.fault {
            self.may_leak(&fault.node);
        }
        let guest = |model: &mut Self, ios: &[Io]| match job.becomes_ready {
            // The filter of a mirror, which the commit of an active layer is as well.
            true => model.filtered(|model| model.write_all(ios)),
            false => model.write_all(ios),
        };
        guest(self, &job.held);
        if let Some(step) = &job.beside {
            self.change(step);
        }
        guest(self, &job.ready);
    }

    /// What the guest reads when it has done its part while the job of this step is held, where that is known.
    pub(super) fn during(&self, step: &Step) -> Option<Bytes> {
        let job = step.job()?;
        if let Step::Stream { top, .. } = step
            && self.is_above_a_shorter_one(self.position(top)?)
        {
            // Behind the end of the layer below, it then reads anything (docs/qemu-findings.md).
            return None;
        }
        let mut then = self.clone();
        then.play(&Job {
            ready: Vec::new(),
            beside: None,
            ..job.clone()
        });
        let mut reads = then.active().reads.clone()?;
        reads.resize(then.disk.min(then.active().shape.size));
        Some(reads)
    }

    fn may_leak(&mut self, node: &str) {
        if let Some(at) = self.position(node) {
            self.chain[at].leaks = true;
        }
    }

    fn snapshot(&mut self, shape: &Shape) {
        let name = self.next_image();
        let overlay = Layer::new(name, shape.clone(), self.chain.last());
        self.chain.push(overlay);
    }

    fn bitmap(&mut self, node: &str, name: &str, change: &Change) {
        let other = match change {
            Change::MergeFrom { node, bitmap } => {
                let at = self.position(node);
                at.and_then(|at| self.chain[at].bitmaps.get(bitmap).cloned())
            }
            _ => None,
        };
        if let Some(at) = self.position(node) {
            let layer = &mut self.chain[at];
            let size = layer.shape.size;
            change.apply(name, &mut layer.bitmaps, size, other.as_ref());
        }
    }

    /// A copy of the active image as it is.
    fn copy(&mut self, shape: &Shape, job: &Job) -> Layer {
        let mut copy = Layer::new(self.next_image(), shape.clone(), None);
        let fault = job.fault.as_ref();
        copy.leaks = fault.is_some_and(|fault| fault.node == copy.name);
        copy.reads = self.active().reads.clone();
        copy
    }

    fn backup(&mut self, shape: &Shape, what: &Part, job: &Job) {
        let mut copy = self.copy(shape, job);
        let is_done = job.end == End::Complete;
        let Part::Dirty { bitmap, mode } = what else {
            self.play(job);
            self.copies.extend(is_done.then_some(copy));
            return;
        };
        let Some(before) = self.active().bitmaps.get(bitmap).cloned() else {
            return;
        };
        if let Some(reads) = &mut copy.reads {
            reads.keep(&copied(&before, shape));
        }
        self.copies.extend(is_done.then_some(copy));
        // What is written meanwhile is recorded apart.
        if let Some(bits) = self.active_mut().bitmaps.get_mut(bitmap) {
            bits.dirty.clear();
        }
        self.play(job);
        let size = self.active().shape.size;
        if let Some(bits) = self.active_mut().bitmaps.get_mut(bitmap) {
            match (is_done, *mode) {
                (true, "on-success" | "always") => {}
                // What was not copied any more is dirty.
                (false, "always") => bits.at_least = true,
                _ => bits.merge(&before, size),
            }
        }
    }

    fn commit(&mut self, top: &str, base: &str, end: End) {
        let (Some(top), Some(base)) = (self.position(top), self.position(base)) else {
            return;
        };
        let is_active = top == self.chain.len() - 1;
        if end == End::Cancel {
            // Each layer between shows what of the top has reached the base.
            for layer in &mut self.chain[base..top] {
                layer.reads = None;
                for bits in layer.bitmaps.values_mut() {
                    bits.at_least = true;
                }
            }
            return;
        }
        let (size, reads) = (self.chain[top].shape.size, self.chain[top].reads.clone());
        let layer = &mut self.chain[base];
        let changed = match (&reads, &layer.reads) {
            (Some(new), Some(old)) => {
                // To grow is no write.
                let mut old = old.clone();
                old.resize(new.size());
                new.differences(&old)
            }
            _ => Vec::new(),
        };
        for bits in layer.bitmaps.values_mut() {
            bits.at_least = true;
            if bits.records && is_active {
                changed.iter().for_each(|range| bits.set(range.clone()));
            }
        }
        layer.shape.size = layer.shape.size.max(size);
        layer.reads = reads;
        self.chain.drain(base + 1..=top);
    }
}

/// Where a backup copies for a bitmap: whole clusters of its target, and no less than 64 KiB at once.
fn copied(bits: &Bits, shape: &Shape) -> Vec<Range<u64>> {
    let cluster = shape.cluster.max(64 * KIB);
    let whole = |range: Range<u64>| {
        range.start / cluster * cluster..range.end.next_multiple_of(cluster).min(shape.size)
    };
    bits.ranges(shape.size).into_iter().map(whole).collect()
}

#[cfg(test)]
mod tests;
