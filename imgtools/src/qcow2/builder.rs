//! Creating images without a tool.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::entry::{COPIED, ZERO};
use super::file::{LARGEST, at};
use super::{Extension, Image, Qcow2Error, field};

/// The size of an image is a multiple of it.
const SECTOR: u64 = 512;
const BITS: u32 = 16;
const CLUSTER: u64 = 1 << BITS;
/// How many bytes an L2 table maps.
const PER_TABLE: u64 = CLUSTER / 8 * CLUSTER;
/// How many clusters a refcount block covers.
const PER_BLOCK: u64 = CLUSTER / 2;
const HEADER_LENGTH: u64 = 112;
const REFCOUNT_TABLE: u64 = 1;
const FIRST_BLOCK: u64 = 2;

/// An image to create as `qemu-img create` does by default: version 3, clusters of 64 KiB,
/// refcounts of 16 bits.
///
/// ```
/// use imgtools::qcow2::Builder;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("disk.qcow2");
/// Builder::new(1 << 20).fill(0..4096, 0x5d).create(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "an image is made by create()"]
pub struct Builder {
    size: u64,
    backing: Option<(String, String)>,
    writes: Vec<(Range<u64>, u8)>,
    luks: Vec<u8>,
}

/// The content of one guest cluster.
#[derive(Clone, Copy)]
enum Cluster {
    Zero,
    /// Partly from the backing file, if flagged.
    Data {
        below: bool,
    },
}

impl Builder {
    /// An empty image of this virtual size in bytes, a multiple of 512.
    pub fn new(size: u64) -> Self {
        Builder {
            size,
            backing: None,
            writes: Vec::new(),
            luks: Vec::new(),
        }
    }

    /// Records this name of a backing file, and its format.
    pub fn backing(mut self, name: impl Into<String>, format: impl Into<String>) -> Self {
        self.backing = Some((name.into(), format.into()));
        self
    }

    /// Fills a range with this byte, as a write after the previous ones. Whole clusters of zeroes
    /// take no space. The unwritten rest of a cluster comes from the backing file.
    pub fn fill(mut self, range: Range<u64>, byte: u8) -> Self {
        if !range.is_empty() {
            self.writes.push((range, byte));
        }
        self
    }

    /// Encrypts it, with this LUKS header.
    #[cfg(feature = "luks")]
    pub(crate) fn luks(mut self, header: Vec<u8>) -> Self {
        self.luks = header;
        self
    }

    /// Creates the image, replacing an existing file.
    ///
    /// # Errors
    /// [`Qcow2Error::Unmakeable`] if it cannot be created here: a size that is not a multiple of
    /// 512 or larger than QEMU allows, a write beyond it, more than 256 MiB of writes, a backing
    /// file with a name of over 1023 bytes, or one that has to be read but is not supported by
    /// [`Image::contents`].
    pub fn create(self, path: impl AsRef<Path>) -> Result<(), Qcow2Error> {
        let path = path.as_ref();
        let refused = |reason: &str| Qcow2Error::Unmakeable {
            path: path.to_owned(),
            reason: reason.to_owned(),
        };
        self.check().map_err(refused)?;
        let clusters = self.clusters();
        let layout = Layout::new(&self, &clusters);
        let file = File::create(path).map_err(at("create", path))?;
        let writing = || at("write", path);
        self.write_header(&file, &layout).map_err(writing())?;
        let is_partial = |it: &Cluster| matches!(it, Cluster::Data { below: true });
        if clusters.values().any(is_partial) {
            // It has no data of its own yet.
            let below = Image::open(path)?.contents()?;
            let below = below.ok_or_else(|| refused("its backing file is not read here"))?;
            let mut cluster = vec![0; CLUSTER as usize];
            for (number, _) in clusters.iter().filter(|(_, it)| is_partial(it)) {
                let range = self.cluster(*number);
                let bytes = &mut cluster[..(range.end - range.start) as usize];
                let length = below.read_at(bytes, range.start)?;
                debug_assert_eq!(length, bytes.len(), "it is this image, whose size is known");
                file.write_all_at(bytes, layout.host(*number)).map_err(writing())?;
            }
        }
        self.write_tables(&file, &layout).map_err(writing())?;
        self.write_data(&file, &clusters, &layout).map_err(writing())
    }

