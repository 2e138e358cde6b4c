//! The client for work: several connections, any length, reconnection, copies.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_core::Stream;
use nbd::client::{BlockSizes, Handle, HandleError, Reconnect};
use nbd::proto::CommandType;
use nbd::server::backend::{MemoryBackend, ZeroBackend};
use nbd::server::{Action, Entry, Event, Export, FaultPlan, On, Rule, Server};
use nbd::{Client, Uri};

use crate::support::{MIB, block_on, on_one_thread, short_dir};

/// More than any machine needs.
const LONG: Duration = Duration::from_secs(60);

fn pattern(len: u64) -> Vec<u8> {
    (0..len).map(|n| (n / 509) as u8).collect()
}

async fn open(uri: &Uri, connections: usize, reconnect: Reconnect) -> Handle {
    let builder = Client::builder().context("base:allocation").handle();
    let builder = builder.connections(connections).reconnect(reconnect);
    builder.connect_uri(uri).await.unwrap()
}

#[test]
fn requests_of_any_length_go_over_all_connections_within_the_servers_limits() {
    block_on(async {
        let memory = Arc::new(MemoryBackend::new(4 * MIB));
        let sizes = BlockSizes {
            minimum: 512,
            preferred: 4096,
            maximum: 65536,
        };
        let export = Export::shared(memory.clone()).block_sizes(sizes);
        let server = Server::builder().export(export).listen_tcp().unwrap();
        let disk = open(&server.uri().unwrap(), 4, Reconnect::Never).await;
        assert_eq!(disk.connections(), 4);
        let data = pattern(3 * MIB);
        disk.write(512, data.clone()).await.unwrap();
        assert_eq!(disk.read(512, 3 * MIB).await.unwrap(), data);
        assert_eq!(memory.snapshot(512, 3 * MIB), data);
        disk.flush().await.unwrap();
        let journal = server.journal();
        let flushes = |e: &nbd::server::Entry| {
            matches!(
                e.event,
                Event::Request {
                    command: CommandType::FLUSH,
                    ..
                }
            )
        };
        assert_eq!(journal.count(flushes), 4, "a flush means all connections");
        let begun = |e: &nbd::server::Entry| matches!(e.event, Event::Transmission { .. });
        assert_eq!(journal.count(begun), 4);
        let large =
            |e: &nbd::server::Entry| matches!(e.event, Event::Request { len, .. } if len > 65536);
        assert_eq!(journal.count(large), 0);
        disk.trim(0, 4 * MIB).await.unwrap();
        assert_eq!(disk.read(0, MIB).await.unwrap(), vec![0; MIB as usize]);
        disk.disconnect().await;
        server.finish().await.unwrap();
    });
}

#[test]
fn a_lost_connection_is_made_again_and_the_request_sent_again() {
    block_on(async {
        let memory = Arc::new(MemoryBackend::new(MIB));
        let lost = Rule::new(On::payload(), Action::CLOSE).at_byte(100).nth(2);
        let absent = Rule::new(On::Accept, Action::CLOSE).connection(2);
        let server = Server::builder()
            .export(Export::shared(memory.clone()))
            .plan(FaultPlan::new().rule(lost).rule(absent))
            .listen_tcp()
            .unwrap();
        let uri = server.uri().unwrap();
        let disk = open(&uri, 1, Reconnect::Within(LONG)).await;
        for n in 0..4 {
            disk.write(n * 4096, vec![n as u8 + 1; 4096]).await.unwrap();
        }
        for n in 0..4 {
            assert_eq!(memory.snapshot(n * 4096, 4096), vec![n as u8 + 1; 4096]);
        }
        disk.disconnect().await;
        server.finish().await.unwrap();
    });
}

#[test]
fn without_a_policy_a_lost_connection_is_an_error_and_another_export_is_never_taken_for_it() {
    block_on(async {
        let plan =
            || FaultPlan::new().rule(Rule::new(On::request(CommandType::READ), Action::CLOSE));
        let server = |size| {
            let export = Export::new(MemoryBackend::new(size));
            Server::builder().export(export).plan(plan())
        };
        let first = server(MIB).listen_tcp().unwrap();
        let disk = open(&first.uri().unwrap(), 1, Reconnect::Never).await;
        let error = disk.read(0, 512).await.unwrap_err();
        assert!(matches!(error, HandleError::Request(_)), "{error}");
        let disk = open(&first.uri().unwrap(), 1, Reconnect::Within(LONG)).await;
        first.remove_export("");
        first.add_export(Export::new(MemoryBackend::new(2 * MIB)));
        first.stop_listening().await.unwrap();
        first.listen_again().await.unwrap();
        // The rule has fired; this connection is ended by its owner.
        disk.clone().disconnect().await;
        let error = disk.read(0, 512).await.unwrap_err();
        assert!(matches!(error, HandleError::Changed { .. }), "{error}");
        first.finish().await.unwrap();
    });
}

