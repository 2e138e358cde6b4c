//! The INI grammar of QEMU's `nbd-fault-injector.py`.
//!
//! Sections must have names that start with `inject-error`; `event` is required, `io` and `when`
//! are not; other keys are ignored, as in QEMU. The text is parsed like Python's `RawConfigParser`
//! does. The only action of an old rule is to close the connection and end the server.

use super::FaultPlan;
use super::action::Action;
use super::rule::{At, On, Rule};

/// Why text is not a valid configuration of the fault injector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IniError {
    /// A line that is neither a section, a key, a comment nor a continuation.
    #[error("line {line}: not understood: {text:?}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// A key before the first section.
    #[error("line {line}: no section yet")]
    NoSection {
        /// Its number, from 1.
        line: usize,
    },
    /// A repeated section or key.
    #[error("line {line}: {name:?} is there twice")]
    Repeated {
        /// Its number, from 1.
        line: usize,
        /// The section or key.
        name: String,
    },
    /// A section that does not hold a rule.
    #[error("invalid config section name: {0}")]
    Section(String),
    /// A rule without an event.
    #[error("missing \"event\" option in {0}")]
    NoEvent(String),
    /// An invalid value.
    #[error("invalid {key:?} option value {value:?} in {section}")]
    Value {
        /// The section.
        section: String,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
    },
}

impl FaultPlan {
    /// Parses the old grammar.
    pub fn from_ini(text: &str) -> Result<FaultPlan, IniError> {
        let mut plan = FaultPlan::new();
        for section in sections(text)? {
            plan.rules.extend(rules(&section)?);
        }
        Ok(plan)
    }
}

#[derive(Debug, Default)]
struct Section {
    name: String,
    keys: Vec<(String, String)>,
}

impl Section {
    fn get(&self, key: &str) -> Option<&str> {
        self.keys.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
}

fn sections(text: &str) -> Result<Vec<Section>, IniError> {
    let mut sections: Vec<Section> = Vec::new();
    // Python reserves this section for defaults of all others.
    let mut defaults = Section::default();
    let mut in_defaults = false;
    for (number, raw) in text.lines().enumerate() {
        let line = number + 1;
        let trimmed = raw.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        let current = if in_defaults {
            Some(&mut defaults)
        } else {
            sections.last_mut()
        };
        let indented = raw.starts_with([' ', '\t']);
        if let Some((_, value)) = current.and_then(|s| s.keys.last_mut()).filter(|_| indented) {
            value.push('\n');
            value.push_str(trimmed);
            continue;
        }
        if let Some(rest) = trimmed.strip_prefix('[') {
            let bad = || IniError::Line {
                line,
                text: raw.to_owned(),
            };
            let (name, _) = rest.rsplit_once(']').filter(|(n, _)| !n.is_empty()).ok_or_else(bad)?;
            in_defaults = name == "DEFAULT";
            if sections.iter().any(|s| s.name == name) {
                return Err(IniError::Repeated {
                    line,
                    name: name.to_owned(),
                });
            }
            if !in_defaults {
                sections.push(Section {
                    name: name.to_owned(),
                    keys: Vec::new(),
                });
            }
            continue;
        }
        let current = if in_defaults {
            Some(&mut defaults)
        } else {
            sections.last_mut()
        };
        let Some(section) = current else {
            return Err(IniError::NoSection { line });
        };
        let bad = || IniError::Line {
            line,
            text: raw.to_owned(),
        };
        let (key, value) = trimmed.split_once(['=', ':']).ok_or_else(bad)?;
        let key = key.trim_end().to_lowercase();
        if key.is_empty() {
            return Err(bad());
        }
        if section.get(&key).is_some() {
            return Err(IniError::Repeated { line, name: key });
        }
        section.keys.push((key, value.trim_start().to_owned()));
    }
    for section in &mut sections {
        section.keys.extend(defaults.keys.iter().cloned());
    }
    Ok(sections)
}

/// What the old server does with the bytes at an event.
#[derive(PartialEq)]
enum Io {
    Read,
    Write,
}

/// One section is one rule in QEMU; here it can be several, one for each of our points.
fn rules(section: &Section) -> Result<Vec<Rule>, IniError> {
    if !section.name.starts_with("inject-error") {
        return Err(IniError::Section(section.name.clone()));
    }
    let value = |key, value: &str| IniError::Value {
        section: section.name.clone(),
        key,
        value: value.to_owned(),
    };
    let event = section.get("event").ok_or_else(|| IniError::NoEvent(section.name.clone()))?;
    let io = section.get("io").unwrap_or("readwrite");
    if !["read", "write", "readwrite"].contains(&io) {
        return Err(value("io", io));
    }
    let when = section.get("when").unwrap_or("before");
    let at = match (when, when.trim().parse::<i64>()) {
        ("before", _) | (_, Ok(0)) => At::Before,
        ("after", _) | (_, Ok(-1)) => At::After,
        (_, Ok(n)) if n > 0 => At::Byte(n as u64),
        _ => return Err(value("when", when)),
    };
    let points: Vec<(Io, On, At)> = match event {
        "neg-classic" | "neg1" => vec![(Io::Write, On::Greeting, at)],
        // In QEMU, the client's flags and the header of its option are one struct.
        "export" => vec![match at {
            At::Before => (Io::Read, On::ClientFlags, at),
            At::Byte(n) if n < 4 => (Io::Read, On::ClientFlags, at),
            At::Byte(n) => (Io::Read, On::any_option(), At::Byte(n - 4)),
            At::After => (Io::Read, On::any_option(), at),
        }],
        "neg2" => vec![(Io::Write, On::ExportReply, at)],
        "request" => vec![(Io::Read, On::any_request(), at)],
        "reply" => vec![(Io::Write, On::any_reply(), at)],
        "data" => vec![(Io::Read, On::payload(), at), (Io::Write, On::data(), at)],
        _ => return Err(value("event", event)),
    };
    let wanted = |direction: &Io| match io {
        "read" => *direction == Io::Read,
        "write" => *direction == Io::Write,
        _ => true,
    };
    let points: Vec<_> = points.into_iter().filter(|(direction, ..)| wanted(direction)).collect();
    // The first of several points to be reached ends the server, so the others never are.
    let alternatives = points.len() > 1;
    Ok(points
        .into_iter()
        .map(|(_, on, at)| {
            let mut rule = Rule::new(on, Action::Die).name(section.name.clone());
            rule.at = at;
            rule.optional = alternatives;
            rule
        })
        .collect())
}
