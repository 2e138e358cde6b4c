//! Numbers with names: magics, options, replies, commands, chunk types and errors.
//!
//! A number without a name is still a valid value of its type, because tests have to send it and
//! reports have to show it.

/// Magic numbers (proto.md, "Magic numbers").
pub mod magic {
    /// `NBDMAGIC`, the first eight bytes of every greeting.
    pub const NBD: u64 = 0x4e42_444d_4147_4943;
    /// `IHAVEOPT`: newstyle greeting, and start of each option.
    pub const OPTION: u64 = 0x4948_4156_454f_5054;
    /// Oldstyle greeting.
    pub const OLDSTYLE: u64 = 0x0000_4202_8186_1253;
    /// Start of each reply to an option.
    pub const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
    /// Compact request.
    pub const REQUEST: u32 = 0x2560_9513;
    /// Extended request.
    pub const EXTENDED_REQUEST: u32 = 0x21e4_1c71;
    /// Simple reply.
    pub const SIMPLE_REPLY: u32 = 0x6744_6698;
    /// Structured reply chunk.
    pub const STRUCTURED_REPLY: u32 = 0x668e_33ef;
    /// Extended reply chunk.
    pub const EXTENDED_REPLY: u32 = 0x6e8a_278c;
}

macro_rules! open_enum {
    ($(#[$meta:meta])* $name:ident($repr:ty) { $($(#[$vmeta:meta])* $value:ident = $number:expr, $text:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $repr);

        impl $name {
            $($(#[$vmeta])* pub const $value: $name = $name($number);)*

            /// All named values.
            pub const NAMED: &'static [$name] = &[$($name::$value),*];

            /// The protocol's name, if the number has one.
            pub fn name(self) -> Option<&'static str> {
                match self { $($name::$value => Some($text),)* _ => None }
            }

            /// The value of this name.
            pub fn from_name(name: &str) -> Option<$name> {
                match name { $($text => Some($name::$value),)* _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "{:#x}", self.0),
                }
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        #[cfg(feature = "serde")]
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                match self.name() {
                    Some(name) => s.serialize_str(name),
                    None => s.serialize_u64(u64::from(self.0)),
                }
            }
        }

        #[cfg(feature = "serde")]
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                #[derive(serde::Deserialize)]
                #[serde(untagged)]
                enum Either { Number($repr), Name(String) }
                match Either::deserialize(d)? {
                    Either::Number(number) => Ok($name(number)),
                    Either::Name(name) => $name::from_name(&name).ok_or_else(|| {
                        serde::de::Error::custom(format!("no {} is called {name:?}", stringify!($name)))
                    }),
                }
            }
        }
    };
}

open_enum! {
    /// What a client requests during option haggling (proto.md, "Option types").
    OptionCode(u32) {
        /// Choose an export and start transmission; failure can only be a closed connection.
        EXPORT_NAME = 1, "export-name";
        /// End the session.
        ABORT = 2, "abort";
        /// List the exports.
        LIST = 3, "list";
        /// Start TLS.
        STARTTLS = 5, "starttls";
        /// Ask about an export.
        INFO = 6, "info";
        /// Ask about an export and start transmission.
        GO = 7, "go";
        /// Ask for structured replies.
        STRUCTURED_REPLY = 8, "structured-reply";
        /// List metadata contexts.
        LIST_META_CONTEXT = 9, "list-meta-context";
        /// Select metadata contexts.
        SET_META_CONTEXT = 10, "set-meta-context";
        /// Ask for extended headers.
        EXTENDED_HEADERS = 11, "extended-headers";
    }
}

open_enum! {
    /// How a server answers an option (proto.md, "Option reply types").
    OptionReplyCode(u32) {
        /// Done.
        ACK = 1, "ack";
        /// One export of a list.
        SERVER = 2, "server";
        /// One piece of information on an export.
        INFO = 3, "info";
        /// One metadata context.
        META_CONTEXT = 4, "meta-context";
        /// The option is unknown.
        ERR_UNSUP = 0x8000_0001, "err-unsup";
        /// The option is forbidden here.
        ERR_POLICY = 0x8000_0002, "err-policy";
        /// The option makes no sense.
        ERR_INVALID = 0x8000_0003, "err-invalid";
        /// Not possible on this platform.
        ERR_PLATFORM = 0x8000_0004, "err-platform";
        /// TLS is required first.
        ERR_TLS_REQD = 0x8000_0005, "err-tls-reqd";
        /// No such export.
        ERR_UNKNOWN = 0x8000_0006, "err-unknown";
        /// The server is going away.
        ERR_SHUTDOWN = 0x8000_0007, "err-shutdown";
        /// Ask for block sizes first.
        ERR_BLOCK_SIZE_REQD = 0x8000_0008, "err-block-size-reqd";
        /// The request is too large to be handled.
        ERR_TOO_BIG = 0x8000_0009, "err-too-big";
        /// Extended headers are required first.
        ERR_EXT_HEADER_REQD = 0x8000_000a, "err-ext-header-reqd";
    }
}

