//! The laws of filters, tested on generated texts: see the module's documentation.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Filter, Hidden, text};

const TEST_DIR: &str = "/run/qcow2, \"dir\"/case 7";
const SOCK_DIR: &str = "/run/sock/raw";
const UUID: &str = "1c1e5c9b-83ef-4e51-a6ce-0eb1d1ba1d3f";

/// Pieces of tool output, so that random texts contain what filters look for, whole and truncated.
fn fragment() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        TEST_DIR,
        "/run/qcow2,, \"dir\"/case 7",
        "/run/qcow2, \\\"dir\\\"/case 7",
        SOCK_DIR,
        "/base",
        "-x",
        ".",
        " ",
        "\n",
        "\r\n",
        "raw",
        "qcow2",
        "1 ops; 00.00 sec (3.2 GiB/sec and 52657.71 ops/sec)",
        "12 ops; 0.1 sec (inf EiB/sec and inf ops/sec)",
        "sec (",
        "chown 1000:100",
        "\"timestamp\": {\"seconds\": 17, \"microseconds\": 4}",
        "\"timestamp\": {\"microseconds\": 4, \"seconds\": 17}",
        "virtio-scsi-pci",
        "virtio-scsi-ccw",
        "-ccw",
        "virtio-scsi",
        "#block",
        "#block12",
        "min block: 4096",
        "[I 17.25] OPENED\n",
        "\n[I +0.25] CLOSED\n",
        "[I +0.25] CLOSED",
        UUID,
        "localhost:10809",
        "\"port\": \"10809\"",
        "4711",
        "disk size: 4 KiB\n",
        "Child node '/file':\n",
        "    ",
        "iters: 1024",
        "cid: 99",
        "compression type: zstd",
    ]);
    prop_oneof![4 => known.prop_map(str::to_owned), 1 => "[ -~]{0,6}", 1 => "[0-9#:./;é]{0,4}"]
}

fn printed() -> impl Strategy<Value = String> {
    prop::collection::vec(fragment(), 0..10).prop_map(|parts| parts.concat())
}

fn directories() -> Vec<Hidden> {
    vec![
        Hidden::new(TEST_DIR, "TEST_DIR"),
        Hidden::new(SOCK_DIR, "SOCK_DIR"),
    ]
}

/// Whether a text still contains something that a filter should have hidden.
type Left = fn(&str) -> bool;

