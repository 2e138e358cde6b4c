//! Flag words of the handshake, the export, requests, chunks and `base:allocation`.

use super::bits::flag_words;

flag_words! {
    /// What a newstyle server says about itself (proto.md, "Handshake flags").
    pub struct HandshakeFlags: u16 {
        /// Options other than `EXPORT_NAME` may be used.
        const FIXED_NEWSTYLE = 1 << 0;
        /// The 124 zeroes can be left out.
        const NO_ZEROES = 1 << 1;
    }

    /// A client's answer to [`HandshakeFlags`] (proto.md, "Client flags").
    pub struct ClientFlags: u32 {
        /// The client knows fixed newstyle.
        const FIXED_NEWSTYLE = 1 << 0;
        /// The client does not want the 124 zeroes.
        const NO_ZEROES = 1 << 1;
    }

    /// What an export can do (proto.md, "Transmission flags").
    pub struct TransmissionFlags: u16 {
        /// Always set.
        const HAS_FLAGS = 1 << 0;
        /// Writes will fail.
        const READ_ONLY = 1 << 1;
        /// `FLUSH` is understood.
        const SEND_FLUSH = 1 << 2;
        /// The `FUA` flag is understood.
        const SEND_FUA = 1 << 3;
        /// The medium rotates.
        const ROTATIONAL = 1 << 4;
        /// `TRIM` is understood.
        const SEND_TRIM = 1 << 5;
        /// `WRITE_ZEROES` and `NO_HOLE` are understood.
        const SEND_WRITE_ZEROES = 1 << 6;
        /// The `DF` flag is understood.
        const SEND_DF = 1 << 7;
        /// Several connections see one consistent export.
        const CAN_MULTI_CONN = 1 << 8;
        /// Experimental `RESIZE`.
        const SEND_RESIZE = 1 << 9;
        /// `CACHE` is understood.
        const SEND_CACHE = 1 << 10;
        /// The `FAST_ZERO` flag is understood.
        const SEND_FAST_ZERO = 1 << 11;
        /// `BLOCK_STATUS` can carry a payload that selects contexts.
        const BLOCK_STATUS_PAYLOAD = 1 << 12;
    }

    /// Flags of a request (proto.md, "Command flags").
    pub struct CommandFlags: u16 {
        /// The data must be stable before the reply.
        const FUA = 1 << 0;
        /// Zeroes must be allocated.
        const NO_HOLE = 1 << 1;
        /// The reply must be one data chunk.
        const DF = 1 << 2;
        /// One extent is enough.
        const REQ_ONE = 1 << 3;
        /// Zero quickly, or fail.
        const FAST_ZERO = 1 << 4;
        /// The length is that of a payload (extended headers only).
        const PAYLOAD_LEN = 1 << 5;
    }

    /// Flags of a reply chunk.
    pub struct ChunkFlags: u16 {
        /// The last chunk of its reply.
        const DONE = 1 << 0;
    }

    /// Status bits of the context `base:allocation`.
    pub struct BaseAllocation: u32 {
        /// Not allocated.
        const HOLE = 1 << 0;
        /// Reads as zeroes.
        const ZERO = 1 << 1;
    }
}

#[cfg(feature = "serde")]
mod as_number {
    //! Flag words are numbers in a fault plan and in a journal, so that unknown bits survive.
    use super::*;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    macro_rules! as_number {
        ($($name:ident)*) => {$(
            impl Serialize for $name {
                fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                    self.bits().serialize(s)
                }
            }
            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                    Deserialize::deserialize(d).map(Self::from_bits_retain)
                }
            }
        )*};
    }
    as_number!(HandshakeFlags ClientFlags TransmissionFlags CommandFlags ChunkFlags BaseAllocation);
}
