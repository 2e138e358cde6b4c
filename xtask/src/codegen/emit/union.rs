//! Unions, which are enumerations with a branch for unknown values.

use std::collections::HashSet;
use std::fmt::Write;

use super::super::facts::{Definition, Member};
use super::super::names::{camel, snake};
use super::object::serialize;
use super::{Emitter, type_name};

impl<'a> Emitter<'a> {
    pub(super) fn union(&self, out: &mut String, definition: &'a Definition) {
        let name = type_name(&definition.name);
        let members = self.members(definition);
        let base: Vec<&Member> =
            members.iter().copied().filter(|m| m.name != definition.tag).collect();
        let tag_type = members.iter().find(|m| m.name == definition.tag).map(|m| m.ty.as_str());
        let sent = self.sent.contains(definition.name.as_str());
        let variants = if base.is_empty() {
            name.clone()
        } else {
            format!("{name}Variant")
        };
        if !base.is_empty() {
            self.object(
                out,
                definition,
                &name,
                &base,
                sent,
                Some((&definition.tag, &variants)),
            );
            out.push('\n');
            let _ = writeln!(
                out,
                "/// The variants of [`{name}`], by its member `{}`.",
                definition.tag
            );
        } else {
            self.doc(out, definition);
        }
        let values: Vec<&Member> = tag_type
            .and_then(|ty| self.facts.find(ty))
            .map(|tag| tag.members.iter().collect())
            .unwrap_or_default();
        let mut branches = Vec::new();
        let mut used = HashSet::from(["Other".to_owned()]);
        for value in values {
            let data = definition.variants.iter().find(|v| v.name == value.name);
            let mut branch = camel(&value.name);
            while !used.insert(branch.clone()) {
                branch.push('_');
            }
            branches.push((branch, value, data));
        }
        let _ = writeln!(
            out,
            "#[derive(Clone, Debug, PartialEq)]\n#[non_exhaustive]\npub enum {variants} {{"
        );
        for (branch, value, data) in &branches {
            let owner = tag_type.unwrap_or_default();
            self.member_doc(out, owner, value);
            let payload = data.map_or_else(
                || "Map<String, Value>".to_owned(),
                |d| format!("Box<{}>", type_name(&d.ty)),
            );
            let _ = writeln!(out, "    {branch}({payload}),");
        }
        let _ = writeln!(
            out,
            "    /// A variant that this crate does not know.\n    Other {{\n        /// The value of the member `{}`.\n        tag: String,\n        /// The other members.\n        members: Map<String, Value>,\n    }},\n}}\n",
            definition.tag
        );
        // Deserialisation.
        let _ = writeln!(
            out,
            "impl Variants for {variants} {{\n    fn read<E: Error>(tag: String, members: Map<String, Value>) -> Result<Self, E> {{\n        Ok(match tag.as_str() {{"
        );
        for (branch, value, data) in &branches {
            let read = if data.is_some() {
                "payload(members)?"
            } else {
                "members"
            };
            let _ = writeln!(
                out,
                "            {:?} => Self::{branch}({read}),",
                value.name
            );
        }
        let _ = writeln!(
            out,
            "            _ => Self::Other {{ tag, members }},\n        }})\n    }}\n}}\n"
        );
        let _ = writeln!(
            out,
            "impl Members for {variants} {{\n    fn write<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {{\n        match self {{"
        );
        for (branch, value, data) in &branches {
            let write = if data.is_some() {
                "data.write(map)"
            } else {
                "put_all(map, data)"
            };
            let _ = writeln!(
                out,
                "            Self::{branch}(data) => {{\n                put(map, {:?}, {:?})?;\n                {write}\n            }}",
                definition.tag, value.name
            );
        }
        let _ = writeln!(
            out,
            "            Self::Other {{ tag, members }} => {{\n                put(map, {:?}, tag)?;\n                put_all(map, members)\n            }}\n        }}\n    }}\n}}\n",
            definition.tag
        );
        if base.is_empty() {
            let _ = writeln!(
                out,
                "impl<'de> Deserialize<'de> for {name} {{\n    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {{\n        variant({:?}, members(deserializer)?)\n    }}\n}}\n",
                definition.tag
            );
            serialize(out, &name);
        }
        // A payload type that only one branch has identifies the branch.
        for (branch, _, data) in &branches {
            let Some(data) = data else { continue };
            let count =
                branches.iter().filter(|(_, _, d)| d.is_some_and(|d| d.ty == data.ty)).count();
            if count == 1 || data.ty.ends_with(branch) {
                let ty = type_name(&data.ty);
                let _ = writeln!(
                    out,
                    "impl From<{ty}> for {variants} {{\n    fn from(data: {ty}) -> Self {{\n        Self::{branch}(Box::new(data))\n    }}\n}}\n"
                );
                if !base.is_empty() && sent && base.iter().all(|m| self.field("", m).optional) {
                    let field = snake(&definition.tag);
                    let _ = writeln!(
                        out,
                        "impl From<{ty}> for {name} {{\n    fn from({field}: {ty}) -> Self {{\n        Self::new({field})\n    }}\n}}\n"
                    );
                }
            }
        }
    }
}
