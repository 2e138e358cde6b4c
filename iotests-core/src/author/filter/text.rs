//! The filters for text, as pure functions.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

use super::Hidden;

/// A pattern that is known to be valid: it is a literal below, and each has a test.
macro_rules! pattern {
    ($name:ident, $text:expr) => {
        static $name: LazyLock<Regex> =
            LazyLock::new(|| Regex::new($text).expect("the pattern is a constant"));
    };
}

/// Hides carriage returns, which tools on Windows print before each line feed.
#[must_use]
pub fn carriage_returns(text: &str) -> Cow<'_, str> {
    if text.contains('\r') {
        Cow::Owned(text.replace('\r', ""))
    } else {
        Cow::Borrowed(text)
    }
}

/// Hides the paths of the test and the socket directory: `TEST_DIR/base`, `SOCK_DIR/nbd`.
///
/// The longer path is replaced first, so that one directory may be inside the other.
#[must_use]
pub fn test_files<'a>(text: &'a str, directories: &[Hidden]) -> Cow<'a, str> {
    let mut ordered: Vec<&Hidden> = directories.iter().collect();
    ordered.sort_by_key(|hidden| std::cmp::Reverse(hidden.len()));
    let mut text = Cow::Borrowed(text);
    for hidden in ordered {
        if let Cow::Owned(replaced) = hidden.apply(&text) {
            text = Cow::Owned(replaced);
        }
    }
    text
}

pattern!(
    QEMU_IO,
    r"[0-9]+ ops; [0-9:./ sec]+\((?:[0-9.]+|inf|-?nan) [EPTGMKi]*(?:B|bytes)/sec and (?:[0-9.]+|inf|-?nan) ops/sec\)"
);

/// Hides the times and rates that qemu-io prints, which differ in every run.
///
/// The number of operations is hidden as well, like upstream does: it depends on how a request was
/// split.
#[must_use]
pub fn qemu_io(text: &str) -> Cow<'_, str> {
    QEMU_IO.replace_all(text, "X ops; XX:XX:XX.X (XXX YYY/sec and XXX ops/sec)")
}

pattern!(CHOWN, r"\bchown [0-9]+:[0-9]+");

/// Hides the ids in `chown 1000:100`, which are those of the user who runs the case.
#[must_use]
pub fn chown(text: &str) -> Cow<'_, str> {
    CHOWN.replace_all(text, "chown UID:GID")
}

pattern!(
    EVENT_TIME,
    r#""timestamp": ?\{"(seconds|microseconds)": ?-?[0-9]+, ?"(?:seconds|microseconds)": ?-?[0-9]+\}"#
);

/// Hides the timestamps of QMP events in text that shows QMP messages, one per line.
///
/// For JSON values, [`super::json::event_times`] does the same.
#[must_use]
pub fn event_times(text: &str) -> Cow<'_, str> {
    EVENT_TIME.replace_all(text, |found: &regex::Captures<'_>| {
        if &found[1] == "seconds" {
            r#""timestamp": {"seconds": "SECS", "microseconds": "USECS"}"#
        } else {
            r#""timestamp": {"microseconds": "USECS", "seconds": "SECS"}"#
        }
    })
}

pattern!(VIRTIO_SCSI, r"\bvirtio-scsi(?:-(?:ccw|pci)\b)+");

/// Hides the bus of virtio-scsi, which depends on the machine type: `-pci` or `-ccw`.
#[must_use]
pub fn virtio_scsi(text: &str) -> Cow<'_, str> {
    VIRTIO_SCSI.replace_all(text, "virtio-scsi")
}

pattern!(NODE_ID, r"#block[0-9]+");

/// Hides the node names that QEMU generates (`#block123`), which contain a counter of all nodes
/// ever created.
#[must_use]
pub fn generated_node_ids(text: &str) -> Cow<'_, str> {
    NODE_ID.replace_all(text, "NODE_NAME")
}

pattern!(NBD_BLOCK_SIZE, r"\b(min|opt|max) block: [0-9]+");

