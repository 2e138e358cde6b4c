//! The steps on a machine of QEMU, as [`text`](super::text) says them.

use std::collections::BTreeMap;
use std::fs;

use imgtools::img::CheckVerdict;
use iotests_core::author::{JobBuilder, Outcome, TestFile};
use iotests_core::prelude::*;
use nbd::proto::CommandFlags;

use super::bytes::Bytes;
use super::model::{Layer, Model, Shape};
use super::play::{Qemu, Shown};
use super::step::{Action, BUFFER, Change, End, Fault, Io, IoKind, Part, Reopening, Step};

/// A machine, and the images of a program.
pub(super) struct Host<'t> {
    t: &'t Test,
    /// With the file of their data.
    images: BTreeMap<String, (Image, Option<TestFile>)>,
    vm: Option<Machine>,
    /// Some requests fail, which QEMU may print.
    has_faults: bool,
}

impl<'t> Host<'t> {
    /// Makes all images of a program.
    pub(super) async fn prepare(t: &'t Test, model: &Model, steps: &[Step]) -> CaseResult<Self> {
        let mut host = Host {
            t,
            images: BTreeMap::new(),
            vm: None,
            has_faults: steps.iter().any(Step::has_fault),
        };
        let mut below = None;
        for layer in &model.chain {
            host.make(&layer.name, &layer.shape, below).await?;
            below = Some(layer.name.as_str());
        }
        for (name, shape, below) in steps.iter().filter_map(Step::image) {
            host.make(name, shape, below).await?;
        }
        Ok(host)
    }

    async fn make(&mut self, name: &str, shape: &Shape, below: Option<&str>) -> CaseResult {
        let mut image = self.t.image(name).size(shape.size);
        for (option, value) in shape.options() {
            image = image.option(option, value);
        }
        if let Some(below) = below {
            image = image.backing(self.image(below)?);
        }
        let mut data = None;
        if shape.data_file.is_some() {
            let file = self.t.file(&format!("{name}.data"))?;
            image = image.option("data_file", file.as_str());
            data = Some(file);
        }
        if !shape.compressed {
            for (byte, range) in &shape.data {
                image = image.write(*byte, range.clone());
            }
        }
        let image = image.create().await?;
        if shape.compressed && !shape.data.is_empty() {
            image.io(shape.compressed_data()).await?;
        }
        self.images.insert(name.to_owned(), (image, data));
        Ok(())
    }

    fn image(&self, name: &str) -> CaseResult<&Image> {
        let made = self.images.get(name).map(|(image, _)| image);
        made.ok_or_else(|| Failure::new("no image of this name was made").context(name))
    }

    fn vm(&self) -> CaseResult<&Machine> {
        let vm = self.vm.as_ref();
        vm.ok_or_else(|| Failure::new("there is no machine"))
    }

    /// The node of an image, with nothing said of what is below it.
    fn node(&self, name: &str, model: &Model) -> CaseResult<Node> {
        let node = self.image(name)?.node().without("backing");
        let named = node.set("file.node-name", format!("{name}-file"));
        let node = model.node_options().into_iter();
        let node = node.fold(named, |node, (option, value)| node.set(option, value));
        Ok(match self.images.get(name) {
            Some((_, Some(data))) => {
                node.set("data-file.driver", "file").set("data-file.filename", data)
            }
            _ => node,
        })
    }

    /// Reopens a node, with all that says what it stands on.
    async fn reopen(
        &self,
        model: &Model,
        name: &str,
        change: impl FnOnce(Node) -> Node,
    ) -> CaseResult {
        let at = model.position(name);
        let with_chain = |node: Node| {
            let Some(at) = at else { return node };
            let node = match at.checked_sub(1) {
                Some(below) => node.backing(model.chain[below].name.as_str()),
                None => node.no_backing(),
            };
            node.read_only(at < model.chain.len() - 1)
        };
        let vm = self.vm()?;
        vm.reopen(name, |node| change(with_chain(node))).await?;
        Ok(())
    }

    async fn begin(&self, model: &Model, fault: &Fault) -> CaseResult {
        let error = json!([{"event": fault.event, "once": true}]);
        let (name, file) = (fault.name(), format!("{}-file", fault.node));
        let node = Node::new("blkdebug").node_name(&name).set("image", file);
        let node = node.set("inject-error", error);
        self.vm()?.add_node(node).await?;
        let name = name.as_str();
        let reopened = self.reopen(model, &fault.node, |node| node.file(name));
        reopened.await
    }

