//! Estimates how long a case was ready to run but got no processor.

use std::fs;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

use super::process_table::{Process, proc_file};

/// How long these processes, and children they have waited for, were ready to run while others ran.
/// A case works sequentially, so it has lost this time. Only the first thread of each process
/// counts. Zero if the kernel does not tell.
pub(super) fn starved(processes: &[Process]) -> Duration {
    let living = processes.iter().filter_map(|process| running(process.pid));
    let (ran, waited) = living.fold(Default::default(), |(a, b), (c, d)| (a + c, b + d));
    let ended = processes.iter().map(|process| process.ran_below).sum();
    estimate(ran, waited, ticks(ended))
}

/// Assumes that ended processes waited in the same proportion as living ones: the kernel does not
/// keep their waiting time.
fn estimate(ran: Duration, waited: Duration, ended: Duration) -> Duration {
    match ran.is_zero() {
        true => waited,
        false => waited + ended.mul_f64(waited.div_duration_f64(ran)),
    }
}

/// How long the first thread of a process ran, and how long it waited for a processor.
fn running(pid: u32) -> Option<(Duration, Duration)> {
    let text = fs::read_to_string(proc_file(pid, "schedstat")).ok()?;
    let mut numbers = text.split_whitespace().map(str::parse);
    let mut next = || numbers.next()?.ok().map(Duration::from_nanos);
    Some((next()?, next()?))
}

/// The duration of this many clock ticks.
fn ticks(count: u64) -> Duration {
    match sysconf(SysconfVar::CLK_TCK) {
        Ok(Some(second @ 1..)) => Duration::from_secs(count) / second as u32,
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn ended_processes_waited_in_proportion() {
        assert_eq!(estimate(millis(10), millis(90), millis(0)), millis(90));
        assert_eq!(estimate(millis(10), millis(90), millis(20)), millis(270));
        assert_eq!(estimate(millis(10), millis(0), millis(500)), millis(0));
        assert_eq!(estimate(millis(0), millis(7), millis(500)), millis(7));
    }

    #[test]
    fn a_process_has_run_and_so_have_its_children() {
        let keeps_it = running(std::process::id()).is_some_and(|(ran, _)| !ran.is_zero());
        if !keeps_it {
            println!("skipped: this kernel does not keep how long a process ran");
            return;
        }
        let mut shell = Command::new("sh");
        // Long enough to take several clock ticks.
        let work = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";
        shell.args(["-c", &format!("sh -c '{work}'; echo; read line")]);
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = [0];
        std::io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut line).unwrap();
        let (ran, _) = running(shell.id()).unwrap();
        assert!(!ran.is_zero());
        let ran_below = Process::of(shell.id()).unwrap().ran_below;
        assert!(ticks(ran_below) >= millis(10));
        drop(shell.stdin.take());
        shell.wait().unwrap();
        assert_eq!((running(shell.id()), Process::of(shell.id())), (None, None));
    }
}
