//! Commands and events.

use std::fmt::Write;

use super::super::facts::{Definition, Kind};
use super::{Emitter, type_name};

impl<'a> Emitter<'a> {
    pub(super) fn command(&self, out: &mut String, definition: &'a Definition) {
        let name = self.item_name(definition);
        match self.facts.find(&definition.base) {
            Some(data) => {
                let ty = type_name(&data.name);
                self.doc(out, definition);
                let _ = writeln!(
                    out,
                    "#[derive(Clone, Debug, PartialEq)]\npub struct {name}(\n    /// Its arguments.\n    pub {ty},\n);\n\nimpl Serialize for {name} {{\n    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {{\n        self.0.serialize(serializer)\n    }}\n}}\n\nimpl From<{ty}> for {name} {{\n    fn from(arguments: {ty}) -> Self {{\n        Self(arguments)\n    }}\n}}"
                );
            }
            None => {
                self.object(
                    out,
                    definition,
                    &name,
                    &self.members(definition),
                    true,
                    None,
                );
            }
        }
        let returns = match definition.returns.as_str() {
            "" => "Empty".to_owned(),
            ty => self.rust_type(ty, ""),
        };
        let _ = writeln!(
            out,
            "\nimpl Command for {name} {{\n    const NAME: &'static str = {:?};\n    type Return = {returns};",
            definition.name
        );
        let has = |flag: &str| definition.flags.iter().any(|own| own == flag);
        for (holds, constant, value) in [
            (has("oob"), "ALLOW_OOB", true),
            (has("silent"), "ANSWERS", false),
            (
                definition.features.iter().any(|f| f == "deprecated"),
                "DEPRECATED",
                true,
            ),
            (
                definition.features.iter().any(|f| f == "unstable"),
                "UNSTABLE",
                true,
            ),
        ] {
            if holds {
                let _ = writeln!(out, "    const {constant}: bool = {value};");
            }
        }
        let _ = writeln!(out, "}}");
    }

    pub(super) fn event(&self, out: &mut String, definition: &'a Definition) {
        let name = self.item_name(definition);
        match self.facts.find(&definition.base) {
            // A union is a separate type.
            Some(data) if data.kind != Kind::Struct => {
                let ty = type_name(&data.name);
                self.doc(out, definition);
                let _ = writeln!(
                    out,
                    "#[derive(Clone, Debug, PartialEq)]\npub struct {name}(\n    /// Its data.\n    pub {ty},\n);\n\nimpl<'de> Deserialize<'de> for {name} {{\n    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {{\n        {ty}::deserialize(deserializer).map(Self)\n    }}\n}}\n\nimpl Serialize for {name} {{\n    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {{\n        self.0.serialize(serializer)\n    }}\n}}"
                );
            }
            _ => self.object(
                out,
                definition,
                &name,
                &self.members(definition),
                false,
                None,
            ),
        }
        let _ = writeln!(
            out,
            "\nimpl EventData for {name} {{\n    const NAME: &'static str = {:?};\n}}",
            definition.name
        );
    }
}
