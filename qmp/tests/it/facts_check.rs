//! Checks the facts from which the typed layer is generated against the schema of a running QEMU.
//! `cargo xtask codegen --check` checks that the code matches the facts.

#[path = "../../../xtask/src/codegen/facts.rs"]
mod file;

use std::collections::{HashMap, HashSet};

use file::{Definition, Member};
pub(crate) use file::{Facts, Kind};
use qmp::Version;
use serde_json::Value;

/// The modules of the storage daemon (`storage-daemon/qapi/qapi-schema.json`).
const DAEMON: [&str; 11] = [
    "common",
    "sockets",
    "crypto",
    "job",
    "block-core",
    "block-export",
    "char",
    "authz",
    "transaction",
    "control",
    "introspect",
];

pub(crate) fn facts() -> Facts {
    Facts::parse(include_str!("../../qapi/qmp.facts")).unwrap()
}

/// The places that differ.
pub(crate) fn check(facts: &Facts, schema: &Value, version: &Version) -> Vec<String> {
    let entities = schema.as_array().expect("a list of entities");
    let mut check = Check {
        facts,
        entities: entities.iter().map(|entity| (text(entity, "name"), entity)).collect(),
        release: version.release(),
        // What a development tree has is somewhere between two releases.
        certain: version.micro < 50 || version.micro >= 90,
        found: Vec::new(),
        visited: HashSet::new(),
    };
    check.run();
    check.found
}

