//! Taking big-endian fields from a slice without ever reading past its end.

use super::error::DecodeError;
use super::limits::MAX_STRING;

/// A cursor over one message; `what` names the message in errors.
pub(crate) struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Reader { what, rest: bytes }
    }

    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        let short = DecodeError::Short {
            what: self.what,
            needed: n,
            got: self.rest.len(),
        };
        let (head, tail) = self.rest.split_at_checked(n).ok_or(short)?;
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn magic64(&mut self, expected: u64) -> Result<(), DecodeError> {
        let got = self.u64()?;
        if got == expected {
            return Ok(());
        }
        Err(DecodeError::Magic {
            what: self.what,
            expected,
            got,
        })
    }

    pub(crate) fn string(&mut self, len: usize) -> Result<String, DecodeError> {
        limit(self.what, len as u64, MAX_STRING as u64)?;
        let bytes = self.take(len)?;
        match std::str::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
            _ => Err(DecodeError::Text {
                what: self.what,
                text: String::from_utf8_lossy(bytes).into_owned(),
            }),
        }
    }

    /// A length-prefixed string.
    pub(crate) fn counted_string(&mut self) -> Result<String, DecodeError> {
        let len = self.u32()?;
        limit(self.what, u64::from(len), MAX_STRING as u64)?;
        self.string(len as usize)
    }

    pub(crate) fn rest_string(&mut self) -> Result<String, DecodeError> {
        self.string(self.rest.len())
    }

    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(DecodeError::Trailing {
            what: self.what,
            extra: self.rest.len(),
        })
    }
}

/// Rejects a length above `limit` before anything is allocated.
pub(crate) fn limit(what: &'static str, len: u64, limit: u64) -> Result<(), DecodeError> {
    if len > limit {
        Err(DecodeError::TooLong { what, len, limit })
    } else {
        Ok(())
    }
}

/// Appends a length-prefixed string.
pub(crate) fn put_counted(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u32).to_be_bytes());
    out.extend(text.as_bytes());
}
