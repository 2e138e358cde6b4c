//! The same node by options: what a file name means to QEMU, key by key.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::{FileName, Options};

/// Why an image cannot be named as a call requires.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The call needs options, and the file name uses a protocol that is unknown here.
    #[error(
        "failed to name `{0}` by options, which this call needs: that is possible for a file, a \
         `json:{{…}}` and the address of an NBD export; name it by `ImageSpec::options`"
    )]
    NotByOptions(FileName),

    /// The text after `json:` is not a JSON object.
    #[error("failed to read `{name}` as the JSON object of a node")]
    Json {
        /// The whole name.
        name: FileName,
        /// What was wrong with it.
        source: serde_json::Error,
    },

    /// A JSON object has a member that no option can express.
    #[error("failed to name `{name}` by options, which this call needs: `{key}` is {what}")]
    JsonMember {
        /// The whole name.
        name: FileName,
        /// The member, with the names of its parents.
        key: String,
        /// What it is.
        what: &'static str,
    },

    /// The address of an NBD export is invalid.
    #[error("failed to read `{name}` as the address of an NBD export: {what}")]
    Nbd {
        /// The whole name.
        name: FileName,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// A file by options, in this format and with these other options. Without a format it is probed.
pub(super) fn options(
    name: &FileName,
    format: Option<&str>,
    more: &Options,
) -> Result<Options, NameError> {
    let top = match format {
        Some(format) => Options::new().set("driver", format),
        None => Options::new(),
    };
    let top = top.append(more.as_os_str());
    if let Some(path) = name.local() {
        return Ok(top.set_path("file.filename", path));
    }
    let text = name.text().unwrap_or_default();
    if let Some(json) = text.strip_prefix("json:") {
        let members: serde_json::Map<String, Value> =
            serde_json::from_str(json).map_err(|source| NameError::Json {
                name: name.clone(),
                source,
            })?;
        // The node is the image itself, or the node below an image of the given format.
        let own = members.get("driver").and_then(Value::as_str);
        let prefix = match (own, format) {
            (Some(own), Some(format)) if own != format => "file.",
            _ => "",
        };
        let member = |key: &str| prefix.is_empty() && format.is_some() && key == "driver";
        return members
            .iter()
            .filter(|(key, _)| !member(key))
            .try_fold(top, |options, (key, value)| {
                flatten(name, options, &format!("{prefix}{key}"), value)
            });
    }
    let address = match nbd(text) {
        Some(address) => address.map_err(|what| NameError::Nbd {
            name: name.clone(),
            what,
        })?,
        None => return Err(NameError::NotByOptions(name.clone())),
    };
    Ok(
        address.iter().fold(top.set("file.driver", "nbd"), |options, (key, value)| {
            options.set_path(&format!("file.{key}"), OsStr::from_bytes(value))
        }),
    )
}

/// Adds a member of a JSON object as QEMU's dotted keys.
fn flatten(
    name: &FileName,
    options: Options,
    key: &str,
    value: &Value,
) -> Result<Options, NameError> {
    let wrong = |what| NameError::JsonMember {
        name: name.clone(),
        key: key.to_owned(),
        what,
    };
    if key.is_empty() || key.ends_with('.') || key.contains([',', '=']) {
        return Err(wrong("not a name that an option can have"));
    }
    match value {
        Value::Null => Err(wrong("null")),
        Value::Bool(yes) => Ok(options.set(key, if *yes { "on" } else { "off" })),
        Value::Number(number) => Ok(options.set(key, number)),
        Value::String(text) => Ok(options.set(key, text)),
        Value::Array(items) => {
            let mut items = items.iter().enumerate();
            items.try_fold(options, |options, (index, item)| {
                flatten(name, options, &format!("{key}.{index}"), item)
            })
        }
        Value::Object(members) => {
            let mut members = members.iter();
            members.try_fold(options, |options, (member, value)| {
                flatten(name, options, &format!("{key}.{member}"), value)
            })
        }
    }
}

type Keys = Vec<(&'static str, Vec<u8>)>;

/// Parses the address of an NBD export, in either of QEMU's notations; `None` if it is not one.
fn nbd(text: &str) -> Option<Result<Keys, &'static str>> {
    let uri = ["nbd+unix://", "nbd+tcp://", "nbd://"];
    if let Some((scheme, rest)) =
        uri.iter().find_map(|scheme| Some((*scheme, text.strip_prefix(scheme)?)))
    {
        return Some(nbd_uri(scheme == "nbd+unix://", rest));
    }
    text.strip_prefix("nbd:").map(nbd_plain)
}

/// `HOST[:PORT]/EXPORT`, or `/EXPORT?socket=PATH`.
fn nbd_uri(is_unix: bool, rest: &str) -> Result<Keys, &'static str> {
    let decode = |text: &str| -> Vec<u8> { percent_decode_str(text).collect() };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, export) = rest.split_once('/').unwrap_or((rest, ""));
    let mut keys = match (is_unix, query.strip_prefix("socket=")) {
        (true, Some(path)) if authority.is_empty() && !path.contains('&') => vec![
            ("server.type", b"unix".to_vec()),
            ("server.path", decode(path)),
        ],
        (true, Some(_)) => return Err("there is more than `socket` and the name of the export"),
        (true, None) => return Err("`socket` is missing"),
        (false, _) if !query.is_empty() => return Err("QEMU knows no parameters over TCP"),
        (false, _) => inet(authority)?,
    };
    if !export.is_empty() {
        keys.push(("export", decode(export)));
    }
    Ok(keys)
}

