//! How QEMU's client reacts to each kind of fault, in each mode, over each transport.
//!
//! `oracle.txt` holds the precise outcomes; a line starts with `gap` where QEMU accepts what the
//! protocol forbids or does what it must not. After a new version of QEMU was measured, run with
//! `NBD_ORACLE=/some/file` to write down what it does, and look at each difference.

use std::collections::BTreeMap;
use std::sync::Arc;

use nbd::proto::Mode;
use nbd::server::backend::MemoryBackend;
use nbd::server::{Event, Export, Server};

use crate::fault_kinds::{GAPS, Kind, Story, all};
use crate::support::{Tools, all_tools, block_on, short_dir};

const CONTENT: u8 = 0x11;
/// Cells run at once; each is one qemu-io.
const PARALLEL: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cell {
    kind: String,
    mode: Mode,
    version: u32,
    tcp: bool,
    /// Which of the sets at hand: several may be of one version, and each is measured.
    set: String,
}

/// The observable outcome: each command's result, or why the image did not open.
async fn outcome(tools: &Tools, kind: &Kind, mode: Mode, tcp: bool) -> String {
    let dir = short_dir();
    let backend = MemoryBackend::with_content(&vec![CONTENT; 64 * 1024]);
    let server = Server::builder().export(Export::new(backend)).mode(mode).plan(kind.plan.clone());
    let server = match tcp {
        true => server.listen_tcp(),
        false => server.listen_unix(dir.path().join("s")),
    };
    let server = server.unwrap();
    let mut opts = server.uri().unwrap().to_image_opts().unwrap();
    if kind.story == Story::Reconnect {
        opts += ",reconnect-delay=60";
    }
    let commands: &[&str] = match kind.story {
        Story::Read | Story::Reconnect => &["read -P 0x11 0 4k", "read -P 0x11 8k 4k"],
        Story::Write => &["write -P 0x22 0 4k", "read -P 0x22 0 4k"],
        Story::Map => &["map", "read -P 0x11 0 4k"],
    };
    // Without write-through a write is one request, and its flush another one at the end.
    let mut command = tools.io.command().args(["-t", "writeback"]);
    for c in commands {
        command = command.args(["-c", c]);
    }
    let child = command.args(["--image-opts", &opts]).spawn_async().await.unwrap();
    let fired = |e: &nbd::server::Entry| matches!(e.event, Event::Fault { .. });
    if kind.cut {
        server.journal().wait_for(1, fired).await.unwrap();
        // What was to be sent with the fault is sent before the end: the journal has it, or the
        // client has reacted by going away.
        if kind.name != "greeting-stall" && kind.name != "reply-stall" {
            settle(&server, &child).await;
        }
        let (journal, plan) = (server.journal(), finish(server).await);
        return summary(&child.wait().await.unwrap(), &journal, kind.story) + &plan;
    }
    let output = child.wait().await.unwrap();
    let (journal, plan) = (server.journal(), finish(server).await);
    summary(&output, &journal, kind.story) + &plan
}

/// Waits until the client has ended, or a reply that follows the fault has been noted: whatever
/// it would do then, it is waiting now.
async fn settle(server: &Server, child: &imgtools::process::Child) {
    let journal = server.journal();
    let answered = |e: &nbd::server::Entry| {
        matches!(
            e.event,
            Event::Reply { .. } | Event::Closed(_) | Event::Option { .. }
        )
    };
    tokio::select! {
        _ = child.exited() => {}
        done = journal.wait_for(1, answered) => done.unwrap(),
    }
}

/// That a rule did not fire, or fired in vain, is part of the outcome, and fails the test.
async fn finish(server: Server) -> String {
    server.finish().await.err().map_or_else(String::new, |error| format!(" [{error}]"))
}

fn summary(
    output: &imgtools::process::Output,
    journal: &nbd::server::Journal,
    story: Story,
) -> String {
    let mut words = Vec::new();
    if let Some(signal) = output.status.signal() {
        // With the place of the assertion cut off, which moves from version to version.
        let text = output.stderr_text();
        let what = text.split_once("Assertion").map_or("", |(_, what)| what.trim());
        words.push(format!("crash({signal}: {what})"));
    }
    let (stdout, stderr) = (output.stdout_text(), output.stderr_text());
    // The order between the two streams is up to qemu-io's buffers.
    for line in stdout.lines().chain(stderr.lines()) {
        let line = line.trim_start_matches("qemu-io: ");
        if line.starts_with("Pattern verification failed") {
            words.push("wrong-data".to_owned());
        } else if line.contains("bytes at offset") {
            // A read whose data was wrong is reported as done all the same.
            if words.last().is_none_or(|w| w != "wrong-data") {
                words.push("ok".into());
            }
        } else if let Some((_, why)) = line.split_once(" failed: ") {
            words.push(shorten(why));
        } else if line.contains("allocated") || line.contains("not allocated") {
            words.push("map".into());
        } else if let Some((_, why)) = line.split_once("can't open") {
            // The address is in the text; what follows the last "…': " or ": " is the reason.
            let why = why.split_once("': ").map_or(why, |(_, why)| why);
            words.push(format!("no-open({})", reason(why)));
        } else if line.contains("Assertion") {
            // Said above.
        } else if line.starts_with("Failed flush for") {
            // 11.1 also reports the flush at its own end, which a dead connection always fails.
        } else if !line.contains(" ops; ") {
            words.push(shorten(line));
        }
    }
    let begun = journal.count(|e| matches!(e.event, Event::Transmission { .. }));
    // How often an already failed client reconnects is a race.
    match story {
        Story::Reconnect => format!("{} ({begun} connected)", words.join(" ")),
        _ => words.join(" "),
    }
}

