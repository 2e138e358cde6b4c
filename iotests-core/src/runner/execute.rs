//! One attempt at an instance: starts its supervisor, and listens to it and the case process.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::error::{RunError, io as io_error};
use super::follow::Follower;
use super::rundir::{InstanceDir, RunDir};
use super::supervise::{
    Order, REPORT, STARVED_AT_MOST, SUPERVISE, SuperviseSpec, SupervisorReport, is_stopped,
    kill_children_of_self, state_name,
};
use super::this_program;
use super::verdict::Attempt;
use crate::wire::{CaseEvent, CaseSpec};

/// How long after the case's deadline a supervisor must report at the latest, before scaling. This
/// does not limit the case, it only catches a supervisor that hangs.
const SUPERVISOR_GRACE: Duration = Duration::from_secs(180);

/// How long after that deadline to start checking whether the supervisor is stopped, before
/// scaling.
const SUPERVISOR_LOOK: Duration = Duration::from_secs(5);

/// The longest line of an event or report. A case truncates its texts well below this.
const LINE: usize = 64 << 20;

/// How much of a case's output is kept for reports.
const OUTPUT_TAIL: u64 = 16 << 10;

/// The living supervisors, so that any thread can send them orders.
#[derive(Debug, Default)]
pub(crate) struct Supervisors {
    all: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    living: BTreeMap<u32, Living>,
    /// The last order to end, which also goes to supervisors that start later.
    ending: Option<Order>,
    /// The total time of finished suspensions.
    paused: Duration,
    /// The start of the current suspension.
    paused_since: Option<Instant>,
}

#[derive(Debug)]
struct Living {
    control: OwnedFd,
    /// The runner ordered it to end its case.
    interrupted: bool,
}

/// The result of one attempt.
#[derive(Debug)]
pub(crate) struct Executed {
    /// What happened in it.
    pub(crate) attempt: Attempt,
    /// The end of its standard output.
    pub(crate) stdout_tail: String,
    /// The end of its standard error.
    pub(crate) stderr_tail: String,
}

impl Supervisors {
    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends an order to every supervisor, including those just being started.
    pub(crate) fn order_all(&self, order: Order) {
        let mut all = self.all();
        if order.ends() {
            all.ending = Some(order);
        }
        for living in all.living.values_mut() {
            living.order(order);
        }
    }

    /// Suspends all cases, then this process, until it is continued. The suspension does not count
    /// as time of the cases. Returns the total time suspended.
    pub(crate) fn suspend(&self) -> Duration {
        self.order_all(Order::Suspend);
        // After the wake-up, another thread may read the time before this one runs.
        self.all().paused_since = Some(Instant::now());
        // Not SIGTSTP, whose handling led here.
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP);
        self.all().wake();
        self.order_all(Order::Resume);
        self.paused()
    }

    /// The total time the run was suspended so far.
    pub(crate) fn paused(&self) -> Duration {
        self.all().paused()
    }

    /// Whether they were ordered to end their cases.
    pub(crate) fn are_ending(&self) -> bool {
        self.all().ending.is_some()
    }
}

impl All {
    fn paused(&self) -> Duration {
        let current = self.paused_since.map(|since| since.elapsed());
        self.paused + current.unwrap_or_default()
    }

    fn wake(&mut self) {
        self.paused = self.paused();
        self.paused_since = None;
    }

    fn register(&mut self, pid: u32, control: OwnedFd) {
        let mut living = Living {
            control,
            interrupted: false,
        };
        if let Some(order) = self.ending {
            living.order(order);
        }
        self.living.insert(pid, living);
    }
}

impl Living {
    fn order(&mut self, order: Order) {
        self.interrupted |= order.ends();
        // A write fails if the supervisor has just ended, which is fine.
        let _ = nix::unistd::write(&self.control, &[order.byte()]);
    }
}

