//! Clients that leave, and servers that end, in each state of a client.

use std::future::IntoFuture;

use iotests_core::prelude::*;
use nbd::proto::{CommandType, Mode, OptionCode};

use super::super::wire::{Wire, option, option_header, request, with};
use super::Stage::{Greeting, Options, Transmission};
use super::{Exporting, Stage, Victim};

/// How far a client is, and what it does before it does nothing more.
struct Silent {
    stage: Stage,
    does: Does,
}

enum Does {
    Sends(fn() -> Vec<u8>),
    /// Sends this until nothing more is taken, and reads no replies.
    Clogs(fn() -> Vec<u8>),
}
use Does::{Clogs, Sends};

const PLAIN: Stage = Options(Mode::Simple);
const SIMPLE: Stage = Transmission(Mode::Simple);
const WRITE: u16 = CommandType::WRITE.0;

rows! {
    SILENTS: Silent { stage, does };
    "has-said-nothing" => Greeting, Sends(Vec::new);
    "has-sent-half-of-its-flags" => Greeting, Sends(|| vec![0, 0]);
    "is-in-negotiation" => PLAIN, Sends(Vec::new);
    "is-in-the-middle-of-an-option" => PLAIN, Sends(|| with(option_header(OptionCode::GO, 100),
        &[0; 10]));
    "reads-no-replies-to-its-options" => PLAIN, Clogs(|| option(OptionCode::LIST, &[]));
    "is-at-rest" => SIMPLE, Sends(Vec::new);
    "is-in-the-middle-of-a-request" => SIMPLE, Sends(|| request(CommandType::READ.0, 0, 0,
        512)[..10].to_vec());
    "is-in-the-middle-of-a-write" => SIMPLE, Sends(|| with(request(WRITE, 0, 0, 4096), &[0; 512]));
    "waits-for-its-writes" => SIMPLE, Sends(|| with(request(WRITE, 0, 0, 512),
        &[0x11; 512]).repeat(2));
    "reads-no-replies" => SIMPLE, Clogs(|| request(CommandType::READ.0, 0, 0, 64 * KIB));
}

impl Silent {
    async fn reach(&self, victim: &Victim) -> CaseResult<Wire> {
        let mut wire = victim.reach(self.stage).await?;
        match self.does {
            Sends(bytes) => wire.send(&bytes()).await,
            Clogs(bytes) => wire.clog(&bytes(), &victim.bystander).await?,
        }
        victim.lives(&(0..0)).await?;
        Ok(wire)
    }

    /// The server or the export of this client ends. What does so waits for who reads no replies (docs/qemu-findings.md), which therefore
    /// leaves meanwhile; any other client is there still, and is returned.
    async fn sees<T>(
        &self,
        wire: Wire,
        end: impl IntoFuture<Output = CaseResult<T>>,
    ) -> CaseResult<Option<Wire>> {
        let client = async {
            match self.does {
                Sends(_) => Some(wire),
                Clogs(_) => None,
            }
        };
        let (ended, client) = tokio::join!(end.into_future(), client);
        ended?;
        Ok(client)
    }
}

/// A client that the server has let go.
async fn let_go(client: Option<Wire>) {
    if let Some(mut wire) = client {
        wire.ended().await;
    }
}

rows! {
    LEAVINGS: &str;
    "leaves" => "leaves";
    "says-that-nothing-more-comes" => "says-no-more";
    "leaves-when-the-disk-is-drained" => "is-drained";
}

/// A client may leave in any state: others are served, and nothing is left of it. A drained section that waits for it ends then.
#[case(host = Any, rows = (SILENTS, LEAVINGS), groups = [QUICK], needs = [Driver("throttle")])]
async fn a_client_leaves_in_any_state(t: &mut Test, silent: &Silent, leaving: &&str) -> CaseResult {
    let victim = Victim::machine(t, None).await?;
    let mut wire = silent.reach(&victim).await?;
    match *leaving {
        "is-drained" => {
            let vm = victim.server.vm()?;
            vm.while_in_flight(vm.reopen("disk", |node| node), || drop(wire)).await?;
        }
        "says-no-more" => {
            wire.say_no_more().await;
            wire.ended().await;
        }
        _ => drop(wire),
    }
    victim.lives(&(0..0)).await?;
    victim.ends(&(0..0)).await
}

/// When an export is removed, its clients are disconnected in whatever state they are, and a client in negotiation is refused.
#[case(host = Any, rows = SILENTS, needs = [Driver("throttle")])]
async fn an_export_goes_while_a_client(t: &mut Test, silent: &Silent) -> CaseResult {
    let victim = Victim::machine(t, None).await?;
    let wire = silent.reach(&victim).await?;
    let mut newcomer = Wire::connect(victim.socket()?).await?;
    newcomer.agree(Mode::Simple).await?;
    let machine = victim.server.machine()?;
    let mut client = silent.sees(wire, machine.export.remove()).await?;
    if let Transmission(_) = silent.stage {
        let_go(client.take()).await;
    }
    check!(newcomer.go("disk").await.is_err(), "there is no export");
    drop((client, newcomer));
    machine.nbd.stop().await?;
    machine.vm.assert_unchanged_since(&machine.before).await?;
    machine.vm.shutdown().await?;
    victim.disk.assert_fill(0x11).await
}

/// When the server is stopped, its clients are disconnected in any state; when they leave, nothing happens, and the server can be started
/// again.
#[case(host = Any, rows = SILENTS, needs = [Driver("throttle")])]
async fn the_server_stops_while_a_client(t: &mut Test, silent: &Silent) -> CaseResult {
    if !matches!(silent.stage, Transmission(_)) {
        // Before, it waits for clients in negotiation forever (docs/qemu-findings.md).
        t.require(since(8, 2))?;
    }
    let victim = Victim::machine(t, None).await?;
    let wire = silent.reach(&victim).await?;
    let Exporting {
        vm, nbd, before, ..
    } = victim.server.machine()?;
    let_go(silent.sees(wire, nbd.stop()).await?).await;
    vm.assert_unchanged_since(&before).await?;
    vm.nbd_server().start().await?;
    vm.export("disk").await?.open().await?.assert_fill(0x11).await?;
    vm.shutdown().await?;
    victim.disk.assert_fill(0x11).await
}

/// A machine ends in good order, whatever state a client is in.
#[case(host = Any, rows = SILENTS, needs = [Driver("throttle")])]
async fn a_machine_ends_while_a_client(t: &mut Test, silent: &Silent) -> CaseResult {
    let victim = Victim::machine(t, None).await?;
    let wire = silent.reach(&victim).await?;
    let vm = victim.server.machine()?.vm;
    let_go(silent.sees(wire, vm.shutdown()).await?).await;
    victim.disk.assert_fill(0x11).await
}

/// qemu-nbd serves others and ends, whatever state a client is in.
#[case(rows = SILENTS, groups = [QUICK], needs = [Tool(ToolKind::Nbd)])]
async fn qemu_nbd_ends_while_a_client(t: &mut Test, silent: &Silent) -> CaseResult {
    let victim = Victim::program(t).await?;
    let wire = silent.reach(&victim).await?;
    let ends = Box::pin(victim.ends(&(0..0)));
    let_go(silent.sees(wire, ends).await?).await;
    Ok(())
}
