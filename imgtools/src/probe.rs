//! What a set of tools supports, determined by trying.
//!
//! A program may list a format and still be unable to use it: a build without a crypto library
//! lists `luks`. So the answer is yes, or the program's own reason why not.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::image::Secret;
use crate::img::{Call, Create, ImgError, QemuImg};
use crate::io::{IoError, QemuIo};
use crate::process::{Output, block_on};
use crate::tools::Version;

/// Whether something works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Support {
    /// It does.
    Yes,
    /// It does not, for this reason: the program's message, without the file name.
    No(String),
}

impl Support {
    /// Whether it works.
    pub fn is_yes(&self) -> bool {
        *self == Support::Yes
    }

    /// Why it does not work, if it does not.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Support::Yes => None,
            Support::No(reason) => Some(reason),
        }
    }

    /// The result of a trial run with this file.
    fn of(output: &Output, file: &Path) -> Support {
        match output.status.is_success() {
            true => Support::Yes,
            false => Support::No(reason(&output.stderr_text(), &file.to_string_lossy())),
        }
    }
}

/// The text after `FILE: ` in a message, or else the whole message without the program's name.
fn reason(message: &str, file: &str) -> String {
    let behind_file = |line: &str| Some(line.split_once(&format!("{file}: "))?.1.to_owned());
    if let Some(reason) = message.lines().find_map(behind_file) {
        return reason;
    }
    let line =
        message.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason was given");
    let line = line.split_once("qemu-img: ").map_or(line, |(_, rest)| rest);
    line.replace(file, "the image")
}

/// The capabilities of qemu-img. Probed once per run; it can be stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ImgCapabilities {
    /// Its version, if known.
    pub version: Option<Version>,
    /// The formats and protocols that it lists.
    pub formats: BTreeSet<String>,
    /// Whether it can create LUKS images.
    pub luks: Support,
    /// Whether it can create qcow2 images with zstd compression.
    pub zstd: Support,
}

impl ImgCapabilities {
    /// Whether it lists this format or protocol.
    pub fn supports(&self, format: &str) -> bool {
        self.formats.contains(format)
    }

    /// Probes everything.
    pub async fn probe(img: &QemuImg) -> Result<ImgCapabilities, ProbeError> {
        Ok(ImgCapabilities {
            version: img.tool().version,
            formats: formats(img).await?,
            luks: luks(img).await?,
            zstd: zstd(img).await?,
        })
    }

    /// [`ImgCapabilities::probe`] outside of async code.
    pub fn probe_blocking(img: &QemuImg) -> Result<ImgCapabilities, ProbeError> {
        block_on(ImgCapabilities::probe(img))
    }
}

