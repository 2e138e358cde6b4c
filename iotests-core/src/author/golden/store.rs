//! Finds the golden of a case, compares with it, and writes pending ones.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use linkme::distributed_slice;

use super::{Style, diff};
use crate::author::failure::{Difference, Failure};

/// One golden file, embedded in the binary.
#[derive(Clone, Copy, Debug)]
pub struct Golden {
    /// Its path below the sources of the cases, with `/`: `nbd/block_status.map@raw.golden`.
    pub path: &'static str,
    /// Its content.
    pub text: &'static str,
}

/// The goldens of every linked crate of cases. A crate adds its table with `linkme`; its build
/// script generates the table.
#[distributed_slice]
pub static GOLDENS: [&'static [Golden]];

/// The properties on which a variant of a golden may depend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// The image format of the instance.
    pub format: String,
    /// The protocol of the instance.
    pub protocol: String,
    /// `system` or `qsd`, if the case uses a machine.
    pub backend: Option<String>,
    /// Major and minor version of the tools.
    pub version: (u32, u32),
}

/// Why a text does not match its golden.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// There is no golden.
    #[error(
        "there is no golden {name}.golden; look at the text, and if it is right keep it with --bless"
    )]
    Missing {
        /// The name without variant and extension.
        name: String,
        /// The text that has no golden.
        found: String,
    },
    /// The texts differ.
    #[error("the log differs from {path}")]
    Differs {
        /// The golden it was compared with.
        path: String,
        /// The content of the golden.
        expected: String,
        /// The text that the case produced.
        found: String,
    },
}

impl GoldenError {
    /// Converts it into a failure of a case, with the diff.
    #[track_caller]
    pub(crate) fn into_failure(self) -> Failure {
        let message = self.to_string();
        let (expected, found) = match self {
            GoldenError::Missing { found, .. } => (String::new(), found),
            GoldenError::Differs {
                expected, found, ..
            } => (expected, found),
        };
        let diff = Some(diff(&expected, &found, Style::Plain));
        Failure::differs(
            message,
            Difference {
                expected,
                found,
                diff,
            },
        )
    }
}

/// Why a pending golden could not be written.
#[derive(Debug, thiserror::Error)]
pub enum BlessError {
    /// `CI` is set.
    #[error("goldens are not blessed where CI is set")]
    Ci,
    /// The source tree is missing.
    #[error("goldens can be blessed only in a source tree, and {} is not there", .0.display())]
    NoSources(PathBuf),
    /// Another text is already pending, and neither may be lost.
    #[error(
        "{} waits for review with another text: of an earlier run, so review that first; or of another instance{}",
        path.display(), needs_variant(.variant.as_deref())
    )]
    Conflict {
        /// The pending file.
        path: PathBuf,
        /// A possible name of a golden for this instance alone, if it is ours to choose.
        variant: Option<String>,
    },
    /// The file system reported an error.
    #[error("failed to write {}", path.display())]
    Write {
        /// The pending file.
        path: PathBuf,
        /// The error.
        source: std::io::Error,
    },
}

fn needs_variant(name: Option<&str>) -> String {
    name.map(|name| {
        format!(
            ", so one of them needs a variant such as {name}: make an empty file of that name, and bless again"
        )
    })
    .unwrap_or_default()
}

/// The goldens to choose from.
#[derive(Clone, Debug)]
pub struct Goldens {
    files: Vec<Golden>,
}

impl Goldens {
    /// The goldens embedded in this binary.
    #[must_use]
    pub fn embedded() -> Self {
        Goldens {
            files: GOLDENS.iter().flat_map(|table| table.iter().copied()).collect(),
        }
    }

    /// These goldens.
    #[must_use]
    pub fn new(files: Vec<Golden>) -> Self {
        Goldens { files }
    }

    /// The most specific variant of `name` for the instance: the one with the most conditions, all
    /// of which hold, and among those the one for the newest version.
    #[must_use]
    pub fn choose(&self, name: &str, selection: &Selection) -> Option<&Golden> {
        self.files
            .iter()
            .filter_map(|golden| {
                let conditions = conditions(golden.path, name)?;
                Some((rank(&conditions, selection)?, golden))
            })
            .max_by(|a, b| a.0.cmp(&b.0).then_with(|| b.1.path.cmp(a.1.path)))
            .map(|(_, golden)| golden)
    }

    /// Compares the text with its golden. White space at the end of the text is ignored; all other
    /// white space counts.
    ///
    /// # Errors
    /// If they differ, or if there is no golden.
    pub fn compare(
        &self,
        name: &str,
        selection: &Selection,
        found: &str,
    ) -> Result<(), GoldenError> {
        let Some(golden) = self.choose(name, selection) else {
            return Err(GoldenError::Missing {
                name: name.to_owned(),
                found: found.to_owned(),
            });
        };
        let end = |text: &str| format!("{}\n", text.trim_end());
        let (expected, found) = (end(golden.text), end(found));
        if expected == found {
            return Ok(());
        }
        Err(GoldenError::Differs {
            path: golden.path.to_owned(),
            expected,
            found,
        })
    }

