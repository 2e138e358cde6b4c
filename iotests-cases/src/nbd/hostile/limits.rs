//! How many clients a machine's server has at once, and for how long those that do not go on.

use std::path::Path;

use iotests_core::author::MachineNbd;
use iotests_core::prelude::*;
use nbd::proto::{Mode, OptionCode};

use super::super::wire::{Wire, option_header, with};
use super::SIZE;

defaults! { host = Any }

/// The argument `max-connections`, and how many clients it lets in.
struct Limit {
    given: Option<u32>,
    clients: Option<usize>,
}

rows! {
    LIMITS: Limit { given, clients };
    "a-hundred-by-default" => None, Some(100), fixed_in = fix(["9.1"], "c8a76dbd90");
    "one" => Some(1), Some(1);
    "two" => Some(2), Some(2);
    "more-than-by-default" => Some(101), Some(101);
    "all-that-come" => Some(0), None;
}

impl Limit {
    async fn server(&self, t: &Test, vm: &Machine) -> CaseResult<MachineNbd> {
        let mut server = vm.nbd_server().unix(t.socket("nbd")?);
        if let Some(given) = self.given {
            server = server.set("max-connections", given);
        }
        // Clients stay silent here, while all the others come.
        if t.has(Schema("nbd-server-start/arg-type/handshake-max-seconds"))? {
            server = server.set("handshake-max-seconds", 0);
        }
        server.start().await
    }
}

fn socket(server: &MachineNbd) -> CaseResult<&Path> {
    let socket = server.socket().ok_or_else(|| Failure::new("no socket"))?;
    Ok(Path::new(socket.as_str()))
}

/// The main loop of the machine goes round, more than once: whoever it has to let in is in.
async fn rounds(vm: &Machine) -> CaseResult {
    for _ in 0..3 {
        vm.cmd("query-block-exports", ()).await?;
    }
    Ok(())
}

/// A server lets in as many clients as it is set to, whatever they do then; the next ones wait outside, and one that leaves makes room for exactly
/// one of them.
#[case(rows = LIMITS, groups = [QUICK])]
async fn let_in(t: &mut Test, limit: &Limit) -> CaseResult {
    let disk = t.image("disk").size(SIZE).fill(0x11).create().await?;
    let vm = t.host().blockdev(&disk).tolerate("option negotiation failed").launch().await?;
    let before = vm.state().await?;
    let server = limit.server(t, &vm).await?;
    let export = vm.export("disk").await?;

    let mut inside = Vec::new();
    for _ in 0..limit.clients.unwrap_or(102) {
        inside.push(Wire::connect(socket(&server)?).await?);
    }
    if limit.clients.is_some() {
        let mut next = Wire::call(socket(&server)?).await?;
        let mut last = Wire::call(socket(&server)?).await?;
        next.hears_nothing_during(rounds(&vm)).await?;
        last.hears_nothing_during(rounds(&vm)).await?;

        inside.pop();
        next.take_greeting().await?;
        last.hears_nothing_during(rounds(&vm)).await?;
        drop(next);
        last.take_greeting().await?;
        inside.push(last);
    }
    for mut client in inside {
        client.agree(Mode::Simple).await?;
        client.go("disk").await?;
        client.assert_served().await?;
    }
    export.open().await?.assert_fill(0x11).await?;
    export.remove().await?;
    server.stop().await?;
    vm.assert_unchanged_since(&before).await?;
    vm.shutdown().await?;
    disk.assert_fill(0x11).await
}

rows! {
    TIMES: Option<u32>;
    "six-seconds" => Some(6), needs = [Schema("nbd-server-start/arg-type/handshake-max-seconds")];
    "ten-seconds-by-default" => None, fixed_in = fix(["9.1"], "b9b72cb3ce");
}

/// A client that does not finish its negotiation in time is dropped, however far it is; one that has finished is not, and others are served.
#[case(rows = TIMES)]
async fn drop_a_client_after(t: &mut Test, time: &Option<u32>) -> CaseResult {
    let disk = t.image("disk").size(SIZE).fill(0x11).create().await?;
    let vm = t.host().blockdev(&disk).tolerate("option negotiation failed").launch().await?;
    let mut server = vm.nbd_server().unix(t.socket("nbd")?);
    if let Some(seconds) = time {
        server = server.set("handshake-max-seconds", *seconds);
    }
    let server = server.start().await?;
    let export = vm.export("disk").await?;
    let path = socket(&server)?;

    let mut done = Wire::connect(path).await?;
    done.agree(Mode::Simple).await?;
    done.go("disk").await?;
    let mut silent = Wire::connect(path).await?;
    let mut negotiates = Wire::connect(path).await?;
    negotiates.agree(Mode::Structured).await?;
    let mut half = Wire::connect(path).await?;
    half.agree(Mode::Simple).await?;
    half.send(&with(option_header(OptionCode::GO, 100), &[0; 10])).await;
    for dropped in [&mut silent, &mut negotiates, &mut half] {
        dropped.hears_nothing_during(rounds(&vm)).await?;
    }
    for dropped in [&mut silent, &mut negotiates, &mut half] {
        check!(dropped.ended().await.is_empty());
    }

    done.assert_served().await?;
    export.open().await?.assert_fill(0x11).await?;
    vm.shutdown().await?;
    disk.assert_fill(0x11).await
}
