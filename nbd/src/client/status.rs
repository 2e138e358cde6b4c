//! Block status: one request with several contexts, and whole maps.

use std::ops::Range;

use bytes::Bytes;

use super::connection::Client;
use crate::proto::chunk::Extent;
use crate::proto::client::{Command, ExportInfo, Origin, Reply, RequestError};
use crate::proto::{BaseAllocation, CommandFlags, CommandType, Mode, limits};

/// One reply's extents for one context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextExtents {
    /// Name of the context.
    pub context: String,
    /// Consecutive, from the request's offset on. The last one may extend beyond the request.
    pub extents: Vec<Extent>,
}

/// A piece of an export with uniform status; neighbours differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MapEntry {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// Meaning depends on the context: `base:allocation` see [`MapEntry::base`];
    /// `qemu:allocation-depth` 0 is unallocated, else the layer counted from 1;
    /// `qemu:dirty-bitmap:…` bit 0 is dirty.
    pub status: u64,
}

impl MapEntry {
    /// The status as bits of `base:allocation`.
    pub fn base(&self) -> BaseAllocation {
        BaseAllocation::from_bits_retain(self.status as u32)
    }

    /// End of the piece.
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }
}

/// The status of each context by its name.
pub(super) fn named(reply: Reply, export: &ExportInfo) -> Vec<ContextExtents> {
    let name = |id| {
        let known = export.contexts.iter().find(|c| c.id == id);
        known.map_or_else(|| format!("#{id}"), |c| c.name.clone())
    };
    let statuses = reply.statuses.into_iter();
    let extents = statuses.map(|s| ContextExtents {
        context: name(s.context),
        extents: s.extents,
    });
    extents.collect()
}

impl Client {
    /// Status of every selected context.
    pub async fn block_status(
        &self,
        offset: u64,
        len: u64,
    ) -> Result<Vec<ContextExtents>, RequestError> {
        self.block_status_with(offset, len, CommandFlags::empty()).await
    }

    /// Status with flags ([`CommandFlags::REQ_ONE`]).
    pub async fn block_status_with(
        &self,
        offset: u64,
        len: u64,
        flags: CommandFlags,
    ) -> Result<Vec<ContextExtents>, RequestError> {
        self.query(Command::block_status(offset, len).flags(flags)).await
    }

    /// Status of some of the selected contexts (extended headers with
    /// [`crate::proto::TransmissionFlags::BLOCK_STATUS_PAYLOAD`]).
    pub async fn block_status_of(
        &self,
        contexts: &[&str],
        offset: u64,
        len: u64,
    ) -> Result<Vec<ContextExtents>, RequestError> {
        let mut ids = Vec::new();
        for name in contexts {
            match self.export().context_id(name) {
                Some(id) => ids.push(id),
                None => return Err(self.unselected(name, offset, len)),
            }
        }
        self.query(Command::block_status_of(ids, offset, len)).await
    }

    async fn query(&self, command: Command<Bytes>) -> Result<Vec<ContextExtents>, RequestError> {
        let reply = self.submit(command).await?;
        Ok(named(reply, self.export()))
    }

    /// The whole map of one context: as many requests as needed, equal neighbours merged.
    pub async fn map(
        &self,
        context: &str,
        range: Range<u64>,
    ) -> Result<Vec<MapEntry>, RequestError> {
        let mut maps = self.maps(range).await?;
        match maps.iter().position(|(name, _)| name == context) {
            Some(at) => Ok(maps.swap_remove(at).1),
            None => Err(self.unselected(context, 0, 0)),
        }
    }

    /// The maps of all selected contexts, from the same requests.
    ///
    /// Memory use grows with the number of extents that the server reports; for an untrusted
    /// server, use [`Client::block_status`] step by step.
    pub async fn maps(
        &self,
        range: Range<u64>,
    ) -> Result<Vec<(String, Vec<MapEntry>)>, RequestError> {
        let names = self.export().contexts.iter().map(|c| (c.name.clone(), Vec::new()));
        let mut maps: Vec<(String, Vec<MapEntry>)> = names.collect();
        let most = if self.export().mode == Mode::Extended {
            u64::MAX
        } else {
            limits::MAX_COMPACT_LEN
        };
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(most);
            let replies = self.block_status(at, len).await?;
            // Contexts may end at different offsets; only what all of them cover is used.
            let reach = |r: &ContextExtents| {
                let lens = r.extents.iter().map(|e| e.len);
                lens.fold(0, u64::saturating_add)
            };
            let covered = replies.iter().map(reach).min().unwrap_or(len).min(len);
            if covered == 0 {
                // Such a reply gets this far only where `Checks::STATUS` is tolerated.
                return Err(self.misuse(at, len, "the server reports no extents".into()));
            }
            for reply in replies {
                if let Some((_, map)) = maps.iter_mut().find(|(name, _)| *name == reply.context) {
                    append(map, at, covered, &reply.extents);
                }
            }
            at += covered;
        }
        Ok(maps)
    }
}

/// Adds extents starting at `at`, at most `room` bytes of them.
fn append(map: &mut Vec<MapEntry>, mut at: u64, mut room: u64, extents: &[Extent]) {
    for extent in extents {
        let len = extent.len.min(room);
        if len == 0 {
            return;
        }
        match map.last_mut() {
            Some(last) if last.status == extent.status && last.end() == at => last.len += len,
            _ => map.push(MapEntry {
                offset: at,
                len,
                status: extent.status,
            }),
        }
        at += len;
        room -= len;
    }
}

impl Client {
    fn unselected(&self, context: &str, offset: u64, len: u64) -> RequestError {
        self.misuse(offset, len, format!("context {context} was not selected"))
    }

    fn misuse(&self, offset: u64, len: u64, reason: String) -> RequestError {
        let export = self.export().name.as_str();
        let what = CommandType::BLOCK_STATUS;
        let origin = Box::new(Origin::new(what, offset, len, export, self.peer()));
        RequestError::Misuse { origin, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_of_several_replies_are_joined_and_cut_where_one_context_ends() {
        let mut map = Vec::new();
        let extent = |len, status| Extent { len, status };
        append(&mut map, 100, 50, &[extent(30, 1), extent(40, 2)]);
        append(
            &mut map,
            150,
            20,
            &[extent(5, 2), extent(5, 2), extent(100, 3)],
        );
        let entry = |offset, len, status| MapEntry {
            offset,
            len,
            status,
        };
        assert_eq!(
            map,
            [entry(100, 30, 1), entry(130, 30, 2), entry(160, 10, 3)]
        );
    }
}
