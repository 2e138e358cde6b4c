//! Holds the typed layer against the schema of a running QEMU.

use std::collections::HashSet;
use std::fmt;

use super::shape::{MemberInfo, ObjectInfo, Shape};
use crate::message::Version;
use crate::schema::{Entity, Place, Schema};

/// A place where the typed layer and a schema disagree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Where, such as "block-commit/arg-type/base-node".
    pub place: String,
    /// What is different.
    pub problem: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)
    }
}

/// Compares every typed command, event, member and value with a schema.
///
/// A name that is absent is fine only if the typed layer says that this version lacks it; one that
/// is there although the typed layer says otherwise is a mismatch as well.
pub fn check(schema: &Schema, version: &Version) -> Vec<Mismatch> {
    let mut check = Check {
        schema,
        version,
        found: Vec::new(),
        visiting: HashSet::new(),
    };
    // The storage daemon has no guest to run.
    let emulator = schema.has_command("query-status");
    for command in super::commands() {
        if command.emulator_only && !emulator {
            continue;
        }
        if !check.exists(
            command.name,
            schema.has_command(command.name),
            command.versions,
        ) {
            continue;
        }
        let Some(entity) = schema.entity(command.name) else {
            continue;
        };
        if entity.allow_oob != command.oob {
            check.report(
                command.name,
                "out-of-band execution is allowed for one and not the other",
            );
        }
        check.top(
            command.name,
            "arg-type",
            entity.arg_type.as_deref(),
            command.arguments,
            true,
        );
        check.top(
            command.name,
            "ret-type",
            entity.ret_type.as_deref(),
            command.returns,
            false,
        );
    }
    for event in super::events() {
        if event.emulator_only && !emulator {
            continue;
        }
        if check.exists(event.name, schema.has_event(event.name), event.versions)
            && let Some(entity) = schema.entity(event.name)
        {
            check.top(
                event.name,
                "arg-type",
                entity.arg_type.as_deref(),
                event.data,
                false,
            );
        }
    }
    check.found
}

struct Check<'a> {
    schema: &'a Schema,
    version: &'a Version,
    found: Vec<Mismatch>,
    /// Structures above the current one, which may contain themselves.
    visiting: HashSet<&'static str>,
}

impl<'a> Check<'a> {
    fn report(&mut self, place: &str, problem: impl Into<String>) {
        self.found.push(Mismatch {
            place: place.to_owned(),
            problem: problem.into(),
        });
    }

    /// Whether a name is there; reports if that is not as listed.
    fn exists(&mut self, place: &str, exists: bool, versions: &str) -> bool {
        let expected = in_range(versions, self.version);
        match (exists, expected) {
            (false, true) => self.report(place, "is not in the schema"),
            (true, false) => {
                self.report(
                    place,
                    format!("is in the schema, and listed for {versions} only"),
                );
            }
            _ => {}
        }
        exists
    }

    fn top(
        &mut self,
        name: &str,
        which: &str,
        type_name: Option<&str>,
        shape: fn() -> Shape,
        arguments: bool,
    ) {
        let place = format!("{name}/{which}");
        match type_name.and_then(|name| self.schema.entity(name)) {
            Some(entity) => self.compare(&place, shape(), entity, arguments),
            None => self.report(&place, "is not in the schema"),
        }
    }

    /// `sent`: the value is built here, not received.
    fn compare(&mut self, place: &str, shape: Shape, entity: &'a Entity, sent: bool) {
        if matches!(shape, Shape::Any) {
            return;
        }
        if (entity.meta_type == "array") != matches!(shape, Shape::List(_)) {
            return self.report(place, "is a list for one and not the other");
        }
        let types = self.schema.flatten(entity);
        match shape {
            Shape::List(element) => {
                for entity in types {
                    self.compare_flat(place, element(), entity, sent);
                }
            }
            other => {
                // Of an alternate, one form is enough.
                if types.len() > 1 {
                    let fits = |entity: &&Entity| scalar_fits(other, entity, sent);
                    if matches!(other, Shape::Object(_)) || types.iter().any(fits) {
                        return;
                    }
                    return self.report(place, format!("no alternative is {other:?}"));
                }
                for entity in types {
                    self.compare_flat(place, other, entity, sent);
                }
            }
        }
    }

