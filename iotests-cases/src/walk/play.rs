//! Runs the steps of a program, and compares with the model after each.

use std::collections::BTreeMap;

use iotests_core::prelude::*;

use super::bytes::Bytes;
use super::model::{Layer, Model};
use super::step::Step;

/// What a program is run on, and what can be seen of it.
pub(super) trait Qemu {
    /// A machine with the chain of the model.
    async fn launch(&mut self, model: &Model) -> CaseResult;

    async fn shutdown(&mut self) -> CaseResult;

    /// The model is that of before.
    async fn run(&mut self, model: &Model, step: &Step) -> CaseResult;

    async fn remove_node(&mut self, name: &str) -> CaseResult;

    /// The image, which no machine has, keeps itself as a snapshot inside of it.
    async fn keep_inside(&mut self, image: &str, snapshot: &str) -> CaseResult;

    /// `top -> … -> base`.
    async fn assert_chain(&self, chain: &str) -> CaseResult;

    async fn assert_no_jobs(&self) -> CaseResult;

    /// Each node that is named is read-only, or is not.
    async fn assert_read_only(&self, nodes: &[(&str, bool)]) -> CaseResult;

    async fn size(&self, node: &str) -> CaseResult<u64>;

    async fn assert_reads(&self, node: &str, bytes: &Bytes) -> CaseResult;

    async fn bitmaps(&self, node: &str) -> CaseResult<BTreeMap<String, Shown>>;

    /// The file, which no machine has.
    async fn assert_file(&self, layer: &Layer) -> CaseResult;

    /// What the snapshots inside of the files hold; the files are of no use afterwards.
    async fn assert_inside(&self, layer: &Layer) -> CaseResult;
}

/// What is seen of a bitmap.
pub(super) struct Shown {
    pub(super) count: u64,
    pub(super) granularity: u64,
    pub(super) recording: bool,
    pub(super) persistent: bool,
    pub(super) sha256: String,
}

/// Runs all of it, from images that were made.
pub(super) async fn play(
    qemu: &mut impl Qemu,
    mut model: Model,
    steps: &[Step],
    log: impl Fn(String),
) -> CaseResult {
    qemu.launch(&model).await?;
    for (number, step) in steps.iter().enumerate() {
        log(format!("step {}: {step:?}", number + 1));
        if let Step::Restart { inside } = step {
            check_all(qemu, &model).await?;
            qemu.shutdown().await?;
            if let Some(snapshot) = inside {
                qemu.keep_inside(&model.active().name, snapshot).await?;
            }
            model.apply(step);
            check_files(qemu, &model).await?;
            qemu.launch(&model).await?;
        } else {
            qemu.run(&model, step).await?;
            for left in model.apply(step) {
                qemu.remove_node(&left).await?;
            }
        }
        // What the guest wrote is seen after the next step that does something with it.
        if !matches!(step, Step::Io(_) | Step::Refused(_)) {
            check(qemu, &model).await.context("after this step")?;
        }
    }
    log("the end".to_owned());
    check_all(qemu, &model).await?;
    qemu.shutdown().await?;
    check_files(qemu, &model).await?;
    for layer in &model.chain {
        qemu.assert_inside(layer).await?;
    }
    Ok(())
}

/// What is cheap to see: the chain, the disk's data and its bitmaps.
async fn check(qemu: &impl Qemu, model: &Model) -> CaseResult {
    qemu.assert_chain(&model.chain_text()).await?;
    check_layer(qemu, model.active()).await
}

async fn check_layer(qemu: &impl Qemu, layer: &Layer) -> CaseResult {
    if let Some(reads) = &layer.reads {
        check!(qemu.size(&layer.name).await? == layer.shape.size);
        qemu.assert_reads(&layer.name, reads).await?;
    }
    let found = qemu.bitmaps(&layer.name).await?;
    let names = |names: Vec<&String>| format!("{names:?}");
    let (are, should) = (found.keys().collect(), layer.bitmaps.keys().collect());
    check!(names(are) == names(should), "the bitmaps of {}", layer.name);
    for (name, bits) in &layer.bitmaps {
        let Some(shown) = found.get(name) else {
            continue;
        };
        let ranges = bits.ranges(layer.shape.size);
        let dirty: u64 = bits.dirty.len() as u64 * bits.granularity;
        check!(shown.granularity == bits.granularity, "of {name}");
        check!(shown.recording == bits.records, "of {name}");
        check!(shown.persistent == bits.persistent, "of {name}");
        let (is_right, is_there) = match bits.at_least {
            true => (shown.count >= dirty, true),
            false => (
                shown.count == dirty,
                shown.sha256 == bits.sha256(layer.shape.size),
            ),
        };
        check!(
            is_right,
            "{name} has {} dirty bytes; it should have {dirty}: {ranges:x?}",
            shown.count
        );
        check!(
            is_there,
            "{name} is not dirty where it should be: {ranges:x?}"
        );
    }
    Ok(())
}

/// All that a machine shows.
async fn check_all(qemu: &impl Qemu, model: &Model) -> CaseResult {
    qemu.assert_no_jobs().await?;
    let active = &model.active().name;
    let nodes = model.chain.iter().filter(|layer| !layer.streamed);
    let nodes: Vec<_> = nodes.map(|layer| (layer.name.as_str(), layer.name != *active)).collect();
    qemu.assert_read_only(&nodes).await?;
    for layer in &model.chain {
        check_layer(qemu, layer).await?;
    }
    Ok(())
}

/// What the files hold, while nobody has them.
async fn check_files(qemu: &impl Qemu, model: &Model) -> CaseResult {
    for layer in model.chain.iter().chain(&model.copies) {
        qemu.assert_file(layer).await?;
    }
    Ok(())
}
