//! NBD clients of QEMU whose server goes away and comes back.

use iotests_core::author::StoppedNbdServer;
use iotests_core::prelude::*;
use nbd::proto::{CommandType, Mode};
use nbd::server::backend::MemoryBackend;
use nbd::server::journal::Closed;
use nbd::server::plan::Closing;
use nbd::server::{Action as Fault, Event, Export, FaultPlan, On, Rule, Server};

use super::CLOSED;
use crate::json::number;

/// How long a client looks for its lost server: longer than any case may run, so that whoever waits
/// for that to pass is noticed.
const FOREVER: u32 = 24 * 60 * 60;

/// So slow that a job stays at its first steps until its speed is raised.
const SLOW: u64 = 64 * KIB;
const SIZE: u64 = 8 * MIB;

/// A job that writes to an NBD server, and was caught in its middle when the server was stopped.
struct Caught {
    source: Image,
    target: Image,
    vm: Machine,
    server: StoppedNbdServer,
    job: Job,
}

/// Starts the job, and ends its server when it has copied something but not all. The client has
/// looked for the server since, and was hung up on.
///
/// (Killed, the server might lose what it had taken but not flushed, and be right to.)
async fn catch(t: &Test, command: &str, may_print: &[&str]) -> CaseResult<Caught> {
    let mut source = t.image("source").size(SIZE);
    for part in 0..8 {
        source = source.write(
            0x11 + part,
            u64::from(part) * MIB..u64::from(part + 1) * MIB,
        );
    }
    let source = source.create().await?;
    let target = t.image("target").size(SIZE).create().await?;
    let server = t.nbd_server(&target).hold_address().start().await?;
    let machine = t.host().disk(&source);
    let machine = may_print.iter().fold(machine, |it, text| it.tolerate(text));
    let vm = machine.launch().await?;
    let client = server.node().set("reconnect-delay", FOREVER);
    let node = Node::new("raw").node_name("remote").file(client);
    vm.add_node(node).await?;

    t.step("the server goes");
    let arguments = json!({"device": "source", "target": "remote", "sync": "full"});
    let mut job = vm.job(command, arguments).speed(SLOW);
    if command == "blockdev-mirror" {
        // Otherwise it has all of this disk in flight at once, whatever its speed.
        job = job.set("buf-size", 64 * KIB);
    }
    let job = job.start().await?;
    let begun = |job: &Value| job["current-progress"].as_u64() > Some(0);
    job.until("something copied", begun).await?;
    let server = server.stop().await?;
    job.set_speed(0).await?;
    server.hang_up().await?;

    let info = job.info().await?;
    info.assert("status", "running")?;
    let done = number(&info, "current-progress")?;
    check!(done < SIZE, "the job is not half done: {info}");
    Ok(Caught {
        source,
        target,
        vm,
        server,
        job,
    })
}

rows! {
    SURVIVORS: &str;
    "backup" => "blockdev-backup", upstream = "264::TestNbdReconnect::test_backup";
    "mirror" => "blockdev-mirror";
}

/// A job whose NBD server was stopped goes on when a new one listens at the same place, and loses
/// nothing.
#[case(
    formats = [QCOW2], groups = [JOB], needs = [Tool(ToolKind::Nbd)], host = Any, rows = SURVIVORS
)]
async fn a_job_survives_a_restart_of_its_server(t: &mut Test, command: &&str) -> CaseResult {
    let Caught {
        source,
        target,
        vm,
        server,
        job,
    } = catch(t, command, &[]).await?;

    t.step("the server comes back");
    let server = server.start().await?;
    let ended = match *command {
        "blockdev-mirror" => job.complete().await?,
        _ => job.wait().await?,
    };
    ended.event.assert("data/offset", SIZE)?;
    ended.event.assert_absent("data/error")?;
    check!(vm.take_events("BLOCK_JOB_ERROR") == [Value::Null; 0]);
    vm.assert_no_jobs().await?;
    if *command == "blockdev-backup" {
        vm.remove_node("remote").await?;
    }
    vm.shutdown().await?;
    server.stop().await?;
    target.assert_same_as(&source).await?;
    target.assert_clean().await
}

rows! {
    CANCELLED: &str;
    "backup" => "blockdev-backup", upstream = "264::TestNbdReconnect::test_backup_cancel";
    "mirror" => "blockdev-mirror", upstream = "264::TestNbdReconnect::test_mirror_cancel";
}