#[test]
fn copies_keep_content_and_holes_both_ways() {
    use std::os::unix::fs::MetadataExt;
    block_on(async {
        let dir = short_dir();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let mut content = vec![0; 8 * MIB as usize];
        content[MIB as usize..2 * MIB as usize].copy_from_slice(&pattern(MIB));
        let file = std::fs::File::create(&from).unwrap();
        file.set_len(8 * MIB).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &pattern(MIB), MIB).unwrap();
        let memory = Arc::new(MemoryBackend::new(8 * MIB));
        let server = Server::builder().export(Export::shared(memory.clone()));
        let server = server.listen_tcp().unwrap();
        let disk = open(&server.uri().unwrap(), 2, Reconnect::Never).await;
        let mut seen = Vec::new();
        disk.copy_from_file(&from, |done, total| seen.push((done, total))).await.unwrap();
        assert_eq!(seen.last(), Some(&(8 * MIB, 8 * MIB)));
        assert!(seen.is_sorted());
        assert_eq!(memory.snapshot(0, 8 * MIB), content);
        let mut last = (0, 0);
        disk.copy_to_file(&to, |done, total| last = (done, total)).await.unwrap();
        assert_eq!(last, (8 * MIB, 8 * MIB));
        assert_eq!(std::fs::read(&to).unwrap(), content);
        let blocks = std::fs::metadata(&to).unwrap().blocks() * 512;
        assert!(blocks < 4 * MIB, "{blocks} bytes are allocated");
        let mut extents = disk.extents("base:allocation", 0..8 * MIB);
        let mut at = 0;
        while let Some(extent) = extents.next().await {
            let extent = extent.unwrap();
            assert_eq!(extent.offset, at);
            at = extent.end();
        }
        assert_eq!(at, 8 * MIB);
        let missing = disk.copy_from_file(dir.path().join("none"), |_, _| {}).await;
        assert!(
            matches!(missing, Err(HandleError::File { .. })),
            "{missing:?}"
        );
        server.finish().await.unwrap();
    });
}

#[test]
fn a_copy_that_is_dropped_sends_no_further_request() {
    // One thread: nothing is about to be sent when the copy is dropped.
    on_one_thread(async {
        let dir = short_dir();
        let content = pattern(64 * MIB);
        let export = Export::new(MemoryBackend::with_content(&content));
        let server = Server::builder().export(export).listen_tcp().unwrap();
        let disk = open(&server.uri().unwrap(), 1, Reconnect::Never).await;
        let begun = tokio::sync::Notify::new();
        tokio::select! {
            biased;
            () = begun.notified() => {}
            done = disk.copy_to_file(dir.path().join("to"), |_, _| begun.notify_one()) => {
                panic!("{done:?}")
            }
        }
        let read = |e: &Entry| matches!(e.event, Event::Request { command, .. } if command == CommandType::READ);
        // What was sent before the flush is in the journal after it.
        disk.flush().await.unwrap();
        let sent = server.journal().count(read);
        assert!((1..40).contains(&sent), "{sent} of 64");
        disk.flush().await.unwrap();
        assert_eq!(server.journal().count(read), sent);
        disk.disconnect().await;
        server.finish().await.unwrap();
    });
}

/// A server that shuts down has not carried the request out, and one that comes after it may.
#[test]
fn a_request_that_a_server_refuses_at_its_end_is_sent_to_the_next_one() {
    block_on(async {
        let going = Action::error(nbd::proto::Errno::ESHUTDOWN);
        let going = Rule::new(On::request(CommandType::READ), going).nth(2);
        let export = Export::new(MemoryBackend::with_content(&pattern(MIB)));
        let server = Server::builder().export(export);
        let server = server.plan(FaultPlan::new().rule(going));
        let server = server.listen_tcp().unwrap();
        let uri = server.uri().unwrap();
        let disk = open(&uri, 1, Reconnect::Within(LONG)).await;
        let half = MIB / 2;
        for at in [0, half] {
            let data = disk.read(at, half).await.unwrap();
            assert_eq!(data, pattern(MIB)[at as usize..][..half as usize]);
        }
        let begun = |e: &nbd::server::Entry| matches!(e.event, Event::Transmission { .. });
        assert_eq!(server.journal().count(begun), 2);
        disk.disconnect().await;
        server.finish().await.unwrap();
    });
}

