//! An export: a backend, its name, and what is advertised about it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::backend::{Backend, DynBackend};
use crate::proto::TransmissionFlags;
use crate::proto::client::BlockSizes;
use crate::proto::server::Description;

/// An export of a [`super::Server`]. Clones are the same export.
#[derive(Clone)]
pub struct Export {
    name: String,
    description: String,
    pub(super) backend: Arc<dyn DynBackend>,
    read_only: Arc<AtomicBool>,
    flags: Option<TransmissionFlags>,
    block_sizes: Option<BlockSizes>,
}

impl Export {
    /// The default export, with no name.
    pub fn new(backend: impl Backend) -> Export {
        Export::shared(Arc::new(backend))
    }

    /// An export that shares its backend with the caller.
    pub fn shared<B: Backend>(backend: Arc<B>) -> Export {
        Export {
            name: String::new(),
            description: String::new(),
            backend,
            read_only: Arc::default(),
            flags: None,
            block_sizes: None,
        }
    }

    /// Its name.
    pub fn name(mut self, name: impl Into<String>) -> Export {
        self.name = name.into();
        self
    }

    /// Human-readable text.
    pub fn description(mut self, text: impl Into<String>) -> Export {
        self.description = text.into();
        self
    }

    /// Refuses writes.
    pub fn read_only(self) -> Export {
        self.set_read_only(true);
        self
    }

    /// Refuses or accepts writes of clients that connect from now on. Existing connections are not
    /// affected.
    pub fn set_read_only(&self, read_only: bool) {
        self.read_only.store(read_only, Ordering::Relaxed);
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

    /// The name that clients request.
    pub(super) fn called(&self) -> &str {
        &self.name
    }

    /// Current size in bytes.
    pub(super) fn size(&self) -> u64 {
        self.backend.size()
    }

    pub(super) fn describe(&self) -> Description {
        let read_only = self.read_only.load(Ordering::Relaxed);
        let own = || self.backend.flags() | TransmissionFlags::READ_ONLY.only_if(read_only);
        Description {
            name: self.name.clone(),
            description: self.description.clone(),
            size: self.size(),
            flags: self.flags.unwrap_or_else(own),
            exact_flags: self.flags.is_some(),
            block_sizes: self.block_sizes.or_else(|| self.backend.block_sizes()),
            contexts: self.backend.contexts(),
        }
    }
}

impl std::fmt::Debug for Export {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut f = f.debug_struct("Export");
        f.field("name", &self.name).field("size", &self.size()).finish_non_exhaustive()
    }
}

/// The exports of a server, which may be added and removed while it runs.
#[derive(Debug, Default)]
pub(super) struct Exports(RwLock<Vec<Export>>);

impl Exports {
    pub(super) fn new(exports: Vec<Export>) -> Exports {
        Exports(RwLock::new(exports))
    }

    pub(super) fn list(&self) -> Vec<(String, String)> {
        let entry = |e: &Export| (e.name.clone(), e.description.clone());
        self.read(|all| all.iter().map(entry).collect())
    }

    pub(super) fn find(&self, name: &str) -> Option<Export> {
        self.read(|all| all.iter().find(|e| e.name == name).cloned())
    }

    pub(super) fn first(&self) -> Option<Export> {
        self.read(|all| all.first().cloned())
    }

    pub(super) fn first_name(&self) -> String {
        self.first().map(|e| e.name).unwrap_or_default()
    }

    /// Adds an export; one of the same name is replaced.
    pub(super) fn add(&self, export: Export) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|e| e.name != export.name);
        all.push(export);
    }

    pub(super) fn remove(&self, name: &str) -> bool {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let before = all.len();
        all.retain(|e| e.name != name);
        all.len() < before
    }

    fn read<T>(&self, f: impl FnOnce(&[Export]) -> T) -> T {
        f(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}
