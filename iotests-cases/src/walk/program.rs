//! Programs: how they are generated and made smaller, and which steps they become.
//!
//! A program names nothing: its numbers choose among what there is when their turn comes. So what is left of it when a part is taken out
//! is a program again, and `proptest` can make it smaller without knowing about images.

use iotests_core::case::Backend;
use iotests_core::prelude::*;
use proptest::prelude::*;
use proptest::strategy::Union;

use super::model::{Model, Shape};
use super::step::{Change, End, Io, IoKind, Job, Refusal, Step};

/// A program: the images at first, and what is done.
#[derive(Clone, Debug)]
pub(super) struct Program {
    /// With what they hold.
    shapes: Vec<(RawShape, Vec<RawIo>)>,
    discards: bool,
    ops: Vec<Op>,
}

#[derive(Clone, Debug)]
struct RawShape {
    size: u8,
    cluster: u8,
    subclusters: bool,
}

#[derive(Clone, Debug)]
struct RawIo {
    kind: u8,
    unit: u8,
    start: u32,
    length: u32,
}

#[derive(Clone, Debug)]
struct RawJob {
    held: Vec<RawIo>,
    ready: Vec<RawIo>,
    cancel: bool,
}

#[derive(Clone, Debug)]
enum Op {
    Io(RawIo),
    Together(RawIo, RawIo),
    Snapshot(RawShape, bool),
    Commit(u8, u8, RawJob),
    Stream(u8, u8, RawJob),
    Mirror(RawShape, bool, u8, RawJob),
    Backup(RawShape, RawJob),
    Bitmap(u8, u8, u8),
    Resize(u8),
    Restart,
    Refused(u8, u8),
}

/// The most images that a chain has.
const LONGEST: usize = 5;
/// The names of bitmaps.
const BITMAPS: [&str; 3] = ["b0", "b1", "b2"];

fn shape() -> impl Strategy<Value = RawShape> {
    (0_u8..8, 0_u8..3, any::<bool>()).prop_map(|(size, cluster, subclusters)| RawShape {
        size,
        cluster,
        subclusters,
    })
}

fn io() -> impl Strategy<Value = RawIo> {
    (0_u8..12, 0_u8..4, any::<u32>(), any::<u32>()).prop_map(|(kind, unit, start, length)| RawIo {
        kind,
        unit,
        start: start % 100_000,
        length: length % 100_000,
    })
}

fn ios() -> impl Strategy<Value = Vec<RawIo>> {
    proptest::collection::vec(io(), 0..3)
}

fn job() -> impl Strategy<Value = RawJob> {
    (ios(), ios(), proptest::bool::weighted(0.2)).prop_map(|(held, ready, cancel)| RawJob {
        held,
        ready,
        cancel,
    })
}

fn op() -> impl Strategy<Value = Op> {
    let op: Vec<(u32, BoxedStrategy<Op>)> = vec![
        (12, io().prop_map(Op::Io).boxed()),
        (
            2,
            (io(), io()).prop_map(|(a, b)| Op::Together(a, b)).boxed(),
        ),
        (
            5,
            (shape(), any::<bool>())
                .prop_map(|(shape, same)| Op::Snapshot(shape, same))
                .boxed(),
        ),
        (
            5,
            (0_u8..8, 0_u8..8, job())
                .prop_map(|(top, base, job)| Op::Commit(top, base, job))
                .boxed(),
        ),
        (
            4,
            (0_u8..8, 0_u8..8, job())
                .prop_map(|(top, base, job)| Op::Stream(top, base, job))
                .boxed(),
        ),
        (
            3,
            (shape(), any::<bool>(), 0_u8..6, job())
                .prop_map(|(shape, full, mode, job)| Op::Mirror(shape, full, mode, job))
                .boxed(),
        ),
        (
            3,
            (shape(), job())
                .prop_map(|(shape, job)| Op::Backup(shape, job))
                .boxed(),
        ),
        (
            5,
            (0_u8..3, 0_u8..12, any::<u8>())
                .prop_map(|(name, kind, more)| Op::Bitmap(name, kind, more))
                .boxed(),
        ),
        (3, (1_u8..9).prop_map(Op::Resize).boxed()),
        (1, Just(Op::Restart).boxed()),
        (
            3,
            (any::<u8>(), any::<u8>())
                .prop_map(|(which, more)| Op::Refused(which, more))
                .boxed(),
        ),
    ];
    Union::new_weighted(op)
}