struct Check<'a> {
    facts: &'a Facts,
    entities: HashMap<&'a str, &'a Value>,
    release: (u32, u32),
    certain: bool,
    found: Vec<String>,
    visited: HashSet<(String, &'a str)>,
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

impl<'a> Check<'a> {
    fn report(&mut self, place: &str, problem: &str) {
        self.found.push(format!("{place}: {problem}"));
    }

    fn run(&mut self) {
        let emulator = self.entities.contains_key("query-status")
            || !self.entities.contains_key("blockdev-add");
        for (kind, meta) in [(Kind::Command, "command"), (Kind::Event, "event")] {
            let facts = self.facts;
            let known: Vec<&Definition> =
                facts.definitions.iter().filter(|d| d.kind == kind).collect();
            let mut live: Vec<&'a Value> =
                self.entities.values().copied().filter(|e| e["meta-type"] == meta).collect();
            live.sort_by_key(|entity| text(entity, "name"));
            for entity in &live {
                let name = text(entity, "name");
                match known.iter().find(|d| d.name == name) {
                    None => self.report(name, "is in the schema alone"),
                    Some(d) if self.certain && !d.range.holds(self.release) => {
                        self.report(name, "is in the schema, although not in this version");
                    }
                    Some(d) => self.top(d, entity),
                }
            }
            for definition in known {
                let there = live.iter().any(|e| text(e, "name") == definition.name);
                let expected = definition.range.holds(self.release)
                    && definition.condition.is_empty()
                    && (emulator || DAEMON.contains(&definition.module.as_str()));
                if self.certain && expected && !there {
                    self.report(&definition.name, "is not in the schema");
                }
            }
        }
    }

    fn top(&mut self, definition: &Definition, entity: &'a Value) {
        let name = definition.name.as_str();
        if definition.kind == Kind::Command {
            let oob = definition.flags.iter().any(|flag| flag == "oob");
            if oob != (entity["allow-oob"] == true) {
                self.report(
                    name,
                    "out-of-band execution is allowed by one and not by the other",
                );
            }
            let returns = &definition.returns;
            let live = text(entity, "ret-type");
            let nothing = self
                .entities
                .get(live)
                .is_some_and(|e| e["meta-type"] == "object" && list(e, "members").is_empty());
            if !returns.is_empty() {
                self.compare(&format!("{name}/return"), returns, live);
            } else if !nothing {
                self.report(name, "returns something in the schema alone");
            }
        }
        self.features(name, &definition.features, entity);
        let Some(arguments) = self.entities.get(text(entity, "arg-type")).copied() else {
            return self.report(name, "has no arguments in the schema");
        };
        match self.facts.find(&definition.base) {
            Some(data) => self.object(name, data, arguments),
            None => self.members(name, &definition.members, arguments, &[]),
        }
    }

    /// The facts have the features of the newest version that they know.
    fn features(&mut self, place: &str, known: &[String], entity: &Value) {
        if !self.certain || self.facts.versions.last() != Some(&self.release) {
            return;
        }
        for feature in ["deprecated", "unstable"] {
            let in_facts = known.iter().any(|known| known == feature);
            let in_schema = list(entity, "features").iter().any(|live| live == feature);
            if in_facts != in_schema {
                let which = if in_facts { "facts" } else { "schema" };
                self.report(place, &format!("is {feature} in the {which} alone"));
            }
        }
    }

    fn compare(&mut self, place: &str, ty: &str, live: &'a str) {
        let Some(entity) = self.entities.get(live).copied() else {
            return self.report(place, "has no type in the schema");
        };
        let meta = text(entity, "meta-type");
        if let Some(element) = ty.strip_prefix('[').and_then(|ty| ty.strip_suffix(']')) {
            if meta == "array" {
                return self.compare(place, element, text(entity, "element-type"));
            }
            return self.report(place, "is a list in the facts alone");
        }
        if !self.visited.insert((ty.to_owned(), live)) {
            return;
        }
        let json = text(entity, "json-type");
        let Some(definition) = self.facts.find(ty) else {
            let wanted = match ty {
                "str" => "string",
                "bool" => "boolean",
                "number" => "number",
                "any" => "value",
                "null" => "null",
                "QType" => "",
                _ => "int",
            };
            if json != wanted {
                self.report(
                    place,
                    &format!("is {json:?} {meta:?} in the schema and {ty} in the facts"),
                );
            }
            return;
        };
        match (definition.kind, meta) {
            (Kind::Enum, "enum") => self.values(place, definition, entity),
            // A text that later became one of several.
            (Kind::Enum, "builtin") if json == "string" => {}
            (Kind::Struct | Kind::Union, "object") => self.object(place, definition, entity),
            (Kind::Alternate, "alternate") => {
                for form in list(entity, "members") {
                    self.form(place, definition, text(form, "type"));
                }
            }
            // One of the forms that it has now.
            (Kind::Alternate, _) => self.form(place, definition, live),
            (kind, _) => self.report(
                place,
                &format!("is {meta:?} in the schema and {kind:?} in the facts"),
            ),
        }
    }

    fn form(&mut self, place: &str, definition: &Definition, live: &'a str) {
        let before = self.found.len();
        for form in &definition.members {
            let marker = self.found.len();
            self.compare(place, &form.ty, live);
            if self.found.len() == marker {
                self.found.truncate(before);
                return;
            }
            self.visited.remove(&(form.ty.clone(), live));
        }
        let why = self.found.drain(before..).collect::<Vec<_>>().join(", ");
        self.report(place, &format!("has a form in the schema alone ({why})"));
    }

    fn values(&mut self, place: &str, definition: &Definition, entity: &'a Value) {
        let live: Vec<&str> = match list(entity, "values") {
            [] => list(entity, "members").iter().map(|m| text(m, "name")).collect(),
            values => values.iter().filter_map(Value::as_str).collect(),
        };
        for value in &live {
            let known = definition.members.iter().find(|m| m.name == *value);
            self.there(&format!("{place}/^{value}"), known);
        }
        for value in list(entity, "members") {
            let name = text(value, "name");
            if let Some(known) = definition.members.iter().find(|m| m.name == name) {
                self.features(&format!("{place}/^{name}"), &known.features, value);
            }
        }
        for value in &definition.members {
            if !live.contains(&value.name.as_str()) {
                self.absent(&format!("{place}/^{}", value.name), value);
            }
        }
    }

    /// Something is in the schema.
    fn there(&mut self, place: &str, known: Option<&Member>) {
        match known {
            None => self.report(place, "is in the schema alone"),
            Some(m) if self.certain && !m.range.holds(self.release) => {
                self.report(place, "is in the schema, although not in this version");
            }
            Some(_) => {}
        }
    }

    /// Something is not in the schema.
    fn absent(&mut self, place: &str, known: &Member) {
        if self.certain && known.range.holds(self.release) && known.condition.is_empty() {
            self.report(place, "is not in the schema");
        }
    }

    fn object(&mut self, place: &str, definition: &Definition, entity: &'a Value) {
        self.members(place, &definition.members, entity, &definition.variants);
        if definition.kind != Kind::Union {
            return;
        }
        // An object may have become a union later; it has no tag then.
        if !text(entity, "tag").is_empty() && text(entity, "tag") != definition.tag {
            self.report(place, "has another tag");
        }
        for variant in list(entity, "variants") {
            let (case, live) = (text(variant, "case"), text(variant, "type"));
            let place = format!("{place}/+{case}");
            match definition.variants.iter().find(|v| v.name == case) {
                Some(known) => {
                    self.there(&place, Some(known));
                    self.compare(&place, &known.ty, live);
                }
                None => {
                    let empty =
                        self.entities.get(live).is_some_and(|e| list(e, "members").is_empty());
                    if !empty {
                        self.report(&place, "is in the schema alone");
                    }
                }
            }
        }
    }

    fn members(&mut self, place: &str, known: &[Member], entity: &'a Value, variants: &[Member]) {
        if variants.is_empty() && !list(entity, "variants").is_empty() {
            self.report(place, "is a union in the schema alone");
        }
        for member in list(entity, "members") {
            let name = text(member, "name");
            let place = format!("{place}/{name}");
            let fact = known.iter().find(|m| m.name == name);
            self.there(&place, fact);
            let Some(fact) = fact else { continue };
            self.features(&place, &fact.features, member);
            let optional = member.get("default").is_some();
            if optional != fact.optional && !fact.varies {
                self.report(
                    &place,
                    if optional {
                        "is optional in the schema alone"
                    } else {
                        "is optional in the facts alone"
                    },
                );
            }
            self.compare(&place, &fact.ty, text(member, "type"));
        }
        for fact in known {
            if !list(entity, "members").iter().any(|m| text(m, "name") == fact.name) {
                self.absent(&format!("{place}/{}", fact.name), fact);
            }
        }
    }
}