    /// The model is that of after the step.
    async fn end(&self, model: &Model, fault: &Fault) -> CaseResult {
        if model.position(&fault.node).is_none() {
            // The node goes, or has gone, and what is left of the fault harms nobody.
            return Ok(());
        }
        let file = format!("{}-file", fault.node);
        let back = async || {
            let file = file.as_str();
            self.reopen(model, &fault.node, |node| node.file(file)).await
        };
        // What is flushed may meet the error.
        if back().await.is_err() {
            back().await?;
        }
        self.vm()?.remove_node(fault.name().as_str()).await?;
        Ok(())
    }

    /// `start` gives the job, once for each attempt.
    async fn job(&self, model: &Model, step: &Step, start: impl Fn() -> JobBuilder) -> CaseResult {
        let Some(job) = step.job() else {
            return Ok(());
        };
        let Some(fault) = &job.fault else {
            return self.plain_job(model, step, start()).await;
        };
        self.begin(model, fault).await?;
        // The error comes once.
        for is_last in [false, true] {
            let mut builder = start().set("auto-dismiss", false);
            for name in step.policies() {
                builder = builder.set(name, fault.policy);
            }
            match self.goes_through(builder).await? {
                Outcome::Completed => break,
                other => check!(!is_last, "without an error it was {other:?}"),
            }
        }
        self.end(&model.after(step), fault).await
    }

    /// A job that an error may have stopped goes on; returns how it ends.
    async fn goes_through(&self, start: JobBuilder) -> CaseResult<Outcome> {
        let vm = self.vm()?;
        let running = start.start().await?;
        let rests = |job: &Value| {
            let rests = ["paused", "standby", "ready", "concluded"];
            rests.iter().any(|status| job["status"] == *status)
        };
        loop {
            let seen = running.until("to rest", rests).await?;
            // It may be on its way to another state already.
            let verb = match seen["status"].as_str() {
                Some("concluded") => break,
                Some("ready") => "job-complete",
                _ => "job-resume",
            };
            let command = vm.cmd(verb, json!({"id": running.id()}));
            let _ = command.outcome().await?;
        }
        Ok(running.dismiss().outcome().await?.outcome)
    }