/// All programs.
pub(super) fn program() -> impl Strategy<Value = Program> {
    let shapes = proptest::collection::vec((shape(), ios()), 1..4);
    let ops = proptest::collection::vec(op(), 1..14);
    (shapes, any::<bool>(), ops).prop_map(|(shapes, discards, ops)| Program {
        shapes,
        discards,
        ops,
    })
}

impl RawShape {
    fn shape(&self) -> Shape {
        // Not always whole clusters.
        const SIZES: [u64; 8] = [
            64 * KIB,
            256 * KIB,
            192 * KIB + 512,
            MIB,
            512,
            MIB + 4096,
            384 * KIB,
            2 * MIB,
        ];
        let cluster = [64 * KIB, 4 * KIB, 512][usize::from(self.cluster % 3)];
        Shape {
            size: SIZES[usize::from(self.size % 8)],
            cluster,
            subclusters: self.subclusters && cluster >= 16 * KIB,
            data: Vec::new(),
        }
    }
}

impl RawIo {
    /// The request, which fits into this many bytes; `number` makes its data its own.
    fn io(&self, size: u64, number: usize) -> Option<Io> {
        let unit = [512, 64 * KIB, 4 * KIB, 1][usize::from(self.unit % 4)];
        let units = size / unit;
        if units == 0 {
            return None;
        }
        let most = if unit == 1 { 3000 } else { 12 };
        let start = u64::from(self.start) * 7 % units;
        let length = (1 + u64::from(self.length) % most).min(units - start);
        let mut range = start * unit..(start + length) * unit;
        let byte = u8::try_from(number % 255).unwrap_or_default() + 1;
        let kind = match self.kind {
            0..=6 => IoKind::Write(byte),
            7 | 8 => IoKind::Zero,
            9 | 10 => IoKind::Discard,
            _ => IoKind::Flush,
        };
        if kind == IoKind::Flush {
            range = 0..0;
        }
        Some(Io { kind, range })
    }
}

impl Program {
    /// The model before the first step.
    pub(super) fn model(&self, backend: Option<Backend>) -> Model {
        let shape = |(at, (raw, data)): (usize, &(RawShape, Vec<RawIo>))| {
            let mut shape = raw.shape();
            for (number, raw) in data.iter().enumerate() {
                let io = raw.io(shape.size, 0xa0 + 4 * at + number);
                shape.data.extend(io.and_then(|io| match io.kind {
                    IoKind::Write(byte) => Some((byte, io.range)),
                    IoKind::Zero | IoKind::Discard => Some((0, io.range)),
                    IoKind::Flush => None,
                }));
            }
            shape
        };
        let shapes: Vec<Shape> = self.shapes.iter().enumerate().map(shape).collect();
        Model::new(&shapes, self.discards, backend == Some(Backend::System))
    }

    /// Its steps. What makes no sense when its turn comes is left out.
    pub(super) fn steps(&self, backend: Option<Backend>) -> Vec<Step> {
        let mut resolver = Resolver {
            model: self.model(backend),
            writes: 0,
        };
        let mut steps = Vec::new();
        for op in &self.ops {
            if let Some(step) = resolver.step(op) {
                resolver.model.apply(&step);
                steps.push(step);
            }
        }
        steps
    }
}

struct Resolver {
    model: Model,
    /// How many requests there were.
    writes: usize,
}

impl Resolver {
    fn io(&mut self, raw: &RawIo) -> Option<Io> {
        self.writes += 1;
        let size = self.model.disk.min(self.model.active().shape.size);
        raw.io(size, self.writes)
    }

    fn ios(&mut self, raw: &[RawIo]) -> Vec<Io> {
        raw.iter().filter_map(|raw| self.io(raw)).collect()
    }

