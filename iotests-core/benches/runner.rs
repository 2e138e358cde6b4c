//! What the runner costs: an empty case, `--list`, and a long log.
//!
//! `cargo bench -p iotests-core` prints the medians, how many starts of a bare process each is worth
//! in the same run, and fails where an empty case costs more than 10 ms or a list more than 100 ms, or a log
//! of 100 MiB more than five times one of 25 MiB.
//! An empty case is three processes (runner, supervisor, case) that share two directories, and
//! the proof that nothing is left of them; its cost is what each further repetition adds to a run.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 21;
/// Repetitions of the empty case in one run.
const CASES: u32 = 25;
const CASE_LIMIT: Duration = Duration::from_millis(10);
const LIST_LIMIT: Duration = Duration::from_millis(100);

/// How long this takes, which must end well.
fn time(command: &mut Command) -> Duration {
    time_to(command, 0)
}

/// How long this takes, which must end with this exit status.
fn time_to(command: &mut Command, code: i32) -> Duration {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let begun = Instant::now();
    let status = command.status().expect("the program is there");
    let took = begun.elapsed();
    assert_eq!(status.code(), Some(code), "{command:?}: {status}");
    took
}

/// The fixture program, in a build folder of its own.
fn program(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iotests-fixture"));
    command.args(args).env("IOTESTS_BUILD_DIR", dir);
    command
}

fn empty_cases(dir: &Path, repeat: u32) -> Duration {
    let repeat = repeat.to_string();
    let args = ["verdicts::passes@raw", "-j1", "--repeat", &repeat];
    time(&mut program(dir, &args))
}

/// A case that logs this much, and fails.
fn log(dir: &Path, mebibytes: &str) -> Duration {
    let id = format!("deaths::logs_mebibytes/{mebibytes}@qcow2");
    median((0..5).map(|_| time_to(&mut program(dir, &[&id]), 1)).collect())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn main() {
    let dir = tempfile::tempdir().expect("there is a temporary folder");
    let dir = dir.path();
    // Probes the programs of QEMU, which only the first run does.
    empty_cases(dir, 1);
    let (mut bare, mut lists, mut cases) = (Vec::new(), Vec::new(), Vec::new());
    // In turns, so that a change of the host's load meets all of them.
    for _ in 0..ROUNDS {
        bare.push(time(Command::new("/bin/true").arg("")));
        lists.push(time(&mut program(dir, &["--list"])));
        let one = empty_cases(dir, 1);
        let more = empty_cases(dir, CASES + 1);
        cases.push(more.saturating_sub(one) / CASES);
    }
    let bare = median(bare);
    let report = |what: &str, times: Vec<Duration>, limit: Duration| {
        let took = median(times);
        let ratio = took.as_secs_f64() / bare.as_secs_f64();
        println!("{what}: {took:.1?} (at most {limit:?}), {ratio:.1} bare processes of {bare:.1?}");
        took <= limit
    };
    // Linear: four times the log is four times the time.
    let (short, long) = (log(dir, "25"), log(dir, "100"));
    let ratio = long.as_secs_f64() / short.as_secs_f64();
    println!("a log of 100 MiB: {long:.1?}, {ratio:.1} of one of 25 MiB");
    let within = [
        ratio <= 5.0,
        report("an empty case", cases, CASE_LIMIT),
        report("--list", lists, LIST_LIMIT),
    ];
    assert_eq!(within, [true; 3], "something costs too much");
}
