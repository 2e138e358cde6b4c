//! Probes of real tools, and of scripts that refuse.

use imgtools::img::QemuImg;
use imgtools::probe::{self, ImgCapabilities, Support};
use imgtools::tools::{Tool, ToolKind};

use crate::support::{Folder, all_tools};

#[test]
fn the_capabilities_of_real_tools_are_found() {
    for tools in all_tools() {
        let found = ImgCapabilities::probe_blocking(&tools.img).unwrap();
        for format in [
            "raw",
            "qcow2",
            "qed",
            "vmdk",
            "vdi",
            "vhdx",
            "vpc",
            "parallels",
            "luks",
        ] {
            assert!(found.supports(format), "{format} in {:?}", found.formats);
        }
        assert!(!found.supports("Supported") && !found.supports("See"));
        assert_eq!(found.version, Some(tools.version()));
        assert_eq!((&found.luks, &found.zstd), (&Support::Yes, &Support::Yes));
        assert!(found.supports("quorum"));
        let stored = serde_json::to_string(&found).unwrap();
        assert_eq!(
            serde_json::from_str::<ImgCapabilities>(&stored).unwrap(),
            found
        );
    }
}

/// H07: whether LUKS works, or why not, without the name of the file.
#[tokio::test]
async fn h07_luks_that_does_not_work_is_told_in_the_tool_s_own_words() {
    let folder = Folder::new();
    let refuse = |message: &str| {
        let path = folder.script("qemu-img", &format!("{message} >&2; exit 1"));
        QemuImg::new(Tool::new(ToolKind::Img, path))
    };
    // The file is the last word but the size.
    let img = refuse(
        "for file; do last=$before; before=$file; done; echo \"qemu-img: $last: No crypto library\"",
    );
    assert_eq!(
        probe::luks(&img).await.unwrap(),
        Support::No("No crypto library".to_owned())
    );
    let img = refuse("echo \"qemu-img: Unknown file format 'luks'\"");
    let found = probe::luks_blocking(&img).unwrap();
    assert_eq!(found.reason(), Some("Unknown file format 'luks'"));
    let img = refuse("true");
    assert_eq!(
        probe::zstd(&img).await.unwrap().reason(),
        Some("no reason was given")
    );
}

#[test]
fn a_tool_that_dies_has_no_capabilities() {
    let folder = Folder::new();
    let path = folder.script("qemu-img", "kill -SEGV $$");
    let img = QemuImg::new(Tool::new(ToolKind::Img, path));
    let error = ImgCapabilities::probe_blocking(&img).unwrap_err();
    assert!(
        error.to_string().contains("was killed by signal 11"),
        "{error}"
    );
}

#[test]
fn ways_of_asynchronous_io_are_tried() {
    for tools in all_tools() {
        assert_eq!(
            probe::aio_blocking(&tools.io, "threads").unwrap(),
            Support::Yes
        );
        let found = probe::aio_blocking(&tools.io, "nonsense").unwrap();
        assert!(
            found.reason().is_some_and(|reason| reason.contains("nonsense")),
            "{found:?}"
        );
        // These depend on the kernel; but each has an answer.
        for mode in ["native", "io_uring"] {
            println!(
                "{mode}: {:?}",
                probe::aio_blocking(&tools.io, mode).unwrap()
            );
        }
    }
}

/// On a busy machine a 7.2 fails now and then, though it has LUKS.
#[tokio::test]
async fn luks_is_tried_again_where_qemu_could_not_measure_the_processor() {
    let folder = Folder::new();
    let tried = folder.path("tried");
    let path = folder.script(
        "qemu-img",
        &format!(
            "[ $(cat '{tried}' | wc -l) = 3 ] && exit 0; echo >>'{tried}'; \
             echo 'qemu-img: probe: {}' >&2; exit 1",
            probe::NO_CPU_TIME
        ),
    );
    let img = QemuImg::new(Tool::new(ToolKind::Img, path));
    std::fs::write(&tried, "").unwrap();
    assert_eq!(probe::luks(&img).await.unwrap(), Support::Yes);
    std::fs::write(&tried, "").unwrap();
    assert_eq!(probe::luks_blocking(&img).unwrap(), Support::Yes);
}