    /// Writes the text as a pending golden below `sources`, for the variant with which it was
    /// compared, and returns the file. Its first line states where the text is from; that line is
    /// removed when the golden is accepted.
    ///
    /// # Errors
    /// If CI is set, there is no source tree, another text is already pending there, or the file
    /// cannot be written.
    pub fn bless(
        &self,
        sources: &Path,
        name: &str,
        selection: &Selection,
        text: &str,
        origin: &str,
        ci: bool,
    ) -> Result<PathBuf, BlessError> {
        if ci {
            return Err(BlessError::Ci);
        }
        if !sources.is_dir() {
            return Err(BlessError::NoSources(sources.to_owned()));
        }
        let file = match self.choose(name, selection) {
            Some(golden) => golden.path.to_owned(),
            None => format!("{name}.golden"),
        };
        let text = format!("{}\n", text.trim_end());
        let variant = format!("{name}@{}.golden", selection.format);
        write_pending_or(&sources.join(file), &text, origin, Some(variant))
    }
}

/// Writes a text that will replace this file once a person has accepted it, and returns the pending
/// file.
///
/// # Errors
/// If CI is set, another text is already pending there, or the file cannot be written.
pub fn write_pending(
    golden: &Path,
    text: &str,
    origin: &str,
    ci: bool,
) -> Result<PathBuf, BlessError> {
    if ci {
        return Err(BlessError::Ci);
    }
    write_pending_or(golden, text, origin, None)
}

fn write_pending_or(
    golden: &Path,
    text: &str,
    origin: &str,
    variant: Option<String>,
) -> Result<PathBuf, BlessError> {
    let mut path = golden.as_os_str().to_owned();
    path.push(".pending");
    let path = PathBuf::from(path);
    // The instances of a case run concurrently, so files are created atomically, and only once.
    let write = || {
        let folder = path.parent().unwrap_or(golden);
        std::fs::create_dir_all(folder)?;
        // The mode of any new file: limited by the umask.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        let mut builder = tempfile::Builder::new();
        let mut file = builder.permissions(mode).tempfile_in(folder)?;
        let whole = format!("{ORIGIN}{origin}\n{text}");
        std::io::Write::write_all(&mut file, whole.as_bytes())?;
        match file.persist_noclobber(&path) {
            Err(error) if error.error.kind() == ErrorKind::AlreadyExists => {
                Ok(split_origin(&std::fs::read_to_string(&path)?).1 == text)
            }
            Err(error) => Err(error.error),
            Ok(_) => Ok(true),
        }
    };
    match write() {
        Ok(true) => Ok(path),
        Ok(false) => Err(BlessError::Conflict { path, variant }),
        Err(source) => Err(BlessError::Write { path, source }),
    }
}

/// The name of a case's golden, without variant and extension: `nbd/block_status.map` for the case
/// `nbd::block_status::map`.
#[must_use]
pub fn golden_name(case: &str, row: Option<&str>) -> String {
    let name = match case.rsplit_once("::") {
        Some((module, function)) => format!("{}.{function}", module.replace("::", "/")),
        None => case.to_owned(),
    };
    match row {
        Some(row) => format!("{name}.{row}"),
        None => name,
    }
}

/// The start of the first line of a pending golden.
const ORIGIN: &str = "# from ";

/// Splits a pending golden into the origin of its text and the text.
pub(super) fn split_origin(text: &str) -> (Option<&str>, &str) {
    match text.strip_prefix(ORIGIN).and_then(|rest| rest.split_once('\n')) {
        Some((origin, text)) => (Some(origin), text),
        None => (None, text),
    }
}

/// Whether this runs in continuous integration, by the variable that all services set.
#[must_use]
pub fn is_ci() -> bool {
    std::env::var_os("CI")
        .is_some_and(|value| !value.is_empty() && value != "false" && value != "0")
}

/// The conditions of the golden `path`, if it is one of `name`.
fn conditions<'a>(path: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let rest = path.strip_prefix(name)?.strip_suffix(".golden")?;
    match rest.strip_prefix('@') {
        Some(conditions) => Some(conditions.split('+').collect()),
        None => rest.is_empty().then(Vec::new),
    }
}

