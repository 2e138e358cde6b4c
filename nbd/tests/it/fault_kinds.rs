//! The kinds of faults of the matrix, as data.

use nbd::client::BlockSizes;
use nbd::proto::{
    ChunkType, CommandType as C, Errno, Mode, OptionCode, OptionReplyCode, TransmissionFlags,
};
use nbd::server::plan::{
    Action, Closing, Edit, FaultPlan, Field, Malformed, On, ReplyKind, Rule, Side,
};

/// What the client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Story {
    /// Opens, reads 4k at 0 and 4k at 8k.
    Read,
    /// The same with `reconnect-delay`.
    Reconnect,
    /// Opens, writes 4k at 0, reads it.
    Write,
    /// Opens and maps.
    Map,
}

/// One kind of fault.
#[derive(Clone, Debug)]
pub(crate) struct Kind {
    pub(crate) name: String,
    pub(crate) story: Story,
    pub(crate) plan: FaultPlan,
    pub(crate) modes: Vec<Mode>,
    /// The client would wait for ever: the server is ended once the fault has happened.
    pub(crate) cut: bool,
}

/// What QEMU's client does though the protocol forbids it, or would have it do something else.
pub(crate) const GAPS: &[(&str, &str)] = &[
    (
        "smaller-after-reconnect",
        "an assertion fails when the export shrank while disconnected",
    ),
    (
        "error-ESHUTDOWN",
        "a client MUST disconnect on ESHUTDOWN, this one carries on",
    ),
    (
        "lie-empty",
        "a read without any data succeeds, and the buffer keeps what was in it",
    ),
    ("lie-half", "a read with half of its data succeeds"),
    ("lie-gap", "a read with a gap succeeds"),
    ("lie-overlap", "data that comes twice is accepted"),
    (
        "lie-after-done",
        "a late chunk is taken for the answer to the next request",
    ),
    (
        "reply-duplicated",
        "a second simple reply is taken for the answer to the next request",
    ),
    (
        "echoed-offset-wrong",
        "the offset of an extended reply is not compared",
    ),
    (
        "structured-instead",
        "the wrong header is accepted in extended mode",
    ),
    (
        "extended-instead",
        "the wrong header is accepted in structured mode (8.2 and later)",
    ),
];

const NEWSTYLE: &[Mode] = &[
    Mode::ExportName,
    Mode::Simple,
    Mode::Structured,
    Mode::Extended,
];
const FIXED: &[Mode] = &[Mode::Simple, Mode::Structured, Mode::Extended];
const CHUNKS: &[Mode] = &[Mode::Structured, Mode::Extended];

#[derive(Default)]
struct Kinds(Vec<Kind>);

impl Kinds {
    fn add(&mut self, name: &str, story: Story, modes: &[Mode], rule: Rule) -> &mut Kind {
        let plan = FaultPlan::new().seed(7).rule(rule);
        let kind = Kind {
            name: name.into(),
            story,
            plan,
            modes: modes.to_vec(),
            cut: false,
        };
        self.0.push(kind);
        let last = self.0.len() - 1;
        &mut self.0[last]
    }

    fn read(&mut self, name: &str, modes: &[Mode], action: Action) -> &mut Kind {
        self.add(
            name,
            Story::Read,
            modes,
            Rule::new(On::reply(C::READ), action),
        )
    }
}

pub(crate) fn all() -> Vec<Kind> {
    let mut kinds = Kinds::default();
    handshake(&mut kinds);
    connection(&mut kinds);
    replies(&mut kinds);
    lies(&mut kinds);
    writes_and_maps(&mut kinds);
    kinds.0
}

