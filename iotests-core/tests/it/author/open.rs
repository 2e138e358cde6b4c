//! Images that a case did not make, and keys that no command line shows.

use iotests_core::author::KEY;
use iotests_core::prelude::*;

use super::bench::{Bench, case, hosts, sets};

/// A file made by hand, an export and a `json:` name have the checks of an image that we made; and
/// the file is still there afterwards.
#[test]
fn images_from_anywhere_are_checked_like_our_own() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let made = t.image("made").size(MIB).content(&[(7, 0..KIB)]);
            let made = made.create().await?;
            let samples = tempfile::tempdir()?;
            let sample = samples.path().join("of:hand,made.img");
            std::fs::copy(made.file(), &sample)?;

            let opened = t.open(sample.as_path()).await?;
            assert_eq!((opened.format(), opened.name()), (QCOW2, "of"));
            let before = opened.file_bytes()?;
            opened.assert_reads(&[(7, 0..KIB)]).await?;
            opened.assert_clean().await?;
            opened.info().json().await?.assert("virtual-size", MIB)?;
            opened.assert_same_as(&made).await?;
            before.assert_unchanged()?;
            let top = t.image("top").backing(&opened).create().await?;
            top.assert_reads(&[(7, 0..KIB)]).await?;
            let vm = t.host().drive(&top).launch().await?;
            vm.shutdown().await?;

            let json = format!("json:{}", opened.node());
            let by_json = t.open(json).node_name("json").await?;
            by_json.write(8, KIB..2 * KIB).await?;
            by_json.assert_reads(&[(7, 0..KIB), (8, KIB..2 * KIB)]).await?;
            let vm = t.host().blockdev(by_json.node()).launch().await?;
            vm.node("json").assert_reads(&[(7, 0..KIB), (8, KIB..2 * KIB)]).await?;
            vm.shutdown().await?;

            let server = t.nbd_server(&made).start().await?;
            let remote = t.open(server.uri()).node_name("remote").await?;
            assert_eq!(remote.format(), RAW);
            remote.assert_reads(&[(7, 0..KIB)]).await?;
            remote.write(9, 0..512).await?;
            let vm = t.host().blockdev(remote.node()).launch().await?;
            vm.node("remote").assert_reads(&[(7, 0..KIB), (9, 0..512)]).await?;
            vm.shutdown().await?;
            server.stop().await?;

            let nowhere = t.open(samples.path().join("nothing")).await.unwrap_err();
            assert!(nowhere.to_string().contains("No such file"), "{nowhere}");
            drop((opened, top, by_json, remote));
            assert!(sample.exists());
        }));
        run.assert_passed();
    }
}

/// Every user of a machine can read command lines.
#[test]
fn a_key_is_on_no_command_line() {
    for set in sets() {
        for format in [QCOW2, LUKS] {
            let mut bench = Bench::new(&set).format(format);
            let directory = tempfile::tempdir().unwrap();
            let seen = directory.path().join("seen");
            for kind in [ToolKind::Img, ToolKind::Io, ToolKind::Nbd] {
                let real = bench.spec.tools[&kind].path.display().to_string();
                let path = directory.path().join(format!("{kind}"));
                let text = format!(
                    "#!/bin/sh\necho \"$@\" >>{}\nexec {real} \"$@\"\n",
                    seen.display()
                );
                crate::script::write(&path, &text);
                let tool = imgtools::tools::Tool::new(kind, path);
                bench.spec.tools.insert(kind, tool);
            }
            let run = bench.run(case!(|t| {
                let disk = t.image("disk").size(MIB).encrypted().fill(7);
                let disk = disk.create().await?;
                disk.assert_reads(&[(7, 0..MIB)]).await?;
                disk.assert_clean().await?;
                disk.assert_same_as(&disk).await?;
                t.log(disk.info_text().await?);
                let mut io = disk.session().await?;
                io.run("read -P 7 0 1M").await?;
                io.close().await?;
                t.nbd_server(&disk).start().await?.stop().await?;
                let wrong = t.qemu_io(["--image-opts", &disk.image_opts(), "-c", "read 0 512"]);
                let wrong = wrong.secret("keysec0", "another secret");
                wrong.expect_error("Invalid password").await?;
            }));
            assert!(run.failure().message.contains("never compares"), "{run:?}");
            let seen = std::fs::read_to_string(&seen).unwrap();
            assert!(seen.contains("secret,id=keysec0,file="), "{seen}");
            assert!(
                !seen.contains(KEY) && !seen.contains("another secret"),
                "{seen}"
            );
        }
    }
}
