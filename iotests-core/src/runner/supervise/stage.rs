//! The life of a supervisor process, from its start to its report.

use std::io::{Write, stdin, stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use super::process_table::{Process, is_stopped};
use super::protocol::{End, Leak, Order, Seen, SuperviseSpec, SupervisorReport};
use super::reaper::{Reaped, alive, kill, kill_all, reap, send, timeout, wait_readable};
use super::starvation::starved;
use super::{evidence, fork, process_table};
use crate::runner::rundir;

/// How long a case may take to explain itself when its time is up, before it is examined from
/// outside and killed.
const EXPLAIN: Duration = Duration::from_secs(60);
/// How often to check whether a case that is still starting can be asked to explain itself.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// The most extra deadlines a case gets for processor time taken by others: that time is an
/// estimate, and a hang must end.
pub(crate) const STARVED_AT_MOST: u32 = 9;
/// The smallest extension worth granting.
const WORTH_MORE: Duration = Duration::from_millis(100);
/// How long a debugger may take to examine it from outside.
const LOOK: Duration = Duration::from_secs(20);
/// The time for processes to exit after their case before they count as leaked.
const LEAK_GRACE: Duration = Duration::from_millis(250);
/// The same for a script: bash's background pipelines end some time after their first program.
const SCRIPT_LEAK_GRACE: Duration = Duration::from_secs(5);
/// How long a case may take to end after SIGTERM.
const TERMINATE_GRACE: Duration = Duration::from_secs(1);

/// Entry point of `__supervise SPEC`.
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
    serde_json::from_slice(&text).map_err(|error| format!("parse {}: {error}", spec_file.display()))
}

/// Why the supervisor woke up.
enum Wake {
    ChildEnded,
    RunnerGone,
    Order(Order),
    Time,
}

/// What a supervisor waits for.
struct Wakes {
    signals: SignalFd,
    control: OwnedFd,
}

fn supervise(spec: &SuperviseSpec) -> Result<(), String> {
    // Released by the kernel, when this process and its fork, the case, are gone.
    let lock = rundir::hold(&spec.run_dir)
        .map_err(|error| format!("share the lock in {}: {error}", spec.run_dir.display()))?;
    std::mem::forget(lock);
    let wakes = prepare(spec.runner_pid)?;
    let started = Instant::now();
    let report = match fork::start(spec) {
        Ok((case, go)) => watch(spec, case, go, &wakes, started),
        Err(error) => Some(SupervisorReport {
            end: End::NotStarted(error.to_string()),
            leaks: Vec::new(),
            overdue: None,
            elapsed: started.elapsed(),
        }),
    };
    let Some(report) = report else { return Ok(()) };
    let written = report.to_line().and_then(|line| stdout().write_all(&line));
    written.map_err(|error| format!("write the report: {error}"))
}

/// Makes this process a sub-reaper that notices the runner's death in two ways.
fn prepare(runner_pid: u32) -> Result<Wakes, String> {
    // SIGHUP is what the kernel sends to a process that is stopped when its parent dies.
    let mask = SigSet::from_iter([
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
    ]);
    let mut blocked = mask;
    blocked.add(Signal::SIGXFSZ);
    blocked.thread_set_mask().map_err(|error| format!("block signals: {error}"))?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|error| format!("make a signalfd: {error}"))?;
    prctl::set_name(c"iot-supervisor").map_err(|error| format!("set the process name: {error}"))?;
    prctl::set_child_subreaper(true).map_err(|error| format!("become a sub-reaper: {error}"))?;
    // Not SIGKILL: the processes below have to be killed first, see `Wake::RunnerGone`.
    prctl::set_pdeathsig(Signal::SIGTERM)
        .map_err(|error| format!("ask for the death signal: {error}"))?;
    if std::os::unix::process::parent_id() != runner_pid {
        return Err("start: the runner is gone".to_owned());
    }
    // Allows core dumps. If the kernel writes them to files, they are in the case's directory.
    let limit = Resource::RLIMIT_CORE;
    if let Ok((_, most)) = getrlimit(limit) {
        let _ = setrlimit(limit, most, most);
    }
    let control = stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| format!("open the control pipe: {error}"))?;
    Ok(Wakes { signals, control })
}

/// The phases of a case.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// It was sent SIGTERM.
    Terminating,
    /// Its time is up, and it is to explain itself and end.
    Explaining,
}

/// The clock of a case: it pauses while the run is suspended, and discounts processor time taken by
/// others.
struct Clock {
    started: Instant,
    paused: Duration,
    /// The part of `paused` that was taken by others.
    discounted: Duration,
    /// The total taken by others at the last call of [`Clock::discount`].
    starved: Duration,
    suspended: Option<Suspended>,
}

