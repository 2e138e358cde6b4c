//! Decoding JSON into types, at any depth QEMU can send, with errors that name the place.

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::stack;

/// JSON that does not have the expected form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to decode JSON at {path}: {message}")]
pub struct DecodeError {
    /// Where in the document, such as `return[2].image.filename`; `.` for the whole.
    pub path: String,
    /// What was expected and found.
    pub message: String,
}

impl DecodeError {
    pub(crate) fn top_level(error: serde_json::Error) -> Self {
        Self {
            path: ".".into(),
            message: error.to_string(),
        }
    }

    pub(crate) fn from_utf8(error: std::str::Utf8Error) -> Self {
        Self {
            path: ".".into(),
            message: error.to_string(),
        }
    }

    /// This error as seen from the document that holds the value as member `name`.
    pub(crate) fn within(mut self, name: &str) -> Self {
        self.path = match self.path.as_str() {
            "." => name.to_owned(),
            inner if inner.starts_with('[') => format!("{name}{inner}"),
            inner => format!("{name}.{inner}"),
        };
        self
    }
}

/// Decodes a value from a frame of `depth` levels.
pub(crate) fn from_raw<T: DeserializeOwned + Send>(
    raw: &RawValue,
    depth: usize,
) -> Result<T, DecodeError> {
    from_text(raw.get(), depth)
}

/// Decodes the value that a command returned, whose depth is not known.
///
/// # Errors
/// When the value is not a `T`; the error's path starts with `return`.
pub fn from_return<T: DeserializeOwned + Send>(raw: &RawValue) -> Result<T, DecodeError> {
    from_return_of_depth(raw, depth_of(raw.get()))
}

/// Decodes the value that a command returned in a frame of `depth` levels.
pub(crate) fn from_return_of_depth<T: DeserializeOwned + Send>(
    raw: &RawValue,
    depth: usize,
) -> Result<T, DecodeError> {
    from_raw(raw, depth).map_err(|error| error.within("return"))
}

fn from_text<T: DeserializeOwned + Send>(text: &str, depth: usize) -> Result<T, DecodeError> {
    stack::with_room(depth, || {
        // Tracking the path costs time, so it is only done once something is wrong.
        parse(text).or_else(|_| parse_with_path(text))
    })
    .unwrap_or_else(|error| {
        Err(DecodeError {
            path: ".".into(),
            message: format!("no thread for a value of {depth} levels: {error}"),
        })
    })
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    // The depth was checked when the message was framed, and there is room for it.
    deserializer.disable_recursion_limit();
    let value = T::deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

fn parse_with_path<T: DeserializeOwned>(text: &str) -> Result<T, DecodeError> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    deserializer.disable_recursion_limit();
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| DecodeError {
        path: error.path().to_string(),
        message: error.inner().to_string(),
    })
}

/// How deep a valid JSON text nests.
fn depth_of(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut depth, mut deepest, mut at) = (0usize, 0usize, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
            }
            _ => {}
        }
        at += 1;
    }
    deepest
}
