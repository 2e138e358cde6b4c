//! NBD URIs (`doc/uri.md`), QEMU's dialect of them, and QEMU's older `nbd:…` file names.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, percent_encode};

use crate::proto::limits::DEFAULT_PORT;

mod qemu;
pub use qemu::{Dialect, QemuDialect, QemuRejection};

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP.
    Tcp {
        /// Name or address; IPv6 without brackets.
        host: String,
        /// Port, 10809 unless said otherwise.
        port: u16,
    },
    /// A socket file.
    Unix(PathBuf),
    /// A name in Linux' abstract namespace, without the leading NUL.
    Abstract(Vec<u8>),
}

impl Address {
    /// Of a socket that has no address, or none that is known.
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

/// `host:port`, `[host]:port` for IPv6, `unix:/path`, `unix:@name` for an abstract name.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix(path) if path.as_os_str().is_empty() => f.write_str("a socket"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Abstract(name) => write!(f, "unix:@{}", String::from_utf8_lossy(name)),
        }
    }
}

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
    /// A scheme of another protocol.
    #[error("{0:?} is not a scheme of NBD (nbd, nbds, nbd+unix, nbds+unix)")]
    Scheme(String),
    /// The host is missing where one is needed.
    #[error("no host in {0:?}")]
    NoHost(String),
    /// A host where none may be.
    #[error("host {0:?} in the URI of a unix socket")]
    HostOnUnix(String),
    /// The host has characters no host has, or a bracket is not closed.
    #[error("not a host: {0:?}")]
    Host(String),
    /// The port is not a number from 1 to 65535.
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
    /// Something after the end (a fragment, or a character no URI has).
    #[error("character {0:?} does not belong in a URI")]
    Character(char),
    /// Not one of QEMU's `nbd:…` names.
    #[error("not a legacy nbd: name: {0:?}")]
    Legacy(String),
}

/// What has to be escaped in the path; `/`, `:` and `@` may stand there.
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
/// In a query value, what separates parameters has to be escaped too.
const QUERY: &AsciiSet = &PATH.add(b'&').add(b'=').add(b'+').add(b';');
/// In the user, what ends it.
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

    /// Parses a URI; strict as `uri.md` asks: what is not understood is refused.
    pub fn parse(text: &str) -> Result<Uri, UriError> {
        let parts = Parts::split(text)?;
        let (tls, unix) = match parts.scheme.to_ascii_lowercase().as_str() {
            "nbd" | "nbd+tcp" => (false, false),
            "nbds" | "nbds+tcp" => (true, false),
            "nbd+unix" => (false, true),
            "nbds+unix" => (true, true),
            _ => return Err(UriError::Scheme(parts.scheme.to_owned())),
        };
        let (socket, parameters) = query(parts.query.unwrap_or_default())?;
        let (user, host, port) = authority(parts.authority)?;
        let address = if unix {
            if let Some(host) = host {
                return Err(UriError::HostOnUnix(host));
            }
            if let Some(port) = port {
                return Err(UriError::HostOnUnix(format!(":{port}")));
            }
            let socket = socket.ok_or_else(|| UriError::NoSocket(text.to_owned()))?;
            match socket.split_first() {
                None => return Err(UriError::Socket(text.to_owned())),
                Some((0, name)) => Address::Abstract(name.to_vec()),
                Some(_) if socket.contains(&0) => return Err(UriError::Socket(text.to_owned())),
                Some(_) => Address::Unix(OsString::from_vec(socket).into()),
            }
        } else {
            if socket.is_some() {
                return Err(UriError::Socket(text.to_owned()));
            }
            let host = host.ok_or_else(|| UriError::NoHost(text.to_owned()))?;
            Address::Tcp {
                host,
                port: port.unwrap_or(DEFAULT_PORT),
            }
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
        let rest = text
            .strip_prefix("nbd:")
            .filter(|r| !r.starts_with("//"))
            .ok_or_else(bad)?;
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

    /// QEMU's older form, where this URI can be said in it.
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
            Address::Abstract(_) => None,
        }
    }

    /// QEMU's `--image-opts` form: `driver=nbd,server.type=…`. Commas in values are doubled. `None`
    /// where QEMU has no words for it, and for `nbds…`, which needs the name of a credentials object
    /// ([`Uri::to_image_opts_with_tls`]).
    pub fn to_image_opts(&self) -> Option<String> {
        match self.tls {
            true => None,
            false => self.image_opts(),
        }
    }

    /// The same for `nbds…`, with the id of the `tls-creds-x509` or `tls-creds-psk` object that is
    /// given to QEMU besides.
    pub fn to_image_opts_with_tls(&self, creds: &str) -> Option<String> {
        let opts = self.image_opts()?;
        Some(format!("{opts},tls-creds={}", creds.replace(',', ",,")))
    }

    /// A URI that every QEMU takes for this very server and export, or `None` if there is none: it
    /// has no TLS in URIs and no abstract names, and newer ones (GLib's parser) resolve `.` and `..` in the export's
    /// name, escaped or not. [`Uri::to_image_opts`] has words for most of that.
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
        let user = self
            .user
            .as_deref()
            .map(|u| format!("{}@", percent_encode(u.as_bytes(), USER)));
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

