//! Bugs that are planted in what the walk runs on, a second model: each must be noticed.

use std::collections::BTreeMap;

use iotests_core::case::Backend;
use iotests_core::prelude::*;

use super::bytes::Bytes;
use super::generated;
use super::model::{Layer, Model};
use super::play::{Qemu, Shown, play};
use super::step::{Action, End, Io, IoKind, Part, Step};

/// What goes wrong: it gets the model of after the step, and that of before.
type Plant = fn(&mut Model, &Model, &Step);

/// A QEMU that does what its own model does, and something wrong.
struct Planted {
    model: Option<Model>,
    inside: Option<String>,
    plant: Plant,
}

impl Planted {
    fn does(&mut self, step: &Step) {
        let plant = self.plant;
        if let Some(model) = &mut self.model {
            let before = model.clone();
            model.apply(step);
            plant(model, &before, step);
        }
    }

    fn model(&self) -> CaseResult<&Model> {
        let model = self.model.as_ref();
        model.ok_or_else(|| Failure::new("there is no machine"))
    }

    fn layer(&self, name: &str) -> CaseResult<&Layer> {
        let model = self.model()?;
        let mut layers = model.chain.iter().chain(&model.copies);
        let layer = layers.find(|layer| layer.name == name);
        layer.ok_or_else(|| Failure::new("there is no such node").context(name))
    }
}

impl Qemu for Planted {
    async fn launch(&mut self, model: &Model) -> CaseResult {
        match &self.model {
            None => self.model = Some(model.clone()),
            Some(_) => {
                let inside = self.inside.take();
                self.does(&Step::Restart { inside });
            }
        }
        Ok(())
    }

    async fn shutdown(&mut self) -> CaseResult {
        Ok(())
    }

    async fn run(&mut self, _model: &Model, step: &Step) -> CaseResult {
        self.does(step);
        Ok(())
    }

    async fn remove_node(&mut self, _name: &str) -> CaseResult {
        Ok(())
    }

    async fn keep_inside(&mut self, _image: &str, snapshot: &str) -> CaseResult {
        self.inside = Some(snapshot.to_owned());
        Ok(())
    }

    async fn assert_chain(&self, chain: &str) -> CaseResult {
        check!(self.model()?.chain_text() == chain);
        Ok(())
    }

    async fn assert_no_jobs(&self) -> CaseResult {
        Ok(())
    }

    async fn assert_read_only(&self, nodes: &[(&str, bool)]) -> CaseResult {
        let active = &self.model()?.active().name;
        check!(nodes.iter().all(|(name, is_so)| *is_so == (name != active)));
        Ok(())
    }

    async fn size(&self, node: &str) -> CaseResult<u64> {
        Ok(self.layer(node)?.shape.size)
    }

    async fn assert_reads(&self, node: &str, bytes: &Bytes) -> CaseResult {
        check!(self.layer(node)?.reads.as_ref() == Some(bytes), "{node}");
        Ok(())
    }

    async fn bitmaps(&self, node: &str) -> CaseResult<BTreeMap<String, Shown>> {
        let layer = self.layer(node)?;
        let shown = layer.bitmaps.iter().map(|(name, bits)| {
            let shown = Shown {
                count: bits.dirty.len() as u64 * bits.granularity,
                granularity: bits.granularity,
                recording: bits.records,
                persistent: bits.persistent,
                sha256: bits.sha256(layer.shape.size),
            };
            (name.clone(), shown)
        });
        Ok(shown.collect())
    }

    async fn assert_file(&self, layer: &Layer) -> CaseResult {
        check!(self.layer(&layer.name)?.reads == layer.reads);
        Ok(())
    }

    async fn assert_inside(&self, layer: &Layer) -> CaseResult {
        check!(self.layer(&layer.name)?.inside == layer.inside);
        Ok(())
    }
}

/// A byte that nobody writes.
const WRONG: u8 = 0xff;

/// A sector of an image has other data.
fn spoil(layer: Option<&mut Layer>) {
    if let Some(reads) = layer.and_then(|layer| layer.reads.as_mut()) {
        let end = reads.size();
        reads.fill(WRONG, end.saturating_sub(512)..end);
    }
}

fn is_done(step: &Step) -> bool {
    step.job().is_some_and(|job| job.end == End::Complete)
}

/// What a backup of this kind has just made.
fn new_copy<'m>(
    model: &'m mut Model,
    before: &Model,
    step: &Step,
    kind: impl Fn(&Part) -> bool,
) -> Option<&'m mut Layer> {
    let is_it = matches!(step, Step::Backup { what, .. } if kind(what));
    let is_new = model.copies.len() > before.copies.len();
    model.copies.last_mut().filter(|_| is_it && is_new)
}

fn bitmaps(model: &mut Model) -> impl Iterator<Item = &mut super::bitmap::Bits> {
    let layers = model.chain.iter_mut().rev().take(1);
    layers.flat_map(|layer| layer.bitmaps.values_mut())
}