/// Hides the block sizes in a listing of NBD exports, which depend on the host's file system.
#[must_use]
pub fn nbd_exports(text: &str) -> Cow<'_, str> {
    NBD_BLOCK_SIZE.replace_all(text, "$1 block: XXX")
}

pattern!(QTEST_OPENED, r"\A(?:\[I [0-9]+\.[0-9]+\] OPENED\n)+");
pattern!(QTEST_CLOSED, r"(?:\n?\[I \+[0-9]+\.[0-9]+\] CLOSED\n?)+\z");

/// Hides the two lines that QEMU prints when its qtest channel opens and closes.
#[must_use]
pub fn qtest(text: &str) -> Cow<'_, str> {
    // Removing a line at one end can expose another one, so both ends are trimmed in turn until
    // neither has one; each round shortens the text.
    let mut text = text;
    loop {
        let before = text.len();
        if let Some(opened) = QTEST_OPENED.find(text) {
            text = &text[opened.end()..];
        }
        if let Some(closed) = last_closed(text) {
            text = &text[..closed];
        }
        if text.len() == before {
            return Cow::Borrowed(text);
        }
    }
}

/// The start of the `CLOSED` lines at the end of the text. Only the tail is searched: a regular
/// expression anchored at the end would be tried at every position before it.
fn last_closed(text: &str) -> Option<usize> {
    let trimmed = text.strip_suffix('\n').unwrap_or(text);
    if !trimmed.ends_with("] CLOSED") {
        return None;
    }
    let line = trimmed.rfind("[I +")?;
    let start = text[..line].strip_suffix('\n').map_or(line, str::len);
    QTEST_CLOSED.find(&text[start..]).filter(|found| found.start() == 0).map(|_| start)
}

pattern!(
    UUID,
    r"\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b"
);

/// Hides UUIDs, which LUKS and others generate for each image.
#[must_use]
pub fn uuids(text: &str) -> Cow<'_, str> {
    UUID.replace_all(text, "XXXXXXXX-XXXX-XXXX-XXXX-XXXXXXXXXXXX")
}

pattern!(
    PORT,
    r"(\blocalhost|\b127\.0\.0\.1|\[?::1\]?|\b0\.0\.0\.0|\[::\]):[0-9]{1,5}\b"
);
pattern!(JSON_PORT, r#"("port": ?)(?:"[0-9]+"|[0-9]+)"#);

/// Hides the port after a local address and in `"port": "10809"`: any free port may be used.
#[must_use]
pub fn ports(text: &str) -> Cow<'_, str> {
    chain(PORT.replace_all(text, "$1:PORT"), |text| {
        JSON_PORT.replace_all(text, "${1}\"PORT\"")
    })
}

/// Hides a process id: that number, where it is a separate word.
#[must_use]
pub fn pid(text: &str, pid: u32) -> Cow<'_, str> {
    whole_words(text, &pid.to_string(), "PID")
}

/// Hides the name of the image format, so that one golden serves all formats.
///
/// Matches only whole words: `raw` does not change `drawn`, nor `qcow` change `qcow2`. (Upstream
/// replaces the letters anywhere.)
#[must_use]
pub fn image_format<'a>(text: &'a str, format: &str) -> Cow<'a, str> {
    whole_words(text, format, "IMGFMT")
}

fn whole_words<'a>(text: &'a str, word: &str, placeholder: &str) -> Cow<'a, str> {
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    if word.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut out: Option<String> = None;
    let mut copied = 0;
    for (at, _) in text.match_indices(word) {
        let end = at + word.len();
        let before = text[..at].chars().next_back().is_some_and(in_word);
        if before || text[end..].chars().next().is_some_and(in_word) {
            continue;
        }
        let out = out.get_or_insert_with(|| String::with_capacity(text.len()));
        out.push_str(&text[copied..at]);
        out.push_str(placeholder);
        copied = end;
    }
    out.map_or(Cow::Borrowed(text), |mut out| {
        out.push_str(&text[copied..]);
        Cow::Owned(out)
    })
}

