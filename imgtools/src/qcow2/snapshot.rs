//! Internal snapshots.

use super::file::{Source, number};
use super::{Header, Qcow2Error};

/// An internal snapshot, as stored in the snapshot table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The file offset of its entry.
    pub entry_offset: u64,
    /// The offset of its L1 table.
    pub l1_table_offset: u64,
    /// The number of entries of its L1 table.
    pub l1_size: u32,
    /// When it was taken: seconds since 1970.
    pub date_sec: u32,
    /// When it was taken: nanoseconds of the second.
    pub date_nsec: u32,
    /// The clock of the machine in nanoseconds.
    pub vm_clock_nsec: u64,
    /// The size of the machine's state.
    pub vm_state_size: u64,
    /// The size of the disk, if the entry has it.
    pub disk_size: Option<u64>,
    /// The instruction count, if the entry has it.
    pub icount: Option<u64>,
    /// The id.
    pub id: String,
    /// The name.
    pub name: String,
}

/// QEMU's limits for the snapshots of an image, and for the size of the snapshot table.
const MOST: u32 = 65536;
const LARGEST: u64 = 64 << 20;

impl Snapshot {
    pub(super) fn read_all(source: &Source, header: &Header) -> Result<Vec<Snapshot>, Qcow2Error> {
        if header.nb_snapshots > MOST {
            return Err(source.wrong(format!("it has {} snapshots", header.nb_snapshots)));
        }
        let mut snapshots = Vec::new();
        let mut offset = header.snapshots_offset;
        for _ in 0..header.nb_snapshots {
            let (snapshot, length) = Snapshot::read(source, offset)?;
            snapshots.push(snapshot);
            offset = offset.saturating_add(length);
            if offset - header.snapshots_offset > LARGEST {
                return Err(source.wrong("its snapshot table is too large"));
            }
        }
        Ok(snapshots)
    }

    /// Reads an entry; also returns its length in the file.
    fn read(source: &Source, offset: u64) -> Result<(Snapshot, u64), Qcow2Error> {
        const WHAT: &str = "snapshot table";
        let head = source.read(WHAT, offset, 40)?;
        let (id, name, extra) = (
            number(&head, 12, 2),
            number(&head, 14, 2),
            number(&head, 36, 4),
        );
        let rest = source.read(WHAT, offset.saturating_add(40), extra + id + name)?;
        let (extra, texts) = rest.split_at(extra as usize);
        let (id, name) = texts.split_at(id as usize);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let extra_field = |at: usize| (extra.len() >= at + 8).then(|| number(extra, at, 8));
        let snapshot = Snapshot {
            entry_offset: offset,
            l1_table_offset: number(&head, 0, 8),
            l1_size: number(&head, 8, 4) as u32,
            date_sec: number(&head, 16, 4) as u32,
            date_nsec: number(&head, 20, 4) as u32,
            vm_clock_nsec: number(&head, 24, 8),
            vm_state_size: extra_field(0).unwrap_or(number(&head, 32, 4)),
            disk_size: extra_field(8),
            icount: extra_field(16),
            id: text(id),
            name: text(name),
        };
        Ok((snapshot, (40 + rest.len() as u64).next_multiple_of(8)))
    }
}
