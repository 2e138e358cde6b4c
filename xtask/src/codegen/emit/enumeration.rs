//! Enumerations, which are open.

use std::collections::HashSet;
use std::fmt::Write;

use super::super::facts::{Definition, Member};
use super::super::names::camel;
use super::{Emitter, type_name};

impl Emitter<'_> {
    pub(super) fn enumeration(&self, out: &mut String, definition: &Definition) {
        let name = type_name(&definition.name);
        self.doc(out, definition);
        let _ = writeln!(
            out,
            "#[derive(Clone, Debug, PartialEq, Eq, Hash)]\n#[non_exhaustive]\npub enum {name} {{"
        );
        let mut used = HashSet::new();
        let variants: Vec<(String, &Member)> = definition
            .members
            .iter()
            .map(|value| {
                let mut variant = camel(&value.name);
                while !used.insert(variant.clone()) {
                    variant.push('_');
                }
                (variant, value)
            })
            .collect();
        for (variant, value) in &variants {
            self.member_doc(out, &definition.name, value);
            let _ = writeln!(out, "    {variant},");
        }
        let _ = writeln!(
            out,
            "    /// A value that this crate does not know.\n    Other(String),\n}}\n"
        );
        let _ = writeln!(
            out,
            "impl {name} {{\n    /// The text on the wire.\n    pub fn as_str(&self) -> &str {{\n        match self {{"
        );
        for (variant, value) in &variants {
            let _ = writeln!(out, "            Self::{variant} => {:?},", value.name);
        }
        let _ = writeln!(
            out,
            "            Self::Other(value) => value,\n        }}\n    }}\n}}\n"
        );
        let _ = writeln!(
            out,
            "impl From<&str> for {name} {{\n    fn from(value: &str) -> Self {{\n        match value {{"
        );
        for (variant, value) in &variants {
            let _ = writeln!(out, "            {:?} => Self::{variant},", value.name);
        }
        let _ = writeln!(
            out,
            "            value => Self::Other(value.to_owned()),\n        }}\n    }}\n}}\n"
        );
        let _ = writeln!(
            out,
            "impl From<String> for {name} {{\n    fn from(value: String) -> Self {{\n        Self::from(value.as_str())\n    }}\n}}\n\n\
             impl fmt::Display for {name} {{\n    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {{\n        f.write_str(self.as_str())\n    }}\n}}\n\n\
             impl<'de> Deserialize<'de> for {name} {{\n    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {{\n        text(deserializer)\n    }}\n}}\n\n\
             impl Serialize for {name} {{\n    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {{\n        serializer.serialize_str(self.as_str())\n    }}\n}}"
        );
    }
}
