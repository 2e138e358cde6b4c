//! The SHA-256 of QEMU's programs, to identify the build in reports. Cached by path, size and
//! times.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::keep;

/// The cached checksums of programs.
#[derive(Debug)]
pub(crate) struct Sums {
    path: PathBuf,
    known: BTreeMap<PathBuf, Known>,
    is_new: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    /// Device, inode, size, mtime and ctime.
    stamp: [i64; 7],
    sha256: String,
}

impl Sums {
    /// Reads the cache. An unreadable one is ignored.
    pub(crate) fn read(path: PathBuf) -> Self {
        let known = fs::read(&path).ok();
        let known = known.and_then(|text| serde_json::from_slice(&text).ok());
        Self {
            path,
            known: known.unwrap_or_default(),
            is_new: false,
        }
    }

    /// The checksum of a program in hexadecimal; `None` if it cannot be read.
    pub(crate) fn of(&mut self, program: &Path) -> Option<String> {
        let file = File::open(program).ok()?;
        let stamp = stamp(&file).ok()?;
        if let Some(known) = self.known.get(program).filter(|known| known.stamp == stamp) {
            return Some(known.sha256.clone());
        }
        let sha256 = sum(file).ok()?;
        let known = Known {
            stamp,
            sha256: sha256.clone(),
        };
        self.known.insert(program.to_owned(), known);
        self.is_new = true;
        Some(sha256)
    }

    /// Writes the cache. If that fails, the sums are computed again the next time.
    pub(crate) fn write(mut self) {
        if self.is_new {
            self.known.retain(|program, _| program.exists());
            let _ = keep::replace(&self.path, &self.known);
        }
    }
}

fn stamp(file: &File) -> io::Result<[i64; 7]> {
    let data = file.metadata()?;
    let number = |number: u64| i64::from_ne_bytes(number.to_ne_bytes());
    Ok([
        number(data.dev()),
        number(data.ino()),
        number(data.size()),
        data.mtime(),
        data.mtime_nsec(),
        data.ctime(),
        data.ctime_nsec(),
    ])
}

fn sum(mut file: File) -> io::Result<String> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => digest.update(&buffer[..read]),
        }
    }
    let digest = digest.finalize();
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_kept_until_the_program_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (kept, program) = (folder.path().join("sums"), folder.path().join("program"));
        fs::write(&program, "abc").unwrap();
        let mut sums = Sums::read(kept.clone());
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sums.of(&program).as_deref(), Some(abc));
        assert_eq!(sums.of(&folder.path().join("none")), None);
        sums.write();
        let mut sums = Sums::read(kept);
        assert_eq!(sums.of(&program).as_deref(), Some(abc));
        assert!(!sums.is_new, "it is known");
        fs::write(&program, "abcd").unwrap();
        assert_ne!(sums.of(&program).as_deref(), Some(abc));
    }
}
