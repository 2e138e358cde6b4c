//! Reads the QAPI definitions of one source tree.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::facts::{Definition, KINDS, Kind, Member, Range, Release};

/// A value of QAPI's dialect of JSON.
#[derive(Clone, Debug)]
enum Value {
    Text(String),
    Bool(bool),
    Null,
    List(Vec<Value>),
    Object(Vec<(String, Value)>),
}

impl Value {
    fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Self::Object(members) => members.iter().find(|(name, _)| name == key).map(|(_, v)| v),
            _ => None,
        }
    }

    fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    fn is(&self, key: &str, wanted: bool) -> bool {
        matches!(self.get(key), Some(Self::Bool(value)) if *value == wanted)
    }
}

/// The versions stated in a comment, for a definition (under the empty name) and its members.
type Since = HashMap<String, Release>;

/// The definitions of `qapi/qapi-schema.json` or of a single file such as the guest agent's.
pub(crate) fn read(root: &Path) -> Result<Vec<(Definition, Since)>, String> {
    let mut found = Vec::new();
    read_file(root, &mut HashSet::new(), &mut found)?;
    Ok(found)
}

fn read_file(
    path: &Path,
    seen: &mut HashSet<std::path::PathBuf>,
    found: &mut Vec<(Definition, Since)>,
) -> Result<(), String> {
    let failed = |problem: String| format!("{}: {problem}", path.display());
    if !seen.insert(path.canonicalize().map_err(|error| failed(error.to_string()))?) {
        return Ok(());
    }
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let module = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut reader = Reader {
        text: &text,
        at: 0,
        since: Since::new(),
    };
    while let Some((value, since)) = reader.expression().map_err(failed)? {
        if let Some(include) = value.text("include") {
            let included = path.parent().unwrap_or(Path::new(".")).join(include);
            read_file(&included, seen, found)?;
        } else if value.get("pragma").is_none() {
            let definition = definition(&value, &module).map_err(failed)?;
            found.push((definition, since));
        }
    }
    Ok(())
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    since: Since,
}

impl Reader<'_> {
    /// The next expression, with the versions stated in the comment before it.
    fn expression(&mut self) -> Result<Option<(Value, Since)>, String> {
        self.since.clear();
        if self.peek().is_none() {
            return Ok(None);
        }
        let since = std::mem::take(&mut self.since);
        Ok(Some((self.value()?, since)))
    }

    /// The next character that is neither white space nor comment.
    fn peek(&mut self) -> Option<char> {
        let mut section = String::new();
        loop {
            let rest = &self.text[self.at..];
            let c = rest.chars().next()?;
            if c == '#' {
                let end = rest.find('\n').unwrap_or(rest.len());
                let line = rest[..end].trim_start_matches('#').trim();
                if let Some(name) = line.strip_prefix('@').and_then(|l| l.split_once(':')) {
                    // The first is the definition itself.
                    let first = self.since.is_empty() && section.is_empty();
                    section = if first {
                        "\0".into()
                    } else {
                        name.0.to_owned()
                    };
                } else if line.to_lowercase().starts_with("since") {
                    section.clear();
                }
                if let Some(release) = since(line) {
                    let key = if section == "\0" { "" } else { &section };
                    self.since.entry(key.to_owned()).or_insert(release);
                }
                self.at += end;
            } else if c.is_whitespace() {
                self.at += c.len_utf8();
            } else {
                return Some(c);
            }
        }
    }

    fn expect(&mut self, wanted: char) -> Result<(), String> {
        match self.peek() {
            Some(c) if c == wanted => {
                self.at += 1;
                Ok(())
            }
            other => {
                let line = self.text[..self.at].lines().count();
                Err(format!("line {line}: expected {wanted:?}, found {other:?}"))
            }
        }
    }

    fn string(&mut self) -> Result<String, String> {
        self.expect('\'')?;
        let rest = &self.text[self.at..];
        let end = rest.find('\'').ok_or("an open string")?;
        self.at += end + 1;
        Ok(rest[..end].to_owned())
    }

    fn value(&mut self) -> Result<Value, String> {
        match self.peek() {
            Some('\'') => self.string().map(Value::Text),
            Some('[') => {
                self.at += 1;
                let mut list = Vec::new();
                while self.peek() != Some(']') {
                    list.push(self.value()?);
                    if self.peek() == Some(',') {
                        self.at += 1;
                    }
                }
                self.at += 1;
                Ok(Value::List(list))
            }
            Some('{') => {
                self.at += 1;
                let mut members = Vec::new();
                while self.peek() != Some('}') {
                    let name = self.string()?;
                    self.expect(':')?;
                    members.push((name, self.value()?));
                    if self.peek() == Some(',') {
                        self.at += 1;
                    }
                }
                self.at += 1;
                Ok(Value::Object(members))
            }
            _ => {
                for (word, value) in [
                    ("true", Value::Bool(true)),
                    ("false", Value::Bool(false)),
                    ("null", Value::Null),
                ] {
                    if self.text[self.at..].starts_with(word) {
                        self.at += word.len();
                        return Ok(value);
                    }
                }
                Err(format!("byte {}: no value", self.at))
            }
        }
    }
}

