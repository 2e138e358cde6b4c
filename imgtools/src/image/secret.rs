//! Secrets, passed to the tools in files: every local user can read a command line.

use std::fmt;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use tempfile::NamedTempFile;

use super::Options;

/// A secret, such as the password of a LUKS image. Its value is in a file that only we can read and
/// that is deleted with the last clone; it is never shown.
#[derive(Clone)]
pub struct Secret(Arc<Inner>);

struct Inner {
    id: String,
    value: String,
    file: NamedTempFile,
}

impl Secret {
    /// A secret with this object id, its file in the folder for temporary files.
    pub fn new(id: &str, value: &str) -> io::Result<Secret> {
        Secret::in_dir(std::env::temp_dir(), id, value)
    }

    /// A secret with this object id, its file in this folder.
    pub fn in_dir(folder: impl AsRef<Path>, id: &str, value: &str) -> io::Result<Secret> {
        // Such a file is created with mode 0600.
        let mut file = tempfile::Builder::new().prefix("secret-").tempfile_in(folder)?;
        file.write_all(value.as_bytes())?;
        Ok(Secret(Arc::new(Inner {
            id: id.to_owned(),
            value: value.to_owned(),
            file,
        })))
    }

    /// The id of the object.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// The secret itself, for redacting it elsewhere.
    pub fn value(&self) -> &str {
        &self.0.value
    }

    /// The file that holds it.
    pub fn path(&self) -> &Path {
        self.0.file.path()
    }

    /// The value of `--object` that passes it to a tool.
    pub fn object(&self) -> Options {
        Options::from("secret").set("id", self.id()).set_path("file", self.path())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.id())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_secret_is_in_a_file_that_only_we_can_read() {
        let folder = tempfile::tempdir().unwrap();
        let secret = Secret::in_dir(folder.path(), "sec0", "hunter2").unwrap();
        let path = secret.path().to_owned();
        assert_eq!(std::fs::read(&path).unwrap(), b"hunter2");
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let shown = format!("{secret:?} {}", secret.object());
        assert_eq!(
            shown,
            format!("Secret(sec0) secret,id=sec0,file={}", path.display())
        );
        let copy = secret.clone();
        drop(secret);
        assert!(path.exists());
        drop(copy);
        assert!(!path.exists());
    }
}