fn shorten(why: &str) -> String {
    match why {
        "Input/output error" => "EIO".into(),
        "Invalid argument" => "EINVAL".into(),
        "Operation not permitted" => "EPERM".into(),
        "No space left on device" => "ENOSPC".into(),
        "Cannot allocate memory" => "ENOMEM".into(),
        "Cannot send after transport endpoint shutdown" => "ESHUTDOWN".into(),
        other => format!("({other})"),
    }
}

/// Names in the text that differ from run to run.
fn reason(why: &str) -> String {
    let why = why.trim_start_matches([':', ' ']);
    let why = match why.rsplit_once("driver=nbd") {
        Some((_, rest)) => rest.split_once(": ").map_or(rest, |(_, rest)| rest),
        None => why,
    };
    // Whether the client notices while it still sends, or only when it reads, is a race.
    if why.starts_with("Failed to send option request") && why.contains("write to socket") {
        return "Failed to read option reply: the end".to_owned();
    }
    // Which of the two it is depends on whether the client's next message was under way.
    why.replace(
        "Unexpected end-of-file before all data were read",
        "the end",
    )
    .replace(
        "Unable to read from socket: Connection reset by peer",
        "the end",
    )
}

/// Lines `[gap] KIND | MODES | WHERE | OUTCOME`; WHERE is `*`, or a version, a transport, or both.
struct Line {
    gap: bool,
    kind: String,
    modes: Vec<String>,
    place: Vec<String>,
    outcome: String,
}

fn oracle() -> Vec<Line> {
    let text = include_str!("oracle.txt");
    let lines = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split(" | ").map(str::trim).collect();
            let [head, modes, place, outcome] = fields[..] else {
                panic!("{line:?}")
            };
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
            Line {
                gap: head.starts_with("gap "),
                kind: head.trim_start_matches("gap ").trim().to_owned(),
                modes: words(modes),
                place: words(place),
                outcome: outcome.to_owned(),
            }
        })
        .collect()
}

impl Line {
    fn concerns(&self, cell: &Cell) -> bool {
        let (version, transport) = (
            format!("v{}", cell.version),
            if cell.tcp { "tcp" } else { "unix" },
        );
        self.kind == cell.kind
            && self.modes.contains(&cell.mode.to_string())
            && self.place.iter().all(|p| p == "*" || *p == version || p == transport)
    }
}

fn cells() -> Vec<(Tools, Kind, Cell)> {
    let mut cells = Vec::new();
    let newest = all_tools().iter().map(|t| t.major).max();
    for tools in all_tools() {
        for kind in all() {
            for &mode in &kind.modes {
                // Every cell over both transports with one version; over one of them, in turns,
                // with the others.
                let turn = cells.len() % 2 == 0;
                let transports = if newest == Some(tools.major) {
                    vec![false, true]
                } else {
                    vec![turn]
                };
                for tcp in transports {
                    // A client without extended headers is in structured mode there.
                    if mode == Mode::Extended && tools.major < 9 {
                        continue;
                    }
                    let version = tools.major;
                    let cell = Cell {
                        kind: kind.name.clone(),
                        mode,
                        version,
                        tcp,
                        set: tools.name.clone(),
                    };
                    cells.push((tools.clone(), kind.clone(), cell));
                }
            }
        }
    }
    cells
}

