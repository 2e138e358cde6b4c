//! What a running QEMU supports, as it reports itself: `query-qmp-schema`, with path queries.
//!
//! The schema describes the build, not the machine: a command may exist and still fail because a
//! device is missing. Type names in it are arbitrary numbers that change with every build, so
//! nothing here shows them; paths use the names of commands, members and values instead.
//!
//! # Paths
//!
//! A path starts with a command or an event. The parts that follow, separated by `/`, are
//!
//! | part | means |
//! |---|---|
//! | `arg-type`, `ret-type` | the arguments of a command or event, what a command returns |
//! | `name` | the member `name` of an object |
//! | `*name` | the member `name`, and it is optional |
//! | `+case` | the variant of a union for this value of its tag |
//! | `^value` | a value of an enumeration |
//! | `$feature` | a feature of the command, event, type, member or value before it |
//! | `!type` | a built-in type: `str`, `int`, `number`, `bool`, `null`, `any` |
//!
//! Arrays are entered as if they were their elements, and alternates as if they were each of their
//! types. `query-block/ret-type/inserted/*backing_file_depth` and
//! `blockdev-add/arg-type/+qcow2/discard-no-unref` are examples.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::decode::DecodeError;

/// The parsed schema.
#[derive(Clone, Debug)]
pub struct Schema {
    entities: Vec<Entity>,
    /// Index into `entities`: commands, events and types never share a name.
    by_name: HashMap<String, usize>,
}

/// A path that does not follow the rules of the [module](self) page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to read schema path '{path}': {problem}")]
pub struct PathError {
    /// The path.
    pub path: String,
    /// What is wrong with it.
    pub problem: String,
}

/// One `SchemaInfo` of `qapi/introspect.json`, all meta-types in one.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Entity {
    pub(crate) name: String,
    pub(crate) meta_type: String,
    json_type: Option<String>,
    pub(crate) arg_type: Option<String>,
    pub(crate) ret_type: Option<String>,
    element_type: Option<String>,
    /// Of objects, alternates and, since 6.2, enumerations.
    #[serde(default)]
    members: Vec<Member>,
    /// Of enumerations.
    #[serde(default)]
    values: Vec<String>,
    #[serde(default)]
    variants: Vec<Variant>,
    #[serde(default)]
    features: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Member {
    name: Option<String>,
    #[serde(rename = "type")]
    type_name: Option<String>,
    /// Present, if only as null, when the member is optional.
    #[serde(default, deserialize_with = "present")]
    default: Option<Value>,
    #[serde(default)]
    features: Vec<String>,
}

/// Distinguishes a member that is `null` from one that is absent.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

#[derive(Clone, Debug, Deserialize)]
struct Variant {
    case: String,
    #[serde(rename = "type")]
    type_name: String,
}

/// A place in the schema.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    Entity(&'a Entity),
    /// A member, with its type.
    Member {
        features: &'a [String],
        optional: bool,
        entity: &'a Entity,
    },
    /// An enumeration's value.
    Value {
        features: &'a [String],
    },
    Feature,
}

impl<'a> Place<'a> {
    pub(crate) fn entity(self) -> Option<&'a Entity> {
        match self {
            Self::Entity(entity) | Self::Member { entity, .. } => Some(entity),
            Self::Value { .. } | Self::Feature => None,
        }
    }

    fn features(self) -> &'a [String] {
        match self {
            Self::Entity(entity) => &entity.features,
            Self::Member { features, .. } | Self::Value { features } => features,
            Self::Feature => &[],
        }
    }
}

impl Schema {
    /// Parses what `query-qmp-schema` returned.
    ///
    /// # Errors
    /// When it has an unexpected form.
    pub fn parse(returned: &Value) -> Result<Self, DecodeError> {
        let entities: Vec<Entity> = serde_path_to_error::deserialize(returned)
            .map_err(|error| DecodeError {
                path: error.path().to_string(),
                message: error.inner().to_string(),
            })
            .map_err(|error| error.within("return"))?;
        let by_name =
            entities.iter().enumerate().map(|(at, entity)| (entity.name.clone(), at)).collect();
        Ok(Self { entities, by_name })
    }

