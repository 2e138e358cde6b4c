//! A backing node that is attached where the two are served by iothreads.

use iotests_core::author::MachineBuilder;

use super::*;

/// Which iothread serves the disk on each, if there is a disk on it.
struct Threads {
    overlay: Option<&'static str>,
    backing: Option<&'static str>,
    throttled: bool,
    /// What is said if it is refused.
    refused: Option<&'static str>,
}

rows! {
    THREADS: Threads { overlay, backing, throttled, refused };
    // Exports can be moved from one to another.
    "that-differ" => Some("one"), Some("two"), false,
        Some("Cannot change iothread of active block backend"),
        host = System, upstream = "test_iothreads_error";
    "that-are-the-same" => Some("one"), Some("one"), false, None,
        upstream = "test_iothreads_compatible_users";
    "of-the-overlay" => Some("one"), None, false, None,
        upstream = "test_iothreads_switch_backing";
    "of-the-backing-node" => None, Some("one"), false, None,
        upstream = "test_iothreads_switch_overlay";
    "that-are-the-same-with-throttling" => Some("one"), Some("one"), true, None,
        needs = [Driver("throttle")], upstream = "test_iothreads_with_throttling";
}

impl Threads {
    fn node(&self, image: &Image) -> Node {
        let node = alone(image);
        let file = part(&node, "file");
        match self.throttled {
            true => node.file(Node::throttle("limits", file)),
            false => node,
        }
    }

    fn builder(&self, t: &Test, images: &Images) -> MachineBuilder {
        let vm = t.host().iothread("one").iothread("two");
        let vm = match self.throttled {
            true => vm.throttle_group("limits", json!({"iops-total": 1000})),
            false => vm,
        };
        let both = [(&images.base, self.overlay), (&images.other, self.backing)];
        both.into_iter().fold(vm, |vm, (image, iothread)| match iothread {
            None => vm.blockdev(self.node(image)),
            Some(iothread) => {
                let disk = Disk::of(self.node(image)).scsi().iothread(iothread);
                vm.disk(disk.property("share-rw", true))
            }
        })
    }
}

/// See docs/qemu-findings.md.
const CLOSED: KnownBug = known(
    "a client that leaves an export in an iothread aborts the daemon: a backport of 3e7ef738c8",
    "nbd_blockdev_client_closed",
    AllOf(&[before(8, 0), OnBackend(Backend::Qsd)]),
);

/// See docs/qemu-findings.md.
const LEAVING: KnownBug = known(
    "a client that leaves while its export moves to another thread aborts the daemon",
    "blk_aio_attached: Assertion `client->recv_coroutine == NULL'",
    AllOf(&[since(8, 0), OnBackend(Backend::Qsd)]),
)
.only(&[&["of-the-backing-node"]])
.intermittent();

/// See docs/qemu-findings.md.
const UNLOCKED: KnownBug = known(
    "a node with a request in flight is drained without the lock of its thread",
    "qemu_mutex_unlock_impl: Operation not permitted",
    before(9, 0),
)
.only(&[&["of-the-backing-node"]])
.intermittent();

/// See docs/qemu-findings.md.
const FORGOTTEN: KnownBug = known(
    "a request that an iothread sends while its disk is drained may wait for ever",
    "expected 0xd",
    before(8, 1),
)
.intermittent();

/// The backing node is attached if one of the two can go to the other's iothread, and detached in any
/// case. Both disks work all the time.
#[case(
    upstream = "245::TestBlockdevReopen::{threads}", rows = THREADS,
    known_bugs = [CLOSED, LEAVING, UNLOCKED, FORGOTTEN]
)]
async fn agree_on_one(t: &mut Test, threads: &Threads) -> CaseResult {
    let images = Images::create(t).await?;
    let vm = threads.builder(t, &images).launch().await?;
    let (mut base, mut other) = (own("base"), own("other"));
    for turn in 0..2 {
        // Where there is data already, so that no file grows.
        let base_at = (&mut base, "base", threads.overlay, turn);
        for (held, name, iothread, at) in
            [base_at, (&mut other, "other", threads.backing, 24 + turn)]
        {
            if iothread.is_some() {
                let command = format!("aio_write -P 0xd{turn} {}k 64k", at * 64);
                vm.disk(name).io(&command).await?;
                *held = std::mem::take(held).written(0xd0 + turn as u8, clusters(at..at + 1));
            }
        }
        let attach = vm.reopen("base", |node| node.backing("other"));
        match threads.refused {
            Some(says) => attach.refused(says).await?,
            None => {
                attach.await?;
                vm.assert_chain("base -> other").await?;
                vm.node("base").assert_reads(base.over(&other)).await?;
            }
        }
        vm.reopen("base", Node::no_backing).await?;
        vm.assert_chain("base").await?;
        vm.node("base").assert_reads(&base).await?;
        vm.node("other").assert_reads(&other).await?;
    }
    vm.shutdown().await?;
    images.base.assert_layer(base).await?;
    images.other.assert_layer(other).await
}
