//! Limits of the protocol, each with its source.
//!
//! Every length that a peer sends is compared with one of these before memory is reserved.

/// Longest string: export name, description, context name, error text (proto.md, "Values").
pub const MAX_STRING: usize = 4096;

/// Largest payload that every implementation must accept: 2^25 (proto.md, "Block size
/// constraints").
pub const MAX_PAYLOAD: u64 = 32 * 1024 * 1024;

/// Largest data of an option that we send or accept.
///
/// proto.md leaves this to the implementation. The largest legal option is `SET_META_CONTEXT` with
/// any number of queries; 64 KiB has room for 15 of the longest.
pub const MAX_OPTION_DATA: usize = 64 * 1024;

/// Total bytes of replies to one option that a client keeps before it treats the server as hostile.
/// proto.md sets no limit. A list of 10,000 exports fits; an endless one is an attack.
pub const MAX_OPTION_REPLY_TOTAL: usize = 1024 * 1024;

/// Most extents in one status chunk: 2^20 (proto.md, `NBD_CMD_BLOCK_STATUS`).
pub const MAX_EXTENTS: usize = 1 << 20;

/// Most extents in one reply that a server sends, for all contexts together: half a MiB. A shorter
/// answer is always allowed, and a client that needs more continues from its end.
pub const MAX_SENT_EXTENTS: usize = 1 << 15;

/// Most bytes of option replies that a server queues for a client that does not read them, before
/// it stops accepting further options.
pub const MAX_UNREAD_OPTION_REPLIES: u64 = 1024 * 1024;

/// Largest length that fits the 32 bits of a compact header and is a multiple of every minimum block
/// size (at most 64 KiB: proto.md, "Block size constraints").
pub const MAX_COMPACT_LEN: u64 = u32::MAX as u64 & !0xffff;

/// Most separate pieces of a read that may be outstanding at once.
///
/// proto.md lets a server send chunks in any order and size. Adjacent pieces are merged, so only a
/// reply this fragmented is rejected; without a bound, one-byte chunks would make the bookkeeping
/// larger than the data.
pub const MAX_FRAGMENTS: usize = 1 << 14;

/// Most metadata contexts that a client selects (our own limit, which bounds status replies).
pub const MAX_CONTEXTS: usize = 256;

/// Size of the zeroes after an `EXPORT_NAME` reply (proto.md, "Newstyle negotiation").
pub const ZEROES: usize = 124;

/// Port assigned by IANA to NBD.
pub const DEFAULT_PORT: u16 = 10809;
