//! Images that the case did not create: a sample, a file written by hand, an export, a `json:`
//! name.

use std::future::IntoFuture;
use std::panic::Location;
use std::sync::Arc;

use imgtools::image::{FileName, ImageSpec};
use nbd::uri::Address;
use serde_json::{Value, json};

use super::handle::{Image, Inner};
use crate::author::action::Action;
use crate::author::failure::{CaseResult, Context, Failure};
use crate::author::serve::Served;
use crate::author::shared::Shared;
use crate::author::test::Test;
use crate::case::Format;

/// An image to open. Awaiting it checks that qemu-img can open it.
#[must_use = "an image is opened when this is awaited"]
pub struct ImageOpener {
    shared: Arc<Shared>,
    file: CaseResult<FileName>,
    name: Option<String>,
    format: Option<Format>,
    read_only: bool,
    place: &'static Location<'static>,
}

impl Test {
    /// An image that the case did not create, with the same checks as one that it created. A path
    /// names a file, which stays when the value is dropped; QEMU interprets a text: the URI of an
    /// export, or `json:{…}`. The format is probed unless it is given.
    #[track_caller]
    pub fn open(&self, file: impl Into<FileName>) -> ImageOpener {
        ImageOpener::new(&self.shared, Ok(file.into()))
    }
}

impl ImageOpener {
    #[track_caller]
    pub(crate) fn new(shared: &Arc<Shared>, file: CaseResult<FileName>) -> Self {
        ImageOpener {
            shared: shared.clone(),
            file,
            name: None,
            format: None,
            read_only: false,
            place: Location::caller(),
        }
    }

    /// Sets its format, instead of probing.
    pub fn format(mut self, format: Format) -> Self {
        self.format = Some(format);
        self
    }

    /// Sets the name of its node in a machine; the default is the last part of its name.
    pub fn node_name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Opens it read-only, also in a machine.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    async fn open(self) -> CaseResult<Image> {
        let ImageOpener { shared, file, .. } = self;
        let file = file?;
        let text = file.to_string();
        let mut spec = ImageSpec::file(&file);
        if let Some(format) = self.format {
            spec = spec.format(format.name());
        }
        let info = shared.img()?.info(spec).run().await;
        let info = info.context(format!("opening {text}"))?;
        let format = match self.format {
            Some(format) => format,
            None => info.format.parse().map_err(|_| {
                Failure::new(format!(
                    "{text} is of the format {}, expected one of an image; say it with .format()",
                    info.format
                ))
            })?,
        };
        let served = match text.strip_prefix("json:") {
            Some(node) => Served::Json(serde_json::from_str(node)?),
            None => match file.local() {
                Some(_) => Served::File,
                None => Served::Elsewhere(node(&text)?),
            },
        };
        let last = text.rsplit('/').next().unwrap_or_default();
        let last = last.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        let name = self.name.unwrap_or_else(|| match last {
            "" => format!("image{}", shared.next_number()),
            last => last.to_owned(),
        });
        let path = file.local().map_or(text, |path| path.display().to_string());
        let file = shared.directories.elsewhere(path);
        Ok(Image(Arc::new(Inner {
            shared,
            name,
            format,
            size: info.virtual_size,
            encrypted: None,
            read_only: self.read_only,
            served,
            file,
            backing: None,
        })))
    }
}

impl IntoFuture for ImageOpener {
    type Output = CaseResult<Image>;
    type IntoFuture = Action<'static, Image>;

    fn into_future(self) -> Self::IntoFuture {
        let what = match &self.file {
            Ok(file) => format!("{file} to be opened"),
            Err(_) => "an image to be opened".to_owned(),
        };
        Action::at(self.place, what, self.open())
    }
}

/// The protocol node for the URI of an NBD export.
fn node(uri: &str) -> CaseResult<Value> {
    let uri =
        nbd::Uri::parse(uri).or_else(|error| nbd::Uri::parse_legacy(uri).map_err(|_| error))?;
    let server = match &uri.address {
        Address::Unix(path) => json!({"type": "unix", "path": path}),
        Address::Tcp { host, port } => {
            json!({"type": "inet", "host": host, "port": port.to_string()})
        }
        other => {
            return Err(Failure::new(format!(
                "a node cannot have the address {other:?}"
            )));
        }
    };
    Ok(json!({"driver": "nbd", "server": server, "export": uri.export}))
}
