//! Servers that do not keep to the protocol, and machines that are their clients.

use iotests_core::author::TestFile;
use iotests_core::prelude::*;
use nbd::client::BlockSizes;
use nbd::proto::{ChunkType, CommandType as C, Errno, Mode, OptionCode, OptionReplyCode as Code};
use nbd::server::backend::MemoryBackend;
use nbd::server::plan::{Edit, Field, Malformed, ReplyKind};
use nbd::server::{Action as Fault, Export, FaultPlan, On, Rule, Server};

use super::super::CLOSED;
use super::SIZE;

const CONTENT: Content = Content::of(&[(0x11, 0..64 * KIB), (0x22, SIZE - 64 * KIB..SIZE)]);
/// What a case writes to.
const PLACE: std::ops::Range<u64> = 256 * KIB..320 * KIB;

/// What the server of a storage daemon says when it hangs up, which it does where it cannot read.
const UNREAD: &str = "Disconnect client, due to: Failed to send reply: reading from file failed";

fn serve(socket: &TestFile, mode: Mode, plan: FaultPlan) -> CaseResult<Server> {
    let mut content = vec![0; SIZE as usize];
    content[..64 << 10].fill(0x11);
    content[(SIZE as usize) - (64 << 10)..].fill(0x22);
    let export = Export::new(MemoryBackend::with_content(&content));
    let server = Server::builder().export(export).mode(mode).plan(plan);
    Ok(server.listen_unix(&**socket)?)
}

fn client(socket: &TestFile) -> Node {
    let client = Node::new("nbd").set("server", json!({"type": "unix", "path": socket}));
    let node = Node::new("raw").node_name("remote");
    node.set("discard", "unmap").file(client.set("discard", "unmap"))
}

/// How a server negotiates, and the error that its client reports.
struct Negotiation {
    rule: fn() -> Rule,
    says: &'static str,
}

fn greeting(fault: Fault) -> Rule {
    Rule::new(On::Greeting, fault)
}

fn go(fault: Fault) -> Rule {
    Rule::new(On::option_reply(OptionCode::GO), fault)
}

fn refuse(code: Code) -> Rule {
    Rule::new(On::option(OptionCode::GO), Fault::Refuse(code))
}

fn sizes(minimum: u32, preferred: u32, maximum: u32) -> Rule {
    let sizes = BlockSizes {
        minimum,
        preferred,
        maximum,
    };
    Rule::new(On::Export, Fault::AdvertiseBlockSizes(sizes))
}

const SIMPLE: Mode = Mode::Simple;
const STRUCTURED: Mode = Mode::Structured;
const EXTENDED: Mode = Mode::Extended;

/// The size is a signed number.
const SIGN: KnownBug = known(
    "a disk of 2^63 bytes is treated as an empty one",
    "should have been refused with \"Could not refresh total sector count\"",
    ALWAYS,
);

/// Or the client was still sending its option.
const NO_REPLY: &str = "Failed to read option reply";
const NOT_SENT: &str = "Failed to send option request";

