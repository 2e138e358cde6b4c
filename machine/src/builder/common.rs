//! What both kinds of process share.

use crate::args::{Blockdev, Chardev, Object};
use crate::builder::Monitor;
use crate::deadlines::Deadlines;
use crate::end::{DropReport, Expected};
use crate::error::BuildError;
use crate::program::Program;
use crate::socket::{self, ShortPath};
use crate::wrapper::Wrapper;
use imgtools::tools::Tool;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The first number of an inherited descriptor: after the standard streams.
const FIRST_FD: i32 = 3;

/// Called for a machine that is dropped while it is running.
#[derive(Clone)]
pub(crate) struct DropHook(pub(crate) Arc<dyn Fn(&DropReport) + Send + Sync>);

/// See [`super::Builder::record`].
#[derive(Clone)]
pub(crate) struct Recorder(pub(crate) Arc<dyn Fn(&qmp::transcript::Entry) + Send + Sync>);

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

impl fmt::Debug for DropHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DropHook")
    }
}

/// A kind of process: [`Qemu`](super::Qemu) or [`StorageDaemon`](super::StorageDaemon).
///
/// A function that is generic over it works on the builder of either:
///
/// ```
/// use machine::args::Blockdev;
/// use machine::{Builder, Kind};
///
/// fn with_disk<K: Kind>(builder: Builder<K>) -> Builder<K> {
///     builder.blockdev(&Blockdev::new("null-co").node("disk"))
/// }
/// ```
pub trait Kind: Specific {}

/// What differs between the kinds of process; sealed.
pub trait Specific: Clone + fmt::Debug + Send + Sync {
    const PROGRAM: Program;

    /// How the options are spelled: one dash or two.
    const DASH: &'static str;

    /// The option that makes a character device a monitor.
    const MONITOR_OPTION: &'static str;

    /// Arguments that come before all others; may add descriptors to the common part.
    fn base_args(&self, common: &mut Common) -> Result<Vec<OsString>, crate::LaunchError>;

    /// Whether the process gets a console and a qtest socket.
    fn sockets(&self) -> (bool, bool);
}

/// The common part, apart from the kind so that launching needs no generics.
#[derive(Debug, Clone)]
pub struct Common {
    pub(crate) tool: Tool,
    pub(crate) name: String,
    pub(crate) wrapper: Option<Wrapper>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) current_dir: Option<PathBuf>,
    pub(crate) print: bool,
    pub(crate) deadlines: Deadlines,
    pub(crate) args: Vec<OsString>,
    pub(crate) fds: Vec<(Arc<OwnedFd>, i32)>,
    pub(crate) monitor: Monitor,
    pub(crate) expected: Expected,
    pub(crate) findings_are_errors: bool,
    pub(crate) on_drop: Option<DropHook>,
    pub(crate) record: Option<Recorder>,
    pub(crate) cached_events: Option<usize>,
    pub(crate) error: Option<Arc<BuildError>>,
}

impl Common {
    /// Reserves a number in the child for this descriptor.
    pub(crate) fn pass(&mut self, fd: Arc<OwnedFd>) -> i32 {
        let number = self.fds.last().map_or(FIRST_FD, |(_, last)| last + 1);
        self.fds.push((fd, number));
        number
    }

    /// Passes bytes as an anonymous file, and returns its path in the child.
    pub(crate) fn pass_bytes(&mut self, name: &'static str, data: &[u8]) -> Option<PathBuf> {
        match anonymous_file(name, data) {
            Ok(fd) => Some(socket::fd_path(self.pass(Arc::new(fd)))),
            Err(source) => {
                self.fail(BuildError::Descriptor {
                    what: name.to_owned(),
                    source,
                });
                None
            }
        }
    }

    pub(crate) fn fail(&mut self, error: BuildError) {
        self.error.get_or_insert(Arc::new(error));
    }

    pub(crate) fn push(&mut self, word: impl Into<OsString>) {
        let word = word.into();
        if word.as_encoded_bytes().contains(&0) {
            self.fail(BuildError::NulByte {
                word: word.to_string_lossy().into_owned(),
            });
        }
        self.args.push(word);
    }
}

/// A file in memory with this content.
fn anonymous_file(name: &str, data: &[u8]) -> std::io::Result<OwnedFd> {
    use std::io::Write;
    let fd = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(data)?;
    Ok(file.into())
}

/// The configuration of a process of kind `K` ([`Qemu`](super::Qemu) or
/// [`StorageDaemon`](super::StorageDaemon)).
#[derive(Debug, Clone)]
pub struct Builder<K> {
    pub(crate) common: Common,
    pub(crate) own: K,
}

impl<K: Kind> Builder<K> {
    pub(crate) fn new(tool: Tool, own: K) -> Self {
        let common = Common {
            tool,
            name: K::PROGRAM.to_string(),
            wrapper: None,
            env: Vec::new(),
            current_dir: None,
            print: false,
            deadlines: Deadlines::default(),
            args: Vec::new(),
            fds: Vec::new(),
            monitor: Monitor::SocketPair,
            expected: Expected::default(),
            findings_are_errors: false,
            on_drop: None,
            record: None,
            cached_events: None,
            error: None,
        };
        Self { common, own }
    }

