//! Dirty bitmaps, addressed by the name of their node.

use std::fmt;
use std::future::IntoFuture;
use std::ops::Range;
use std::panic::Location;

use qmp::types::{
    BlockDirtyBitmapClear, BlockDirtyBitmapDisable, BlockDirtyBitmapEnable, BlockDirtyBitmapRemove,
    BlockDirtyInfo, XDebugBlockDirtyBitmapSha256,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Cmd, Machine, Monitor, Target};
use crate::author::action::Action;
use crate::author::assert::AssertJson;
use crate::author::expect::ErrorText;
use crate::author::failure::{CaseResult, Context, Failure};

/// What `query-named-block-nodes` reports about a dirty bitmap.
#[derive(Clone, Debug, PartialEq)]
pub struct BitmapInfo {
    /// Its name; empty if it has none.
    pub name: String,
    /// The number of dirty bytes.
    pub count: u64,
    /// The number of bytes that one bit represents.
    pub granularity: u64,
    /// Whether it records writes.
    pub recording: bool,
    /// Whether an operation uses it.
    pub busy: bool,
    /// Whether it is stored in the image.
    pub persistent: bool,
    /// Whether it was found inconsistent in the image.
    pub inconsistent: bool,
    /// The complete answer.
    pub info: Value,
}

impl BitmapInfo {
    fn read(info: &Value) -> CaseResult<Self> {
        let typed = BlockDirtyInfo::deserialize(info)
            .map_err(|error| Failure::new(format!("failed to read a bitmap: {error}: {info}")))?;
        Ok(BitmapInfo {
            name: typed.name.unwrap_or_default(),
            count: typed.count.unsigned_abs(),
            granularity: typed.granularity.into(),
            recording: typed.recording,
            busy: typed.busy,
            persistent: typed.persistent,
            inconsistent: typed.inconsistent == Some(true),
            info: info.clone(),
        })
    }
}

impl Machine {
    /// The bitmaps of a node.
    #[track_caller]
    pub fn bitmaps(&self, node: impl Into<Target>) -> Action<'_, Vec<BitmapInfo>> {
        let node = node.into();
        Action::new(format!("the bitmaps of {node}"), async move {
            let info = self.node(node).await?;
            let list = info["dirty-bitmaps"].as_array();
            list.into_iter().flatten().map(BitmapInfo::read).collect()
        })
    }

    /// The bitmap with this name, on this node or on the node of a disk. Awaiting it returns what
    /// QEMU reports; there must be exactly one.
    #[must_use]
    #[track_caller]
    pub fn bitmap(&self, node: impl Into<Target>, name: &str) -> Bitmap<'_> {
        Bitmap {
            machine: self,
            node: node.into(),
            name: name.to_owned(),
            recording: None,
            place: Location::caller(),
        }
    }
}

/// A dirty bitmap of a machine.
#[derive(Clone)]
pub struct Bitmap<'m> {
    machine: &'m Machine,
    node: Target,
    name: String,
    recording: Option<bool>,
    place: &'static Location<'static>,
}

impl<'m> Bitmap<'m> {
    /// Selects only a bitmap that is recording, or only one that is not. (This distinguishes
    /// unnamed bitmaps.)
    #[must_use]
    pub fn recording(mut self, on: bool) -> Self {
        self.recording = Some(on);
        self
    }

    /// Adds it.
    #[track_caller]
    pub fn add(&self) -> NewBitmap {
        NewBitmap {
            arguments: json!({"node": self.node.to_string(), "name": self.name}),
            monitor: self.machine.monitor.clone(),
            place: Location::caller(),
        }
    }

    /// Removes it.
    #[track_caller]
    pub fn remove(&self) -> Cmd {
        self.send(BlockDirtyBitmapRemove::new)
    }

    /// Clears it.
    #[track_caller]
    pub fn clear(&self) -> Cmd {
        self.send(BlockDirtyBitmapClear::new)
    }

    /// Enables it: it records from now on.
    #[track_caller]
    pub fn enable(&self) -> Cmd {
        self.send(BlockDirtyBitmapEnable::new)
    }

    /// Disables it: it stops recording.
    #[track_caller]
    pub fn disable(&self) -> Cmd {
        self.send(BlockDirtyBitmapDisable::new)
    }

    /// Merges these bitmaps into it: names of bitmaps on the same node, or objects with `node` and
    /// `name`.
    #[track_caller]
    pub fn merge(&self, bitmaps: impl IntoIterator<Item = impl Into<Value>>) -> Cmd {
        let bitmaps: Vec<Value> = bitmaps.into_iter().map(Into::into).collect();
        let (node, target) = (self.node.to_string(), &self.name);
        let arguments = json!({"node": node, "target": target, "bitmaps": bitmaps});
        self.machine.cmd("block-dirty-bitmap-merge", arguments)
    }

    #[track_caller]
    fn send<C: qmp::Command>(&self, command: impl Fn(String, String) -> C) -> Cmd {
        let command = command(self.node.to_string(), self.name.clone());
        self.machine.monitor.send(command)
    }