pattern!(ITERATIONS, r"\biters: [0-9]+");
pattern!(CID, r"\bcid: [0-9]+");
pattern!(COMPRESSION, r"(\bcompression type: )(?:zlib|zstd)\b");

/// Makes the output of `qemu-img info` the same on every machine.
///
/// Replaces, in this order, because a directory's name may contain that of the image or the format:
/// the image itself (`TEST_IMG`), then other test files, then the format. Removes lines with the
/// disk size, which depends on the file system, and hides PBKDF iterations, UUIDs, VMDK content ids
/// and the compression type. `child_nodes` keeps the sections about child nodes, which only newer
/// versions print.
#[must_use]
pub fn img_info(
    text: &str,
    image: &Hidden,
    directories: &[Hidden],
    format: &str,
    child_nodes: bool,
) -> String {
    let mut lines = Vec::new();
    let mut in_child_node = false;
    for line in text.split('\n') {
        if line.contains("disk size") || line.contains("actual-size") {
            continue;
        }
        if in_child_node && line.starts_with(' ') {
            continue;
        }
        in_child_node = !child_nodes && line.contains("Child node '/");
        if in_child_node {
            continue;
        }
        let line = chain(image.apply(line), |line| test_files(line, directories));
        let line = chain(line, |line| image_format(line, format));
        let line = chain(line, |line| ITERATIONS.replace_all(line, "iters: XXX"));
        let line = chain(line, uuids);
        let line = chain(line, |line| CID.replace_all(line, "cid: XXXXXXXXXX"));
        let line = chain(line, |line| {
            COMPRESSION.replace_all(line, "${1}COMPRESSION_TYPE")
        });
        lines.push(line.into_owned());
    }
    lines.join("\n")
}

