//! How an image is named to a tool: by its file and perhaps format, or by options.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::{FileName, NameError, Options, Secret, node};

/// An image as a tool should open it.
///
/// Paths and strings convert into one, so that `info("disk.img")` works; see [`FileName`] for what
/// each of them means. The format is then the default of the tool's wrapper, or probed.
///
/// An image is named either by a file (with `-f`) or by options (with `--image-opts`), never by
/// both. Where a call needs options, a file is converted: this works for a path, a `json:{…}` and
/// the address of an NBD export; other protocols are a [`NameError`].
#[derive(Clone, Debug)]
pub struct ImageSpec {
    name: Name,
    secrets: Vec<Secret>,
}

#[derive(Clone, Debug)]
enum Name {
    File {
        name: FileName,
        format: Option<String>,
        /// Further settings that only options can express.
        more: Options,
    },
    Options(Options),
}

/// The words for an image on a command line.
pub(crate) struct Words<'s> {
    pub(crate) by_options: bool,
    pub(crate) format: Option<&'s str>,
    pub(crate) name: Cow<'s, OsStr>,
}

impl ImageSpec {
    /// A file, or anything else that QEMU accepts as one; see [`FileName`].
    pub fn file(name: impl Into<FileName>) -> ImageSpec {
        ImageSpec::with(name.into(), None, Options::new())
    }

    /// Options, such as `driver=qcow2,file.filename=x`. They include the format.
    pub fn options(options: impl Into<Options>) -> ImageSpec {
        ImageSpec {
            name: Name::Options(options.into()),
            secrets: Vec::new(),
        }
    }

    /// A LUKS image in a file. The secret is needed for all but [`info`](crate::img::QemuImg::info).
    pub fn luks(file: impl Into<FileName>, secret: &Secret) -> ImageSpec {
        let key = Options::new().set("key-secret", secret.id());
        ImageSpec::with(file.into(), Some("luks"), key).secret(secret)
    }

    /// A qcow2 image with encrypted data in a file.
    pub fn encrypted_qcow2(file: impl Into<FileName>, secret: &Secret) -> ImageSpec {
        let key = Options::new().set("encrypt.key-secret", secret.id());
        ImageSpec::with(file.into(), Some("qcow2"), key).secret(secret)
    }

    fn with(name: FileName, format: Option<&str>, more: Options) -> ImageSpec {
        let format = format.map(str::to_owned);
        ImageSpec {
            name: Name::File { name, format, more },
            secrets: Vec::new(),
        }
    }

    /// Sets the format of a file. Options include it themselves and are not changed.
    pub fn format(mut self, format: impl Into<String>) -> ImageSpec {
        if let Name::File {
            format: known,
            more,
            ..
        } = &mut self.name
            && more.is_empty()
        {
            *known = Some(format.into());
        }
        self
    }

    /// Adds a secret, to which the options refer by its id.
    pub fn secret(mut self, secret: &Secret) -> ImageSpec {
        self.secrets.push(secret.clone());
        self
    }

    /// Whether it is named by options.
    pub fn is_options(&self) -> bool {
        match &self.name {
            Name::File { more, .. } => !more.is_empty(),
            Name::Options(_) => true,
        }
    }

    /// The format, if it is named by a file and the format was set.
    pub fn known_format(&self) -> Option<&str> {
        match &self.name {
            Name::File { format, more, .. } if more.is_empty() => format.as_deref(),
            _ => None,
        }
    }

    /// The secrets that it needs.
    pub fn secrets(&self) -> &[Secret] {
        &self.secrets
    }

    /// The local file, if it is named by one.
    #[cfg(feature = "img")]
    pub(crate) fn local(&self) -> Option<&Path> {
        match &self.name {
            Name::File { name, .. } => name.local(),
            Name::Options(_) => None,
        }
    }

    /// How it is named on a command line: by options if necessary or if `by_options`.
    pub(crate) fn words(&self, by_options: bool) -> Result<Words<'_>, NameError> {
        let options = |options| Words {
            by_options: true,
            format: None,
            name: options,
        };
        match &self.name {
            Name::Options(known) => Ok(options(known.as_os_str().into())),
            Name::File { name, format, more } if by_options || !more.is_empty() => {
                let named = node::options(name, format.as_deref(), more)?;
                Ok(options(OsString::from(named).into()))
            }
            Name::File { name, format, .. } => Ok(Words {
                by_options: false,
                format: format.as_deref(),
                name: name.as_os_str().into(),
            }),
        }
    }

    /// The same image, with this format if none was set.
    #[cfg(feature = "io")]
    pub(crate) fn or_format(self, format: Option<&str>) -> ImageSpec {
        match (self.known_format(), format) {
            (None, Some(format)) => self.format(format),
            _ => self,
        }
    }
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
    &str,
    String,
    &String,
    Cow<'_, str>,
    &Path,
    PathBuf,
    &PathBuf,
    Cow<'_, Path>,
    FileName,
    &FileName
);
