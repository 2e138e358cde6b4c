//! TLS, with our own other half and with QEMU's and nbdkit's.

use std::sync::Arc;

use imgtools::process::Command;
use nbd::client::{ConnectError, Feature, HandshakeError, Pattern};
use nbd::server::backend::MemoryBackend;
use nbd::server::{Export, Server};
use nbd::tls::{ClientTls, ServerTls};
use nbd::{Client, QemuNbd, Uri};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::support::{MIB, activated, block_on, chain, each, program, raw, short_dir};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls");
/// What the server's certificate is for.
const NAME: &str = "disks.example";

fn credentials() -> ClientTls {
    ClientTls::from_certificates(FOLDER, NAME).unwrap()
}

fn server(tls: ServerTls) -> Server {
    let memory = MemoryBackend::with_content(&vec![0x5a; MIB as usize]);
    let export = Export::new(memory).name("disk");
    let server = Server::builder().export(export).tls(tls);
    server.listen_tcp().unwrap()
}

fn mutual() -> ServerTls {
    ServerTls::from_certificates(FOLDER, true).unwrap()
}

async fn reads(client: &Client) {
    assert!(client.export().tls);
    let found = client.verify(0..MIB, Pattern::Byte(0x5a)).await.unwrap();
    assert_eq!(found, None);
}

#[test]
fn both_our_sides_prove_who_they_are_and_move_data() {
    block_on(async {
        let server = server(mutual());
        let uri = server.uri().unwrap();
        assert!(uri.to_string().starts_with("nbds://"), "{uri}");
        let client = Client::builder().tls(credentials());
        let client = client.connect_uri(&uri).await.unwrap();
        reads(&client).await;
        client.write(4096, vec![7; 512]).await.unwrap();
        assert_eq!(client.read(4096, 512).await.unwrap(), [7; 512]);
        client.disconnect().await.unwrap();
        server.finish().await.unwrap();
    });
}

#[test]
fn a_uri_says_all_that_is_needed() {
    block_on(async {
        let server = server(ServerTls::from_certificates(FOLDER, false).unwrap());
        let base = server.uri().unwrap().to_string();
        for parameters in [
            format!("tls-certificates={FOLDER}&tls-hostname={NAME}"),
            "tls-verify-peer=0".to_owned(),
        ] {
            let uri: Uri = format!("{base}?{parameters}").parse().unwrap();
            let client = Client::builder().connect_uri(&uri).await.unwrap();
            reads(&client).await;
        }
        let nobody: Uri = base.parse().unwrap();
        let error = Client::builder().connect_uri(&nobody).await.unwrap_err();
        assert!(
            chain(&error).contains("tls-certificates"),
            "{}",
            chain(&error)
        );
    });
}

/// Before anything is sent: nothing listens at these addresses.
#[test]
fn what_rustls_does_not_have_is_named_with_what_to_use_instead() {
    let psk = "rustls has no pre-shared keys";
    let anonymous = "rustls has no anonymous TLS";
    for (parameters, missing, instead) in [
        ("tls-psk-file=/keys", psk, "tls-certificates=FOLDER"),
        (
            "tls-type=psk&tls-certificates=/certificates",
            psk,
            "tls-certificates=FOLDER",
        ),
        (
            "tls-psk-file=/keys&tls-verify-peer=0",
            psk,
            "tls-certificates=FOLDER",
        ),
        ("tls-type=anon", anonymous, "tls-verify-peer=0"),
    ] {
        let uri: Uri = format!("nbds+unix:///?socket=/nonexistent&{parameters}").parse().unwrap();
        let (word, _) = parameters.split_once('&').unwrap_or((parameters, ""));
        let (word, _) = word.split_once("=/").unwrap_or((word, ""));
        let builder = Client::builder();
        let errors = [
            block_on(builder.connect_uri(&uri)).unwrap_err(),
            block_on(builder.negotiate_uri(&uri)).unwrap_err(),
            builder.connect_uri_blocking(&uri).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, ConnectError::Tls { .. }), "{error}");
            let text = chain(&error);
            for said in [word, missing, instead] {
                assert!(text.contains(said), "{said}: {text}");
            }
        }
        let source = ClientTls::from_uri(&uri).unwrap_err();
        assert_eq!(source.kind(), std::io::ErrorKind::Unsupported);
    }
}

