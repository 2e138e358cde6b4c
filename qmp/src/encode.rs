//! Encoding commands: one strict line of JSON each, checked before anything is sent.
//!
//! QEMU answers most bad commands with an error that carries the command's id. A few mistakes it
//! notices before it has parsed the id; its answer then names no command. Those are rejected here:
//! see [`EncodeError`].

use std::borrow::Cow;
use std::collections::HashSet;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::frame::Limits;

/// QEMU's limit for the tokens of one message (`qobject/json-streamer.c`).
const MAX_TOKENS: usize = 2 << 20;

/// A command that is not sent, because QEMU could not answer it properly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The arguments cannot be expressed in JSON.
    #[error("failed to serialize the arguments: {0}")]
    Serialize(String),
    /// The arguments are neither an object nor absent.
    #[error("failed to encode the arguments: they are not a JSON object but {found}")]
    NotAnObject {
        /// What they are, shortened.
        found: String,
    },
    /// A string holds a character that QEMU's parser rejects as invalid UTF-8.
    #[error("failed to encode the arguments: QEMU rejects the noncharacter U+{0:04X}")]
    Noncharacter(u32),
    /// A string holds half a surrogate pair, written as an escape.
    #[error("failed to encode the arguments: QEMU rejects the lone surrogate \\u{0}")]
    LoneSurrogate(String),
    /// An object names a member twice.
    #[error("failed to encode the arguments: member '{0}' occurs twice in one object")]
    DuplicateMember(String),
    /// The command nests too deep.
    #[error("failed to encode the command: it nests {depth} levels, QEMU reads {limit}")]
    TooDeep {
        /// Its depth.
        depth: usize,
        /// QEMU's limit.
        limit: usize,
    },
    /// The command is too long.
    #[error("failed to encode the command: it has {size} bytes, QEMU reads fewer than {limit}")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// QEMU's limit.
        limit: usize,
    },
    /// The command has too many tokens.
    #[error("failed to encode the command: it has more than {limit} JSON tokens")]
    TooManyTokens {
        /// QEMU's limit.
        limit: usize,
    },
    /// The transport cannot carry file descriptors.
    #[error("failed to send a file descriptor: only Unix sockets carry them")]
    NoDescriptors,
    /// A command whose type does not allow out-of-band execution.
    #[error("failed to encode the command: it cannot be executed out of band")]
    NotOutOfBand,
    /// A deprecated command, where only stable ones are allowed.
    #[error("failed to encode the command: it is deprecated")]
    Deprecated,
    /// An unstable command, where only stable ones are allowed.
    #[error("failed to encode the command: it is unstable")]
    Unstable,
    /// A file descriptor with an out-of-band command.
    #[error(
        "failed to encode the command: a file descriptor cannot go with an out-of-band command"
    )]
    DescriptorOutOfBand,
}

/// The checked arguments of a command; `None` means "no `arguments` member".
pub type Arguments = Option<Box<RawValue>>;

/// Serializes and checks the arguments of a command.
///
/// `()`, `None` and an empty object all mean "no arguments"; anything else must be an object.
///
/// # Errors
/// When they are not an object, or QEMU would reject them without naming the command.
pub fn arguments<T: Serialize + ?Sized>(value: &T) -> Result<Arguments, EncodeError> {
    let text = serde_json::to_string(value).map_err(|e| EncodeError::Serialize(e.to_string()))?;
    if matches!(text.as_str(), "null" | "{}") {
        return Ok(None);
    }
    let text = check(text)?;
    RawValue::from_string(text).map(Some).map_err(|e| EncodeError::Serialize(e.to_string()))
}

/// One command as a line, newline included. A guest agent is sent no id.
///
/// # Errors
/// When the whole exceeds QEMU's limits.
pub fn command(
    name: &str,
    arguments: Option<&RawValue>,
    id: Option<&str>,
    oob: bool,
) -> Result<Vec<u8>, EncodeError> {
    let arguments_len = arguments.map_or(0, |raw| raw.get().len() + 13);
    let id_len = id.map_or(0, str::len);
    let mut line = Vec::with_capacity(name.len() + id_len + arguments_len + 32);
    line.extend_from_slice(if oob {
        b"{\"exec-oob\":"
    } else {
        b"{\"execute\":"
    });
    push_string(&mut line, name)?;
    if let Some(arguments) = arguments {
        line.extend_from_slice(b",\"arguments\":");
        line.extend_from_slice(arguments.get().as_bytes());
    }
    if let Some(id) = id {
        line.extend_from_slice(b",\"id\":");
        push_string(&mut line, id)?;
    }
    line.extend_from_slice(b"}");
    check_size(line.len())?;
    // The newline is not needed to end the message, but lets QEMU's parser resynchronize.
    line.push(b'\n');
    Ok(line)
}

