//! What an interrupted call leaves behind.

use std::time::Duration;

use imgtools::image::ImageSpec;
use imgtools::img::{Call, Convert, ImgError};
use imgtools::process::ProcessError;

use crate::support::{Folder, LONG, Tools, all_tools};

const MIB: u64 = 1 << 20;

/// A convert that would take a minute, and reports its progress every second.
fn slow(tools: &Tools, folder: &Folder, target: &str) -> Call<Convert> {
    let source = ImageSpec::options(format!("driver=null-co,size={},read-zeroes=off", 64 * MIB));
    let target = ImageSpec::file(folder.path(target)).format("raw");
    let convert = tools.img.convert(source, target).rate_limit(MIB);
    convert.sparse_size(0)
}

#[test]
fn a_target_that_a_deadline_cuts_is_removed_and_one_that_was_there_stays() {
    for tools in all_tools() {
        let folder = Folder::new();
        for was_there in [false, true] {
            let path = folder.path("target");
            if was_there {
                std::fs::write(&path, b"mine").unwrap();
            }
            let call = slow(&tools, &folder, "target").deadline(Duration::from_millis(200));
            let error = call.clone().run_blocking().unwrap_err();
            let is_late = matches!(error, ImgError::Process(ProcessError::Deadline { .. }));
            assert!(is_late, "{error}");
            assert_eq!(std::fs::exists(&path).unwrap(), was_there);
            call.output_blocking().unwrap_err();
            assert_eq!(std::fs::exists(&path).unwrap(), was_there);
        }
    }
}

#[tokio::test]
async fn a_target_is_removed_with_the_future_that_made_it() {
    for tools in all_tools() {
        let folder = Folder::new();
        let path = folder.path("target");
        let mut running = slow(&tools, &folder, "target").start().await.unwrap();
        // The first report comes before there is a target, the second one after that.
        while !std::fs::exists(&path).unwrap() {
            running.progress().await.unwrap();
        }
        drop(running);
        assert!(!std::fs::exists(&path).unwrap());
    }
}

#[test]
fn half_of_a_copy_that_fails_by_itself_is_removed_unless_all_output_is_wanted() {
    for tools in all_tools() {
        let folder = Folder::new();
        let path = folder.path("target");
        let broken = ImageSpec::options(
            "driver=blkdebug,image.driver=null-co,image.size=1M,image.read-zeroes=off,\
             inject-error.0.event=none,inject-error.0.iotype=read,inject-error.0.errno=5",
        );
        let target = ImageSpec::file(&path).format("raw");
        let convert = tools.img.convert(broken, target);
        convert.clone().run_blocking().unwrap_err();
        assert!(!std::fs::exists(&path).unwrap());
        assert!(!convert.output_blocking().unwrap().status.is_success());
        assert!(std::fs::exists(&path).unwrap(), "qemu-img leaves it");
        std::fs::remove_file(&path).unwrap();
        // A call that is refused before it creates anything removes nothing either.
        std::fs::write(&path, b"mine").unwrap();
        let dd = tools.img.dd(folder.path("nothing"), &*path);
        dd.run_blocking().unwrap_err();
        assert!(std::fs::exists(&path).unwrap());
    }
}

#[test]
fn no_call_has_a_deadline_unless_it_is_given_one() {
    for tools in all_tools() {
        let img = imgtools::img::QemuImg::new(tools.img.tool().clone());
        let show = |command: imgtools::process::Command| format!("{:?}", command.time());
        let call = img.convert("a", "b");
        assert_eq!(show(call.command().unwrap()), "None");
        let call = call.deadline(LONG);
        assert_eq!(show(call.command().unwrap()), format!("Some({LONG:?})"));
        let call = img.deadline(LONG).convert("a", "b");
        assert_eq!(show(call.command().unwrap()), format!("Some({LONG:?})"));
    }
}