fn handshake(k: &mut Kinds) {
    use Story::Read;
    let all = &Mode::ALL;
    k.add(
        "accept-close",
        Read,
        all,
        Rule::new(On::Accept, Action::CLOSE),
    );
    k.add(
        "greeting-cut-at-8",
        Read,
        all,
        Rule::new(On::Greeting, Action::CLOSE).at_byte(8),
    );
    k.add(
        "greeting-wrong-magic",
        Read,
        all,
        Rule::new(On::Greeting, Action::set(Field::Magic, 1)),
    );
    let magic = Action::set(Field::OptionMagic, 1);
    k.add(
        "greeting-wrong-second-magic",
        Read,
        all,
        Rule::new(On::Greeting, magic),
    );
    k.add(
        "greeting-of-text",
        Read,
        all,
        Rule::new(
            On::Greeting,
            Action::Replace(b"220 mail.example ESMTP ready\r\n".to_vec()),
        ),
    )
    .plan
    .rules
    .push(Rule::new(On::ClientFlags, Action::CLOSE).optional());
    k.add(
        "greeting-byte-by-byte",
        Read,
        all,
        Rule::new(On::Greeting, Action::Dribble),
    );
    k.add(
        "greeting-stall",
        Read,
        all,
        Rule::new(On::Greeting, Action::Stall),
    )
    .cut = true;
    k.add(
        "client-flags-close",
        Read,
        NEWSTYLE,
        Rule::new(On::ClientFlags, Action::Close(Closing::Fin)).after(),
    );
    k.add(
        "option-cut-at-8",
        Read,
        NEWSTYLE,
        Rule::new(On::any_option(), Action::Close(Closing::Fin)).at_byte(8),
    );
    let go = On::option_reply(OptionCode::GO);
    k.add(
        "go-reply-wrong-magic",
        Read,
        FIXED,
        Rule::new(go.clone(), Action::set(Field::Magic, 1)),
    );
    k.add(
        "go-reply-wrong-option",
        Read,
        FIXED,
        Rule::new(go.clone(), Action::set(Field::Option, 3)),
    );
    k.add(
        "go-reply-wrong-type",
        Read,
        FIXED,
        Rule::new(go.clone(), Action::set(Field::Type, 77)),
    );
    let long = Action::set(Field::Length, 0x7fff_ffff);
    k.add(
        "go-reply-huge-length",
        Read,
        FIXED,
        Rule::new(go.clone(), long),
    );
    k.add(
        "go-reply-truncated",
        Read,
        FIXED,
        Rule::new(go, Action::CLOSE).at_byte(24),
    );
    for (name, code) in [
        ("unknown", OptionReplyCode::ERR_UNKNOWN),
        ("policy", OptionReplyCode::ERR_POLICY),
        ("tls-reqd", OptionReplyCode::ERR_TLS_REQD),
        ("shutdown", OptionReplyCode::ERR_SHUTDOWN),
        ("unsup", OptionReplyCode::ERR_UNSUP),
        ("block-size-reqd", OptionReplyCode::ERR_BLOCK_SIZE_REQD),
    ] {
        let rule = Rule::new(On::option(OptionCode::GO), Action::Refuse(code));
        k.add(&format!("go-refused-{name}"), Read, FIXED, rule);
    }
    let ignore = Rule::new(On::option(OptionCode::GO), Action::Ignore);
    k.add("go-ignored", Read, FIXED, ignore).cut = true;
    let forget = Rule::new(On::option(OptionCode::GO), Action::AckAndForget);
    k.add("go-acknowledged-without-information", Read, FIXED, forget);
    let forget = Rule::new(
        On::option(OptionCode::STRUCTURED_REPLY),
        Action::AckAndForget,
    );
    k.add(
        "structured-reply-acknowledged-and-forgotten",
        Read,
        &[Mode::Structured],
        forget,
    );
    let forget = Rule::new(
        On::option(OptionCode::EXTENDED_HEADERS),
        Action::AckAndForget,
    );
    k.add(
        "extended-headers-acknowledged-and-forgotten",
        Read,
        &[Mode::Extended],
        forget,
    );
    let refuse = Action::Refuse(OptionReplyCode::ERR_UNSUP);
    let refuse = Rule::new(On::option(OptionCode::SET_META_CONTEXT), refuse);
    k.add("contexts-refused", Read, CHUNKS, refuse);
    k.add(
        "size-lie-tiny",
        Read,
        all,
        Rule::new(On::Export, Action::AdvertiseSize(512)),
    );
    k.add(
        "size-lie-huge",
        Read,
        all,
        Rule::new(On::Export, Action::AdvertiseSize(u64::MAX)),
    );
    let clear = TransmissionFlags::HAS_FLAGS;
    let flags = Action::AdvertiseFlags {
        set: TransmissionFlags::empty(),
        clear,
    };
    k.add("flags-lie-none", Read, all, Rule::new(On::Export, flags));
    for (name, minimum, preferred) in [("odd", 3, 4096), ("above-maximum", 1 << 31, 1 << 31)] {
        let sizes = BlockSizes {
            minimum,
            preferred,
            maximum: 1 << 25,
        };
        let rule = Rule::new(On::Export, Action::AdvertiseBlockSizes(sizes));
        k.add(&format!("block-sizes-lie-{name}"), Read, FIXED, rule);
    }
}