/// A refusal may come late: by then the connection it came on is not the one that is in use.
#[test]
fn a_late_refusal_does_not_end_the_connection_that_was_made_since() {
    block_on(async {
        let going = Action::error(nbd::proto::Errno::ESHUTDOWN);
        let going = Rule::new(On::request(CommandType::READ), going).times(2);
        let held = |trigger: &str, nth| {
            let hold = Action::HoldReply(trigger.into());
            Rule::new(On::reply(CommandType::READ), hold).nth(nth)
        };
        let rules = [going, held("first", 1), held("second", 2)];
        let first = |plan: FaultPlan, rule: Rule| plan.rule(rule.connection(1));
        let plan = rules.into_iter().fold(FaultPlan::new(), first);
        let export = Export::new(MemoryBackend::new(MIB));
        let server = Server::builder().export(export).plan(plan);
        let server = server.listen_tcp().unwrap();
        let disk = open(&server.uri().unwrap(), 1, Reconnect::Within(LONG)).await;
        let reads = [0, 512].map(|at| {
            let disk = disk.clone();
            tokio::spawn(async move { disk.read(at, 512).await })
        });
        let journal = server.journal();
        let replies = |e: &Entry| matches!(e.event, Event::Reply { .. });
        journal.wait_for(2, replies).await.unwrap();
        server.trigger("first").set();
        // One of the reads has been answered on the second connection before the other is refused.
        journal.wait_for(3, replies).await.unwrap();
        server.trigger("second").set();
        for read in reads {
            assert_eq!(read.await.unwrap().unwrap(), [0; 512]);
        }
        let begun = |e: &Entry| matches!(e.event, Event::Transmission { .. });
        assert_eq!(journal.count(begun), 2);
        disk.disconnect().await;
        server.finish().await.unwrap();
    });
}

#[test]
fn more_than_memory_holds_is_refused_whatever_size_the_server_claims() {
    block_on(async {
        let export = Export::new(ZeroBackend::sparse(1 << 63));
        let server = Server::builder().export(export).listen_tcp().unwrap();
        let disk = open(&server.uri().unwrap(), 1, Reconnect::Never).await;
        let error = disk.read(0, disk.export().size).await.unwrap_err();
        assert!(error.to_string().contains("not enough memory"), "{error}");
        assert_eq!(disk.read(1 << 62, 512).await.unwrap(), [0; 512]);
        server.finish().await.unwrap();
    });
}

#[test]
fn what_is_beyond_the_end_is_refused_before_any_part_of_it_is_carried_out() {
    block_on(async {
        let memory = Arc::new(MemoryBackend::new(MIB));
        let server = Server::builder().export(Export::shared(memory.clone()));
        let server = server.max_payload(4 * MIB).listen_tcp().unwrap();
        let disk = open(&server.uri().unwrap(), 1, Reconnect::Never).await;
        let none = nbd::proto::CommandFlags::empty();
        let refused = [
            disk.read(0, u64::MAX).await.err(),
            disk.read(u64::MAX, 1).await.err(),
            disk.write(512, vec![1; MIB as usize]).await.err(),
            disk.write_zeroes(0, u64::MAX, none).await.err(),
            disk.trim(MIB, 512).await.err(),
        ];
        for error in refused {
            let error = error.unwrap();
            assert!(error.to_string().contains("beyond the end"), "{error}");
        }
        assert_eq!(memory.snapshot(0, MIB), vec![0; MIB as usize]);
        server.finish().await.unwrap();
    });
}

