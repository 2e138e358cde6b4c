//! One rule: a point of the conversation, an action, a budget.

use serde::{Deserialize, Serialize};

use super::action::Action;
use crate::proto::{ChunkType, CommandType, OptionCode, OptionReplyCode};

/// A half-open range of bytes of the export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// End.
    pub end: u64,
}

/// A point of the conversation.
///
/// For what the server receives, a condition on the content (which option, which command) can only
/// be tested once the header has been read; such a rule then fires after it, regardless of its
/// [`At`]. A rule without one is tested when the server starts waiting: `any_request` may fire
/// before there is a request, and a trigger ([`Rule::when`]) set meanwhile takes effect on the next
/// one only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum On {
    /// A client has connected; nothing has been sent.
    Accept,
    /// The greeting is sent.
    Greeting,
    /// The client's flags are received.
    ClientFlags,
    /// The header of an option is received.
    Option {
        /// This option only.
        #[serde(default)]
        option: Option<OptionCode>,
    },
    /// A reply to an option is sent.
    OptionReply {
        /// To this option only.
        #[serde(default)]
        option: Option<OptionCode>,
        /// This reply only.
        #[serde(default)]
        reply: Option<OptionReplyCode>,
    },
    /// The reply to `EXPORT_NAME` is sent.
    ExportReply,
    /// Size and flags of the export are about to be sent, in whatever message.
    Export,
    /// The header of a request is received.
    Request {
        /// This command only.
        #[serde(default)]
        command: Option<CommandType>,
        /// Requests that touch this range only; `flush` and `disc` touch none.
        #[serde(default)]
        touching: Option<Range>,
    },
    /// The payload of a request is received.
    Payload {
        /// Requests that touch this range only.
        #[serde(default)]
        touching: Option<Range>,
    },
    /// The header of a reply is sent: of the first chunk, unless a chunk is named.
    Reply {
        /// To this command only.
        #[serde(default)]
        command: Option<CommandType>,
        /// To requests that touch this range only.
        #[serde(default)]
        touching: Option<Range>,
        /// Chunks of this type, anywhere in the reply.
        #[serde(default)]
        chunk: Option<ChunkType>,
    },
    /// The data of a read is sent.
    Data {
        /// For requests that touch this range only.
        #[serde(default)]
        touching: Option<Range>,
    },
    /// A reply has been sent, and nothing more is owed to the client.
    Idle,
}

impl On {
    /// Any option.
    pub fn any_option() -> On {
        On::Option { option: None }
    }

    /// This option.
    pub fn option(option: OptionCode) -> On {
        On::Option {
            option: Some(option),
        }
    }

    /// Any reply to this option.
    pub fn option_reply(option: OptionCode) -> On {
        On::OptionReply {
            option: Some(option),
            reply: None,
        }
    }

    /// Any request.
    pub fn any_request() -> On {
        On::Request {
            command: None,
            touching: None,
        }
    }

    /// A request with this command.
    pub fn request(command: CommandType) -> On {
        On::Request {
            command: Some(command),
            touching: None,
        }
    }

    /// The payload of any request.
    pub fn payload() -> On {
        On::Payload { touching: None }
    }

    /// Any reply.
    pub fn any_reply() -> On {
        On::Reply {
            command: None,
            touching: None,
            chunk: None,
        }
    }

    /// The reply to this command.
    pub fn reply(command: CommandType) -> On {
        On::Reply {
            command: Some(command),
            touching: None,
            chunk: None,
        }
    }

    /// Chunks of this type.
    pub fn chunk(chunk: ChunkType) -> On {
        On::Reply {
            command: None,
            touching: None,
            chunk: Some(chunk),
        }
    }

    /// The data of any read.
    pub fn data() -> On {
        On::Data { touching: None }
    }
}

/// When, relative to the bytes sent or received at that point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum At {
    /// Before the first byte.
    #[default]
    Before,
    /// After this many bytes; after the last, if there are fewer.
    Byte(u64),
    /// After the last byte.
    After,
}

/// Which connections; the first one is number 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Connections {
    /// All.
    #[default]
    All,
    /// One.
    Only(u64),
    /// This and all later ones.
    From(u64),
}

/// How often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Times {
    /// Once.
    #[default]
    Once,
    /// This many times.
    Most(u64),
    /// Every time the point is reached.
    Forever,
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Name in the journal; the position in the plan if empty.
    #[serde(default)]
    pub name: String,
    /// Where.
    pub on: On,
    /// When, relative to the bytes.
    #[serde(default)]
    pub at: At,
    /// What.
    pub action: Action,
    /// On which connections.
    #[serde(default)]
    pub connections: Connections,
    /// From which occurrence of the point on; the first is 1 (or 0).
    #[serde(default)]
    pub nth: u64,
    /// How often.
    #[serde(default)]
    pub times: Times,
    /// With which probability at each occurrence, drawn from the plan's seed.
    #[serde(default)]
    pub probability: Option<f64>,
    /// Only while this switch is on ([`crate::server::Server::trigger`]).
    #[serde(default)]
    pub when: Option<String>,
    /// Only in this phase; a plan starts in the phase named by the empty text.
    #[serde(default)]
    pub phase: Option<String>,
    /// The phase that begins when this rule has fired.
    #[serde(default)]
    pub then: Option<String>,
    /// Whether it may end the test unfired.
    #[serde(default)]
    pub optional: bool,
}

impl Rule {
    /// A rule that fires once, at the first occurrence.
    pub fn new(on: On, action: Action) -> Rule {
        Rule {
            name: String::new(),
            on,
            at: At::Before,
            action,
            connections: Connections::All,
            nth: 0,
            times: Times::Once,
            probability: None,
            when: None,
            phase: None,
            then: None,
            optional: false,
        }
    }

    /// Names it.
    pub fn name(mut self, name: impl Into<String>) -> Rule {
        self.name = name.into();
        self
    }

    /// After the last byte.
    pub fn after(mut self) -> Rule {
        self.at = At::After;
        self
    }

    /// After `n` bytes.
    pub fn at_byte(mut self, n: u64) -> Rule {
        self.at = At::Byte(n);
        self
    }

    /// On this connection only; the first is 1.
    pub fn connection(mut self, n: u64) -> Rule {
        self.connections = Connections::Only(n);
        self
    }

    /// On this connection and all later ones.
    pub fn from_connection(mut self, n: u64) -> Rule {
        self.connections = Connections::From(n);
        self
    }

    /// From the nth occurrence on; the first is 1.
    pub fn nth(mut self, n: u64) -> Rule {
        self.nth = n;
        self
    }

    /// This many times.
    pub fn times(mut self, n: u64) -> Rule {
        self.times = Times::Most(n);
        self
    }

    /// At each occurrence.
    pub fn forever(mut self) -> Rule {
        self.times = Times::Forever;
        self
    }

    /// With this probability at each occurrence.
    pub fn probability(mut self, p: f64) -> Rule {
        self.probability = Some(p);
        self
    }

    /// Only while this switch is on.
    pub fn when(mut self, trigger: impl Into<String>) -> Rule {
        self.when = Some(trigger.into());
        self
    }

    /// Only in this phase.
    pub fn phase(mut self, phase: impl Into<String>) -> Rule {
        self.phase = Some(phase.into());
        self
    }

    /// Begins this phase.
    pub fn then(mut self, phase: impl Into<String>) -> Rule {
        self.then = Some(phase.into());
        self
    }

    /// May end the test unfired.
    pub fn optional(mut self) -> Rule {
        self.optional = true;
        self
    }
}