#[test]
fn a_file_that_holds_no_certificate_is_named_before_anybody_is_asked() {
    let dir = short_dir();
    let authority = dir.path().join("ca-cert.pem");
    let (begin, end) = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----");
    for content in [
        None,
        Some(String::new()),
        Some("no certificate".to_owned()),
        Some(format!("{begin}\n!\n{end}\n")),
        Some(format!("{begin}\nAAAA\n{end}\n")),
    ] {
        if let Some(content) = &content {
            std::fs::write(&authority, content).unwrap();
        }
        for error in [
            ClientTls::from_certificates(dir.path(), NAME).err(),
            ServerTls::from_certificates(dir.path(), true).err(),
        ] {
            let text = error.expect("nothing can be trusted").to_string();
            assert!(
                text.contains(authority.to_str().unwrap()),
                "{content:?}: {text}"
            );
        }
    }
}

#[test]
fn who_cannot_prove_it_is_not_served_and_not_believed() {
    block_on(async {
        let strict = server(mutual());
        let address = &strict.addresses()[0];
        // Without a certificate of its own.
        let bare = ClientTls::without_verification(None, NAME).unwrap();
        let refused = Client::builder().tls(bare).connect(address).await;
        assert!(refused.is_err());
        // A server of another name.
        let other = ClientTls::from_certificates(FOLDER, "other.example").unwrap();
        let error = Client::builder().tls(other).connect(address).await;
        let error = chain(&error.unwrap_err());
        assert!(error.contains("certificate"), "{error}");
        // Without TLS.
        let error = Client::builder().connect(address).await.unwrap_err();
        let required = matches!(error.handshake(), Some(HandshakeError::TlsRequired { .. }));
        assert!(required, "{}", chain(&error));
    });
}

/// Presents a certificate without having its key.
#[derive(Debug)]
struct Borrowed(Arc<CertifiedKey>);

impl ResolvesServerCert for Borrowed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// Even where any certificate is accepted, the peer must have its key.
#[test]
fn who_presents_anothers_certificate_is_not_believed_even_without_verification() {
    block_on(async {
        let file = |name: &str| std::path::Path::new(FOLDER).join(name);
        let chain = CertificateDer::pem_file_iter(file("server-cert.pem")).unwrap();
        let chain = chain.map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(file("client-key.pem")).unwrap();
        let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
        let borrowed = Arc::new(CertifiedKey::new(chain, key));
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = rustls::ServerConfig::builder_with_provider(provider);
            let config = config.with_protocol_versions(&[version]).unwrap();
            let config = config.with_no_client_auth();
            let config = config.with_cert_resolver(Arc::new(Borrowed(borrowed.clone())));
            let server = server(ServerTls::new(Arc::new(config)));
            let client = ClientTls::without_verification(None, NAME).unwrap();
            let client = Client::builder().export("disk").tls(client);
            let error = client.connect(&server.addresses()[0]).await.unwrap_err();
            let text = self::chain(&error);
            assert!(
                text.to_lowercase().contains("signature"),
                "{version:?}: {text}"
            );
        }
    });
}

#[test]
fn where_it_is_offered_it_is_a_matter_of_the_client() {
    block_on(async {
        let server = server(mutual().optional());
        let address = &server.addresses()[0];
        let plain = Client::builder().export("disk").connect(address).await;
        assert!(!plain.unwrap().export().tls);
        let safe = Client::builder().export("disk").tls(credentials());
        reads(&safe.connect(address).await.unwrap()).await;
    });
}