/// Why probing failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// qemu-img did not run.
    #[error(transparent)]
    Img(#[from] ImgError),
    /// qemu-io did not run.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A file for it could not be created.
    #[error("failed to make a file to probe with")]
    File(#[from] std::io::Error),
}

/// The formats and protocols that qemu-img lists.
pub async fn formats(img: &QemuImg) -> Result<BTreeSet<String>, ProbeError> {
    Ok(listed(&img.raw(["--help"]).run().await?.stdout_text()))
}

/// [`formats`] outside of async code.
pub fn formats_blocking(img: &QemuImg) -> Result<BTreeSet<String>, ProbeError> {
    block_on(formats(img))
}

/// Parses `Supported formats: raw qcow2 …`, or since 10.0 `Supported image formats:` and a
/// paragraph.
fn listed(help: &str) -> BTreeSet<String> {
    let Some((_, list)) = help
        .split_once("Supported formats:")
        .or_else(|| help.split_once("Supported image formats:"))
    else {
        return BTreeSet::new();
    };
    let list = list.trim_start().split("\n\n").next().unwrap_or_default();
    list.split_whitespace().map(str::to_owned).collect()
}

/// A new image for a trial.
struct Trial {
    call: Call<Create>,
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Trial {
    fn new(img: &QemuImg, size: u64) -> Result<Trial, ProbeError> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("probe");
        let call = img.create(&file).size(size);
        Ok(Trial {
            call,
            file,
            _folder: folder,
        })
    }

    fn luks(img: &QemuImg) -> Result<Trial, ProbeError> {
        let trial = Trial::new(img, 1 << 30)?;
        let secret = Secret::new("probe", "probe-secret")?;
        Ok(Trial {
            call: trial.call.format("luks").secret(&secret).iter_time(Duration::from_millis(10)),
            ..trial
        })
    }

    fn zstd(img: &QemuImg) -> Result<Trial, ProbeError> {
        let trial = Trial::new(img, 1 << 20)?;
        Ok(Trial {
            call: trial.call.format("qcow2").option("compression_type", "zstd"),
            ..trial
        })
    }

    async fn run(self) -> Result<Support, ProbeError> {
        let mut retries = 0..RETRIES;
        loop {
            let found = Support::of(&self.call.clone().output().await?, &self.file);
            if !unmeasured(&found) || retries.next().is_none() {
                return Ok(found);
            }
        }
    }
}

/// QEMU's message when it benchmarked the key derivation and the kernel had not yet accounted any
/// CPU time to it. Before 10.0 (145f12ea88) it failed at once, so that creating a LUKS image
/// occasionally fails on a busy machine. Retrying is the only remedy.
pub const NO_CPU_TIME: &str = "Unable to get accurate CPU usage";

/// How often to retry after [`NO_CPU_TIME`], which takes QEMU a few milliseconds.
const RETRIES: usize = 100;

/// Whether this result says nothing about the tool's capabilities.
fn unmeasured(found: &Support) -> bool {
    found.reason().is_some_and(|why| why.contains(NO_CPU_TIME))
}

/// Whether LUKS images can be created.
///
/// This takes QEMU a second or more of CPU time, whatever `iter-time` is: it benchmarks the key
/// derivation for one second each time. So probe once per run, and keep the result.
pub async fn luks(img: &QemuImg) -> Result<Support, ProbeError> {
    Trial::luks(img)?.run().await
}

/// [`luks`] outside of async code.
pub fn luks_blocking(img: &QemuImg) -> Result<Support, ProbeError> {
    block_on(luks(img))
}

/// Whether qcow2 images with zstd compression can be created.
pub async fn zstd(img: &QemuImg) -> Result<Support, ProbeError> {
    Trial::zstd(img)?.run().await
}

/// [`zstd`] outside of async code.
pub fn zstd_blocking(img: &QemuImg) -> Result<Support, ProbeError> {
    block_on(zstd(img))
}

/// Whether an asynchronous I/O mode works here: `native` needs a file system that allows direct
/// I/O, and `io_uring` is forbidden in many containers.
pub async fn aio(io: &QemuIo, mode: &str) -> Result<Support, ProbeError> {
    let (folder, file) = aio_image()?;
    let output = aio_trial(io, mode, &file).output().await?;
    drop(folder);
    Ok(Support::of(&output, &file))
}

/// [`aio`] outside of async code.
pub fn aio_blocking(io: &QemuIo, mode: &str) -> Result<Support, ProbeError> {
    block_on(aio(io, mode))
}

fn aio_image() -> Result<(tempfile::TempDir, PathBuf), ProbeError> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("probe");
    std::fs::File::create(&file)?.set_len(1 << 20)?;
    Ok((folder, file))
}

fn aio_trial(io: &QemuIo, mode: &str, file: &Path) -> crate::io::Open {
    let image = crate::image::ImageSpec::file(file).format("raw");
    let cache = if mode == "native" {
        "none"
    } else {
        "writeback"
    };
    io.open(image).cache(cache).aio(mode).command("read 0 4096")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_ways_of_listing_formats_are_read() {
        let old = "x\n\nSupported formats: blkdebug raw qcow2\n\nSee <https://qemu.org/>\n";
        let new =
            "x\n\nSupported image formats:\n\n  blkdebug\n  raw qcow2\n\nSee <https://qemu.org/>\n";
        for help in [old, new] {
            let formats = listed(help);
            let formats: Vec<&str> = formats.iter().map(String::as_str).collect();
            assert_eq!(formats, ["blkdebug", "qcow2", "raw"]);
        }
        assert!(listed("usage: something else").is_empty());
    }

    proptest! {
        #[test]
        fn a_reason_is_what_stands_behind_the_file_and_never_has_its_name(
            file in "/[a-z/]{3,20}", why in "[A-Z][a-z ']{0,30}", noise in "[a-z ]{0,10}",
        ) {
            let message = format!("{noise}\nqemu-img: {file}: {why}\nmore");
            prop_assert_eq!(reason(&message, &file), why);
            let message = format!("qemu-img: cannot do it with {file}\n");
            prop_assert_eq!(reason(&message, &file), "cannot do it with the image");
        }

        #[test]
        fn no_text_is_too_strange(text in "(\\PC|\n){0,60}") {
            let _ = (listed(&text), reason(&text, "/x"));
        }
    }
}
