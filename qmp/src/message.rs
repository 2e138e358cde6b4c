//! What QEMU sends: the greeting, replies and events.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use serde::de::{Deserializer as _, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::decode::{self, DecodeError};

/// One message from QEMU.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Message {
    /// The first message of a session.
    Greeting(Greeting),
    /// The answer to a command.
    Reply(Reply),
    /// Something that happened.
    Event(Event),
    /// None of these, such as the echo of a command on a serial line.
    Other,
}

/// The greeting: QEMU's version and capabilities.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Greeting {
    /// The version of QEMU.
    pub version: Version,
    /// The capabilities that it offers, such as `oob`.
    pub capabilities: Vec<String>,
}

impl Greeting {
    /// A greeting of `version` that offers `capabilities`.
    pub fn new(version: Version, capabilities: impl IntoIterator<Item = String>) -> Self {
        Self {
            version,
            capabilities: capabilities.into_iter().collect(),
        }
    }

    /// Whether out-of-band execution is offered. Not every transport has it.
    pub fn offers_oob(&self) -> bool {
        self.capabilities.iter().any(|name| name == "oob")
    }
}

/// The version of QEMU, ordered by age. Only the numbers are compared: a distributor's package name
/// makes no version newer, older or different.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Version {
    /// The first number; 10 in "10.0.2".
    pub major: u32,
    /// The second number.
    pub minor: u32,
    /// The third number; 50 and above mark a development tree, 90 and above a release candidate of
    /// the next version: 9.2.92 is the second candidate of 10.0.
    pub micro: u32,
    /// What the packager added, often empty.
    pub package: String,
}

impl Version {
    /// A version without a package name.
    pub const fn new(major: u32, minor: u32, micro: u32) -> Self {
        Self {
            major,
            minor,
            micro,
            package: String::new(),
        }
    }

    /// The release that this belongs to, as major and minor number. A release candidate belongs to
    /// the upcoming release, a development tree to the previous one.
    pub fn release(&self) -> (u32, u32) {
        if self.micro < 90 {
            return (self.major, self.minor);
        }
        // Since 4.0 each major version has three releases.
        match (self.major, self.minor) {
            (2, 12) => (3, 0),
            (3, 1) => (4, 0),
            (4.., 2..) => (self.major + 1, 0),
            (major, minor) => (major, minor + 1),
        }
    }

    /// Whether this is `major.minor` or later; see [`Version::release`].
    pub fn at_least(&self, major: u32, minor: u32) -> bool {
        self.release() >= (major, minor)
    }

    fn numbers(&self) -> (u32, u32, u32) {
        (self.major, self.minor, self.micro)
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.numbers() == other.numbers()
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.numbers().cmp(&other.numbers())
    }
}

impl Hash for Version {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.numbers().hash(state);
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)?;
        if !self.package.is_empty() {
            write!(f, " ({})", self.package)?;
        }
        Ok(())
    }
}

/// The answer to a command.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Reply {
    /// The command's id as returned; parse errors carry none.
    pub id: Option<Box<RawValue>>,
    /// What the command returned.
    pub result: Result<Box<RawValue>, ErrorObject>,
}

impl Reply {
    /// The id, when it is a string.
    pub fn id_text(&self) -> Option<Cow<'_, str>> {
        let raw = self.id.as_ref()?.get();
        if let Some(inner) = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'))
            && !inner.contains('\\')
        {
            return Some(Cow::Borrowed(inner));
        }
        serde_json::from_str(raw).ok().map(Cow::Owned)
    }
}

/// The `error` member of a reply.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[non_exhaustive]
pub struct ErrorObject {
    /// The kind of error.
    pub class: ErrorClass,
    /// A description for people; not stable between versions.
    #[serde(default)]
    pub desc: String,
}

impl ErrorObject {
    /// An error of `class` with description `desc`.
    pub fn new(class: ErrorClass, desc: impl Into<String>) -> Self {
        Self {
            class,
            desc: desc.into(),
        }
    }
}

