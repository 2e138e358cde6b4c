//! Good images that were damaged on purpose, by named changes of their files.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use iotests_core::prelude::*;

defaults! {
    formats = [QCOW2], protocols = [FILE], host = Qsd,
    unsupported_imgopts = ["compat", "cluster_size", "data_file", "encrypt", "extended_l2",
        "subformat"],
}

mod extensions;
mod headers;
mod parallels;
mod qcow2_tables;
mod snapshots;
mod vhd;
mod words;

/// A change of a file.
#[derive(Clone, Copy, Debug)]
enum Edit {
    /// These bytes are there now.
    Bytes(u64, &'static [u8]),
    Be16(u64, u16),
    Be32(u64, u32),
    Be64(u64, u64),
    Le16(u64, u16),
    Le32(u64, u32),
    Le64(u64, u64),
    /// The file ends here.
    Cut(u64),
    /// The checksum of the footer of a VHD is right again, in its copy at the start of the file.
    VhdChecksum,
    /// The checksum of a part of a VHDX of this start and length is right again.
    VhdxChecksum(u64, usize),
}

impl Edit {
    fn apply(self, image: &Image) -> CaseResult {
        let file = OpenOptions::new().read(true).write(true).open(image.file())?;
        let put = |at: u64, bytes: &[u8]| file.write_all_at(bytes, at);
        match self {
            Edit::Bytes(at, bytes) => put(at, bytes)?,
            Edit::Be16(at, value) => put(at, &value.to_be_bytes())?,
            Edit::Be32(at, value) => put(at, &value.to_be_bytes())?,
            Edit::Be64(at, value) => put(at, &value.to_be_bytes())?,
            Edit::Le16(at, value) => put(at, &value.to_le_bytes())?,
            Edit::Le32(at, value) => put(at, &value.to_le_bytes())?,
            Edit::Le64(at, value) => put(at, &value.to_le_bytes())?,
            Edit::Cut(length) => file.set_len(length)?,
            Edit::VhdChecksum => {
                let mut footer = [0; 512];
                file.read_exact_at(&mut footer, 0)?;
                footer[64..68].fill(0);
                let sum = !footer.iter().map(|byte| u32::from(*byte)).sum::<u32>();
                put(64, &sum.to_be_bytes())?;
            }
            Edit::VhdxChecksum(at, length) => {
                let mut part = vec![0; length];
                file.read_exact_at(&mut part, at)?;
                part[4..8].fill(0);
                let sum = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&part);
                put(at + 4, &sum.to_le_bytes())?;
            }
        }
        Ok(())
    }
}

/// A damaged image is refused for this reason by each tool and by a machine, which lives and is as it was; nobody writes to the file.
async fn assert_refused(t: &Test, image: &Image, error: &str) -> CaseResult {
    let file = image.file_bytes()?;
    image.info().expect_error(error).await?;
    image.io(["read 0 512"]).expect_error(error).await?;
    image.io(["write 0 512"]).expect_error(error).await?;
    // A machine logs what it finds in a VHDX.
    let vm = t.host().key().tolerate("VHDX BAT entry").tolerate("VHDX region");
    let vm = vm.launch().await?;
    vm.add_node(image.node()).refused(error).await?;
    vm.shutdown().await?;
    file.assert_unchanged()
}
