//! Runs the steps of a program on QEMU, and compares with the model after each.

use std::collections::BTreeMap;

use iotests_core::author::JobBuilder;
use iotests_core::prelude::*;
use nbd::proto::CommandFlags;

use super::bytes::Bytes;
use super::model::{Layer, Model, Shape};
use super::step::{BUFFER, Change, End, Io, IoKind, Job, Step};

/// Runs all of it.
pub(super) async fn play(t: &Test, mut model: Model, steps: &[Step]) -> CaseResult {
    let mut images = Images {
        t,
        made: BTreeMap::new(),
    };
    let mut below = None;
    for layer in &model.chain {
        images.make(&layer.name, &layer.shape, below).await?;
        below = Some(layer.name.as_str());
    }
    for (name, shape, below) in steps.iter().filter_map(Step::image) {
        images.make(name, shape, below).await?;
    }
    let mut vm = images.launch(&model).await?;
    for (number, step) in steps.iter().enumerate() {
        t.step(format!("step {}: {step:?}", number + 1));
        if *step == Step::Restart {
            check_all(t, &vm, &model).await?;
            vm.shutdown().await?;
            model.apply(step);
            images.check(&model).await?;
            vm = images.launch(&model).await?;
        } else {
            run(&vm, &images, &model, step).await?;
            for left in model.apply(step) {
                vm.remove_node(left).await?;
            }
        }
        // What the guest wrote is seen after the next step that does something with it.
        if !matches!(step, Step::Io(_) | Step::Refused(_)) {
            check(&vm, &model).await.context("after this step")?;
        }
    }
    t.step("the end");
    check_all(t, &vm, &model).await?;
    vm.shutdown().await?;
    images.check(&model).await
}

/// The images of a program, by name.
struct Images<'t> {
    t: &'t Test,
    made: BTreeMap<String, Image>,
}

impl Images<'_> {
    async fn make(&mut self, name: &str, shape: &Shape, below: Option<&str>) -> CaseResult {
        let mut image = self.t.image(name).size(shape.size);
        for (option, value) in shape.options() {
            image = image.option(option, value);
        }
        if let Some(below) = below {
            image = image.backing(self.get(below)?);
        }
        for (byte, range) in &shape.data {
            image = image.write(*byte, range.clone());
        }
        self.made.insert(name.to_owned(), image.create().await?);
        Ok(())
    }

    fn get(&self, name: &str) -> CaseResult<&Image> {
        let image = self.made.get(name);
        image.ok_or_else(|| Failure::new("no image of this name was made").context(name))
    }

    /// The node of an image, with nothing said of what is below it.
    fn node(&self, name: &str, discards: bool) -> CaseResult<Node> {
        let node = self.get(name)?.node().without("backing");
        Ok(match discards {
            true => node.set("discard", "unmap"),
            false => node,
        })
    }

    async fn launch(&self, model: &Model) -> CaseResult<Machine> {
        let mut chain: Option<Node> = None;
        for layer in &model.chain {
            let node = self.node(&layer.name, model.discards)?;
            chain = Some(match chain {
                None => node.no_backing(),
                Some(below) => node.backing(below),
            });
        }
        let chain = chain.ok_or_else(|| Failure::new("a chain has an image"))?;
        let disk = Disk::of(chain).property("share-rw", true);
        self.t.host().disk(disk).launch().await
    }

    /// What the files hold, while nobody has them.
    async fn check(&self, model: &Model) -> CaseResult {
        for layer in model.chain.iter().chain(&model.copies) {
            let image = self.get(&layer.name)?;
            image.assert_clean().await?;
            if let Some(reads) = &layer.reads {
                image.assert_reads(content(reads)).await?;
            }
        }
        Ok(())
    }
}

fn content(bytes: &Bytes) -> Content {
    Content::from(bytes.runs())
}

/// What is cheap to see: the chain, the disk's data and its bitmaps.
async fn check(vm: &Machine, model: &Model) -> CaseResult {
    vm.assert_chain(&model.chain_text()).await?;
    check_layer(vm, model.active()).await
}

async fn check_layer(vm: &Machine, layer: &Layer) -> CaseResult {
    let node = vm.node(&layer.name);
    if let Some(reads) = &layer.reads {
        check!(node.size().await? == layer.shape.size);
        node.assert_reads(content(reads)).await?;
    }
    let found = vm.bitmaps(&layer.name).await?;
    for bitmap in &found {
        check!(
            layer.bitmaps.contains_key(&bitmap.name),
            "a bitmap on {}",
            layer.name
        );
        let Some(bits) = layer.bitmaps.get(&bitmap.name) else {
            continue;
        };
        let ranges = bits.ranges(layer.shape.size);
        let dirty: u64 = bits.dirty.len() as u64 * bits.granularity;
        let name = &bitmap.name;
        check!(bitmap.granularity == bits.granularity, "of {name}");
        check!(bitmap.recording == bits.records, "of {name}");
        check!(bitmap.persistent == bits.persistent, "of {name}");
        let is_right = match bits.at_least {
            true => bitmap.count >= dirty,
            false => bitmap.count == dirty,
        };
        check!(
            is_right,
            "{name} has {} dirty bytes; it should have {dirty}: {ranges:x?}",
            bitmap.count
        );
    }
    check!(found.len() == layer.bitmaps.len());
    Ok(())
}