/// The processes stopped for a suspension. Those stopped before are not among them, and stay
/// stopped.
struct Suspended {
    since: Instant,
    stopped: Vec<Process>,
}

impl Clock {
    /// The time that counts so far.
    fn elapsed(&self) -> Duration {
        let pausing = self.suspended.as_ref().map(|one| one.since.elapsed());
        self.started.elapsed().saturating_sub(self.paused + pausing.unwrap_or_default())
    }

    /// Resets the elapsed time to zero.
    fn reset(&mut self, starved: Duration) {
        self.paused = self.started.elapsed();
        self.starved = starved;
    }

    /// Discounts what the case has lost to others since the last call; `starved` is the total.
    /// Returns whether that is worth continuing.
    fn discount(&mut self, starved: Duration, deadline: Duration) -> bool {
        let most = deadline.saturating_mul(STARVED_AT_MOST);
        let more = starved.saturating_sub(self.starved).min(self.elapsed());
        let more = more.min(most.saturating_sub(self.discounted));
        self.starved = self.starved.max(starved);
        if more < WORTH_MORE {
            return false;
        }
        self.discounted += more;
        self.paused += more;
        true
    }

    /// When this much time will have counted; `None` during a suspension.
    fn at(&self, elapsed: Duration) -> Option<Instant> {
        match self.suspended {
            Some(_) => None,
            None => self.started.checked_add(elapsed + self.paused),
        }
    }

    fn suspend(&mut self) {
        if self.suspended.is_some() {
            return;
        }
        let mut stopped = alive();
        stopped.retain(|process| process.state != 'T');
        stopped.iter().for_each(|process| send(process, Signal::SIGSTOP));
        let since = Instant::now();
        self.suspended = Some(Suspended { since, stopped });
    }

    fn resume(&mut self) {
        if let Some(one) = self.suspended.take() {
            self.paused += one.since.elapsed();
            one.stopped.iter().for_each(|process| send(process, Signal::SIGCONT));
        }
    }
}

/// Watches the case to its end, and what it leaves. `None` if the runner is gone, so that there is
/// nobody to report to.
fn watch(
    spec: &SuperviseSpec,
    case: Pid,
    mut go: Option<OwnedFd>,
    wakes: &Wakes,
    started: Instant,
) -> Option<SupervisorReport> {
    let grace = |time: Duration| spec.case.grace(time);
    let mut clock = Clock {
        started,
        paused: Duration::ZERO,
        discounted: Duration::ZERO,
        starved: Duration::ZERO,
        suspended: None,
    };
    let mut next = spec.case.deadline();
    let mut explained = Duration::ZERO;
    let mut phase = Phase::Running;
    let pid = case.as_raw().unsigned_abs();
    let mut seen = Seen::default();
    let mut end = None;
    let mut reaped = Reaped::default();
    while end.is_none() {
        match wakes.next(clock.at(next)) {
            Wake::ChildEnded => {
                reaped = reap(case);
                end = reaped.case.take();
            }
            Wake::RunnerGone => {
                kill_all(case, &wakes.signals);
                return None;
            }
            Wake::Order(Order::Suspend) => clock.suspend(),
            Wake::Order(Order::Resume) => clock.resume(),
            Wake::Order(Order::Explain) => {
                // The signal would kill a case that is still starting and has no handler yet.
                if process_table::catches(pid, Signal::SIGUSR1) {
                    let _ = nix::sys::signal::kill(case, Signal::SIGUSR1);
                }
            }
            Wake::Order(Order::Step) => {
                // Fails if the case has just ended, which is fine.
                let _ = go.as_ref().map(|go| nix::unistd::write(go, b"n"));
            }
            // Once the pipe is closed, the case no longer waits.
            Wake::Order(Order::Run) => drop(go.take()),
            Wake::Order(Order::Terminate) => {
                clock.resume();
                // To the whole group, so that programs the case waits for end too.
                let _ = killpg(case, Signal::SIGTERM);
                if phase == Phase::Running {
                    phase = Phase::Terminating;
                    next = clock.elapsed() + grace(TERMINATE_GRACE);
                }
            }
            Wake::Order(Order::Kill) => end = kill_all(case, &wakes.signals),
            Wake::Time => match phase {
                // While the runner is stopped it does not read the case's events, so the case may
                // be waiting for that. Grant it its time again.
                Phase::Running if is_stopped(spec.runner_pid) => clock.reset(starved(&alive())),
                Phase::Running if clock.discount(starved(&alive()), spec.case.deadline()) => {}
                Phase::Running => {
                    phase = Phase::Explaining;
                    seen.look(pid, &alive());
                    // A stopped case cannot explain itself.
                    let time = if is_stopped(pid) {
                        Duration::ZERO
                    } else {
                        grace(EXPLAIN)
                    };
                    explained = clock.elapsed() + time;
                    next = clock.elapsed();
                }
                Phase::Explaining if clock.elapsed() < explained => {
                    if process_table::catches(pid, Signal::SIGABRT) {
                        let _ = nix::sys::signal::kill(case, Signal::SIGABRT);
                        next = explained;
                    } else {
                        next = explained.min(clock.elapsed() + ASK_AGAIN);
                    }
                }
                Phase::Terminating => end = kill_all(case, &wakes.signals),
                Phase::Explaining => {
                    // A process stopped only after the deadline may also explain the silence.
                    seen.look(pid, &alive());
                    let until = Instant::now() + grace(LOOK);
                    let stacks = Process::of(pid).and_then(|case| evidence::stacks(&case, until));
                    seen.evidence.extend(stacks);
                    end = kill_all(case, &wakes.signals);
                }
            },
        }
    }
    let elapsed = clock.elapsed();
    let leaks = if reaped.none_left {
        Vec::new()
    } else {
        let time = match spec.case.script {
            Some(_) => SCRIPT_LEAK_GRACE,
            None => LEAK_GRACE,
        };
        collect_leaks(case, wakes, grace(time))
    };
    Some(SupervisorReport {
        end: end.unwrap_or_else(|| End::NotStarted("its end was not seen".to_owned())),
        leaks,
        overdue: (phase == Phase::Explaining).then_some(seen),
        elapsed,
    })
}