/// Runs one attempt to its end. Calls `said` for every event of the case as it arrives. With
/// `step`, the case stops after each [`CaseEvent::Step`] until [`Order::Step`].
pub(crate) fn execute(
    run: &RunDir,
    supervisors: &Supervisors,
    directories: &InstanceDir,
    spec: &CaseSpec,
    env: Vec<(String, String)>,
    step: bool,
    mut said: impl FnMut(CaseEvent),
) -> Result<Executed, RunError> {
    let files = write_spec(run, directories, spec, env, step)?;
    let follower = match spec.print || spec.debug {
        true => Some(
            Follower::new(&[&files.stdout, &files.stderr])
                .map_err(io_error("follow the output in", &directories.path))?,
        ),
        false => None,
    };
    let system = |doing: &'static str| move |source: io::Error| RunError::System { doing, source };
    let (events_out, events_in) = pipe().map_err(system("make a pipe for events"))?;
    let (control_out, control_in) = pipe().map_err(system("make a control pipe"))?;
    // Nothing but standard streams, a directory and a process group: then the standard library need
    // not copy this process's page tables for it.
    let mut command = this_program();
    command
        .arg(SUPERVISE)
        .arg(&files.spec)
        .current_dir(&directories.test)
        .stdin(Stdio::from(control_out))
        .stdout(Stdio::from(events_in))
        .stderr(Stdio::inherit());
    // In its own process group, so that Ctrl-C at the terminal reaches only the runner.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);

    // Spawn and register under one lock, or the search for orphans could mistake the new one for
    // one.
    let mut all = supervisors.all();
    let mut child = command.spawn().map_err(system("start a supervisor"))?;
    all.register(child.id(), control_in);
    drop(all);
    // Closes our copies of the descriptors passed to the supervisor.
    drop(command);

    let [look, give_up] =
        [SUPERVISOR_LOOK, SUPERVISOR_GRACE].map(|time| spec.deadline() + spec.grace(time));
    let starved = spec.deadline().saturating_mul(STARVED_AT_MOST);
    let limits = [look, give_up + starved];
    let mut attempt = Attempt::default();
    let report = listen(
        child.id(),
        events_out,
        follower,
        supervisors,
        limits,
        |event| {
            attempt.hear(&event);
            said(event);
        },
    );
    // Without a report it may still be running.
    if report.is_err() {
        let _ = child.kill();
    }
    let _ = child.wait();
    let interrupted = {
        let mut all = supervisors.all();
        let ended = all.living.remove(&child.id());
        if report.is_err() {
            // We have inherited its children.
            kill_children_of_self(|pid| all.living.contains_key(&pid));
        }
        ended.is_some_and(|one| one.interrupted)
    };
    attempt.see(report, interrupted, spec.deadline());
    Ok(Executed {
        attempt,
        stdout_tail: tail(&files.stdout),
        stderr_tail: tail(&files.stderr),
    })
}

/// The files beside the test directory.
struct Files {
    spec: std::path::PathBuf,
    stdout: std::path::PathBuf,
    stderr: std::path::PathBuf,
}

fn write_spec(
    run: &RunDir,
    directories: &InstanceDir,
    spec: &CaseSpec,
    env: Vec<(String, String)>,
    step: bool,
) -> Result<Files, RunError> {
    let file = |name: &str| directories.path.join(name);
    let files = Files {
        spec: file("case.json"),
        stdout: file("stdout"),
        stderr: file("stderr"),
    };
    let supervise = SuperviseSpec {
        runner_pid: std::process::id(),
        run_dir: run.path().to_owned(),
        case: spec.clone(),
        env,
        stdout: files.stdout.clone(),
        stderr: files.stderr.clone(),
        step,
    };
    let text = serde_json::to_vec(&supervise)
        .map_err(|error| io_error("write", &files.spec)(error.into()))?;
    fs::write(&files.spec, text).map_err(io_error("write", &files.spec))?;
    Ok(files)
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?)
}