/// Applies `filter` to text that may already be a modified copy, copying again only if it changes.
pub(super) fn chain<'a>(
    text: Cow<'a, str>,
    filter: impl for<'b> FnOnce(&'b str) -> Cow<'b, str>,
) -> Cow<'a, str> {
    match text {
        Cow::Borrowed(text) => filter(text),
        Cow::Owned(owned) => match filter(&owned) {
            Cow::Owned(changed) => Cow::Owned(changed),
            Cow::Borrowed(same) if same.len() == owned.len() => Cow::Owned(owned),
            Cow::Borrowed(part) => Cow::Owned(part.to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_io_times_and_rates_are_hidden() {
        let hidden = "64 KiB, X ops; XX:XX:XX.X (XXX YYY/sec and XXX ops/sec)";
        for text in [
            "64 KiB, 1 ops; 00.00 sec (3.213 GiB/sec and 52657.7146 ops/sec)",
            "64 KiB, 1 ops; 0.0001 sec (inf EiB/sec and inf ops/sec)",
            "64 KiB, 13 ops; 00:01:02.50 sec (1.02 KiB/sec and 0.2080 ops/sec)",
            "64 KiB, 1 ops; 00.00 sec (12 bytes/sec and 1.5 ops/sec)",
        ] {
            assert_eq!(qemu_io(text), hidden, "{text}");
        }
    }

    /// H03: both directories are hidden, and one may be inside the other.
    #[test]
    fn test_and_socket_paths_are_hidden_and_may_be_nested() {
        let outside = [
            Hidden::new("/w", "TEST_DIR"),
            Hidden::new("/w/s", "SOCK_DIR"),
        ];
        assert_eq!(
            test_files("/w/a /w/s/nbd", &outside),
            "TEST_DIR/a SOCK_DIR/nbd"
        );
        let reversed = [outside[1].clone(), outside[0].clone()];
        assert_eq!(
            test_files("/w/a /w/s/nbd", &reversed),
            "TEST_DIR/a SOCK_DIR/nbd"
        );
    }

    /// H25: main image, then other files, then the format; a directory may contain the format's
    /// name.
    #[test]
    fn the_info_filter_names_the_image_before_the_directory_before_the_format() {
        let info = "image: /run/qcow2/a\nfile format: qcow2\nvirtual size: 1 MiB (1048576 bytes)\n\
                    disk size: 196 KiB\nbacking file: /run/qcow2/b (actual path: /run/qcow2/b)\n\
                    backing file format: qcow2\nFormat specific information:\n    \
                    compat: 1.1\n    compression type: zstd\n    uuid: 1c1e5c9b-83ef-4e51-a6ce-0eb1d1ba1d3f\n    \
                    iters: 1024\n    cid: 31415\nChild node '/file':\n    filename: /run/qcow2/a\n    \
                    protocol type: file\nlast: line";
        let hidden = |child_nodes| {
            let directories = [Hidden::new("/run/qcow2", "TEST_DIR")];
            img_info(
                info,
                &Hidden::new("/run/qcow2/a", "TEST_IMG"),
                &directories,
                "qcow2",
                child_nodes,
            )
        };
        let expected = "image: TEST_IMG\nfile format: IMGFMT\nvirtual size: 1 MiB (1048576 bytes)\n\
                        backing file: TEST_DIR/b (actual path: TEST_DIR/b)\n\
                        backing file format: IMGFMT\nFormat specific information:\n    \
                        compat: 1.1\n    compression type: COMPRESSION_TYPE\n    \
                        uuid: XXXXXXXX-XXXX-XXXX-XXXX-XXXXXXXXXXXX\n    iters: XXX\n    \
                        cid: XXXXXXXXXX\nlast: line";
        assert_eq!(hidden(false), expected);
        assert!(hidden(true).contains("Child node '/file':\n    filename: TEST_IMG\n"));
    }

    #[test]
    fn the_small_filters_hide_what_they_say() {
        assert_eq!(chown("chown 1000:100 x"), "chown UID:GID x");
        assert_eq!(virtio_scsi("virtio-scsi-ccw,id=s"), "virtio-scsi,id=s");
        assert_eq!(generated_node_ids("#block123 #blocks"), "NODE_NAME #blocks");
        assert_eq!(
            nbd_exports("  min block: 1\n  max block: 33554432"),
            "  min block: XXX\n  max block: XXX"
        );
        assert_eq!(carriage_returns("a\r\nb"), "a\nb");
        assert_eq!(
            uuids("uuid 1c1e5c9b-83ef-4e51-a6ce-0eb1d1ba1d3f."),
            "uuid XXXXXXXX-XXXX-XXXX-XXXX-XXXXXXXXXXXX."
        );
        assert_eq!(pid("pid 12 of 123 (12)", 12), "pid PID of 123 (PID)");
        assert_eq!(
            ports("nbd://localhost:10809/x [::1]:99"),
            "nbd://localhost:PORT/x [::1]:PORT"
        );
        assert_eq!(ports(r#"{"port": "10809"}"#), r#"{"port": "PORT"}"#);
        assert_eq!(
            image_format("raw draw raw2 'raw'", "raw"),
            "IMGFMT draw raw2 'IMGFMT'"
        );
    }

    #[test]
    fn event_times_are_hidden_in_either_order_of_keys() {
        let text = r#"{"timestamp": {"seconds": 1700000000, "microseconds": 12}, "event": "STOP"}"#;
        assert_eq!(
            event_times(text),
            r#"{"timestamp": {"seconds": "SECS", "microseconds": "USECS"}, "event": "STOP"}"#
        );
        let text = r#"{"timestamp": {"microseconds": 12, "seconds": 17}}"#;
        assert_eq!(
            event_times(text),
            r#"{"timestamp": {"microseconds": "USECS", "seconds": "SECS"}}"#
        );
    }

    #[test]
    fn the_qtest_lines_at_both_ends_are_hidden() {
        let log = "[I 1700000000.123456] OPENED\nhello\n[I +0.003] CLOSED\n";
        assert_eq!(qtest(log), "hello");
        assert_eq!(
            qtest("[I 0.0] OPENED\n[I +0.1] CLOSED\n[I +0.2] CLOSED"),
            ""
        );
        assert_eq!(qtest("a [I 1.0] OPENED\n"), "a [I 1.0] OPENED\n");
    }
}
