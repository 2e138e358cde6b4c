//! NBD URIs (`doc/uri.md`), QEMU's dialect of them, and QEMU's older `nbd:…` file names.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use crate::proto::limits::DEFAULT_PORT;
use parse::{Parts, authority, decode, parse_port, query};

mod address;
mod parse;
mod qemu;

pub use address::Address;
pub use qemu::{Dialect, QemuDialect, QemuRejection};

/// A server and one of its exports.
///
/// `Display` gives the canonical form, which parses to the same value again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Uri {
    /// Whether TLS is demanded (`nbds…`).
    pub tls: bool,
    /// Where the server listens.
    pub address: Address,
    /// Name of the export; empty is the default one.
    pub export: String,
    /// User for TLS-PSK.
    pub user: Option<String>,
    /// `tls-…` and experimental `x-…` parameters, in their order.
    pub parameters: Vec<(String, String)>,
}

/// Why text is not an NBD URI.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UriError {
    /// There is no `scheme:`.
    #[error("not a URI: {0:?}")]
    NoScheme(String),
    /// A scheme that is not NBD's.
    #[error(
        "{0:?} is not a scheme of NBD (nbd, nbd+unix, nbd+vsock; with TLS nbds, nbds+unix, nbds+vsock)"
    )]
    Scheme(String),
    /// The host is missing where one is needed.
    #[error("no host in {0:?}")]
    NoHost(String),
    /// A host where none is allowed.
    #[error("host {0:?} in the URI of a unix socket")]
    HostOnUnix(String),
    /// The host has characters no host has, or a bracket is not closed.
    #[error("not a host: {0:?}")]
    Host(String),
    /// The port is not a number from 1 to 65535 (of a vsock, to 4294967295).
    #[error("not a port: {0:?}")]
    Port(String),
    /// A unix URI without `socket=`.
    #[error("no socket parameter in {0:?}")]
    NoSocket(String),
    /// `socket=` where it makes no sense, or empty, or twice.
    #[error("socket parameter out of place: {0:?}")]
    Socket(String),
    /// An unknown or repeated parameter.
    #[error("parameter {0:?} is unknown or repeated")]
    Parameter(String),
    /// A wrong value of a parameter.
    #[error("parameter {name} cannot be {value:?}")]
    ParameterValue {
        /// The parameter.
        name: String,
        /// Its value.
        value: String,
    },
    /// A `%` without two hex digits, or text that is not UTF-8 or has a NUL.
    #[error("bad escape or text in {0:?}")]
    Escape(String),
    /// Something after the end (a fragment, or a character that is not allowed in a URI).
    #[error("character {0:?} does not belong in a URI")]
    Character(char),
    /// Not one of QEMU's `nbd:…` names.
    #[error("not a legacy nbd: name: {0:?}")]
    Legacy(String),
}

/// The CID of a vsock URI without a host: the host of this virtual machine.
const HOST_CID: u32 = 2;

/// What has to be escaped in the path; `/`, `:` and `@` are allowed.
const PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');
/// In a query value, parameter separators have to be escaped too.
const QUERY: &AsciiSet = &PATH.add(b'&').add(b'=').add(b'+').add(b';');
/// In the user, its terminators too.
const USER: &AsciiSet = &QUERY.add(b'/').add(b':').add(b'@');

impl Uri {
    /// A unix socket without TLS.
    pub fn unix(path: impl Into<PathBuf>, export: impl Into<String>) -> Uri {
        Self::plain(Address::Unix(path.into()), export)
    }

    /// TCP without TLS.
    pub fn tcp(host: impl Into<String>, port: u16, export: impl Into<String>) -> Uri {
        Self::plain(
            Address::Tcp {
                host: host.into(),
                port,
            },
            export,
        )
    }

    /// A vsock without TLS.
    pub fn vsock(cid: u32, port: u32, export: impl Into<String>) -> Uri {
        Self::plain(Address::Vsock { cid, port }, export)
    }

    /// An export of the server at this address, without TLS.
    pub fn at(address: Address, export: impl Into<String>) -> Uri {
        Self::plain(address, export)
    }

    fn plain(address: Address, export: impl Into<String>) -> Uri {
        Uri {
            tls: false,
            address,
            export: export.into(),
            user: None,
            parameters: Vec::new(),
        }
    }