    fn compare_flat(&mut self, place: &str, shape: Shape, entity: &'a Entity, sent: bool) {
        match shape {
            Shape::Object(info) => {
                if entity.meta_type != "object" {
                    return self
                        .report(place, format!("is not an object but {}", entity.meta_type));
                }
                self.object(place, info, entity, sent);
            }
            Shape::Enum(info) if entity.meta_type == "enum" => {
                for value in info.values {
                    let exists = entity.values().iter().any(|own| own == value.name);
                    self.exists(&format!("{place}/^{}", value.name), exists, value.versions);
                }
            }
            scalar => {
                if !scalar_fits(scalar, entity, sent) {
                    self.report(
                        place,
                        format!("is {:?}, not {scalar:?}", entity.json_type()),
                    );
                }
            }
        }
    }

    fn object(&mut self, place: &str, info: &'static ObjectInfo, entity: &'a Entity, sent: bool) {
        if !self.visiting.insert(info.name) {
            return;
        }
        for member in info.members {
            let name = member.name();
            let place = format!("{place}/{name}");
            let found = self.schema.member_or_variant_member(entity, &name);
            if !self.exists(&place, found.is_some(), member.versions) {
                continue;
            }
            if let Some(Place::Member {
                optional, entity, ..
            }) = found
            {
                self.presence(&place, member, optional, sent);
                self.compare(&place, (member.shape)(), entity, sent);
            }
        }
        if sent {
            for required in self.schema.required_members(entity) {
                if !info.members.iter().any(|member| member.name() == required) {
                    self.report(place, format!("lacks the required member {required}"));
                }
            }
        }
        self.visiting.remove(info.name);
    }

    /// What is sent must have all required members; what is received may lack optional ones.
    fn presence(&mut self, place: &str, member: &MemberInfo, optional: bool, sent: bool) {
        if sent && member.optional && !optional {
            self.report(place, "is required by QEMU");
        }
        if !sent && !member.optional && optional {
            self.report(place, "is optional for QEMU");
        }
    }
}

fn scalar_fits(shape: Shape, entity: &Entity, sent: bool) -> bool {
    let json_type = entity.json_type();
    match shape {
        Shape::Any => true,
        Shape::Str => json_type == Some("string") || entity.meta_type == "enum",
        // An open enumeration can hold any string that is received.
        Shape::Enum(_) => entity.meta_type == "enum" || !sent && json_type == Some("string"),
        Shape::Int => json_type == Some("int"),
        Shape::Number => matches!(json_type, Some("number" | "int")),
        Shape::Bool => json_type == Some("boolean"),
        Shape::List(_) | Shape::Object(_) => false,
    }
}

/// Whether a version is in a range such as "9.1..", "..8.2" (inclusive) or "7.0..8.2".
fn in_range(range: &str, version: &Version) -> bool {
    let Some((since, until)) = range.split_once("..") else {
        return true;
    };
    let numbers = |text: &str| {
        let (major, minor) = text.split_once('.')?;
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    };
    let own = (version.major, version.minor);
    numbers(since).is_none_or(|since| own >= since)
        && numbers(until).is_none_or(|until| own <= until)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_ranges_include_both_ends() {
        let version = |major, minor| Version::new(major, minor, 5);
        assert!(in_range("", &version(1, 0)));
        assert!(in_range("9.1..", &version(9, 1)) && !in_range("9.1..", &version(9, 0)));
        assert!(in_range("..8.2", &version(8, 2)) && !in_range("..8.2", &version(9, 0)));
        assert!(in_range("7.0..8.2", &version(7, 2)) && !in_range("7.0..8.2", &version(10, 0)));
    }

    #[test]
    fn names_that_are_absent_unlisted_or_of_another_type_are_reported() {
        let schema = Schema::parse(&serde_json::json!([
            {"name": "job-pause", "meta-type": "command", "arg-type": "0", "ret-type": "1"},
            {"name": "STOP", "meta-type": "event", "arg-type": "1"},
            {"name": "0", "meta-type": "object", "members": [
                {"name": "id", "type": "int"}, {"name": "new", "type": "int"}]},
            {"name": "1", "meta-type": "object", "members": []},
            {"name": "int", "meta-type": "builtin", "json-type": "int"},
        ]))
        .unwrap();
        let found = check(&schema, &Version::new(10, 0, 0));
        let problems = |place: &str| -> Vec<&str> {
            let here = found.iter().filter(|mismatch| mismatch.place == place);
            here.map(|mismatch| mismatch.problem.as_str()).collect()
        };
        assert_eq!(problems("job-cancel"), ["is not in the schema"]);
        assert_eq!(
            problems("job-pause/arg-type/id"),
            ["is Some(\"int\"), not Str"]
        );
        assert_eq!(
            problems("job-pause/arg-type"),
            ["lacks the required member new"]
        );
        assert!(problems("device_add").is_empty(), "only of emulators");
    }
}
