//! TLS by rustls, for clients and servers.
//!
//! Certificates are read in the layout of QEMU's `tls-creds-x509` and libnbd's `tls-certificates`:
//! a folder with `ca-cert.pem`, `client-cert.pem`, `client-key.pem`, `server-cert.pem` and
//! `server-key.pem`.
//!
//! # What is missing
//! - Pre-shared keys (`tls-creds-psk`, `tls-type=psk`, `tls-psk-file`): rustls 0.23 has no external
//!   keys of TLS 1.3, only those that resume a session, and no cipher suite of TLS 1.2 with
//!   pre-shared keys ([rustls#174](https://github.com/rustls/rustls/issues/174)). Certificates
//!   serve the same purpose: a server with `verify_peer` accepts clients with a certificate signed
//!   by `ca-cert.pem`.
//! - Anonymous TLS (`tls-creds-anon`, `tls-type=anon`): rustls has no cipher suite without a
//!   certificate. [`ClientTls::without_verification`] gives the same protection.
//!
//! Requesting either in a URI fails when connecting, before anything is sent, with an error that
//! says so ([`ClientTls::from_uri`]); QEMU supports both, as an object whose id is passed to
//! [`Uri::to_image_opts_with_tls`]. Another TLS library can be used with [`crate::proto::client`]
//! and [`crate::proto::server`], where TLS is an event, `StartTls`.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use crate::socket::Socket;
use crate::uri::{Address, Uri};

/// Credentials of a client: the certificates that it trusts, and its own if it has one.
#[derive(Clone, Debug)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    /// The name that must be in the server's certificate.
    name: ServerName<'static>,
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

/// Adds the file's path to an error.
fn named<E: std::fmt::Display>(path: &Path) -> impl Fn(E) -> io::Error + use<'_, E> {
    move |error| invalid(format!("{}: {error}", path.display()))
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_file_iter(path).map_err(named(path))?;
    let all: Vec<_> = all.collect::<Result<_, _>>().map_err(named(path))?;
    match all.is_empty() {
        true => Err(named(path)("it contains no certificate")),
        false => Ok(all),
    }
}

fn authorities(folder: &Path) -> io::Result<RootCertStore> {
    let path = folder.join("ca-cert.pem");
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&path)? {
        roots.add(certificate).map_err(named(&path))?;
    }
    Ok(roots)
}

/// A certificate and its key, if both files exist.
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(folder: &Path, who: &str) -> io::Result<Option<Identity>> {
    let (certificate, key) = (
        folder.join(format!("{who}-cert.pem")),
        folder.join(format!("{who}-key.pem")),
    );
    if !certificate.exists() && !key.exists() {
        return Ok(None);
    }
    let chain = certificates(&certificate)?;
    let key = PrivateKeyDer::from_pem_file(&key).map_err(named(&key))?;
    Ok(Some((chain, key)))
}

impl ClientTls {
    /// Any configuration of rustls, and the name that must be in the server's certificate.
    ///
    /// # Errors
    /// When the name is neither a host name nor an address.
    pub fn new(config: Arc<ClientConfig>, name: &str) -> io::Result<ClientTls> {
        let name = ServerName::try_from(name.to_owned()).map_err(invalid)?;
        Ok(ClientTls { config, name })
    }

    /// Trusts servers whose certificate is for this name and is signed by `ca-cert.pem` of this
    /// folder. Presents `client-cert.pem` if there is one.
    ///
    /// # Errors
    /// When a file is missing or invalid, which the error names, or the name is neither a host name
    /// nor an address.
    pub fn from_certificates(folder: impl AsRef<Path>, name: &str) -> io::Result<ClientTls> {
        let folder = folder.as_ref();
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(invalid)?
            .with_root_certificates(authorities(folder)?);
        let config = match identity(folder, "client")? {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(invalid)?,
            None => builder.with_no_client_auth(),
        };
        ClientTls::new(Arc::new(config), name)
    }

