//! An export: a backend with a name and what is said about it.

use std::sync::Arc;

use super::backend::Backend;
use crate::client::BlockSizes;
use crate::proto::{Mode, TransmissionFlags};

/// An export of a [`super::Server`].
#[derive(Clone)]
pub struct Export {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) backend: Arc<dyn Backend>,
    read_only: bool,
    flags: Option<TransmissionFlags>,
    block_sizes: Option<BlockSizes>,
}

impl Export {
    /// The default export, with no name.
    pub fn new(backend: impl Backend) -> Export {
        Export::shared(Arc::new(backend))
    }

    /// An export whose backend the test keeps a hand on.
    pub fn shared(backend: Arc<dyn Backend>) -> Export {
        Export {
            name: String::new(),
            description: String::new(),
            backend,
            read_only: false,
            flags: None,
            block_sizes: None,
        }
    }

    /// Its name.
    pub fn name(mut self, name: impl Into<String>) -> Export {
        self.name = name.into();
        self
    }

    /// Text for people.
    pub fn description(mut self, text: impl Into<String>) -> Export {
        self.description = text.into();
        self
    }

    /// Refuses writes.
    pub fn read_only(mut self) -> Export {
        self.read_only = true;
        self
    }

    /// Advertises exactly these flags instead of what the backend can do.
    pub fn flags(mut self, flags: TransmissionFlags) -> Export {
        self.flags = Some(flags);
        self
    }

    /// Announces these size constraints.
    pub fn block_sizes(mut self, sizes: BlockSizes) -> Export {
        self.block_sizes = Some(sizes);
        self
    }

    /// What is advertised in this mode, to a client that has selected contexts or not.
    pub(super) fn advertised(&self, mode: Mode, contexts: bool) -> TransmissionFlags {
        if let Some(flags) = self.flags {
            return flags;
        }
        let mut flags = self.backend.flags() | TransmissionFlags::HAS_FLAGS;
        if self.read_only {
            flags |= TransmissionFlags::READ_ONLY;
        }
        if mode.has_chunks() {
            flags |= TransmissionFlags::SEND_DF;
        }
        if mode == Mode::Extended && contexts {
            flags |= TransmissionFlags::BLOCK_STATUS_PAYLOAD;
        }
        flags
    }

    pub(super) fn sizes(&self) -> Option<BlockSizes> {
        self.block_sizes.or_else(|| self.backend.block_sizes())
    }
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut f = f.debug_struct("Export");
        f.field("name", &self.name)
            .field("size", &self.backend.size())
            .finish_non_exhaustive()
    }
}