    fn check(&self) -> Result<(), &'static str> {
        /// QEMU's limit for the L1 table, in bytes.
        const L1_LIMIT: u64 = 32 << 20;
        const NAME_LIMIT: usize = 1023;
        if !self.size.is_multiple_of(SECTOR) || self.l1_entries() * 8 > L1_LIMIT {
            return Err("its size is not a multiple of 512, or is too large");
        }
        if self.writes.iter().any(|(range, _)| range.end > self.size) {
            return Err("something is to be written behind its end");
        }
        let lengths = self.writes.iter().map(|(range, _)| range.end - range.start);
        if lengths.fold(0, u64::saturating_add) > LARGEST {
            return Err("more than 256 MiB are to be written");
        }
        let backing = self.backing.as_ref();
        match backing.is_some_and(|(name, format)| name.len().max(format.len()) > NAME_LIMIT) {
            true => Err("the name of the backing file is too long"),
            false => Ok(()),
        }
    }

    fn l1_entries(&self) -> u64 {
        self.size.div_ceil(PER_TABLE)
    }

    /// The range of the guest's disk in the cluster of this number.
    fn cluster(&self, number: u64) -> Range<u64> {
        number * CLUSTER..self.size.min((number + 1) * CLUSTER)
    }

    /// The content of the written clusters, by number.
    fn clusters(&self) -> BTreeMap<u64, Cluster> {
        let mut clusters = BTreeMap::new();
        for (range, byte) in &self.writes {
            for number in touched(range) {
                let whole = self.cluster(number);
                let is_whole = range.start <= whole.start && whole.end <= range.end;
                let now = match (clusters.get(&number), is_whole) {
                    (_, true) if *byte == 0 => Cluster::Zero,
                    (_, true) | (Some(Cluster::Zero), false) => Cluster::Data { below: false },
                    (Some(before), false) => *before,
                    (None, false) => Cluster::Data {
                        below: self.backing.is_some(),
                    },
                };
                clusters.insert(number, now);
            }
        }
        clusters
    }

    fn write_header(&self, file: &File, layout: &Layout) -> io::Result<()> {
        file.set_len(layout.end * CLUSTER)?;
        file.write_all_at(&self.header(layout), 0)?;
        let blocks = (0..layout.blocks).map(|block| (FIRST_BLOCK + block) * CLUSTER);
        let table: Vec<u8> = blocks.flat_map(u64::to_be_bytes).collect();
        file.write_all_at(&table, REFCOUNT_TABLE * CLUSTER)?;
        let counts = [0, 1].repeat(layout.end as usize);
        file.write_all_at(&counts, FIRST_BLOCK * CLUSTER)?;
        file.write_all_at(&self.luks, layout.luks * CLUSTER)
    }

    fn write_tables(&self, file: &File, layout: &Layout) -> io::Result<()> {
        for (index, table) in &layout.tables {
            let entry = COPIED | (table * CLUSTER);
            file.write_all_at(&entry.to_be_bytes(), layout.l1 * CLUSTER + index * 8)?;
        }
        for (number, entry) in &layout.entries {
            let table = layout.tables[&(number * CLUSTER / PER_TABLE)] * CLUSTER;
            let within = number % (PER_TABLE / CLUSTER) * 8;
            file.write_all_at(&entry.to_be_bytes(), table + within)?;
        }
        Ok(())
    }

    fn header(&self, layout: &Layout) -> Vec<u8> {
        let mut header = vec![0; HEADER_LENGTH as usize];
        let mut extension = |kind: u32, data: &[u8]| {
            header.extend(kind.to_be_bytes());
            header.extend((data.len() as u32).to_be_bytes());
            header.extend(data);
            header.resize(header.len().next_multiple_of(8), 0);
        };
        if !self.luks.is_empty() {
            let place = [layout.luks * CLUSTER, self.luks.len() as u64];
            extension(Extension::CRYPTO, &place.map(u64::to_be_bytes).concat());
        }
        if let Some((_, format)) = &self.backing {
            extension(Extension::BACKING_FORMAT, format.as_bytes());
        }
        extension(0, &[]);
        let end = header.len() as u64;
        let name = self.backing.as_ref().map(|(name, _)| name.as_bytes());
        header.extend(name.unwrap_or_default());

        let mut put = |at: u64, bytes: &[u8]| {
            header[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        };
        put(field::MAGIC, b"QFI\xfb");
        put(field::VERSION, &3_u32.to_be_bytes());
        if let Some(name) = name {
            put(field::BACKING_FILE_OFFSET, &end.to_be_bytes());
            put(field::BACKING_FILE_SIZE, &(name.len() as u32).to_be_bytes());
        }
        put(field::CLUSTER_BITS, &BITS.to_be_bytes());
        put(field::SIZE, &self.size.to_be_bytes());
        let by_luks = if self.luks.is_empty() { 0_u32 } else { 2 };
        put(field::CRYPT_METHOD, &by_luks.to_be_bytes());
        let l1_size = self.l1_entries() as u32;
        put(field::L1_SIZE, &l1_size.to_be_bytes());
        put(field::L1_TABLE_OFFSET, &(layout.l1 * CLUSTER).to_be_bytes());
        let table = REFCOUNT_TABLE * CLUSTER;
        put(field::REFCOUNT_TABLE_OFFSET, &table.to_be_bytes());
        put(field::REFCOUNT_TABLE_CLUSTERS, &1_u32.to_be_bytes());
        put(field::REFCOUNT_ORDER, &4_u32.to_be_bytes());
        put(field::HEADER_LENGTH, &(HEADER_LENGTH as u32).to_be_bytes());
        header
    }

    fn write_data(
        &self,
        file: &File,
        clusters: &BTreeMap<u64, Cluster>,
        layout: &Layout,
    ) -> io::Result<()> {
        for (range, byte) in &self.writes {
            let bytes = [*byte; CLUSTER as usize];
            let is_data = |number: &u64| matches!(clusters[number], Cluster::Data { .. });
            for number in touched(range).filter(is_data) {
                let cluster = self.cluster(number);
                let start = range.start.max(cluster.start);
                let length = range.end.min(cluster.end) - start;
                let place = layout.host(number) + (start - cluster.start);
                file.write_all_at(&bytes[..length as usize], place)?;
            }
        }
        Ok(())
    }
}

