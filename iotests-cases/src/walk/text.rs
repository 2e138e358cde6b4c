//! Programs as cases to paste.

use std::fmt::Write;
use std::ops::Range;

use iotests_core::case::Backend;
use iotests_core::prelude::*;

use super::bytes::Bytes;
use super::model::{Layer, Model, Shape};
use super::program::Program;
use super::step::{
    Action, BUFFER, Change, End, Fault, Io, IoKind, Job, Part, Refusal, Reopening, Step,
};

/// A program as a case: `use iotests_core::prelude::*;`, and `nbd` where there is a second client.
pub(super) fn text(program: &Program, backend: Option<Backend>) -> String {
    let mut model = program.model(backend);
    let steps = program.steps(backend);
    let mut lines = Vec::new();
    let mut below = None;
    for layer in &model.chain {
        lines.extend(image(&layer.name, &layer.shape, below));
        below = Some(layer.name.as_str());
    }
    for (name, shape, below) in steps.iter().filter_map(Step::image) {
        lines.extend(image(name, shape, below));
    }
    lines.extend(launch(&model));
    for step in &steps {
        lines.extend(step.text(&model));
        let left = model.apply(step);
        if let Step::Restart { inside } = step {
            let active = &model.active().name;
            let snapshot =
                inside.iter().map(|name| format!("{active}.snapshot(\"{name}\").await?;"));
            lines.extend(snapshot);
            lines.extend(launch(&model));
        }
        let left = left.iter();
        lines.extend(left.map(|node| format!("vm.remove_node(\"{node}\").await?;")));
    }
    let chain = model.chain_text();
    lines.push(format!("vm.assert_chain(\"{chain}\").await?;"));
    for layer in &model.chain {
        lines.extend(reads(&format!("vm.node(\"{}\")", layer.name), layer));
        lines.extend(layer.bitmaps_text());
    }
    lines.push("vm.shutdown().await?;".to_owned());
    for layer in model.chain.iter().chain(&model.copies) {
        if !layer.leaks {
            lines.push(format!("{}.assert_clean().await?;", layer.name));
        }
        lines.extend(reads(&layer.name, layer));
    }
    for layer in &model.chain {
        for (name, kept) in &layer.inside {
            for kept in kept.iter().filter(|_| layer.can_go_back()) {
                lines.push(format!("{}.go_back_to(\"{name}\").await?;", layer.name));
                lines.push(assert_reads(&layer.name, kept));
            }
        }
    }
    let body: String = lines.iter().map(|line| format!("    {line}\n")).collect();
    format!(
        "/// Found by the random walk.\n#[case(formats = [QCOW2], host = Any)]\nasync fn found(t: &mut Test) -> CaseResult {{\n{body}    Ok(())\n}}\n"
    )
}

/// A number of bytes.
fn number(bytes: u64) -> String {
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
        let bytes = range(&self.range);
        match self.kind {
            IoKind::Write(byte) => format!("disk.write({byte:#04x}, {bytes}).await?;"),
            IoKind::Zero => format!("disk.zero({bytes}).await?;"),
            IoKind::Unmap => format!("disk.io(\"{}\").await?;", self.unmap()),
            IoKind::Discard => format!("disk.discard({bytes}).await?;"),
            IoKind::Flush => "disk.flush().await?;".to_owned(),
        }
    }

    /// The command of qemu-io for zeroes whose clusters may go.
    pub(super) fn unmap(&self) -> String {
        let length = self.range.end - self.range.start;
        format!("write -z -u {} {length}", self.range.start)
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
                format!("client.write_zeroes({start}, {length}, nbd::CommandFlags::NO_HOLE)")
            }
            IoKind::Unmap => {
                format!("client.write_zeroes({start}, {length}, nbd::CommandFlags::empty())")
            }
            IoKind::Discard => format!("client.trim({start}, {length})"),
            IoKind::Flush => "client.flush()".to_owned(),
        }
    }
}

