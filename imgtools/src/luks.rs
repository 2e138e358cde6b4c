//! LUKS images whose keys are generated here, without QEMU.
//!
//! For each key, QEMU first benchmarks the machine for about a second. That is wasted on an image
//! that is only a starting point for a test. Do not use this for real secrets: the master key is
//! always the same, and protected by few iterations.
//!
//! The layout is that of the LUKS on-disk format 1.2.3, with QEMU's cipher, sizes and offsets.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use aes::Aes256;
use aes::cipher::KeyInit;
use pbkdf2::pbkdf2_hmac;
use sha2::{Digest, Sha256};
use xts_mode::{Xts128, get_tweak_default};

use crate::qcow2::{Builder, Qcow2Error};

const SECTOR: usize = 512;
/// How many keys an image can have.
pub const SLOTS: usize = 8;
/// Two keys of 256 bits, as XTS requires.
const KEY: usize = 64;
/// Into how many parts a key is split, all of which are needed to recover it.
const STRIPES: usize = 4000;
const ENABLED: u32 = 0x00ac_71f3;
const DISABLED: u32 = 0x0000_dead;
/// QEMU's own minimum.
const ITERATIONS: u32 = 1000;
/// The offset of the first split key, and the space for each, in sectors.
const MATERIAL: usize = 8;
const ROOM: usize = (KEY * STRIPES).div_ceil(SECTOR).next_multiple_of(MATERIAL);
const PAYLOAD: usize = MATERIAL + SLOTS * ROOM;

/// Why an image could not be created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LuksError {
    /// There is no such slot, or it is given twice.
    #[error("failed to put a key into slot {0}: the slots are 0 to 7, each for one key")]
    Slot(usize),
    /// The qcow2 image could not be created.
    #[error(transparent)]
    Qcow2(#[from] Qcow2Error),
    /// The system refused.
    #[error("failed to make {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// Creates a LUKS image of this virtual size, in bytes, with these passwords in these slots.
///
/// # Errors
/// See [`LuksError`].
pub fn create(path: impl AsRef<Path>, size: u64, keys: &[(usize, &str)]) -> Result<(), LuksError> {
    let header = header(keys)?;
    let end = header.len() as u64 + size;
    write(path.as_ref(), &header, end)
}

/// Creates a qcow2 image of this virtual size, in bytes, that is encrypted with LUKS.
///
/// # Errors
/// See [`LuksError`].
pub fn create_qcow2(
    path: impl AsRef<Path>,
    size: u64,
    keys: &[(usize, &str)],
) -> Result<(), LuksError> {
    let builder = Builder::new(size).luks(header(keys)?);
    Ok(builder.create(path)?)
}

fn write(path: &Path, start: &[u8], end: u64) -> Result<(), LuksError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(start)?;
        file.set_len(end)
    };
    write().map_err(|source| LuksError::Io {
        path: path.to_owned(),
        source,
    })
}

/// Everything before the data.
fn header(keys: &[(usize, &str)]) -> Result<Vec<u8>, LuksError> {
    for (number, (slot, _)) in keys.iter().enumerate() {
        if *slot >= SLOTS || keys[..number].iter().any(|(other, _)| other == slot) {
            return Err(LuksError::Slot(*slot));
        }
    }
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
            cipher(&key).encrypt_area(&mut split, SECTOR, 0, get_tweak_default);
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

fn cipher(key: &[u8; KEY]) -> Xts128<Aes256> {
    let half = |start: usize| {
        let mut half = [0; KEY / 2];
        half.copy_from_slice(&key[start..start + KEY / 2]);
        Aes256::new(&half.into())
    };
    Xts128::new(half(0), half(KEY / 2))
}

/// Splits the key into parts, of which all but the last are given: the anti-forensic splitter of
/// LUKS.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_that_are_not_there_or_taken_are_refused_and_so_is_an_image_that_is_too_large() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        for keys in [&[(8, "a")][..], &[(1, "a"), (1, "b")]] {
            assert!(matches!(
                create(&path, 512, keys),
                Err(LuksError::Slot(8 | 1))
            ));
        }
        let large = create_qcow2(&path, 1 << 60, &[(0, "a")]);
        assert!(matches!(
            large,
            Err(LuksError::Qcow2(Qcow2Error::Unmakeable { .. }))
        ));
        assert!(!path.exists());
        let nowhere = create(folder.path().join("b/c"), 512, &[(0, "a")]);
        let text = nowhere.unwrap_err().to_string();
        assert!(
            text.starts_with("failed to make /") && text.ends_with("b/c"),
            "{text}"
        );
    }

    #[test]
    fn a_qcow2_image_is_consistent_and_points_to_its_header() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        create_qcow2(&path, 1 << 20, &[(0, "a")]).unwrap();
        let image = crate::qcow2::Image::open(&path).unwrap();
        assert_eq!(
            (image.header().size, image.header().crypt_method),
            (1 << 20, 2)
        );
        assert!(image.refcounts().unwrap().iter().all(|count| *count == 1));
        let extensions = image.extensions().unwrap();
        assert!(extensions.iter().any(|it| it.kind == crate::qcow2::Extension::CRYPTO));
    }
}