/// A job that waits for its lost NBD server is cancelled at once, not when the client gives up; the
/// node can be removed, and the source is as it was.
#[case(
    formats = [QCOW2], groups = [JOB], needs = [Tool(ToolKind::Nbd)], host = Any, rows = CANCELLED
)]
async fn a_job_without_its_server_is_cancelled_at_once(t: &mut Test, command: &&str) -> CaseResult {
    let Caught {
        source, vm, job, ..
    } = catch(t, command, &[CLOSED]).await?;

    t.step("cancel");
    let ended = job.force_cancel().await?;
    ended.event.assert("event", "BLOCK_JOB_CANCELLED")?;
    check!(ended.outcome == Outcome::Cancelled);
    check!(vm.take_events("BLOCK_JOB_COMPLETED") == [Value::Null; 0]);
    vm.assert_no_jobs().await?;
    vm.remove_node("remote").await?;
    vm.assert_chain("source").await?;
    vm.shutdown().await?;
    let part = |n: u8| (0x11 + n, u64::from(n) * MIB..u64::from(n + 1) * MIB);
    source.assert_patterns(&(0..8).map(part).collect::<Vec<_>>()).await?;
    source.assert_clean().await
}

/// Where the server drops a client that writes, and on which connection.
struct Drops {
    mode: Mode,
    plan: fn() -> FaultPlan,
    /// How often the whole write arrives.
    writes: usize,
    /// How many connections die by a fault.
    faults: usize,
}

rows! {
    DROPS: Drops { mode, faults, plan, writes: 2 };
    "after-data-then-after-reply" => Mode::ExportName, 2, || {
        let after_reply = Rule::new(On::reply(CommandType::WRITE), Fault::CLOSE).after();
        first(Rule::new(On::payload(), Fault::CLOSE).after()).rule(after_reply.connection(2))
    }, upstream = "277";
    "after-data" => Mode::Extended, 1, || first(Rule::new(On::payload(), Fault::CLOSE).after());
    "after-request" => Mode::Extended, 1,
        || first(Rule::new(On::request(CommandType::WRITE), Fault::CLOSE).after());
    "within-data" => Mode::Extended, 1,
        || first(Rule::new(On::payload(), Fault::CLOSE).at_byte(MIB));
    "before-reply" => Mode::Extended, 1,
        || first(Rule::new(On::reply(CommandType::WRITE), Fault::CLOSE));
    "within-reply" => Mode::Extended, 1,
        || first(Rule::new(On::reply(CommandType::WRITE), Fault::CLOSE).at_byte(8));
    "end-of-stream-before-reply" => Mode::Extended, 1,
        || first(Rule::new(On::reply(CommandType::WRITE), Fault::Close(Closing::Fin)));
    "after-data-then-in-negotiation" => Mode::Extended, 2, || {
        let in_negotiation = Rule::new(On::Greeting, Fault::CLOSE).after();
        first(Rule::new(On::payload(), Fault::CLOSE).after()).rule(in_negotiation.connection(2))
    };
}

/// The first connection dies by this rule, the next one is left alone.
fn first(rule: Rule) -> FaultPlan {
    FaultPlan::new().rule(rule.connection(1))
}

/// A client that is dropped in the middle of a write reconnects, sends all of it again, and reports
/// success only when all of it was taken.
#[case(formats = [RAW], groups = [QUICK], rows = DROPS)]
async fn a_dropped_write_is_sent_again(t: &mut Test, drops: &Drops) -> CaseResult {
    let length = 3 * MIB;
    let disk = std::sync::Arc::new(MemoryBackend::new(8 * MIB));
    let socket = t.socket("nbd")?;
    let server = Server::builder()
        .export(Export::shared(disk.clone()))
        .mode(drops.mode)
        .plan((drops.plan)())
        .listen_unix(&*socket)?;
    let client = client_options(&socket.as_option(), FOREVER);
    let write = [
        "-c",
        "write -P 0x7 0 3M",
        "-c",
        "read -P 0x7 0 3M",
        "-c",
        "read -P 0 3M 5M",
    ];
    let write = t.qemu_io(["--image-opts", &client]).args(write);
    let printed = write.text().await?;
    let all = "wrote 3145728/3145728 bytes at offset 0";
    check!(printed.contains(all), "not all was written: {printed}");

    // That every fault really happened is for `finish` to say.
    let journal = server.finish().await?;
    let is_write = |event: &Event| matches!(event, Event::Request { command, offset: 0, len, .. } if *command == CommandType::WRITE && *len == length);
    let writes = journal.count(|entry| is_write(&entry.event));
    let faults = journal.count(|entry| entry.event == Event::Closed(Closed::Fault));
    let journal = journal.to_json_lines();
    check!(writes == drops.writes, "{journal}");
    check!(faults == drops.faults, "{journal}");
    let content = disk.snapshot(0, 8 * MIB);
    let (written, rest) = content.split_at(usize::try_from(length)?);
    check!(written.iter().all(|byte| *byte == 7));
    check!(rest.iter().all(|byte| *byte == 0));
    Ok(())
}

