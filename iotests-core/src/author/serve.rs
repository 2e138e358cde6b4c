//! The layer between an image's file and its users: the protocol under test.

use std::sync::Arc;

use imgtools::process::Signal;
use imgtools::tools::ToolKind;
use machine::StorageDaemon;
use machine::args::{Blockdev, Export};
use nbd::{QemuNbd, QemuNbdServer};
use serde_json::{Value, json};

use super::death::Found;
use super::failure::{CaseResult, Failure};
use super::files::TestFile;
use super::nbd::note_death;
use super::shared::Shared;
use crate::case::{Protocol, Requirement};

/// How an image's file can be opened.
pub(crate) enum Served {
    /// Directly, as a file.
    File,
    /// By a qemu-nbd, as raw bytes.
    Nbd {
        uri: String,
        socket: TestFile,
        _server: Box<Server>,
    },
    /// By sshd on this machine.
    Ssh { uri: String, user: String },
    /// By a storage daemon, as a file of a FUSE file system.
    Fuse(Box<Mount>),
    /// By another server, with this protocol node.
    Elsewhere(Value),
    /// By a complete node, given as a `json:` name.
    Json(Value),
}

/// The qemu-nbd that serves an image. If it ends before the image is dropped, the case fails.
pub(crate) struct Server {
    shared: Arc<Shared>,
    name: String,
    server: QemuNbdServer,
}

impl Drop for Server {
    fn drop(&mut self) {
        note_death(&self.shared, &self.server, &self.name);
    }
}

/// A file that a storage daemon serves over FUSE, as raw bytes.
pub(crate) struct Mount {
    shared: Arc<Shared>,
    daemon: machine::Machine,
    limit: std::time::Duration,
    // Dropped after the daemon: it cannot be removed while it is served.
    file: TestFile,
}

impl Mount {
    async fn new(shared: &Arc<Shared>, served: &TestFile, name: &str) -> CaseResult<Self> {
        let file = shared.directories.file(&format!("{name}.fuse"))?;
        std::fs::write(&file, "")?;
        let node = json!({"driver": "file", "node-name": "file", "filename": served});
        let node = Blockdev::try_from(node)
            .map_err(|node| Failure::new(format!("not a block node: {node}")))?;
        let export = Export::new("fuse", "export", "file")
            .writable(true)
            .set("growable", true)
            .set("mountpoint", file.as_str());
        let limit = shared.wait_limit();
        let daemon = StorageDaemon::builder(shared.tool(ToolKind::StorageDaemon)?)
            .name(format!("the FUSE export of {name}"))
            .deadlines(shared.deadlines())
            .blockdev(&node)
            .export(&export)
            .launch()
            .await?;
        Ok(Mount {
            shared: shared.clone(),
            daemon,
            limit,
            file,
        })
    }
}

impl Drop for Mount {
    /// Stops the daemon cleanly: if killed, it would leave a dead mount behind.
    fn drop(&mut self) {
        if let Some(status) = self.daemon.try_exit() {
            let found = Found {
                name: self.daemon.name(),
                status,
                command: self.daemon.command_line(),
                printed: &self.daemon.output().combined_text(),
                core: None,
            };
            self.shared.death(found.death(&self.shared));
            return;
        }
        let process = self.daemon.process();
        process.set_deadline(Some(self.limit));
        self.daemon.signal(Signal::SIGTERM);
        process.exited_blocking();
    }
}

impl Served {
    /// Serves the file over this protocol until the value is dropped.
    pub(crate) async fn new(
        shared: &Arc<Shared>,
        protocol: Protocol,
        file: &TestFile,
        name: &str,
    ) -> CaseResult<Self> {
        match protocol {
            Protocol::File => Ok(Served::File),
            Protocol::Nbd => {
                let socket = shared.directories.socket(&format!("{name}.nbd"))?;
                let server = QemuNbd::new(shared.tool(ToolKind::Nbd)?).format("raw");
                let server = server.timeout(shared.wait_limit());
                let server = server.serve_unix(file.as_str(), &*socket).await?;
                let uri = server.uri().to_string();
                Ok(Served::Nbd {
                    uri,
                    socket,
                    _server: Box::new(Server {
                        shared: shared.clone(),
                        name: format!("the NBD server of {name}"),
                        server,
                    }),
                })
            }
            Protocol::Ssh => {
                let user = std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
                let uri = format!("ssh://{user}@127.0.0.1:22{}", file.as_str());
                Ok(Served::Ssh { uri, user })
            }
            Protocol::Fuse => {
                if let Err(skip) = shared.check(&Requirement::Fuse)? {
                    return Err(Failure::skip(skip));
                }
                let mount = Mount::new(shared, file, name).await?;
                Ok(Served::Fuse(Box::new(mount)))
            }
        }
    }

    /// The URI or path, unless it is the file itself.
    pub(crate) fn uri(&self) -> Option<&str> {
        match self {
            Served::File | Served::Elsewhere(_) | Served::Json(_) => None,
            Served::Fuse(mount) => Some(mount.file.as_str()),
            Served::Nbd { uri, .. } | Served::Ssh { uri, .. } => Some(uri),
        }
    }

    /// The protocol node for `blockdev-add`.
    pub(crate) fn node(&self, file: &TestFile) -> Value {
        match self {
            Served::File => json!({"driver": "file", "filename": file}),
            Served::Elsewhere(node) | Served::Json(node) => node.clone(),
            Served::Fuse(mount) => json!({"driver": "file", "filename": mount.file}),
            Served::Nbd { socket, .. } => {
                json!({"driver": "nbd", "server": {"type": "unix", "path": socket}})
            }
            Served::Ssh { user, .. } => json!({
                "driver": "ssh", "path": file, "user": user,
                "server": {"host": "127.0.0.1", "port": "22"},
            }),
        }
    }
}
