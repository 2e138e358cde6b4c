//! LUKS images whose keys are made here.
//!
//! For each key that QEMU makes, it first measures for about a second how fast the machine is. A case
//! that only starts from an image with keys has no use for that.
//!
//! The layout is that of the LUKS on-disk format 1.2.3, with QEMU's cipher, sizes and places.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use aes::Aes256;
use aes::cipher::KeyInit;
use imgtools::qcow2::Extension;
use pbkdf2::pbkdf2_hmac;
use sha2::{Digest, Sha256};
use xts_mode::{Xts128, get_tweak_default};

use crate::author::failure::{CaseResult, Context, Failure};
use crate::case::Format;

const SECTOR: usize = 512;
const SLOTS: usize = 8;
/// Two keys of 256 bits, as XTS wants.
const KEY: usize = 64;
/// Into how many parts a key is split, all of which are needed to have it again.
const STRIPES: usize = 4000;
const ENABLED: u32 = 0x00ac_71f3;
const DISABLED: u32 = 0x0000_dead;
/// The fewest that QEMU would take itself.
const ITERATIONS: u32 = 1000;
/// Where the first split key is, and the room for each, in sectors.
const MATERIAL: usize = 8;
const ROOM: usize = (KEY * STRIPES).div_ceil(SECTOR).next_multiple_of(MATERIAL);
const PAYLOAD: usize = MATERIAL + SLOTS * ROOM;

/// Makes an image of this size that is encrypted, with these passwords in these slots.
pub(super) fn create(
    path: &Path,
    format: Format,
    size: u64,
    keys: &[(usize, String)],
) -> CaseResult {
    let header = header(keys)?;
    let (bytes, end) = match format {
        Format::Luks => {
            let end = header.len() as u64 + size;
            (header, end)
        }
        Format::Qcow2 => {
            let bytes = in_qcow2(&header, size)?;
            let end = bytes.len() as u64;
            (bytes, end)
        }
        other => return Err(Failure::new(format!("{other} has no LUKS header"))),
    };
    let make = || {
        let mut file = File::create(path)?;
        file.write_all(&bytes)?;
        file.set_len(end)
    };
    make().context(format!("making {}", path.display()))
}

/// All that is before the data.
fn header(keys: &[(usize, String)]) -> CaseResult<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(0);
    let mut bytes = |length: usize| -> Vec<u8> { (0..length).map(|_| random.u8(..)).collect() };
    let master = bytes(KEY);
    let salt = bytes(32);
    let mut digest = [0; 20];
    pbkdf2_hmac::<Sha256>(&master, &salt, ITERATIONS, &mut digest);

    let mut header = Vec::with_capacity(PAYLOAD * SECTOR);
    header.extend(b"LUKS\xba\xbe\0\x01");
    for (text, length) in [("aes", 32), ("xts-plain64", 32), ("sha256", 32)] {
        header.extend(padded(text, length));
    }
    header.extend((PAYLOAD as u32).to_be_bytes());
    header.extend((KEY as u32).to_be_bytes());
    header.extend(digest);
    header.extend(salt);
    header.extend(ITERATIONS.to_be_bytes());
    header.extend(padded("00000000-0000-4000-8000-000000000000", 40));
    let mut split_keys = Vec::new();
    for slot in 0..SLOTS {
        let password = keys.iter().find(|(used, _)| *used == slot);
        let (state, iterations, salt) = match password {
            Some(_) => (ENABLED, ITERATIONS, bytes(32)),
            None => (DISABLED, 0, vec![0; 32]),
        };
        let offset = MATERIAL + slot * ROOM;
        header.extend(state.to_be_bytes());
        header.extend(iterations.to_be_bytes());
        header.extend(&salt);
        header.extend((offset as u32).to_be_bytes());
        header.extend((STRIPES as u32).to_be_bytes());
        if let Some((_, password)) = password {
            let mut key = [0; KEY];
            pbkdf2_hmac::<Sha256>(password.as_bytes(), &salt, ITERATIONS, &mut key);
            let mut split = split(&master, bytes(KEY * (STRIPES - 1)));
            cipher(&key)?.encrypt_area(&mut split, SECTOR, 0, get_tweak_default);
            split_keys.push((offset * SECTOR, split));
        }
    }
    header.resize(PAYLOAD * SECTOR, 0);
    for (at, split) in split_keys {
        header[at..at + split.len()].copy_from_slice(&split);
    }
    Ok(header)
}