/// How an image is made.
fn image(name: &str, shape: &Shape, backing: Option<&str>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut text = format!(
        "let {name} = t.image(\"{name}\").size({})",
        number(shape.size)
    );
    if let Some(backing) = backing {
        let _ = write!(text, ".backing(&{backing})");
    }
    if shape.data_file.is_some() {
        lines.push(format!("let {name}_data = t.file(\"{name}.data\")?;"));
        let _ = write!(text, ".option(\"data_file\", {name}_data.as_str())");
    }
    for (option, value) in shape.options() {
        let _ = write!(text, ".option(\"{option}\", \"{value}\")");
    }
    if !shape.compressed {
        for (byte, bytes) in &shape.data {
            let _ = write!(text, ".write({byte:#04x}, {})", range(bytes));
        }
    }
    lines.push(text + ".create().await?;");
    if shape.compressed && !shape.data.is_empty() {
        lines.push(format!("{name}.io({:?}).await?;", shape.compressed_data()));
    }
    lines
}

impl Shape {
    /// Its options for `qemu-img create`, but the name of a data file.
    pub(super) fn options(&self) -> Vec<(&'static str, String)> {
        let mut options = vec![("cluster_size", self.cluster.to_string())];
        let flags = [
            (self.subclusters, "extended_l2", "on"),
            (self.data_file == Some(true), "data_file_raw", "on"),
            (self.preallocated, "preallocation", "metadata"),
        ];
        let flags = flags.into_iter().filter(|(is_so, ..)| *is_so);
        options.extend(flags.map(|(_, name, value)| (name, value.to_owned())));
        options
    }

    /// The commands of qemu-io that write the first data of an image that has them compressed: each cluster once.
    pub(super) fn compressed_data(&self) -> Vec<String> {
        let mut done: Vec<Range<u64>> = Vec::new();
        let mut commands = Vec::new();
        for (byte, bytes) in &self.data {
            let is_whole = bytes.start.is_multiple_of(self.cluster)
                && (bytes.end.is_multiple_of(self.cluster) || bytes.end == self.size);
            let is_new =
                done.iter().all(|other| other.end <= bytes.start || bytes.end <= other.start);
            let how = match (byte, is_whole && is_new) {
                (0, _) => "write -z".to_owned(),
                (_, true) => format!("write -c -P {byte:#04x}"),
                (_, false) => format!("write -P {byte:#04x}"),
            };
            let cluster = self.cluster;
            done.push(bytes.start / cluster * cluster..bytes.end.next_multiple_of(cluster));
            let length = bytes.end - bytes.start;
            commands.push(format!("{how} {} {length}", bytes.start));
        }
        commands
    }
}

/// The node of an image.
fn node(name: &str, shape: &Shape, model: &Model) -> String {
    let mut text = format!("{name}.node().set(\"file.node-name\", \"{name}-file\")");
    for (option, value) in model.node_options() {
        let _ = write!(text, ".set(\"{option}\", json!({value}))");
    }
    if shape.data_file.is_some() {
        let _ = write!(
            text,
            ".set(\"data-file.driver\", \"file\").set(\"data-file.filename\", {name}_data.as_str())"
        );
    }
    text
}

fn launch(model: &Model) -> [String; 2] {
    let mut chain = String::new();
    for (number, layer) in model.chain.iter().enumerate() {
        let own = node(&layer.name, &layer.shape, model);
        chain = match number {
            0 => own,
            _ => format!("{own}.backing({chain})"),
        };
    }
    let (mut host, mut disk) = ("t.host()".to_owned(), format!("Disk::of({chain})"));
    disk += ".property(\"share-rw\", true)";
    if model.iothread {
        host += ".iothread(\"thread\")";
        disk += ".iothread(\"thread\")";
    }
    [
        format!("let vm = {host}.disk({disk}).launch().await?;"),
        format!("let disk = vm.disk(\"{}\");", model.disk_name),
    ]
}

