//! A server's description of an export.

#[cfg(feature = "client")]
use super::error::{Origin, RequestError};
#[cfg(feature = "client")]
use crate::proto::CommandType;
use crate::proto::{Mode, TransmissionFlags, limits};

/// Size constraints of an export in bytes (proto.md, "Block size constraints").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct BlockSizes {
    /// Every offset and length must be a multiple of this.
    pub minimum: u32,
    /// The preferred alignment, for speed.
    pub preferred: u32,
    /// Largest payload.
    pub maximum: u32,
}

impl Default for BlockSizes {
    /// The defaults of proto.md for a server that announces none.
    fn default() -> Self {
        BlockSizes {
            minimum: 1,
            preferred: 4096,
            maximum: limits::MAX_PAYLOAD as u32,
        }
    }
}

/// A selected metadata context.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Context {
    /// Number in block status replies.
    pub id: u32,
    /// Name, such as `base:allocation`.
    pub name: String,
}

/// An export as its server described it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportInfo {
    /// The name that was asked for.
    pub name: String,
    /// The server's own name for it, if it sent one.
    pub canonical_name: Option<String>,
    /// Human-readable text.
    pub description: Option<String>,
    /// Bytes.
    pub size: u64,
    /// What it can do.
    pub flags: TransmissionFlags,
    /// Size constraints, if the server sent any.
    pub block_sizes: Option<BlockSizes>,
    /// Selected contexts, in the server's order.
    pub contexts: Vec<Context>,
    /// What was negotiated.
    pub mode: Mode,
    /// Whether the connection uses TLS.
    pub tls: bool,
}

impl ExportInfo {
    pub(crate) fn empty(name: &str, mode: Mode) -> ExportInfo {
        ExportInfo {
            name: name.to_owned(),
            canonical_name: None,
            description: None,
            size: 0,
            flags: TransmissionFlags::empty(),
            block_sizes: None,
            contexts: Vec::new(),
            mode,
            tls: false,
        }
    }

    /// The id of a selected context.
    pub fn context_id(&self, name: &str) -> Option<u32> {
        self.contexts.iter().find(|c| c.name == name).map(|c| c.id)
    }

    /// Size constraints, or the defaults of proto.md if the server announced none.
    pub fn sizes(&self) -> BlockSizes {
        self.block_sizes.unwrap_or_default()
    }

    /// Bytes that requests can reach. A size that is not a multiple of the minimum block size
    /// leaves a tail that no request can address (proto.md, "Block size constraints": the size
    /// SHOULD be a multiple for that reason).
    pub fn reachable_size(&self) -> u64 {
        self.size - self.size % u64::from(self.sizes().minimum.max(1))
    }

    /// Rejects a range that ends in the tail that no request can address.
    #[cfg(feature = "client")]
    pub(crate) fn reaches(&self, end: u64, peer: &str) -> Result<(), RequestError> {
        let reachable = self.reachable_size();
        if end <= reachable || end > self.size {
            return Ok(());
        }
        let (minimum, missing) = (self.sizes().minimum, end - reachable);
        let origin = Origin::new(
            CommandType::READ,
            reachable,
            missing,
            self.name.as_str(),
            peer,
        );
        let reason = format!(
            "the size of the export ({}) is not a multiple of its minimum block size {minimum}, so \
             no request can address its last {missing} bytes",
            self.size
        );
        let origin = Box::new(origin);
        Err(RequestError::Misuse { origin, reason })
    }

    /// Whether writes can succeed.
    pub fn is_read_only(&self) -> bool {
        self.flags.contains(TransmissionFlags::READ_ONLY)
    }
}
