//! An image of the case: its name, and how it is opened.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use serde_json::json;

use crate::author::files::TestFile;
use crate::author::machine::Node;
use crate::author::serve::Served;
use crate::author::shared::Shared;
use crate::author::tool::ToolCall;
use crate::case::{Cache, Format};

/// The id of the object with the key of encrypted images, in tools and machines.
pub const KEY_ID: &str = "keysec0";

/// The key of encrypted images. It protects nothing, but is treated as if it did.
pub const KEY: &str = "hunter2 of the tests";

/// An image of the case. It is removed with the last clone; an overlay keeps its backing image.
///
/// It displays as `TEST_DIR/name`; in JSON it is the name that tools and QMP commands use.
#[derive(Clone)]
pub struct Image(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) shared: Arc<Shared>,
    pub(super) name: String,
    pub(super) format: Format,
    pub(super) size: u64,
    /// How it is encrypted, if it is.
    pub(super) encrypted: Option<Format>,
    /// Whether it is read-only.
    pub(super) read_only: bool,
    // Dropped before the file: its server must end first.
    pub(super) served: Served,
    pub(super) file: TestFile,
    pub(super) backing: Option<Image>,
}

impl Image {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// The name that it was given, which is also the name of its node.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its format.
    #[must_use]
    pub fn format(&self) -> Format {
        self.0.format
    }

    /// Its backing image.
    #[must_use]
    pub fn backing(&self) -> Option<&Image> {
        self.0.backing.as_ref()
    }

    /// The file that contains it, however that is served.
    #[must_use]
    pub fn file(&self) -> &TestFile {
        &self.0.file
    }

    /// The name with which tools open it: a path or a URI.
    #[must_use]
    pub fn filename(&self) -> &str {
        self.0.served.uri().unwrap_or(self.0.file.as_str())
    }

    /// Whether it is in a file of its own, which contains nothing else.
    pub(super) fn is_file(&self) -> bool {
        matches!(self.0.served, Served::File)
    }

    /// Whether the name with which tools open it includes its format.
    pub(crate) fn says_format(&self) -> bool {
        matches!(self.0.served, Served::Json(_))
    }

    /// Whether opening it requires its key.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.0.encrypted.is_some()
    }

    /// Whether opening it or an image below it requires the key.
    pub(crate) fn needs_key(&self) -> bool {
        self.is_encrypted() || self.backing().is_some_and(Image::needs_key)
    }

    /// The option that names the key, at its nesting level in the format.
    pub(crate) fn key_option(&self) -> Option<&'static str> {
        match self.0.encrypted? {
            Format::Luks => Some("key-secret"),
            _ => Some("encrypt.key-secret"),
        }
    }

    /// Its protocol node for `blockdev-add`, with the cache and aio mode of the run.
    #[must_use]
    pub fn protocol_node(&self) -> Node {
        let spec = &self.0.shared.spec;
        let mut node = self.0.served.node(&self.0.file);
        if let Some(object) = node.as_object_mut() {
            if object["driver"] == "file" {
                object.insert("aio".to_owned(), spec.aio.name().into());
            }
            let no_flush = spec.cache == Cache::Unsafe;
            let cache = json!({"direct": spec.cache.is_direct(), "no-flush": no_flush});
            object.insert("cache".to_owned(), cache);
        }
        Node::from(node)
    }

    /// It and its whole backing chain for `blockdev-add`. Each layer's node has the name of its
    /// image.
    #[must_use]
    pub fn node(&self) -> Node {
        if let Served::Json(node) = &self.0.served {
            return Node::from(node.clone()).node_name(&self.0.name);
        }
        let mut node =
            Node::new(self.0.format.name()).node_name(&self.0.name).file(self.protocol_node());
        if self.0.read_only {
            node = node.read_only(true);
        }
        if let Some(base) = &self.0.backing {
            node = node.backing(base.node());
        }
        match self.0.encrypted {
            Some(Format::Luks) => node.set("key-secret", KEY_ID),
            Some(_) => node.set("encrypt", json!({"format": "luks", "key-secret": KEY_ID})),
            None => node,
        }
    }

    /// Its options for `--image-opts`. An encrypted image also needs the object with its key.
    #[must_use]
    pub fn image_opts(&self) -> String {
        let file = self.filename().replace(',', ",,");
        let key = self.key_option().map(|key| format!("{key}={KEY_ID},")).unwrap_or_default();
        format!("driver={},{key}file.filename={file}", self.0.format.name())
    }

    /// Its options as a `json:` file name, without the backing chain.
    pub(super) fn json_name(&self) -> String {
        // Node names exist only in a machine.
        let node = self.node().without("node-name");
        node.no_backing().filename()
    }

    /// Adds it to a tool's command line: as format and file, or as options with the key.
    pub(crate) fn named(&self, call: ToolCall) -> ToolCall {
        if self.says_format() {
            return call.arg(self.filename());
        }
        match self.is_encrypted() {
            false => call.args(["-f", self.format().name(), self.filename()]),
            true => call.secret(KEY_ID, KEY).args(["--image-opts", &self.image_opts()]),
        }
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.file, f)
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({self}, {})", self.0.format)
    }
}

impl Serialize for Image {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.filename())
    }
}
