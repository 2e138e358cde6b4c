//! Objects: the struct, its serialisation, and its construction.

use std::fmt::Write;

use super::super::facts::{Definition, Member, Range};
use super::super::names::snake;
use super::Emitter;

impl Emitter<'_> {
    /// An object with known members; `union` is the name of its tag and the type of its variants.
    pub(super) fn object(
        &self,
        out: &mut String,
        definition: &Definition,
        name: &str,
        members: &[&Member],
        sent: bool,
        union: Option<(&str, &str)>,
    ) {
        self.doc(out, definition);
        let fields: Vec<Field> =
            members.iter().map(|member| self.field(&definition.name, member)).collect();
        let required: Vec<&Field> = fields.iter().filter(|field| !field.optional).collect();
        let count = required.len() + usize::from(union.is_some());
        let default = if sent && count == 0 { ", Default" } else { "" };
        let _ = writeln!(
            out,
            "#[derive(Clone, Debug, PartialEq{default})]\n#[non_exhaustive]\npub struct {name} {{"
        );
        for (field, member) in fields.iter().zip(members) {
            self.member_doc(out, &definition.name, member);
            let _ = writeln!(out, "    pub {}: {},", field.name, field.full_type());
        }
        let variant_field = union.map(|(tag, ty)| (snake(tag), tag, ty));
        if let Some((field, tag, ty)) = &variant_field {
            let _ = writeln!(
                out,
                "    /// `{tag}`, with the members that go with it.\n    pub {field}: {ty},"
            );
        } else {
            let _ = writeln!(
                out,
                "    /// Members that this crate does not know.\n    pub extra: Map<String, Value>,"
            );
        }
        let _ = writeln!(out, "}}\n");
        self.read(out, name, &fields, variant_field.as_ref());
        self.write(out, name, &fields, variant_field.as_ref());
        if sent {
            self.make(out, name, &fields, &required, variant_field.as_ref());
        }
    }

    pub(super) fn field(&self, owner: &str, member: &Member) -> Field {
        // A member that only some versions have cannot be required.
        let limited = member.range != Range::default() || !member.condition.is_empty();
        Field {
            name: snake(&member.name),
            wire: member.name.clone(),
            ty: self.rust_type(&member.ty, owner),
            optional: member.optional || limited,
        }
    }

    fn read(
        &self,
        out: &mut String,
        name: &str,
        fields: &[Field],
        union: Option<&(String, &str, &str)>,
    ) {
        let head = format!(
            "impl<'de> Deserialize<'de> for {name} {{\n    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {{\n"
        );
        if let Some((variant, tag, _)) = union {
            let _ = writeln!(
                out,
                "{head}        let mut members = members(deserializer)?;\n        Ok(Self {{"
            );
            for field in fields {
                let take = if field.optional {
                    "take_optional"
                } else {
                    "take"
                };
                let _ = writeln!(
                    out,
                    "            {}: {take}(&mut members, {:?})?,",
                    field.name, field.wire
                );
            }
            let _ = writeln!(
                out,
                "            {variant}: variant({tag:?}, members)?,\n        }})\n    }}\n}}\n"
            );
            return;
        }
        if fields.is_empty() {
            let _ = writeln!(
                out,
                "{head}        members(deserializer).map(|extra| Self {{ extra }})\n    }}\n}}\n"
            );
            return;
        }
        let _ = writeln!(out, "{head}        read(deserializer)\n    }}\n}}\n");
        let _ = writeln!(
            out,
            "impl Read for {name} {{\n    fn read<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Self, A::Error> {{"
        );
        let slots: Vec<String> = (0..fields.len()).map(|at| format!("m{at}")).collect();
        if let [only] = &slots[..] {
            let _ = writeln!(out, "        let mut {only} = None;");
        } else {
            let muts: Vec<String> = slots.iter().map(|slot| format!("mut {slot}")).collect();
            let nones = vec!["None"; slots.len()];
            // Larger tuples would not be destructured any faster, and are harder to read.
            for (muts, nones) in muts.chunks(10).zip(nones.chunks(10)) {
                let _ = match muts {
                    [only] => writeln!(out, "        let {only} = None;"),
                    muts => writeln!(
                        out,
                        "        let ({}) = ({});",
                        muts.join(", "),
                        nones.join(", ")
                    ),
                };
            }
        }
        let _ = writeln!(
            out,
            "        let mut extra = Map::new();\n        while let Some(key) = map.next_key::<Key<'de>>()? {{\n            match key.as_str() {{"
        );
        for (slot, field) in slots.iter().zip(fields) {
            let _ = writeln!(
                out,
                "                {:?} => {slot} = Some(map.next_value()?),",
                field.wire
            );
        }
        let _ = writeln!(
            out,
            "                _ => key.keep(map, &mut extra)?,\n            }}\n        }}\n        Ok(Self {{"
        );
        for (slot, field) in slots.iter().zip(fields) {
            let value = if field.optional {
                slot.clone()
            } else {
                format!("required({slot}, {:?})?", field.wire)
            };
            let _ = writeln!(out, "            {}: {value},", field.name);
        }
        let _ = writeln!(out, "            extra,\n        }})\n    }}\n}}\n");
    }

    fn write(
        &self,
        out: &mut String,
        name: &str,
        fields: &[Field],
        union: Option<&(String, &str, &str)>,
    ) {
        let _ = writeln!(
            out,
            "impl Members for {name} {{\n    fn write<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {{"
        );
        for field in fields {
            let call = if field.optional {
                "put_optional"
            } else {
                "put"
            };
            let _ = writeln!(
                out,
                "        {call}(map, {:?}, &self.{})?;",
                field.wire, field.name
            );
        }
        let last = match union {
            Some((variant, _, _)) => format!("self.{variant}.write(map)"),
            None => "put_all(map, &self.extra)".to_owned(),
        };
        let _ = writeln!(out, "        {last}\n    }}\n}}\n");
        serialize(out, name);
    }

    fn make(
        &self,
        out: &mut String,
        name: &str,
        fields: &[Field],
        required: &[&Field],
        union: Option<&(String, &str, &str)>,
    ) {
        let mut named: Vec<(String, String)> =
            required.iter().map(|f| (f.name.clone(), f.ty.clone())).collect();
        if let Some((variant, _, ty)) = union {
            named.push((variant.clone(), (*ty).to_owned()));
        }
        let body = |value: &dyn Fn(&str) -> String| {
            let mut body = String::new();
            for field in fields {
                let value = if field.optional {
                    "None".to_owned()
                } else {
                    value(&field.name)
                };
                let _ = writeln!(body, "            {}: {value},", field.name);
            }
            match union {
                Some((variant, _, _)) => {
                    let _ = writeln!(body, "            {variant}: {},", value(variant));
                }
                None => body.push_str("            extra: Map::new(),\n"),
            }
            body
        };
        if named.len() > 3 {
            let required = format!("{name}Required");
            let _ = writeln!(
                out,
                "/// The members that [`{name}`] must have.\n#[derive(Clone, Debug)]\npub struct {required} {{"
            );
            for (field, ty) in &named {
                let _ = writeln!(
                    out,
                    "    /// See [`{name}::{}`].\n    pub {field}: {ty},",
                    field.trim_start_matches("r#")
                );
            }
            let _ = writeln!(
                out,
                "}}\n\nimpl {name} {{\n    /// With the members that it must have, and no other.\n    pub fn new(required: {required}) -> Self {{\n        Self {{\n{}        }}\n    }}",
                body(&|f| format!("required.{f}"))
            );
        } else {
            let parameters: Vec<String> =
                named.iter().map(|(field, ty)| format!("{field}: impl Into<{ty}>")).collect();
            let _ = writeln!(
                out,
                "impl {name} {{\n    /// With the members that it must have, and no other.\n    pub fn new({}) -> Self {{\n        Self {{\n{}        }}\n    }}",
                parameters.join(", "),
                body(&|f| format!("{f}.into()"))
            );
        }
        for field in fields.iter().filter(|field| field.optional) {
            let _ = writeln!(
                out,
                "\n    /// Sets [`Self::{}`].\n    #[must_use]\n    pub fn {}(mut self, value: impl Into<{}>) -> Self {{\n        self.{} = Some(value.into());\n        self\n    }}",
                field.name.trim_start_matches("r#"),
                field.name,
                field.ty,
                field.name
            );
        }
        if union.is_none() {
            let _ = writeln!(
                out,
                "\n    /// Adds a member that this crate does not know, by its name on the wire.\n    #[must_use]\n    pub fn set(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {{\n        self.extra.insert(name.into(), value.into());\n        self\n    }}"
            );
        }
        let _ = writeln!(out, "}}");
    }
}

/// A member in Rust.
pub(super) struct Field {
    name: String,
    wire: String,
    ty: String,
    pub(super) optional: bool,
}

impl Field {
    fn full_type(&self) -> String {
        if self.optional {
            format!("Option<{}>", self.ty)
        } else {
            self.ty.clone()
        }
    }
}

pub(super) fn serialize(out: &mut String, name: &str) {
    let _ = writeln!(
        out,
        "impl Serialize for {name} {{\n    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {{\n        object(self, serializer)\n    }}\n}}\n"
    );
}
