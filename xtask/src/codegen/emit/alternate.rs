//! Alternates: one of several forms of JSON.

use std::collections::HashSet;
use std::fmt::Write;

use super::super::facts::{Definition, Kind, Member};
use super::super::names::camel;
use super::{Emitter, type_name};

impl<'a> Emitter<'a> {
    pub(super) fn alternate(&self, out: &mut String, definition: &'a Definition) {
        let name = type_name(&definition.name);
        self.doc(out, definition);
        let _ = writeln!(
            out,
            "#[derive(Clone, Debug, PartialEq)]\n#[non_exhaustive]\npub enum {name} {{"
        );
        for form in &definition.members {
            self.member_doc(out, &definition.name, form);
            let _ = writeln!(
                out,
                "    {}({}),",
                camel(&form.name),
                self.form_type(&form.ty)
            );
        }
        let _ = writeln!(
            out,
            "    /// A form that this crate does not know.\n    Other(Value),\n}}\n"
        );
        let _ = writeln!(
            out,
            "impl<'de> Deserialize<'de> for {name} {{\n    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {{\n        let value = Value::deserialize(deserializer)?;\n        Ok(match &value {{"
        );
        let mut seen = HashSet::new();
        // A text that matches a value of an enumeration is that value, otherwise a string.
        let mut forms: Vec<&Member> = definition.members.iter().collect();
        forms.sort_by_key(|form| form.ty == "str");
        for form in forms {
            let json = self.json_type(&form.ty);
            if seen.insert(json) {
                let pattern = match json {
                    "Null" => "Value::Null".to_owned(),
                    json => format!("Value::{json}(_)"),
                };
                let _ = writeln!(
                    out,
                    "            {pattern} => Self::{}(form(value)?),",
                    camel(&form.name)
                );
            }
        }
        let _ = writeln!(
            out,
            "            _ => Self::Other(value),\n        }})\n    }}\n}}\n"
        );
        let _ = writeln!(
            out,
            "impl Serialize for {name} {{\n    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {{\n        match self {{"
        );
        for form in &definition.members {
            let _ = writeln!(
                out,
                "            Self::{}(value) => value.serialize(serializer),",
                camel(&form.name)
            );
        }
        let _ = writeln!(
            out,
            "            Self::Other(value) => value.serialize(serializer),\n        }}\n    }}\n}}"
        );
        let mut types = HashSet::new();
        for form in &definition.members {
            let variant = camel(&form.name);
            let ty = self.form_type(&form.ty);
            if !types.insert(ty.clone()) {
                continue;
            }
            let inner = ty.strip_prefix("Box<").and_then(|ty| ty.strip_suffix('>'));
            let (from, make) = match inner {
                Some(inner) => (inner, "Box::new(value)"),
                None => (ty.as_str(), "value"),
            };
            let _ = writeln!(
                out,
                "\nimpl From<{from}> for {name} {{\n    fn from(value: {from}) -> Self {{\n        Self::{variant}({make})\n    }}\n}}"
            );
            if from == "String" {
                let _ = writeln!(
                    out,
                    "\nimpl From<&str> for {name} {{\n    fn from(value: &str) -> Self {{\n        Self::{variant}(value.to_owned())\n    }}\n}}"
                );
            }
        }
    }

    /// The type of an alternate's form; objects are boxed.
    fn form_type(&self, ty: &str) -> String {
        let own = self.rust_type(ty, "");
        if self.json_type(ty) == "Object" {
            format!("Box<{own}>")
        } else {
            own
        }
    }

    fn json_type(&self, ty: &str) -> &'static str {
        if ty.starts_with('[') {
            return "Array";
        }
        match ty {
            "str" => "String",
            "bool" => "Bool",
            "null" => "Null",
            name => match self.facts.find(name).map(|d| d.kind) {
                Some(Kind::Enum) => "String",
                Some(_) => "Object",
                None => "Number",
            },
        }
    }
}