/// The version after the word "since" in a line.
fn since(line: &str) -> Option<Release> {
    let lower = line.to_lowercase();
    let rest = lower.split("since").nth(1)?.trim_start_matches([':', ' ']);
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let mut numbers = rest[..end].split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn condition(value: Option<&Value>) -> String {
    match value {
        Some(Value::Text(name)) => name.clone(),
        Some(Value::Object(members)) => members.first().map_or_else(String::new, |(key, value)| {
            format!("{key}({})", condition(Some(value)))
        }),
        Some(Value::List(list)) => {
            let all: Vec<String> = list.iter().map(|value| condition(Some(value))).collect();
            all.join(",")
        }
        _ => String::new(),
    }
}

fn features(value: &Value) -> Vec<String> {
    let Some(Value::List(list)) = value.get("features") else {
        return Vec::new();
    };
    let name = |feature: &Value| match feature {
        Value::Text(name) => Some(name.clone()),
        other => other.text("name").map(str::to_owned),
    };
    list.iter().filter_map(name).collect()
}

fn type_name(value: &Value) -> Result<String, String> {
    match value {
        Value::Text(name) => Ok(name.clone()),
        Value::List(list) => match &list[..] {
            [Value::Text(name)] => Ok(format!("[{name}]")),
            _ => Err("a list of nothing".into()),
        },
        other => other.get("type").map_or_else(|| Err(format!("no type: {other:?}")), type_name),
    }
}

fn members(value: Option<&Value>) -> Result<Vec<Member>, String> {
    let Some(Value::Object(list)) = value else {
        return Ok(Vec::new());
    };
    list.iter()
        .map(|(name, value)| {
            Ok(Member {
                name: name.trim_start_matches('*').to_owned(),
                ty: type_name(value)?,
                optional: name.starts_with('*'),
                condition: condition(value.get("if")),
                features: features(value),
                ..Member::default()
            })
        })
        .collect()
}

fn values(value: Option<&Value>) -> Result<Vec<Member>, String> {
    let Some(Value::List(list)) = value else {
        return Err("an enumeration without values".into());
    };
    list.iter()
        .map(|value| {
            let name = match value {
                Value::Text(name) => name.clone(),
                other => other.text("name").ok_or("a value without name")?.to_owned(),
            };
            Ok(Member {
                name,
                condition: condition(value.get("if")),
                features: features(value),
                ..Member::default()
            })
        })
        .collect()
}

fn definition(value: &Value, module: &str) -> Result<Definition, String> {
    let named = KINDS.iter().find_map(|(key, kind)| Some((*kind, value.text(key)?)));
    let (kind, name) = named.ok_or_else(|| format!("no definition: {value:?}"))?;
    let data = value.get("data");
    let named = match data {
        Some(Value::Text(name)) => name.clone(),
        _ => String::new(),
    };
    let base = match value.get("base") {
        Some(Value::Text(name)) => name.clone(),
        _ => named,
    };
    let mut flags = Vec::new();
    for (key, wanted, flag) in [
        ("allow-oob", true, "oob"),
        ("success-response", false, "silent"),
        ("gen", false, "open"),
    ] {
        if value.is(key, wanted) {
            flags.push(flag.to_owned());
        }
    }
    let (own, variants) = match kind {
        Kind::Enum => (values(data)?, Vec::new()),
        Kind::Union => (members(value.get("base"))?, members(data)?),
        _ => (members(data)?, Vec::new()),
    };
    Ok(Definition {
        kind,
        name: name.to_owned(),
        module: module.to_owned(),
        range: Range::default(),
        condition: condition(value.get("if")),
        features: features(value),
        flags,
        base,
        returns: value.get("returns").map(type_name).transpose()?.unwrap_or_default(),
        tag: value.text("discriminator").unwrap_or_default().to_owned(),
        members: own,
        variants,
    })
}
