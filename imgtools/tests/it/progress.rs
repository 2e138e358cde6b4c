//! Progress of the calls that report any.

use imgtools::image::ImageSpec;
use imgtools::img::{Comparison, Difference, Progress};
use imgtools::io::IoCommand;

use crate::support::{Folder, all_tools};

const MIB: u64 = 1 << 20;

fn is_complete(reports: &[Progress]) {
    assert!(!reports.is_empty());
    assert!(reports.is_sorted(), "{reports:?}");
    assert_eq!(reports.last().map(|last| last.percent), Some(100.0));
}

#[test]
fn every_call_that_knows_its_progress_reports_it_to_the_end() {
    for tools in all_tools() {
        let (folder, img) = (Folder::new(), &tools.img);
        let [base, top, copy] = ["base", "top", "copy"].map(|name| folder.path(name));
        img.create(&base).format("qcow2").size(8 * MIB).run_blocking().unwrap();
        img.create(&top).format("qcow2").backing(&base, "qcow2").run_blocking().unwrap();
        let write = tools.io.open(&top).command(IoCommand::write(0, 8 * MIB));
        write.run_blocking().unwrap();
        macro_rules! complete {
            ($call:expr) => {{
                let mut reports = Vec::new();
                let call = $call;
                let answer = call.run_with_progress_blocking(|progress| reports.push(progress));
                is_complete(&reports);
                answer.unwrap()
            }};
        }
        complete!(img.convert(&top, &copy).output_format("raw"));
        let raw = ImageSpec::file(&copy).format("raw");
        let same = complete!(img.compare(&top, &raw));
        assert!(same.is_same());
        complete!(img.amend(&top, "compat=0.10"));
        complete!(img.rebase(&top, "").backing_format("qcow2"));
        img.rebase(&top, &base).backing_format("qcow2").unsafe_mode().run_blocking().unwrap();
        complete!(img.commit(&top));
    }
}

#[tokio::test]
async fn progress_can_be_waited_for_and_the_answer_comes_after_it() {
    for tools in all_tools() {
        let folder = Folder::new();
        let source = ImageSpec::options("driver=null-co,size=64M,read-zeroes=off");
        let target = ImageSpec::file(folder.path("copy")).format("raw");
        let convert = tools.img.convert(source, target);
        let mut running = convert.start().await.unwrap();
        let mut reports = Vec::new();
        while let Some(progress) = running.progress().await {
            reports.push(progress);
        }
        is_complete(&reports);
        assert!(running.wait().await.unwrap().status.is_success());
    }
}

/// A report ends in a carriage return, so that the result follows it on the same line.
#[test]
fn a_difference_is_read_behind_the_progress() {
    for tools in all_tools() {
        let folder = Folder::new();
        let raw = |name: &str, size: u64| {
            let path = folder.path(name);
            imgtools::raw::create_sparse(&path, size).unwrap();
            ImageSpec::file(path).format("raw")
        };
        let (a, b) = (raw("a", MIB), raw("b", MIB));
        let write = tools.io.open(&a).command(IoCommand::write(65536, 512));
        write.run_blocking().unwrap();
        let differ = Comparison::Differ(Difference::Content { offset: 65536 });
        let mut reports = 0;
        let compare = tools.img.compare(&a, &b);
        let found = compare.run_with_progress_blocking(|_| reports += 1);
        assert_eq!((found.unwrap(), reports > 0), (differ, true));
        // Also where the caller has asked for it by hand.
        let found = tools.img.compare(&a, &b).arg("-p").run_blocking();
        assert_eq!(found.unwrap(), differ);
        let found = tools.img.compare(raw("c", MIB), raw("d", 2 * MIB));
        let found = found.strict().arg("-p").run_blocking();
        assert_eq!(found.unwrap(), Comparison::Differ(Difference::Size));
    }
}
