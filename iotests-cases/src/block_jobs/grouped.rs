//! Backups that end together: grouped in one transaction.

use std::ops::Range;

use imgtools::img::BitmapAction;
use iotests_core::author::MachineBuilder;
use iotests_core::prelude::*;

use super::error_policy::failing;
use super::verbs::VERBS;
use super::{HELD, SCSI};

defaults! {
    formats = [QCOW2], groups = [QUICK, BITMAP],
    unsupported_imgopts = ["compat", "data_file", "encrypt"],
}

rows! {
    /// Whose iothread serves the disks.
    THREADS: Option<&str>;
    "in-the-main-thread" => None;
    "in-an-iothread" => Some("io"), host = System;
}

const SIZE: u64 = MIB;
/// What the bitmaps have recorded before, and what they record while the jobs run.
const BEFORE: Range<u64> = clusters(0..8);
const DURING: Range<u64> = clusters(10..11);

/// Two disks with a bitmap each, and where they are backed up.
struct Pair {
    disks: [Image; 2],
    copies: [Image; 2],
}

const DISKS: [&str; 2] = ["one", "two"];

impl Pair {
    async fn create(t: &Test) -> CaseResult<Pair> {
        let disk = async |name| {
            let disk = t.image(name).size(SIZE).fill(0x11).create().await?;
            disk.bitmap("b0").with(|call| call.action(BitmapAction::Add)).await?;
            disk.write(0x22, BEFORE).await?;
            Ok::<_, Failure>(disk)
        };
        let copy = async |name| t.image(name).format(RAW).size(SIZE).create().await;
        Ok(Pair {
            disks: [disk(DISKS[0]).await?, disk(DISKS[1]).await?],
            copies: [copy("copy-of-one").await?, copy("copy-of-two").await?],
        })
    }

    /// A machine without the disks. The second target fails once, where the last piece of the backup is written.
    fn targets(&self, t: &Test, thread: Option<&str>, fails: bool) -> MachineBuilder {
        let error = json!({
            "event": "none", "iotype": "write", "sector": (BEFORE.end - CLUSTER) / 512, "once": true,
        });
        let errors = if fails {
            json!({"inject-error": [error]})
        } else {
            json!({})
        };
        let [one, two] = &self.copies;
        let host = match thread {
            Some(id) => t.host().iothread(id),
            None => t.host(),
        };
        host.blockdev(one).blockdev(failing(two, errors))
    }

    fn host(&self, t: &Test, thread: Option<&str>, fails: bool) -> MachineBuilder {
        let disk = |image: &Image| match thread {
            Some(id) => Disk::of(image).scsi().iothread(id),
            None => Disk::of(image).scsi(),
        };
        let [one, two] = &self.disks;
        self.targets(t, thread, fails).disk(disk(one)).disk(disk(two))
    }

    /// Starts both at these speeds. One with no limit is brought to where it waits, another to its first step.
    async fn start(&self, vm: &Machine, speeds: [u64; 2], manual: bool) -> CaseResult<[Job; 2]> {
        let backup = |number: usize| {
            let job = vm.backup(DISKS[number]).to(&self.copies[number]);
            let job = job.sync("incremental").set("bitmap", "b0").speed(speeds[number]);
            let job = job.set("x-perf", json!({"max-chunk": CLUSTER}));
            if manual { job.manual() } else { job }
        };
        let both = vm.transaction().job(backup(0)).job(backup(1)).grouped();
        let mut jobs: [Job; 2] = both.start().await?;
        for (job, speed) in jobs.iter_mut().zip(speeds) {
            match speed {
                0 => job.wait_status("waiting").await?,
                _ => {
                    let begun = |job: &Value| job["current-progress"] == CLUSTER;
                    job.until("its first step", begun).await?;
                    check!(job.info().await?["status"] == "running");
                }
            }
        }
        Ok(jobs)
    }

    /// Both bitmaps have what they had, and what was written since; backups that end well have just that, and leave the bitmaps empty.
    async fn assert_back_up(self, vm: Machine, more: bool) -> CaseResult {
        vm.assert_no_jobs().await?;
        let recorded = if more { 9 * CLUSTER } else { 8 * CLUSTER };
        for disk in DISKS {
            let held = json!({"count": recorded, "recording": true, "persistent": true});
            vm.bitmap(disk, "b0").assert(held).await?;
        }
        let [one, two] = self.start(&vm, [0, HELD], false).await?;
        two.set_speed(0).await?;
        one.wait().await?;
        two.wait().await?;
        for disk in DISKS {
            check!(vm.bitmap(disk, "b0").await?.count == 0);
        }
        vm.shutdown().await?;
        self.assert_copied(more).await
    }

