//! Programs that run QEMU under their control.

use imgtools::process::VALGRIND_ERROR;
use std::ffi::OsString;
use std::path::PathBuf;

/// A program put in front of QEMU's command line. It has to keep inherited descriptors
/// open, which all of these do.
///
/// If our process is killed by SIGKILL, the kernel kills our child. That is the wrapper if it stays
/// QEMU's parent; QEMU itself is then left to the process that adopts it, such as a sub-reaper.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wrapper {
    /// `gdbserver ADDRESS`: waits for a debugger before QEMU starts.
    Gdbserver {
        /// `HOST:PORT`, or a path of a UNIX socket.
        address: String,
        /// More options, before the address.
        options: Vec<String>,
    },
    /// `valgrind`, which reports errors on stderr and by its exit status.
    Valgrind {
        /// More options.
        options: Vec<String>,
        /// Where reports are written instead of stderr; `%p` is replaced by the PID. After QEMU's
        /// exit its reports are read from there.
        log_file: Option<PathBuf>,
    },
    /// `strace`, following children.
    Strace {
        /// Where the trace is written instead of stderr.
        output: Option<PathBuf>,
        /// More options, such as `-e trace=desc`.
        options: Vec<String>,
    },
    /// `rr record`.
    Rr {
        /// Directory of the recording.
        output: Option<PathBuf>,
    },
    /// Any other program with its arguments.
    Custom(Vec<OsString>),
}

impl Wrapper {
    /// Valgrind with its defaults.
    #[must_use]
    pub fn valgrind() -> Self {
        Wrapper::Valgrind {
            options: Vec::new(),
            log_file: None,
        }
    }

    /// A gdbserver that listens at this address.
    #[must_use]
    pub fn gdbserver(address: impl Into<String>) -> Self {
        Wrapper::Gdbserver {
            address: address.into(),
            options: Vec::new(),
        }
    }

    /// The words to put in front of QEMU's command line.
    #[must_use]
    pub fn words(&self) -> Vec<OsString> {
        let strings = |words: &[String]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let with_path = |option: &str, path: &PathBuf| {
            let mut word = OsString::from(option);
            word.push(path);
            word
        };
        let mut words: Vec<OsString> = Vec::new();
        match self {
            Wrapper::Gdbserver { address, options } => {
                words.push("gdbserver".into());
                words.extend(strings(options));
                words.push(address.into());
            }
            Wrapper::Valgrind { options, log_file } => {
                words.push("valgrind".into());
                // Distributions and provisioned sets start QEMU by a script.
                words.push("--trace-children=yes".into());
                words.push("--quiet".into());
                words.push(format!("--error-exitcode={VALGRIND_ERROR}").into());
                words.extend(log_file.iter().map(|p| with_path("--log-file=", p)));
                words.extend(strings(options));
            }
            Wrapper::Strace { output, options } => {
                words.extend(["strace", "-f"].map(OsString::from));
                words.extend(output.iter().flat_map(|p| ["-o".into(), p.into()]));
                words.extend(strings(options));
            }
            Wrapper::Rr { output } => {
                words.extend(["rr", "record"].map(OsString::from));
                words.extend(output.iter().flat_map(|p| ["-o".into(), p.into()]));
            }
            Wrapper::Custom(custom) => words.clone_from(custom),
        }
        words
    }

    /// Where its reports about this process are, if not in the output.
    pub(crate) fn report_file(&self, pid: u32) -> Option<PathBuf> {
        let Wrapper::Valgrind { log_file, .. } = self else {
            return None;
        };
        let file = log_file.as_ref()?;
        // A name that is not UTF-8 is used unchanged.
        let expanded = file.to_str().map(|f| f.replace("%p", &pid.to_string()));
        Some(expanded.map_or_else(|| file.clone(), PathBuf::from))
    }

    /// The wrapper's slowdown factor, by which deadlines are multiplied. A debugger waits for a
    /// human.
    #[must_use]
    pub fn slowdown(&self) -> f64 {
        match self {
            Wrapper::Gdbserver { .. } => 1000.0,
            Wrapper::Valgrind { .. } => 20.0,
            Wrapper::Strace { .. } | Wrapper::Rr { .. } => 5.0,
            Wrapper::Custom(_) => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(wrapper: &Wrapper) -> String {
        let words: Vec<_> = wrapper.words().into_iter().map(|w| w.into_string().unwrap()).collect();
        words.join(" ")
    }

    #[test]
    fn each_wrapper_has_its_command_line() {
        assert_eq!(
            line(&Wrapper::gdbserver("localhost:0")),
            "gdbserver localhost:0"
        );
        assert_eq!(
            line(&Wrapper::Valgrind {
                options: vec!["--num-callers=30".into()],
                log_file: Some("/t/v".into())
            }),
            "valgrind --trace-children=yes --quiet --error-exitcode=99 --log-file=/t/v --num-callers=30"
        );
        assert_eq!(
            line(&Wrapper::Strace {
                output: Some("/t/s".into()),
                options: vec![]
            }),
            "strace -f -o /t/s"
        );
        assert_eq!(line(&Wrapper::Rr { output: None }), "rr record");
        assert_eq!(line(&Wrapper::Custom(vec!["nice".into()])), "nice");
        assert!(Wrapper::valgrind().slowdown() > 1.0);
    }

    #[test]
    fn the_reports_of_valgrind_are_where_it_was_told_to_put_them() {
        let file = |log_file: Option<&str>| Wrapper::Valgrind {
            options: vec![],
            log_file: log_file.map(PathBuf::from),
        };
        let named = file(Some("/t/v.%p")).report_file(42);
        assert_eq!(named.unwrap(), PathBuf::from("/t/v.42"));
        assert_eq!(file(None).report_file(42), None);
        assert_eq!(Wrapper::Rr { output: None }.report_file(42), None);
    }
}