fn padded(text: &str, length: usize) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(length, 0);
    bytes
}

fn cipher(key: &[u8; KEY]) -> CaseResult<Xts128<Aes256>> {
    let (data, tweak) = key.split_at(KEY / 2);
    let half = |key: &[u8]| Aes256::new_from_slice(key).map_err(|e| Failure::new(e.to_string()));
    Ok(Xts128::new(half(data)?, half(tweak)?))
}

/// The key in parts, of which all but the last are given: the anti-forensic splitter of LUKS.
fn split(key: &[u8], mut parts: Vec<u8>) -> Vec<u8> {
    let xor = |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(a, b)| a ^ b).collect::<Vec<u8>>();
    let mut state = vec![0; key.len()];
    for part in parts.chunks(key.len()) {
        state = diffused(&xor(&state, part));
    }
    parts.extend(xor(&state, key));
    parts
}

fn diffused(block: &[u8]) -> Vec<u8> {
    let hash = |(number, chunk): (u32, &[u8])| {
        let hash = Sha256::new().chain_update(number.to_be_bytes());
        hash.chain_update(chunk).finalize()[..chunk.len()].to_vec()
    };
    (0..).zip(block.chunks(32)).flat_map(hash).collect()
}

/// A qcow2 image with that header in it and no data.
fn in_qcow2(luks: &[u8], size: u64) -> CaseResult<Vec<u8>> {
    const BITS: u32 = 16;
    const CLUSTER: usize = 1 << BITS;
    // The clusters of the file: the refcounts, the L1 table, and the LUKS header to the end.
    const REFCOUNT_TABLE: usize = 1;
    const REFCOUNT_BLOCK: usize = 2;
    const L1: usize = 3;
    const LUKS: usize = 4;
    let at = |cluster: usize| ((cluster * CLUSTER) as u64).to_be_bytes();
    let l1_entries = size.div_ceil((CLUSTER * CLUSTER / 8) as u64);
    let clusters = LUKS + luks.len().div_ceil(CLUSTER);
    if l1_entries * 8 > CLUSTER as u64 || clusters * 2 > CLUSTER {
        return Err(Failure::new("the image is too large to be made here"));
    }

    let mut head = b"QFI\xfb\0\0\0\x03".to_vec();
    head.extend([0; 12]);
    head.extend(BITS.to_be_bytes());
    head.extend(size.to_be_bytes());
    let by_luks: u32 = 2;
    head.extend(by_luks.to_be_bytes());
    head.extend((l1_entries as u32).to_be_bytes());
    head.extend(at(L1));
    head.extend(at(REFCOUNT_TABLE));
    head.extend(1_u32.to_be_bytes());
    // No snapshots, no features.
    head.extend([0; 12 + 24]);
    let refcount_order: u32 = 4;
    head.extend(refcount_order.to_be_bytes());
    let length: u32 = 104;
    head.extend(length.to_be_bytes());
    head.extend(Extension::CRYPTO.to_be_bytes());
    head.extend(16_u32.to_be_bytes());
    head.extend(at(LUKS));
    head.extend((luks.len() as u64).to_be_bytes());
    // The end of the extensions.
    head.extend([0; 8]);

    let mut file = vec![0; clusters * CLUSTER];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &head);
    put(REFCOUNT_TABLE * CLUSTER, &at(REFCOUNT_BLOCK));
    put(REFCOUNT_BLOCK * CLUSTER, &[0, 1].repeat(clusters));
    put(LUKS * CLUSTER, luks);
    Ok(file)
}