    /// The backups have all that the bitmaps had recorded, and nothing else.
    async fn assert_copied(&self, more: bool) -> CaseResult {
        let changed = Content::nothing().written(0x22, BEFORE);
        let changed = if more {
            changed.written(0x33, DURING)
        } else {
            changed
        };
        for (disk, copy) in self.disks.iter().zip(&self.copies) {
            let all = Content::nothing().written(0x11, 0..SIZE);
            disk.assert_reads(changed.over(&all)).await?;
            disk.assert_clean().await?;
            copy.assert_reads(&changed).await?;
        }
        Ok(())
    }
}

/// How one of two backups ends before its time.
struct End {
    /// Whether the first one is done by then, and waits.
    waits: bool,
    what: What,
}

enum What {
    /// The second one meets an error.
    Fails,
    /// This one is cancelled, with this command.
    Cancelled(usize, &'static str),
}
use What::{Cancelled, Fails};

rows! {
    ENDS: End { waits, what };
    "while-one-waits-the-other-fails" => true, Fails;
    "while-one-runs-the-other-fails" => false, Fails;
    "while-one-waits-the-other-is-cancelled" => true, Cancelled(1, "job-cancel");
    "while-one-runs-the-other-is-cancelled" => false, Cancelled(1, "job-cancel");
    "the-one-that-waits-is-cancelled" => true, Cancelled(0, "job-cancel");
    "the-one-that-waits-is-cancelled-softly" => true, Cancelled(0, "block-job-cancel");
}

/// When one of two backups fails or is cancelled, so is the other one, also if it is done and waits. Both bitmaps are as they were, with
/// what the guest has written since.
#[case(rows = (THREADS, ENDS), needs = [Driver("blkdebug")])]
async fn are_cancelled_together(t: &mut Test, thread: &Option<&str>, end: &End) -> CaseResult {
    let pair = Pair::create(t).await?;
    let fails = matches!(end.what, Fails);
    let vm = pair.host(t, *thread, fails).launch().await?;
    let first = if end.waits { 0 } else { HELD };
    let [one, two] = pair.start(&vm, [first, HELD], false).await?;
    for disk in DISKS {
        vm.disk(disk).write(0x33, DURING).await?;
        check!(vm.bitmap(disk, "b0").await?.busy);
    }

    match end.what {
        Fails => two.set_speed(0).await?,
        Cancelled(which, command) => {
            let job = [&one, &two][which].id();
            let key = if command == "job-cancel" {
                "id"
            } else {
                "device"
            };
            vm.cmd(command, json!({key: job})).await?;
        }
    }
    check!(one.wait().outcome().await?.outcome == Outcome::Cancelled);
    let expected = match fails {
        true => Outcome::Failed("Input/output error".to_owned()),
        false => Outcome::Cancelled,
    };
    check!(two.wait().outcome().await?.outcome == expected);
    pair.assert_back_up(vm, true).await
}

/// A backup that is done and waits for the other one accepts to be cancelled and nothing else, and what is refused has no effect. When the
/// other one is done, too, one command finalizes both, and each is dismissed for itself.
#[case(rows = THREADS)]
async fn refuse_most_while_they_wait(t: &mut Test, thread: &Option<&str>) -> CaseResult {
    let pair = Pair::create(t).await?;
    let vm = pair.host(t, *thread, false).launch().await?;
    let [mut one, mut two] = pair.start(&vm, [0, HELD], true).await?;
    for verb in VERBS.iter().map(|row| row.value()) {
        // It differs from one that is pending only in that it cannot be finalized.
        let number = if verb.command == "job-finalize" { 0 } else { 2 };
        if let Some(error) = verb.refusal(number, &one, "waiting") {
            vm.cmd(verb.command, verb.arguments(&one)).refused(error).await?;
            one.wait_status("waiting").await?;
        }
    }
    two.set_speed(0).await?;
    two.wait_status("pending").await?;
    one.wait_status("pending").await?;
    two.finalize().await?;
    one.wait_status("concluded").await?;
    two.wait_status("concluded").await?;
    one.dismiss().await?;
    check!(two.info().await?["status"] == "concluded");
    two.dismiss().await?;
    vm.assert_no_jobs().await?;
    vm.shutdown().await?;
    pair.assert_copied(false).await
}

/// A machine quits while one backup is done and waits for the other one; the bitmaps are stored as they were.
#[case(rows = THREADS)]
async fn leave_their_bitmaps_when_the_machine_quits(
    t: &mut Test,
    thread: &Option<&str>,
) -> CaseResult {
    let pair = Pair::create(t).await?;
    let vm = pair.host(t, *thread, false).launch().await?;
    let jobs = pair.start(&vm, [0, HELD], false).await?;
    for disk in DISKS {
        vm.disk(disk).write(0x33, DURING).await?;
    }
    jobs.into_iter().for_each(Job::leave);
    vm.shutdown().await?;
    let vm = pair.host(t, *thread, false).launch().await?;
    pair.assert_back_up(vm, true).await
}

/// A backup that is done and waits outlives the device of its disk, and so does the one that it waits for.
#[case(rows = THREADS)]
async fn outlive_the_device_of_a_disk(t: &mut Test, thread: &Option<&str>) -> CaseResult {
    let pair = Pair::create(t).await?;
    let vm = pair.host(t, *thread, false).hotplug().launch().await?;
    let [one, two] = pair.start(&vm, [0, HELD], false).await?;
    for disk in DISKS {
        vm.disk(disk).unplug().await?;
    }
    check!(one.info().await?["status"] == "waiting");
    check!(two.info().await?["status"] == "running");
    two.set_speed(0).await?;
    one.wait().await?;
    two.wait().await?;
    vm.assert_no_jobs().await?;
    vm.shutdown().await?;
    pair.assert_copied(false).await
}

rows! {
    /// Which drive goes.
    DRIVES: usize;
    "whose-job-waits" => 0;
    "whose-job-runs" => 1;
}

/// See docs/qemu-findings.md.
const STILL_HAS_ITS_BITMAP: KnownBug = known(
    "the node of a drive that has gone is closed with its bitmap, when the backup of it ends",
    "bdrv_close: Assertion `QLIST_EMPTY(&bs->dirty_bitmaps)' failed",
    before(8, 0),
)
.only(&[&["*", "whose-job-waits"]]);

/// See docs/qemu-findings.md.
const FREED: KnownBug = known(
    "the node of a drive that has gone is freed while the backup of it takes its filter out",
    "bs->quiesce_counter > 0' failed",
    since(8, 0),
)
.fixed_in(["10.0.13", "10.1"])
.only(&[&["*", "whose-job-waits"]])
.intermittent();

/// See docs/qemu-findings.md.
const MOVED: KnownBug = known(
    "a backup that ends because its drive goes is followed to another thread when it has been freed",
    "died of SIGSEGV",
    since_release(10, 0, 3),
)
.fixed_in(["10.1"])
.only(&[&["in-an-iothread", "whose-job-runs"]])
.intermittent();

/// With a drive that is unplugged goes a backup that runs, and the one that has waited for it; one that waits itself is left alone.
#[case(
    rows = (THREADS, DRIVES), needs = [AnyOf(&SCSI)], host = System,
    known_bugs = [STILL_HAS_ITS_BITMAP, FREED, MOVED]
)]
async fn lose_a_drive(t: &mut Test, thread: &Option<&str>, which: &usize) -> CaseResult {
    let pair = Pair::create(t).await?;
    let bus = match thread {
        Some(id) => format!("virtio-scsi,iothread={id}"),
        None => "virtio-scsi".to_owned(),
    };
    let mut host = pair.targets(t, *thread, false).device(&bus);
    for (number, image) in pair.disks.iter().enumerate() {
        let drive = Drive::of(image).interface("none").option("node-name", DISKS[number]);
        host = host.drive(drive);
        host = host.device(&format!(
            "scsi-hd,id={0}-disk,drive=drive{number}",
            DISKS[number]
        ));
    }
    let vm = host.launch().await?;
    let [mut one, two] = pair.start(&vm, [0, HELD], false).await?;

    let device = format!("{}-disk", DISKS[*which]);
    vm.cmd("device_del", json!({"id": device})).await?;
    vm.event(Matcher::event("DEVICE_DELETED").data(json!({"device": device}))).await?;
    if *which == 0 {
        one.wait_status("waiting").await?;
        two.set_speed(0).await?;
        one.wait().await?;
        two.wait().await?;
        vm.assert_no_jobs().await?;
        vm.shutdown().await?;
        return pair.assert_copied(false).await;
    }
    check!(two.wait().outcome().await?.outcome == Outcome::Cancelled);
    check!(one.wait().outcome().await?.outcome == Outcome::Cancelled);
    vm.assert_no_jobs().await?;
    vm.shutdown().await?;
    let vm = pair.host(t, *thread, false).launch().await?;
    pair.assert_back_up(vm, false).await
}