    /// Asks QEMU for its schema.
    ///
    /// # Errors
    /// As for any call.
    #[cfg(feature = "client")]
    pub async fn query(client: &crate::Client) -> Result<Self, crate::Error> {
        let command = "query-qmp-schema";
        let returned = client.execute(command, ()).await?;
        Self::parse(&returned).map_err(|source| crate::Error::Reply {
            command: command.to_owned(),
            source: Box::new(crate::ReplyError::Decode {
                source,
                raw: returned.to_string(),
            }),
        })
    }

    /// Whether the schema has what the path describes. False for a malformed path; see
    /// [`Schema::check`].
    pub fn has(&self, path: &str) -> bool {
        self.check(path).unwrap_or(false)
    }

    /// Whether the schema has what the path describes.
    ///
    /// # Errors
    /// When the path does not follow the rules of the [module](self) page.
    pub fn check(&self, path: &str) -> Result<bool, PathError> {
        self.places(path).map(|places| !places.is_empty())
    }

    /// Whether there is such a command.
    pub fn has_command(&self, name: &str) -> bool {
        self.entity(name).is_some_and(|entity| entity.meta_type == "command")
    }

    /// Whether there is such an event.
    pub fn has_event(&self, name: &str) -> bool {
        self.entity(name).is_some_and(|entity| entity.meta_type == "event")
    }

    /// The names of all commands, sorted.
    pub fn commands(&self) -> Vec<&str> {
        self.names("command")
    }

    /// The names of all events, sorted.
    pub fn events(&self) -> Vec<&str> {
        self.names("event")
    }

    /// The values of the enumerations at a path, such as the drivers of
    /// `blockdev-add/arg-type/driver`; empty if there is none.
    ///
    /// # Errors
    /// When the path does not follow the rules of the [module](self) page.
    pub fn values(&self, path: &str) -> Result<Vec<&str>, PathError> {
        let places = self.places(path)?;
        let enums = places.iter().filter_map(|place| place.entity());
        Ok(enums
            .flat_map(|entity| self.flatten(entity))
            .flat_map(|entity| entity.values.iter().map(String::as_str))
            .collect())
    }

    /// The names of the members of the objects at a path, such as the arguments of
    /// `job-pause/arg-type`; empty if there is none. Those of a variant of a union are at `+case`.
    ///
    /// # Errors
    /// When the path does not follow the rules of the [module](self) page.
    pub fn members(&self, path: &str) -> Result<Vec<&str>, PathError> {
        let places = self.places(path)?;
        let objects = places.iter().filter_map(|place| place.entity());
        Ok(objects
            .flat_map(|entity| self.flatten(entity))
            .filter(|entity| entity.meta_type == "object")
            .flat_map(|entity| entity.members.iter().filter_map(|m| m.name.as_deref()))
            .collect())
    }

