//! A case that hangs is explained. The process exits then, so it is another one: this test binary,
//! by its environment it knows what to do.

use std::process::{Command, Stdio};

use iotests_core::author::{Sink, Test};
use iotests_core::prelude::*;
use iotests_core::wire::{CaseEvent, HangReport};
use rustix::process::{Pid, Signal as ToSelf, kill_process};
use serde_json::{Value, json};

use super::bench::{Bench, hosts};

const VARIABLE: &str = "IOTESTS_HANG";

fn null(name: &str) -> Value {
    json!({"driver": "null-co", "node-name": name, "size": MIB})
}

/// Not a test of its own: the process that hangs.
#[test]
fn helper_that_hangs_when_it_is_told_to() {
    let Some(how) = std::env::var_os(VARIABLE) else {
        return;
    };
    let (set, backend) = hosts().remove(0);
    let bench = Bench::new(&set).backend(backend);
    let sink = Sink::new(|event| println!("{}", serde_json::to_string(&event).unwrap()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let test = Test::new(bench.spec.clone(), sink.clone());
        let _explainer = test.explain_on_signals();
        let vm = test.host().blockdev(null("n0")).blockdev(null("n1"));
        let vm = vm.launch().await.unwrap();
        test.step("waiting for what never comes");
        let hanging = || {
            sink.put(CaseEvent::Log {
                text: "hanging".to_owned(),
            })
        };
        let job = || vm.mirror("n0").to("n1").set("buf-size", 65536).speed(1);
        // The wait begins first, then the other process hears of it.
        let signal = async { hanging() };
        match how.to_str().unwrap() {
            "blocking" => {
                hanging();
                std::thread::park();
            }
            "stopped" => {
                vm.signal(imgtools::process::Signal::SIGSTOP);
                let (answer, ()) = tokio::join!(vm.cmd("query-jobs", ()).into_future(), signal);
                panic!("{answer:?}");
            }
            "dead" => {
                let pid = Pid::from_raw(vm.pid().unwrap() as i32).unwrap();
                kill_process(pid, ToSelf::ABORT).unwrap();
                hanging();
                std::future::pending::<()>().await;
            }
            "ready" => {
                let mut job = job().start().await.unwrap();
                let (ready, ()) = tokio::join!(job.wait_ready(), signal);
                panic!("{ready:?}");
            }
            "run" => {
                let run = job().start().await.unwrap().run();
                let (end, ()) = tokio::join!(run.into_future(), signal);
                panic!("{end:?}");
            }
            _ => {
                let (event, ()) = tokio::join!(vm.event("NO_SUCH_EVENT"), signal);
                panic!("{event:?}");
            }
        }
    });
}

/// How the process ended and all that it said; it was sent these signals, each when it had said so much.
fn said(how: &str, signals: &[ToSelf]) -> (Option<i32>, Vec<CaseEvent>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "author::hang::helper_that_hangs_when_it_is_told_to",
            "--nocapture",
        ])
        .env(VARIABLE, how)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let reader = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut signals = signals.iter();
    let mut said = Vec::new();
    for line in std::io::BufRead::lines(reader).map_while(Result::ok) {
        let Some(at) = line.find('{') else { continue };
        let Ok(event) = serde_json::from_str(&line[at..]) else {
            continue;
        };
        if matches!(event, CaseEvent::Log { .. } | CaseEvent::Explained(_))
            && let Some(signal) = signals.next()
        {
            kill_process(Pid::from_child(&child), *signal).unwrap();
        }
        said.push(event);
    }
    (child.wait().unwrap().code(), said)
}

fn reports(said: &[CaseEvent]) -> Vec<HangReport> {
    let report = |event: &CaseEvent| match event {
        CaseEvent::Explained(report) => Some((**report).clone()),
        _ => None,
    };
    said.iter().filter_map(report).collect()
}

/// The one report of a case that hangs so and is aborted.
fn hang(how: &str) -> HangReport {
    let (code, said) = said(how, &[ToSelf::ABORT]);
    assert_eq!(code, Some(iotests_core::author::hang::EXIT_HANG));
    let mut reports = reports(&said);
    assert_eq!(reports.len(), 1, "{said:#?}");
    reports.remove(0)
}