/// Holes of a file end where its file system says, and its end is where it is: neither has to be
/// where a block of the export ends.
#[test]
fn a_file_of_any_size_is_copied_to_an_export_with_large_blocks() {
    use std::os::unix::fs::FileExt;
    block_on(async {
        let dir = short_dir();
        let path = dir.path().join("from");
        let file = std::fs::File::create(&path).unwrap();
        let (size, at) = (3 * MIB + 1000, MIB + 4096);
        file.set_len(size).unwrap();
        file.write_all_at(&pattern(4096), at).unwrap();
        file.write_all_at(&pattern(900), 3 * MIB + 50).unwrap();
        let sizes = BlockSizes {
            minimum: 65536,
            preferred: 65536,
            maximum: 1 << 20,
        };
        let before = vec![9; 4 * MIB as usize];
        let memory = Arc::new(MemoryBackend::with_content(&before));
        let export = Export::shared(memory.clone()).block_sizes(sizes);
        let server = Server::builder().export(export).listen_tcp().unwrap();
        let disk = open(&server.uri().unwrap(), 2, Reconnect::Never).await;
        let mut seen = (0, 0);
        let copied = disk.copy_from_file(&path, |done, total| seen = (done, total));
        copied.await.unwrap();
        assert_eq!(seen, (size, size));
        let flush = |e: &nbd::server::Entry| {
            let flush = CommandType::FLUSH;
            matches!(e.event, Event::Request { command, .. } if command == flush)
        };
        assert_eq!(server.journal().count(flush), 2, "it is not flushed");
        let content = std::fs::read(&path).unwrap();
        assert!(memory.snapshot(0, size) == content, "the content differs");
        let rest = memory.snapshot(size, 4 * MIB - size);
        assert!(rest.iter().all(|b| *b == 9), "what was behind it is gone");
        // And back, which no request can do to the end.
        let export = Export::new(MemoryBackend::new(MIB + 1)).block_sizes(sizes);
        server.add_export(export.name("odd"));
        let odd = server.uri().unwrap().with_export("odd");
        let odd = open(&odd, 1, Reconnect::Never).await;
        let to = dir.path().join("to");
        let error = odd.copy_to_file(&to, |_, _| {}).await.unwrap_err();
        assert!(error.to_string().contains("last 1 bytes"), "{error}");
        assert!(!to.exists());
        let error = odd.copy_from_file(&path, |_, _| {}).await.unwrap_err();
        assert!(matches!(error, HandleError::TooLarge { .. }), "{error}");
        server.finish().await.unwrap();
    });
}

#[test]
fn parts_are_aligned_though_the_largest_payload_is_not() {
    block_on(async {
        let sizes = BlockSizes {
            minimum: 4096,
            preferred: 4096,
            maximum: 1 << 20,
        };
        let export = Export::new(MemoryBackend::new(MIB)).block_sizes(sizes);
        let server = Server::builder().export(export).listen_tcp().unwrap();
        let builder = Client::builder().max_payload(100_000).handle();
        let disk = builder.connect_uri(&server.uri().unwrap()).await.unwrap();
        disk.write(0, pattern(MIB)).await.unwrap();
        assert_eq!(disk.read(0, MIB).await.unwrap(), pattern(MIB));
        server.finish().await.unwrap();
    });
}

/// As anything that takes streams does.
async fn collected<S: Stream>(stream: S) -> Vec<S::Item> {
    let mut stream = std::pin::pin!(stream);
    let mut items = Vec::new();
    while let Some(item) = poll_fn(|cx| stream.as_mut().poll_next(cx)).await {
        items.push(item);
    }
    items
}

#[test]
fn extents_are_a_stream_which_loses_nothing_when_a_wait_is_given_up() {
    on_one_thread(async {
        let memory = MemoryBackend::new(4 * MIB);
        let server = Server::builder().export(Export::new(memory));
        let server = server.listen_tcp().unwrap();
        let disk = open(&server.uri().unwrap(), 1, Reconnect::Never).await;
        disk.write(MIB, vec![1; MIB as usize]).await.unwrap();
        let mut extents = disk.extents("base:allocation", 0..4 * MIB);
        {
            let mut next = std::pin::pin!(extents.next());
            let first = poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx).is_pending()));
            assert!(first.await, "the question is under way");
        }
        let found: Vec<_> = collected(extents).await;
        let found: Vec<_> = found.into_iter().map(Result::unwrap).collect();
        let entry = |n: u64, len: u64| (n * MIB, len * MIB);
        let places: Vec<_> = found.iter().map(|e| (e.offset, e.len)).collect();
        assert_eq!(places, [entry(0, 1), entry(1, 1), entry(2, 2)]);
        let asked = |e: &Entry| matches!(e.event, Event::Request { command, .. } if command == CommandType::BLOCK_STATUS);
        assert_eq!(server.journal().count(asked), 1, "it is asked again");
        // After an error it ends, however much is left.
        let wrong = collected(disk.extents("no:such", 0..1 << 40)).await;
        assert!(wrong.len() == 1 && wrong[0].is_err(), "{wrong:?}");
        server.finish().await.unwrap();
    });
}
