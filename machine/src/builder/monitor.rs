//! How the QMP connection is made.

use imgtools::tools::Version;
use std::ffi::OsString;
use std::path::PathBuf;

/// Id of the monitor's character device.
pub(crate) const MONITOR_ID: &str = "qmp";

/// The first release in which monitors are objects. It warns about the older options, and a warning
/// on every start would hide others.
const OBJECTS_SINCE: Version = Version::new(11, 1, 0);

/// The option that makes the character device [`MONITOR_ID`] a monitor, in the form that this
/// version prefers; for an unknown version, in the form that all versions accept.
pub(crate) fn option(dash: &str, before: &str, version: Option<Version>) -> [OsString; 2] {
    let (name, value) = match version {
        Some(version) if version >= OBJECTS_SINCE => (
            "object",
            format!("monitor-qmp,id={MONITOR_ID}-monitor,chardev={MONITOR_ID}"),
        ),
        _ => (before, format!("chardev={MONITOR_ID},mode=control")),
    };
    [format!("{dash}{name}").into(), value.into()]
}

/// The transport of the monitor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Monitor {
    /// One end of a socket pair is inherited: no path, no race, and the stream ends with the
    /// process.
    #[default]
    SocketPair,
    /// QEMU listens at this path. The listening socket is created here and inherited, so connecting
    /// is never too early and the path may have any length. QEMU takes this connection before it
    /// goes on, and says so in its log. The path outlives the process, and is removed when the
    /// machine is dropped.
    Listen(PathBuf),
    /// QEMU connects to this path, where we listen. Removed when the machine is dropped.
    Connect(PathBuf),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_monitor_is_an_object_where_there_are_such() {
        let line = |dash, before, version: &str| {
            let [name, value] = option(dash, before, version.parse().ok());
            format!("{} {}", name.display(), value.display())
        };
        assert_eq!(line("-", "mon", "11.0.2"), "-mon chardev=qmp,mode=control");
        assert_eq!(
            line("--", "monitor", "?"),
            "--monitor chardev=qmp,mode=control"
        );
        let object = "object monitor-qmp,id=qmp-monitor,chardev=qmp";
        assert_eq!(line("-", "mon", "11.1.0"), format!("-{object}"));
        assert_eq!(line("--", "monitor", "11.1.3"), format!("--{object}"));
    }
}
