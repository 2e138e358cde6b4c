//! Jobs, on both kinds of machine.

use iotests_core::author::Outcome;
use iotests_core::author::assert::AssertJson;
use iotests_core::prelude::*;
use serde_json::{Value, json};

use super::bench::{Bench, Run, case, hosts};

fn null(name: &str) -> Value {
    json!({"driver": "null-co", "node-name": name, "size": MIB})
}

#[test]
fn a_commit_is_completed_and_the_data_has_moved() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let base = t.image("base").size(MIB).fill(0x11).create().await?;
            let mid = t.image("mid").backing(&base).write(0x22, 0..64 * KIB).create().await?;
            let top = t.image("top").backing(&mid).create().await?;
            let vm = t.host().drive(&top).launch().await?;
            vm.commit(&top).top(&mid).base(&base).start().await?.wait().await?;
            vm.assert_no_jobs().await?;
            vm.assert_chain("top -> base").await?;
            vm.shutdown().await?;
            base.assert_pattern(0x22, 0..64 * KIB).await?;
        }));
        run.assert_passed();
    }
}

/// A machine with two nodes that hold nothing, `a` and `b`.
async fn two_nodes(t: &mut Test) -> CaseResult<Machine> {
    let host = t.host().blockdev(null("a")).blockdev(null("b"));
    host.launch().await
}

/// H34: completion is expected to succeed, or to fail with just this error.
#[test]
fn the_end_of_a_job_is_a_success_or_the_expected_error() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let small = json!({"driver": "null-co", "node-name": "broken", "size": MIB});
            let broken = json!({
                "driver": "blkdebug", "node-name": "errors", "image": "broken",
                "inject-error": [{"event": "none", "iotype": "read", "errno": 5, "once": false}],
            });
            let host = t.host().blockdev(small).blockdev(broken).blockdev(null("b"));
            let vm = host.launch().await?;
            let mirror = || vm.backup("errors").to("b");
            mirror().start().await?.wait().expect_error(exactly("Input/output error")).await?;
            let wrong = mirror().start().await?.wait().await.unwrap_err();
            assert!(wrong.message().contains("should have completed"), "{wrong}");
            let wrong = mirror().start().await?.wait().expect_error("No space").await.unwrap_err();
            assert!(
                wrong.message().ends_with("expected \"No space\""),
                "{wrong}"
            );
            let part = exactly("Input/output");
            let part = mirror().start().await?.wait().expect_error(part).await;
            let both = "expected: Input/output\n  found:    Input/output error";
            assert!(part.unwrap_err().to_string().contains(both));
            vm.backup("nobody").to("b").expect_error("nobody").await?;
            assert!(vm.backup("nobody").to("b").start().await.is_err());
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}

#[test]
fn a_mirror_is_cancelled_softly_and_by_force_before_and_after_it_is_ready() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let vm = two_nodes(t).await?;
            let slow = || vm.mirror("a").to("b").speed(1);
            assert_eq!(
                slow().start().await?.cancel().await?.outcome,
                Outcome::Cancelled
            );
            assert_eq!(
                slow().start().await?.force_cancel().await?.outcome,
                Outcome::Cancelled
            );
            let mut job = vm.mirror("a").to("b").start().await?;
            job.wait_ready().await?;
            assert_eq!(job.cancel().await?.outcome, Outcome::Completed);
            let mut job = vm.mirror("a").to("b").start().await?;
            job.wait_ready().await?;
            let ended = job.force_cancel().await?;
            assert_eq!(ended.outcome, Outcome::Cancelled);
            ended.event.assert("event", "BLOCK_JOB_CANCELLED")?;
            vm.assert_no_jobs().await?;
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}

/// H26: waiting for a pause takes the case's own time, not seconds in the code.
#[test]
fn a_job_rests_when_it_is_paused_and_goes_on_when_resumed() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let vm = two_nodes(t).await?;
            let job = vm.mirror("a").to("b").set("buf-size", 65536).speed(65536).start().await?;
            job.pause().await?;
            job.block_info().await?.assert("paused", true)?;
            job.info().await?.assert("status", "paused")?;
            job.set_speed(0).await?;
            job.resume().await?;
            job.complete().await?;
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}

/// H36: run completes, finalizes and dismisses; calls back before; cancels; returns the error.
#[test]
fn run_takes_a_job_through_all_its_states() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let vm = two_nodes(t).await?;
            vm.mirror("a").to("b").start().await?.run().await?;
            vm.mirror("a").to("b").manual().start().await?.run().await?;
            let (called, seen) = (std::rc::Rc::new(std::cell::Cell::new(false)), t.format());
            let flag = called.clone();
            let hook = move || async move {
                flag.set(seen == QCOW2);
                Ok(())
            };
            vm.backup("a").to("b").manual().start().await?.run().before_finalize(hook).await?;
            assert!(called.get());
            let cancelled = vm.backup("a").to("b").manual().run().cancel();
            let error = cancelled.error().await?;
            assert_eq!(error.as_deref(), Some("Operation canceled"));
            assert_eq!(vm.cmd("query-jobs", ()).await?, json!([]));
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}

