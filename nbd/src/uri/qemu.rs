//! Which `nbd…://` URIs QEMU's block driver accepts, and how it interprets them.
//!
//! QEMU (`block/nbd.c`) supports less than `uri.md`: no TLS schemes, and no parameter but `socket`,
//! exactly once; it parses with GLib's `g_uri_parse`.

use super::{Address, DEFAULT_PORT, Uri};
use percent_encoding::percent_decode_str;

/// Which parser a QEMU has. They differ in the path: GLib resolves dot segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// QEMU's own `util/uri.c` (7.2).
    UriC,
    /// GLib's `g_uri_parse` (10.0).
    Glib,
}

/// A URI as QEMU would read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QemuDialect {
    /// What QEMU will connect to.
    pub uri: Uri,
}

/// Why QEMU answers "No valid URL specified".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QemuRejection {
    /// GLib cannot parse it.
    #[error("QEMU cannot parse it as a URI")]
    Syntax,
    /// Only `nbd`, `nbd+tcp` and `nbd+unix` are known.
    #[error("QEMU knows the schemes nbd, nbd+tcp and nbd+unix only")]
    Scheme,
    /// Unix needs exactly `socket=`, TCP takes no parameter.
    #[error("QEMU takes exactly socket=PATH for a unix socket, and no parameter for TCP")]
    Parameters,
    /// Unix with a host or port, or TCP without a host.
    #[error("QEMU takes no host or port for a unix socket, and needs a host for TCP")]
    Authority,
}

impl QemuDialect {
    /// Predicts how a QEMU with GLib's parser interprets this text (measured with 10.0).
    pub fn parse(text: &str) -> Result<QemuDialect, QemuRejection> {
        QemuDialect::parse_as(text, Dialect::Glib)
    }

    /// Predicts how a QEMU with this parser interprets it.
    pub fn parse_as(text: &str, dialect: Dialect) -> Result<QemuDialect, QemuRejection> {
        use QemuRejection::{Authority, Parameters, Scheme, Syntax};
        let (scheme, rest) = text.split_once(':').ok_or(Syntax)?;
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        {
            return Err(Syntax);
        }
        // A fragment is parsed and then ignored.
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query)),
            None => (rest, None),
        };
        let authority_and_path = rest.strip_prefix("//").ok_or(Syntax)?;
        let end = authority_and_path.find('/').unwrap_or(authority_and_path.len());
        let (authority, path) = authority_and_path.split_at(end);
        let host_and_port = authority.rsplit_once('@').map_or(authority, |(_, rest)| rest);
        let (host, port) = host_port(host_and_port).ok_or(Syntax)?;
        let path = decode(path).ok_or(Syntax)?;
        // GLib would lowercase it, but QEMU first looks for a driver of exactly this name.
        let unix = match scheme {
            "nbd" | "nbd+tcp" => false,
            "nbd+unix" => true,
            _ => return Err(Scheme),
        };
        let parameters = match query {
            Some(query) => {
                decode(query).ok_or(Syntax)?;
                parameters(query).ok_or(Parameters)?
            }
            None => Vec::new(),
        };
        if parameters.len() > 1 || (query.is_some() && parameters.is_empty() == unix) {
            return Err(Parameters);
        }
        let path = match dialect {
            Dialect::UriC => path,
            Dialect::Glib => remove_dot_segments(&path),
        };
        let export = path.strip_prefix('/').unwrap_or(&path).to_owned();
        let address = if unix {
            let socket = parameters.iter().find(|(name, _)| name == "socket").ok_or(Parameters)?;
            if host.is_some() || port.is_some() {
                return Err(Authority);
            }
            Address::Unix(socket.1.clone().into())
        } else {
            let host = host.ok_or(Authority)?;
            Address::Tcp {
                host,
                port: port.filter(|p| *p > 0).unwrap_or(DEFAULT_PORT),
            }
        };
        Ok(QemuDialect {
            uri: Uri::plain(address, export),
        })
    }
}

/// RFC 3986, section 5.2.4, as GLib applies it to an already unescaped path.
fn remove_dot_segments(path: &str) -> String {
    let Some(rest) = path.strip_prefix('/') else {
        return path.to_owned();
    };
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                // A directory stays a directory.
                if last {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

/// GLib keys parameters by name, so a repeated one counts once and the last value wins.
fn parameters(query: &str) -> Option<Vec<(String, String)>> {
    let mut found: Vec<(String, String)> = Vec::new();
    if query.is_empty() {
        return Some(found);
    }
    let mut pairs: Vec<&str> = query.split('&').collect();
    if pairs.last() == Some(&"") {
        pairs.pop();
    }
    for pair in pairs {
        let (name, value) = pair.split_once('=')?;
        let (name, value) = (decode(name)?, decode(value)?);
        match found.iter_mut().find(|(known, _)| *known == name) {
            Some(entry) => entry.1 = value,
            None => found.push((name, value)),
        }
    }
    Some(found)
}

fn host_port(text: &str) -> Option<(Option<String>, Option<u16>)> {
    let (host, port) = if let Some(inner) = text.strip_prefix('[') {
        let (host, after) = inner.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        (
            host.to_owned(),
            if after.is_empty() {
                None
            } else {
                Some(after.strip_prefix(':')?)
            },
        )
    } else {
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        (decode(host)?, port)
    };
    let port = match port {
        None | Some("") => None,
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => Some(port.parse().ok()?),
        Some(_) => return None,
    };
    Some(((!host.is_empty()).then_some(host), port))
}

/// GLib rejects bad escapes, `%00`, and invalid UTF-8.
fn decode(text: &str) -> Option<String> {
    let hex = |at: usize| text.as_bytes().get(at).is_some_and(u8::is_ascii_hexdigit);
    if text.match_indices('%').any(|(at, _)| !hex(at + 1) || !hex(at + 2)) {
        return None;
    }
    let decoded = percent_decode_str(text).decode_utf8().ok()?.into_owned();
    (!decoded.contains('\0')).then_some(decoded)
}
