//! What a launch costs beyond the process itself.
//!
//! `cargo bench -p qemu-machine` launches each binary many times in two ways, in turn, so that a
//! change of the host's load affects both: *bare*, with the standard library and nothing else, from
//! fork to the first line of the monitor; and with this crate, from `launch()` to a negotiated
//! session. It prints both medians and fails if they differ by more than 5 ms.
//!
//! On a busy host each hand-over between threads waits to be scheduled, and the benchmark measures
//! the scheduler: `chrt -r 20 cargo bench -p qemu-machine` gives it priority.

use imgtools::tools::{Finder, Tool, ToolKind};
use machine::accel::Accel;
use machine::{Qemu, StorageDaemon};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const ROUNDS: usize = 200;
const LIMIT: Duration = Duration::from_millis(5);

/// From fork to greeting without this crate, over a socket as with it (a monitor on a socket
/// has a thread of its own, which one on pipes has not). The end of the process is not counted.
fn bare(tool: &Tool, dir: &Path) -> Duration {
    let path = dir.join("monitor");
    let listener = UnixListener::bind(&path).expect("the directory is writable");
    let chardev = format!("socket,id=m,path={}", path.display());
    let mut command = Command::new(&tool.path);
    match tool.kind {
        ToolKind::System => command
            .args([
                "-nodefaults",
                "-display",
                "none",
                "-machine",
                "none",
                "-accel",
                "tcg",
            ])
            .args(["-chardev", &chardev, "-mon", "chardev=m,mode=control"]),
        _ => command.args(["--chardev", &chardev, "--monitor", "chardev=m,mode=control"]),
    };
    let begun = Instant::now();
    let mut child = command.spawn().expect("the binary starts");
    let (mut monitor, _) = listener.accept().expect("it connects");
    let mut greeting = String::new();
    BufReader::new(&monitor).read_line(&mut greeting).expect("it greets");
    let took = begun.elapsed();
    assert!(greeting.contains("QMP"), "{greeting}");
    monitor
        .write_all(b"{\"execute\": \"qmp_capabilities\"}\n{\"execute\": \"quit\"}\n")
        .expect("it listens");
    child.wait().expect("it ends");
    std::fs::remove_file(path).expect("the socket is ours");
    took
}

async fn ours(tool: &Tool) -> Duration {
    let begun = Instant::now();
    let machine = match tool.kind {
        ToolKind::System => {
            Qemu::builder(tool.clone()).machine("none").accel(Accel::Tcg).launch().await
        }
        _ => StorageDaemon::builder(tool.clone()).launch().await,
    };
    let took = begun.elapsed();
    machine.expect("it launches").shutdown().await.expect("it ends");
    took
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("there is a runtime");
    let mut finder = Finder::new();
    for prefix in std::env::split_paths(&std::env::var_os("QEMU_TEST_PREFIXES").unwrap_or_default())
    {
        finder = finder.prefix(prefix);
    }
    let dir = tempfile::tempdir().expect("there is a place for sockets");
    let mut slow = false;
    for kind in [ToolKind::StorageDaemon, ToolKind::System] {
        let tool = match finder.find(kind) {
            Ok(tool) => tool,
            Err(error) => {
                println!("skipped: {error}");
                continue;
            }
        };
        // The first ones bring the binary into memory.
        bare(&tool, dir.path());
        runtime.block_on(ours(&tool));
        let rounds = if kind == ToolKind::System {
            ROUNDS / 4
        } else {
            ROUNDS
        };
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            without.push(bare(&tool, dir.path()));
            with.push(runtime.block_on(ours(&tool)));
        }
        let (without, with) = (median(without), median(with));
        let overhead = with.saturating_sub(without);
        slow |= overhead > LIMIT;
        println!(
            "{kind}: bare {without:?}, machine {with:?}, overhead {overhead:?} (limit {LIMIT:?}), {rounds} rounds"
        );
    }
    assert!(
        !slow,
        "a launch costs more than {LIMIT:?} beyond the process itself"
    );
}