rows! {
    NEGOTIATIONS: Negotiation { rule, says };
    "that-hangs-up" => || Rule::new(On::Accept, Fault::CLOSE), "Failed to read initial magic";
    "that-hangs-up-in-its-greeting" => || greeting(Fault::CLOSE).at_byte(8),
        "Failed to read server magic";
    "of-mail" => || greeting(Fault::Replace(b"220 mail.example ESMTP".to_vec())),
        "Bad initial magic received";
    "of-another-style" => || greeting(Fault::set(Field::OptionMagic, 1)),
        "Bad server magic received";
    "that-hangs-up-in-an-option" => || Rule::new(On::any_option(), Fault::CLOSE).at_byte(8),
        NO_REPLY;
    "that-replies-without-magic" => || go(Fault::set(Field::Magic, 1)),
        "Unexpected option reply magic";
    "that-replies-to-another-option" => || go(Fault::set(Field::Option, 3)),
        "Unexpected option type 3";
    "that-replies-with-an-unknown-type" => || go(Fault::set(Field::Type, 77)),
        "unexpected reply type 77";
    "that-replies-with-much" => || go(Fault::set(Field::Length, 0x7fff_ffff)),
        "remaining export info len";
    "that-replies-with-all-there-is" => || go(Fault::set(Field::Length, 0xffff_ffff)),
        "remaining export info len";
    "that-replies-with-half" => || go(Fault::CLOSE).at_byte(24), "Failed to read info size";
    "that-does-not-know-the-export" => || refuse(Code::ERR_UNKNOWN),
        "Requested export not available";
    "that-refuses" => || refuse(Code::ERR_POLICY), "Denied by server for option 7 (go)";
    "that-wants-tls" => || refuse(Code::ERR_TLS_REQD),
        "TLS negotiation required before option 7 (go)";
    "that-is-about-to-end" => || refuse(Code::ERR_SHUTDOWN),
        "Server shutting down before option 7 (go)";
    "that-wants-block-sizes" => || refuse(Code::ERR_BLOCK_SIZE_REQD),
        "Server requires INFO_BLOCK_SIZE for option 7 (go)";
    "that-gives-no-size" => || Rule::new(On::option(OptionCode::GO), Fault::AckAndForget),
        "broken server omitted NBD_INFO_EXPORT";
    "that-has-too-much" => || Rule::new(On::Export, Fault::AdvertiseSize(u64::MAX)),
        "Could not refresh total sector count";
    "that-has-a-byte-too-much" => || Rule::new(On::Export, Fault::AdvertiseSize(1 << 63)),
        "Could not refresh total sector count", known_bugs = [SIGN];
    "of-odd-blocks" => || sizes(3, 4096, 1 << 25), "minimum block size 3 is not a power of two";
    "of-blocks-of-nothing" => || sizes(0, 4096, 1 << 25),
        "minimum block size 0 is not a power of two";
    "of-blocks-above-the-largest" => || sizes(1 << 16, 1 << 17, 4096),
        "maximum block size 4096 is not valid";
    "of-blocks-that-are-preferred-odd" => || sizes(512, 5000, 1 << 25),
        "preferred block size 5000 is not valid";
    "of-huge-blocks" => || sizes(1 << 31, 1 << 31, u32::MAX),
        "is not multiple of minimum block size 2147483648";
}

/// A machine does not become the client of a server that negotiates like this: nothing of it has changed, and it becomes that of a
/// better one at the same place.
#[case(host = Any, groups = [QUICK], rows = NEGOTIATIONS)]
async fn is_not_taken(t: &mut Test, negotiation: &Negotiation) -> CaseResult {
    let socket = t.socket("nbd")?;
    let plan = FaultPlan::new().rule((negotiation.rule)());
    let server = serve(&socket, SIMPLE, plan)?;
    let vm = t.host().launch().await?;
    let says = match negotiation.says {
        NO_REPLY => either(NO_REPLY, NOT_SENT),
        says => says.into(),
    };
    vm.add_node(client(&socket)).refused(says).await?;
    server.finish().await?;

    let server = serve(&socket, SIMPLE, FaultPlan::new())?;
    vm.add_node(client(&socket)).await?;
    vm.node("remote").assert_reads(&CONTENT).await?;
    vm.remove_node("remote").await?;
    vm.shutdown().await?;
    server.finish().await?;
    Ok(())
}

/// What a server does to one request.
struct Reply {
    mode: Mode,
    command: C,
    fault: fn() -> Fault,
}

fn malform(how: Malformed) -> Fault {
    Fault::Malform(how)
}