/// All that a machine shows.
async fn check_all(t: &Test, vm: &Machine, model: &Model) -> CaseResult {
    vm.assert_no_jobs().await?;
    // Before, a commit of the active layer that was cancelled left its base writable.
    if t.has(since(9, 1))? {
        let active = &model.active().name;
        let nodes = model.chain.iter().filter(|layer| !layer.streamed);
        let nodes: Vec<_> = nodes
            .map(|layer| (layer.name.as_str(), layer.name != *active))
            .collect();
        vm.assert_read_only(&nodes).await?;
    }
    for layer in &model.chain {
        check_layer(vm, layer).await?;
    }
    Ok(())
}

async fn io(disk: &Disk<'_>, io: &Io) -> CaseResult {
    let range = io.range.clone();
    match io.kind {
        IoKind::Write(byte) => disk.write(byte, range).await,
        IoKind::Zero => disk.zero(range).await,
        IoKind::Discard => disk.discard(range).await,
        IoKind::Flush => disk.flush().await,
    }
}

async fn send(client: &nbd::Client, io: &Io) -> CaseResult {
    let (start, length) = (io.range.start, io.range.end - io.range.start);
    match io.kind {
        IoKind::Write(byte) => {
            let length = usize::try_from(length)?;
            client.write(start, vec![byte; length]).await?;
        }
        IoKind::Zero => {
            let flags = CommandFlags::empty();
            client.write_zeroes(start, length, flags).await?;
        }
        IoKind::Discard => client.trim(start, length).await?,
        IoKind::Flush => client.flush().await?,
    }
    Ok(())
}

/// As [`Step::text`] says it.
async fn run(vm: &Machine, images: &Images<'_>, model: &Model, step: &Step) -> CaseResult {
    let disk = vm.disk(&model.disk_name);
    let active = model.active().name.as_str();
    let node = |name: &str| images.node(name, model.discards);
    match step {
        Step::Io(request) => io(&disk, request).await,
        Step::Together(ios) => {
            let export = vm.export(active).name("second").writable().await?;
            let client = export.client().await?;
            if let [a, b] = ios.as_slice() {
                let (a, b) = tokio::join!(send(&client, a), send(&client, b));
                a.and(b)?;
            }
            drop(client);
            export.remove().await
        }
        Step::Snapshot {
            node: on, overlay, ..
        } => {
            vm.add_node(node(overlay)?.no_backing()).await?;
            vm.snapshot(on, overlay).await?;
            Ok(())
        }
        Step::Commit { top, base, job } => {
            let mut start = vm.commit(active);
            if top != active {
                start = start.top(top);
            }
            run_job(&disk, start.base(base), job).await
        }
        Step::Stream { top, base, job } => {
            let mut start = vm.stream(top);
            if let Some(base) = base {
                start = start.base(base);
            }
            run_job(&disk, start, job).await
        }
        Step::Mirror {
            target,
            below,
            mode,
            granularity,
            job,
            ..
        } => {
            let (mut copy, mut start) = (node(target)?, vm.mirror(active).to(target));
            match below {
                Some(below) => {
                    (copy, start) = (copy.backing(below.as_str()), start.sync("top"));
                }
                None => copy = copy.no_backing(),
            }
            vm.add_node(copy).await?;
            let start = start.set("copy-mode", *mode);
            let start = start
                .set("granularity", *granularity)
                .set("buf-size", BUFFER);
            run_job(&disk, start, job).await?;
            if job.end == End::Cancel {
                vm.remove_node(target).await?;
            }
            Ok(())
        }
        Step::Backup { target, job, .. } => {
            vm.add_node(node(target)?).await?;
            let start = vm.backup(active).to(target);
            let start = start.set("x-perf", json!({"max-workers": 1}));
            run_job(&disk, start, job).await?;
            vm.remove_node(target).await?;
            Ok(())
        }
        Step::Bitmap { node, name, change } => {
            let bitmap = vm.bitmap(node, name);
            match change {
                Change::Add {
                    granularity,
                    persistent,
                    disabled,
                } => {
                    let mut add = bitmap.add().granularity(*granularity);
                    if *persistent {
                        add = add.persistent();
                    }
                    if *disabled {
                        add = add.disabled();
                    }
                    return add.await;
                }
                Change::Clear => bitmap.clear().await?,
                Change::Enable => bitmap.enable().await?,
                Change::Disable => bitmap.disable().await?,
                Change::Remove => bitmap.remove().await?,
                Change::Merge(sources) => bitmap.merge(sources.clone()).await?,
            };
            Ok(())
        }
        Step::Resize { size } => {
            let arguments = json!({"node-name": active, "size": size});
            vm.cmd("block_resize", arguments).await?;
            Ok(())
        }
        // It is the machine's end; see who calls.
        Step::Restart => Ok(()),
        Step::Refused(refusal) => {
            let command = vm.cmd(refusal.command, &refusal.arguments);
            command.refused(refusal.says).await
        }
    }
}

async fn run_job(disk: &Disk<'_>, start: JobBuilder, job: &Job) -> CaseResult {
    let mut start = start;
    if job.is_held() {
        start = start.speed(64 * KIB);
    }
    if job.is_cancelled_early() {
        start = start.set("auto-finalize", false);
    }
    let mut running = start.start().await?;
    for request in &job.held {
        io(disk, request).await?;
    }
    if job.is_cancelled_early() {
        running.force_cancel().await?;
        return Ok(());
    }
    if job.is_held() {
        // It may have ended.
        let _ = running.set_speed(0).await;
    }
    if job.waits_ready() {
        running.wait_ready().await?;
        for request in &job.ready {
            io(disk, request).await?;
        }
    }
    match (job.end, job.becomes_ready) {
        (End::Cancel, _) => running.force_cancel().await?,
        (End::Complete, true) => running.complete().await?,
        (End::Complete, false) => running.wait().await?,
    };
    Ok(())
}