impl OptionReplyCode {
    /// Whether this is one of the error replies (bit 31).
    pub fn is_error(self) -> bool {
        self.0 & 0x8000_0000 != 0
    }
}

open_enum! {
    /// Kinds of information in an `NBD_REP_INFO`.
    InfoType(u16) {
        /// Size and transmission flags.
        EXPORT = 0, "export";
        /// The canonical name.
        NAME = 1, "name";
        /// Human-readable text.
        DESCRIPTION = 2, "description";
        /// Minimum, preferred and maximum sizes.
        BLOCK_SIZE = 3, "block-size";
    }
}

open_enum! {
    /// Commands of the transmission phase (proto.md, "Request types").
    CommandType(u16) {
        /// Read data.
        READ = 0, "read";
        /// Write data.
        WRITE = 1, "write";
        /// Disconnect; has no reply.
        DISC = 2, "disc";
        /// Bring what was written to stable storage.
        FLUSH = 3, "flush";
        /// Discard.
        TRIM = 4, "trim";
        /// Prefetch.
        CACHE = 5, "cache";
        /// Write zeroes without sending them.
        WRITE_ZEROES = 6, "write-zeroes";
        /// Ask for metadata.
        BLOCK_STATUS = 7, "block-status";
        /// Experimental resize; parsed, never answered with success.
        RESIZE = 8, "resize";
    }
}

open_enum! {
    /// What a reply chunk carries (proto.md, "Structured reply types").
    ChunkType(u16) {
        /// Nothing; always the last chunk.
        NONE = 0, "none";
        /// Data at an offset.
        OFFSET_DATA = 1, "offset-data";
        /// Zeroes at an offset.
        OFFSET_HOLE = 2, "offset-hole";
        /// 32-bit extents of one context.
        BLOCK_STATUS = 5, "block-status";
        /// 64-bit extents of one context.
        BLOCK_STATUS_EXT = 6, "block-status-ext";
        /// An error of the whole request.
        ERROR = 0x8001, "error";
        /// An error at an offset.
        ERROR_OFFSET = 0x8002, "error-offset";
    }
}

impl ChunkType {
    /// Whether this is one of the error chunks (bit 15).
    pub fn is_error(self) -> bool {
        self.0 & 0x8000 != 0
    }
}

open_enum! {
    /// Errors of the transmission phase (proto.md, "Error values").
    Errno(u32) {
        /// No error. Legal in a simple reply only.
        OK = 0, "ok";
        /// Operation not permitted.
        EPERM = 1, "EPERM";
        /// Input/output error.
        EIO = 5, "EIO";
        /// Cannot allocate memory.
        ENOMEM = 12, "ENOMEM";
        /// Invalid argument.
        EINVAL = 22, "EINVAL";
        /// No space left on device.
        ENOSPC = 28, "ENOSPC";
        /// Value too large.
        EOVERFLOW = 75, "EOVERFLOW";
        /// Operation not supported.
        ENOTSUP = 95, "ENOTSUP";
        /// The server is shutting down.
        ESHUTDOWN = 108, "ESHUTDOWN";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_finds_its_number_again() {
        for &code in OptionCode::NAMED {
            assert_eq!(code.name().and_then(OptionCode::from_name), Some(code));
        }
        for &code in Errno::NAMED {
            assert_eq!(code.name().and_then(Errno::from_name), Some(code));
        }
    }

    #[test]
    fn an_unnamed_number_is_shown_in_hex() {
        assert_eq!(ChunkType(0x77).to_string(), "0x77");
        assert_eq!(CommandType::WRITE_ZEROES.to_string(), "write-zeroes");
    }

    #[test]
    fn error_bits_are_told_from_the_number_alone() {
        assert!(OptionReplyCode(0x8000_1234).is_error());
        assert!(!OptionReplyCode::INFO.is_error());
        assert!(ChunkType(0x8fff).is_error());
        assert!(!ChunkType::BLOCK_STATUS_EXT.is_error());
    }
}
