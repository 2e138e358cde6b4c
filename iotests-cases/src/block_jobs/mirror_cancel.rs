//! Cancelling a mirror in each phase of its life.

use iotests_core::prelude::*;

/// When and how a mirror is cancelled, and what becomes of it then.
struct Cancel {
    ready: bool,
    force: bool,
    outcome: Outcome,
}

const CANCELS: &[Row<Cancel>] = &[
    Row::new(
        "before-ready",
        Cancel {
            ready: false,
            force: false,
            outcome: Outcome::Cancelled,
        },
    ),
    Row::new(
        "before-ready-by-force",
        Cancel {
            ready: false,
            force: true,
            outcome: Outcome::Cancelled,
        },
    ),
    Row::new(
        "when-ready",
        Cancel {
            ready: true,
            force: false,
            outcome: Outcome::Completed,
        },
    ),
    Row::new(
        "when-ready-by-force",
        Cancel {
            ready: true,
            force: true,
            outcome: Outcome::Cancelled,
        },
    ),
];

fn null(name: &str, size: u64) -> Value {
    json!({"driver": "null-co", "node-name": name, "size": size})
}

/// A mirror that is cancelled counts as cancelled, unless it was ready and is not forced: then it
/// has completed.
#[case(upstream = ["218"], formats = [QCOW2, RAW], groups = [RW, QUICK, JOB], host = Host::Any, rows = CANCELS)]
async fn cancelled_or_completed(t: &mut Test, cancel: &Cancel) -> CaseResult {
    let host = t
        .host()
        .blockdev(null("source", MIB))
        .blockdev(null("target", MIB));
    let vm = host.launch().await?;
    let mut mirror = vm.mirror("source", "target");
    if !cancel.ready {
        // One piece is copied, then the job waits for a second.
        mirror = mirror.speed(64 * KIB).set("buf-size", 64 * KIB);
    }
    let mut job = mirror.start().await?;
    if cancel.ready {
        job.wait_ready().await?;
    }
    let id = job.id().to_owned();
    let ended = if cancel.force {
        job.force_cancel().await?
    } else {
        job.cancel().await?
    };

    assert_eq!(ended.outcome, cancel.outcome);
    let data = ended.event.at("data")?;
    data.assert_includes(&json!({"device": id, "type": "mirror", "len": MIB}))?;
    let done = data.at("offset")?.as_u64().unwrap_or_default();
    assert!(
        if cancel.ready {
            done == MIB
        } else {
            done < MIB
        },
        "{done} bytes were done"
    );
    data.assert("speed", if cancel.ready { 0 } else { 64 * KIB })?;
    data.assert_absent("error")?;
    vm.assert_no_jobs().await?;
    vm.assert_block_path("source", "/backing", None).await?;
    vm.shutdown().await?;
    Ok(())
}

/// A machine quits at once although a mirror waits for its throttled source.
#[case(
    upstream = ["218"], formats = [QCOW2, RAW], groups = [RW, QUICK, JOB, THROTTLE],
    needs = [Driver("throttle")], host = Host::Any
)]
async fn quitting_cancels_a_throttled_mirror(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(64 * MIB).fill(42).create().await?;
    let limits = json!({"bps-read": 4 * KIB});
    let throttled = json!({"driver": "throttle", "node-name": "throttled", "throttle-group": "tg", "file": "disk"});
    let vm = t
        .host()
        .object(json!({"qom-type": "throttle-group", "id": "tg", "limits": limits}))
        .blockdev(disk.node())
        .blockdev(throttled)
        .blockdev(null("target", 64 * MIB))
        .launch()
        .await?;
    vm.mirror("throttled", "target").start().await?.leave();

    // Left to the throttle, the mirror would take hours, and the requests already under way minutes.
    vm.shutdown().await?;
    disk.assert_fill(42).await?;
    disk.assert_clean().await
}