/// Every filter, with a test for remains of what it should hide.
fn filters() -> Vec<(Filter, Left)> {
    let never: Left = |_| false;
    let info = Filter::ImgInfo {
        image: Hidden::new(&format!("{TEST_DIR}/base"), "TEST_IMG"),
        directories: directories(),
        format: "qcow2".to_owned(),
        child_nodes: false,
    };
    vec![
        (Filter::CarriageReturns, |text| text.contains('\r')),
        (Filter::TestFiles(directories()), |text| {
            text.contains(&format!("{TEST_DIR}/")) || text.contains(&format!("{SOCK_DIR}/"))
        }),
        (Filter::QemuIo, |text| {
            text.contains("GiB/sec and 5") || text.contains("(inf EiB/sec and")
        }),
        (Filter::Chown, |text| text.contains(" chown 1000:100")),
        (Filter::EventTimes, |text| {
            text.contains(r#"{"seconds": 17, "microseconds": 4}"#)
        }),
        (Filter::GeneratedNodeIds, |text| text.contains("#block1")),
        (Filter::VirtioScsi, |text| {
            text.contains(" virtio-scsi-pci ")
        }),
        (Filter::NbdExports, |text| text.contains(" min block: 4096")),
        (Filter::Qtest, |text| {
            text.starts_with("[I 17.25] OPENED\n") || text.ends_with("\n[I +0.25] CLOSED\n")
        }),
        (Filter::Uuids, |text| text.contains(&format!(" {UUID} "))),
        (Filter::Ports, |text| text.contains(" localhost:10809 ")),
        (Filter::Pid(4711), |text| text.contains(" 4711 ")),
        (Filter::ImageFormat("raw".to_owned()), |text| {
            text.contains(" raw ")
        }),
        (info, |text| {
            text.contains("disk size") || text.contains(" qcow2 ") || text.contains(" iters: 1024 ")
        }),
        (Filter::unsteady(&directories()), |text| {
            text.contains("#block1") || text.contains('\r')
        }),
        (Filter::All(vec![]), never),
    ]
}

proptest! {
    // Failures are stored in `proptest-regressions`, to be tried first the next time; also add them
    // to `FOUND` below.
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn filtering_twice_is_filtering_once_and_nothing_hidden_is_left(printed in printed()) {
        filtered_once_and_for_all(&printed);
    }

    #[test]
    fn text_of_nobodys_business_is_never_touched(plain in "[A-Zbdfghjnptuwyz ,()_\\n]{0,60}") {
        // These letters cannot form any of the words above.
        for (filter, _) in filters() {
            prop_assert_eq!(filter.text(&plain), plain.as_str(), "{:?}", filter);
        }
    }

    #[test]
    fn json_is_filtered_like_the_text_in_it_and_keeps_its_shape(parts in prop::collection::vec(printed(), 0..4)) {
        for (filter, _) in filters() {
            let value = json!({"list": parts, "n": 7, "deep": {"first": parts.first()}});
            let filtered = filter.json(value);
            let expected: Vec<Value> = parts.iter().map(|part| filter.text(part).into()).collect();
            prop_assert_eq!(&filtered["list"], &Value::from(expected), "{:?}", filter);
            prop_assert_eq!(&filtered["n"], &json!(7));
            prop_assert_eq!(filter.json(filtered.clone()), filtered);
        }
    }

    /// H25: whatever the directory's name, the image is replaced first and the format last.
    #[test]
    fn the_info_filter_keeps_its_order_for_any_directory(
        parent in "[a-z, \"]{1,8}", format in prop::sample::select(vec!["raw", "qcow2", "luks", "vdi"]),
    ) {
        let directory = format!("/{parent}/{format}");
        let image = Hidden::new(&format!("{directory}/{format}"), "TEST_IMG");
        let others = [Hidden::new(&directory, "TEST_DIR")];
        let line = format!("image: {directory}/{format}\nother: {directory}/{format}.b\nformat: {format}");
        let hidden = text::img_info(&line, &image, &others, format, false);
        prop_assert_eq!(hidden, format!("image: TEST_IMG\nother: TEST_DIR/IMGFMT.b\nformat: IMGFMT"));
    }

    #[test]
    fn the_order_of_the_directories_does_not_matter(printed in printed()) {
        in_any_order(&printed);
    }
}

fn filtered_once_and_for_all(printed: &str) {
    for (filter, left) in filters() {
        let once = filter.text(printed).into_owned();
        assert_eq!(filter.text(&once), once.as_str(), "{filter:?}");
        assert!(!left(&once), "{filter:?} left something in {once:?}");
    }
}

fn in_any_order(printed: &str) {
    let mut reversed = directories();
    reversed.reverse();
    assert_eq!(
        text::test_files(printed, &directories()),
        text::test_files(printed, &reversed)
    );
}

/// Texts that a filter once got wrong, or that a naive implementation would get wrong.
const FOUND: &[&str] = &[
    // Removing a line at one end exposes another one.
    "[I 17.25] OPENED\n[I 17.25] OPENED\n",
    "x\n[I +0.25] CLOSED\n\n[I +0.25] CLOSED\n",
    "[I 17.25] OPENED\n\n[I +0.25] CLOSED\n[I +0.25] CLOSED",
    "\n[I +0.25] CLOSED[I +0.25] CLOSED\n",
    "[I 17.25] OPENED\n[I +0.25] CLOSED",
    // A carriage return that precedes a line feed only after another one was removed.
    "\r\r\n",
    // One spelling of a directory contains another one.
    "/run/qcow2, \"dir\"/case 7/run/qcow2,, \"dir\"/case 7",
    "/run/qcow2,, \"dir\"/case 7/base",
    "/run/qcow2, \\\"dir\\\"/case 7.",
    // A directory whose name continues, and one that only ends a sentence.
    "/run/qcow2, \"dir\"/case 7-x",
    "/run/sock/raw.",
    "/run/sock/raw..raw",
    // Adjacent numbers and names.
    "#block#block12",
    "#block124711",
    "4711#block12",
    "localhost:10809localhost:10809",
    "127.0.0.1:10809:10809",
    "1c1e5c9b-83ef-4e51-a6ce-0eb1d1ba1d3f1c1e5c9b-83ef-4e51-a6ce-0eb1d1ba1d3f",
    // Two amounts, the first of which runs into the second.
    "sec (1 ops; 00.00 sec (3.2 GiB/sec and 52657.71 ops/sec)",
    "12 ops; 0.1 sec (inf EiB/sec and inf ops/sec)1 ops; 00.00 sec (3.2 GiB/sec and 52657.71 ops/sec)",
    // A section that ends with the text, and a line that belongs to one only by its indentation.
    "Child node '/file':\n    disk size: 4 KiB\n",
    "disk size: 4 KiB\nChild node '/file':\n    \n    x",
    "virtio-scsi-pci-ccw",
    "compression type: zstdcompression type: zstd",
];

#[test]
fn what_was_once_found_stays_right() {
    for printed in FOUND {
        filtered_once_and_for_all(printed);
        in_any_order(printed);
    }
}

/// The processor time of this thread, without that of other threads and processes.
fn worked() -> Duration {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_THREAD).unwrap();
    let duration = |time: nix::sys::time::TimeVal| {
        let micros = time.tv_sec() * 1_000_000 + time.tv_usec();
        Duration::from_micros(micros.unsigned_abs())
    };
    duration(usage.user_time()) + duration(usage.system_time())
}

/// Sixteen times the text takes about sixteen times the work: the limit is four times that, while
/// quadratic time would be sixteen times that.
#[test]
fn ten_mebibytes_are_filtered_in_linear_time() {
    const TIMES: u32 = 16;
    const LARGE: usize = 10 << 20;
    let hard = [
        "1 ops; ".to_owned(),
        "#block".to_owned(),
        "00.00 sec (".to_owned(),
        "\n[I +0.2".to_owned(),
        "[I 1.1] OPENED\n".to_owned(),
        "\n[I +0.25] CLOSED\n".to_owned(),
        format!("{TEST_DIR}x"),
        format!("{UUID} "),
        "raw".to_owned(),
    ];
    for part in hard {
        for (filter, _) in filters() {
            let time = |size: usize| {
                let text = part.repeat(size / part.len());
                let start = worked();
                std::hint::black_box(filter.text(&text).len());
                worked() - start
            };
            let long = time(LARGE);
            // Too little for quadratic time.
            if long < Duration::from_millis(200) {
                continue;
            }
            let short = time(LARGE / TIMES as usize);
            assert!(
                long < short * TIMES * 4,
                "{filter:?} on {part:?}: {short:?}, then {long:?}"
            );
        }
    }
}
