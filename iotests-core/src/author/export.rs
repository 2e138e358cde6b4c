//! Exports of a machine's nodes, and the NBD server in a machine.

use serde_json::{Value, json};

use super::action::Action;
use super::files::TestFile;
use super::machine::{Machine, Target};

/// The NBD server inside a machine, listening on a UNIX socket of its own.
pub struct MachineNbd {
    socket: TestFile,
}

impl MachineNbd {
    /// The URI of an export.
    #[must_use]
    pub fn uri(&self, export: &str) -> String {
        nbd::Uri::unix(&*self.socket, export).to_string()
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> &TestFile {
        &self.socket
    }

    /// A client of an export, as `blockdev-add` takes it.
    #[must_use]
    pub fn node(&self, export: &str) -> Value {
        json!({"driver": "nbd", "server": {"type": "unix", "path": self.socket}, "export": export})
    }
}

impl Machine {
    /// Starts the machine's own NBD server. (A machine has only one: exports through which
    /// [`Machine::io`] worked so far on a storage daemon end.)
    #[track_caller]
    pub fn start_nbd_server(&self) -> Action<'_, MachineNbd> {
        Action::new("the NBD server of a machine", async move {
            self.access.close(self).await?;
            let shared = &self.monitor.shared;
            let socket = shared
                .directories
                .socket(&format!("nbd{}", shared.next_number()))?;
            let addr = json!({"type": "unix", "data": {"path": socket}});
            self.cmd("nbd-server-start", json!({"addr": addr})).await?;
            Ok(MachineNbd { socket })
        })
    }

    /// Exports a node under this id. `options` holds the rest of `block-export-add`: at least
    /// `type`.
    #[track_caller]
    pub fn export(&self, id: &str, node: impl Into<Target>, options: Value) -> Action<'_, ()> {
        let mut arguments = json!({"id": id, "node-name": node.into().to_string()});
        if let (Value::Object(all), Value::Object(options)) = (&mut arguments, options) {
            all.extend(options);
        }
        let call = self.cmd("block-export-add", arguments);
        Action::new("an export", async move {
            call.await?;
            Ok(())
        })
    }

    /// Removes an export, whether or not it has clients, and waits until it is gone.
    #[track_caller]
    pub fn remove_export(&self, id: &str) -> Action<'_, ()> {
        let id = id.to_owned();
        Action::new(format!("the export {id} to go"), async move {
            let gone = qmp::Matcher::event("BLOCK_EXPORT_DELETED").data(json!({"id": id}));
            // An earlier export may have been called the same.
            self.take_events(gone.clone());
            self.cmd("block-export-del", json!({"id": id, "mode": "hard"}))
                .await?;
            self.event(gone).await?;
            Ok(())
        })
    }

    /// The exports, by id.
    #[track_caller]
    pub fn exports(&self) -> Action<'_, Vec<String>> {
        Action::new("the list of exports", async move {
            let exports = self.monitor.ask("query-block-exports", Value::Null).await?;
            let id = |export: &Value| export["id"].as_str().unwrap_or_default().to_owned();
            Ok(exports.as_array().into_iter().flatten().map(id).collect())
        })
    }
}
