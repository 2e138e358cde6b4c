//! How an image is named to a tool: by its file and perhaps format, or by options.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::{Options, Secret};
use crate::process::Command;

/// An image as a tool is to open it.
///
/// Paths and strings convert into one, so that `info("disk.img")` works; the format is then what the
/// tool's wrapper has as its default, or probed. An image is named either by a file (with `-f`) or by
/// options (with `--image-opts`), never by both.
#[derive(Clone, Debug)]
pub struct ImageSpec {
    name: Name,
    secrets: Vec<Secret>,
}

#[derive(Clone, Debug)]
enum Name {
    File {
        name: OsString,
        format: Option<String>,
    },
    Options(Options),
}

impl ImageSpec {
    /// A file name, or what else QEMU takes for one (`nbd://…`, `json:{…}`).
    pub fn file(name: impl AsRef<OsStr>) -> ImageSpec {
        let name = Name::File {
            name: name.as_ref().to_owned(),
            format: None,
        };
        ImageSpec {
            name,
            secrets: Vec::new(),
        }
    }

    /// Options, such as `driver=qcow2,file.filename=x`. They say the format themselves.
    pub fn options(options: impl Into<Options>) -> ImageSpec {
        ImageSpec {
            name: Name::Options(options.into()),
            secrets: Vec::new(),
        }
    }

    /// A LUKS image in a file. The secret is needed for all but [`info`](crate::img::QemuImg::info).
    pub fn luks(file: impl AsRef<OsStr>, secret: &Secret) -> ImageSpec {
        let options = Options::new()
            .set("driver", "luks")
            .set("key-secret", secret.id());
        ImageSpec::options(options.set("file.filename", file.as_ref().to_string_lossy()))
            .secret(secret)
    }

    /// A qcow2 image with encrypted data in a file.
    pub fn encrypted_qcow2(file: impl AsRef<OsStr>, secret: &Secret) -> ImageSpec {
        let options = Options::new()
            .set("driver", "qcow2")
            .set("encrypt.key-secret", secret.id());
        ImageSpec::options(options.set("file.filename", file.as_ref().to_string_lossy()))
            .secret(secret)
    }

    /// Says the format of a file. Options say it themselves; nothing changes for them.
    pub fn format(mut self, format: impl Into<String>) -> ImageSpec {
        if let Name::File { format: known, .. } = &mut self.name {
            *known = Some(format.into());
        }
        self
    }

    /// Makes a secret known, to which the options refer by its id.
    pub fn secret(mut self, secret: &Secret) -> ImageSpec {
        self.secrets.push(secret.clone());
        self
    }

    /// Whether it is named by options.
    pub fn is_options(&self) -> bool {
        matches!(self.name, Name::Options(_))
    }

    /// The format, if it is named by a file and its format was said.
    pub fn known_format(&self) -> Option<&str> {
        match &self.name {
            Name::File { format, .. } => format.as_deref(),
            Name::Options(_) => None,
        }
    }

    /// The secrets that it needs.
    pub fn secrets(&self) -> &[Secret] {
        &self.secrets
    }

    /// The word that names it on a command line: the file, or the options.
    pub(crate) fn word(&self) -> &OsStr {
        match &self.name {
            Name::File { name, .. } => name,
            Name::Options(options) => OsStr::new(options.as_str()),
        }
    }

    /// The same image named by options.
    pub(crate) fn into_options(mut self) -> ImageSpec {
        if let Name::File { name, format } = &self.name {
            let options = match format {
                Some(format) => Options::new().set("driver", format),
                None => Options::new(),
            };
            self.name = Name::Options(options.set("file.filename", name.to_string_lossy()));
        }
        self
    }

    /// The same image, with this format if none was said.
    pub(crate) fn or_format(self, format: Option<&str>) -> ImageSpec {
        match (self.known_format(), format) {
            (None, Some(format)) => self.format(format),
            _ => self,
        }
    }
}

/// Makes a secret known to a tool, and hides it in what that prints.
pub(crate) fn add_secret(command: Command, secret: &Secret) -> Command {
    command
        .secret(secret.value())
        .arg("--object")
        .arg(secret.object().as_str())
}

impl From<&ImageSpec> for ImageSpec {
    fn from(spec: &ImageSpec) -> ImageSpec {
        spec.clone()
    }
}

macro_rules! from_file {
    ($($name:ty),*) => {$(
        impl From<$name> for ImageSpec {
            fn from(name: $name) -> ImageSpec {
                ImageSpec::file(name)
            }
        }
    )*};
}
from_file!(
    &str, String, &String, &Path, PathBuf, &PathBuf, &OsStr, OsString
);