/// The kind of a command's error (`QapiErrorClass` in `qapi/error.json`). Open: unknown classes are
/// kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(from = "String", into = "String")]
#[non_exhaustive]
pub enum ErrorClass {
    /// Most errors.
    GenericError,
    /// No such command, not available before negotiation, or hidden by `-compat`.
    CommandNotFound,
    /// The device has not been activated.
    DeviceNotActive,
    /// No such device or node.
    DeviceNotFound,
    /// KVM is missing a capability.
    KvmMissingCap,
    /// Any other class.
    Other(String),
}

impl ErrorClass {
    /// The name on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::GenericError => "GenericError",
            Self::CommandNotFound => "CommandNotFound",
            Self::DeviceNotActive => "DeviceNotActive",
            Self::DeviceNotFound => "DeviceNotFound",
            Self::KvmMissingCap => "KVMMissingCap",
            Self::Other(name) => name,
        }
    }
}

impl From<String> for ErrorClass {
    fn from(name: String) -> Self {
        match name.as_str() {
            "GenericError" => Self::GenericError,
            "CommandNotFound" => Self::CommandNotFound,
            "DeviceNotActive" => Self::DeviceNotActive,
            "DeviceNotFound" => Self::DeviceNotFound,
            "KVMMissingCap" => Self::KvmMissingCap,
            _ => Self::Other(name),
        }
    }
}

impl From<ErrorClass> for String {
    fn from(class: ErrorClass) -> Self {
        class.as_str().to_owned()
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Something that happened in QEMU.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Event {
    /// The name, such as `JOB_STATUS_CHANGE`.
    pub name: String,
    /// The event's own members; empty when it has none.
    pub data: Map<String, Value>,
    /// When it happened, by QEMU's clock.
    pub timestamp: Timestamp,
}

impl Event {
    /// An event without data.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            data: Map::new(),
            timestamp: Timestamp::default(),
        }
    }

    /// This event with other data.
    #[must_use]
    pub fn with_data(mut self, data: Map<String, Value>) -> Self {
        self.data = data;
        self
    }

    /// The text member `name` of the data.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.data.get(name)?.as_str()
    }
}

impl Serialize for Event {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("event", &self.name)?;
        if !self.data.is_empty() {
            map.serialize_entry("data", &self.data)?;
        }
        map.serialize_entry("timestamp", &self.timestamp)?;
        map.end()
    }
}

/// The time of an event. QEMU sends -1 for both when it could not read the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub struct Timestamp {
    /// Seconds since 1970 (virtual time under qtest).
    pub seconds: i64,
    /// Microseconds of the second.
    pub microseconds: i64,
}

impl Message {
    /// Decodes one frame that nests `depth` levels.
    ///
    /// # Errors
    /// When the frame is not JSON or its members have the wrong types. Unknown members are ignored.
    pub fn decode(frame: &[u8], depth: usize) -> Result<Self, DecodeError> {
        let members = Members::parse(frame)?;
        if let Some(greeting) = members.greeting {
            return Ok(Self::Greeting(decode::from_raw(greeting, depth)?));
        }
        if let Some(name) = members.event {
            return Ok(Self::Event(Event {
                name: decode::from_raw(name, depth)?,
                data: match members.data {
                    Some(data) => decode::from_raw(data, depth)?,
                    None => Map::new(),
                },
                timestamp: match members.timestamp {
                    Some(time) => decode::from_raw(time, depth)?,
                    None => Timestamp::default(),
                },
            }));
        }
        let result = match (members.error, members.returned) {
            (Some(error), _) => Err(decode::from_raw(error, depth)?),
            (None, Some(value)) => Ok(value.to_owned()),
            (None, None) => return Ok(Self::Other),
        };
        Ok(Self::Reply(Reply {
            id: members.id.map(RawValue::to_owned),
            result,
        }))
    }
}