/// Reads events, and the report after them, until the supervisor has exited: another process may
/// still hold the pipe. The error says what the supervisor did, such as "was killed". From time `look` on, it checks whether the supervisor is stopped; at `give_up` it stops
/// waiting.
fn listen(
    supervisor: u32,
    events: OwnedFd,
    mut follower: Option<Follower>,
    supervisors: &Supervisors,
    [look, give_up]: [Duration; 2],
    mut said: impl FnMut(CaseEvent),
) -> Result<SupervisorReport, String> {
    let exit = Pid::from_raw(supervisor.cast_signed())
        .ok_or(Errno::SRCH)
        .and_then(|supervisor| pidfd_open(supervisor, PidfdFlags::empty()))
        .map_err(|error| format!("cannot be waited for: {error}"))?;
    let mut lines = Lines::default();
    let mut buffer = vec![0; 64 << 10];
    let (started, paused) = (Instant::now(), supervisors.paused());
    loop {
        let mut fds = vec![events.as_fd(), exit.as_fd()];
        if let Some(follower) = &follower {
            fds.push(follower.fd());
        }
        let mut fds: Vec<_> =
            fds.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let elapsed = started.elapsed();
        let left = |time: Duration| {
            let paused = supervisors.paused().saturating_sub(paused);
            (time + paused).saturating_sub(elapsed)
        };
        let end = [look, give_up].map(left);
        let next = if end[0].is_zero() {
            end[1].min(SUPERVISOR_LOOK)
        } else {
            end[0]
        };
        let timeout = PollTimeout::try_from(next.as_millis()).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(0) if end[0].is_zero() && is_stopped(supervisor) => {
                return Err(state_name('T').to_owned());
            }
            Ok(0) if end[1].is_zero() => return Err("does not report".to_owned()),
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(format!("cannot be read from: {error}")),
        }
        let [is_ready, has_exited] = [0, 1].map(|index: usize| fds[index].any().unwrap_or(false));
        if let Some(follower) = &mut follower {
            follower.read(false, &mut |text| said(CaseEvent::Printed { text }));
        }
        if is_ready {
            match nix::unistd::read(&events, &mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(count) => lines.push(&buffer[..count], &mut said),
            }
        } else if has_exited {
            break;
        }
    }
    if let Some(follower) = &mut follower {
        follower.read(true, &mut |text| said(CaseEvent::Printed { text }));
    }
    lines.report.ok_or_else(|| "was killed".to_owned())
}

/// Assembles lines from chunks.
#[derive(Default)]
struct Lines {
    /// The start of an incomplete line.
    rest: Vec<u8>,
    /// That line is too long, and the rest of it is skipped.
    too_long: bool,
    /// What the supervisor has reported.
    report: Option<SupervisorReport>,
}

impl Lines {
    /// Linear in the number of bytes, whatever the chunks: no byte is searched twice.
    fn push(&mut self, bytes: &[u8], said: &mut impl FnMut(CaseEvent)) {
        let mut pieces = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            if !self.too_long {
                self.rest.extend_from_slice(piece);
                self.too_long = self.rest.len() > LINE;
            }
            // Every piece but the last was followed by a line break.
            if pieces.peek().is_some() {
                // Only our own code writes here, so a line that does not parse is garbage from a
                // broken case.
                match self.rest.split_first() {
                    _ if self.too_long => {}
                    Some((&REPORT, report)) => {
                        if let Ok(report) = serde_json::from_slice(report) {
                            self.report = Some(report);
                        }
                    }
                    _ => {
                        if let Ok(event) = serde_json::from_slice(&self.rest) {
                            said(event);
                        }
                    }
                }
                self.too_long = false;
                self.rest.clear();
            }
            if self.too_long {
                self.rest = Vec::new();
            }
        }
    }
}

