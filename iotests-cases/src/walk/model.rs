//! What QEMU must show: a model of a chain of images, kept in memory.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::Range;

use super::bytes::Bytes;
use super::step::{End, Io, IoKind, Job, Step};

/// How an image is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) size: u64,
    pub(super) cluster: u64,
    pub(super) subclusters: bool,
    /// What is written to it before anything else, in this order.
    pub(super) data: Vec<(u8, Range<u64>)>,
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
        }
    }

    fn write(&mut self, io: &Io, discards: bool) {
        let size = self.shape.size;
        let range = io.range.start..io.range.end.min(size);
        let (byte, written) = match io.kind {
            IoKind::Write(byte) => (byte, range.clone()),
            IoKind::Zero => (0, range.clone()),
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

/// A dirty bitmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bits {
    pub(super) granularity: u64,
    pub(super) records: bool,
    pub(super) persistent: bool,
    /// The numbers of the bits that must be set.
    pub(super) dirty: BTreeSet<u64>,
    /// A job has written as well, and may have set more.
    pub(super) at_least: bool,
}

impl Bits {
    pub(super) fn set(&mut self, range: Range<u64>) {
        if !range.is_empty() {
            let first = range.start / self.granularity;
            self.dirty
                .extend(first..range.end.div_ceil(self.granularity));
        }
    }

    /// The dirty bytes, in an image of this size.
    pub(super) fn ranges(&self, size: u64) -> Vec<Range<u64>> {
        let mut out: Vec<Range<u64>> = Vec::new();
        for bit in &self.dirty {
            let range = bit * self.granularity..((bit + 1) * self.granularity).min(size);
            match out.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => out.push(range),
            }
        }
        out
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

    fn active_mut(&mut self) -> &mut Layer {
        let last = self.chain.len() - 1;
        &mut self.chain[last]
    }

    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.chain.iter().position(|layer| layer.name == name)
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
        if *step == Step::Restart {
            return Vec::new();
        }
        let left = before.into_iter().rev();
        let left = left.filter(|layer| layer.stays && self.position(&layer.name).is_none());
        left.map(|layer| layer.name).collect()
    }

    fn change(&mut self, step: &Step) {
        match step {
            Step::Io(io) => self.write_all(std::slice::from_ref(io)),
            Step::Together(ios) => self.write_all(ios),
            Step::Snapshot { shape, .. } => {
                let name = self.next_image();
                let overlay = Layer::new(name, shape.clone(), self.chain.last());
                self.chain.push(overlay);
            }
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
                let copy = self.copy(shape);
                if job.end == End::Complete {
                    match below {
                        None => self.chain.clear(),
                        Some(_) => drop(self.chain.pop()),
                    }
                    self.chain.push(copy);
                }
            }
            Step::Backup { shape, job, .. } => {
                let copy = self.copy(shape);
                if job.end == End::Complete {
                    self.copies.push(copy);
                }
                self.play(job);
            }
            Step::Bitmap { node, name, change } => {
                let at = self.position(node);
                if let Some(layer) = at.map(|at| &mut self.chain[at]) {
                    change.apply(name, &mut layer.bitmaps, layer.shape.size);
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
            Step::Restart => {
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

    /// What the guest does meanwhile.
    fn play(&mut self, job: &Job) {
        // The filter of a mirror, which the commit of an active layer is as well, drops discards.
        let discards = self.discards;
        self.discards &= !job.becomes_ready;
        self.write_all(&job.held);
        if job.waits_ready() {
            self.write_all(&job.ready);
        }
        self.discards = discards;
    }

    /// A copy of the active image as it is.
    fn copy(&mut self, shape: &Shape) -> Layer {
        let mut copy = Layer::new(self.next_image(), shape.clone(), None);
        copy.reads = self.active().reads.clone();
        copy
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::walk::step::Change;

    fn shape(size: u64) -> Shape {
        Shape {
            size,
            cluster: 4096,
            subclusters: false,
            data: Vec::new(),
        }
    }

    /// A chain of two images of 64 KiB.
    fn model() -> Model {
        Model::new(&[shape(65536), shape(65536)], true, true)
    }

    fn io(kind: IoKind, range: Range<u64>) -> Io {
        Io { kind, range }
    }

    fn job(held: Vec<Io>, ready: Vec<Io>, end: End) -> Job {
        let becomes_ready = !ready.is_empty();
        Job {
            held,
            ready,
            becomes_ready,
            end,
        }
    }

    fn byte(model: &Model, image: &str, place: u64) -> Option<u8> {
        let layer = model.chain.iter().chain(&model.copies);
        let layer = layer.into_iter().find(|layer| layer.name == image)?;
        let runs = layer.reads.as_ref()?.runs();
        let run = runs.iter().find(|(_, range)| range.contains(&place));
        run.map(|(byte, _)| *byte)
    }

    fn write(byte: u8, range: Range<u64>) -> Step {
        Step::Io(io(IoKind::Write(byte), range))
    }

    #[test]
    fn a_write_changes_the_active_image_alone() {
        let mut model = model();
        model.apply(&write(7, 100..200));
        assert_eq!(byte(&model, "image2", 199), Some(7));
        assert_eq!(byte(&model, "image2", 200), Some(0));
        assert_eq!(byte(&model, "image1", 199), Some(0));
    }

    #[test]
    fn what_an_image_has_at_first_lies_over_what_is_below() {
        let mut upper = shape(65536);
        upper.data = vec![(3, 0..10), (4, 5..6)];
        let mut lower = shape(65536);
        lower.data = vec![(2, 0..100)];
        let model = Model::new(&[lower, upper], true, true);
        let bytes = [0, 5, 10, 100].map(|place| byte(&model, "image2", place));
        assert_eq!(bytes, [Some(3), Some(4), Some(2), Some(0)]);
        assert_eq!(byte(&model, "image1", 5), Some(2));
    }

    #[test]
    fn a_discard_takes_whole_clusters_where_it_has_an_effect() {
        for (discards, inside) in [(true, 0), (false, 7)] {
            let mut model = model();
            model.discards = discards;
            model.apply(&write(7, 0..65536));
            model.apply(&Step::Io(io(IoKind::Discard, 4000..8300)));
            assert_eq!(byte(&model, "image2", 4095), Some(7));
            assert_eq!(byte(&model, "image2", 4096), Some(inside));
            assert_eq!(byte(&model, "image2", 8192), Some(7));
        }
    }

    #[test]
    fn a_commit_leaves_the_base_with_all_data_and_a_cancelled_one_with_what_nobody_knows() {
        for end in [End::Complete, End::Cancel] {
            let mut model = model();
            model.apply(&write(7, 0..512));
            let left = model.apply(&Step::Commit {
                top: "image2".to_owned(),
                base: "image1".to_owned(),
                job: job(
                    vec![io(IoKind::Write(8), 512..1024)],
                    vec![
                        io(IoKind::Write(9), 1024..1025),
                        io(IoKind::Discard, 0..65536),
                    ],
                    end,
                ),
            });
            match end {
                End::Complete => {
                    assert_eq!(model.chain_text(), "image1");
                    assert_eq!(left, ["image2"]);
                    let bytes = [0, 512, 1024].map(|place| byte(&model, "image1", place));
                    assert_eq!(bytes, [Some(7), Some(8), Some(9)]);
                }
                End::Cancel => {
                    assert_eq!(model.chain_text(), "image2 -> image1");
                    assert_eq!(left, [""; 0]);
                    assert_eq!(byte(&model, "image1", 0), None);
                    assert_eq!(byte(&model, "image2", 512), Some(8));
                }
            }
        }
    }

    #[test]
    fn what_a_stream_drops_is_between_top_and_base() {
        let mut model = Model::new(&[shape(512), shape(512), shape(512)], false, false);
        let stream = |base: Option<&str>, end| Step::Stream {
            top: "image3".to_owned(),
            base: base.map(str::to_owned),
            job: job(Vec::new(), Vec::new(), end),
        };
        model.apply(&stream(Some("image1"), End::Cancel));
        assert_eq!(model.chain_text(), "image3 -> image2 -> image1");
        model.apply(&stream(Some("image1"), End::Complete));
        assert_eq!(model.chain_text(), "image3 -> image1");
        model.apply(&stream(None, End::Complete));
        assert_eq!(model.chain_text(), "image3");
    }

    #[test]
    fn a_mirror_has_what_is_written_meanwhile_and_a_backup_has_not() {
        let held = vec![io(IoKind::Write(9), 0..1)];
        let mut copied = model();
        copied.apply(&Step::Backup {
            target: "image3".to_owned(),
            shape: shape(65536),
            job: job(held.clone(), Vec::new(), End::Complete),
        });
        assert_eq!(byte(&copied, "image3", 0), Some(0));
        assert_eq!(byte(&copied, "image2", 0), Some(9));
        for (below, chain) in [(None, "image3"), (Some("image1"), "image3 -> image1")] {
            let mut model = model();
            let left = model.apply(&Step::Mirror {
                target: "image3".to_owned(),
                shape: shape(65536),
                below: below.map(str::to_owned),
                mode: "background",
                granularity: 65536,
                job: job(held.clone(), Vec::new(), End::Complete),
            });
            assert_eq!(
                (model.chain_text().as_str(), byte(&model, "image3", 0)),
                (chain, Some(9))
            );
            assert_eq!(left, ["image2"]);
        }
    }

    #[test]
    fn a_bitmap_has_what_was_written_while_it_recorded() {
        let mut model = model();
        let bitmap = |name: &str, change| Step::Bitmap {
            node: "image2".to_owned(),
            name: name.to_owned(),
            change,
        };
        let add = |persistent, disabled| Change::Add {
            granularity: 1024,
            persistent,
            disabled,
        };
        model.apply(&bitmap("a", add(true, false)));
        model.apply(&bitmap("b", add(false, true)));
        model.apply(&write(1, 1000..1025));
        let dirty = |model: &Model, name: &str| -> Vec<(u64, u64)> {
            let ranges = model.active().bitmaps[name].ranges(65536).into_iter();
            ranges.map(|range| (range.start, range.end)).collect()
        };
        assert_eq!(dirty(&model, "a"), [(0, 2048)]);
        assert_eq!(dirty(&model, "b"), []);
        model.apply(&bitmap("b", Change::Enable));
        model.apply(&bitmap("a", Change::Disable));
        model.apply(&write(1, 65535..65536));
        assert_eq!(dirty(&model, "b"), [(64512, 65536)]);
        model.apply(&bitmap("a", Change::Merge(vec!["b".to_owned()])));
        assert_eq!(dirty(&model, "a"), [(0, 2048), (64512, 65536)]);
        model.apply(&Step::Restart);
        let names: Vec<&String> = model.active().bitmaps.keys().collect();
        assert_eq!(names, ["a"]);
        model.apply(&bitmap("a", Change::Clear));
        assert_eq!(dirty(&model, "a"), []);
    }

    #[test]
    fn an_overlay_shows_what_is_below_as_far_as_that_goes() {
        let mut model = Model::new(&[shape(1024)], true, true);
        model.apply(&write(5, 0..1024));
        model.apply(&Step::Snapshot {
            node: "image1".to_owned(),
            overlay: "image2".to_owned(),
            shape: shape(2048),
        });
        assert_eq!(
            (byte(&model, "image2", 1023), byte(&model, "image2", 1024)),
            (Some(5), Some(0))
        );
        assert_eq!(model.disk, 2048);
        model.apply(&Step::Resize { size: 4096 });
        assert_eq!((byte(&model, "image2", 4095), model.disk), (Some(0), 4096));
        assert_eq!(model.active().shape.size, 4096);
    }
}
