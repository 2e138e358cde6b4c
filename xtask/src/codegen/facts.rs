//! The known facts about QAPI, merged over versions: names, types, which members are optional,
//! features, conditions and versions, but none of QEMU's texts.
//!
//! The file has one line per definition, and one indented line per member:
//!
//! ```text
//! versions 6.2 7.0 10.2
//! module block-core
//! command blockdev-mirror returns= flags=
//!   job-id? str since=7.0
//! ```

use std::fmt::{self, Write};

/// A version by its major and minor number.
pub(crate) type Release = (u32, u32);

/// The versions that have something. Without `since`, from the first version that was read; without
/// `until`, up to the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) since: Option<Release>,
    pub(crate) until: Option<Release>,
}

impl Range {
    #[allow(dead_code)] // For the check against a live QEMU.
    pub(crate) fn holds(&self, release: Release) -> bool {
        self.since.is_none_or(|since| release >= since)
            && self.until.is_none_or(|until| release <= until)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Struct,
    Enum,
    Union,
    Alternate,
    Command,
    Event,
}

/// Their names, in facts and in QAPI.
pub(crate) const KINDS: [(&str, Kind); 6] = [
    ("struct", Kind::Struct),
    ("enum", Kind::Enum),
    ("union", Kind::Union),
    ("alternate", Kind::Alternate),
    ("command", Kind::Command),
    ("event", Kind::Event),
];

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

/// A member of an object, a value of an enumeration, a form of an alternate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// `[X]` for a list of `X`; empty for a value of an enumeration.
    pub(crate) ty: String,
    pub(crate) optional: bool,
    /// Optional in some versions and not in others.
    pub(crate) varies: bool,
    pub(crate) range: Range,
    /// The required build configuration, such as `all(CONFIG_LINUX,CONFIG_VNC)`.
    pub(crate) condition: String,
    pub(crate) features: Vec<String>,
}

/// A type, command or event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Definition {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) module: String,
    pub(crate) range: Range,
    pub(crate) condition: String,
    pub(crate) features: Vec<String>,
    /// `oob`, `silent` (no reply on success), `open` (accepts any member).
    pub(crate) flags: Vec<String>,
    /// The type whose members are included: the base of a struct or union, the arguments of a
    /// command, the data of an event.
    pub(crate) base: String,
    /// What a command returns.
    pub(crate) returns: String,
    /// The member that selects the variant of a union.
    pub(crate) tag: String,
    pub(crate) members: Vec<Member>,
    /// Values of the tag, with the type of their additional members.
    pub(crate) variants: Vec<Member>,
}

/// All known facts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) versions: Vec<Release>,
    pub(crate) definitions: Vec<Definition>,
}

impl Facts {
    pub(crate) fn find(&self, name: &str) -> Option<&Definition> {
        self.definitions
            .iter()
            .find(|d| d.name == name && !matches!(d.kind, Kind::Command | Kind::Event))
    }