    fn names(&self, meta_type: &str) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .entities
            .iter()
            .filter(|entity| entity.meta_type == meta_type)
            .map(|entity| entity.name.as_str())
            .collect();
        names.sort_unstable();
        names
    }

    pub(crate) fn entity(&self, name: &str) -> Option<&Entity> {
        self.by_name.get(name).map(|&at| &self.entities[at])
    }

    /// All places that a path leads to; more than one only through alternates.
    pub(crate) fn places(&self, path: &str) -> Result<Vec<Place<'_>>, PathError> {
        let bad = |problem: &str| PathError {
            path: path.to_owned(),
            problem: problem.to_owned(),
        };
        let mut parts = path.split('/');
        let root = parts.next().filter(|root| !root.is_empty());
        let root = root.ok_or_else(|| bad("it names no command or event"))?;
        let parts: Vec<&str> = parts.collect();
        if parts
            .first()
            .is_some_and(|p| !matches!(*p, "arg-type" | "ret-type") && !p.starts_with('$'))
        {
            return Err(bad(
                "after the command comes arg-type, ret-type or a $feature",
            ));
        }
        if parts.iter().any(|part| part.trim_start_matches(['*', '+', '^', '$', '!']).is_empty()) {
            return Err(bad("a part is empty"));
        }
        if parts.iter().rev().skip(1).any(|part| part.starts_with(['$', '!'])) {
            return Err(bad("a feature or built-in type ends a path"));
        }
        let root = self
            .entity(root)
            .filter(|entity| matches!(entity.meta_type.as_str(), "command" | "event"));
        let mut places: Vec<Place<'_>> = root.map(Place::Entity).into_iter().collect();
        for part in parts {
            places = places.into_iter().flat_map(|place| self.step(place, part)).collect();
        }
        Ok(places)
    }

    fn step<'a>(&'a self, place: Place<'a>, part: &str) -> Vec<Place<'a>> {
        if let Some(feature) = part.strip_prefix('$') {
            let has = place.features().iter().any(|own| own == feature);
            return has.then_some(Place::Feature).into_iter().collect();
        }
        let Some(entity) = place.entity() else {
            return Vec::new();
        };
        if matches!(entity.meta_type.as_str(), "command" | "event") {
            let name = match part {
                "arg-type" => entity.arg_type.as_deref(),
                _ => entity.ret_type.as_deref(),
            };
            return name
                .and_then(|name| self.entity(name))
                .map(Place::Entity)
                .into_iter()
                .collect();
        }
        self.flatten(entity)
            .into_iter()
            .flat_map(|entity| self.step_type(entity, part))
            .collect()
    }

    fn step_type<'a>(&'a self, entity: &'a Entity, part: &str) -> Vec<Place<'a>> {
        if let Some(case) = part.strip_prefix('+') {
            let variant = entity.variants.iter().find(|variant| variant.case == case);
            let target = variant.and_then(|variant| self.entity(&variant.type_name));
            return target.map(Place::Entity).into_iter().collect();
        }
        if let Some(value) = part.strip_prefix('^') {
            if !entity.values.iter().any(|own| own == value) {
                return Vec::new();
            }
            let member = entity.members.iter().find(|m| m.name.as_deref() == Some(value));
            let features = member.map_or(&[][..], |member| &member.features);
            return vec![Place::Value { features }];
        }
        if let Some(builtin) = part.strip_prefix('!') {
            let is = match builtin {
                "any" => entity.json_type.as_deref() == Some("value"),
                "str" => entity.json_type.as_deref() == Some("string"),
                "bool" => entity.json_type.as_deref() == Some("boolean"),
                other => entity.json_type.as_deref() == Some(other),
            };
            return is.then_some(Place::Entity(entity)).into_iter().collect();
        }
        if entity.meta_type != "object" {
            return Vec::new();
        }
        let (name, must_be_optional) = match part.strip_prefix('*') {
            Some(name) => (name, true),
            None => (part, false),
        };
        self.member(entity, name)
            .filter(|place| {
                !must_be_optional || matches!(place, Place::Member { optional: true, .. })
            })
            .into_iter()
            .collect()
    }

    fn member<'a>(&'a self, entity: &'a Entity, name: &str) -> Option<Place<'a>> {
        let member = entity.members.iter().find(|m| m.name.as_deref() == Some(name))?;
        let target = self.entity(member.type_name.as_deref()?)?;
        Some(Place::Member {
            features: &member.features,
            optional: member.default.is_some(),
            entity: target,
        })
    }

    /// The types behind arrays and alternates.
    pub(crate) fn flatten<'a>(&'a self, entity: &'a Entity) -> Vec<&'a Entity> {
        let mut found = Vec::new();
        let mut rest = vec![entity];
        // One of these may contain itself.
        let mut entered = HashSet::new();
        while let Some(entity) = rest.pop() {
            if !entered.insert(&entity.name) {
                continue;
            }
            match entity.meta_type.as_str() {
                "array" => rest.extend(entity.element_type.as_deref().and_then(|n| self.entity(n))),
                "alternate" => rest.extend(
                    entity.members.iter().filter_map(|m| self.entity(m.type_name.as_deref()?)),
                ),
                _ => found.push(entity),
            }
        }
        found
    }
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
