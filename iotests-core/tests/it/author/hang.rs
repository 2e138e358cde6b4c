//! A case that hangs is explained. The process exits then, so it is another one: this test binary,
//! told by its environment what to do.

use std::process::{Command, Stdio};

use iotests_core::author::{Sink, Test};
use iotests_core::wire::{CaseEvent, HangReport};
use serde_json::json;

use super::bench::{Bench, hosts};

const VARIABLE: &str = "IOTESTS_HANG";

/// Not a test of its own: the process that hangs.
#[test]
fn helper_that_hangs_when_it_is_told_to() {
    let Some(how) = std::env::var_os(VARIABLE) else {
        return;
    };
    let (set, backend) = hosts().remove(0);
    let mut bench = Bench::new(&set).backend(backend);
    if how != "signal" {
        bench = bench.short_budget();
        // For whoever judges the time.
        eprintln!("{}", bench.spec.deadline().as_secs_f64());
    }
    let sink = Sink::new(|event| println!("{}", serde_json::to_string(&event).unwrap()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let test = Test::new(bench.spec.clone(), sink.clone());
        let _watchdog = test.watch();
        let node = json!({"driver": "null-co", "node-name": "n0"});
        let vm = test.host().blockdev(node).launch().await.unwrap();
        test.step("waiting for what never comes");
        if how == "blocking" {
            std::thread::park();
        }
        // The wait begins first, then the other process is told.
        let told = async {
            sink.put(CaseEvent::Log {
                text: "hanging".to_owned(),
            })
        };
        let (event, ()) = tokio::join!(vm.event("NO_SUCH_EVENT"), told);
        panic!("{event:?}");
    });
}

/// The exit status, the report, and the deadline in seconds unless the case is aborted.
fn hang(how: &str, abort: bool) -> (Option<i32>, HangReport, Option<f64>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "author::hang::helper_that_hangs_when_it_is_told_to",
            "--nocapture",
        ])
        .env(VARIABLE, how)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let errors = std::io::BufReader::new(child.stderr.take().unwrap());
    let deadline = std::thread::spawn(|| {
        let mut lines = std::io::BufRead::lines(errors).map_while(Result::ok);
        let deadline = lines.find_map(|line| line.parse::<f64>().ok());
        lines.for_each(drop);
        deadline
    });
    let reader = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut report = None;
    for line in std::io::BufRead::lines(reader).map_while(Result::ok) {
        let Some(at) = line.find('{') else { continue };
        match serde_json::from_str(&line[at..]) {
            Ok(CaseEvent::Log { .. }) if abort => {
                let pid = rustix::process::Pid::from_child(&child);
                rustix::process::kill_process(pid, rustix::process::Signal::ABORT).unwrap();
            }
            Ok(CaseEvent::Hang(told)) => report = Some(*told),
            _ => {}
        }
    }
    (
        child.wait().unwrap().code(),
        report.expect("the hang was not told"),
        deadline.join().unwrap(),
    )
}

fn assert_told(report: &HangReport) {
    assert_eq!(report.step.as_deref(), Some("waiting for what never comes"));
    assert!(
        report.evidence.iter().any(|text| text.contains("watchdog")),
        "{report:?}"
    );
    let machine = &report.machines[0];
    assert!(
        machine.stderr_tail.contains("n0"),
        "no block graph: {machine:?}"
    );
    assert!(
        machine.qmp_tail.iter().any(|line| line.contains("QMP")),
        "{machine:?}"
    );
}

/// H27: SIGABRT to a hanging case prints where it hangs.
#[test]
fn an_aborted_case_tells_the_line_that_waits_and_for_what() {
    if hosts().is_empty() {
        return;
    }
    let (code, report, _) = hang("signal", true);
    assert_eq!(code, Some(iotests_core::author::hang::EXIT_HANG));
    assert_eq!(report.cause, "SIGABRT");
    assert!(
        report.waiting.as_ref().unwrap().contains("NO_SUCH_EVENT"),
        "{report:?}"
    );
    assert!(report.place.as_ref().unwrap().file.ends_with("hang.rs"));
    let told = &report.machines[0].stderr_tail;
    assert!(
        told.contains("x-debug-query-block-graph") && told.contains("n0"),
        "{told}"
    );
    assert_told(&report);
}

#[test]
fn a_case_that_blocks_its_thread_is_explained_at_its_deadline() {
    if hosts().is_empty() {
        return;
    }
    let (code, report, deadline) = hang("blocking", false);
    assert_eq!(code, Some(iotests_core::author::hang::EXIT_HANG));
    assert_eq!(report.cause, "the deadline has passed");
    let (elapsed, deadline) = (report.elapsed.as_secs_f64(), deadline.unwrap());
    assert!(
        (deadline..deadline * 15.0).contains(&elapsed),
        "after {elapsed} of {deadline} s: {report:?}"
    );
    assert_told(&report);
}
