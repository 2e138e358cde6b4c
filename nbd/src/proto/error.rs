//! Why bytes could not be decoded.

/// Bytes that do not conform to the protocol.
///
/// Every variant names the message, what was expected and what was received.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A magic number is wrong.
    #[error("{what}: expected magic {expected:#x}, got {got:#x}")]
    Magic {
        /// The message.
        what: &'static str,
        /// The right magic.
        expected: u64,
        /// The magic received.
        got: u64,
    },
    /// A length is above the limit; nothing has been allocated for it.
    #[error("{what}: length {len} is above the limit of {limit}")]
    TooLong {
        /// The message or field.
        what: &'static str,
        /// Length claimed by the peer.
        len: u64,
        /// Our limit.
        limit: u64,
    },
    /// The message ends before a field does.
    #[error("{what}: {needed} more bytes expected, {got} left")]
    Short {
        /// The message.
        what: &'static str,
        /// Bytes the next field needs.
        needed: usize,
        /// Bytes that were left.
        got: usize,
    },
    /// The message continues after its last field.
    #[error("{what}: {extra} bytes too many")]
    Trailing {
        /// The message.
        what: &'static str,
        /// Bytes left over.
        extra: usize,
    },
    /// A length that the kind of message cannot have.
    #[error("{what}: length {len} is not {expected}")]
    Length {
        /// The message.
        what: &'static str,
        /// Length claimed by the peer.
        len: u64,
        /// A description of the valid lengths.
        expected: &'static str,
    },
    /// A string that is not UTF-8 or has a NUL in it.
    #[error("{what}: not a valid string: {text:?}")]
    Text {
        /// The field.
        what: &'static str,
        /// The string with the bad parts replaced.
        text: String,
    },
    /// A value that is forbidden.
    #[error("{what}: {detail}")]
    Value {
        /// The message.
        what: &'static str,
        /// What is wrong.
        detail: String,
    },
}
