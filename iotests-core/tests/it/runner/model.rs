//! The expected verdict of each misbehaving case, and one run of all of them that the tests share.

use std::collections::BTreeMap;
use std::fs;
use std::sync::LazyLock;

use iotests_core::runner::Verdict;
use iotests_core::runner::event::RunEvent;

use super::bench::{Bench, Ran, events};

/// The verdicts of the fixture on a machine with qemu-img and perhaps qemu-nbd, with one retry.
pub(super) fn model(has_qemu_nbd: bool) -> BTreeMap<String, Verdict> {
    use Verdict::*;
    let server = if has_qemu_nbd { Leak } else { Skip };
    [
        ("families::runs_each_row/bad@qcow2", Fail),
        ("families::runs_each_row/good@qcow2", Pass),
        ("families::runs_each_row/known-bad@qcow2", ExpectedFail),
        ("families::runs_each_row/needy@qcow2", Skip),
        ("families::runs_in_the_page_cache@qcow2", Pass),
        ("families::runs_on_an_emulator@qcow2.system", Skip),
        ("families::runs_on_either_host@qcow2.qsd", Skip),
        ("families::runs_on_either_host@qcow2.system", Skip),
        ("families::runs_on_vmdk@vmdk", Pass),
        ("processes::kills_its_supervisor@qcow2", Crash),
        ("processes::leaves_a_server@raw", server),
        ("processes::leaves_a_sleeper@qcow2", Leak),
        ("processes::leaves_a_sleeper_and_fails@qcow2", Fail),
        ("verdicts::exits_0@qcow2", Crash),
        ("verdicts::exits_3@qcow2", Crash),
        ("verdicts::fails@qcow2", Fail),
        ("verdicts::fails_with_an_error@qcow2", Fail),
        ("verdicts::fails_in_shared_code@qcow2", Fail),
        ("verdicts::hangs@qcow2", Timeout),
        ("verdicts::is_expected_to_fail@qcow2", ExpectedFail),
        ("verdicts::is_flaky@qcow2", Flaky),
        ("verdicts::is_quarantined@qcow2", Quarantined),
        ("verdicts::is_quarantined_no_longer@qcow2", Fail),
        ("verdicts::is_skipped@qcow2", Skip),
        ("verdicts::leaves_a_part_out@qcow2", Pass),
        ("verdicts::leaves_a_part_out_and_fails@qcow2", Fail),
        ("verdicts::panics@qcow2", Fail),
        ("verdicts::passes@qcow2", Pass),
        ("verdicts::passes@raw", Pass),
        ("verdicts::passes_unexpectedly@qcow2", UnexpectedPass),
        ("verdicts::prints_10_mib@qcow2", Fail),
        ("verdicts::segfaults@qcow2", Crash),
        ("verdicts::skips@qcow2", Skip),
        ("verdicts::spins@qcow2", Timeout),
        ("verdicts::stops_itself@qcow2", Timeout),
        ("verdicts::works_for_half_a_second@qcow2", Pass),
        ("verdicts::writes_outside@qcow2", Fail),
    ]
    .into_iter()
    .map(|(id, verdict)| (id.to_owned(), verdict))
    .collect()
}

/// One run of everything except the cases that wait forever, with all reports.
pub(super) struct AllReports {
    pub(super) bench: Bench,
    pub(super) ran: Ran,
    pub(super) jsonl: Vec<RunEvent>,
    pub(super) junit: String,
    pub(super) tap: String,
    pub(super) html: String,
}

pub(super) static ALL: LazyLock<AllReports> = LazyLock::new(|| {
    let bench = Bench::new();
    if !bench.has_qemu_nbd {
        println!("skipped: the leak of a qemu-nbd: there is none in PATH");
        assert!(
            std::env::var_os("QEMU_TEST_REQUIRE").is_none_or(|value| value != "1"),
            "qemu-nbd is required"
        );
    }
    let reports = ["jsonl", "junit", "tap", "html"]
        .map(|name| (format!("--{name}"), bench.path(name).display().to_string()));
    let mut args = vec!["-x", "slow", "-j", "8", "--retries", "1", "--seed", "7"];
    args.extend(reports.iter().flat_map(|(flag, path)| [flag.as_str(), path.as_str()]));
    let ran = bench.run(&args);
    let read = |name: &str| fs::read_to_string(bench.path(name)).unwrap_or_default();
    let (jsonl, junit, tap, html) = (
        events(&read("jsonl")),
        read("junit"),
        read("tap"),
        read("html"),
    );
    AllReports {
        bench,
        ran,
        jsonl,
        junit,
        tap,
        html,
    }
});
