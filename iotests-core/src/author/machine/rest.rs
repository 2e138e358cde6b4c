//! Commands that meet a request on its way: the request is kept back, and let go when the machine can do
//! nothing more without it.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::pin::pin;

use nix::unistd::{Pid, gettid};

use super::running::Machine;
use crate::author::action::Action;
use crate::author::failure::CaseResult;

/// How many looks in a row must find that no thread has run. Two would do, but for the case's own
/// servers, which answer after some turns of its runtime.
const LOOKS: usize = 8;

/// Of each thread of a process, how often it has gone to sleep or been preempted.
type Switches = BTreeMap<String, u64>;

impl Machine {
    /// Carries out a command while something else keeps a request back, such as a server of the
    /// case, and lets the request go (`release`) when the machine has come to rest: it has done
    /// all that it can without it, and has answered the command or not. So the request is in flight
    /// while the command is carried out, whether the command waits for it or not.
    ///
    /// To be passed is one QMP command, or an expectation of how it fails. An emulator whose guest
    /// runs is never at rest.
    #[track_caller]
    pub fn while_in_flight<'a, T: 'a>(
        &'a self,
        command: impl IntoFuture<Output = CaseResult<T>, IntoFuture: 'a>,
        release: impl FnOnce() + 'a,
    ) -> Action<'a, T> {
        let (command, pid) = (command.into_future(), self.pid());
        let what = format!("{} to answer while a request is in flight", self.name());
        Action::new(what, async move {
            let is_sent = || self.monitor.client.outstanding().0 > 0;
            let asleep = || {
                // The case's own servers do their work in other threads.
                let mut all = asleep(std::process::id(), Some(gettid()))?;
                all.extend(pid.map_or_else(|| Some(Switches::new()), |pid| asleep(pid, None))?);
                Some(all)
            };
            release_at_rest(command, is_sent, asleep, release).await
        })
    }
}

async fn release_at_rest<T>(
    command: impl Future<Output = T>,
    is_sent: impl Fn() -> bool,
    asleep: impl Fn() -> Option<Switches>,
    release: impl FnOnce(),
) -> T {
    let mut command = pin!(command);
    let answer = tokio::select! {
        // The command first: that sends it.
        biased;
        answer = &mut command => Some(answer),
        () = rest(|| asleep().filter(|_| is_sent())) => None,
    };
    if answer.is_some() {
        // What the command has begun may go on after its answer.
        rest(asleep).await;
    }
    release();
    match answer {
        Some(answer) => answer,
        None => command.await,
    }
}

/// Waits until nothing has run during some looks. Nothing reports that, so this asks again and again.
async fn rest(asleep: impl Fn() -> Option<Switches>) {
    let (mut before, mut same) = (None, 0);
    while same < LOOKS {
        let now = asleep();
        same = match &now {
            None => 0,
            Some(_) if now == before => same + 1,
            Some(_) => 1,
        };
        before = now;
        tokio::task::yield_now().await;
    }
}

/// None if a thread, other than this one, is running or about to. A process that has ended sleeps.
fn asleep(pid: u32, except: Option<Pid>) -> Option<Switches> {
    let threads = match fs::read_dir(format!("/proc/{pid}/task")) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Some(Switches::new()),
        threads => threads.ok()?,
    };
    let except = except.map(|thread| thread.to_string());
    let mut all = Switches::new();
    for thread in threads.flatten() {
        if except.as_deref().is_some_and(|except| thread.file_name() == except) {
            continue;
        }
        let status = fs::read_to_string(thread.path().join("status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim()
        };
        // On a processor or waiting for one; waiting for a disk.
        if field("State:").starts_with(['R', 'D']) {
            return None;
        }
        let switches = ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"];
        let switches = switches.map(|name| field(name).parse::<u64>().ok());
        let name = thread.file_name().to_string_lossy().into_owned();
        all.insert(name, switches.into_iter().sum::<Option<u64>>()?);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use imgtools::process::{Command, Stream};

    use super::*;

    /// Three looks find it asleep, with another number of switches each time; then it sleeps.
    fn restless(looks: &Cell<u64>) -> Option<Switches> {
        looks.set(looks.get() + 1);
        let switches = looks.get().min(4);
        (switches != 2).then(|| Switches::from([("1".to_owned(), switches)]))
    }

    #[tokio::test]
    async fn a_request_is_let_go_when_the_machine_waits_for_it() {
        let (looks, released) = (Cell::new(0), tokio::sync::Notify::new());
        let at = Cell::new(0);
        let command = async {
            released.notified().await;
            "answer"
        };
        let release = || {
            at.set(looks.get());
            released.notify_one();
        };
        let answer = release_at_rest(command, || true, || restless(&looks), release).await;
        assert_eq!((answer, at.get()), ("answer", 3 + LOOKS as u64));
    }

    #[tokio::test]
    async fn a_machine_that_has_answered_may_still_have_work() {
        let (looks, at) = (Cell::new(0), Cell::new(0));
        let release = || at.set(looks.get());
        let command = async { "answer" };
        let answer = release_at_rest(command, || false, || restless(&looks), release).await;
        assert_eq!((answer, at.get()), ("answer", 3 + LOOKS as u64));
    }

    #[tokio::test]
    async fn a_machine_that_has_not_got_the_command_is_not_at_rest() {
        let (turns, order) = (Cell::new(0), RefCell::new(Vec::new()));
        let command = async {
            for _ in 0..2 * LOOKS {
                tokio::task::yield_now().await;
            }
            order.borrow_mut().push("answered");
        };
        let is_sent = || {
            turns.set(turns.get() + 1);
            turns.get() > 4 * LOOKS
        };
        let asleep = || Some(Switches::new());
        release_at_rest(command, is_sent, asleep, || {
            order.borrow_mut().push("let go")
        })
        .await;
        assert_eq!(*order.borrow(), ["answered", "let go"]);
    }

    #[tokio::test]
    async fn a_process_sleeps_when_it_waits_and_not_while_it_runs() {
        let script = "read go; echo on; while :; do :; done";
        let command = Command::new("sh").args(["-c", script]).stdin_piped();
        let child = command.spawn_async().await.unwrap();
        rest(|| asleep(child.pid(), None)).await;
        let before = asleep(child.pid(), None).unwrap();
        assert_eq!(before.len(), 1);
        assert!(child.write("go\n"));
        child.until(|view| (view.end(Stream::Stdout) > 0).then_some(())).await.unwrap();
        // Preempted it still wants to run.
        assert_eq!(asleep(child.pid(), None), None);
        child.kill();
        child.exited().await.unwrap();
        assert!(asleep(child.pid(), None).is_some());
    }

    #[tokio::test]
    async fn a_process_that_has_run_in_between_has_not_slept() {
        let script = "while read go; do :; done";
        let command = Command::new("sh").args(["-c", script]).stdin_piped();
        let child = command.spawn_async().await.unwrap();
        rest(|| asleep(child.pid(), None)).await;
        let before = asleep(child.pid(), None).unwrap();
        assert!(child.write("go\n"));
        // The child takes the line, and waits for the next one.
        let asleep_again = || asleep(child.pid(), None).filter(|now| *now != before);
        rest(asleep_again).await;
        child.close_stdin();
        child.wait().await.unwrap();
    }

    #[test]
    fn another_thread_of_this_process_counts_and_this_one_does_not() {
        let own = std::process::id();
        assert_eq!(asleep(own, None), None);
        let gone = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !gone.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
            assert_eq!(asleep(own, Some(gettid())), None);
            gone.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}