rows! {
    REPLIES: Reply { mode, command, fault };
    "an-error" => SIMPLE, C::READ, || Fault::error(Errno::EIO);
    "an-error-of-a-structured-read" => STRUCTURED, C::READ, || Fault::error(Errno::EIO);
    "no-space" => SIMPLE, C::WRITE, || Fault::error(Errno::ENOSPC);
    "an-unknown-error" => SIMPLE, C::READ, || Fault::error(Errno(12345));
    "the-end-of-a-write" => SIMPLE, C::WRITE, || Fault::CLOSE;
    "the-end-of-a-discard" => SIMPLE, C::TRIM, || Fault::CLOSE;
    "the-end-of-zeroes" => SIMPLE, C::WRITE_ZEROES, || Fault::CLOSE;
    "no-magic" => SIMPLE, C::READ, || Fault::set(Field::Magic, 1);
    "no-magic-of-a-write" => SIMPLE, C::WRITE, || Fault::set(Field::Magic, 1);
    "of-nobody" => SIMPLE, C::READ, || Fault::Set(Field::Cookie, Edit::Xor(1 << 40));
    "of-a-neighbour" => SIMPLE, C::READ, || Fault::Set(Field::Cookie, Edit::Xor(1));
    "unasked" => SIMPLE, C::READ, || Fault::Unsolicited(0xdead_beef);
    "structured-for-simple" => SIMPLE, C::READ, || Fault::WrongKind(ReplyKind::Structured);
    "simple-for-structured" => STRUCTURED, C::READ, || Fault::WrongKind(ReplyKind::Simple);
    "simple-for-extended" => EXTENDED, C::READ, || Fault::WrongKind(ReplyKind::Simple),
        needs = [since(8, 2)];
    "a-huge-chunk" => STRUCTURED, C::READ, || Fault::set(Field::Length, 0xffff_ffff);
    "a-chunk-without-room-for-its-place" => STRUCTURED, C::READ, || Fault::set(Field::Length, 4);
    "a-chunk-behind-the-disk" => STRUCTURED, C::READ,
        || Fault::Set(Field::Offset, Edit::Add(1 << 30));
    "a-chunk-at-the-end-of-numbers" => STRUCTURED, C::READ,
        || Fault::set(Field::Offset, u64::MAX - 511);
    "an-unknown-chunk" => STRUCTURED, C::READ, || malform(Malformed::UnknownChunk);
    "a-chunk-of-something-else" => STRUCTURED, C::READ, || malform(Malformed::ForeignChunk);
    "a-chunk-out-of-range" => STRUCTURED, C::READ, || malform(Malformed::OutOfRange);
    "a-chunk-of-too-much" => STRUCTURED, C::READ, || malform(Malformed::Oversize);
    "an-empty-hole" => STRUCTURED, C::READ, || malform(Malformed::EmptyHole);
    "an-error-of-zero" => STRUCTURED, C::READ, || malform(Malformed::ErrorZero);
    "an-error-elsewhere" => STRUCTURED, C::READ, || malform(Malformed::ErrorElsewhere);
    "an-error-with-a-long-text" => STRUCTURED, C::READ, || malform(Malformed::TextTooLong);
    "nothing-with-something" => STRUCTURED, C::READ, || malform(Malformed::NoneWithPayload);
    "an-extended-huge-chunk" => EXTENDED, C::READ, || Fault::set(Field::Length, u64::MAX),
        needs = [since(8, 2)];
    "an-extended-chunk-out-of-range" => EXTENDED, C::READ, || malform(Malformed::OutOfRange),
        needs = [since(8, 2)];
}

/// How a request of a guest fails.
const ERRORS: [&str; 7] = [
    "Input/output error",
    "Invalid argument",
    "No space left",
    "EIO",
    "EINVAL",
    "ENOSPC",
    "the server closed the connection",
];