    pub(crate) fn option(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.common.push(format!("{}{name}", K::DASH));
        self.common.push(value);
        self
    }

    /// Names the machine in messages and reports; the process does not see it.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.common.name = name.into();
        self
    }

    /// Adds a block node.
    #[must_use]
    pub fn blockdev(self, node: &Blockdev) -> Self {
        self.option("blockdev", node.to_string())
    }

    /// Adds an object.
    #[must_use]
    pub fn object(self, object: &Object) -> Self {
        self.option("object", object.to_string())
    }

    /// Adds a character device.
    #[must_use]
    pub fn chardev(self, chardev: &Chardev) -> Self {
        self.option("chardev", chardev.as_os_str())
    }

    /// Adds a `secret` object. Its value is passed in an anonymous file, so it appears neither on
    /// the command line nor in a directory.
    #[must_use]
    pub fn secret(mut self, id: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        match self.common.pass_bytes("secret", value.as_ref()) {
            Some(path) => {
                let path = path.to_string_lossy().into_owned();
                self.object(&Object::new("secret", id).set("file", path))
            }
            None => self,
        }
    }

    /// Adds raw arguments, after those added so far.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        args.into_iter().for_each(|word| self.common.push(word.as_ref()));
        self
    }

    /// Lets the process inherit a descriptor; returns its number in the process, for use in further
    /// arguments. It is shared by all launches of this builder and its clones.
    pub fn inherit(&mut self, fd: impl Into<Arc<OwnedFd>>) -> i32 {
        self.common.pass(fd.into())
    }

    /// A name of at most 107 bytes for a socket path of any length, for use in further arguments
    /// such as `-chardev socket,path=…`: the directory is inherited as a descriptor if the path
    /// itself is too long. The directory must exist.
    pub fn socket_path(&mut self, path: &Path) -> PathBuf {
        if socket::fits(path) {
            return path.to_owned();
        }
        let dir = path.parent().unwrap_or(Path::new("."));
        let Some(file) = path.file_name() else {
            return path.to_owned();
        };
        match ShortPath::open(dir) {
            Ok(dir) => {
                let short = socket::fd_path(self.inherit(dir.into_fd())).join(file);
                if !socket::fits(&short) {
                    self.common.fail(BuildError::SocketName {
                        path: path.to_owned(),
                    });
                }
                short
            }
            Err(source) => {
                let what = format!("the directory of {}", path.display());
                self.common.fail(BuildError::Descriptor { what, source });
                path.to_owned()
            }
        }
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.common.env.push((key.into(), value.into()));
        self
    }

    /// Sets the working directory, in which relative image names are resolved and core files are
    /// written.
    #[must_use]
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.common.current_dir = Some(dir.into());
        self
    }

    /// Runs the process under a wrapper. Deadlines grow by the wrapper's slowdown.
    #[must_use]
    pub fn wrapper(mut self, wrapper: Wrapper) -> Self {
        self.common.wrapper = Some(wrapper);
        self
    }

    /// Whether its output is also copied to our stderr as it arrives.
    #[must_use]
    pub fn print(mut self, print: bool) -> Self {
        self.common.print = print;
        self
    }

    /// Sets the deadlines for each phase of its life.
    #[must_use]
    pub fn deadlines(mut self, deadlines: Deadlines) -> Self {
        self.common.deadlines = deadlines;
        self
    }

    /// Sets how the QMP connection is made.
    #[must_use]
    pub fn monitor(mut self, monitor: Monitor) -> Self {
        self.common.monitor = monitor;
        self
    }

    /// Sets which exits of the process are not errors.
    #[must_use]
    pub fn expect_exit(mut self, expected: Expected) -> Self {
        self.common.expected = expected;
        self
    }

    /// Whether reports of memory errors and failed assertions in its output
    /// ([`Exit::findings`](crate::Exit::findings)) turn an otherwise successful exit into an error.
    /// Default: no.
    #[must_use]
    pub fn findings_are_errors(mut self, yes: bool) -> Self {
        self.common.findings_are_errors = yes;
        self
    }

    /// Calls this function with every message of the monitor, redacted, in the order of the wire.
    /// It runs on the client's task and must not block for long.
    #[must_use]
    pub fn record(
        mut self,
        recorder: impl Fn(&qmp::transcript::Entry) + Send + Sync + 'static,
    ) -> Self {
        self.common.record = Some(Recorder(Arc::new(recorder)));
        self
    }

    /// Keeps the last `events` events of the monitor until they are taken; see
    /// [`qmp::Options::cache_events`].
    #[must_use]
    pub fn cache_events(mut self, events: usize) -> Self {
        self.common.cached_events = Some(events);
        self
    }

    /// Calls this function when a running machine is dropped, after it was killed. The function
    /// runs on the dropping thread.
    #[must_use]
    pub fn on_drop(mut self, hook: impl Fn(&DropReport) + Send + Sync + 'static) -> Self {
        self.common.on_drop = Some(DropHook(Arc::new(hook)));
        self
    }
}
