//! What the generated types have in common.

pub(crate) use std::fmt;

pub(crate) use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
pub(crate) use serde::ser::{Serialize, SerializeMap, Serializer};
pub(crate) use serde_json::{Map, Value};

pub(crate) use super::EventData;
pub(crate) use super::areas::*;
pub(crate) use crate::command::{Command, Empty};

use std::borrow::Cow;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;

use crate::decode::DecodeError;
use crate::message::Event;

/// Writes the members of an object, without the braces: those of a union's variant stand beside
/// those of its base.
pub(crate) trait Members {
    fn write<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error>;
}

/// Reads the members of an object.
pub(crate) trait Read: Sized {
    fn read<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Self, A::Error>;
}

/// Reads an object.
pub(crate) fn read<'de, D: Deserializer<'de>, T: Read>(deserializer: D) -> Result<T, D::Error> {
    struct Object<T>(PhantomData<T>);

    impl<'de, T: Read> Visitor<'de> for Object<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
            T::read(&mut map)
        }
    }

    deserializer.deserialize_map(Object(PhantomData))
}

/// Reads the members of a union's variant.
pub(crate) trait Variants: Sized {
    fn read<E: Error>(tag: String, members: Map<String, Value>) -> Result<Self, E>;
}

/// The name of a member.
pub(crate) struct Key<'de>(Cow<'de, str>);

impl<'de> Key<'de> {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Keeps a member that is not known.
    pub(crate) fn keep<A: MapAccess<'de>>(
        self,
        map: &mut A,
        extra: &mut Map<String, Value>,
    ) -> Result<(), A::Error> {
        extra.insert(self.0.into_owned(), map.next_value()?);
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(name)))
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(name.to_owned())))
            }
        }

        deserializer.deserialize_str(Read)
    }
}

/// A string, as the value of an enumeration.
pub(crate) fn text<'de, D: Deserializer<'de>, T: for<'a> From<&'a str>>(
    deserializer: D,
) -> Result<T, D::Error> {
    struct Read<T>(PhantomData<T>);

    impl<T: for<'a> From<&'a str>> Visitor<'_> for Read<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            Ok(T::from(text))
        }
    }

    deserializer.deserialize_str(Read(PhantomData))
}

/// A member that must be there.
pub(crate) fn required<T, E: Error>(member: Option<T>, name: &'static str) -> Result<T, E> {
    member.ok_or_else(|| E::missing_field(name))
}

/// All members of an object whose type depends on one of them.
pub(crate) fn members<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Map<String, Value>, D::Error> {
    Map::deserialize(deserializer)
}

/// Takes a member out that must be there.
pub(crate) fn take<T: DeserializeOwned, E: Error>(
    members: &mut Map<String, Value>,
    name: &'static str,
) -> Result<T, E> {
    required(take_optional(members, name)?, name)
}

/// Takes a member out that may be there.
pub(crate) fn take_optional<T: DeserializeOwned, E: Error>(
    members: &mut Map<String, Value>,
    name: &'static str,
) -> Result<Option<T>, E> {
    let Some(value) = members.remove(name) else {
        return Ok(None);
    };
    let read = serde_path_to_error::deserialize(value);
    read.map(Some).map_err(|error| E::custom(within(name, &error)))
}

/// The variant of a union whose tag is the member `tag`.
pub(crate) fn variant<T: Variants, E: Error>(
    tag: &'static str,
    mut members: Map<String, Value>,
) -> Result<T, E> {
    let value = take(&mut members, tag)?;
    T::read(value, members)
}

/// What a variant consists of.
pub(crate) fn payload<T: DeserializeOwned, E: Error>(
    members: Map<String, Value>,
) -> Result<Box<T>, E> {
    form(Value::Object(members)).map(Box::new)
}

/// A value that has been read already.
pub(crate) fn form<T: DeserializeOwned, E: Error>(value: Value) -> Result<T, E> {
    serde_path_to_error::deserialize(value).map_err(|error| match error.path().to_string() {
        path if path == "." => E::custom(error.inner()),
        path => E::custom(format_args!("{path}: {}", error.inner())),
    })
}

fn within(name: &str, error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    match error.path().to_string() {
        path if path == "." => format!("{name}: {}", error.inner()),
        path => format!("{name}.{path}: {}", error.inner()),
    }
}

pub(crate) fn put<M: SerializeMap, T: Serialize + ?Sized>(
    map: &mut M,
    name: &'static str,
    value: &T,
) -> Result<(), M::Error> {
    map.serialize_entry(name, value)
}

pub(crate) fn put_optional<M: SerializeMap, T: Serialize>(
    map: &mut M,
    name: &'static str,
    value: &Option<T>,
) -> Result<(), M::Error> {
    match value {
        Some(value) => map.serialize_entry(name, value),
        None => Ok(()),
    }
}

pub(crate) fn put_all<M: SerializeMap>(
    map: &mut M,
    members: &Map<String, Value>,
) -> Result<(), M::Error> {
    members.iter().try_for_each(|(name, value)| map.serialize_entry(name, value))
}

pub(crate) fn object<S: Serializer, T: Members>(
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    value.write(&mut map)?;
    map.end()
}

/// The data of an event.
pub(crate) fn data<T: DeserializeOwned>(event: &Event) -> Result<T, DecodeError> {
    serde_path_to_error::deserialize(&event.data).map_err(|error| {
        let path = error.path().to_string();
        DecodeError {
            path,
            message: error.into_inner().to_string(),
        }
        .within("data")
    })
}
