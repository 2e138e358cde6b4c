//! The life of a supervisor process, from its start to its report.

use std::fs::File;
use std::io::{Write, stdin, stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use super::evidence;
use super::process_table::Process;
use super::protocol::{End, Leak, Order, SuperviseSpec, SupervisorReport};
use super::reaper::{Reaped, alive, kill, kill_all, reap, timeout, wait_readable};
use crate::runner::case_process::CASE;
use crate::runner::this_program;
use crate::wire::EVENT_FD;

/// What a case may take beyond its deadline to explain itself; then it is looked at from outside.
const EXPLAIN: Duration = Duration::from_millis(1200);
/// When looking from outside ends.
const LOOK: Duration = Duration::from_millis(1600);
/// What a case may take to end after SIGTERM.
const TERMINATE_GRACE: Duration = Duration::from_millis(1000);
/// A process that is just ending when its case ends is no leak.
const LEAK_GRACE: Duration = Duration::from_millis(250);

/// Entry of `__supervise SPEC`.
pub(crate) fn main(spec_file: &Path) -> ExitCode {
    match read(spec_file).and_then(|spec| supervise(&spec)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("supervisor: failed to {error}");
            ExitCode::FAILURE
        }
    }
}

fn read(spec_file: &Path) -> Result<SuperviseSpec, String> {
    let text = std::fs::read(spec_file)
        .map_err(|error| format!("read {}: {error}", spec_file.display()))?;
    serde_json::from_slice(&text)
        .map_err(|error| format!("understand {}: {error}", spec_file.display()))
}

/// Why the supervisor woke up.
enum Wake {
    ChildEnded,
    RunnerGone,
    Order(Order),
    Time,
}

/// What a supervisor waits on.
struct Wakes {
    signals: SignalFd,
    control: OwnedFd,
}

fn supervise(spec: &SuperviseSpec) -> Result<(), String> {
    let wakes = prepare(spec.runner_pid)?;
    let started = Instant::now();
    let report = match spawn(spec) {
        Ok(case) => watch(spec, case, &wakes, started),
        Err(error) => Some(SupervisorReport {
            end: End::NotStarted(error.to_string()),
            leaks: Vec::new(),
            overdue: false,
            evidence: Vec::new(),
            elapsed: started.elapsed(),
        }),
    };
    let Some(report) = report else { return Ok(()) };
    let line = serde_json::to_vec(&report).map_err(|error| format!("write the report: {error}"))?;
    stdout()
        .write_all(&line)
        .map_err(|error| format!("write the report: {error}"))
}

/// Makes this process a sub-reaper that learns of the runner's death in two ways.
fn prepare(runner_pid: u32) -> Result<Wakes, String> {
    let mask = SigSet::from_iter([Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT]);
    mask.thread_set_mask()
        .map_err(|error| format!("block signals: {error}"))?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|error| format!("make a signalfd: {error}"))?;
    prctl::set_name(c"iot-supervisor").map_err(|error| format!("take a name: {error}"))?;
    prctl::set_child_subreaper(true).map_err(|error| format!("become a sub-reaper: {error}"))?;
    // SIGTERM and not SIGKILL: the orphans have to be killed first, see `Wake::RunnerGone`.
    prctl::set_pdeathsig(Signal::SIGTERM)
        .map_err(|error| format!("ask for the death signal: {error}"))?;
    if std::os::unix::process::parent_id() != runner_pid {
        return Err("start: the runner is gone".to_owned());
    }
    let control = stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| format!("open the control pipe: {error}"))?;
    Ok(Wakes { signals, control })
}

fn spawn(spec: &SuperviseSpec) -> std::io::Result<Pid> {
    let child = this_program()
        .arg(CASE)
        .arg(&spec.case_spec)
        .arg(std::process::id().to_string())
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(File::create(&spec.stdout)?)
        .stderr(File::create(&spec.stderr)?)
        .current_dir(&spec.current_dir)
        .process_group(0)
        .spawn();
    // The runner sees the end of the case's events when nobody holds this pipe any more.
    let _ = nix::unistd::close(EVENT_FD);
    Ok(Pid::from_raw(
        i32::try_from(child?.id()).map_err(std::io::Error::other)?,
    ))
}