fn connection(k: &mut Kinds) {
    let all = &Mode::ALL;
    for story in [Story::Read, Story::Reconnect] {
        let label = if story == Story::Read {
            ""
        } else {
            "-reconnecting"
        };
        let mut add = |name: &str, rule: Rule| {
            k.add(&format!("{name}{label}"), story, all, rule);
        };
        add(
            "request-close-before",
            Rule::new(On::any_request(), Action::CLOSE).nth(2),
        );
        add(
            "request-close-after",
            Rule::new(On::request(C::READ), Action::CLOSE),
        );
        add(
            "request-cut",
            Rule::new(On::any_request(), Action::CLOSE).at_byte(10),
        );
        add(
            "reply-close-before",
            Rule::new(On::reply(C::READ), Action::CLOSE),
        );
        add(
            "reply-cut-at-4",
            Rule::new(On::reply(C::READ), Action::CLOSE).at_byte(4),
        );
        add(
            "reply-cut-at-8",
            Rule::new(On::reply(C::READ), Action::CLOSE).at_byte(8),
        );
        add(
            "data-cut",
            Rule::new(On::data(), Action::CLOSE).at_byte(1000),
        );
        let fin = Action::Close(Closing::Fin);
        add("reply-fin", Rule::new(On::reply(C::READ), fin));
        let rst = Action::Close(Closing::Rst);
        add("reply-reset", Rule::new(On::reply(C::READ), rst));
        add(
            "reply-half-close-tx",
            Rule::new(On::reply(C::READ), Action::HalfClose(Side::Tx)),
        );
        add("idle-close", Rule::new(On::Idle, Action::CLOSE));
    }
    let deaf = Rule::new(On::Idle, Action::HalfClose(Side::Rx));
    k.add("idle-half-close-rx", Story::Read, all, deaf).cut = true;
    let restart = Rule::new(On::reply(C::READ), Action::RestartAfter(1));
    k.add("restart-reconnecting", Story::Reconnect, all, restart);
    let smaller = Rule::new(On::reply(C::READ), Action::CLOSE);
    let lie = Rule::new(On::Export, Action::AdvertiseSize(512)).connection(2);
    let kind = k.add("smaller-after-reconnect", Story::Reconnect, all, smaller);
    kind.plan.rules.push(lie.optional());
    let close = Rule::new(On::reply(C::READ), Action::CLOSE);
    let set = TransmissionFlags::READ_ONLY;
    let flags = Action::AdvertiseFlags {
        set,
        clear: TransmissionFlags::SEND_FLUSH,
    };
    let kind = k.add("read-only-after-reconnect", Story::Reconnect, all, close);
    kind.plan.rules.push(Rule::new(On::Export, flags).connection(2).optional());
    k.read("reply-stall", all, Action::Stall).cut = true;
    k.read("reply-delayed", all, Action::Delay(5));
    k.add(
        "idle-die",
        Story::Read,
        all,
        Rule::new(On::Idle, Action::Die),
    );
}

fn replies(k: &mut Kinds) {
    let all = &Mode::ALL;
    k.read("reply-byte-by-byte", all, Action::Dribble);
    k.read("reply-dropped", all, Action::Drop).cut = true;
    k.read("reply-wrong-magic", all, Action::set(Field::Magic, 1));
    k.read(
        "reply-wrong-cookie",
        all,
        Action::Set(Field::Cookie, Edit::Xor(1 << 40)),
    );
    k.read("reply-unsolicited", all, Action::Unsolicited(0xdead_beef));
    k.read("reply-duplicated", all, Action::Duplicate);
    k.read("reply-truncated", all, Action::Truncate(3))
        .plan
        .rules
        .push(Rule::new(On::Idle, Action::CLOSE));
    k.read("reply-padded", all, Action::Pad(7))
        .plan
        .rules
        .push(Rule::new(On::Idle, Action::CLOSE));
    for errno in [
        Errno::EPERM,
        Errno::EIO,
        Errno::ENOMEM,
        Errno::ENOSPC,
        Errno::ESHUTDOWN,
        Errno(12345),
    ] {
        let rule = Rule::new(On::request(C::READ), Action::error(errno));
        k.add(&format!("error-{errno}"), Story::Read, all, rule);
    }
    let simple = [
        Mode::Oldstyle,
        Mode::ExportName,
        Mode::Simple,
        Mode::Extended,
    ];
    k.read(
        "structured-instead",
        &simple,
        Action::WrongKind(ReplyKind::Structured),
    );
    let narrow = [
        Mode::Oldstyle,
        Mode::ExportName,
        Mode::Simple,
        Mode::Structured,
    ];
    k.read(
        "extended-instead",
        &narrow,
        Action::WrongKind(ReplyKind::Extended),
    );
    k.read(
        "simple-instead",
        CHUNKS,
        Action::WrongKind(ReplyKind::Simple),
    );
    k.read(
        "chunk-huge-length",
        CHUNKS,
        Action::set(Field::Length, 0x7fff_ffff),
    );
    k.read(
        "chunk-length-too-short",
        CHUNKS,
        Action::set(Field::Length, 4),
    );
    k.read(
        "chunk-wrong-offset",
        CHUNKS,
        Action::Set(Field::Offset, Edit::Add(1 << 30)),
    );
    k.read(
        "chunk-unknown-flag",
        CHUNKS,
        Action::Set(Field::Flags, Edit::Xor(0x8000)),
    );
    k.read(
        "echoed-offset-wrong",
        &[Mode::Extended],
        Action::Set(Field::EchoedOffset, Edit::Add(512)),
    );
    let data = Rule::new(On::chunk(ChunkType::OFFSET_DATA), Action::FlipBits(3)).after();
    k.add("bits-flipped-in-header", Story::Read, CHUNKS, data).cut = true;
    k.add(
        "bits-flipped-in-data",
        Story::Read,
        all,
        Rule::new(On::data(), Action::FlipBits(1)),
    );
}

