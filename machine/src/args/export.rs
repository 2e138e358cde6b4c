//! What a storage daemon serves: its NBD server and its exports.

use super::{flatten, object};
use imgtools::image::Options;
use qmp::types::BlockExportOptions;
use serde_json::{Map, Value};
use std::ffi::OsStr;
use std::fmt;
use std::path::Path;

/// Address of the daemon's one NBD server (`--nbd-server`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NbdServer {
    options: Options,
}

impl NbdServer {
    /// Serves on a UNIX socket.
    #[must_use]
    pub fn unix(path: impl AsRef<Path>) -> Self {
        Self {
            options: Options::new().set("addr.type", "unix").set_path("addr.path", path),
        }
    }

    /// Serves on TCP; port 0 lets the kernel choose.
    #[must_use]
    pub fn inet(host: impl fmt::Display, port: u16) -> Self {
        let options = Options::new().set("addr.type", "inet").set("addr.host", host);
        Self {
            options: options.set("addr.port", port),
        }
    }

    /// Serves on a listening socket that the daemon inherits as this file descriptor.
    #[must_use]
    pub fn listening_fd(fd: i32) -> Self {
        Self {
            options: Options::new().set("addr.type", "fd").set("addr.str", fd),
        }
    }

    /// Sets one more option, such as `max-connections`.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.options = self.options.set(key, value);
        self
    }

    /// The word for a command line.
    #[must_use]
    pub fn as_os_str(&self) -> &OsStr {
        self.options.as_os_str()
    }
}

/// For messages: bytes that are not UTF-8 become U+FFFD.
impl fmt::Display for NbdServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.options.fmt(f)
    }
}

/// One block export (`--export`, and the arguments of `block-export-add`).
#[derive(Debug, Clone, PartialEq)]
pub struct Export {
    options: Map<String, Value>,
}

impl Export {
    /// An export of any type.
    #[must_use]
    pub fn new(kind: &str, id: &str, node: &str) -> Self {
        let options = [("type", kind), ("id", id), ("node-name", node)];
        Self {
            options: options.map(|(k, v)| (k.to_owned(), v.into())).into_iter().collect(),
        }
    }

    /// An export over the NBD server; its name is the node's unless [`Export::set`] says
    /// otherwise.
    #[must_use]
    pub fn nbd(id: &str, node: &str) -> Self {
        Self::new("nbd", id, node)
    }

    /// Lets clients write, or not (the default).
    #[must_use]
    pub fn writable(self, writable: bool) -> Self {
        self.set("writable", writable)
    }

    /// Sets any other option.
    #[must_use]
    pub fn set(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.options.insert(key.into(), value.into());
        self
    }

    /// The arguments of `block-export-add`.
    #[must_use]
    pub fn to_value(&self) -> Value {
        Value::Object(self.options.clone())
    }
}

/// What `block-export-add` takes, for the command line.
impl From<&BlockExportOptions> for Export {
    fn from(options: &BlockExportOptions) -> Self {
        Self {
            options: object(options),
        }
    }
}

impl fmt::Display for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flat = flatten(&self.to_value());
        flat.into_iter().fold(Options::new(), |o, (k, v)| o.set(&k, v)).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_has_a_command_line_and_a_qmp_form() {
        let export = Export::nbd("e", "n,1").writable(true);
        assert_eq!(
            export.to_string(),
            "type=nbd,id=e,node-name=n,,1,writable=on"
        );
        assert_eq!(
            export.to_value().to_string(),
            r#"{"type":"nbd","id":"e","node-name":"n,1","writable":true}"#
        );
    }

    #[test]
    fn an_nbd_server_can_use_an_inherited_socket() {
        assert_eq!(
            NbdServer::listening_fd(5).to_string(),
            "addr.type=fd,addr.str=5"
        );
        let tcp = NbdServer::inet("::1", 0).set("max-connections", 2);
        assert_eq!(
            tcp.to_string(),
            "addr.type=inet,addr.host=::1,addr.port=0,max-connections=2"
        );
    }
}