/// Watches the case to its end and what it left. `None` when the runner is gone, so that there is nobody to report to.
fn watch(
    spec: &SuperviseSpec,
    case: Pid,
    wakes: &Wakes,
    started: Instant,
) -> Option<SupervisorReport> {
    let deadline = started + spec.deadline;
    let mut next = Some(deadline);
    let mut terminating = false;
    let mut overdue = false;
    let mut seen = Vec::new();
    let mut end = None;
    let mut reaped = Reaped::default();
    while end.is_none() {
        match wakes.next(next) {
            Wake::ChildEnded => {
                reaped = reap(case);
                end = reaped.case.take();
            }
            Wake::RunnerGone => {
                kill_all(case, &wakes.signals);
                return None;
            }
            Wake::Order(Order::Terminate) => {
                // The whole group: tools that the case waits for end as well.
                let _ = killpg(case, Signal::SIGTERM);
                terminating = true;
                next = Some(Instant::now() + TERMINATE_GRACE);
            }
            Wake::Order(Order::Explain) => {
                let _ = nix::sys::signal::kill(case, Signal::SIGABRT);
            }
            Wake::Order(Order::Kill) => end = kill_all(case, &wakes.signals),
            Wake::Time if terminating => end = kill_all(case, &wakes.signals),
            // One that is stopped cannot explain itself; the others get their time for it.
            Wake::Time if Instant::now() < deadline + EXPLAIN && !is_stopped(case) => {
                next = Some(deadline + EXPLAIN);
            }
            Wake::Time => {
                overdue = true;
                seen = look(case, deadline + LOOK);
                wakes.child_ended_before(deadline + LOOK);
                end = kill_all(case, &wakes.signals);
            }
        }
    }
    let elapsed = started.elapsed();
    let leaks = if reaped.none_left {
        Vec::new()
    } else {
        collect_leaks(case, wakes)
    };
    Some(SupervisorReport {
        end: end.unwrap_or_else(|| End::NotStarted("its end was not seen".to_owned())),
        leaks,
        overdue,
        evidence: seen,
        elapsed,
    })
}

/// What can be seen of a case that did not explain itself. One that is stopped cannot, so a debugger is asked.
fn look(case: Pid, until: Instant) -> Vec<String> {
    let processes = alive();
    let mut seen = evidence::states(&processes);
    let stopped = processes
        .iter()
        .find(|process| process.pid == case.as_raw().unsigned_abs())
        .filter(|_| is_stopped(case));
    seen.extend(stopped.and_then(|process| evidence::stacks(process, until)));
    seen
}

fn is_stopped(case: Pid) -> bool {
    Process::of(case.as_raw().unsigned_abs()).is_some_and(|process| process.state == 'T')
}

/// Names and kills what is alive although the case has ended.
fn collect_leaks(case: Pid, wakes: &Wakes) -> Vec<Leak> {
    let until = Instant::now() + LEAK_GRACE;
    while Instant::now() < until {
        if reap(case).none_left {
            return Vec::new();
        }
        wakes.child_ended_before(until);
    }
    let leaks = alive()
        .iter()
        .map(|process: &Process| Leak {
            pid: process.pid,
            argv: process.argv(),
        })
        .collect();
    alive().iter().for_each(kill);
    kill_all(case, &wakes.signals);
    leaks
}

impl Wakes {
    /// The next thing that happens, or `Time` at `until`.
    fn next(&self, until: Option<Instant>) -> Wake {
        loop {
            let mut fds = [
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.control.as_fd(), PollFlags::POLLIN),
            ];
            let ready = poll(&mut fds, timeout(until)).unwrap_or(0);
            let any = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
            let (signalled, ordered) = (any(&fds[0]), any(&fds[1]));
            if ordered {
                let mut byte = [0];
                match nix::unistd::read(&self.control, &mut byte) {
                    Ok(1) => {
                        if let Some(order) = Order::from_byte(byte[0]) {
                            return Wake::Order(order);
                        }
                    }
                    Err(Errno::EINTR | Errno::EAGAIN) => {}
                    // The end of the pipe: the kernel closed the runner's side.
                    _ => return Wake::RunnerGone,
                }
            } else if signalled {
                match self.signals.read_signal() {
                    Ok(Some(signal)) if signal.ssi_signo == Signal::SIGCHLD as u32 => {
                        return Wake::ChildEnded;
                    }
                    // The parent-death signal, or somebody who wants us to end: the same.
                    Ok(Some(_)) => return Wake::RunnerGone,
                    _ => {}
                }
            } else if ready == 0 && until.is_some_and(|until| Instant::now() >= until) {
                return Wake::Time;
            }
        }
    }

    /// Waits for the end of any child, at most until then.
    fn child_ended_before(&self, until: Instant) {
        if wait_readable(&self.signals, Some(until)) {
            // What it says does not matter: the caller reaps.
            let _ = self.signals.read_signal();
        }
    }
}