#[test]
fn a_client_that_requires_it_does_not_go_on_without() {
    block_on(async {
        let plain = Server::builder().export(Export::new(MemoryBackend::new(512)));
        let plain = plain.listen_tcp().unwrap();
        let client = Client::builder().tls(credentials());
        let error = client.connect(&plain.addresses()[0]).await.unwrap_err();
        let missing = |e: &HandshakeError| {
            matches!(
                e,
                HandshakeError::Feature {
                    feature: Feature::Tls,
                    ..
                }
            )
        };
        assert!(error.handshake().is_some_and(missing), "{}", chain(&error));
    });
}

#[test]
fn qemu_nbd_and_our_client_understand_each_other() {
    each(|tools, dir| async move {
        let image = raw(&tools, &dir).await;
        let creds = format!("tls-creds-x509,id=tls0,endpoint=server,dir={FOLDER}");
        let server = QemuNbd::new(tools.nbd.clone())
            .format("raw")
            .tls_creds("tls0")
            .object(creds + ",verify-peer=on");
        let server = server.serve_unix(image, dir.path().join("s")).await.unwrap();
        let client = Client::builder().tls(credentials());
        let client = client.connect_uri(&server.uri()).await.unwrap();
        client.write(0, vec![9; 1 << 20]).await.unwrap();
        let found = client.verify(0..MIB, Pattern::Byte(9)).await.unwrap();
        assert_eq!(found, None);
        client.disconnect().await.unwrap();
        server.stop().await.unwrap().check().unwrap();
    });
}

#[test]
fn qemus_client_and_our_server_understand_each_other() {
    each(|tools, _dir| async move {
        let server = server(mutual());
        let uri = server.uri().unwrap();
        let opts = uri.to_image_opts_with_tls("tls0").unwrap();
        let creds = format!("tls-creds-x509,id=tls0,endpoint=client,dir={FOLDER}");
        let mut command = tools.io.command();
        command = command.args(["--object", &creds, "-c", "read -P 0x5a 0 1M"]);
        command = command.args(["-c", "write -P 3 0 64k", "-c", "read -P 3 0 64k"]);
        // Older ones compare the address, and have no option for the name.
        let opts = match tools.major >= 7 {
            true => format!("{opts},tls-hostname={NAME}"),
            false => opts,
        };
        let output = command.args(["--image-opts", &opts]).run().await.unwrap();
        let output = output.check().unwrap();
        let text = output.stdout_text();
        assert!(!text.contains("Pattern verification failed"), "{text}");
        server.finish().await.unwrap();
    });
}

#[test]
fn nbdkit_and_libnbd_understand_us() {
    let (Some(nbdkit), Some(nbdcopy)) = (program("nbdkit"), program("nbdcopy")) else {
        return;
    };
    block_on(async {
        let dir = short_dir();
        // Theirs serves, ours reads: nbdkit runs as long as the command it is given.
        let socket = dir.path().join("k");
        let command = activated(&nbdkit, &socket);
        let command = command.args(["-f", "--tls=require", "--tls-verify-peer"]);
        let command = command.arg(format!("--tls-certificates={FOLDER}"));
        let kit = command.args(["pattern", "1M"]).spawn_async().await.unwrap();
        let client = Client::builder().tls(credentials());
        let client = client.connect_unix(&socket).await.unwrap();
        let found = client.verify(0..MIB, Pattern::Offset(0)).await.unwrap();
        assert_eq!(found, None);
        client.disconnect().await.unwrap();
        drop(kit);
        // Ours serves, theirs reads.
        let server = server(ServerTls::from_certificates(FOLDER, true).unwrap());
        let base = server.uri().unwrap();
        let uri = format!("{base}?tls-certificates={FOLDER}&tls-verify-peer=0");
        let copy = dir.path().join("copy");
        let command = Command::new(&nbdcopy).arg(&uri).arg(&copy);
        command.run().await.unwrap().check().unwrap();
        assert_eq!(std::fs::read(&copy).unwrap(), vec![0x5a; MIB as usize]);
        server.finish().await.unwrap();
    });
}