/// A request other than a write, and what qemu-io does with it in it.
struct Request {
    command: CommandType,
    io: &'static str,
}

rows! {
    REQUESTS: Request { command, io };
    "read" => CommandType::READ, "read -P 0 512k 1M";
    "zeroes" => CommandType::WRITE_ZEROES, "write -z 512k 1M";
    "trim" => CommandType::TRIM, "discard 512k 1M";
    "flush" => CommandType::FLUSH, "flush";
    "block-status" => CommandType::BLOCK_STATUS, "map";
}

/// Whatever request it is dropped in, a client reconnects and sends that again.
#[case(formats = [RAW], groups = [QUICK], rows = REQUESTS)]
async fn a_dropped_request_is_sent_again(t: &mut Test, dropped: &Request) -> CaseResult {
    let socket = t.socket("nbd")?;
    let drop = Rule::new(On::reply(dropped.command), Fault::CLOSE);
    let server = Server::builder()
        .export(Export::new(MemoryBackend::new(8 * MIB)))
        .plan(first(drop))
        .listen_unix(&*socket)?;
    let client = client_options(&socket.as_option(), FOREVER) + ",discard=unmap";
    let io = ["-c", "write -P 7 4M 64k", "-c", dropped.io];
    t.qemu_io(["--image-opts", &client]).args(io).await?;

    let journal = server.finish().await?;
    let mut sent = Vec::new();
    for entry in journal.entries() {
        match entry.event {
            Event::Request {
                command,
                offset,
                len,
                ..
            } if command == dropped.command => sent.push((entry.connection, offset, len)),
            _ => {}
        }
    }
    let is_sent_again = match sent[..] {
        [(1, offset, len), (2, again, length), ..] => (offset, len) == (again, length),
        _ => false,
    };
    check!(is_sent_again, "the requests: {sent:?}");
    Ok(())
}

/// A client without a reconnect delay fails a request that is dropped, and reconnects for a later one.
#[case(formats = [RAW], groups = [QUICK])]
async fn without_a_delay_only_one_request_fails(t: &mut Test) -> CaseResult {
    let socket = t.socket("nbd")?;
    let drop = Rule::new(On::reply(CommandType::WRITE), Fault::CLOSE);
    let server = Server::builder()
        .export(Export::new(MemoryBackend::new(8 * MIB)))
        .plan(first(drop))
        .listen_unix(&*socket)?;
    let client = client_options(&socket.as_option(), 0);
    let mut client = t.qemu_io(["--image-opts", &client]).session().await?;
    client.expect_error("write -P 7 0 64k", "write failed: Input/output error").await?;
    // The first attempts come while it still connects.
    loop {
        match client.run("write -P 8 64k 64k").await {
            Ok(_) => break,
            Err(failure) if failure.message().contains("write failed: Input/output error") => {}
            Err(failure) => return Err(failure),
        }
    }
    client.run("read -P 8 64k 64k").await?;
    client.close().await?;
    server.finish().await?;
    Ok(())
}

/// A client waits for its server as long as its delay allows, then fails the request.
#[case(formats = [RAW])]
async fn a_lost_server_is_abandoned(t: &mut Test) -> CaseResult {
    let socket = t.socket("nbd")?;
    let drop = Rule::new(On::reply(CommandType::WRITE), Fault::CLOSE);
    let server = Server::builder()
        .export(Export::new(MemoryBackend::new(8 * MIB)))
        .plan(first(drop))
        .listen_unix(&*socket)?;
    // The least that can be said.
    let client = client_options(&socket.as_option(), 1);
    let mut client = t.qemu_io(["--image-opts", &client]).session().await?;
    client.run("read -P 0 0 64k").await?;
    server.stop_listening().await?;
    client.expect_error("write -P 7 0 64k", "write failed: Input/output error").await?;
    client.expect_error("read 0 64k", "read failed: Input/output error").await?;
    client.close().await?;
    server.finish().await?;
    Ok(())
}

/// A client of the server at this socket, as qemu-io takes it.
fn client_options(path: &str, delay: u32) -> String {
    format!("driver=nbd,server.type=unix,server.path={path},reconnect-delay={delay}")
}