    async fn plain_job(&self, model: &Model, step: &Step, start: JobBuilder) -> CaseResult {
        let Some(job) = step.job() else {
            return Ok(());
        };
        let disk = self.vm()?.disk(&model.disk_name);
        let mut start = start;
        if job.is_held() {
            start = start.speed(64 * KIB);
        }
        if job.is_cancelled_early() {
            start = start.set("auto-finalize", false);
        }
        let mut running = start.start().await?;
        for request in &job.held {
            io(&disk, request).await?;
        }
        if !job.held.is_empty()
            && let Some(reads) = model.during(step)
        {
            disk.io_all(reads.commands()).await?;
        }
        if job.is_held() && step.leaves_layers_alone() {
            for layer in model.below() {
                if let Some(reads) = &layer.reads {
                    self.assert_reads(&layer.name, reads).await?;
                }
            }
        }
        if let Some(step) = &job.beside {
            Box::pin(self.act(model, step)).await?;
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
                io(&disk, request).await?;
            }
        }
        match (job.end, job.becomes_ready) {
            (End::Cancel, _) => running.force_cancel().await?,
            (End::Complete, true) if matches!(step, Step::Mirror { .. }) => {
                let ended = running.complete().outcome().await?;
                let data = &ended.event["data"];
                let [offset, len] = ["offset", "len"].map(|name| data[name].as_u64());
                // One with a small buffer may count too little (docs/qemu-findings.md).
                check!(ended.outcome == Outcome::Completed);
                check!(offset >= len, "{}", ended.event);
                ended
            }
            (End::Complete, true) => running.complete().await?,
            (End::Complete, false) => running.wait().await?,
        };
        Ok(())
    }

    /// Does a step, also beside another one. The model is that of before.
    async fn act(&self, model: &Model, step: &Step) -> CaseResult {
        let vm = self.vm()?;
        let active = model.active().name.as_str();
        let disk = vm.disk(&model.disk_name);
        match step {
            Step::Io(request) => io(&disk, request).await,
            Step::Together(ios) => together(vm, active, ios).await,
            Step::Broken(request, fault) => {
                self.begin(model, fault).await?;
                let _ = io(&disk, request).await;
                self.end(model, fault).await?;
                io(&disk, request).await
            }
            Step::Snapshot { node, overlay, .. } => {
                vm.add_node(self.node(overlay, model)?.no_backing()).await?;
                vm.snapshot(node, overlay).await?;
                Ok(())
            }
            Step::Commit { top, base, .. } => {
                let start = || {
                    let start = vm.commit(active).base(base);
                    match top == active {
                        true => start,
                        false => start.top(top),
                    }
                };
                self.job(model, step, start).await
            }
            Step::Stream { top, base, .. } => {
                let start = || match base {
                    Some(base) => vm.stream(top).base(base),
                    None => vm.stream(top),
                };
                self.job(model, step, start).await
            }
            Step::Mirror { .. } => self.mirror(model, step).await,
            Step::Backup { .. } => self.backup(model, step).await,
            Step::Bitmap {
                node,
                name,
                change: what,
            } => change(vm, node, name, what).await,
            Step::Transaction { node, actions } => self.transaction(model, node, actions).await,
            Step::Resize { size } => {
                let arguments = json!({"node-name": active, "size": size});
                vm.cmd("block_resize", arguments).await?;
                Ok(())
            }
            Step::Reopen { node, how, ios } => self.reopening(model, node, how, ios).await,
            Step::Frozen(ios) => self.frozen(model, ios).await,
            // It is the machine's end; see who calls.
            Step::Restart { .. } => Ok(()),
            Step::Refused(refusal) => {
                let command = vm.cmd(refusal.command, &refusal.arguments);
                command.refused(refusal.says).await
            }
        }
    }

    async fn transaction(&self, model: &Model, node: &str, actions: &[Action]) -> CaseResult {
        let vm = self.vm()?;
        let commands = actions.iter().map(|action| {
            let (kind, data) = action.command(node);
            json!({"type": kind, "data": data})
        });
        let arguments = json!({"actions": commands.collect::<Vec<_>>()});
        let overlays = actions.iter().filter_map(|action| match action {
            Action::Snapshot { overlay, .. } => Some(overlay),
            _ => None,
        });
        for overlay in overlays.clone() {
            vm.add_node(self.node(overlay, model)?.no_backing()).await?;
        }
        let refused = actions.iter().find_map(|action| match action {
            Action::Refused { says, .. } => Some(*says),
            _ => None,
        });
        let command = vm.cmd("transaction", arguments);
        let Some(says) = refused else {
            command.await?;
            return Ok(());
        };
        command.refused(says).await?;
        for overlay in overlays {
            vm.remove_node(overlay).await?;
        }
        Ok(())
    }

    async fn reopening(
        &self,
        model: &Model,
        node: &str,
        how: &Reopening,
        ios: &[Io],
    ) -> CaseResult {
        let vm = self.vm()?;
        let file = format!("{node}-file");
        let at = model.position(node).and_then(|at| at.checked_sub(1));
        let filtered = match how {
            Reopening::Filter => at.map(|at| model.chain[at].name.as_str()),
            Reopening::FileFilter => Some(file.as_str()),
            _ => None,
        };
        if let Some(image) = filtered {
            let filter = Node::new("blkdebug").node_name("filter");
            vm.add_node(filter.set("image", image)).await?;
        }
        let there = self.reopen(model, node, |node| match how {
            Reopening::Filter => node.backing("filter"),
            Reopening::FileFilter => node.file("filter"),
            Reopening::Option(name, value) => node.set(name, value),
            Reopening::Writable => node.read_only(false),
        });
        there.await?;
        let disk = vm.disk(&model.disk_name);
        for request in ios {
            io(&disk, request).await?;
        }
        let back = self.reopen(model, node, |node| match how {
            Reopening::FileFilter => node.file(file.as_str()),
            Reopening::Option(name, _) => node.without(name),
            _ => node,
        });
        back.await?;
        if filtered.is_some() {
            vm.remove_node("filter").await?;
        }
        Ok(())
    }

    async fn frozen(&self, model: &Model, ios: &[Io]) -> CaseResult {
        let vm = self.vm()?;
        let disk = vm.disk(&model.disk_name);
        if !self.t.has(since(8, 0))? {
            // It shows what is written meanwhile (docs/qemu-findings.md). The filter would drop discards.
            for request in ios.iter().filter(|io| io.kind != IoKind::Discard) {
                io(&disk, request).await?;
            }
            return Ok(());
        }
        let frozen = vm.freeze(&model.disk_name).await?;
        for request in ios {
            io(&disk, request).await?;
        }
        if let Some(reads) = &model.active().reads {
            let node = vm.node(frozen.node());
            node.assert_reads(Content::from(reads.runs())).await?;
        }
        frozen.thaw().await
    }

    async fn mirror(&self, model: &Model, step: &Step) -> CaseResult {
        let Step::Mirror {
            target,
            below,
            mode,
            granularity,
            job,
            ..
        } = step
        else {
            return Ok(());
        };
        let vm = self.vm()?;
        let copy = self.node(target, model)?;
        let copy = match below {
            Some(below) => copy.backing(below.as_str()),
            None => copy.no_backing(),
        };
        vm.add_node(copy).await?;
        let active = &model.active().name;
        let start = || {
            let mut start = vm.mirror(active).to(target);
            if below.is_some() {
                start = start.sync("top");
            }
            let start = start.set("copy-mode", *mode);
            start.set("granularity", *granularity).set("buf-size", BUFFER)
        };
        self.job(model, step, start).await?;
        if job.end == End::Cancel {
            vm.remove_node(target).await?;
        }
        Ok(())
    }

    async fn backup(&self, model: &Model, step: &Step) -> CaseResult {
        let Step::Backup {
            target,
            what,
            compressed,
            ..
        } = step
        else {
            return Ok(());
        };
        let vm = self.vm()?;
        vm.add_node(self.node(target, model)?).await?;
        let active = &model.active().name;
        let start = || {
            let mut start = vm.backup(active).to(target);
            start = start.set("x-perf", json!({"max-workers": 1}));
            if let Part::Dirty { bitmap, mode } = what {
                start = start.sync("bitmap").set("bitmap", bitmap.as_str());
                start = start.set("bitmap-mode", *mode);
            }
            if *compressed {
                start = start.set("compress", true);
            }
            start
        };
        self.job(model, step, start).await?;
        vm.remove_node(target).await?;
        Ok(())
    }
}

