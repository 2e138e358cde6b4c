//! How long a server waits for a client that does not choose an export.

use std::time::Duration;

use nbd::Client;
use nbd::proto::{ClientFlags, Greeting, Mode, OptionReplyHeader, OptionRequest};
use nbd::server::backend::MemoryBackend;
use nbd::server::journal::Closed;
use nbd::server::plan::{Action, FaultPlan, On, Rule};
use nbd::server::{Event, Export, Server, ServerBuilder};
use nbd::tls::ServerTls;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::support::at_once;

const HOUR: Duration = Duration::from_secs(3600);

fn builder() -> ServerBuilder {
    Server::builder().export(Export::new(MemoryBackend::new(512)))
}

/// A client that has seen the greeting.
async fn client_of(server: &Server) -> DuplexStream {
    let (mut ours, theirs) = tokio::io::duplex(1 << 16);
    server.serve(theirs);
    let mut greeting = [0; Greeting::NEWSTYLE_LEN];
    ours.read_exact(&mut greeting).await.unwrap();
    ours
}

/// How long until it is disconnected.
async fn left_after(mut client: DuplexStream) -> Duration {
    let since = tokio::time::Instant::now();
    client.read_to_end(&mut Vec::new()).await.unwrap();
    since.elapsed()
}

#[test]
fn a_client_that_says_nothing_is_disconnected_and_the_journal_says_why() {
    at_once(async {
        let server = builder().detached().unwrap();
        let after = left_after(client_of(&server).await).await;
        assert_eq!(after.as_secs(), 30);
        let short = builder().handshake_limit(Duration::from_secs(2)).detached().unwrap();
        let after = left_after(client_of(&short).await).await;
        assert_eq!(after.as_secs(), 2);
        let journal = short.finish().await.unwrap();
        let why = |e: &nbd::server::Entry| match &e.event {
            Event::Closed(Closed::Refused(why)) => why == "no export was chosen within 2s",
            _ => false,
        };
        assert_eq!(journal.count(why), 1, "{}", journal.to_json_lines());
    });
}

#[test]
fn a_client_that_goes_on_and_on_about_options_is_disconnected_as_well() {
    at_once(async {
        let server = builder().detached().unwrap();
        let mut client = client_of(&server).await;
        let since = tokio::time::Instant::now();
        let flags = ClientFlags::FIXED_NEWSTYLE.bits().to_be_bytes();
        client.write_all(&flags).await.unwrap();
        let (mut reading, mut writing) = tokio::io::split(client);
        let talk = async {
            while writing.write_all(&OptionRequest::List.encode()).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let mut heard = Vec::new();
        let (_, _) = tokio::join!(talk, reading.read_to_end(&mut heard));
        assert!(since.elapsed() < Duration::from_secs(33));
        assert!(heard.len() > 29 * OptionReplyHeader::LEN);
    });
}

#[test]
fn tls_is_a_part_of_the_handshake() {
    at_once(async {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls");
        let tls = ServerTls::from_certificates(folder, false).unwrap();
        let server = builder().tls(tls).detached().unwrap();
        let mut client = client_of(&server).await;
        let mut start = ClientFlags::FIXED_NEWSTYLE.bits().to_be_bytes().to_vec();
        start.extend(OptionRequest::StartTls.encode());
        client.write_all(&start).await.unwrap();
        assert_eq!(left_after(client).await.as_secs(), 30);
        // Nor does it keep the server from ending.
        let mut client = client_of(&server).await;
        client.write_all(&start).await.unwrap();
        let mut answer = [0; OptionReplyHeader::LEN];
        client.read_exact(&mut answer).await.unwrap();
        let since = tokio::time::Instant::now();
        server.finish().await.unwrap();
        assert_eq!(since.elapsed(), Duration::ZERO);
    });
}

#[test]
fn who_has_chosen_stays_as_long_as_it_likes_and_a_plan_takes_its_time() {
    at_once(async {
        let server = builder().detached().unwrap();
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        server.serve(theirs);
        let client = Client::builder().connect_stream(ours).await.unwrap();
        tokio::time::sleep(HOUR).await;
        assert_eq!(client.read(0, 512).await.unwrap(), [0; 512]);

        let slow = Rule::new(On::Greeting, Action::Delay(HOUR.as_millis() as u64));
        let server = builder().mode(Mode::Simple);
        let server = server.plan(FaultPlan::new().rule(slow)).detached().unwrap();
        let since = tokio::time::Instant::now();
        let client = client_of(&server).await;
        assert!(since.elapsed() >= HOUR);
        drop(client);
    });
}
