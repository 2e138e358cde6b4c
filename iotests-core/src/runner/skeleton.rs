//! `iotests new NAME`: adds a case that compiles and passes to the right module.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The skeleton. Tests include it as source, to verify that it compiles and passes.
const CASE: &str = include_str!("skeleton/case.rs.in");

/// The head of a new module.
const HEAD: &str = "//! (Say here in one line what the cases of this module are about.)\n\n\
                    use iotests_core::prelude::*;\n\n";

/// Why no case was created.
#[derive(Debug, thiserror::Error)]
pub(super) enum SkeletonError {
    /// The name is not a path of modules and a function.
    #[error(
        "`{0}` is not a valid case name: write modules and function in snake_case, such as nbd::block_status::sees_holes"
    )]
    Name(String),
    /// A part of the name cannot name a module or function.
    #[error("`{name}` is not a valid case name: `{part}` {why}")]
    Taken {
        /// The name.
        name: String,
        /// The part.
        part: String,
        /// What it is instead.
        why: &'static str,
    },
    /// The function already exists.
    #[error("{} already has a function `{function}`", file.display())]
    Exists {
        /// The function.
        function: String,
        /// The file of its module.
        file: PathBuf,
    },
    /// These are not the sources of cases.
    #[error("{} has no lib.rs; run this in a source tree, or set IOTESTS_SOURCE_DIR", .0.display())]
    NoSources(PathBuf),
    /// A file cannot be read or written.
    #[error("failed to write {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Created {
    /// The name by which the case can be run.
    pub(super) name: String,
    /// The file it is in.
    pub(super) file: PathBuf,
    /// The line of its function.
    pub(super) line: usize,
    /// The modules created for it.
    pub(super) modules: Vec<PathBuf>,
}

/// Creates the case `name` (`area::module::function`, or with slashes) in `sources`, the `src` of
/// the crate of cases. Missing modules are created and declared in their parents.
///
/// # Errors
/// If the name is invalid, the case exists, or a file cannot be written.
pub(super) fn create(sources: &Path, name: &str) -> Result<Created, SkeletonError> {
    let normal = name.replace('/', "::");
    let mut parts: Vec<&str> = normal.split("::").collect();
    let valid = parts.len() >= 2 && parts.iter().all(|part| is_name(part));
    let Some(function) = parts.pop().filter(|_| valid) else {
        return Err(SkeletonError::Name(name.to_owned()));
    };
    let keyword = parts.iter().chain([&function]).find(|p| is_keyword(p));
    let root_file = parts.first().filter(|part| ["lib", "main"].contains(part));
    let taken = keyword.map(|part| (part, "is a keyword of Rust"));
    if let Some((part, why)) = taken.or(root_file.map(|part| (part, "is the root of a crate"))) {
        return Err(SkeletonError::Taken {
            name: name.to_owned(),
            part: (*part).to_owned(),
            why,
        });
    }
    let root = sources.join("lib.rs");
    if !root.is_file() {
        return Err(SkeletonError::NoSources(sources.to_owned()));
    }
    let mut modules = Vec::new();
    let (mut parent, mut folder) = (root, sources.to_owned());
    for (depth, part) in parts.iter().enumerate() {
        let (plain, nested) = (
            folder.join(format!("{part}.rs")),
            folder.join(part).join("mod.rs"),
        );
        let file = match (plain.is_file(), nested.is_file()) {
            (true, _) => plain,
            (_, true) => nested,
            // The last module holds cases, the others hold modules.
            _ => {
                let file = if depth + 1 == parts.len() {
                    plain
                } else {
                    nested
                };
                let head = if depth + 1 == parts.len() {
                    HEAD
                } else {
                    "//! (Say here what this area is.)\n\n"
                };
                write(&file, head)?;
                declare(&parent, part)?;
                modules.push(file.clone());
                file
            }
        };
        folder.push(part);
        parent = file;
    }
    let line = append(&parent, function)?;
    Ok(Created {
        name: normal.clone(),
        file: parent,
        line,
        modules,
    })
}

fn is_name(text: &str) -> bool {
    let first = text.chars().next().is_some_and(|c| c.is_ascii_lowercase());
    first && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Whether this is a strict or reserved keyword of Rust; weak ones can be names.
fn is_keyword(word: &str) -> bool {
    const KEYWORDS: &str = " abstract as async await become box break const continue crate do dyn \
                            else enum extern false final fn for gen if impl in let loop macro \
                            match mod move mut override priv pub ref return self static struct \
                            super trait true try type typeof unsafe unsized use virtual where \
                            while yield ";
    KEYWORDS.contains(&format!(" {word} "))
}

fn read(path: &Path) -> Result<String, SkeletonError> {
    fs::read_to_string(path).map_err(|source| SkeletonError::File {
        path: path.to_owned(),
        source,
    })
}

fn write(path: &Path, text: &str) -> Result<(), SkeletonError> {
    let put = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, text)
    };
    put().map_err(|source| SkeletonError::File {
        path: path.to_owned(),
        source,
    })
}