    /// The same server, another export.
    pub fn with_export(mut self, export: impl Into<String>) -> Uri {
        self.export = export.into();
        self
    }

    /// Parses a URI; strictly, as `uri.md` requires: anything unknown is rejected.
    pub fn parse(text: &str) -> Result<Uri, UriError> {
        let parts = Parts::split(text)?;
        let scheme = parts.scheme.to_ascii_lowercase();
        let (protocol, transport) = scheme.split_once('+').unwrap_or((&scheme, "tcp"));
        let tls = match protocol {
            "nbd" => false,
            "nbds" => true,
            _ => return Err(UriError::Scheme(parts.scheme.to_owned())),
        };
        let (socket, parameters) = query(parts.query.unwrap_or_default())?;
        let (user, host, port) = authority(parts.authority)?;
        let misplaced = || UriError::Socket(text.to_owned());
        let address = match (transport, socket) {
            ("unix", socket) => {
                if let Some(host) = host {
                    return Err(UriError::HostOnUnix(host));
                }
                if let Some(port) = port {
                    return Err(UriError::HostOnUnix(format!(":{port}")));
                }
                let socket = socket.ok_or_else(|| UriError::NoSocket(text.to_owned()))?;
                match socket.split_first() {
                    None => return Err(misplaced()),
                    Some((0, name)) => Address::Abstract(name.to_vec()),
                    Some(_) if socket.contains(&0) => return Err(misplaced()),
                    Some(_) => Address::Unix(OsString::from_vec(socket).into()),
                }
            }
            ("tcp" | "vsock", Some(_)) => return Err(misplaced()),
            ("tcp", None) => Address::Tcp {
                host: host.ok_or_else(|| UriError::NoHost(text.to_owned()))?,
                port: port.map_or(Ok(DEFAULT_PORT), parse_port)?,
            },
            ("vsock", None) => Address::Vsock {
                cid: match host {
                    Some(cid) => cid.parse().map_err(|_| UriError::Host(cid))?,
                    None => HOST_CID,
                },
                port: port.map_or(Ok(DEFAULT_PORT.into()), parse_port)?,
            },
            _ => return Err(UriError::Scheme(parts.scheme.to_owned())),
        };
        let export = decode(parts.path.strip_prefix('/').unwrap_or(parts.path))?;
        Ok(Uri {
            tls,
            address,
            export,
            user,
            parameters,
        })
    }