fn finding<'r>(report: &'r HangReport, title: &str) -> &'r str {
    let mut found = report.evidence.iter();
    let found = found.find(|one| one.title.starts_with(title));
    &found.unwrap_or_else(|| panic!("no {title}: {report:#?}")).text
}

fn diagnosed<'r>(report: &'r HangReport, title: &str) -> &'r str {
    let mut found = report.machines[0].diagnosis.iter();
    let found = found.find(|one| one.title == title);
    &found.unwrap_or_else(|| panic!("no {title}: {report:#?}")).text
}

/// H27: SIGABRT to a hanging case prints where it hangs.
#[test]
fn an_aborted_case_tells_the_line_that_waits_and_for_what() {
    if hosts().is_empty() {
        return;
    }
    let report = hang("event");
    assert_eq!(report.cause, "SIGABRT");
    assert_eq!(report.step.as_deref(), Some("waiting for what never comes"));
    assert!(
        report.headline.starts_with("the case waits for the event NO_SUCH_EVENT"),
        "{}",
        report.headline
    );
    assert!(report.place.as_ref().unwrap().file.ends_with("hang.rs"));
    assert!(finding(&report, "threads").contains("explainer"));
    assert!(diagnosed(&report, "x-debug-query-block-graph").contains("n0"));
    // What the case said last, and not what the diagnosis asked.
    let tail = report.machines[0].qmp_tail.join("\n");
    assert!(
        tail.contains("QMP") && !tail.contains("x-debug-query-block-graph"),
        "{tail}"
    );
}

/// H27: a case that is only asked goes on, as often as it is asked.
#[test]
fn a_case_that_is_asked_explains_itself_and_goes_on() {
    if hosts().is_empty() {
        return;
    }
    let (code, said) = said("event", &[ToSelf::USR1, ToSelf::USR1, ToSelf::ABORT]);
    assert_eq!(code, Some(iotests_core::author::hang::EXIT_HANG));
    let causes: Vec<String> = reports(&said).into_iter().map(|one| one.cause).collect();
    assert_eq!(causes, ["SIGUSR1", "SIGUSR1", "SIGABRT"]);
}

/// H26, H37: a wait for a job has no time of its own: it lasts until the case is ended, which shows the job.
#[test]
fn a_job_that_does_not_get_there_is_waited_for_until_the_case_is_ended() {
    if hosts().is_empty() {
        return;
    }
    for how in ["ready", "run"] {
        let report = hang(how);
        assert!(report.headline.contains("the case waits for"), "{report:?}");
        assert!(report.place.as_ref().unwrap().file.ends_with("hang.rs"));
        let jobs = diagnosed(&report, "query-jobs");
        assert!(jobs.contains("\"status\":\"running\""), "{jobs}");
    }
}

#[test]
fn a_case_that_blocks_its_thread_is_explained_with_its_stack_and_no_machine_is_blamed() {
    if hosts().is_empty() {
        return;
    }
    let report = hang("blocking");
    assert!(
        report.headline.starts_with("the case spins or blocks its thread, in ")
            && report.headline.contains("hang.rs:"),
        "{}",
        report.headline
    );
    assert!(finding(&report, "stack of the case").contains("hang.rs:"));
    assert_eq!(report.machines[0].status, "is running");
}

#[test]
fn a_machine_that_is_stopped_is_named_with_what_it_was_doing() {
    if hosts().is_empty() {
        return;
    }
    let report = hang("stopped");
    let status = &report.machines[0].status;
    assert!(
        status.starts_with("hangs: stopped by a signal, in "),
        "{status}"
    );
    assert!(report.headline.contains(status.as_str()), "{report:?}");
    assert!(report.headline.contains("query-jobs on"), "{report:?}");
    assert!(
        diagnosed(&report, "threads").contains(" T in "),
        "{report:?}"
    );
}

/// A case that waits for something else while its machine is dead dies of that, not of the wait.
#[test]
fn a_machine_that_died_during_a_hang_is_reported_as_dead() {
    if hosts().is_empty() {
        return;
    }
    let (_, said) = said("dead", &[ToSelf::ABORT]);
    let death = said.iter().find_map(|event| match event {
        CaseEvent::Died(death) => Some(death),
        _ => None,
    });
    let death = death.unwrap_or_else(|| panic!("{said:#?}"));
    assert_eq!(death.signal, Some(6), "{death:?}");
    assert!(death.headline().contains("died of SIGABRT"), "{death:?}");
}