/// A URI cut at its separators, nothing decoded.
struct Parts<'a> {
    scheme: &'a str,
    authority: Option<&'a str>,
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Parts<'a>, UriError> {
        // RFC 3986 knows no blanks, controls, quotes or brackets outside a host.
        let odd = |c: &char| {
            c.is_control()
                || matches!(
                    c,
                    ' ' | '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}' | '#'
                )
        };
        if let Some(c) = text.chars().find(odd) {
            return Err(UriError::Character(c));
        }
        let no_scheme = || UriError::NoScheme(text.to_owned());
        let (scheme, rest) = text.split_once(':').ok_or_else(no_scheme)?;
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err(no_scheme());
        }
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query)),
            None => (rest, None),
        };
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => {
                let end = rest.find('/').unwrap_or(rest.len());
                (Some(&rest[..end]), &rest[end..])
            }
            None => (None, rest),
        };
        Ok(Parts {
            scheme,
            authority,
            path,
            query,
        })
    }
}

type Authority = (Option<String>, Option<String>, Option<u16>);

fn authority(text: Option<&str>) -> Result<Authority, UriError> {
    let Some(text) = text.filter(|t| !t.is_empty()) else {
        return Ok((None, None, None));
    };
    let (user, rest) = match text.rsplit_once('@') {
        Some((user, rest)) => (Some(decode(user)?), rest),
        None => (None, text),
    };
    let bad = || UriError::Host(rest.to_owned());
    let (host, port) = if let Some(inner) = rest.strip_prefix('[') {
        let (host, after) = inner.split_once(']').ok_or_else(bad)?;
        let host = decode(host)?;
        if !host.contains(':') || host.contains(['[', ']']) {
            return Err(bad());
        }
        match after.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if after.is_empty() => (host, None),
            None => return Err(bad()),
        }
    } else {
        let (host, port) = match rest.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        };
        let host = decode(host)?;
        if host.contains(['[', ']', ':']) {
            return Err(bad());
        }
        (host, port)
    };
    let port = match port {
        None | Some("") => None,
        Some(port) => Some(parse_port(port)?),
    };
    Ok((user, (!host.is_empty()).then_some(host), port))
}

fn parse_port(text: &str) -> Result<u16, UriError> {
    let bad = || UriError::Port(text.to_owned());
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    text.parse().ok().filter(|port| *port != 0).ok_or_else(bad)
}

type Query = (Option<Vec<u8>>, Vec<(String, String)>);

fn query(text: &str) -> Result<Query, UriError> {
    let mut socket = None;
    let mut parameters: Vec<(String, String)> = Vec::new();
    for pair in text.split('&').filter(|p| !p.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if name == "socket" {
            if socket.replace(decode_bytes(value)?).is_some() {
                return Err(UriError::Socket(text.to_owned()));
            }
            continue;
        }
        let value = decode(value)?;
        let allowed: Option<&[&str]> = match name {
            "tls-type" => Some(&["anon", "x509", "psk"]),
            "tls-verify-peer" => Some(&["0", "1"]),
            "tls-hostname" | "tls-certificates" | "tls-psk-file" => None,
            name if name.starts_with("x-") && plain(name) => None,
            _ => return Err(UriError::Parameter(name.to_owned())),
        };
        if parameters.iter().any(|(known, _)| known == name) {
            return Err(UriError::Parameter(name.to_owned()));
        }
        if allowed.is_some_and(|values| !values.contains(&value.as_str())) {
            return Err(UriError::ParameterValue {
                name: name.to_owned(),
                value,
            });
        }
        parameters.push((name.to_owned(), value));
    }
    Ok((socket, parameters))
}

fn plain(name: &str) -> bool {
    name.bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn decode(text: &str) -> Result<String, UriError> {
    String::from_utf8(decode_bytes(text)?)
        .ok()
        .filter(|s| !s.contains('\0'))
        .ok_or_else(|| UriError::Escape(text.to_owned()))
}

fn decode_bytes(text: &str) -> Result<Vec<u8>, UriError> {
    let hex = |at: usize| text.as_bytes().get(at).is_some_and(u8::is_ascii_hexdigit);
    if text
        .match_indices('%')
        .any(|(at, _)| !hex(at + 1) || !hex(at + 2))
    {
        return Err(UriError::Escape(text.to_owned()));
    }
    Ok(percent_decode_str(text).collect())
}
