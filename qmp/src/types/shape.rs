//! Descriptions of the typed layer, to hold it against a schema.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::command::Empty;

/// The form of a value on the wire.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Shape {
    /// Anything.
    Any,
    /// A string.
    Str,
    /// A whole number.
    Int,
    /// Any number.
    Number,
    /// True or false.
    Bool,
    /// A list, with the form of its elements.
    List(fn() -> Shape),
    /// A string out of several.
    Enum(&'static EnumInfo),
    /// An object.
    Object(&'static ObjectInfo),
}

/// A type with a known form on the wire.
pub trait Describe {
    /// Its form.
    fn shape() -> Shape;
}

/// A typed enumeration.
#[derive(Debug)]
#[non_exhaustive]
pub struct EnumInfo {
    /// Its name in QAPI.
    pub name: &'static str,
    /// Its known values.
    pub values: &'static [ValueInfo],
}

/// A value of a typed enumeration.
#[derive(Debug)]
#[non_exhaustive]
pub struct ValueInfo {
    /// Its text on the wire.
    pub name: &'static str,
    /// The versions that have it, such as "9.1.." or "..8.2"; all if empty.
    pub versions: &'static str,
}

/// A typed structure.
#[derive(Debug)]
#[non_exhaustive]
pub struct ObjectInfo {
    /// Its name in this crate.
    pub name: &'static str,
    /// Its known members.
    pub members: &'static [MemberInfo],
}

/// A member of a typed structure.
#[derive(Debug)]
#[non_exhaustive]
pub struct MemberInfo {
    /// Its name in this crate.
    pub field: &'static str,
    /// Its name on the wire, where that is not the field's with dashes.
    pub wire: &'static str,
    /// Whether it may be absent.
    pub optional: bool,
    /// The versions that have it, such as "9.1.." or "..8.2"; all if empty.
    pub versions: &'static str,
    /// The form of its value.
    pub shape: fn() -> Shape,
}

impl MemberInfo {
    /// The name on the wire.
    pub fn name(&self) -> Cow<'static, str> {
        match self.wire {
            "" => Cow::Owned(self.field.replace('_', "-")),
            wire => Cow::Borrowed(wire),
        }
    }
}

/// A typed command.
#[derive(Debug)]
#[non_exhaustive]
pub struct CommandInfo {
    /// Its name in QAPI.
    pub name: &'static str,
    /// The versions that have it, such as "9.1.." or "..8.2"; all if empty.
    pub versions: &'static str,
    /// Whether only an emulator has it, and no storage daemon.
    pub emulator_only: bool,
    /// Whether it may be executed out of band.
    pub oob: bool,
    /// Its arguments.
    pub arguments: fn() -> Shape,
    /// What it returns.
    pub returns: fn() -> Shape,
}

/// A typed event.
#[derive(Debug)]
#[non_exhaustive]
pub struct EventInfo {
    /// Its name in QAPI.
    pub name: &'static str,
    /// The versions that have it, such as "9.1.." or "..8.2"; all if empty.
    pub versions: &'static str,
    /// Whether only an emulator has it, and no storage daemon.
    pub emulator_only: bool,
    /// Its data.
    pub data: fn() -> Shape,
}

macro_rules! describe {
    ($($shape:ident: $($type:ty),+;)*) => {
        $($(impl Describe for $type {
            fn shape() -> Shape {
                Shape::$shape
            }
        })+)*
    };
}

describe! {
    Any: Value, Map<String, Value>;
    Str: String;
    Int: i64, u64;
    Number: f64;
    Bool: bool;
}

impl Describe for Empty {
    fn shape() -> Shape {
        Shape::Object(&ObjectInfo {
            name: "Empty",
            members: &[],
        })
    }
}

impl<T: Describe> Describe for Vec<T> {
    fn shape() -> Shape {
        Shape::List(T::shape)
    }
}

impl<T: Describe> Describe for Box<T> {
    fn shape() -> Shape {
        T::shape()
    }
}

/// Whether a list of flags has one; usable in constants.
pub(crate) const fn has_flag(flags: &[&str], flag: &str) -> bool {
    let mut at = 0;
    while at < flags.len() {
        let (a, b) = (flags[at].as_bytes(), flag.as_bytes());
        let mut same = a.len() == b.len();
        let mut byte = 0;
        while same && byte < a.len() {
            same = a[byte] == b[byte];
            byte += 1;
        }
        if same {
            return true;
        }
        at += 1;
    }
    false
}
