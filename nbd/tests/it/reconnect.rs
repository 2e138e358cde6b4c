//! A client that reconnects, a server that keeps dying, and the fate of each write.

use std::sync::Arc;

use nbd::proto::CommandType as C;
use nbd::server::backend::MemoryBackend;
use nbd::server::journal::Closed;
use nbd::server::plan::{Action, Closing, FaultPlan, On, Rule};
use nbd::server::{Event, Export, Server, WriteShadow};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::support::{Tools, all_tools, block_on, short_dir};

const BLOCK: u64 = 4096;
/// Drops in one story; there are two stories, one for each transport.
const DROPS: usize = 500;
/// Enough that requests are in flight until the last drop: between two drops of the plan below at
/// most three writes are done.
const WRITES: u64 = 1500;

/// One drop after the other, each at a place of its own drawn from the seed: a byte of a payload or
/// of a reply, so many messages after the drop before it.
///
/// Each rule waits for the one before it, and one that never fired fails the test.
fn deadly_plan(seed: u64) -> FaultPlan {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut plan = FaultPlan::new().seed(seed);
    let phase = |n: usize| if n == 0 { String::new() } else { n.to_string() };
    for n in 0..DROPS {
        let (on, most) = match rng.random() {
            true => (On::payload(), BLOCK),
            false => (On::reply(C::WRITE), 20),
        };
        let how = [Closing::Plain, Closing::Rst][rng.random_range(0..2)];
        let rule = Rule::new(on, Action::Close(how))
            .at_byte(rng.random_range(0..=most))
            .nth(rng.random_range(1..=4));
        plan = plan.rule(rule.phase(phase(n)).then(phase(n + 1)));
    }
    plan
}

/// Makes qemu-io write blocks, all in flight at once as far as its driver allows; returns how often
/// the connection was dropped.
async fn story(tools: &Tools, seed: u64, tcp: bool) -> usize {
    let dir = short_dir();
    let memory = Arc::new(MemoryBackend::new(WRITES * BLOCK));
    let shadow = WriteShadow::new();
    let server = Server::builder()
        .export(Export::shared(memory.clone()))
        .shadow(shadow.clone())
        .plan(deadly_plan(seed));
    let server = if tcp {
        server.listen_tcp()
    } else {
        server.listen_unix(dir.path().join("s"))
    };
    let server = server.unwrap();
    let mut script = String::new();
    for n in 0..WRITES {
        // Neighbours and repetitions differ, so that a misplaced block shows.
        let byte = (n % 251 + 1) as u8;
        shadow.intend(n * BLOCK, vec![byte; BLOCK as usize]);
        script += &format!("aio_write -P {byte} {} {BLOCK}\n", n * BLOCK);
    }
    script += "aio_flush\n";
    let opts = server.uri().unwrap().to_image_opts().unwrap() + ",reconnect-delay=600";
    let command = tools.io.command().args(["-t", "writeback", "--image-opts", &opts]);
    let output = command.stdin_data(script).run().await.unwrap();
    for line in output.stdout_text().lines() {
        if let Some((_, at)) = line.split_once("wrote 4096/4096 bytes at offset ") {
            shadow.acknowledge(at.trim().parse().unwrap());
        }
    }
    let acknowledged = output.stdout_text().matches("wrote 4096/4096").count() as u64;
    assert_eq!(acknowledged, WRITES, "{}", output.tail());
    let report = shadow.verify(&*memory).await.unwrap();
    assert!(report.is_intact(), "{}: {report:?}", tools.name);
    let dropped = |e: &nbd::server::Entry| e.event == Event::Closed(Closed::Fault);
    // That each rule has fired is what `finish` checks.
    let dropped = server.finish().await.unwrap().count(dropped);
    assert_eq!(dropped, DROPS);
    dropped
}

#[test]
fn no_write_is_lost_or_torn_over_a_thousand_random_drops_under_load() {
    let tools = all_tools();
    if tools.is_empty() {
        return;
    }
    let drops: usize = block_on(async {
        let mut stories = tokio::task::JoinSet::new();
        for (n, tools) in tools.into_iter().enumerate() {
            stories.spawn(async move {
                let (unix, tcp) = (
                    story(&tools, n as u64, false),
                    story(&tools, n as u64 + 7, true),
                );
                let (unix, tcp) = tokio::join!(unix, tcp);
                unix + tcp
            });
        }
        stories.join_all().await.into_iter().min().unwrap()
    });
    println!("{drops} drops");
    assert!(drops >= 1000, "only {drops} drops");
}

#[test]
fn the_shadow_tells_lost_torn_doubled_and_foreign_writes_apart() {
    block_on(async {
        let write = On::request(C::WRITE);
        let plan = FaultPlan::new()
            .rule(Rule::new(write.clone(), Action::LoseWrite).nth(2))
            .rule(Rule::new(write, Action::TearWrite(100)).nth(3));
        let memory = Arc::new(MemoryBackend::new(8192));
        let shadow = WriteShadow::new();
        let server = Server::builder().export(Export::shared(memory.clone()));
        let server = server.shadow(shadow.clone()).plan(plan).detached().unwrap();
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        server.serve(theirs);
        let client = nbd::Client::builder().connect_stream(ours).await.unwrap();
        for n in 0..4u64 {
            let data = vec![n as u8 + 1; 512];
            shadow.intend(n * 512, data.clone());
            client.write(n * 512, data).await.unwrap();
            shadow.acknowledge(n * 512);
        }
        client.write(0, vec![1; 512]).await.unwrap();
        client.write(3 * 512, vec![9; 512]).await.unwrap();
        client.write(4096, vec![5; 512]).await.unwrap();
        let report = shadow.verify(&*memory).await.unwrap();
        assert_eq!(report.lost, [(512, 512)]);
        assert_eq!(report.torn, [(1024, 512)]);
        assert_eq!(report.doubled, [(0, 512), (1536, 512)]);
        assert_eq!(report.conflicting, [(1536, 512)]);
        assert_eq!(report.wrong, [(1536, 512)]);
        assert_eq!(report.foreign, [(4096, 512)]);
        assert!(!report.is_intact());
        server.finish().await.unwrap();
    });
}