impl Fault {
    /// How the file of its node gets it.
    fn begin(&self, model: &Model) -> Vec<String> {
        let (node, name) = (&self.node, self.name());
        vec![
            format!(
                "let fault = Node::new(\"blkdebug\").node_name(\"{name}\").set(\"image\", \"{node}-file\");"
            ),
            format!(
                "let fault = fault.set(\"inject-error\", json!([{{\"event\": \"{}\", \"once\": true}}]));",
                self.event
            ),
            "vm.add_node(fault).await?;".to_owned(),
            reopen(model, node, &format!(".file(\"{name}\")")),
        ]
    }

    /// The model is that of after the step.
    fn end(&self, model: &Model) -> Vec<String> {
        if model.position(&self.node).is_none() {
            return Vec::new();
        }
        let file = format!(".file(\"{}-file\")", self.node);
        let back = reopen(model, &self.node, &file);
        vec![
            "// What is flushed may meet the error.".to_owned(),
            format!("if {}.is_err() {{", back.replace("?;", "")),
            format!("    {back}"),
            "}".to_owned(),
            format!("vm.remove_node(\"{}\").await?;", self.name()),
        ]
    }
}

/// The reopening of a node, with all that says what it stands on.
fn reopen(model: &Model, node: &str, change: &str) -> String {
    let mut options = String::new();
    if let Some(at) = model.position(node) {
        options += &match at.checked_sub(1) {
            Some(below) => format!(".backing(\"{}\")", model.chain[below].name),
            None => ".no_backing()".to_owned(),
        };
        let _ = write!(options, ".read_only({})", at < model.chain.len() - 1);
    }
    format!("vm.reopen(\"{node}\", |node| node{options}{change}).await?;")
}

/// A job from its start to its end.
fn job(step: &Step, start: &str, job: &Job, model: &Model) -> Vec<String> {
    let mut first = format!("job = {start}");
    if job.is_held() {
        first += ".speed(64 * KIB)";
    }
    if job.is_cancelled_early() {
        first += ".set(\"auto-finalize\", false)";
    }
    let Some(fault) = &job.fault else {
        let is_mut = if job.waits_ready() { "mut " } else { "" };
        let mut lines = vec![format!("let {is_mut}{first}.start().await?;")];
        lines.extend(job.rest(step, model));
        return lines;
    };
    for name in step.policies() {
        let _ = write!(first, ".set(\"{name}\", \"{}\")", fault.policy);
    }
    let mut lines = fault.begin(model);
    let body = [
        "for is_last in [false, true] {",
        &format!("    let {first}.set(\"auto-dismiss\", false).start().await?;"),
        "    loop {",
        "        let rests = |job: &Value| [\"paused\", \"standby\", \"ready\", \"concluded\"].iter().any(|status| job[\"status\"] == *status);",
        "        match job.until(\"to rest\", rests).await?[\"status\"].as_str() {",
        "            Some(\"concluded\") => break,",
        "            Some(\"ready\") => vm.cmd(\"job-complete\", json!({\"id\": job.id()})).outcome().await?.ok(),",
        "            _ => vm.cmd(\"job-resume\", json!({\"id\": job.id()})).outcome().await?.ok(),",
        "        };",
        "    }",
        "    match job.dismiss().outcome().await?.outcome {",
        "        Outcome::Completed => break,",
        "        other => check!(!is_last, \"without an error it was {other:?}\"),",
        "    }",
        "}",
    ];
    lines.extend(body.map(str::to_owned));
    lines.extend(fault.end(&model.after(step)));
    lines
}

