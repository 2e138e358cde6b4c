//! Programs: how they are generated and made smaller, and which steps they become.
//!
//! A program names nothing: its numbers choose among what there is when their turn comes. So what is left of it when a part is taken out
//! is a program again, and `proptest` can make it smaller without knowing about images.

use iotests_core::case::Backend;
use iotests_core::prelude::*;
use proptest::prelude::*;
use proptest::strategy::Union;

use super::model::{Model, Shape};
use super::resolve::Resolver;
use super::step::{Io, IoKind, Step};

/// A program: the images at first, and what is done.
#[derive(Clone, Debug)]
pub(super) struct Program {
    /// With what they hold.
    shapes: Vec<(RawShape, Vec<RawIo>)>,
    discards: bool,
    /// The disk is served by a thread of its own.
    iothread: bool,
    small_caches: bool,
    writable_files: bool,
    ops: Vec<Op>,
}

#[derive(Clone, Debug)]
pub(super) struct RawShape {
    size: u8,
    cluster: u8,
    subclusters: bool,
    extra: u8,
}

#[derive(Clone, Debug)]
pub(super) struct RawIo {
    pub(super) kind: u8,
    unit: u8,
    start: u32,
    length: u32,
    at_end: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct RawJob {
    pub(super) held: Vec<RawIo>,
    pub(super) ready: Vec<RawIo>,
    pub(super) cancel: bool,
    pub(super) fault: Option<RawFault>,
    pub(super) beside: Option<RawBeside>,
}

/// What happens while a job is held.
#[derive(Clone, Debug)]
pub(super) enum RawBeside {
    Bitmap(RawBitmap),
    Stream(u8, u8),
}

#[derive(Clone, Debug)]
pub(super) struct RawFault {
    pub(super) node: u8,
    pub(super) event: u8,
    pub(super) policy: u8,
}

#[derive(Clone, Debug)]
pub(super) struct RawBitmap {
    pub(super) name: u8,
    pub(super) kind: u8,
    pub(super) more: u8,
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Io(RawIo),
    Together(RawIo, RawIo),
    Broken(RawIo, RawFault),
    Snapshot(RawShape, bool),
    Commit(u8, u8, RawJob),
    Stream(u8, u8, RawJob),
    Mirror(RawShape, bool, u8, RawJob),
    Backup(RawShape, u8, RawJob),
    Bitmap(RawBitmap),
    Transaction(Vec<RawBitmap>, Option<RawShape>, u8),
    Resize(u8),
    Reopen(u8, u8, Vec<RawIo>),
    Frozen(Vec<RawIo>),
    Restart(bool),
    Refused(u8, u8),
}

impl Op {
    /// What happens while its job is held.
    pub(super) fn beside(&self) -> Option<&RawBeside> {
        match self {
            Op::Commit(.., job)
            | Op::Stream(.., job)
            | Op::Mirror(.., job)
            | Op::Backup(.., job) => job.beside.as_ref(),
            _ => None,
        }
    }
}

fn shape() -> impl Strategy<Value = RawShape> {
    let numbers = (0_u8..8, 0_u8..3, any::<bool>(), 0_u8..16);
    numbers.prop_map(|(size, cluster, subclusters, extra)| RawShape {
        size,
        cluster,
        subclusters,
        extra,
    })
}

fn io() -> impl Strategy<Value = RawIo> {
    let at_end = proptest::bool::weighted(0.2);
    let numbers = (0_u8..14, 0_u8..4, any::<u32>(), any::<u32>(), at_end);
    numbers.prop_map(|(kind, unit, start, length, at_end)| RawIo {
        kind,
        unit,
        start: start % 100_000,
        length: length % 100_000,
        at_end,
    })
}

fn ios() -> impl Strategy<Value = Vec<RawIo>> {
    proptest::collection::vec(io(), 0..3)
}

fn fault() -> impl Strategy<Value = RawFault> {
    (0_u8..8, 0_u8..32, 0_u8..3).prop_map(|(node, event, policy)| RawFault {
        node,
        event,
        policy,
    })
}

fn job() -> impl Strategy<Value = RawJob> {
    let cancel = proptest::bool::weighted(0.2);
    let fault = proptest::option::weighted(0.2, fault());
    let beside = prop_oneof![
        1 => bitmap().prop_map(RawBeside::Bitmap),
        // There is seldom room for one.
        3 => (0_u8..8, 0_u8..8).prop_map(|(top, base)| RawBeside::Stream(top, base)),
    ];
    let beside = proptest::option::weighted(0.6, beside);
    let parts = (ios(), ios(), cancel, fault, beside);
    parts.prop_map(|(held, ready, cancel, fault, beside)| RawJob {
        held,
        ready,
        cancel,
        fault,
        beside,
    })
}

fn bitmap() -> impl Strategy<Value = RawBitmap> {
    (0_u8..3, 0_u8..14, any::<u8>()).prop_map(|(name, kind, more)| RawBitmap { name, kind, more })
}

fn op() -> impl Strategy<Value = Op> {
    let two = || (0_u8..8, 0_u8..8, job());
    let mirror = (shape(), any::<bool>(), 0_u8..6, job());
    let bitmaps = proptest::collection::vec(bitmap(), 1..4);
    let transaction = (bitmaps, proptest::option::of(shape()), 0_u8..8);
    let op: Vec<(u32, BoxedStrategy<Op>)> = vec![
        (12, io().prop_map(Op::Io).boxed()),
        (
            2,
            (io(), io()).prop_map(|(a, b)| Op::Together(a, b)).boxed(),
        ),
        (
            2,
            (io(), fault()).prop_map(|(io, fault)| Op::Broken(io, fault)).boxed(),
        ),
        (
            5,
            (shape(), any::<bool>()).prop_map(|(shape, same)| Op::Snapshot(shape, same)).boxed(),
        ),
        (
            5,
            two().prop_map(|(top, base, job)| Op::Commit(top, base, job)).boxed(),
        ),
        (
            4,
            two().prop_map(|(top, base, job)| Op::Stream(top, base, job)).boxed(),
        ),
        (
            3,
            mirror.prop_map(|(shape, full, mode, job)| Op::Mirror(shape, full, mode, job)).boxed(),
        ),
        (
            3,
            (shape(), any::<u8>(), job())
                .prop_map(|(shape, what, job)| Op::Backup(shape, what, job))
                .boxed(),
        ),
        (7, bitmap().prop_map(Op::Bitmap).boxed()),
        (
            2,
            transaction
                .prop_map(|(bitmaps, shape, fails)| Op::Transaction(bitmaps, shape, fails))
                .boxed(),
        ),
        (3, (1_u8..9).prop_map(Op::Resize).boxed()),
        (
            2,
            (0_u8..8, any::<u8>(), ios())
                .prop_map(|(node, how, ios)| Op::Reopen(node, how, ios))
                .boxed(),
        ),
        (1, ios().prop_map(Op::Frozen).boxed()),
        (2, any::<bool>().prop_map(Op::Restart).boxed()),
        (
            3,
            (any::<u8>(), any::<u8>()).prop_map(|(which, more)| Op::Refused(which, more)).boxed(),
        ),
    ];
    Union::new_weighted(op)
}

/// All programs.
pub(super) fn program() -> impl Strategy<Value = Program> {
    let shapes = proptest::collection::vec((shape(), ios()), 1..5);
    let ops = proptest::collection::vec(op(), 1..14);
    let flags = (
        any::<bool>(),
        any::<bool>(),
        proptest::bool::weighted(0.3),
        proptest::bool::weighted(0.3),
    );
    (shapes, flags, ops).prop_map(|(shapes, flags, ops)| Program {
        shapes,
        discards: flags.0,
        writable_files: flags.1,
        iothread: flags.2,
        small_caches: flags.3,
        ops,
    })
}

impl RawShape {
    /// One that can have a backing image, or has none.
    pub(super) fn shape(&self, has_backing: bool) -> Shape {
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
        let subclusters = self.subclusters && cluster >= 16 * KIB;
        Shape {
            size: SIZES[usize::from(self.size % 8)],
            cluster,
            subclusters,
            data_file: match self.extra {
                14 => Some(false),
                15 => Some(!has_backing),
                _ => None,
            },
            // What is allocated hides what is below, but in subclusters.
            preallocated: (12..14).contains(&self.extra) && (subclusters || !has_backing),
            compressed: (8..12).contains(&self.extra),
            data: Vec::new(),
        }
    }
}

impl RawIo {
    /// The request, which fits into this many bytes; `number` makes its data its own.
    pub(super) fn io(&self, size: u64, number: usize) -> Option<Io> {
        let unit = [512, 64 * KIB, 4 * KIB, 1][usize::from(self.unit % 4)];
        let units = size / unit;
        if units == 0 {
            return None;
        }
        let most = if unit == 1 { 3000 } else { 12 };
        let start = u64::from(self.start) * 7 % units;
        let length = (1 + u64::from(self.length) % most).min(units - start);
        let mut range = start * unit..(start + length) * unit;
        if self.at_end {
            range = size - length * unit..size;
        }
        let byte = u8::try_from(number % 255).unwrap_or_default() + 1;
        let kind = match self.kind {
            0..=6 => IoKind::Write(byte),
            7 | 8 => IoKind::Zero,
            9 | 10 => IoKind::Discard,
            11 | 12 => IoKind::Unmap,
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
            let mut shape = raw.shape(at > 0);
            for (number, raw) in data.iter().enumerate() {
                let io = raw.io(shape.size, 0xa0 + 4 * at + number);
                shape.data.extend(io.and_then(|io| match io.kind {
                    IoKind::Write(byte) => Some((byte, io.range)),
                    IoKind::Zero | IoKind::Unmap | IoKind::Discard => Some((0, io.range)),
                    IoKind::Flush => None,
                }));
            }
            shape
        };
        let shapes: Vec<Shape> = self.shapes.iter().enumerate().map(shape).collect();
        let mut model = Model::new(&shapes, self.discards, backend == Some(Backend::System));
        // A daemon whose disk moves from its iothread to another thread may die (docs/qemu-findings.md).
        model.iothread = self.iothread && model.grows;
        model.small_caches = self.small_caches;
        model.writable_files = self.writable_files;
        model
    }

    /// Its steps. What makes no sense when its turn comes is left out.
    pub(super) fn steps(&self, backend: Option<Backend>) -> Vec<Step> {
        let mut resolver = Resolver::new(self.model(backend));
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