/// Waits for the case's remaining processes to exit, then kills those that are left. Returns them.
fn collect_leaks(case: Pid, wakes: &Wakes, grace: Duration) -> Vec<Leak> {
    let until = Instant::now() + grace;
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
    /// Waits for the next event, or returns `Time` at `until`.
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
                    // The end of the pipe: the runner has exited.
                    _ => return Wake::RunnerGone,
                }
            } else if signalled {
                match self.signals.read_signal() {
                    Ok(Some(signal)) if signal.ssi_signo == Signal::SIGCHLD as u32 => {
                        return Wake::ChildEnded;
                    }
                    // The runner's death, or a request to end: handled the same way.
                    Ok(Some(_)) => return Wake::RunnerGone,
                    _ => {}
                }
            } else if ready == 0 && until.is_some_and(|until| Instant::now() >= until) {
                return Wake::Time;
            }
        }
    }

    /// Waits until any child ends, at most until the given time.
    fn child_ended_before(&self, until: Instant) {
        if wait_readable(&self.signals, Some(until)) {
            // The content does not matter: the caller reaps.
            let _ = self.signals.read_signal();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// A clock on which about this much time has elapsed.
    fn clock(elapsed: Duration) -> Clock {
        Clock {
            started: Instant::now().checked_sub(elapsed).unwrap(),
            paused: Duration::ZERO,
            discounted: Duration::ZERO,
            starved: Duration::ZERO,
            suspended: None,
        }
    }

    #[test]
    fn lost_time_is_granted_once() {
        let mut clock = clock(secs(1000));
        assert!(clock.discount(secs(400), secs(1000)));
        assert!((secs(600)..secs(700)).contains(&clock.elapsed()));
        assert!(!clock.discount(secs(400), secs(1000)), "nothing is new");
        assert!(
            !clock.discount(secs(300), secs(1000)),
            "a process has ended"
        );
        assert!(!clock.discount(secs(400), secs(1000)), "nor then");
        assert!(clock.discount(secs(5000), secs(1000)));
        assert!(clock.elapsed() < secs(100), "never more than has passed");
        assert!(!clock.discount(secs(5000), secs(1000)), "the rest is gone");
    }

    #[test]
    fn a_starved_case_ends_after_ten_deadlines() {
        let mut clock = clock(secs(100_000));
        assert!(clock.discount(secs(50_000), secs(1000)));
        assert!((secs(91_000)..secs(91_100)).contains(&clock.elapsed()));
        assert!(!clock.discount(secs(60_000), secs(1000)));
    }

    #[test]
    fn time_lost_before_a_reset_is_not_granted() {
        let mut clock = clock(secs(1000));
        clock.reset(secs(500));
        clock.started -= secs(1000);
        assert!(!clock.discount(secs(500), secs(1000)));
        assert!(clock.discount(secs(600), secs(1000)));
    }
}