impl Job {
    /// What follows its start.
    fn rest(&self, step: &Step, model: &Model) -> Vec<String> {
        let mut lines: Vec<String> = self.held.iter().map(Io::text).collect();
        if !self.held.is_empty() {
            for (byte, bytes) in model.during(step).iter().flat_map(Bytes::runs) {
                lines.push(format!(
                    "disk.assert_pattern({byte:#04x}, {}).await?;",
                    range(bytes)
                ));
            }
        }
        if self.is_held() && step.leaves_layers_alone() {
            let below = model.below();
            lines.extend(
                below.filter_map(|layer| reads(&format!("vm.node(\"{}\")", layer.name), layer)),
            );
        }
        lines.extend(self.beside.iter().flat_map(|step| match &**step {
            Step::Stream { top, base, .. } => {
                vec![format!(
                    "{}.start().await?.wait().await?;",
                    stream(top, base.as_ref())
                )]
            }
            other => other.text(model),
        }));
        if self.is_cancelled_early() {
            lines.push("job.force_cancel().await?;".to_owned());
            return lines;
        }
        if self.is_held() {
            lines.push("let _ = job.set_speed(0).await; // It may have ended.".to_owned());
        }
        if self.waits_ready() {
            lines.push("job.wait_ready().await?;".to_owned());
            lines.extend(self.ready.iter().map(Io::text));
        }
        let last = match (self.end, self.becomes_ready) {
            (End::Cancel, _) => "job.force_cancel().await?;",
            (End::Complete, true) if matches!(step, Step::Mirror { .. }) => {
                "check!(job.complete().outcome().await?.outcome == Outcome::Completed);"
            }
            (End::Complete, true) => "job.complete().await?;",
            (End::Complete, false) => "job.wait().await?;",
        };
        lines.push(last.to_owned());
        lines
    }
}

impl Step {
    /// Line by line; the model is that of before.
    fn text(&self, model: &Model) -> Vec<String> {
        let active = &model.active().name;
        match self {
            Step::Io(io) => vec![io.text()],
            Step::Together(ios) => together(active, ios),
            Step::Broken(io, fault) => {
                let mut lines = fault.begin(model);
                lines.push(io.text().replace(".await?;", ".await.ok();"));
                lines.extend(fault.end(model));
                lines.push(io.text());
                lines
            }
            Step::Snapshot {
                node: below,
                overlay,
                shape,
            } => vec![
                format!(
                    "vm.add_node({}.no_backing()).await?;",
                    node(overlay, shape, model)
                ),
                format!("vm.snapshot(\"{below}\", \"{overlay}\").await?;"),
            ],
            Step::Commit { top, base, job: j } => {
                let start = match top == active {
                    true => format!("vm.commit(\"{active}\").base(\"{base}\")"),
                    false => format!("vm.commit(\"{active}\").top(\"{top}\").base(\"{base}\")"),
                };
                job(self, &start, j, model)
            }
            Step::Stream { top, base, job: j } => job(self, &stream(top, base.as_ref()), j, model),
            Step::Mirror {
                target,
                shape,
                below,
                mode,
                granularity,
                job: j,
            } => {
                let mut start = format!("vm.mirror(\"{active}\").to(\"{target}\")");
                let mut copy = node(target, shape, model);
                match below {
                    Some(below) => {
                        let _ = write!(copy, ".backing(\"{below}\")");
                        start += ".sync(\"top\")";
                    }
                    None => copy += ".no_backing()",
                }
                let _ = write!(
                    start,
                    ".set(\"copy-mode\", \"{mode}\").set(\"granularity\", {granularity}).set(\"buf-size\", {BUFFER})"
                );
                let mut lines = vec![format!("vm.add_node({copy}).await?;")];
                lines.extend(job(self, &start, j, model));
                if j.end == End::Cancel {
                    lines.push(format!("vm.remove_node(\"{target}\").await?;"));
                }
                lines
            }
            Step::Backup {
                target,
                shape,
                what,
                compressed,
                job: j,
            } => {
                let mut lines = vec![format!(
                    "vm.add_node({}).await?;",
                    node(target, shape, model)
                )];
                let mut start = format!(
                    "vm.backup(\"{active}\").to(\"{target}\").set(\"x-perf\", json!({{\"max-workers\": 1}}))"
                );
                if let Part::Dirty { bitmap, mode } = what {
                    let _ = write!(
                        start,
                        ".sync(\"bitmap\").set(\"bitmap\", \"{bitmap}\").set(\"bitmap-mode\", \"{mode}\")"
                    );
                }
                if *compressed {
                    start += ".set(\"compress\", true)";
                }
                lines.extend(job(self, &start, j, model));
                lines.push(format!("vm.remove_node(\"{target}\").await?;"));
                lines
            }
            Step::Bitmap { node, name, change } => vec![format!(
                "vm.bitmap(\"{node}\", \"{name}\"){}.await?;",
                change.text()
            )],
            Step::Transaction { node: on, actions } => transaction(on, actions, model),
            Step::Resize { size } => vec![format!(
                "vm.cmd(\"block_resize\", json!({{\"node-name\": \"{active}\", \"size\": {size}}})).await?;"
            )],
            Step::Reopen { node, how, ios } => reopening(node, how, ios, model),
            Step::Frozen(ios) => {
                let mut lines = vec![format!(
                    "let frozen = vm.freeze(\"{}\").await?;",
                    model.disk_name
                )];
                lines.extend(ios.iter().map(Io::text));
                lines.extend(reads("vm.node(frozen.node())", model.active()));
                lines.push("frozen.thaw().await?;".to_owned());
                lines
            }
            Step::Restart { .. } => vec!["vm.shutdown().await?;".to_owned()],
            Step::Refused(refusal) => vec![refusal.text()],
        }
    }
}

