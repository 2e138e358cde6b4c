//! Exports of nodes, and the NBD server.

use serde_json::{Value, json};

use super::enums::{BlockExportRemoveMode, BlockExportType, SocketAddressType};
use crate::command::Empty;

qapi_struct! {
    /// A socket address in the older form, with its members in `data`.
    SocketAddressLegacy {
        /// Its kind.
        kind = "type": SocketAddressType,
        /// What the kind needs.
        data: Value,
    }
}

impl SocketAddressLegacy {
    /// A path.
    pub fn unix(path: impl Into<String>) -> Self {
        Self::new(SocketAddressType::Unix, json!({ "path": path.into() }))
    }

    /// A host and a port.
    pub fn inet(host: impl Into<String>, port: u16) -> Self {
        let data = json!({ "host": host.into(), "port": port.to_string() });
        Self::new(SocketAddressType::Inet, data)
    }
}

qapi_struct! {
    /// An export.
    BlockExportInfo {
        /// Its id.
        id: String,
        /// Its kind.
        kind = "type": BlockExportType,
        /// The node.
        node_name: String,
        /// Whether it is going away.
        shutting_down: bool,
    }
}

qapi_commands! {
    /// Starts the NBD server.
    "nbd-server-start" [] NbdServerStart -> Empty {
        /// Where to listen.
        addr: SocketAddressLegacy,
    }
    optional {
        /// How long a client may take to negotiate, in seconds, 0 for ever.
        handshake_max_seconds @ "10.0..": u64,
        /// The id of TLS credentials.
        tls_creds: String,
        /// The id of an authorization object.
        tls_authz: String,
        /// The most clients at a time, 0 for no limit.
        max_connections: u64,
    }

    /// Stops the NBD server and removes its exports.
    "nbd-server-stop" [] NbdServerStop -> Empty {}

    /// Exports a node over NBD; the older form of `block-export-add`.
    "nbd-server-add" [] NbdServerAdd -> Empty {
        /// The device or node.
        device: String,
    }
    optional {
        /// The export's name; the device's if absent.
        name: String,
        /// A description for clients.
        description: String,
        /// Whether clients may write.
        writable: bool,
        /// A bitmap that clients may read.
        bitmap: String,
    }

    /// Removes an NBD export.
    "nbd-server-remove" [] NbdServerRemove -> Empty {
        /// Its name.
        name: String,
    }
    optional {
        /// How.
        mode: BlockExportRemoveMode,
    }

    /// Exports a node; add the options that only its kind has with `set`.
    "block-export-add" [] BlockExportAdd -> Empty {
        /// The kind.
        kind = "type": BlockExportType,
        /// The export's id.
        id: String,
        /// The node.
        node_name: String,
    }
    optional {
        /// Whether it stays in its iothread.
        fixed_iothread: bool,
        /// The iothread.
        iothread: Value,
        /// Whether clients may write.
        writable: bool,
        /// Whether writes are flushed.
        writethrough: bool,
        /// Whether the node may be inactive.
        allow_inactive @ "10.0..": bool,
    }

    /// Removes an export; `BLOCK_EXPORT_DELETED` follows.
    "block-export-del" [] BlockExportDel -> Empty {
        /// Its id.
        id: String,
    }
    optional {
        /// How.
        mode: BlockExportRemoveMode,
    }

    /// Lists the exports.
    "query-block-exports" [] QueryBlockExports -> Vec<BlockExportInfo> {}
}
