//! Checking that the tables of an image are consistent.

use std::fmt;

use super::entry::{RESERVED_L1, RESERVED_L2, RESERVED_REFCOUNT};
use super::{Image, Mapping, Qcow2Error};

/// An inconsistency in the tables of an image. Offsets are bytes in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// A cluster is used more or less often than its refcount says. Less is a leak.
    Refcount {
        /// Which cluster.
        host: u64,
        /// Its refcount.
        refcount: u64,
        /// How often it is used.
        uses: u64,
    },
    /// An entry's COPIED flag (its target is used exactly once) contradicts the refcount: set with
    /// a refcount other than 1, or clear with a refcount of 1.
    Copied {
        /// The entry's target.
        host: u64,
        /// Its refcount.
        refcount: u64,
    },
    /// An entry points to an offset that is not cluster-aligned, or has reserved bits set.
    Entry {
        /// The entry.
        entry: u64,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Refcount {
                host,
                refcount,
                uses,
            } => write!(
                f,
                "the cluster at {host:#x} has the refcount {refcount} and is used {uses} times"
            ),
            Problem::Copied { host, refcount } => write!(
                f,
                "the cluster at {host:#x} has the refcount {refcount}, and its entry says otherwise"
            ),
            Problem::Entry { entry } => write!(f, "there is an invalid entry: {entry:#018x}"),
        }
    }
}

/// How often each cluster of the file is used.
struct Uses {
    counts: Vec<u64>,
    cluster_size: u64,
    /// Whether something beyond the end of the file is referenced.
    is_beyond: bool,
}

impl Uses {
    fn add(&mut self, host: u64, length: u64) {
        let first = host / self.cluster_size;
        for number in first..first + length.div_ceil(self.cluster_size) {
            match usize::try_from(number).ok().and_then(|it| self.counts.get_mut(it)) {
                Some(count) => *count += 1,
                None => {
                    self.is_beyond = true;
                    return;
                }
            }
        }
    }
}

impl Image {
    /// All problems of the refcounts and the tables, as `qemu-img check` would find them; `None` if
    /// the image has parts that are not checked here: incompatible features (including the dirty
    /// and corrupt marks), encryption, snapshots, bitmaps, compressed clusters, or clusters beyond
    /// the end of the file.
    pub fn problems(&self) -> Result<Option<Vec<Problem>>, Qcow2Error> {
        let header = self.header();
        let plain = header.incompatible_features == 0 && header.crypt_method == 0;
        if !plain || header.nb_snapshots != 0 || !self.bitmaps()?.is_empty() {
            return Ok(None);
        }
        let size = header.cluster_size();
        let refcounts = self.refcounts()?;
        let mut problems = Vec::new();
        let mut uses = Uses {
            counts: vec![0; refcounts.len()],
            cluster_size: size,
            is_beyond: false,
        };
        let mut named = Vec::new();
        let mut entry = |entry: u64, host: u64, reserved: u64| {
            let is_valid = host.is_multiple_of(size) && entry & reserved == 0;
            if !is_valid {
                problems.push(Problem::Entry { entry });
            }
            is_valid
        };
        uses.add(0, size);
        let table = u64::from(header.refcount_table_clusters) * size;
        uses.add(header.refcount_table_offset, table);
        for block in self.refcount_table()? {
            if block != 0 && entry(block, block & !RESERVED_REFCOUNT, RESERVED_REFCOUNT) {
                uses.add(block, size);
            }
        }
        uses.add(header.l1_table_offset, u64::from(header.l1_size) * 8);
        for l1 in self.l1_table()? {
            let place = l1.l2_offset();
            let is_valid = entry(l1.0, place.unwrap_or(0), RESERVED_L1);
            let Some(host) = place.filter(|_| is_valid) else {
                continue;
            };
            uses.add(host, size);
            named.push((host, l1.is_copied()));
            let Some((_, table)) = self.l2_table_of(l1)? else {
                continue;
            };
            // Most entries of most tables.
            let used = table.filter(|l2| l2.entry != 0);
            for l2 in used {
                let place = match l2.mapping(header) {
                    Mapping::Data { host, .. } => Some(host),
                    Mapping::Zero { host } => host,
                    Mapping::Unallocated => None,
                    Mapping::Compressed { .. } => return Ok(None),
                };
                let is_valid = entry(l2.entry, place.unwrap_or(0), RESERVED_L2);
                if let Some(host) = place.filter(|_| is_valid) {
                    uses.add(host, size);
                    named.push((host, l2.is_copied()));
                }
            }
        }
        if uses.is_beyond {
            return Ok(None);
        }
        for ((host, refcount), uses) in
            (0..).step_by(size as usize).zip(&refcounts).zip(&uses.counts)
        {
            if refcount != uses {
                problems.push(Problem::Refcount {
                    host,
                    refcount: *refcount,
                    uses: *uses,
                });
            }
        }
        for (host, is_copied) in named {
            let refcount = refcounts[(host / size) as usize];
            if is_copied != (refcount == 1) {
                problems.push(Problem::Copied { host, refcount });
            }
        }
        Ok(Some(problems))
    }
}