fn stream(top: &str, base: Option<&String>) -> String {
    let mut start = format!("vm.stream(\"{top}\")");
    if let Some(base) = base {
        let _ = write!(start, ".base(\"{base}\")");
    }
    start
}

impl Refusal {
    fn text(&self) -> String {
        format!(
            "vm.cmd(\"{}\", json!({})).refused(\"{}\").await?;",
            self.command, self.arguments, self.says
        )
    }
}

fn together(active: &str, ios: &[Io]) -> Vec<String> {
    let mut lines = vec![
        format!("let export = vm.export(\"{active}\").name(\"second\").writable().await?;"),
        "let client = export.client().await?;".to_owned(),
        "let (a, b) = tokio::join!(".to_owned(),
    ];
    lines.extend(ios.iter().map(|io| format!("    {},", io.client_text())));
    let rest = [
        ");",
        "a.and(b)?;",
        "drop(client);",
        "export.remove().await?;",
    ];
    lines.extend(rest.map(str::to_owned));
    lines
}

fn transaction(on: &str, actions: &[Action], model: &Model) -> Vec<String> {
    let (mut before, mut after, mut end) = (Vec::new(), Vec::new(), String::new());
    let mut all = Vec::new();
    for action in actions {
        if let Action::Snapshot { overlay, shape } = action {
            let overlay = format!("{}.no_backing()", node(overlay, shape, model));
            before.push(format!("vm.add_node({overlay}).await?;"));
        }
        if let Action::Refused { says, .. } = action {
            end = format!(".refused(\"{says}\")");
        }
        let (kind, data) = action.command(on);
        all.push(json!({"type": kind, "data": data}));
    }
    let is_refused = actions.iter().any(Action::is_refused);
    for action in actions.iter().filter(|_| is_refused) {
        if let Action::Snapshot { overlay, .. } = action {
            after.push(format!("vm.remove_node(\"{overlay}\").await?;"));
        }
    }
    let arguments = json!({"actions": all});
    before.push(format!(
        "vm.cmd(\"transaction\", json!({arguments})){end}.await?;"
    ));
    before.extend(after);
    before
}