const PLANTS: [(&str, Plant); 18] = [
    ("a commit loses a sector", |model, _, step| {
        if matches!(step, Step::Commit { .. }) && is_done(step) {
            spoil(model.chain.last_mut());
        }
    }),
    ("a stream loses a sector", |model, _, step| {
        if matches!(step, Step::Stream { .. }) && is_done(step) {
            spoil(model.chain.last_mut());
        }
    }),
    (
        "a stream leaves the chain as it was",
        |model, before, step| {
            if matches!(step, Step::Stream { .. }) {
                model.chain.clone_from(&before.chain);
            }
        },
    ),
    (
        "a stream beside another job loses a sector",
        |model, _, step| {
            if let Some(Step::Stream { top, .. }) = step.beside() {
                spoil(model.chain.iter_mut().find(|layer| layer.name == *top));
            }
        },
    ),
    (
        "a bitmap of a busy disk is not changed",
        |model, before, step| {
            if let Some(Step::Bitmap { node, .. }) = step.beside()
                && let Some(layer) = model.chain.iter_mut().find(|layer| layer.name == *node)
            {
                layer.bitmaps.clone_from(&before.active().bitmaps);
            }
        },
    ),
    (
        "a mirror misses what is written at the end",
        |model, before, step| {
            if matches!(step, Step::Mirror { job, .. } if job.waits_ready()) && is_done(step) {
                let old = before.active().reads.clone();
                if let Some(layer) = model.chain.last_mut() {
                    layer.reads = old;
                }
            }
        },
    ),
    (
        "a backup has what is written later",
        |model, before, step| {
            let new = model.active().reads.clone();
            if let Some(copy) = new_copy(model, before, step, |what| matches!(what, Part::All)) {
                copy.reads = new;
            }
        },
    ),
    (
        "a backup of a bitmap copies everything",
        |model, before, step| {
            let is_part = |what: &Part| matches!(what, Part::Dirty { .. });
            if let Some(copy) = new_copy(model, before, step, is_part) {
                copy.reads.clone_from(&before.active().reads);
            }
        },
    ),
    (
        "a backup of a bitmap does not clear it",
        |model, before, step| {
            if let Step::Backup {
                what: Part::Dirty { bitmap, .. },
                ..
            } = step
                && let Some(old) = before.active().bitmaps.get(bitmap)
                && let Some(bits) = model.chain.last_mut().and_then(|l| l.bitmaps.get_mut(bitmap))
            {
                bits.dirty.extend(&old.dirty);
            }
        },
    ),
    ("a bitmap forgets a bit", |model, _, step| {
        if matches!(step, Step::Io(_)) {
            for bits in bitmaps(model) {
                bits.dirty.pop_last();
            }
        }
    }),
    ("a bitmap has another bit", |model, _, step| {
        if matches!(step, Step::Io(_)) {
            for bits in bitmaps(model) {
                if let Some(bit) = bits.dirty.pop_first() {
                    let free = (0..).find(|other| *other != bit && !bits.dirty.contains(other));
                    bits.dirty.extend(free);
                }
            }
        }
    }),
    ("what is refused has an effect", |model, _, step| {
        if matches!(step, Step::Refused(_)) {
            spoil(model.chain.last_mut());
        }
    }),
    (
        "what a transaction did first is not undone",
        |model, _, step| {
            if let Step::Transaction { node, actions } = step
                && actions.iter().any(Action::is_refused)
                && let Some(Action::Bitmap(name, change)) = actions.first()
            {
                model.apply(&Step::Bitmap {
                    node: node.clone(),
                    name: name.clone(),
                    change: change.clone(),
                });
            }
        },
    ),
    ("a persistent bitmap is not stored", |model, _, step| {
        if matches!(step, Step::Restart { .. }) {
            let layers = model.chain.iter_mut();
            layers.for_each(|layer| layer.bitmaps.clear());
        }
    }),
    (
        "a bitmap that was off is on in the next machine",
        |model, _, step| {
            if matches!(step, Step::Restart { .. }) {
                bitmaps(model).for_each(|bits| bits.records = true);
            }
        },
    ),
    (
        "a larger image shows something at its end",
        |model, _, step| {
            if matches!(step, Step::Resize { .. }) {
                spoil(model.chain.last_mut());
            }
        },
    ),
    (
        "a discard takes more than whole clusters",
        |model, _, step| {
            if let Step::Io(Io {
                kind: IoKind::Discard,
                range,
            }) = step
                && let Some(reads) = model.chain.last_mut().and_then(|l| l.reads.as_mut())
            {
                reads.fill(0, range.clone());
            }
        },
    ),
    (
        "a snapshot inside of an image changes with it",
        |model, _, step| {
            if matches!(step, Step::Io(_)) {
                let now = model.active().reads.clone();
                if let Some((_, kept)) = model.chain.last_mut().and_then(|l| l.inside.last_mut()) {
                    *kept = kept.as_ref().and(now);
                }
            }
        },
    ),
];

/// In how many of the first programs something is noticed.
fn noticed(plant: Plant, programs: u64) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let fails = |seed: &u64| {
        let program = generated(*seed).unwrap().current();
        let (model, steps) = (
            program.model(Some(Backend::System)),
            program.steps(Some(Backend::System)),
        );
        let mut qemu = Planted {
            model: None,
            inside: None,
            plant,
        };
        let played = play(&mut qemu, model, &steps, drop);
        runtime.block_on(played).is_err()
    };
    (0..programs).filter(fails).count()
}

#[test]
fn every_planted_bug_is_noticed_and_nothing_else() {
    const PROGRAMS: u64 = 300;
    assert_eq!(noticed(|_, _, _| {}, PROGRAMS), 0);
    for (name, plant) in PLANTS {
        let found = noticed(plant, PROGRAMS);
        assert!(
            found > 1,
            "{name}: noticed in {found} of {PROGRAMS} programs"
        );
    }
}
