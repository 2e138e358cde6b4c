//! What the system makes of an export over FUSE, which is a file to it.

use std::io::ErrorKind;
use std::os::unix::fs::FileExt;

use imgtools::raw;
use iotests_core::author::{ExportBuilder, TestFile};

use super::*;

const NO_ZEROES: KnownBug = known(
    "a hole that is punched into a FUSE export is a discard, which need not leave zeroes (1703eb1c27)",
    "holds 0x11 in 0x20000..",
    ALWAYS,
)
.fixed_in(["8.0"]);

/// An empty file, on which an export can be.
fn mountpoint(t: &Test, name: &str) -> CaseResult<TestFile> {
    let file = t.file(name)?;
    std::fs::write(&file, "")?;
    Ok(file)
}

/// A hole that is punched into the file reads as zeroes from then on, in the file and in the image, and all around it stays.
#[case(formats = [QCOW2, RAW], needs = [Fuse], unconfined = true, known_bugs = [NO_ZEROES])]
async fn has_zeroes_where_a_hole_is_punched(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(SIZE).fill(0x11).create().await?;
    let vm = t.host().blockdev(&disk).launch().await?;
    let file = mountpoint(t, "export")?;
    let export = vm.export("disk").writable().fuse(&file).await?;

    raw::punch_hole(&file, clusters(2..5))?;

    let all = Content::nothing().written(0x11, 0..SIZE);
    let expected = all.zeroes(clusters(2..5));
    export.assert_reads(&expected).await?;
    export.remove().await?;
    vm.shutdown().await?;
    disk.assert_reads(&expected).await
}

/// An export over FUSE that cannot be: its file, which is a regular one unless it is something else.
struct Refusal {
    file: Place,
    error: &'static str,
}

enum Place {
    Missing,
    Folder,
    Device,
    Shown,
}

rows! {
    REFUSALS: Refusal { file, error };
    "that-is-missing" => Place::Missing, "No such file or directory";
    "that-is-a-folder" => Place::Folder, "is not a regular file";
    "that-is-a-device" => Place::Device, "is not a regular file";
    "that-is-an-export-already" => Place::Shown, "There already is a FUSE export on";
}

/// An export on something that is no file of its own is refused; what is there stays, and the export beside it is
/// served.
#[case(formats = [RAW], rows = REFUSALS, needs = [Fuse], unconfined = true)]
async fn is_not_on_something(t: &mut Test, refusal: &Refusal) -> CaseResult {
    let disk = t.image("disk").size(SIZE).fill(0x11).create().await?;
    let other = t.image("other").size(SIZE).fill(0x22).create().await?;
    let vm = t.host().blockdev(&disk).blockdev(&other).launch().await?;
    let (file, place) = (mountpoint(t, "export")?, t.file("place")?);
    let export = vm.export("disk").fuse(&file).await?;
    let before = vm.state().await?;
    let place = match refusal.file {
        Place::Missing => json!(place),
        Place::Folder => {
            std::fs::create_dir(&place)?;
            json!(place)
        }
        Place::Device => json!("/dev/null"),
        Place::Shown => json!(file),
    };
    let add = json!({
        "type": "fuse", "id": "new", "node-name": "other", "writable": true, "mountpoint": place,
    });
    vm.cmd("block-export-add", add).refused(refusal.error).await?;
    vm.assert_same_graph_as(&before).await?;
    export.assert_reads(&[(0x11, 0..SIZE)]).await?;
    export.remove().await?;
    let own = mountpoint(t, "own")?;
    let other = vm.export("other").fuse(&own).await?;
    other.assert_reads(&[(0x22, 0..SIZE)]).await?;
    vm.shutdown().await?;
    Ok(())
}