impl Bytes {
    /// The commands of qemu-io that read all of it.
    fn commands(&self) -> Vec<String> {
        let runs = self.runs().iter().filter(|(_, range)| !range.is_empty());
        let read = |(byte, range): &(u8, std::ops::Range<u64>)| {
            let length = range.end - range.start;
            format!("read -P {byte:#04x} {} {length}", range.start)
        };
        runs.map(read).collect()
    }
}

async fn io(disk: &Disk<'_>, io: &Io) -> CaseResult {
    let range = io.range.clone();
    match io.kind {
        IoKind::Write(byte) => disk.write(byte, range).await,
        IoKind::Zero => disk.zero(range).await,
        IoKind::Unmap => disk.io(&io.unmap()).await.map(drop),
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
            let flags = CommandFlags::NO_HOLE;
            client.write_zeroes(start, length, flags).await?;
        }
        IoKind::Unmap => {
            let flags = CommandFlags::empty();
            client.write_zeroes(start, length, flags).await?;
        }
        IoKind::Discard => client.trim(start, length).await?,
        IoKind::Flush => client.flush().await?,
    }
    Ok(())
}

async fn together(vm: &Machine, active: &str, ios: &[Io]) -> CaseResult {
    let export = vm.export(active).name("second").writable().await?;
    let client = export.client().await?;
    if let [a, b] = ios {
        let (a, b) = tokio::join!(send(&client, a), send(&client, b));
        a.and(b)?;
    }
    drop(client);
    export.remove().await
}

async fn change(vm: &Machine, node: &str, name: &str, change: &Change) -> CaseResult {
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
        Change::MergeFrom { node, bitmap: from } => {
            let source = json!({"node": node, "name": from});
            bitmap.merge([source]).await?
        }
    };
    Ok(())
}