/// Adds `mod name;` to a parent, in alphabetical order.
fn declare(parent: &Path, name: &str) -> Result<(), SkeletonError> {
    let text = read(parent)?;
    let declared = |line: &str| {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')).map(str::to_owned)
    };
    let mut lines: Vec<&str> = text.lines().collect();
    let new = format!("mod {name};");
    let after = lines.iter().rposition(|line| declared(line).is_some_and(|other| *other < *name));
    let before = lines.iter().position(|line| declared(line).is_some());
    match (after, before) {
        (Some(at), _) => lines.insert(at + 1, &new),
        (None, Some(at)) => lines.insert(at, &new),
        (None, None) => {
            while lines.last().is_some_and(|line| line.is_empty()) {
                lines.pop();
            }
            lines.extend(["", &new]);
        }
    }
    write(parent, &(lines.join("\n") + "\n"))
}

/// Adds the case to its module, and returns the line of its function.
fn append(file: &Path, function: &str) -> Result<usize, SkeletonError> {
    let text = read(file)?;
    if text.contains(&format!("fn {function}(")) {
        let function = function.to_owned();
        return Err(SkeletonError::Exists {
            function,
            file: file.to_owned(),
        });
    }
    let mut text = text.trim_end().to_owned();
    if !text.contains("use iotests_core::prelude::*;") {
        text.push_str("\n\nuse iotests_core::prelude::*;");
    }
    text.push_str("\n\n");
    text.push_str(&CASE.replace("case_name", function));
    let line =
        text.lines().position(|line| line.contains(&format!("fn {function}("))).unwrap_or(0) + 1;
    write(file, &text)?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> tempfile::TempDir {
        let sources = tempfile::tempdir().unwrap();
        fs::write(
            sources.path().join("lib.rs"),
            "//! Cases.\n\nmod goldens;\nmod qemu_img;\n",
        )
        .unwrap();
        fs::create_dir(sources.path().join("qemu_img")).unwrap();
        fs::write(
            sources.path().join("qemu_img/mod.rs"),
            "//! qemu-img.\n\nmod shrink;\n",
        )
        .unwrap();
        sources
    }

    #[test]
    fn a_case_in_a_new_area_creates_and_declares_its_modules() {
        let sources = sources();
        let made = create(sources.path(), "nbd::block_status::sees_holes").unwrap();
        assert_eq!(made.name, "nbd::block_status::sees_holes");
        assert_eq!(made.file, sources.path().join("nbd/block_status.rs"));
        assert_eq!(made.modules.len(), 2);
        let lib = fs::read_to_string(sources.path().join("lib.rs")).unwrap();
        assert_eq!(lib, "//! Cases.\n\nmod goldens;\nmod nbd;\nmod qemu_img;\n");
        let area = fs::read_to_string(sources.path().join("nbd/mod.rs")).unwrap();
        assert!(area.ends_with("\n\nmod block_status;\n"), "{area}");
        let text = fs::read_to_string(&made.file).unwrap();
        assert!(
            text.lines().nth(made.line - 1).unwrap().contains("async fn sees_holes(t: &mut Test)")
        );
        assert!(!text.contains("case_name"));
    }

    #[test]
    fn a_second_case_goes_into_the_same_file() {
        let sources = sources();
        let first = create(sources.path(), "qemu_img/grow/once").unwrap();
        let second = create(sources.path(), "qemu_img::grow::twice").unwrap();
        assert_eq!(first.file, second.file);
        assert!(second.modules.is_empty());
        let text = fs::read_to_string(&second.file).unwrap();
        assert_eq!(text.matches("use iotests_core::prelude::*;").count(), 1);
        assert_eq!(text.matches("#[case(").count(), 2);
        let area = fs::read_to_string(sources.path().join("qemu_img/mod.rs")).unwrap();
        assert_eq!(area, "//! qemu-img.\n\nmod grow;\nmod shrink;\n");
    }

    #[test]
    fn invalid_names_are_refused_with_the_reason() {
        let sources = sources();
        for name in [
            "",
            "alone",
            "Nbd::x::y",
            "a::b c",
            "a::::b",
            "../x::y",
            "1a::b",
        ] {
            assert!(
                matches!(create(sources.path(), name), Err(SkeletonError::Name(_))),
                "{name}"
            );
        }
        for (name, told) in [
            ("nbd::status::type", "`type` is a keyword of Rust"),
            ("self::a::b", "`self` is a keyword of Rust"),
            ("nbd::crate::b", "`crate` is a keyword of Rust"),
            ("nbd/async/b", "`async` is a keyword of Rust"),
            ("nbd::gen::b", "`gen` is a keyword of Rust"),
            ("main::a::b", "`main` is the root of a crate"),
        ] {
            let error = create(sources.path(), name).unwrap_err();
            assert!(matches!(&error, SkeletonError::Taken { .. }), "{error}");
            assert!(error.to_string().contains(told), "{error}");
        }
        let weak = create(sources.path(), "union::raw::default").unwrap();
        assert_eq!(weak.name, "union::raw::default");
        create(sources.path(), "a::b::c").unwrap();
        let again = create(sources.path(), "a::b::c");
        assert!(matches!(again, Err(SkeletonError::Exists { .. })));
        let nowhere = create(&sources.path().join("a"), "a::b::c");
        assert!(matches!(nowhere, Err(SkeletonError::NoSources(_))));
    }
}
