//! Where a server listens.

use std::fmt;
use std::path::PathBuf;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// TCP.
    Tcp {
        /// Name or address; IPv6 without brackets.
        host: String,
        /// Port, default 10809.
        port: u16,
    },
    /// A socket file.
    Unix(PathBuf),
    /// A name in Linux' abstract namespace, without the leading NUL.
    Abstract(Vec<u8>),
    /// A socket between a virtual machine and its host (`vsock(7)`).
    Vsock {
        /// Context identifier: 2 is the host; to listen, [`Address::ANY_CID`].
        cid: u32,
        /// Port, default 10809.
        port: u32,
    },
}

impl Address {
    /// Listens on every context identifier that this machine has (`VMADDR_CID_ANY`).
    pub const ANY_CID: u32 = u32::MAX;

    /// For a socket without an address, or with an unknown one.
    #[cfg(feature = "client")]
    pub(crate) fn unknown() -> Address {
        Address::Unix(PathBuf::new())
    }

    #[cfg(feature = "server")]
    pub(crate) fn of_unix(name: &std::os::unix::net::SocketAddr) -> Address {
        use std::os::linux::net::SocketAddrExt;
        match (name.as_pathname(), name.as_abstract_name()) {
            (Some(path), _) => Address::Unix(path.to_owned()),
            (None, Some(name)) => Address::Abstract(name.to_owned()),
            (None, None) => Address::unknown(),
        }
    }

    #[cfg(feature = "server")]
    pub(crate) fn of_tcp(name: std::net::SocketAddr) -> Address {
        Address::Tcp {
            host: name.ip().to_string(),
            port: name.port(),
        }
    }
}

/// `host:port`, `[host]:port` for IPv6, `unix:/path`, `unix:@name` for an abstract name,
/// `vsock:cid:port`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) if path.as_os_str().is_empty() => f.write_str("a socket"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Abstract(name) => write!(f, "unix:@{}", String::from_utf8_lossy(name)),
            Address::Vsock { cid, port } => write!(f, "vsock:{cid}:{port}"),
        }
    }
}
