//! The trait, whose commands are the same on both; only I/O differs.

use super::graph::BlockGraph;
use super::io::{self, IoError, IoTarget};
use crate::machine::Machine;
use crate::probe::Program;
use async_trait::async_trait;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// A process that holds block nodes: an emulator or a storage daemon.
///
/// Methods that send one command return QMP's own error. Values come back as JSON where
/// callers compare or print them; see `qmp::types` for typed commands on [`BlockHost::qmp`].
#[async_trait]
pub trait BlockHost: Send + Sync {
    /// Which kind of process it is.
    fn program(&self) -> Program;

    /// The monitor.
    fn qmp(&self) -> &qmp::Client;

    /// Runs a qemu-io command on a node, drive or device, and returns what is printed where
    /// the caller can see it: over HMP, which prints into QEMU's own output, that is nothing.
    async fn io(&self, target: &IoTarget, command: &str) -> Result<String, IoError>;

    /// Whether there is a human monitor.
    fn has_hmp(&self) -> bool {
        self.program() == Program::Emulator
    }

    /// Whether a job's id can be left out, so that it is that of its drive.
    fn has_backends(&self) -> bool {
        self.program() == Program::Emulator
    }

    /// Adds a block node.
    async fn blockdev_add(&self, node: Value) -> Result<(), qmp::Error> {
        self.qmp().execute("blockdev-add", node).await.map(drop)
    }

    /// Removes a block node.
    async fn blockdev_del(&self, node: &str) -> Result<(), qmp::Error> {
        self.qmp()
            .execute("blockdev-del", json!({ "node-name": node }))
            .await
            .map(drop)
    }

    /// Changes the options of block nodes, all at once or none. Since 6.1.
    async fn blockdev_reopen(&self, nodes: Vec<Value>) -> Result<(), qmp::Error> {
        self.qmp()
            .execute("blockdev-reopen", json!({ "options": nodes }))
            .await
            .map(drop)
    }

    /// All block nodes (`BlockDeviceInfo`), without their backing chains.
    async fn nodes(&self) -> Result<Vec<Value>, qmp::Error> {
        let all = self
            .qmp()
            .execute("query-named-block-nodes", json!({ "flat": true }))
            .await?;
        Ok(list(all))
    }

    /// One block node by name.
    async fn node(&self, name: &str) -> Result<Option<Value>, qmp::Error> {
        let nodes = self.nodes().await?;
        Ok(nodes
            .into_iter()
            .find(|n| n.get("node-name").and_then(Value::as_str) == Some(name)))
    }

    /// The block graph.
    async fn graph(&self) -> Result<BlockGraph, qmp::Error> {
        self.qmp().call(QueryBlockGraph {}).await
    }

    /// All jobs (`JobInfo`).
    async fn jobs(&self) -> Result<Vec<Value>, qmp::Error> {
        Ok(list(self.qmp().execute("query-jobs", ()).await?))
    }

    /// All block jobs (`BlockJobInfo`).
    async fn block_jobs(&self) -> Result<Vec<Value>, qmp::Error> {
        Ok(list(self.qmp().execute("query-block-jobs", ()).await?))
    }

    /// Starts a job by its command (`blockdev-mirror`, `block-commit`, …) under this id.
    async fn start_job(
        &self,
        command: &str,
        id: &str,
        args: Map<String, Value>,
    ) -> Result<(), qmp::Error> {
        let mut args = args;
        args.insert("job-id".to_owned(), Value::String(id.to_owned()));
        self.qmp().execute(command, args).await.map(drop)
    }

    /// Starts the NBD server at this address (`SocketAddress`).
    async fn nbd_server_start(&self, address: Value) -> Result<(), qmp::Error> {
        self.qmp()
            .execute("nbd-server-start", json!({ "addr": address }))
            .await
            .map(drop)
    }

    /// Stops the NBD server and with it its exports.
    async fn nbd_server_stop(&self) -> Result<(), qmp::Error> {
        self.qmp().execute("nbd-server-stop", ()).await.map(drop)
    }

    /// Adds an export (`BlockExportOptions`).
    async fn export_add(&self, export: Value) -> Result<(), qmp::Error> {
        self.qmp()
            .execute("block-export-add", export)
            .await
            .map(drop)
    }

    /// Removes an export; `hard` disconnects its clients. It is gone when the event
    /// `BLOCK_EXPORT_DELETED` comes.
    async fn export_del(&self, id: &str, hard: bool) -> Result<(), qmp::Error> {
        let mode = if hard { "hard" } else { "safe" };
        let args = json!({ "id": id, "mode": mode });
        self.qmp().execute("block-export-del", args).await.map(drop)
    }

    /// All exports (`BlockExportInfo`).
    async fn exports(&self) -> Result<Vec<Value>, qmp::Error> {
        Ok(list(self.qmp().execute("query-block-exports", ()).await?))
    }

    /// Adds an object.
    async fn object_add(&self, object: Value) -> Result<(), qmp::Error> {
        self.qmp().execute("object-add", object).await.map(drop)
    }

    /// Removes an object.
    async fn object_del(&self, id: &str) -> Result<(), qmp::Error> {
        self.qmp()
            .execute("object-del", json!({ "id": id }))
            .await
            .map(drop)
    }
}

/// `x-debug-query-block-graph`.
#[derive(Serialize)]
struct QueryBlockGraph {}

impl qmp::Command for QueryBlockGraph {
    const NAME: &'static str = "x-debug-query-block-graph";
    type Return = BlockGraph;
}

fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        other => vec![other],
    }
}

#[async_trait]
impl BlockHost for Machine {
    fn program(&self) -> Program {
        Machine::program(self)
    }

    fn qmp(&self) -> &qmp::Client {
        Machine::qmp(self)
    }

    async fn io(&self, target: &IoTarget, command: &str) -> Result<String, IoError> {
        match self.node_io() {
            Some(way) => way.io(self, target, command).await,
            None if self.has_hmp() => io::hmp_qemu_io(self.qmp(), target, command).await,
            None => Err(IoError::NoWay {
                target: target.clone(),
                command: command.to_owned(),
            }),
        }
    }
}