/// A guest's request fails; the machine lives, what else it has is served, and a new client takes the place of the client that got the bad reply.
#[case(host = Any, groups = [QUICK], rows = REPLIES)]
async fn fails_one_request(t: &mut Test, reply: &Reply) -> CaseResult {
    let socket = t.socket("nbd")?;
    let on = match (reply.fault)() {
        Fault::Error { .. } => On::request(reply.command),
        Fault::Set(..) if reply.mode != SIMPLE => On::chunk(ChunkType::OFFSET_DATA),
        _ => On::reply(reply.command),
    };
    let plan = FaultPlan::new().rule(Rule::new(on, (reply.fault)()));
    let server = serve(&socket, reply.mode, plan)?;
    let disk = t.image("disk").size(SIZE).fill(0x33).create().await?;
    let vm = t.host().blockdev(&disk).tolerate(CLOSED).tolerate(UNREAD).launch().await?;
    let before = vm.state().await?;
    vm.add_node(client(&socket)).await?;

    let remote = vm.node("remote");
    let request = match reply.command {
        C::WRITE => remote.write(0x44, PLACE),
        C::WRITE_ZEROES => remote.zero(PLACE),
        C::TRIM => remote.discard(PLACE),
        _ => remote.assert_pattern(0x11, 0..64 * KIB),
    };
    let Err(failure) = request.await else {
        return Err(Failure::new("the request did not fail"));
    };
    let text = failure.to_string();
    check!(ERRORS.iter().any(|error| text.contains(error)), "{text}");

    vm.node("disk").assert_pattern(0x33, 0..SIZE).await?;
    vm.remove_node("remote").await?;
    vm.add_node(client(&socket)).await?;
    let remote = vm.node("remote");
    remote.assert_pattern(0x11, 0..64 * KIB).await?;
    remote.assert_pattern(0x22, SIZE - 64 * KIB..SIZE).await?;
    vm.remove_node("remote").await?;
    vm.assert_unchanged_since(&before).await?;
    vm.shutdown().await?;
    server.finish().await?;
    Ok(())
}

/// What a server says of what is allocated, and whether a job that asks it fails. (Where nothing is said of that it depends on the version.)
struct Status {
    fault: fn() -> Fault,
    fails: Option<bool>,
}

rows! {
    STATUSES: Status { fault, fails };
    "nothing-long" => || malform(Malformed::ZeroExtent), Some(true);
    "too-long" => || malform(Malformed::HugeExtents), Some(false);
    "nothing" => || malform(Malformed::NoExtents), Some(true);
    "one-context-twice" => || malform(Malformed::RepeatedContext), Some(true);
    "no-context" => || malform(Malformed::MissingContext), None;
    "data" => || malform(Malformed::ForeignChunk), Some(true);
    "another-context" => || Fault::set(Field::ContextId, 99), Some(true);
}

/// A mirror of a disk whose server reports an invalid allocation status fails, or copies all of it.
#[case(host = Any, groups = [QUICK, JOB], rows = STATUSES)]
async fn misleads_no_mirror(t: &mut Test, status: &Status) -> CaseResult {
    let socket = t.socket("nbd")?;
    let rule = Rule::new(On::reply(C::BLOCK_STATUS), (status.fault)());
    let server = serve(&socket, STRUCTURED, FaultPlan::new().rule(rule))?;
    let copy = t.image("copy").size(SIZE).create().await?;
    let vm = t.host().blockdev(&copy).tolerate(CLOSED).launch().await?;
    let before = vm.state().await?;
    vm.add_node(client(&socket)).await?;
    let job = json!({"device": "remote", "target": "copy", "sync": "full"});
    let job = vm.job("blockdev-mirror", job).start().await?;
    let ended = job.complete().outcome().await?;
    let failed = matches!(ended.outcome, Outcome::Failed(_));
    check!(
        status.fails.is_none_or(|fails| fails == failed),
        "{ended:?}"
    );
    vm.remove_node("remote").await?;
    vm.assert_unchanged_since(&before).await?;
    vm.shutdown().await?;
    server.finish().await?;
    if !failed {
        copy.assert_reads(&CONTENT).await?;
    }
    Ok(())
}
