//! Dirty bitmaps, found by the name of their node.

use std::ops::Range;

use serde_json::Value;

use super::{Machine, Target};
use crate::author::action::Action;
use crate::author::assert::differences;
use crate::author::failure::{CaseResult, Failure};

/// A dirty bitmap, as `query-named-block-nodes` tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct Bitmap {
    /// Its name; empty for one without.
    pub name: String,
    /// How many bytes are dirty.
    pub count: u64,
    /// How many bytes one bit stands for.
    pub granularity: u64,
    /// Whether it records writes.
    pub recording: bool,
    /// Whether an operation uses it.
    pub busy: bool,
    /// Whether it is stored in the image.
    pub persistent: bool,
    /// Whether it was found inconsistent in the image.
    pub inconsistent: bool,
    /// All that was told.
    pub info: Value,
}

impl Bitmap {
    fn read(info: &Value) -> Self {
        let flag = |name: &str| info[name] == true;
        let number = |name: &str| info[name].as_u64().unwrap_or_default();
        Bitmap {
            name: info["name"].as_str().unwrap_or_default().to_owned(),
            count: number("count"),
            granularity: number("granularity"),
            recording: flag("recording"),
            busy: flag("busy"),
            persistent: flag("persistent"),
            inconsistent: flag("inconsistent"),
            info: info.clone(),
        }
    }
}

impl Machine {
    /// The bitmaps of a node.
    #[track_caller]
    pub fn bitmaps(&self, node: impl Into<Target>) -> Action<'_, Vec<Bitmap>> {
        let node = node.into();
        Action::new(format!("the bitmaps of {node}"), async move {
            let info = self.node(node).await?;
            let list = info["dirty-bitmaps"].as_array();
            Ok(list.into_iter().flatten().map(Bitmap::read).collect())
        })
    }

    /// The bitmap of this name; there may be none.
    #[track_caller]
    pub fn find_bitmap(&self, node: impl Into<Target>, name: &str) -> Action<'_, Option<Bitmap>> {
        let (node, name) = (node.into(), name.to_owned());
        Action::new(format!("the bitmap {name} of {node}"), async move {
            Ok(self
                .bitmaps(node)
                .await?
                .into_iter()
                .find(|bitmap| bitmap.name == name))
        })
    }

    /// The bitmap of this name.
    #[track_caller]
    pub fn bitmap(&self, node: impl Into<Target>, name: &str) -> Action<'_, Bitmap> {
        let (node, name) = (node.into(), name.to_owned());
        Action::new(format!("the bitmap {name} of {node}"), async move {
            let bitmaps = self.bitmaps(node.clone()).await?;
            let names: Vec<&str> = bitmaps.iter().map(|bitmap| bitmap.name.as_str()).collect();
            let names = names.join(", ");
            let found = bitmaps.iter().find(|bitmap| bitmap.name == name);
            found.cloned().ok_or_else(|| {
                Failure::new(format!("{node} has no bitmap {name}; it has: {names}"))
            })
        })
    }

    /// The bitmap is told with these members, among others.
    #[track_caller]
    pub fn assert_bitmap(
        &self,
        node: impl Into<Target>,
        name: &str,
        members: Value,
    ) -> Action<'_, ()> {
        let (node, name) = (node.into(), name.to_owned());
        Action::new(format!("the bitmap {name} of {node}"), async move {
            let bitmap = self.bitmap(node.clone(), &name).await?;
            let wrong = differences(&members, &bitmap.info);
            if wrong.is_empty() {
                return Ok(());
            }
            let wrong: String = wrong
                .iter()
                .map(|mismatch| format!("\n  {mismatch}"))
                .collect();
            Err(Failure::new(format!(
                "bitmap {name} of {node} differs:{wrong}"
            )))
        })
    }

    /// The SHA-256 of a bitmap's contents.
    #[track_caller]
    pub fn bitmap_sha256(&self, node: impl Into<Target>, name: &str) -> Action<'_, String> {
        let (node, name) = (node.into().to_string(), name.to_owned());
        Action::new(format!("the contents of bitmap {name}"), async move {
            let arguments = serde_json::json!({"node": node, "name": name});
            let answer = self
                .monitor
                .ask("x-debug-block-dirty-bitmap-sha256", arguments)
                .await?;
            let hash = answer["sha256"].as_str();
            hash.map(str::to_owned)
                .ok_or_else(|| Failure::new(format!("no SHA-256 in {answer}")))
        })
    }
}

/// The ranges that are dirty in a bitmap, joined where they touch, from the extents in which an NBD
/// server tells them (`qemu:dirty-bitmap:NAME`, or `qemu-img map` of such an export).
///
/// # Errors
/// When the extents leave a gap or overlap.
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