/// The layout, in clusters of the file, in order: header, refcount table and blocks, L1 table, LUKS
/// header, L2 tables, data.
struct Layout {
    blocks: u64,
    l1: u64,
    luks: u64,
    /// The L2 tables, by what refers to them.
    tables: BTreeMap<u64, u64>,
    /// Their entries, by guest cluster number.
    entries: BTreeMap<u64, u64>,
    end: u64,
}

impl Layout {
    fn new(image: &Builder, clusters: &BTreeMap<u64, Cluster>) -> Self {
        let l1_clusters = (image.l1_entries() * 8).div_ceil(CLUSTER);
        let luks_clusters = (image.luks.len() as u64).div_ceil(CLUSTER);
        let mut blocks = 1;
        loop {
            let l1 = FIRST_BLOCK + blocks;
            let luks = l1 + l1_clusters;
            let mut end = luks + luks_clusters;
            let mut next = || {
                end += 1;
                end - 1
            };
            let mut tables = BTreeMap::new();
            for number in clusters.keys() {
                tables.entry(number * CLUSTER / PER_TABLE).or_insert_with(&mut next);
            }
            let mut entries = BTreeMap::new();
            for (number, cluster) in clusters {
                let entry = match cluster {
                    Cluster::Zero => ZERO,
                    Cluster::Data { .. } => COPIED | (next() * CLUSTER),
                };
                entries.insert(*number, entry);
            }
            if end <= blocks * PER_BLOCK {
                return Layout {
                    blocks,
                    l1,
                    luks,
                    tables,
                    entries,
                    end,
                };
            }
            blocks = end.div_ceil(PER_BLOCK);
        }
    }

    /// The file offset of the data of this guest cluster.
    fn host(&self, number: u64) -> u64 {
        self.entries[&number] & !COPIED
    }
}

/// The guest clusters that a range touches.
fn touched(range: &Range<u64>) -> Range<u64> {
    range.start / CLUSTER..range.end.div_ceil(CLUSTER)
}