/// The end of a file, as text.
fn tail(path: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(OUTPUT_TAIL);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(OUTPUT_TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::supervise::End;

    #[test]
    fn a_suspension_counts_before_it_ends() {
        let supervisors = Supervisors::default();
        let rest = Duration::from_millis(1);
        supervisors.all().paused_since = Instant::now().checked_sub(rest);
        assert!(supervisors.paused() >= rest);
        supervisors.all().wake();
        let paused = supervisors.paused();
        assert!(paused >= rest && supervisors.paused() == paused);
    }

    #[test]
    fn events_are_assembled_from_chunks_and_garbage_is_skipped() {
        let mut lines = Lines::default();
        let mut events = Vec::new();
        let mut said = |event| events.push(event);
        for piece in [
            "{\"event\":\"star",
            "ted\",\"pid\":7}\nrubbish\n{\"event\":",
            "\"passed\"}\n{\"event\":\"pa",
        ] {
            lines.push(piece.as_bytes(), &mut said);
        }
        assert_eq!(events, [CaseEvent::Started { pid: 7 }, CaseEvent::Passed]);
    }

    #[test]
    fn the_report_comes_after_a_line_in_which_the_case_was_killed() {
        let report = SupervisorReport {
            end: End::Exited(3),
            leaks: Vec::new(),
            overdue: None,
            elapsed: Duration::from_secs(1),
        };
        let mut lines = Lines::default();
        lines.push(b"{\"event\":\"pa", &mut |event| panic!("{event:?}"));
        assert!(lines.report.is_none());
        let text = report.to_line().unwrap();
        lines.push(&text, &mut |event| panic!("{event:?}"));
        assert!(matches!(lines.report, Some(report) if report.end == End::Exited(3)));
    }

    #[test]
    fn nobody_waits_for_a_pipe_that_somebody_else_holds_after_the_supervisor() {
        let report = SupervisorReport {
            end: End::Exited(0),
            leaks: Vec::new(),
            overdue: None,
            elapsed: Duration::ZERO,
        };
        for said in [Vec::new(), report.to_line().unwrap()] {
            let (events, held) = pipe().unwrap();
            nix::unistd::write(&held, &said).unwrap();
            let mut supervisor = std::process::Command::new("true").spawn().unwrap();
            let limits = [Duration::from_secs(60); 2];
            let supervisors = Supervisors::default();
            let heard = listen(supervisor.id(), events, None, &supervisors, limits, |_| ());
            match said.is_empty() {
                true => assert_eq!(heard.unwrap_err(), "was killed"),
                false => assert_eq!(heard.unwrap().end, End::Exited(0)),
            }
            supervisor.wait().unwrap();
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_and_not_kept() {
        let mut lines = Lines::default();
        let mut events = Vec::new();
        let mut said = |event| events.push(event);
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..=LINE >> 20 {
            lines.push(&piece, &mut said);
        }
        assert_eq!(lines.rest.capacity(), 0);
        lines.push(b"xx\n{\"event\":\"passed\"}\n", &mut said);
        assert_eq!(events, [CaseEvent::Passed]);
    }

    #[test]
    fn an_order_to_end_also_reaches_a_supervisor_that_starts_later() {
        let supervisors = Supervisors::default();
        let start = |pid| {
            let (out, control) = pipe().unwrap();
            supervisors.all().register(pid, control);
            out
        };
        let ordered = |out: &OwnedFd| {
            let mut bytes = [0; 8];
            let count = nix::unistd::read(out, &mut bytes).unwrap();
            bytes[..count].to_vec()
        };
        let early = start(1);
        supervisors.order_all(Order::Explain);
        assert!(!supervisors.are_ending());
        supervisors.order_all(Order::Terminate);
        let late = start(2);
        assert!(supervisors.are_ending());
        assert!(supervisors.all().living.values().all(|one| one.interrupted));
        // Closes the pipes, so that reading finds the end instead of blocking.
        drop(supervisors);
        assert_eq!(ordered(&early), b"et");
        assert_eq!(ordered(&late), b"t");
    }

    #[test]
    fn only_the_end_of_a_long_output_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        std::fs::write(&path, "x".repeat(100_000) + "end").unwrap();
        let tail = tail(&path);
        assert_eq!(tail.len() as u64, OUTPUT_TAIL);
        assert!(tail.ends_with("end"));
    }
}
