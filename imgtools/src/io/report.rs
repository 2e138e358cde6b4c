//! Parsing qemu-io's output.

/// A completed request, from its two lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The operation.
    pub verb: Verb,
    /// Bytes transferred.
    pub bytes: u64,
    /// Bytes requested.
    pub requested: u64,
    /// Where.
    pub offset: u64,
}

/// What a request did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verb {
    /// It read.
    Read,
    /// It wrote, data or zeroes.
    Wrote,
    /// It discarded.
    Discard,
}

/// Data that did not match its pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mismatch {
    /// Start of the verified part, in bytes. qemu-io does not report which byte differs.
    pub offset: u64,
    /// How many bytes were verified.
    pub length: u64,
}

/// The completed requests: `read 512/512 bytes at offset 0`.
pub fn transfers(text: &str) -> Vec<Transfer> {
    text.lines().filter_map(transfer).collect()
}

fn transfer(line: &str) -> Option<Transfer> {
    let (verb, rest) = line.split_once(' ')?;
    let verb = match verb {
        "read" => Verb::Read,
        "wrote" => Verb::Wrote,
        "discard" => Verb::Discard,
        _ => return None,
    };
    let (counts, offset) = rest.split_once(" bytes at offset ")?;
    let (bytes, requested) = counts.split_once('/')?;
    Some(Transfer {
        verb,
        bytes: bytes.parse().ok()?,
        requested: requested.parse().ok()?,
        offset: offset.parse().ok()?,
    })
}

/// The pattern mismatches: `Pattern verification failed at offset 0, 512 bytes`.
pub fn mismatches(text: &str) -> Vec<Mismatch> {
    text.lines().filter_map(mismatch).collect()
}

fn mismatch(line: &str) -> Option<Mismatch> {
    let rest = line.strip_prefix("Pattern verification failed at offset ")?;
    let (offset, length) = rest.strip_suffix(" bytes")?.split_once(", ")?;
    Some(Mismatch {
        offset: offset.parse().ok()?,
        length: length.parse().ok()?,
    })
}

/// Whether a line reports a request: its completion, its speed, or its suspension by blkdebug.
pub(super) fn is_report(line: &str) -> bool {
    transfer(line).is_some()
        || (line.contains(" ops; ") && line.ends_with(" ops/sec)"))
        || line.starts_with("blkdebug: ")
}

/// Prefixes of lines that report a failure in no common form.
const REFUSALS: [&str; 14] = [
    "Parsing error: ",
    "Argument '",
    "The total number of bytes exceed ",
    "length cannot exceed ",
    "pattern verification range exceeds ",
    "Only one of -z, -P, and -s ",
    "-z and -P cannot ",
    "-z supports only ",
    "-u requires -z ",
    "-n requires -z ",
    "Could not set breakpoint: ",
    "Could not remove breakpoint ",
    "Could not resume request: ",
    "getlength: ",
];

/// The lines that report a failure: wrong data, a failed request, an invalid argument. The exit
/// status covers only some of them, not aio requests; and a session has none until it ends.
pub fn failures(text: &str) -> Vec<&str> {
    let is_failure = |line: &&str| {
        mismatch(line).is_some()
            || REFUSALS.iter().any(|refusal| line.starts_with(refusal))
            || line.ends_with(" is not a valid pattern byte")
            || line.ends_with(" is not a valid number")
            // `read failed: Input/output error`, and likewise for every other verb.
            || line.split_once(" failed: ").is_some_and(|(verb, _)| {
                !verb.is_empty() && verb.chars().all(|char| char.is_ascii_alphabetic() || "_ ".contains(char))
            })
    };
    text.lines().filter(is_failure).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn transfers_are_read_among_other_lines(
            parts in prop::collection::vec((0usize..3, any::<u64>(), any::<u64>(), any::<u64>()), 0..5),
        ) {
            let verbs = [(Verb::Read, "read"), (Verb::Wrote, "wrote"), (Verb::Discard, "discard")];
            let (mut text, mut expected) = (String::new(), Vec::new());
            for (verb, bytes, requested, offset) in parts {
                let (verb, word) = verbs[verb];
                text += &format!("{word} {bytes}/{requested} bytes at offset {offset}\n");
                text += "512 bytes, 1 ops; 00.00 sec (3.164 MiB/sec and 6479.8315 ops/sec)\n";
                text += "wrote nothing at all\n";
                expected.push(Transfer { verb, bytes, requested, offset });
            }
            prop_assert_eq!(transfers(&text), expected);
            prop_assert!(failures(&text).is_empty());
        }

        #[test]
        fn mismatches_are_read(offset: u64, length: u64) {
            let line = format!("Pattern verification failed at offset {offset}, {length} bytes");
            let text = format!("x\n{line}\nread 1/1 bytes at offset 0\n");
            prop_assert_eq!(mismatches(&text), vec![Mismatch { offset, length }]);
            prop_assert_eq!(failures(&text), vec![line.as_str()]);
        }

        #[test]
        fn failures_of_requests_are_found(verb in "[a-z_]{1,9}", why in "[A-Z][a-z/ ]{0,20}") {
            let line = format!("{verb} failed: {why}");
            let text = format!("ok\n{line}\nok");
            prop_assert_eq!(failures(&text), vec![line.as_str()]);
        }

        #[test]
        fn no_text_is_too_strange(text in "(\\PC|\n){0,60}") {
            transfers(&text);
            mismatches(&text);
            failures(&text);
        }
    }

    #[test]
    fn a_hex_dump_is_no_failure() {
        let text = "00000000:  72 65 61 64 20 66 61 69 6c 65 64 3a 20 20 20 20  read failed: x..\n";
        assert_eq!(failures(text), [""; 0]);
    }
}