/// Checks the size of a command, in bytes without the newline.
fn check_size(size: usize) -> Result<(), EncodeError> {
    let limit = Limits::QEMU.message;
    if size < limit {
        Ok(())
    } else {
        Err(EncodeError::TooLarge { size, limit })
    }
}

fn push_string(line: &mut Vec<u8>, text: &str) -> Result<(), EncodeError> {
    check_characters(text)?;
    serde_json::to_writer(line, text).map_err(|e| EncodeError::Serialize(e.to_string()))
}

fn is_noncharacter(c: char) -> bool {
    let code = u32::from(c);
    (0xFDD0..=0xFDEF).contains(&code) || code & 0xFFFE == 0xFFFE
}

fn check_characters(text: &str) -> Result<(), EncodeError> {
    if text.is_ascii() {
        return Ok(());
    }
    match text.chars().find(|&c| is_noncharacter(c)) {
        Some(c) => Err(EncodeError::Noncharacter(u32::from(c))),
        None => Ok(()),
    }
}

/// Checks valid JSON text against what QEMU accepts, and puts it on one line.
///
/// A loop, not a recursion: the text may nest as deep as QEMU allows.
fn check(mut text: String) -> Result<String, EncodeError> {
    if !text.starts_with('{') {
        let found = text.chars().take(40).collect();
        return Err(EncodeError::NotAnObject { found });
    }
    check_characters(&text)?;
    // Serializing adds no white space, but a `RawValue` inside keeps its own.
    if text.contains(['\n', '\r']) {
        text = text.replace(['\n', '\r'], " ");
    }

    let mut names: Vec<Names<'_>> = Vec::new();
    let (mut tokens, mut deepest, mut at) = (0, 0, 0);
    let bytes = text.as_bytes();
    while at < bytes.len() {
        match bytes[at] {
            b'{' => names.push(Names::object()),
            b'[' => names.push(Names::Array),
            b'}' | b']' => {
                names.pop();
            }
            b',' => {
                if let Some(Names::Object { expects_name, .. }) = names.last_mut() {
                    *expects_name = true;
                }
            }
            b'"' => {
                let end = string_end(bytes, at);
                let inner = &text[at + 1..end];
                check_escapes(inner)?;
                if let Some(object) = names.last_mut() {
                    object.note(inner)?;
                }
                at = end;
            }
            b' ' | b'\t' => {
                at += 1;
                continue;
            }
            b':' => {}
            _ => {
                // A number, true, false or null: one token up to the next delimiter.
                while at + 1 < bytes.len() && !b",}] \t".contains(&bytes[at + 1]) {
                    at += 1;
                }
            }
        }
        deepest = deepest.max(names.len());
        tokens += 1;
        at += 1;
    }

    // The envelope adds a level, and "execute", "arguments" and "id" with their values.
    let limit = Limits::QEMU.depth;
    if deepest + 1 > limit {
        return Err(EncodeError::TooDeep {
            depth: deepest + 1,
            limit,
        });
    }
    if tokens + 13 > MAX_TOKENS {
        return Err(EncodeError::TooManyTokens { limit: MAX_TOKENS });
    }
    Ok(text)
}

/// The position of the quote that ends the string which starts at `at`.
fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while bytes[end] != b'"' {
        end += if bytes[end] == b'\\' { 2 } else { 1 };
    }
    end
}

/// Checks `\u` escapes, which only a `RawValue` can introduce for printable characters.
fn check_escapes(inner: &str) -> Result<(), EncodeError> {
    if !inner.contains("\\u") {
        return Ok(());
    }
    match unescape(inner) {
        Some(text) => check_characters(&text),
        None => {
            let from = inner.to_ascii_lowercase().find("\\ud").unwrap_or(0);
            Err(EncodeError::LoneSurrogate(
                inner[from..].chars().skip(2).take(4).collect(),
            ))
        }
    }
}

fn unescape(inner: &str) -> Option<String> {
    serde_json::from_str(&format!("\"{inner}\"")).ok()
}

/// The member names seen in one open bracket.
enum Names<'a> {
    Array,
    Object {
        seen: HashSet<Cow<'a, str>>,
        expects_name: bool,
    },
}

impl<'a> Names<'a> {
    fn object() -> Self {
        Self::Object {
            seen: HashSet::new(),
            expects_name: true,
        }
    }