/// H35: one way to make an image with `blockdev-create`, for success and for each kind of refusal.
#[test]
fn blockdev_create_runs_its_job_and_tells_its_error() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let path = t.file("made")?;
            let vm = t.host().launch().await?;
            vm.blockdev_create(json!({"driver": "file", "filename": path, "size": MIB})).await?;
            assert_eq!(std::fs::metadata(&path)?.len(), MIB);
            let nowhere = json!({"driver": "file", "filename": "/nowhere/x", "size": MIB});
            vm.blockdev_create(nowhere.clone()).expect_error("No such file").await?;
            assert!(vm.blockdev_create(nowhere.clone()).error().await?.is_some());
            assert!(vm.blockdev_create(nowhere).await.is_err());
            vm.blockdev_create(json!({"driver": "file"})).expect_error("missing").await?;
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}

fn narrated(on: bool, run: impl FnOnce(bool) -> Run) -> String {
    let run = run(on);
    run.assert_passed();
    run.log()
}

/// H28: without narration nothing is logged, job-complete included; with it, all is.
#[test]
fn run_logs_nothing_at_all_unless_it_is_narrated() {
    for (set, backend) in hosts() {
        let run = |on: bool| {
            Bench::new(&set).backend(backend).run(case!(|t| {
                let vm = two_nodes(t).await?;
                t.narrate(on);
                vm.mirror("a").to("b").id("m").manual().start().await?.run().await?;
                t.narrate(false);
                vm.shutdown().await?;
                let _ = t.golden();
            }))
        };
        assert_eq!(narrated(false, run), "");
        let log = narrated(true, run);
        for line in [
            r#"{"execute": "blockdev-mirror", "arguments": {"auto-dismiss": false, "#,
            r#"{"execute": "job-complete", "arguments": {"id": "m"}}"#,
            r#"{"execute": "job-finalize", "arguments": {"id": "m"}}"#,
            r#"{"execute": "job-dismiss", "arguments": {"id": "m"}}"#,
            r#""event": "BLOCK_JOB_COMPLETED", "timestamp": {"microseconds": "USECS", "seconds": "SECS"}"#,
            r#"{"return": {}}"#,
        ] {
            assert!(log.contains(line), "{line} is not in:\n{log}");
        }
    }
}

/// Jobs of a transaction begin with its other actions, or none of all that happens; in a group they
/// end together.
#[test]
fn the_actions_of_a_transaction_are_done_together() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let broken = json!({
                "driver": "blkdebug", "node-name": "errors", "image": (null("broken")),
                "inject-error": [{"event": "none", "iotype": "read", "errno": 5, "once": false}],
            });
            let nodes = ["a", "b", "c"].map(null).into_iter().chain([broken]);
            let vm = nodes.fold(t.host(), |host, node| host.blockdev(node));
            let vm = vm.launch().await?;
            let bitmap = json!({"node": "a", "name": "since"});
            let begin = || {
                let begin = vm.transaction();
                begin.action("block-dirty-bitmap-add", bitmap.clone())
            };

            let refused = begin().job(vm.backup("a").to("nobody"));
            refused.expect_error("nobody").await?;
            let refused = begin().job(vm.backup("a").to("nobody")).start::<1>();
            assert!(refused.await.is_err());
            let miscounted = begin().job(vm.backup("a").to("b")).start::<2>().await;
            let wrong = miscounted.err().unwrap();
            assert_eq!(wrong.message(), "the transaction has 1 jobs, not 2");
            assert!(!vm.bitmap("a", "since").exists().await?);
            vm.assert_no_jobs().await?;

            let both = begin().job(vm.backup("a").to("b"));
            let [job] = both.start().await?;
            job.wait().await?;
            vm.bitmap("a", "since").await?;

            let group = vm.transaction().grouped();
            let group = group.job(vm.backup("a").to("b").speed(1));
            let [slow, fails] = group.job(vm.backup("errors").to("c")).start().await?;
            let error = Outcome::Failed("Input/output error".to_owned());
            assert_eq!(fails.wait().outcome().await?.outcome, error);
            assert_eq!(slow.wait().outcome().await?.outcome, Outcome::Cancelled);
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}

#[test]
fn a_job_left_to_the_end_of_its_machine_is_no_problem() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let vm = two_nodes(t).await?;
            vm.mirror("a").to("b").speed(1).start().await?.leave();
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}
