//! Commands that must be refused.

use iotests_core::prelude::*;

use super::resolve::Resolver;
use super::step::Refusal;

impl Resolver {
    /// Something that must be refused as things are.
    pub(super) fn refusal(&self, which: u8, more: u8) -> Option<Refusal> {
        let names = self.names();
        let (active, base) = (names.last()?, names.first()?);
        let any = &names[usize::from(more) % names.len()];
        let bitmap = self.model.active().bitmaps.keys().next();
        let long = "x".repeat(1024);
        let (command, arguments, says) = match which % 19 {
            0 => (
                "block-commit",
                json!({"job-id": "no", "device": active, "base-node": active}),
                "commit an image into itself",
            ),
            1 if names.len() > 1 => (
                "block-commit",
                json!({"job-id": "no", "device": active, "top-node": base, "base-node": active}),
                "not in this backing file chain",
            ),
            2 => (
                "block-stream",
                json!({"job-id": "no", "device": any, "base-node": any}),
                "is not a backing image of",
            ),
            3 if names.len() > 1 => (
                "block-stream",
                json!({"job-id": "no", "device": base, "base-node": active}),
                "is not a backing image of",
            ),
            4 => (
                "blockdev-mirror",
                json!({"job-id": "no", "device": active, "target": active, "sync": "full"}),
                "mirror node into itself",
            ),
            5 => (
                "blockdev-backup",
                json!({"job-id": "no", "device": active, "target": active, "sync": "full"}),
                "cannot be the same",
            ),
            6 => (
                "block-dirty-bitmap-add",
                json!({"node": active, "name": bitmap?}),
                "already exists",
            ),
            7 => (
                "block-dirty-bitmap-add",
                json!({"node": active, "name": "new", "granularity": 3 + u32::from(more) * 2}),
                "Granularity must be power of 2",
            ),
            8 => (
                "block-dirty-bitmap-add",
                json!({"node": active, "name": long, "persistent": true}),
                "Can't make bitmap",
            ),
            9 => (
                "block-dirty-bitmap-merge",
                json!({"node": active, "target": bitmap?, "bitmaps": [bitmap?, "missing"]}),
                "'missing' not found",
            ),
            10 => (
                "block_resize",
                json!({"node-name": active, "size": -1 - i32::from(more)}),
                "expects a >0 size",
            ),
            11 => ("blockdev-del", json!({"node-name": any}), "use"),
            12 => (
                "blockdev-snapshot",
                json!({"node": active, "overlay": any}),
                "overlay",
            ),
            13 => (
                "blockdev-add",
                json!({"driver": "null-co", "node-name": any}),
                "Duplicate nodes with node-name",
            ),
            14 => ("job-complete", json!({"id": "missing"}), "Job not found"),
            15 => (
                "transaction",
                json!({"actions": [
                    {"type": "block-dirty-bitmap-add", "data": {"node": active, "name": "new"}},
                    {"type": "block-dirty-bitmap-clear", "data": {"node": active, "name": "missing"}},
                ]}),
                "'missing' not found",
            ),
            16 => (
                "transaction",
                json!({"actions": [
                    {"type": "block-dirty-bitmap-clear", "data": {"node": active, "name": bitmap?}},
                    {"type": "block-dirty-bitmap-disable", "data": {"node": active, "name": bitmap?}},
                    {"type": "blockdev-backup", "data": {"job-id": "no", "device": active, "target": active,
                        "sync": "full"}},
                ]}),
                "cannot be the same",
            ),
            17 => (
                "blockdev-reopen",
                json!({"options": [{"driver": "qcow2", "node-name": any, "file": "missing"}]}),
                "missing",
            ),
            // The second action undoes what it did before the first one does.
            18 => (
                "transaction",
                json!({"actions": [
                    {"type": "block-dirty-bitmap-add", "data": {"node": active, "name": "new"}},
                    {"type": "block-dirty-bitmap-clear", "data": {"node": active, "name": "new"}},
                    {"type": "block-dirty-bitmap-clear", "data": {"node": active, "name": "missing"}},
                ]}),
                "'missing' not found",
            ),
            _ => return None,
        };
        Some(Refusal {
            command,
            arguments,
            says,
        })
    }
}