    /// Whether it exists.
    #[track_caller]
    pub fn exists(&self) -> Action<'_, bool> {
        Action::new(format!("the bitmap {self}"), async move {
            Ok(!self.found().await?.0.is_empty())
        })
    }

    /// Asserts that QEMU's report of it includes these members.
    #[track_caller]
    pub fn assert(&self, members: Value) -> Action<'_, ()> {
        Action::new(format!("the bitmap {self}"), async move {
            let info = self.find().await?.info;
            info.assert_includes(&members).context(format!("the bitmap {self}"))
        })
    }

    /// The SHA-256 of its contents.
    #[track_caller]
    pub fn sha256(&self) -> Action<'_, String> {
        Action::new(format!("the contents of bitmap {self}"), async move {
            let query = XDebugBlockDirtyBitmapSha256::new(self.node.to_string(), &self.name);
            Ok(self.machine.monitor.query(query).await?.sha256)
        })
    }

    /// The matching bitmaps, and the names of all.
    async fn found(&self) -> CaseResult<(Vec<BitmapInfo>, String)> {
        let bitmaps = self.machine.bitmaps(self.node.clone()).await?;
        let names: Vec<&str> = bitmaps.iter().map(|bitmap| bitmap.name.as_str()).collect();
        let names = names.join(", ");
        let is_it = |bitmap: &BitmapInfo| {
            bitmap.name == self.name && self.recording.is_none_or(|on| bitmap.recording == on)
        };
        Ok((bitmaps.into_iter().filter(is_it).collect(), names))
    }

    async fn find(&self) -> CaseResult<BitmapInfo> {
        let (mut found, names) = self.found().await?;
        let recording = match self.recording {
            None => "",
            Some(true) => " that records",
            Some(false) => " that does not record",
        };
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(Failure::new(format!(
                "{} has no bitmap {}{recording}; it has: {names}",
                self.node, self.name
            ))),
            count => Err(Failure::new(format!(
                "{} has {count} bitmaps {}{recording}",
                self.node, self.name
            ))),
        }
    }
}

impl<'m> IntoFuture for Bitmap<'m> {
    type Output = CaseResult<BitmapInfo>;
    type IntoFuture = Action<'m, BitmapInfo>;

    fn into_future(self) -> Self::IntoFuture {
        let what = format!("the bitmap {self}");
        Action::at(self.place, what, async move { self.find().await })
    }
}

impl fmt::Display for Bitmap<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.name, self.node)
    }
}

/// A bitmap to add. Awaiting it adds it.
#[must_use = "a bitmap is added when this is awaited"]
pub struct NewBitmap {
    monitor: Monitor,
    arguments: Value,
    place: &'static Location<'static>,
}

impl NewBitmap {
    /// Stores it in the image.
    pub fn persistent(self) -> Self {
        self.set("persistent", true)
    }

    /// Sets the number of bytes that one bit represents.
    pub fn granularity(self, bytes: u64) -> Self {
        self.set("granularity", bytes)
    }

    /// Adds it disabled, so that it does not record at first.
    pub fn disabled(self) -> Self {
        self.set("disabled", true)
    }

    fn set(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.arguments[name] = value.into();
        self
    }

    /// Adding it must fail with this text.
    pub fn expect_error(self, text: impl Into<ErrorText>) -> Action<'static, ()> {
        let (place, text) = (self.place, text.into());
        Action::at(place, "a bitmap to be refused", async move {
            self.cmd().expect_error(text).await
        })
    }

    fn cmd(self) -> Cmd {
        self.monitor.cmd("block-dirty-bitmap-add", self.arguments)
    }
}

impl IntoFuture for NewBitmap {
    type Output = CaseResult;
    type IntoFuture = Action<'static, ()>;

    fn into_future(self) -> Self::IntoFuture {
        Action::at(self.place, "a bitmap to be added", async move {
            self.cmd().await?;
            Ok(())
        })
    }
}

/// The dirty ranges of a bitmap, with adjacent ones joined, from the extents reported by an NBD
/// server (`qemu:dirty-bitmap:NAME`, or `qemu-img map` of such an export).
///
/// # Errors
/// If the extents leave a gap or overlap.
pub fn dirty_ranges(
    extents: impl IntoIterator<Item = (Range<u64>, bool)>,
) -> CaseResult<Vec<Range<u64>>> {
    let mut out: Vec<Range<u64>> = Vec::new();
    let mut end = None;
    for (range, dirty) in extents {
        if end.is_some_and(|end| end != range.start) {
            return Err(Failure::new(format!(
                "the extents do not follow each other at {range:?}"
            )));
        }
        end = Some(range.end);
        match out.last_mut() {
            Some(last) if dirty && last.end == range.start => last.end = range.end,
            _ if dirty => out.push(range),
            _ => {}
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dirty_extents_are_joined_into_ranges() {
        let extents = [
            (0..10, false),
            (10..20, true),
            (20..30, true),
            (30..31, false),
            (31..40, true),
        ];
        assert_eq!(dirty_ranges(extents).unwrap(), [10..30, 31..40]);
        assert!(dirty_ranges([(0..10, true), (11..12, true)]).is_err());
    }
}