    /// `filtered`: the job puts a filter below the guest for as long as it takes.
    fn job(&mut self, raw: &RawJob, becomes_ready: bool, filtered: bool) -> Job {
        let mut held = self.ios(&raw.held);
        if filtered && !becomes_ready {
            // The filter drops discards; whether it is there still, nobody knows.
            for io in held.iter_mut().filter(|io| io.kind == IoKind::Discard) {
                io.kind = IoKind::Zero;
            }
        }
        Job {
            held,
            ready: match becomes_ready {
                true => self.ios(&raw.ready),
                false => Vec::new(),
            },
            becomes_ready,
            end: match raw.cancel {
                true => End::Cancel,
                false => End::Complete,
            },
        }
    }

    fn names(&self) -> Vec<String> {
        self.model.chain.iter().map(|l| l.name.clone()).collect()
    }

    fn step(&mut self, op: &Op) -> Option<Step> {
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
            Op::Snapshot(raw, same) => {
                if length >= LONGEST {
                    return None;
                }
                let mut shape = raw.shape();
                let size = self.model.active().shape.size;
                if *same || shape.size < size {
                    shape.size = size;
                }
                Step::Snapshot {
                    node: active,
                    overlay: self.model.name_of_next_image(),
                    shape,
                }
            }
            Op::Commit(top, base, raw) => {
                // The higher ones are likelier to be meant: the disk itself.
                let top = (length - 1).saturating_sub(usize::from(top / 3));
                let base = usize::from(*base) % top.max(1);
                let [low, high] = [base, top].map(|at| &self.model.chain[at]);
                let is_known = low.reads.is_some() && high.reads.is_some();
                if top == 0 || low.shape.size > high.shape.size || !is_known {
                    return None;
                }
                Step::Commit {
                    top: names[top].clone(),
                    base: names[base].clone(),
                    job: self.job(raw, top == length - 1, top == length - 1),
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
                Step::Stream {
                    top: names[top].clone(),
                    base: base.map(|at| names[at].clone()),
                    job: self.job(raw, false, top == length - 1),
                }
            }
            Op::Mirror(raw, full, mode, job) => {
                let below = (!full && length > 1).then(|| names[length - 2].clone());
                let mut shape = raw.shape();
                shape.size = self.model.active().shape.size;
                Step::Mirror {
                    target: self.model.name_of_next_image(),
                    shape,
                    below,
                    mode: ["background", "write-blocking"][usize::from(mode % 2)],
                    granularity: [64 * KIB, 4 * KIB, 512][usize::from(mode / 2 % 3)],
                    job: self.job(job, true, true),
                }
            }
            Op::Backup(raw, job) => {
                let mut shape = raw.shape();
                shape.size = self.model.active().shape.size;
                Step::Backup {
                    target: self.model.name_of_next_image(),
                    shape,
                    job: self.job(job, false, true),
                }
            }
            Op::Bitmap(name, kind, more) => self.bitmap(active, *name, *kind, *more)?,
            Op::Resize(units) => {
                let size = self.model.active().shape.size + u64::from(*units) * 33 * KIB;
                let size = size.next_multiple_of(512);
                if size > 3 * MIB {
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
            Op::Restart => Step::Restart,
            Op::Refused(which, more) => Step::Refused(self.refusal(*which, *more)?),
        })
    }

    fn bitmap(&self, node: String, name: u8, kind: u8, more: u8) -> Option<Step> {
        let name = BITMAPS[usize::from(name) % BITMAPS.len()];
        let bitmaps = &self.model.active().bitmaps;
        let change = match (kind, bitmaps.contains_key(name)) {
            (_, false) => Change::Add {
                granularity: 512 << (more % 9),
                persistent: more & 64 != 0,
                disabled: more & 128 != 0 && more & 1 != 0,
            },
            (0 | 1, true) => Change::Clear,
            (2 | 3, true) => Change::Disable,
            (4 | 5, true) => Change::Enable,
            (6, true) => Change::Remove,
            (_, true) => {
                let others = bitmaps.keys().filter(|other| *other != name);
                let others: Vec<String> = others.cloned().collect();
                if others.is_empty() {
                    return None;
                }
                Change::Merge(others)
            }
        };
        Some(Step::Bitmap {
            node,
            name: name.to_owned(),
            change,
        })
    }

    /// Something that must be refused as things are.
    fn refusal(&self, which: u8, more: u8) -> Option<Refusal> {
        let names = self.names();
        let (active, base) = (names.last()?, names.first()?);
        let any = &names[usize::from(more) % names.len()];
        let bitmap = self.model.active().bitmaps.keys().next();
        let long = "x".repeat(1024);
        let (command, arguments, says) = match which % 19 {
            0 => (
                "block-commit",
                json!({"job-id": "no", "device": active, "base-node": active}),
                "commit an image into itself",
            ),
            1 if names.len() > 1 => (
                "block-commit",
                json!({"job-id": "no", "device": active, "top-node": base, "base-node": active}),
                "not in this backing file chain",
            ),
            2 => (
                "block-stream",
                json!({"job-id": "no", "device": any, "base-node": any}),
                "is not a backing image of",
            ),
            3 if names.len() > 1 => (
                "block-stream",
                json!({"job-id": "no", "device": base, "base-node": active}),
                "is not a backing image of",
            ),
            4 => (
                "blockdev-mirror",
                json!({"job-id": "no", "device": active, "target": active, "sync": "full"}),
                "mirror node into itself",
            ),
            5 => (
                "blockdev-backup",
                json!({"job-id": "no", "device": active, "target": active, "sync": "full"}),
                "cannot be the same",
            ),
            6 => (
                "block-dirty-bitmap-add",
                json!({"node": active, "name": bitmap?}),
                "already exists",
            ),
            7 => (
                "block-dirty-bitmap-add",
                json!({"node": active, "name": "new", "granularity": 3 + u32::from(more) * 2}),
                "Granularity must be power of 2",
            ),
            8 => (
                "block-dirty-bitmap-add",
                json!({"node": active, "name": long, "persistent": true}),
                "Can't make bitmap",
            ),
            9 => (
                "block-dirty-bitmap-merge",
                json!({"node": active, "target": bitmap?, "bitmaps": [bitmap?, "missing"]}),
                "'missing' not found",
            ),
            10 => (
                "block_resize",
                json!({"node-name": active, "size": -1 - i32::from(more)}),
                "expects a >0 size",
            ),
            11 => ("blockdev-del", json!({"node-name": any}), "use"),
            12 => (
                "blockdev-snapshot",
                json!({"node": active, "overlay": any}),
                "overlay",
            ),
            13 => (
                "blockdev-add",
                json!({"driver": "null-co", "node-name": any}),
                "Duplicate nodes with node-name",
            ),
            14 => ("job-complete", json!({"id": "missing"}), "Job not found"),
            15 => (
                "transaction",
                json!({"actions": [
                    {"type": "block-dirty-bitmap-add", "data": {"node": active, "name": "new"}},
                    {"type": "block-dirty-bitmap-clear", "data": {"node": active, "name": "missing"}},
                ]}),
                "'missing' not found",
            ),
            16 => (
                "transaction",
                json!({"actions": [
                    {"type": "block-dirty-bitmap-clear", "data": {"node": active, "name": bitmap?}},
                    {"type": "block-dirty-bitmap-disable", "data": {"node": active, "name": bitmap?}},
                    {"type": "blockdev-backup", "data": {"job-id": "no", "device": active, "target": active,
                        "sync": "full"}},
                ]}),
                "cannot be the same",
            ),
            17 => (
                "blockdev-reopen",
                json!({"options": [{"driver": "qcow2", "node-name": any, "file": "missing"}]}),
                "missing",
            ),
            // The second action undoes what it did before the first one does.
            18 => (
                "transaction",
                json!({"actions": [
                    {"type": "block-dirty-bitmap-add", "data": {"node": active, "name": "new"}},
                    {"type": "block-dirty-bitmap-clear", "data": {"node": active, "name": "new"}},
                    {"type": "block-dirty-bitmap-clear", "data": {"node": active, "name": "missing"}},
                ]}),
                "'missing' not found",
            ),
            _ => return None,
        };
        Some(Refusal {
            command,
            arguments,
            says,
        })
    }
}