/// How specific the conditions are; `None` if one of them does not hold.
fn rank(conditions: &[&str], selection: &Selection) -> Option<(usize, (u32, u32))> {
    let mut version = (0, 0);
    for condition in conditions {
        if let Some(since) = parse_version(condition) {
            if since > selection.version {
                return None;
            }
            version = since;
        } else if *condition != selection.format
            && *condition != selection.protocol
            && Some(*condition) != selection.backend.as_deref()
        {
            return None;
        }
    }
    Some((conditions.len(), version))
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: &[Golden] = &[
        Golden {
            path: "nbd/map.one.golden",
            text: "plain\n",
        },
        Golden {
            path: "nbd/map.one@raw.golden",
            text: "raw\n",
        },
        Golden {
            path: "nbd/map.one@8.0.golden",
            text: "new\n",
        },
        Golden {
            path: "nbd/map.one@9.1.golden",
            text: "newer\n",
        },
        Golden {
            path: "nbd/map.one@raw+nbd.golden",
            text: "raw over nbd\n",
        },
        Golden {
            path: "nbd/map.one_more@qsd.golden",
            text: "daemon\n",
        },
    ];

    fn chosen(format: &str, protocol: &str, version: (u32, u32)) -> Option<&'static str> {
        let selection = Selection {
            format: format.into(),
            protocol: protocol.into(),
            backend: None,
            version,
        };
        Goldens::new(FILES.to_vec())
            .choose("nbd/map.one", &selection)
            .map(|golden| golden.text.trim())
    }

    #[test]
    fn the_variant_that_says_most_is_chosen() {
        assert_eq!(chosen("qcow2", "file", (7, 2)), Some("plain"));
        assert_eq!(chosen("raw", "file", (7, 2)), Some("raw"));
        assert_eq!(chosen("raw", "nbd", (10, 0)), Some("raw over nbd"));
        assert_eq!(chosen("qcow2", "file", (8, 0)), Some("new"));
        assert_eq!(chosen("qcow2", "file", (10, 0)), Some("newer"));
    }

    #[test]
    fn a_missing_golden_is_a_failure_and_so_is_a_variant_for_others_only() {
        let goldens = Goldens::new(FILES.to_vec());
        let selection = Selection {
            backend: Some("system".into()),
            ..Selection::default()
        };
        let error = goldens.compare("nbd/map.one_more", &selection, "x").unwrap_err();
        assert!(matches!(error, GoldenError::Missing { .. }));
        assert!(error.to_string().contains("nbd/map.one_more.golden"));
    }

    #[test]
    fn a_difference_is_shown_line_by_line() {
        let goldens = Goldens::new(FILES.to_vec());
        goldens.compare("nbd/map.one", &Selection::default(), "plain\n\n").unwrap();
        let error = goldens.compare("nbd/map.one", &Selection::default(), "other\n").unwrap_err();
        let failure = error.into_failure();
        assert!(failure.message().contains("nbd/map.one.golden"));
        let shown = failure.difference().and_then(|d| d.diff.clone()).unwrap();
        assert!(
            shown.contains("-plain") && shown.contains("+other"),
            "{shown}"
        );
    }

    #[test]
    fn blessing_writes_a_pending_file_for_the_variant_and_never_in_ci() {
        let sources = tempfile::tempdir().unwrap();
        let goldens = Goldens::new(FILES.to_vec());
        let raw = Selection {
            format: "raw".into(),
            ..Selection::default()
        };
        let path =
            goldens.bless(sources.path(), "nbd/map.one", &raw, "text", "a case", false).unwrap();
        assert!(path.ends_with("nbd/map.one@raw.golden.pending"));
        assert_eq!(
            std::fs::read_to_string(path).unwrap(),
            "# from a case\ntext\n"
        );
        let new = goldens.bless(sources.path(), "a/new", &raw, "text", "a case", false).unwrap();
        assert!(new.ends_with("a/new.golden.pending"));
        // The same text again is accepted; a different one does not overwrite it.
        let again = goldens.bless(sources.path(), "a/new", &raw, "text", "a case", false);
        assert_eq!(again.unwrap(), new);
        let other = goldens.bless(sources.path(), "a/new", &raw, "other", "a case", false);
        let text = other.unwrap_err().to_string();
        assert!(
            text.contains("a variant such as a/new@raw.golden"),
            "{text}"
        );
        assert_eq!(
            std::fs::read_to_string(&new).unwrap(),
            "# from a case\ntext\n"
        );
        let left = std::fs::read_dir(new.parent().unwrap()).unwrap().count();
        assert_eq!(left, 1);
        let refused = goldens.bless(sources.path(), "a/new", &raw, "text", "a case", true);
        assert!(matches!(refused, Err(BlessError::Ci)));
        let nowhere = sources.path().join("nowhere");
        let refused = goldens.bless(&nowhere, "a/new", &raw, "text", "a case", false);
        assert!(matches!(refused, Err(BlessError::NoSources(_))));
    }
}
