//! Everything a server offers, as `qemu-nbd --list` and `nbdinfo --list` show it.

use super::builder::ClientBuilder;
use super::error::ConnectError;
use crate::proto::OptionReplyCode;
use crate::proto::client::{ExportInfo, HandshakeError};
use crate::uri::Uri;

/// What a server offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// In the server's order.
    pub exports: Vec<ListedExport>,
}

impl Listing {
    /// The export of this name.
    pub fn export(&self, name: &str) -> Option<&ListedExport> {
        self.exports.iter().find(|e| e.name == name)
    }
}

/// One export of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedExport {
    /// Its name.
    pub name: String,
    /// The text that `LIST` returned; QEMU sends the description.
    pub comment: String,
    /// The answer to `INFO`; `None` if the server refused.
    pub info: Option<ExportInfo>,
    /// Metadata contexts that can be selected.
    pub contexts: Vec<String>,
}

/// Lists the exports of the server at this URI; the URI's export does not matter.
pub async fn list(uri: &Uri) -> Result<Listing, ConnectError> {
    ClientBuilder::default().list(uri).await
}

impl ClientBuilder {
    /// Lists exports with this builder's features and deadlines.
    pub async fn list(&self, uri: &Uri) -> Result<Listing, ConnectError> {
        let builder = self.for_uri(uri)?;
        let wrap = |source| builder.failed(&uri.address.to_string(), source);
        let mut server = builder.negotiate(&uri.address).await?;
        let mut exports = Vec::new();
        for (name, comment) in server.list().await.map_err(wrap)? {
            let info = optional(server.info(&name).await).map_err(wrap)?;
            let contexts = match server.mode().has_chunks() {
                true => optional(server.list_contexts(&name, &[]).await).map_err(wrap)?,
                false => None,
            };
            let contexts = contexts.unwrap_or_default();
            exports.push(ListedExport {
                name,
                comment,
                info,
                contexts,
            });
        }
        server.abort().await.map_err(wrap)?;
        Ok(Listing { exports })
    }
}

/// A server may refuse to answer; then the entry stays empty. A shutdown does not count as that.
fn optional<T>(result: Result<T, HandshakeError>) -> Result<Option<T>, HandshakeError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(HandshakeError::Refused { code, .. }) if code != OptionReplyCode::ERR_SHUTDOWN => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
