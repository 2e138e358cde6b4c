//! Parsing a URI.

use std::net::Ipv6Addr;
use std::str::FromStr;

use percent_encoding::percent_decode_str;

use super::UriError;

/// A URI split at its separators, not decoded.
pub(super) struct Parts<'a> {
    pub(super) scheme: &'a str,
    pub(super) authority: Option<&'a str>,
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
}

impl<'a> Parts<'a> {
    pub(super) fn split(text: &'a str) -> Result<Parts<'a>, UriError> {
        // RFC 3986 allows no blanks, controls, quotes or brackets outside a host.
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

/// User, host and port.
type Authority<'a> = (Option<String>, Option<String>, Option<&'a str>);

pub(super) fn authority(text: Option<&str>) -> Result<Authority<'_>, UriError> {
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
        if !is_ipv6(&host) {
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
    let port = port.filter(|port| !port.is_empty());
    Ok((user, (!host.is_empty()).then_some(host), port))
}

/// An address, with an optional zone after a `%` (RFC 6874).
fn is_ipv6(host: &str) -> bool {
    let (address, zone) = match host.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (host, None),
    };
    address.parse::<Ipv6Addr>().is_ok() && zone.is_none_or(|zone| !zone.is_empty() && plain(zone))
}

pub(super) fn parse_port<N: FromStr + PartialEq + Default>(text: &str) -> Result<N, UriError> {
    let bad = || UriError::Port(text.to_owned());
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let port = text.parse().ok();
    port.filter(|port| *port != N::default()).ok_or_else(bad)
}

/// The socket, and everything else.
type Query = (Option<Vec<u8>>, Vec<(String, String)>);

pub(super) fn query(text: &str) -> Result<Query, UriError> {
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
    name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

pub(super) fn decode(text: &str) -> Result<String, UriError> {
    String::from_utf8(decode_bytes(text)?)
        .ok()
        .filter(|s| !s.contains('\0'))
        .ok_or_else(|| UriError::Escape(text.to_owned()))
}

fn decode_bytes(text: &str) -> Result<Vec<u8>, UriError> {
    let hex = |at: usize| text.as_bytes().get(at).is_some_and(u8::is_ascii_hexdigit);
    if text.match_indices('%').any(|(at, _)| !hex(at + 1) || !hex(at + 2)) {
        return Err(UriError::Escape(text.to_owned()));
    }
    Ok(percent_decode_str(text).collect())
}