    /// Records a string inside this bracket; it is a name if one is expected.
    fn note(&mut self, inner: &'a str) -> Result<(), EncodeError> {
        let Self::Object {
            seen,
            expects_name: due @ true,
        } = self
        else {
            return Ok(());
        };
        *due = false;
        let name = match inner.contains('\\').then(|| unescape(inner)).flatten() {
            Some(text) => Cow::Owned(text),
            None => Cow::Borrowed(inner),
        };
        if seen.contains(&name) {
            return Err(EncodeError::DuplicateMember(name.into_owned()));
        }
        seen.insert(name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn line(name: &str, args: &Value) -> String {
        let args = arguments(args).unwrap();
        String::from_utf8(command(name, args.as_deref(), Some("a1"), false).unwrap()).unwrap()
    }

    fn raw(text: &str) -> Result<Arguments, EncodeError> {
        arguments(&RawValue::from_string(text.to_owned()).unwrap())
    }

    /// A map that serializes a name twice, as flattened structs can.
    struct Twice;

    impl Serialize for Twice {
        fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
            s.collect_map([("a", 1), ("b", 2), ("a", 3)])
        }
    }

    #[test]
    fn a_command_is_one_line_with_a_short_envelope() {
        assert_eq!(
            line(
                "blockdev-add",
                &json!({"driver": "null-co", "n": {"x": [1, "a\nb"]}})
            ),
            "{\"execute\":\"blockdev-add\",\"arguments\":\
             {\"driver\":\"null-co\",\"n\":{\"x\":[1,\"a\\nb\"]}},\"id\":\"a1\"}\n"
        );
        assert_eq!(
            command("yank", None, Some("a1"), true).unwrap(),
            b"{\"exec-oob\":\"yank\",\"id\":\"a1\"}\n"
        );
    }

    #[test]
    fn absent_null_and_empty_arguments_are_left_out() {
        assert_eq!(arguments(&()).unwrap().map(|_| ()), None);
        assert_eq!(arguments(&None::<Value>).unwrap().map(|_| ()), None);
        assert_eq!(arguments(&json!({})).unwrap().map(|_| ()), None);
    }

    #[test]
    fn arguments_that_are_no_object_are_refused() {
        for args in [json!([1]), json!("x"), json!(7), json!(true)] {
            assert!(
                matches!(arguments(&args), Err(EncodeError::NotAnObject { .. })),
                "{args}"
            );
        }
    }

    #[test]
    fn noncharacters_are_refused_however_they_are_written() {
        for c in [
            '\u{FFFE}',
            '\u{FFFF}',
            '\u{1FFFE}',
            '\u{10FFFF}',
            '\u{FDD0}',
            '\u{FDEF}',
        ] {
            let want = EncodeError::Noncharacter(u32::from(c));
            assert_eq!(arguments(&json!({"a": format!("x{c}")})).unwrap_err(), want);
            assert_eq!(arguments(&json!({format!("x{c}"): 1})).unwrap_err(), want);
            assert_eq!(
                command(&c.to_string(), None, Some("a"), false).unwrap_err(),
                want
            );
        }
        assert_eq!(
            raw(r#"{"a":"\ufffe"}"#).unwrap_err(),
            EncodeError::Noncharacter(0xFFFE)
        );
        assert!(arguments(&json!({"a": "\u{FDCF}\u{FDF0}\u{FFFD}\u{1F600}\0"})).is_ok());
    }

    #[test]
    fn a_lone_surrogate_is_refused() {
        let error = raw(r#"{"a":"x\ud800y"}"#).unwrap_err();
        assert_eq!(error, EncodeError::LoneSurrogate("d800".into()));
        assert!(raw(r#"{"a":"\ud83d\ude00"}"#).is_ok());
    }

    #[test]
    fn a_member_that_occurs_twice_is_refused() {
        let twice = |name: &str| EncodeError::DuplicateMember(name.into());
        assert_eq!(arguments(&Twice).unwrap_err(), twice("a"));
        assert_eq!(
            raw(r#"{"x":[{"a":1,"\u0061":2}]}"#).unwrap_err(),
            twice("a")
        );
        assert!(raw(r#"{"a":{"a":"a","b":"a"},"b":["a","a"]}"#).is_ok());
    }

    #[test]
    fn white_space_of_raw_arguments_cannot_break_the_line() {
        let args = raw("{\n \"a\" :\r\n [ 1 , 2 ] }").unwrap().unwrap();
        assert!(!args.get().contains(['\n', '\r']));
        assert_eq!(
            serde_json::from_str::<Value>(args.get()).unwrap(),
            json!({"a": [1, 2]})
        );
    }

    #[test]
    fn depth_is_limited_to_what_qemu_reads() {
        // One level is the envelope, one the arguments.
        let nest = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n));
        assert!(raw(&nest(1022)).is_ok());
        let error = raw(&nest(1023)).unwrap_err();
        assert_eq!(
            error,
            EncodeError::TooDeep {
                depth: 1025,
                limit: 1024
            }
        );
    }

    #[test]
    fn size_and_token_count_are_limited_to_what_qemu_reads() {
        let limit = 67_108_864;
        assert_eq!(check_size(limit - 1), Ok(()));
        assert_eq!(
            check_size(limit),
            Err(EncodeError::TooLarge { size: limit, limit })
        );
        let many = format!("{{\"a\":[{}1]}}", "1,".repeat(1 << 20));
        assert_eq!(
            raw(&many).unwrap_err(),
            EncodeError::TooManyTokens { limit: MAX_TOKENS }
        );
    }
}
