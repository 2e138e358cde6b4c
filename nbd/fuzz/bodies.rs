// What each fuzz target does with its input. Included by the targets and, as bounded property
// tests, by the crate's own tests. A body fails by panicking or by never ending.

use std::pin::Pin;
use std::task::{Context, Poll};

use nbd::Client;
use nbd::client::{Builder, Pattern, StrictMode};
use nbd::proto::*;
use nbd::server::backend::PatternBackend;
use nbd::server::{Export, FaultPlan, Server};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A peer that says what it has to say, whatever it hears, and hangs up.
struct Script {
    bytes: Vec<u8>,
    at: usize,
}

impl Script {
    fn new(bytes: Vec<u8>) -> Script {
        Script { bytes, at: 0 }
    }
}

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let n = buf.remaining().min(self.bytes.len() - self.at);
        buf.put_slice(&self.bytes[self.at..self.at + n]);
        self.at += n;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn run<F: Future>(f: F) -> F::Output {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
    }
    let all = async {
        let done = f.await;
        // What was spawned gets its turn, and ends.
        tokio::task::yield_now().await;
        done
    };
    RUNTIME.with(|runtime| runtime.block_on(all))
}

fn builder() -> Builder {
    Client::builder()
        .contexts(["base:allocation", "qemu:"])
        .not_strict(StrictMode::all())
        .max_payload(1 << 20)
}

/// The input is all that a server says before transmission.
pub(super) fn client_handshake(data: &[u8]) {
    run(async {
        let _ = builder().connect_stream(Script::new(data.to_vec())).await;
        if let Ok(mut options) = builder().negotiate_stream(Script::new(data.to_vec())).await {
            let _ = options.list().await;
            let _ = options.info("x").await;
            let _ = options.list_contexts("x", &[]).await;
        }
    });
}

/// What a well-behaved server says until transmission in this mode.
fn server_handshake(mode: Mode) -> Vec<u8> {
    let (size, flags) = (1 << 40, TransmissionFlags::all());
    let fixed = HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES;
    match mode {
        Mode::Oldstyle => return Greeting::Oldstyle { size, flags }.encode(),
        Mode::ExportName => {
            let mut out = Greeting::Newstyle {
                flags: HandshakeFlags::NO_ZEROES,
            }
            .encode();
            out.extend(ExportReply { size, flags }.encode(true));
            return out;
        }
        _ => {}
    }
    let mut out = Greeting::Newstyle { flags: fixed }.encode();
    let unsup = OptionReply::Error {
        code: OptionReplyCode::ERR_UNSUP,
        message: String::new(),
    };
    let answer = |yes| if yes { OptionReply::Ack } else { unsup.clone() };
    out.extend(answer(mode == Mode::Extended).encode(OptionCode::EXTENDED_HEADERS));
    if mode != Mode::Extended {
        out.extend(answer(mode == Mode::Structured).encode(OptionCode::STRUCTURED_REPLY));
    }
    if mode.has_chunks() {
        let context = OptionReply::MetaContext {
            id: 1,
            name: "base:allocation".into(),
        };
        out.extend(context.encode(OptionCode::SET_META_CONTEXT));
        out.extend(OptionReply::Ack.encode(OptionCode::SET_META_CONTEXT));
    }
    let info = OptionReply::Info(Info::Export { size, flags });
    out.extend(info.encode(OptionCode::GO));
    out.extend(OptionReply::Ack.encode(OptionCode::GO));
    out
}

/// The first byte is the mode, the rest is all that a server says in transmission.
pub(super) fn client_replies(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let mode = Mode::ALL[usize::from(*first) % Mode::ALL.len()];
    let mut bytes = server_handshake(mode);
    bytes.extend(rest);
    run(async {
        let client = builder().connect_stream(Script::new(bytes)).await;
        let client = client.expect("the handshake is in order");
        let _ = tokio::join!(
            client.read(0, 4096),
            client.write(4096, vec![1; 512]),
            client.block_status(0, 1 << 20),
            client.read_with(512, 512, CommandFlags::DF, Vec::new()),
            client.flush(),
        );
        let _ = client
            .block_status_with(0, 4096, CommandFlags::REQ_ONE)
            .await;
    });
}

fn server(mode: Mode) -> Server {
    let backend = PatternBackend::new(1 << 20, Pattern::Offset(0));
    Server::builder()
        .export(Export::new(backend).name("x"))
        .mode(mode)
        .max_payload(1 << 20)
        .detached()
}

/// The first byte is the mode, the rest is all that a client says.
pub(super) fn server_options(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let mode = Mode::ALL[usize::from(*first) % Mode::ALL.len()];
    run(async {
        let _ = server(mode).serve(Script::new(rest.to_vec())).await;
    });
}

/// The first byte is the mode, the rest is all that a client says in transmission.
pub(super) fn server_requests(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let mode = Mode::ALL[2 + usize::from(*first) % 3];
    let mut bytes = ClientFlags::FIXED_NEWSTYLE.bits().to_be_bytes().to_vec();
    match mode {
        Mode::Extended => bytes.extend(OptionRequest::ExtendedHeaders.encode()),
        Mode::Structured => bytes.extend(OptionRequest::StructuredReply.encode()),
        _ => {}
    }
    let (export, queries) = ("x".to_owned(), vec!["base:allocation".to_owned()]);
    let contexts = MetaContextRequest {
        export: export.clone(),
        queries,
    };
    bytes.extend(OptionRequest::SetMetaContext(contexts).encode());
    bytes.extend(
        OptionRequest::Go(InfoRequest {
            export,
            requests: vec![],
        })
        .encode(),
    );
    bytes.extend(rest);
    run(async {
        let _ = server(mode).serve(Script::new(bytes)).await;
    });
}

/// The input is a configuration of the old fault injector.
pub(super) fn ini(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = FaultPlan::from_ini(text);
    }
}

/// The input is a URI.
pub(super) fn uri(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = nbd::uri::QemuDialect::parse(text);
    if let Ok(uri) = nbd::Uri::parse_legacy(text) {
        let _ = uri.to_legacy();
        let _ = uri.to_image_opts();
    }
    if let Ok(uri) = nbd::Uri::parse(text) {
        assert_eq!(nbd::Uri::parse(&uri.to_string()).as_ref(), Ok(&uri));
    }
}