/// What is in the file is hidden by the export, whether the image is larger or not, and is there again
/// when that has gone, in whatever way.
#[case(formats = [RAW], rows = ENDS, needs = [Fuse], unconfined = true)]
async fn hides_what_is_in_its_file(t: &mut Test, end: &End) -> CaseResult {
    let disk = t.image("disk").size(SIZE).fill(0x11).create().await?;
    let vm = t.host().blockdev(&disk).launch().await?;
    let file = t.file("export")?;
    std::fs::write(&file, HIDDEN)?;
    let export = vm.export("disk").writable().fuse(&file).await?;
    check!(std::fs::read(&file)? == [0x11; SIZE as usize]);
    std::fs::OpenOptions::new().write(true).open(&file)?.write_all_at(&[0x22; 512], 0)?;
    let open = std::fs::File::open(&file)?;
    let vm = match end {
        End::Removed => {
            export.remove().await?;
            Some(vm)
        }
        End::Shutdown => {
            vm.shutdown().await?;
            None
        }
        End::Killed => {
            vm.kill().await?;
            None
        }
    };
    // Who has it open is told so.
    let read = open.read_at(&mut [0; 512], 4096).map_err(|error| error.kind());
    check!(read.is_err(), "an export that is gone is read: {read:?}");
    drop(open);
    let seen = std::fs::read(&file);
    match end {
        End::Killed => check!(
            seen.is_err(),
            "the mount of who has been killed is left behind"
        ),
        _ => check!(seen? == HIDDEN),
    }
    if let Some(vm) = vm {
        vm.shutdown().await?;
    }
    disk.assert_reads(&[(0x22, 0..512), (0x11, 512..SIZE)]).await
}

/// What becomes of who writes to the file of a mount.
enum End {
    Removed,
    Shutdown,
    Killed,
}

rows! {
    ENDS: End;
    "until-it-is-removed" => End::Removed;
    "until-its-machine-ends" => End::Shutdown;
    "until-its-machine-is-killed" => End::Killed;
}

const HIDDEN: &[u8] = b"what was there before";

rows! {
    GROWABLE: bool;
    "that-grows" => true;
    "that-does-not" => false;
}

rows! {
    THREADS: bool;
    "in-the-main-thread" => false;
    "in-an-iothread" => true;
}

const THREAD: &str = "one";

/// An export to write to, which grows or not, and is served by the iothread or not.
fn served<'m>(vm: &'m Machine, growable: bool, threaded: bool) -> ExportBuilder<'m> {
    let export = vm.export("disk").writable().set("growable", growable);
    match threaded {
        true => export.iothread(THREAD),
        false => export,
    }
}

/// Across the end as much is read as there is, and written as there is room for, which is all if the export
/// grows; what it grows over reads as zeroes.
#[case(formats = [RAW], rows = (GROWABLE, THREADS), needs = [Fuse], unconfined = true)]
async fn ends_with_an_image(t: &mut Test, growable: &bool, threaded: &bool) -> CaseResult {
    let disk = t.image("disk").size(SIZE).fill(0x11).create().await?;
    let vm = t.host().iothread(THREAD).blockdev(&disk).launch().await?;
    let file = mountpoint(t, "export")?;
    let export = served(&vm, *growable, *threaded).fuse(&file).await?;
    let opened = std::fs::File::options().read(true).write(true).open(&file)?;
    let size = || CaseResult::Ok(opened.metadata()?.len());

    let mut read = [0; 1024];
    check!(opened.read_at(&mut read, SIZE - 512)? == 512);
    check!(&read[..512] == [0x11; 512].as_slice());
    check!(opened.read_at(&mut read, SIZE)? == 0);
    check!(opened.read_at(&mut read, SIZE + CLUSTER)? == 0);
    check!(size()? == SIZE);

    let written = opened.write_at(&[0x22; 1024], SIZE - 512)?;
    let mut expected = Content::of(&[(0x11, 0..SIZE - 512), (0x22, SIZE - 512..SIZE)]);
    let end = if *growable {
        check!(written == 1024);
        check!(opened.write_at(&[0x33; 512], SIZE + CLUSTER)? == 512);
        expected = expected.written(0x22, SIZE..SIZE + 512);
        expected = expected.zeroes(SIZE + 512..SIZE + CLUSTER);
        expected = expected.written(0x33, SIZE + CLUSTER..SIZE + CLUSTER + 512);
        SIZE + CLUSTER + 512
    } else {
        check!(written == 512);
        for at in [SIZE, SIZE + CLUSTER] {
            // Since 11 the system passes requests on as they are, and the answer too.
            let beyond = opened.write_at(&[0x33; 512], at).map_err(|error| error.raw_os_error());
            let nothing = matches!(beyond, Ok(0) | Err(Some(EIO)));
            check!(nothing, "a write beyond the end: {beyond:?}");
        }
        SIZE
    };
    check!(size()? == end);
    drop(opened);
    export.assert_reads(&expected).await?;
    export.remove().await?;
    vm.shutdown().await?;
    check!(disk.size().await? == end);
    disk.assert_reads(&expected).await?;
    disk.assert_clean().await
}

