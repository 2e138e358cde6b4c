//! What kind of failure a refusal is, by the messages of every set of tools.

use imgtools::image::{FailureKind, ImageSpec};
use imgtools::img::{ImgError, Size};
use imgtools::io::IoCommand;

use crate::support::{Folder, all_tools};

const MIB: u64 = 1 << 20;

#[test]
fn failures_are_told_by_their_kind_on_every_version() {
    for tools in all_tools() {
        let (folder, img) = (Folder::new(), &tools.img);
        let [raw, qcow2, vmdk] = ["raw", "qcow2", "vmdk"].map(|format| {
            let path = folder.path(format);
            let create = img.create(&path).format(format).size(MIB);
            create.run_blocking().unwrap();
            path
        });
        let kind = |what: &str, error: ImgError, expected| {
            let version = tools.version();
            assert_eq!(error.kind(), Some(expected), "{version} {what}: {error}");
        };
        for format in [
            "qcow2",
            "qed",
            "vmdk",
            "vdi",
            "vpc",
            "parallels",
            "luks",
            "dmg",
            "bochs",
        ] {
            let image = ImageSpec::file(&raw).format(format);
            let error = img.info(image).run_blocking().unwrap_err();
            kind(format, error, FailureKind::NotAnImage);
        }
        let info = |image: ImageSpec| img.info(image).run_blocking().unwrap_err();
        kind("protocol", info("foo:bar".into()), FailureKind::Unsupported);
        let unknown = ImageSpec::file(&raw).format("foo");
        kind("driver", info(unknown), FailureKind::Unsupported);
        let missing = folder.path("missing");
        kind("file", info((&missing).into()), FailureKind::NotFound);
        let overlay = || img.create(folder.path("top")).format("qcow2");
        let error = overlay().backing(&missing, "qcow2").run_blocking();
        kind("backing", error.unwrap_err(), FailureKind::NotFound);
        for format in ["foo", "bochs"] {
            let create = img.create(folder.path("x")).format(format).size(MIB);
            kind(
                format,
                create.run_blocking().unwrap_err(),
                FailureKind::Unsupported,
            );
        }
        let resize = img.resize(ImageSpec::file(&vmdk).format("vmdk"), Size::Grow(MIB));
        kind(
            "resize",
            resize.run_blocking().unwrap_err(),
            FailureKind::Unsupported,
        );
        let raw = || ImageSpec::file(&raw).format("raw");
        let error = img.snapshot_create(raw(), "s").run_blocking().unwrap_err();
        kind("snapshot", error, FailureKind::Unsupported);
        let error = img.amend(raw(), "compat=1.1").run_blocking().unwrap_err();
        kind("amend", error, FailureKind::Unsupported);

        let session = tools.io.open(&qcow2).session_blocking().unwrap();
        let error = img.info(&qcow2).run_blocking().unwrap_err();
        assert!(error.is_locked() && !error.is_not_found(), "{error}");
        session.quit_blocking().unwrap();

        let full = "driver=blkdebug,image.driver=null-co,image.size=1M,inject-error.0.event=none,\
                    inject-error.0.iotype=write,inject-error.0.errno=28";
        let full = tools.io.open(ImageSpec::options(full));
        let write = full.clone().command(IoCommand::write(0, 512));
        let error = write.run_blocking().unwrap_err();
        assert!(error.is_no_space(), "{error}");
        let mut session = full.session_blocking().unwrap();
        let reply = session.run_blocking("write 0 512").unwrap();
        assert!(reply.check().unwrap_err().is_no_space());
        let convert = img
            .convert(
                ImageSpec::options("driver=null-co,size=1M,read-zeroes=off"),
                "/dev/full",
            )
            .output_format("raw")
            .no_create();
        // A character device has no length; whatever the message, it is not about a lock.
        assert!(!convert.run_blocking().unwrap_err().is_locked());

        // An image that is fine, and one call that has no file at all.
        assert!(img.info(&qcow2).run_blocking().is_ok());
        let usage = img.info(&qcow2).arg("--bogus").run_blocking().unwrap_err();
        assert_eq!(usage.kind(), None, "{usage}");
    }
}
