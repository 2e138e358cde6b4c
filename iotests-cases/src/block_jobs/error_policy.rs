//! I/O errors that jobs meet, and what their error policy makes of them.

use iotests_core::prelude::*;

use super::chain::{Chain, Layer};

pub(super) const EIO: i32 = 5;
pub(super) const ENOSPC: i32 = 28;

/// What QEMU does when a job with this policy meets an error: `enospc` is to stop when there is no space,
/// and to report any other error.
pub(super) fn action(policy: &'static str, errno: i32) -> &'static str {
    match (policy, errno) {
        ("enospc", ENOSPC) => "stop",
        ("enospc", _) => "report",
        (policy, _) => policy,
    }
}

/// The operation that an error is reported for: a target that cannot be flushed has lost writes.
pub(super) fn reported(operation: &str) -> &'static str {
    match operation {
        "read" => "read",
        _ => "write",
    }
}

/// An image as a node over a blkdebug node with these options.
pub(super) fn failing(image: &Image, options: Value) -> Node {
    let mut node = Node::new("blkdebug").child("image", image.protocol_node());
    for (name, value) in options.as_object().into_iter().flatten() {
        node = node.set(name, value);
    }
    image.node().file(node)
}

/// A layer as a node over the node of the next one, which meets this error, if there is one.
pub(super) fn layer_with(chain: &Chain, layer: Layer, error: Option<Value>) -> Node {
    let image = chain.image(layer);
    let node = match error {
        Some(error) => failing(image, json!({"inject-error": [error]})),
        None => image.node(),
    };
    match image.backing() {
        Some(below) => node.backing(below.name()),
        None => node,
    }
}

/// The job has stopped because of an error, and shows of what kind that was.
pub(super) async fn assert_stopped(job: &mut Job, status: &str, errno: i32) -> CaseResult {
    job.wait_status(status).await?;
    let why = if errno == ENOSPC { "nospace" } else { "failed" };
    job.block_info()
        .await?
        .assert_includes(&json!({"paused": true, "io-status": why, "status": status}))
}

/// Which errors jobs have met, and how they ended, in this order.
pub(super) fn take_job_events(vm: &Machine) -> Value {
    let names =
        ["ERROR", "READY", "CANCELLED", "COMPLETED"].map(|name| format!("BLOCK_JOB_{name}"));
    json!(vm.take_events(Matcher::one_of(names)))
}
