//! Clients that do not keep to the protocol, and servers that live on.

use std::ops::Range;
use std::path::Path;

use iotests_core::author::{Export, MachineNbd, NbdServer, Tls};
use iotests_core::prelude::*;
use nbd::proto::{Mode, OptionReplyCode};

use super::wire::Wire;

defaults! { formats = [RAW], groups = [AUTO, EXPORT] }

mod leaving;
mod limits;
mod names;
mod negotiation;
mod servers;
mod transmission;

/// Of clients with extended headers: those of servers that do not know them do not get that far.
const EXTENDED_HEADERS: Requirement = since(8, 2);

const SIZE: u64 = MIB;
/// The greatest length of a string.
const LONGEST: usize = 4096;
/// The greatest length of anything.
const MOST: u32 = 32 << 20;
const INVALID: u32 = 22;

/// How far the client has come in good order.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// It has the server's greeting.
    Greeting,
    Options(Mode),
    Transmission(Mode),
}

/// What a client sends then, and what has to come of it.
struct Attack {
    stage: Stage,
    sent: fn() -> Vec<u8>,
    follows: Follows,
}

enum Follows {
    /// Each option gets its reply of these, and the client can go on.
    Replies(&'static [OptionReplyCode]),
    /// Each request gets its error of these, 0 for none, and the next one is served.
    Errors(&'static [u32]),
    /// The request is served: this part of the disk is other than before.
    Writes(Range<u64>),
    /// The server hangs up, perhaps with an error before.
    HangUp,
    /// The server hangs up and says nothing more.
    HangUpAtOnce,
    /// The server waits for more, which does not come: the client leaves.
    Nothing,
}
use Follows::{Errors, HangUp, HangUpAtOnce, Nothing, Replies, Writes};

/// What serves the disk.
enum Serving {
    Machine,
    QemuNbd,
}

rows! {
    SERVERS: Serving;
    "by-a-machine" => Serving::Machine, host = Any, needs = [Driver("throttle")];
    "by-qemu-nbd" => Serving::QemuNbd, groups = [QUICK], needs = [Tool(ToolKind::Nbd)];
}

/// A disk, the server of it, and a client that keeps to the protocol.
struct Victim {
    disk: Image,
    server: Server,
    bystander: nbd::Client,
}

#[expect(clippy::large_enum_variant, reason = "there is one of it at a time")]
enum Server {
    Machine(Exporting),
    Program(NbdServer),
}

struct Exporting {
    vm: Machine,
    nbd: MachineNbd,
    export: Export,
    /// What the machine was like without a server.
    before: State,
}

impl Server {
    /// Of [`Victim::machine`].
    fn machine(self) -> CaseResult<Exporting> {
        match self {
            Server::Machine(exporting) => Ok(exporting),
            Server::Program(_) => Err(Failure::new("this is a qemu-nbd")),
        }
    }

    fn vm(&self) -> CaseResult<&Machine> {
        match self {
            Server::Machine(exporting) => Ok(&exporting.vm),
            Server::Program(_) => Err(Failure::new("this is a qemu-nbd")),
        }
    }
}

impl Victim {
    async fn create(t: &Test, serving: &Serving) -> CaseResult<Victim> {
        match serving {
            Serving::Machine => Victim::machine(t, None).await,
            Serving::QemuNbd => Victim::program(t).await,
        }
    }

    /// A machine exports the disk.
    async fn machine(t: &Test, tls: Option<&Tls>) -> CaseResult<Victim> {
        let disk = t.image("disk").size(SIZE).fill(0x11).create().await?;
        let slow = json!({"iops-write": 1});
        let node = Node::throttle("slow", disk.node().node_name("file"));
        let vm = t.host().throttle_group("slow", slow);
        // What it logs of such clients.
        let vm = vm.tolerate("option negotiation failed");
        let vm = vm.tolerate("Disconnect client, due to");
        let vm = vm.blockdev(node.node_name("disk")).launch().await?;
        let before = vm.state().await?;
        let mut nbd = vm.nbd_server().unix(t.socket("nbd")?);
        if let Some(tls) = tls {
            nbd = nbd.tls(tls);
        }
        let nbd = nbd.start().await?;
        let export = vm.export("disk").writable().await?;
        let bystander = export.client().await?;
        let server = Server::Machine(Exporting {
            vm,
            nbd,
            export,
            before,
        });
        Ok(Victim {
            disk,
            server,
            bystander,
        })
    }

    /// A qemu-nbd serves the disk.
    async fn program(t: &Test) -> CaseResult<Victim> {
        let disk = t.image("disk").size(SIZE).fill(0x11).create().await?;
        let server = t.nbd_server(&disk).export("disk").start().await?;
        let bystander = connect(&server).await?;
        let server = Server::Program(server);
        Ok(Victim {
            disk,
            server,
            bystander,
        })
    }

    fn socket(&self) -> CaseResult<&Path> {
        let socket = match &self.server {
            Server::Machine(machine) => machine.nbd.socket(),
            Server::Program(server) => server.socket(),
        };
        let socket = socket.ok_or_else(|| Failure::new("no socket"))?;
        Ok(Path::new(socket.as_str()))
    }

    /// A client of its own that has come this far.
    async fn reach(&self, stage: Stage) -> CaseResult<Wire> {
        let mut wire = Wire::connect(self.socket()?).await?;
        if let Stage::Options(mode) | Stage::Transmission(mode) = stage {
            wire.agree(mode).await?;
        }
        if let Stage::Transmission(_) = stage {
            wire.go("disk").await?;
        }
        Ok(wire)
    }

    /// Whatever the client sends, it alone bears the consequences.
    async fn bears(self, attack: &Attack) -> CaseResult {
        let mut wire = self.reach(attack.stage).await?;
        wire.send(&(attack.sent)()).await;
        let mut written = 0..0;
        match &attack.follows {
            Replies(codes) => {
                for code in *codes {
                    let answer = wire.answer().await?;
                    if answer != Some(*code) {
                        // That the server dies of it is worse, and may take it a moment.
                        wire.say_no_more().await;
                        wire.ended().await;
                    }
                    check!(answer == Some(*code));
                }
                wire.go("disk").await?;
                wire.assert_served().await?;
            }
            Errors(errors) => {
                for errno in *errors {
                    check!(wire.errno().await? == Some(*errno));
                }
                wire.assert_served().await?;
            }
            Writes(part) => {
                check!(wire.errno().await? == Some(0));
                wire.assert_served().await?;
                written.clone_from(part);
            }
            HangUp => drop(wire.ended().await),
            HangUpAtOnce => {
                let answer = wire.answer().await?;
                check!(answer.is_none(), "the server answered {answer:?}");
            }
            Nothing => drop(wire),
        }
        self.lives(&written).await?;
        self.ends(&written).await
    }

    /// The client that was connected all the time is served, and so is a new one.
    async fn lives(&self, written: &Range<u64>) -> CaseResult {
        assert_reads(&self.bystander, written).await?;
        let newcomer = match &self.server {
            Server::Machine(machine) => machine.export.client().await?,
            Server::Program(server) => connect(server).await?,
        };
        assert_reads(&newcomer, written).await?;
        newcomer.disconnect().await?;
        Ok(())
    }

    /// The export goes, though its clients are there, then the server; nothing is left of them, and on the disk is what was written.
    async fn ends(self, written: &Range<u64>) -> CaseResult {
        match self.server {
            Server::Machine(machine) => {
                machine.export.remove().await?;
                machine.nbd.stop().await?;
                machine.vm.assert_unchanged_since(&machine.before).await?;
                machine.vm.shutdown().await?;
            }
            Server::Program(server) => drop(server.stop().await?),
        }
        let content = Content::nothing().written(0x11, 0..SIZE);
        self.disk.assert_reads(content.written(0x22, written.clone())).await
    }
}

async fn connect(server: &NbdServer) -> CaseResult<nbd::Client> {
    let uri = server.uri().parse()?;
    Ok(nbd::Client::builder().connect_uri(&uri).await?)
}

async fn assert_reads(client: &nbd::Client, written: &Range<u64>) -> CaseResult {
    let mut expected = vec![0x11; SIZE as usize];
    expected[written.start as usize..written.end as usize].fill(0x22);
    let same = client.read(0, SIZE).await? == expected;
    check!(same, "a client reads what nobody has written");
    Ok(())
}