    /// Trusts any server, as `tls-verify-peer=0` requests: protects against eavesdroppers, not
    /// against an impostor. Presents `client-cert.pem` of this folder if there is one.
    pub fn without_verification(folder: Option<&Path>, name: &str) -> io::Result<ClientTls> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(invalid)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(provider())));
        let own = folder.map(|folder| identity(folder, "client"));
        let config = match own.transpose()?.flatten() {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(invalid)?,
            None => builder.with_no_client_auth(),
        };
        ClientTls::new(Arc::new(config), name)
    }

    /// Credentials from the parameters of an `nbds…` URI: `tls-certificates`, `tls-hostname`,
    /// `tls-verify-peer`.
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) for `tls-type=psk`, `tls-psk-file` and
    /// `tls-type=anon`, which rustls does not support; also when no trusted certificates are
    /// specified.
    pub fn from_uri(uri: &Uri) -> io::Result<ClientTls> {
        let parameter = |name: &str| {
            let found = uri.parameters.iter().find(|(n, _)| n == name);
            found.map(|(_, value)| value.as_str())
        };
        let unsupported = |text: &str| Err(io::Error::new(io::ErrorKind::Unsupported, text));
        match (parameter("tls-type"), parameter("tls-psk-file")) {
            (Some("anon"), _) => {
                return unsupported(
                    "tls-type=anon: rustls has no anonymous TLS; with tls-verify-peer=0 any \
                     certificate of the server will do",
                );
            }
            (Some("psk"), _) | (_, Some(_)) => {
                return unsupported(
                    "tls-psk-file, tls-type=psk: rustls has no pre-shared keys (neither external ones of \
                     TLS 1.3 nor the cipher suites of TLS 1.2); use certificates on both sides \
                     (tls-certificates=FOLDER)",
                );
            }
            _ => {}
        }
        let own = match &uri.address {
            Address::Tcp { host, .. } => host.as_str(),
            _ => "localhost",
        };
        let name = parameter("tls-hostname").unwrap_or(own);
        let folder = parameter("tls-certificates").map(Path::new);
        match (parameter("tls-verify-peer"), folder) {
            (Some("0"), folder) => ClientTls::without_verification(folder, name),
            (_, Some(folder)) => ClientTls::from_certificates(folder, name),
            (_, None) => Err(invalid(
                "tls-certificates=FOLDER (with ca-cert.pem) must say which certificates to trust, or \
                 tls-verify-peer=0 to trust any server",
            )),
        }
    }

    pub(crate) async fn connect(&self, socket: Socket) -> io::Result<Socket> {
        let connector = tokio_rustls::TlsConnector::from(self.config.clone());
        let stream = connector.connect(self.name.clone(), socket).await?;
        Ok(Socket::other(stream))
    }

    /// The configuration, for custom drivers.
    pub fn config(&self) -> (Arc<ClientConfig>, ServerName<'static>) {
        (self.config.clone(), self.name.clone())
    }
}

/// Accepts every certificate, but not every signature: the peer must have the certificate's key.
#[derive(Debug)]
struct AnyServer(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(feature = "server")]
pub use server::ServerTls;

#[cfg(feature = "server")]
mod server {
    use std::io;
    use std::path::Path;
    use std::sync::Arc;

    use rustls::ServerConfig;
    use rustls::server::WebPkiClientVerifier;

    use super::{authorities, identity, invalid, provider};
    use crate::proto::server::TlsPolicy;

    /// Credentials of a server: its certificate, and the clients that it accepts.
    #[derive(Clone, Debug)]
    pub struct ServerTls {
        config: Arc<ServerConfig>,
        policy: TlsPolicy,
    }

    impl ServerTls {
        /// Any configuration of rustls.
        pub fn new(config: Arc<ServerConfig>) -> ServerTls {
            let policy = TlsPolicy::Required;
            ServerTls { config, policy }
        }

        /// Presents `server-cert.pem` of this folder. With `verify_peer`, clients must present a
        /// certificate that is signed by `ca-cert.pem`.
        ///
        /// # Errors
        /// When a file is missing or invalid, which the error names.
        pub fn from_certificates(
            folder: impl AsRef<Path>,
            verify_peer: bool,
        ) -> io::Result<ServerTls> {
            let folder = folder.as_ref();
            let builder = ServerConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .map_err(invalid)?;
            let builder = match verify_peer {
                true => {
                    let roots = Arc::new(authorities(folder)?);
                    let verifier =
                        WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
                    builder.with_client_cert_verifier(verifier.map_err(invalid)?)
                }
                false => builder.with_no_client_auth(),
            };
            let missing = || {
                let text = format!("{}: no server-cert.pem", folder.display());
                io::Error::new(io::ErrorKind::NotFound, text)
            };
            let (chain, key) = identity(folder, "server")?.ok_or_else(missing)?;
            let config = builder.with_single_cert(chain, key).map_err(invalid)?;
            Ok(ServerTls::new(Arc::new(config)))
        }

        /// Serves clients without TLS as well.
        pub fn optional(mut self) -> ServerTls {
            self.policy = TlsPolicy::Offered;
            self
        }

        pub(crate) fn policy(&self) -> TlsPolicy {
            self.policy
        }

        pub(crate) fn config(self) -> Arc<ServerConfig> {
            self.config
        }
    }
}