fn reopening(node: &str, how: &Reopening, ios: &[Io], model: &Model) -> Vec<String> {
    let (filter, file) = match how {
        Reopening::Filter => {
            let at = model.position(node).and_then(|at| at.checked_sub(1));
            let below = at.map(|at| model.chain[at].name.as_str());
            (below.map(str::to_owned), ".backing(\"filter\")".to_owned())
        }
        Reopening::FileFilter => (Some(format!("{node}-file")), ".file(\"filter\")".to_owned()),
        Reopening::Option(name, value) => (None, format!(".set(\"{name}\", json!({value}))")),
        Reopening::Writable => (None, ".read_only(false)".to_owned()),
    };
    let mut lines = Vec::new();
    if let Some(below) = &filter {
        lines.push(format!(
            "vm.add_node(Node::new(\"blkdebug\").node_name(\"filter\").set(\"image\", \"{below}\")).await?;"
        ));
    }
    lines.push(reopen(model, node, &file));
    lines.extend(ios.iter().map(Io::text));
    let back = match how {
        Reopening::FileFilter => format!(".file(\"{node}-file\")"),
        Reopening::Option(name, _) => format!(".without(\"{name}\")"),
        _ => String::new(),
    };
    lines.push(reopen(model, node, &back));
    if filter.is_some() {
        lines.push("vm.remove_node(\"filter\").await?;".to_owned());
    }
    lines
}

impl Action {
    /// As `transaction` takes it.
    pub(super) fn command(&self, node: &str) -> (String, Value) {
        match self {
            Action::Bitmap(name, change) => {
                let (verb, mut data) = match change {
                    Change::Add {
                        granularity,
                        persistent,
                        disabled,
                    } => (
                        "add",
                        json!({"granularity": granularity, "persistent": persistent, "disabled": disabled}),
                    ),
                    Change::Clear => ("clear", json!({})),
                    Change::Enable => ("enable", json!({})),
                    Change::Disable => ("disable", json!({})),
                    Change::Remove => ("remove", json!({})),
                    Change::Merge(sources) => ("merge", json!({"bitmaps": sources})),
                    Change::MergeFrom { node, bitmap } => (
                        "merge",
                        json!({"bitmaps": [{"node": node, "name": bitmap}]}),
                    ),
                };
                data["node"] = node.into();
                data[if verb == "merge" { "target" } else { "name" }] = name.as_str().into();
                (format!("block-dirty-bitmap-{verb}"), data)
            }
            Action::Snapshot { overlay, .. } => (
                "blockdev-snapshot".to_owned(),
                json!({"node": node, "overlay": overlay}),
            ),
            Action::Refused { kind, data, .. } => ((*kind).to_owned(), data.clone()),
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
            Change::MergeFrom { node, bitmap } => {
                format!(".merge([json!({{\"node\": \"{node}\", \"name\": \"{bitmap}\"}})])")
            }
        }
    }
}

fn assert_reads(from: &str, bytes: &Bytes) -> String {
    let mut content = "Content::nothing()".to_owned();
    for (byte, bytes) in bytes.runs().iter().filter(|(byte, _)| *byte != 0) {
        let _ = write!(content, ".written({byte:#04x}, {})", range(bytes));
    }
    format!("{from}.assert_reads({content}).await?;")
}

/// What is read from a layer.
fn reads(from: &str, layer: &Layer) -> Option<String> {
    let reads = layer.reads.as_ref()?;
    Some(assert_reads(from, reads))
}

impl Layer {
    /// What its bitmaps have, where that is known.
    fn bitmaps_text(&self) -> Vec<String> {
        let known = self.bitmaps.iter().filter(|(_, bits)| !bits.at_least);
        let text = known.map(|(name, bits)| {
            let bitmap = format!("vm.bitmap(\"{}\", \"{name}\")", self.name);
            let dirty = bits.dirty.len() as u64 * bits.granularity;
            let ranges = bits.ranges(self.shape.size);
            [
                format!(
                    "{bitmap}.assert(json!({{\"count\": {dirty}, \"recording\": {}}})).await?;",
                    bits.records
                ),
                format!(
                    "check!({bitmap}.sha256().await? == \"{}\"); // dirty: {ranges:?}",
                    bits.sha256(self.shape.size)
                ),
            ]
        });
        text.flatten().collect()
    }
}
