//! TLS credentials of a case: its own certificate authority, and the certificates of a server and a
//! client that it signs.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use nbd::tls::ClientTls;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::{Value, json};

use super::failure::{CaseResult, Context};
use super::files::TestFile;
use super::shared::Shared;
use super::test::Test;

/// The host names of a server on this host.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// The group ffdhe2048 of RFC 7919. A server without a group generates one, which takes seconds.
const FFDHE2048: &str = "-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
";

/// X.509 certificates and keys, in a folder laid out for QEMU's `tls-creds-x509` and libnbd. They
/// are removed with the last clone.
///
/// The server's certificate is for `localhost`, `127.0.0.1` and `::1`. Each call uses a new
/// authority, so credentials from different calls do not trust each other.
#[derive(Clone, Debug)]
pub struct Tls(Arc<Vec<TestFile>>);

impl Test {
    /// Generates new TLS credentials, without any tool.
    ///
    /// # Errors
    /// If the files cannot be written.
    #[track_caller]
    pub fn tls(&self) -> CaseResult<Tls> {
        self.usable()?;
        Tls::new(&self.shared).context("making TLS credentials")
    }
}

impl Tls {
    fn new(shared: &Shared) -> CaseResult<Tls> {
        let folder = format!("tls{}", shared.next_number());
        let mut files = Vec::new();
        let mut write = |name: &str, text: String| -> CaseResult {
            let file = shared.directories.file_in(&folder, name)?;
            // Keys are readable only by their owner.
            let mut options = File::options();
            options.write(true).create_new(true).mode(0o600);
            options.open(&file)?.write_all(text.as_bytes())?;
            files.push(file);
            Ok(())
        };
        write("dh-params.pem", FFDHE2048.to_owned())?;
        let key = KeyPair::generate()?;
        let mut authority = named("the authority of a test", &[])?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        write("ca-cert.pem", authority.self_signed(&key)?.pem())?;
        let authority = Issuer::new(authority, key);
        for (who, names, purpose) in [
            ("server", &NAMES[..], ExtendedKeyUsagePurpose::ServerAuth),
            ("client", &[], ExtendedKeyUsagePurpose::ClientAuth),
        ] {
            let key = KeyPair::generate()?;
            let mut own = named(&format!("the {who} of a test"), names)?;
            own.key_usages = vec![
                KeyUsagePurpose::DigitalSignature,
                KeyUsagePurpose::KeyEncipherment,
            ];
            own.extended_key_usages = vec![purpose];
            let certificate = own.signed_by(&key, &authority)?;
            write(&format!("{who}-cert.pem"), certificate.pem())?;
            write(&format!("{who}-key.pem"), key.serialize_pem())?;
        }
        Ok(Tls(Arc::new(files)))
    }

    /// The folder that contains the files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        let file = self.0.first().map(|file| Path::new(file.as_str()));
        file.and_then(Path::parent).unwrap_or(Path::new(""))
    }

    /// The object for a server, which requires a certificate from its clients: for `object-add`,
    /// and for `--object` of tools.
    #[must_use]
    pub fn server(&self, id: &str) -> Value {
        self.object(id, "server")
    }

    /// The object for a client, to which a node's `tls-creds` refers.
    #[must_use]
    pub fn client(&self, id: &str) -> Value {
        self.object(id, "client")
    }

    fn object(&self, id: &str, endpoint: &str) -> Value {
        json!({
            "qom-type": "tls-creds-x509", "id": id, "dir": self.folder(),
            "endpoint": endpoint, "verify-peer": true,
        })
    }

    /// The credentials for our own client ([`nbd::Client`]).
    pub(crate) fn for_our_client(&self) -> CaseResult<ClientTls> {
        Ok(ClientTls::from_certificates(self.folder(), NAMES[0])?)
    }
}

fn named(name: &str, hosts: &[&str]) -> Result<CertificateParams, rcgen::Error> {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}