impl Qemu for Host<'_> {
    async fn launch(&mut self, model: &Model) -> CaseResult {
        let mut chain: Option<Node> = None;
        for layer in &model.chain {
            let node = self.node(&layer.name, model)?;
            chain = Some(match chain {
                None => node.no_backing(),
                Some(below) => node.backing(below),
            });
        }
        let chain = chain.ok_or_else(|| Failure::new("a chain has an image"))?;
        let mut disk = Disk::of(chain).property("share-rw", true);
        let mut host = self.t.host();
        if model.iothread {
            host = host.iothread("thread");
            disk = disk.iothread("thread");
        }
        if self.has_faults {
            host = host.tolerate("Failed flush for ");
        }
        self.vm = Some(host.disk(disk).launch().await?);
        Ok(())
    }

    async fn shutdown(&mut self) -> CaseResult {
        if let Some(vm) = self.vm.take() {
            vm.shutdown().await?;
        }
        Ok(())
    }

    async fn run(&mut self, model: &Model, step: &Step) -> CaseResult {
        self.act(model, step).await
    }

    async fn remove_node(&mut self, name: &str) -> CaseResult {
        self.vm()?.remove_node(name).await?;
        Ok(())
    }

    async fn keep_inside(&mut self, image: &str, snapshot: &str) -> CaseResult {
        self.image(image)?.snapshot(snapshot).await?;
        Ok(())
    }

    async fn assert_chain(&self, chain: &str) -> CaseResult {
        self.vm()?.assert_chain(chain).await
    }

    async fn assert_no_jobs(&self) -> CaseResult {
        self.vm()?.assert_no_jobs().await
    }

    async fn assert_read_only(&self, nodes: &[(&str, bool)]) -> CaseResult {
        // Before, a commit of the active layer that was cancelled left its base writable.
        if self.t.has(since(9, 1))? {
            self.vm()?.assert_read_only(nodes).await?;
        }
        Ok(())
    }

    async fn size(&self, node: &str) -> CaseResult<u64> {
        self.vm()?.node(node).size().await
    }

    async fn assert_reads(&self, node: &str, bytes: &Bytes) -> CaseResult {
        let node = self.vm()?.node(node);
        node.assert_reads(Content::from(bytes.runs())).await
    }

    async fn bitmaps(&self, node: &str) -> CaseResult<BTreeMap<String, Shown>> {
        let vm = self.vm()?;
        let mut all = BTreeMap::new();
        for bitmap in vm.bitmaps(node).await? {
            let shown = Shown {
                count: bitmap.count,
                granularity: bitmap.granularity,
                recording: bitmap.recording,
                persistent: bitmap.persistent,
                sha256: vm.bitmap(node, &bitmap.name).sha256().await?,
            };
            all.insert(bitmap.name, shown);
        }
        Ok(all)
    }

    async fn assert_file(&self, layer: &Layer) -> CaseResult {
        let image = self.image(&layer.name)?;
        let found = image.check().await?;
        let is_right = match found.verdict {
            CheckVerdict::Leaks => layer.leaks,
            verdict => verdict == CheckVerdict::Clean,
        };
        check!(is_right, "{image}: {found}");
        let Some(reads) = &layer.reads else {
            return Ok(());
        };
        image.assert_reads(Content::from(reads.runs())).await?;
        let data = self.images.get(&layer.name).and_then(|(_, data)| data.as_ref());
        if let (Some(true), Some(data)) = (layer.shape.data_file, data) {
            let bytes = fs::read(data)?;
            for (byte, range) in reads.runs() {
                let range = usize::try_from(range.start)?..usize::try_from(range.end)?;
                let part = bytes.get(range.clone()).unwrap_or_default();
                let is_right = part.len() == range.len() && part.iter().all(|other| other == byte);
                check!(is_right, "{data} differs from {image} in {range:x?}");
            }
        }
        Ok(())
    }

    async fn assert_inside(&self, layer: &Layer) -> CaseResult {
        let image = self.image(&layer.name)?;
        for (snapshot, reads) in &layer.inside {
            if let Some(reads) = reads.as_ref().filter(|_| layer.can_go_back()) {
                image.go_back_to(snapshot).await?;
                image.assert_reads(Content::from(reads.runs())).await?;
            }
        }
        Ok(())
    }
}