fn lies(k: &mut Kinds) {
    for (name, lie, cut) in [
        ("missing-done", Malformed::MissingDone, true),
        ("empty", Malformed::Empty, false),
        ("half", Malformed::Half, false),
        ("gap", Malformed::Gap, false),
        ("overlap", Malformed::Overlap, false),
        ("out-of-range", Malformed::OutOfRange, false),
        ("oversize", Malformed::Oversize, false),
        ("empty-hole", Malformed::EmptyHole, false),
        ("hole-for-data", Malformed::HoleForData, false),
        ("unknown-chunk", Malformed::UnknownChunk, false),
        ("foreign-chunk", Malformed::ForeignChunk, false),
        ("error-zero", Malformed::ErrorZero, false),
        ("error-elsewhere", Malformed::ErrorElsewhere, false),
        ("error-text-too-long", Malformed::TextTooLong, false),
        ("none-with-payload", Malformed::NoneWithPayload, false),
        ("after-done", Malformed::AfterDone, false),
    ] {
        k.read(&format!("lie-{name}"), CHUNKS, Action::Malform(lie)).cut = cut;
    }
}

fn writes_and_maps(k: &mut Kinds) {
    let all = &Mode::ALL;
    let write = |action| Rule::new(On::request(C::WRITE), action);
    k.add("write-lost", Story::Write, all, write(Action::LoseWrite));
    k.add(
        "write-torn",
        Story::Write,
        all,
        write(Action::TearWrite(1000)),
    );
    k.add(
        "write-ENOSPC",
        Story::Write,
        all,
        write(Action::error(Errno::ENOSPC)),
    );
    let payload = Rule::new(On::payload(), Action::CLOSE).at_byte(1000);
    k.add("write-payload-cut", Story::Write, all, payload);
    let reply = Rule::new(On::reply(C::WRITE), Action::CLOSE);
    k.add("write-reply-close", Story::Write, all, reply);
    let errno = Action::set(Field::Errno, 5);
    let simple = [Mode::Oldstyle, Mode::ExportName, Mode::Simple];
    k.add(
        "write-reply-errno-set",
        Story::Write,
        &simple,
        Rule::new(On::reply(C::WRITE), errno),
    );
    for (name, lie) in [
        ("zero-extent", Malformed::ZeroExtent),
        ("huge-extents", Malformed::HugeExtents),
        ("no-extents", Malformed::NoExtents),
        ("repeated-context", Malformed::RepeatedContext),
        ("missing-context", Malformed::MissingContext),
        ("foreign-chunk", Malformed::ForeignChunk),
    ] {
        let rule = Rule::new(On::reply(C::BLOCK_STATUS), Action::Malform(lie));
        k.add(&format!("map-{name}"), Story::Map, CHUNKS, rule);
    }
    let context = Action::set(Field::ContextId, 99);
    let rule = Rule::new(On::reply(C::BLOCK_STATUS), context);
    k.add("map-wrong-context", Story::Map, CHUNKS, rule);
    let error = Rule::new(On::request(C::BLOCK_STATUS), Action::error(Errno::EIO));
    k.add("map-EIO", Story::Map, CHUNKS, error);
}
