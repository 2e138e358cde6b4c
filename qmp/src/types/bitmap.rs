//! Dirty bitmaps.

use serde_json::Value;

use crate::command::Empty;

qapi_struct! {
    /// A dirty bitmap of a node.
    BlockDirtyInfo {
        /// How many bytes are dirty.
        count: u64,
        /// How many bytes one bit stands for.
        granularity: u64,
        /// Whether writes are recorded.
        recording: bool,
        /// Whether an operation uses it.
        busy: bool,
        /// Whether it is stored with the image.
        persistent: bool,
    }
    optional {
        /// Its name.
        name: String,
        /// Whether it was not stored properly and can only be removed.
        inconsistent: bool,
    }
}

qapi_struct! {
    /// A checksum of a bitmap.
    BlockDirtyBitmapSha256 {
        /// SHA-256 of its serialized form, in hexadecimal.
        sha256: String,
    }
}

qapi_commands! {
    /// Makes a bitmap.
    "block-dirty-bitmap-add" [] BlockDirtyBitmapAdd -> Empty {
        /// The node.
        node: String,
        /// The bitmap's name.
        name: String,
    }
    optional {
        /// How many bytes one bit stands for; a power of two.
        granularity: u64,
        /// Whether to store it with the image.
        persistent: bool,
        /// Whether not to record writes at first.
        disabled: bool,
    }

    /// Removes a bitmap.
    "block-dirty-bitmap-remove" [] BlockDirtyBitmapRemove -> Empty {
        /// The node.
        node: String,
        /// The bitmap's name.
        name: String,
    }

    /// Clears all bits of a bitmap.
    "block-dirty-bitmap-clear" [] BlockDirtyBitmapClear -> Empty {
        /// The node.
        node: String,
        /// The bitmap's name.
        name: String,
    }

    /// Lets a bitmap record writes.
    "block-dirty-bitmap-enable" [] BlockDirtyBitmapEnable -> Empty {
        /// The node.
        node: String,
        /// The bitmap's name.
        name: String,
    }

    /// Stops a bitmap from recording writes.
    "block-dirty-bitmap-disable" [] BlockDirtyBitmapDisable -> Empty {
        /// The node.
        node: String,
        /// The bitmap's name.
        name: String,
    }

    /// Adds the bits of some bitmaps to another.
    "block-dirty-bitmap-merge" [] BlockDirtyBitmapMerge -> Empty {
        /// The target's node.
        node: String,
        /// The target's name.
        target: String,
        /// The sources: names on the same node, or objects with `node` and `name`.
        bitmaps: Vec<Value>,
    }

    /// Gives a checksum of a bitmap's bits. For tests.
    "x-debug-block-dirty-bitmap-sha256" [] XDebugBlockDirtyBitmapSha256 -> BlockDirtyBitmapSha256 {
        /// The node.
        node: String,
        /// The bitmap's name.
        name: String,
    }
}