    /// Reads the file.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut facts = Self::default();
        let mut module = String::new();
        for (number, line) in text.lines().enumerate() {
            facts
                .line(line, &mut module)
                .map_err(|problem| format!("line {}: {problem}: {line}", number + 1))?;
        }
        Ok(facts)
    }

    fn line(&mut self, line: &str, module: &mut String) -> Result<(), String> {
        let indented = line.starts_with(' ');
        let mut words = line.split_whitespace();
        let Some(first) = words.next().filter(|word| !word.starts_with('#')) else {
            return Ok(());
        };
        if indented {
            let last = self.definitions.last_mut().ok_or("a member of nothing")?;
            let is_variant = first == "|";
            let name = if is_variant {
                words.next().ok_or("no value")?
            } else {
                first
            };
            let (name, optional) = match name.strip_suffix('?') {
                Some(name) => (name, true),
                None => (name, false),
            };
            let mut member = Member {
                name: name.to_owned(),
                optional,
                ..Member::default()
            };
            for word in words {
                match word.split_once('=') {
                    None => word.clone_into(&mut member.ty),
                    Some(("since", value)) => member.range.since = Some(release(value)?),
                    Some(("until", value)) => member.range.until = Some(release(value)?),
                    Some(("if", value)) => value.clone_into(&mut member.condition),
                    Some(("features", value)) => member.features = list(value),
                    Some(("varies", _)) => member.varies = true,
                    Some((other, _)) => return Err(format!("unknown key {other}")),
                }
            }
            if is_variant {
                last.variants.push(member);
            } else {
                last.members.push(member);
            }
            return Ok(());
        }
        match first {
            "versions" => {
                self.versions = words.map(release).collect::<Result<_, _>>()?;
                return Ok(());
            }
            "module" => {
                words.next().ok_or("no name")?.clone_into(module);
                return Ok(());
            }
            _ => {}
        }
        let kind = KINDS.iter().find(|(name, _)| *name == first);
        let (_, kind) = kind.ok_or("unknown kind")?;
        let mut definition = Definition {
            kind: *kind,
            name: words.next().ok_or("no name")?.to_owned(),
            module: module.clone(),
            range: Range::default(),
            condition: String::new(),
            features: Vec::new(),
            flags: Vec::new(),
            base: String::new(),
            returns: String::new(),
            tag: String::new(),
            members: Vec::new(),
            variants: Vec::new(),
        };
        for word in words {
            let (key, value) = word.split_once('=').ok_or("no value")?;
            match key {
                "since" => definition.range.since = Some(release(value)?),
                "until" => definition.range.until = Some(release(value)?),
                "if" => value.clone_into(&mut definition.condition),
                "features" => definition.features = list(value),
                "flags" => definition.flags = list(value),
                "base" => value.clone_into(&mut definition.base),
                "returns" => value.clone_into(&mut definition.returns),
                "tag" => value.clone_into(&mut definition.tag),
                other => return Err(format!("unknown key {other}")),
            }
        }
        self.definitions.push(definition);
        Ok(())
    }
}

fn list(value: &str) -> Vec<String> {
    value.split(',').map(str::to_owned).collect()
}

/// Reads `10.2`.
pub(crate) fn release(text: &str) -> Result<Release, String> {
    let numbers = text
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    numbers.ok_or_else(|| format!("no version: {text}"))
}

fn attributes(f: &mut String, range: &Range, condition: &str, features: &[String]) -> fmt::Result {
    if let Some((major, minor)) = range.since {
        write!(f, " since={major}.{minor}")?;
    }
    if let Some((major, minor)) = range.until {
        write!(f, " until={major}.{minor}")?;
    }
    if !condition.is_empty() {
        write!(f, " if={condition}")?;
    }
    if !features.is_empty() {
        write!(f, " features={}", features.join(","))?;
    }
    Ok(())
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# Facts of QAPI, merged by `cargo xtask codegen`. What the keys mean: xtask/src/codegen/facts.rs."
        )?;
        let versions: Vec<String> =
            self.versions.iter().map(|(major, minor)| format!("{major}.{minor}")).collect();
        writeln!(f, "versions {}", versions.join(" "))?;
        let mut module = "";
        for definition in &self.definitions {
            if definition.module != module {
                module = &definition.module;
                writeln!(f, "\nmodule {module}")?;
            }
            let mut line = format!("{} {}", definition.kind.name(), definition.name);
            for (key, value) in [
                ("base", &definition.base),
                ("returns", &definition.returns),
                ("tag", &definition.tag),
                ("flags", &definition.flags.join(",")),
            ] {
                if !value.is_empty() {
                    write!(line, " {key}={value}")?;
                }
            }
            attributes(
                &mut line,
                &definition.range,
                &definition.condition,
                &definition.features,
            )?;
            writeln!(f, "{line}")?;
            let members = definition.members.iter().map(|member| ("", member));
            let variants = definition.variants.iter().map(|member| ("| ", member));
            for (mark, member) in members.chain(variants) {
                let mut line = format!("  {mark}{}", member.name);
                if member.optional {
                    line.push('?');
                }
                if !member.ty.is_empty() {
                    write!(line, " {}", member.ty)?;
                }
                if member.varies {
                    line.push_str(" varies=yes");
                }
                attributes(
                    &mut line,
                    &member.range,
                    &member.condition,
                    &member.features,
                )?;
                writeln!(f, "{line}")?;
            }
        }
        Ok(())
    }
}