/// The top-level members of a message, not decoded.
#[derive(Default)]
struct Members<'a> {
    greeting: Option<&'a RawValue>,
    event: Option<&'a RawValue>,
    data: Option<&'a RawValue>,
    timestamp: Option<&'a RawValue>,
    returned: Option<&'a RawValue>,
    error: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
}

impl<'a> Members<'a> {
    fn parse(frame: &'a [u8]) -> Result<Self, DecodeError> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            // Not derived: a derived Option cannot distinguish `"return": null` from no `return`.
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Members::default();
                while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                    let value: &'de RawValue = map.next_value()?;
                    let slot = match &*name {
                        "QMP" => &mut members.greeting,
                        "event" => &mut members.event,
                        "data" => &mut members.data,
                        "timestamp" => &mut members.timestamp,
                        "return" => &mut members.returned,
                        "error" => &mut members.error,
                        "id" => &mut members.id,
                        _ => continue,
                    };
                    if slot.replace(value).is_some() {
                        return Err(A::Error::custom(format_args!(
                            "member '{name}' occurs twice"
                        )));
                    }
                }
                Ok(members)
            }
        }

        let text = std::str::from_utf8(frame).map_err(DecodeError::from_utf8)?;
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let members = deserializer
            .deserialize_map(Collect)
            .and_then(|members| deserializer.end().map(|()| members))
            .map_err(DecodeError::top_level)?;
        Ok(members)
    }
}

impl<'de> Deserialize<'de> for Greeting {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Wire {
            version: WireVersion,
            // Older than the capability negotiation of 3.0; entries may be anything.
            #[serde(default)]
            capabilities: Vec<Value>,
        }
        #[derive(Deserialize)]
        struct WireVersion {
            qemu: Numbers,
            #[serde(default)]
            package: String,
        }
        #[derive(Deserialize)]
        struct Numbers {
            major: u32,
            minor: u32,
            micro: u32,
        }
        let wire = Wire::deserialize(deserializer)?;
        let Numbers {
            major,
            minor,
            micro,
        } = wire.version.qemu;
        Ok(Self {
            version: Version {
                major,
                minor,
                micro,
                package: wire.version.package,
            },
            capabilities: wire
                .capabilities
                .into_iter()
                .filter_map(|entry| entry.as_str().map(str::to_owned))
                .collect(),
        })
    }
}

impl Serialize for Greeting {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Version {
            major,
            minor,
            micro,
            package,
        } = &self.version;
        serde_json::json!({
            "version": {
                "qemu": { "major": major, "minor": minor, "micro": micro },
                "package": package,
            },
            "capabilities": self.capabilities,
        })
        .serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_counts_as_its_release_and_a_development_tree_as_the_one_before() {
        let release = |major, minor, micro| Version::new(major, minor, micro).release();
        for (version, want) in [
            ((10, 0, 2), (10, 0)),
            ((9, 2, 92), (10, 0)),
            ((10, 0, 90), (10, 1)),
            ((9, 2, 50), (9, 2)),
            ((3, 1, 91), (4, 0)),
            ((2, 12, 90), (3, 0)),
        ] {
            assert_eq!(
                release(version.0, version.1, version.2),
                want,
                "{version:?}"
            );
        }
        assert!(Version::new(9, 2, 92).at_least(10, 0));
        assert!(!Version::new(9, 2, 50).at_least(10, 0));
    }

    #[test]
    fn the_package_takes_no_part_in_comparing_versions() {
        let debian = Version {
            package: "Debian 1:10.0.2+ds-2".into(),
            ..Version::new(10, 0, 2)
        };
        let own = Version::new(10, 0, 2);
        assert_eq!(debian.cmp(&own), Ordering::Equal);
        assert_eq!(debian, own);
        assert!(Version::new(9, 2, 92) < own && debian < Version::new(10, 0, 3));
        let set = std::collections::HashSet::from([debian]);
        assert!(set.contains(&own));
    }
}