    /// Parses QEMU's `nbd:unix:PATH[:exportname=NAME]` and `nbd:HOST:PORT[:exportname=NAME]`.
    ///
    /// As in QEMU, everything after the first `:exportname=` is the name, and nothing is escaped.
    pub fn parse_legacy(text: &str) -> Result<Uri, UriError> {
        let bad = || UriError::Legacy(text.to_owned());
        let rest = text.strip_prefix("nbd:").filter(|r| !r.starts_with("//")).ok_or_else(bad)?;
        let (spec, export) = rest.split_once(":exportname=").unwrap_or((rest, ""));
        if let Some(path) = spec.strip_prefix("unix:") {
            return if path.is_empty() {
                Err(bad())
            } else {
                Ok(Uri::unix(path, export))
            };
        }
        let (host, port) = spec.rsplit_once(':').ok_or_else(bad)?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').ok_or_else(bad)?,
            None if host.contains(':') => return Err(bad()),
            None => host,
        };
        let port = parse_port(port)?;
        if host.is_empty() {
            Err(bad())
        } else {
            Ok(Uri::tcp(host, port, export))
        }
    }

    /// QEMU's older form, if it can express this URI.
    pub fn to_legacy(&self) -> Option<String> {
        let name = match self.export.as_str() {
            "" => String::new(),
            name => format!(":exportname={name}"),
        };
        match &self.address {
            Address::Unix(path) => Some(format!("nbd:unix:{}{name}", path.to_str()?)),
            Address::Tcp { host, port } if host.contains(':') => {
                Some(format!("nbd:[{host}]:{port}{name}"))
            }
            Address::Tcp { host, port } => Some(format!("nbd:{host}:{port}{name}")),
            Address::Abstract(_) | Address::Vsock { .. } => None,
        }
    }

    /// QEMU's `--image-opts` form: `driver=nbd,server.type=…`. Commas in values are doubled. `None`
    /// where QEMU cannot express it, and for `nbds…`, which needs the name of a credentials object
    /// ([`Uri::to_image_opts_with_tls`]).
    pub fn to_image_opts(&self) -> Option<String> {
        match self.tls {
            true => None,
            false => self.image_opts(),
        }
    }

    /// The same for `nbds…`, with the id of the `tls-creds-x509` or `tls-creds-psk` object that is
    /// also passed to QEMU.
    pub fn to_image_opts_with_tls(&self, creds: &str) -> Option<String> {
        let opts = self.image_opts()?;
        Some(format!("{opts},tls-creds={}", creds.replace(',', ",,")))
    }

    /// A URI that every QEMU resolves to this server and export, or `None` if there is none: QEMU
    /// supports no TLS, abstract names or vsock in URIs, and newer versions (GLib's parser) resolve
    /// `.` and `..` in the export's name, escaped or not. [`Uri::to_image_opts`] can express most
    /// of that.
    pub fn to_qemu(&self) -> Option<String> {
        let text = self.to_string();
        let same = |dialect| {
            let read = QemuDialect::parse_as(&text, dialect);
            read.is_ok_and(|read| read.uri == *self)
        };
        (same(Dialect::UriC) && same(Dialect::Glib)).then_some(text)
    }

    fn image_opts(&self) -> Option<String> {
        let quote = |text: &str| text.replace(',', ",,");
        let server = match &self.address {
            Address::Unix(path) => {
                format!("server.type=unix,server.path={}", quote(path.to_str()?))
            }
            Address::Tcp { host, port } => {
                format!(
                    "server.type=inet,server.host={},server.port={port}",
                    quote(host)
                )
            }
            Address::Abstract(name) => format!(
                "server.type=unix,server.abstract=on,server.tight=on,server.path={}",
                quote(std::str::from_utf8(name).ok()?)
            ),
            Address::Vsock { cid, port } => {
                format!("server.type=vsock,server.cid={cid},server.port={port}")
            }
        };
        Some(match self.export.as_str() {
            "" => format!("driver=nbd,{server}"),
            name => format!("driver=nbd,{server},export={}", quote(name)),
        })
    }

    /// Path of the socket, if it is one in the file system.
    pub fn socket_path(&self) -> Option<&Path> {
        match &self.address {
            Address::Unix(path) => Some(path),
            _ => None,
        }
    }
}

impl FromStr for Uri {
    type Err = UriError;
    fn from_str(text: &str) -> Result<Uri, UriError> {
        Uri::parse(text)
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut query: Vec<String> = Vec::new();
        f.write_str(if self.tls { "nbds" } else { "nbd" })?;
        let user = self.user.as_deref().map(|u| format!("{}@", percent_encode(u.as_bytes(), USER)));
        let user = user.unwrap_or_default();
        match &self.address {
            Address::Tcp { host, port } => {
                let host = match host.contains(':') {
                    true => format!("[{}]", host.replace('%', "%25")),
                    false => percent_encode(host.as_bytes(), USER).to_string(),
                };
                write!(f, "://{user}{host}")?;
                if *port != DEFAULT_PORT {
                    write!(f, ":{port}")?;
                }
            }
            Address::Unix(path) => {
                write!(f, "+unix://{user}")?;
                query.push(format!(
                    "socket={}",
                    percent_encode(path.as_os_str().as_bytes(), QUERY)
                ));
            }
            Address::Abstract(name) => {
                write!(f, "+unix://{user}")?;
                query.push(format!("socket=%00{}", percent_encode(name, QUERY)));
            }
            Address::Vsock { cid, port } => {
                write!(f, "+vsock://{user}{cid}")?;
                if *port != u32::from(DEFAULT_PORT) {
                    write!(f, ":{port}")?;
                }
            }
        }
        if !self.export.is_empty() || !query.is_empty() {
            write!(f, "/{}", percent_encode(self.export.as_bytes(), PATH))?;
        }
        for (name, value) in &self.parameters {
            query.push(format!(
                "{name}={}",
                percent_encode(value.as_bytes(), QUERY)
            ));
        }
        if query.is_empty() {
            Ok(())
        } else {
            write!(f, "?{}", query.join("&"))
        }
    }
}