/// `unix:PATH[:exportname=NAME]` or `HOST:PORT[:exportname=NAME]`.
fn nbd_plain(rest: &str) -> Result<Keys, &'static str> {
    let (server, export) = match rest.split_once(":exportname=") {
        Some((server, export)) => (server, Some(export)),
        None => (rest, None),
    };
    let mut keys = match server.strip_prefix("unix:") {
        Some(path) => vec![
            ("server.type", b"unix".to_vec()),
            ("server.path", path.into()),
        ],
        None => inet(server)?,
    };
    keys.extend(export.map(|export| ("export", export.into())));
    Ok(keys)
}

fn inet(authority: &str) -> Result<Keys, &'static str> {
    // The port follows the last colon, unless that is inside an IPv6 address.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (authority, "10809"),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() {
        return Err("the host is missing");
    }
    Ok(vec![
        ("server.type", b"inet".to_vec()),
        ("server.host", host.into()),
        ("server.port", port.into()),
    ])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(text: &str, format: Option<&str>) -> String {
        match options(&text.into(), format, &Options::new()) {
            Ok(options) => options.to_string(),
            Err(error) => format!("{error}"),
        }
    }

    #[test]
    fn a_file_name_means_the_same_by_options() {
        for (text, format, expected) in [
            ("a,b", Some("raw"), "driver=raw,file.filename=a,,b"),
            ("a", None, "file.filename=a"),
            ("file:a:b", None, "file.filename=a:b"),
            (
                r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"a,b"},"lazy-refcounts":true}"#,
                None,
                "driver=qcow2,file.driver=file,file.filename=a,,b,lazy-refcounts=on",
            ),
            (
                r#"json:{"driver":"qcow2","file.filename":"x","size":7}"#,
                Some("qcow2"),
                "driver=qcow2,file.filename=x,size=7",
            ),
            (
                r#"json:{"driver":"nbd","path":"/s"}"#,
                Some("luks"),
                "driver=luks,file.driver=nbd,file.path=/s",
            ),
            (
                r#"json:{"children":[{"driver":"null-co"},"node"],"driver":"quorum"}"#,
                None,
                "children.0.driver=null-co,children.1=node,driver=quorum",
            ),
            (
                "nbd+unix:///a%20b?socket=/tmp/s%2c",
                Some("raw"),
                "driver=raw,file.driver=nbd,file.server.type=unix,file.server.path=/tmp/s,,,file.export=a b",
            ),
            (
                "nbd://[::1]:7/x",
                None,
                "file.driver=nbd,file.server.type=inet,file.server.host=::1,file.server.port=7,file.export=x",
            ),
            (
                "nbd+tcp://host",
                None,
                "file.driver=nbd,file.server.type=inet,file.server.host=host,file.server.port=10809",
            ),
            (
                "nbd:unix:/s:exportname=a",
                None,
                "file.driver=nbd,file.server.type=unix,file.server.path=/s,file.export=a",
            ),
            (
                "nbd:host:1",
                None,
                "file.driver=nbd,file.server.type=inet,file.server.host=host,file.server.port=1",
            ),
        ] {
            assert_eq!(named(text, format), expected);
        }
    }

    #[test]
    fn what_cannot_be_said_by_options_is_refused_with_the_reason() {
        for (text, reason) in [
            ("ssh://host/a", "name it by `ImageSpec::options`"),
            ("", "name it by `ImageSpec::options`"),
            ("json:[1]", "as the JSON object of a node"),
            (r#"json:{"a":{"b":null}}"#, "`a.b` is null"),
            (r#"json:{"a=b":"x"}"#, "`a=b` is not a name"),
            ("nbd+unix:///a", "`socket` is missing"),
            ("nbd:///a", "the host is missing"),
        ] {
            let found = named(text, None);
            assert!(found.contains(reason), "{text}: {found}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(
            text in "(json:|nbd:|nbd://|nbd\\+unix://|ssh:)?(\\PC|[{}:/?=\\[\\]%]){0,30}",
            format in prop::option::of(Just("raw")),
        ) {
            let _ = named(&text, format);
        }
    }
}