#[test]
fn qemus_client_reacts_to_each_fault_as_the_oracle_says() {
    let measured = block_on(async {
        let mut measured = BTreeMap::new();
        let mut running = tokio::task::JoinSet::new();
        let cells = cells();
        let count = cells.len();
        for (tools, kind, cell) in cells {
            running.spawn(async move {
                let seen = outcome(&tools, &kind, cell.mode, cell.tcp).await;
                (cell, seen)
            });
            if running.len() == PARALLEL {
                let (cell, seen) = running.join_next().await.unwrap().unwrap();
                measured.insert(cell, seen);
            }
        }
        while let Some(done) = running.join_next().await {
            let (cell, seen) = done.unwrap();
            measured.insert(cell, seen);
        }
        assert_eq!(measured.len(), count, "what one set does hides another's");
        measured
    });
    if let Some(path) = std::env::var_os("NBD_ORACLE") {
        std::fs::write(path, write_down(&measured)).unwrap();
        return;
    }
    let oracle = oracle();
    let mut wrong = Vec::new();
    for (cell, seen) in &measured {
        let expected: Vec<_> = oracle.iter().filter(|l| l.concerns(cell)).collect();
        match expected[..] {
            // A version that has not been measured yet must agree with some measured version.
            [] => wrong.push(format!("{cell:?}: not in the oracle, is {seen}")),
            _ if expected.iter().any(|l| l.outcome == *seen) => {}
            _ => wrong.push(format!(
                "{cell:?}:\n  is  {seen}\n  not {}",
                expected[0].outcome
            )),
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        measured.len(),
        wrong.join("\n")
    );
    if !measured.is_empty() {
        let kinds: std::collections::BTreeSet<_> = measured.keys().map(|c| &c.kind).collect();
        assert!(
            kinds.len() >= 40 && measured.len() >= 250,
            "{} {}",
            kinds.len(),
            measured.len()
        );
    }
}

/// The measured outcomes in the form of the oracle: cells that agree share a line.
fn write_down(measured: &BTreeMap<Cell, String>) -> String {
    let mut out = String::new();
    let order: Vec<String> = all().into_iter().map(|k| k.name).collect();
    for kind in order {
        let mut groups: BTreeMap<(Vec<String>, String), Vec<String>> = BTreeMap::new();
        for mode in Mode::ALL {
            let of: Vec<_> =
                measured.iter().filter(|(c, _)| c.kind == kind && c.mode == mode).collect();
            let mut by: BTreeMap<&String, Vec<&Cell>> = BTreeMap::new();
            for (cell, seen) in &of {
                by.entry(seen).or_default().push(cell);
            }
            for (seen, cells) in &by {
                let versions: std::collections::BTreeSet<_> =
                    cells.iter().map(|c| c.version).collect();
                let places = if by.len() == 1 {
                    vec![vec!["*".to_owned()]]
                } else {
                    let per = |v: u32| -> Vec<Vec<String>> {
                        let with: Vec<_> = cells.iter().filter(|c| c.version == v).collect();
                        let all = of.iter().filter(|(c, _)| c.version == v).count();
                        if with.len() == all {
                            return vec![vec![format!("v{v}")]];
                        }
                        let t = if with[0].tcp { "tcp" } else { "unix" };
                        vec![vec![format!("v{v}"), t.to_owned()]]
                    };
                    versions.iter().flat_map(|v| per(*v)).collect()
                };
                for place in places {
                    groups.entry((place, (*seen).clone())).or_default().push(mode.to_string());
                }
            }
        }
        for ((place, seen), modes) in groups {
            let gap = GAPS.iter().any(|(name, _)| *name == kind) && !seen.starts_with("EIO");
            let gap = if gap { "gap " } else { "" };
            let (modes, place) = (modes.join(" "), place.join(" "));
            out += &format!("{gap}{kind} | {modes} | {place} | {seen}\n");
        }
    }
    out
}

#[test]
fn known_gaps_of_qemus_client_are_recorded_as_such() {
    // What the client accepts although the protocol forbids it: recorded, so that the day QEMU is
    // repaired the oracle fails and this list is shortened.
    let marked: std::collections::BTreeSet<String> =
        oracle().into_iter().filter(|l| l.gap).map(|l| l.kind).collect();
    let known = GAPS.iter().map(|(kind, _)| (*kind).to_owned()).collect();
    assert_eq!(marked, known);
    // A lie that ends in success is a gap, or no lie.
    for line in oracle().into_iter().filter(|l| !l.gap && l.kind.starts_with("lie-")) {
        // A hole where there is data is a lie that no client can see through.
        let harmless = ["lie-hole-for-data"];
        let accepted = line.outcome.starts_with("ok ok") || line.outcome.starts_with("wrong");
        assert!(
            !accepted || harmless.contains(&line.kind.as_str()),
            "{} is a gap",
            line.kind
        );
    }
}

#[test]
fn qemus_client_does_not_flag_the_payload_of_an_extended_write() {
    // proto.md: WRITE "MUST use the flag" PAYLOAD_LEN with extended headers. QEMU's own server
    // is lenient about it, and so must ours be.
    use nbd::proto::{CommandFlags, CommandType};
    // Those without extended headers have no such flag at all.
    for tools in all_tools() {
        block_on(async {
            let dir = short_dir();
            let memory = Arc::new(MemoryBackend::new(65536));
            let server = Server::builder().export(Export::shared(memory.clone()));
            let server = server.listen_unix(dir.path().join("s")).unwrap();
            let uri = server.uri().unwrap().to_string();
            crate::support::io(&tools, &uri, &["write -P 3 0 4k"]).await.check().unwrap();
            let unflagged = |e: &nbd::server::Entry| match &e.event {
                Event::Request {
                    command: CommandType::WRITE,
                    flags,
                    ..
                } => !flags.contains(CommandFlags::PAYLOAD_LEN),
                _ => false,
            };
            assert_eq!(
                server.journal().count(unflagged),
                1,
                "repaired in {}?",
                tools.name
            );
            assert_eq!(memory.snapshot(0, 4096), [3; 4096]);
            server.finish().await.unwrap();
        });
    }
}
