//! Finding the core file of a process.

use regex::Regex;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// `/proc/sys/kernel/core_pattern`, interpreted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CorePattern {
    /// A file name pattern with `%` specifiers; relative to the process's directory.
    File {
        /// The pattern.
        pattern: String,
        /// Whether `.PID` is appended when the pattern has no `%p`.
        uses_pid: bool,
    },
    /// Cores are piped to a program, which may or may not keep them.
    Pipe(String),
    /// No core file is written.
    None,
}

impl CorePattern {
    /// Reads the host's pattern.
    #[must_use]
    pub fn of_host() -> Self {
        let text = |f: &str| std::fs::read_to_string(Path::new("/proc/sys/kernel").join(f));
        let uses_pid = text("core_uses_pid").is_ok_and(|t| t.trim() != "0");
        Self::parse(&text("core_pattern").unwrap_or_default(), uses_pid)
    }

    fn parse(text: &str, uses_pid: bool) -> Self {
        let text = text.trim_end_matches('\n');
        match text.strip_prefix('|') {
            Some(program) => CorePattern::Pipe(program.to_owned()),
            None if text.is_empty() && !uses_pid => CorePattern::None,
            None => CorePattern::File {
                pattern: text.to_owned(),
                uses_pid,
            },
        }
    }

    /// The directory and the file names that a process with this PID would use.
    fn candidates(&self, pid: u32, directory: &Path) -> Option<(PathBuf, Regex)> {
        let CorePattern::File { pattern, uses_pid } = self else {
            return None;
        };
        let full = directory.join(pattern);
        let name = full.file_name()?.to_str()?;
        let mut regex = String::from("^");
        let mut has_pid = false;
        let mut chars = name.chars();
        while let Some(c) = chars.next() {
            match c {
                '%' => match chars.next() {
                    Some('%') => regex.push('%'),
                    Some('p') => {
                        has_pid = true;
                        regex.push_str(&pid.to_string());
                    }
                    Some(_) => regex.push_str(".*"),
                    None => {}
                },
                c => regex.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
            }
        }
        if !has_pid && *uses_pid {
            regex.push_str(&format!(r"\.{pid}"));
        }
        regex.push('$');
        Some((full.parent()?.to_owned(), Regex::new(&regex).ok()?))
    }
}

/// The newest file that can be the core of this process: it matches the pattern and was written
/// after the process started.
#[must_use]
pub fn find_core(
    pattern: &CorePattern,
    pid: u32,
    directory: &Path,
    started: SystemTime,
) -> Option<PathBuf> {
    let (dir, name) = pattern.candidates(pid, directory)?;
    std::fs::read_dir(dir)
        .ok()?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let written = entry.metadata().ok().filter(|m| m.is_file())?.modified().ok()?;
            (name.is_match(entry.file_name().to_str()?) && written >= started)
                .then(|| (written, entry.path()))
        })
        .max()
        .map(|(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_files_pipes_or_nothing() {
        let piped = CorePattern::parse("|/usr/lib/x %p\n", false);
        assert_eq!(piped, CorePattern::Pipe("/usr/lib/x %p".into()));
        assert_eq!(CorePattern::parse("\n", false), CorePattern::None);
        let file = CorePattern::parse("core\n", true);
        assert_eq!(
            file,
            CorePattern::File {
                pattern: "core".into(),
                uses_pid: true
            }
        );
    }

    #[test]
    fn a_core_is_found_by_pattern_and_age() {
        let dir = tempfile::tempdir().unwrap();
        let before = SystemTime::UNIX_EPOCH;
        let find = |pattern: &str, uses_pid| {
            let found = find_core(
                &CorePattern::parse(pattern, uses_pid),
                42,
                dir.path(),
                before,
            );
            found.map(|p| p.file_name().unwrap().to_string_lossy().into_owned())
        };
        for name in ["core", "core.41", "core.42", "core-qemu-42-1.x", "other"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(find("core", false).as_deref(), Some("core"));
        assert_eq!(find("core", true).as_deref(), Some("core.42"));
        assert_eq!(
            find("core-%e-%p-%s.x", false).as_deref(),
            Some("core-qemu-42-1.x")
        );
        assert_eq!(find("elsewhere.%p", false), None);
        let future = SystemTime::now() + std::time::Duration::from_secs(60);
        let pattern = CorePattern::parse("core", false);
        assert_eq!(find_core(&pattern, 42, dir.path(), future), None);
    }

    #[test]
    fn a_piped_core_is_not_looked_for() {
        let pattern = CorePattern::Pipe("x".into());
        assert_eq!(
            find_core(&pattern, 1, Path::new("/"), SystemTime::UNIX_EPOCH),
            None
        );
        let _ = CorePattern::of_host();
    }
}