const EIO: i32 = 5;

/// What is cut off is gone, and what is added reads as zeroes, whether the export grows for writes or not, and
/// whichever thread serves it.
#[case(formats = [QCOW2, RAW], rows = (GROWABLE, THREADS), needs = [Fuse], unconfined = true)]
async fn is_truncated_with_an_image(t: &mut Test, growable: &bool, threaded: &bool) -> CaseResult {
    let disk = t.image("disk").size(SIZE).fill(0x11).create().await?;
    let vm = t.host().iothread(THREAD).blockdev(&disk).launch().await?;
    let file = mountpoint(t, "export")?;
    let export = served(&vm, *growable, *threaded).fuse(&file).await?;
    let before = vm.state().await?;
    let opened = std::fs::File::options().read(true).write(true).open(&file)?;
    for size in [SIZE, SIZE / 2, SIZE / 2, 2 * SIZE, SIZE / 2 + 512, SIZE] {
        opened.set_len(size)?;
        check!(opened.metadata()?.len() == size);
        vm.assert_same_graph_as(&before).await?;
    }
    drop(opened);
    let expected = Content::of(&[(0x11, 0..SIZE / 2), (0, SIZE / 2..SIZE)]);
    export.assert_reads(&expected).await?;
    export.remove().await?;
    vm.shutdown().await?;
    check!(disk.size().await? == SIZE);
    disk.assert_reads(&expected).await?;
    disk.assert_clean().await
}

/// A read-only export is not written to, cut, or given room, even by who may do everything.
#[case(formats = [RAW], needs = [Fuse], unconfined = true)]
async fn is_not_changed_if_read_only(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(SIZE).fill(0x11).create().await?;
    let vm = t.host().blockdev(&disk).launch().await?;
    let file = mountpoint(t, "export")?;
    let export = vm.export("disk").set("growable", true).fuse(&file).await?;
    let refused = |done: std::io::Result<()>| {
        // Since 11 the mount is read-only as well.
        let kind = done.map_err(|error| error.kind());
        let kinds = [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem];
        check!(kinds.map(Err).contains(&kind), "{kind:?}");
        CaseResult::Ok(())
    };
    match std::fs::File::options().write(true).open(&file) {
        // Not everybody gets that far.
        Err(error) => refused(Err(error))?,
        Ok(opened) => {
            refused(opened.write_at(&[0x22; 512], 0).map(drop))?;
            refused(opened.write_at(&[0x22; 512], SIZE).map(drop))?;
            refused(opened.set_len(SIZE / 2))?;
            refused(opened.set_len(2 * SIZE))?;
        }
    }
    export.assert_reads(&[(0x11, 0..SIZE)]).await?;
    vm.shutdown().await?;
    check!(disk.size().await? == SIZE);
    disk.assert_fill(0x11).await
}
