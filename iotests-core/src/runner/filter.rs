//! Filter expressions: `group(quick) & format(qcow2) & !name(/luks/)`, parsed once and then
//! evaluated for each instance.

use std::collections::BTreeSet;
use std::fmt;
use std::iter::Peekable;
use std::str::{CharIndices, FromStr};
use std::sync::Arc;
use std::time::Duration;

use regex::Regex;

use super::near::nearest_word;
use super::plan::{self, Able, MorePoints, Planned};
use super::records::{History, Records};
use super::verdict::Verdict;
use crate::case::{
    Aio, Backend, Body, Cache, Format, Instance, Meta, Protocol, Registered, Requirement,
    UnknownName,
};

/// The description of the language for `--help`.
pub(crate) const HELP: &str = "\
An expression combines these with `&`, `|`, `!` (or `and`, `or`, `not`) and parentheses:
  name(TEXT) id(TEXT) upstream(TEXT) file(TEXT)   TEXT is a part; =TEXT the whole; #GLOB with * and ?; /REGEX/
  mentions(TEXT)          any text about it: name, description, groups, needs; for an upstream script, its source
  needs(TEXT)             one of its requirements, such as needs(emulator) or needs(driver throttle)
  group(NAME) set(NAME)   the whole name; or #GLOB, /REGEX/
  format(F) protocol(P) cache(MODE) aio(MODE) backend(system|qsd)
  last(VERDICT)   the last run: pass, fail (any failure), crash, timeout, leak, flaky, expected-fail, quarantined, never
  took(>2s)       the time of the last run: < or >, with ms, s or min
  skipped(TEXT)   cannot run here, for a reason that contains TEXT
  all() none()";

/// An expression.
#[derive(Debug, Clone)]
pub(crate) enum Filter {
    All,
    None,
    Not(Box<Self>),
    Both(Box<Self>, Box<Self>),
    Either(Box<Self>, Box<Self>),
    Text(Field, Text, At),
    Format(Format),
    Protocol(Protocol),
    Cache(Cache),
    Aio(Aio),
    Backend(Backend),
    Last(Last),
    Took { longer: bool, than: Duration },
}

/// Where a value is in the expression, for errors that are found only after parsing.
#[derive(Debug, Clone)]
pub(crate) struct At {
    text: Arc<str>,
    /// Offset in bytes.
    at: usize,
}

/// A text property of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Name,
    Id,
    Upstream,
    File,
    Group,
    Set,
    Needs,
    Mentions,
    Skipped,
}

/// How a text is compared.
#[derive(Debug, Clone)]
pub(crate) enum Text {
    Part(String),
    Whole(String),
    Regex(Regex),
}

/// How the last run ended.
#[derive(Debug, Clone)]
pub(crate) enum Last {
    Never,
    AnyFailure,
    Verdict(Verdict),
}

/// An invalid expression, with a marker at the place.
#[derive(Debug, thiserror::Error)]
#[error("{why}\n    {text}\n    {:>at$}", "^")]
pub(crate) struct FilterError {
    why: String,
    text: String,
    /// The column of the place in characters, from 1.
    at: usize,
}

impl FilterError {
    fn new(text: &str, at: usize, why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            text: text.to_owned(),
            at: text[..at].chars().count() + 1,
        }
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let mut parser = Parser {
            text,
            rest: text.char_indices().peekable(),
        };
        let filter = parser.either()?;
        match parser.peek() {
            None => Ok(filter),
            Some((at, found)) => Err(parser.error(
                at,
                format!("unexpected `{found}`: `&`, `|` or the end must follow"),
            )),
        }
    }
}

impl Filter {
    /// Whether this instance matches.
    pub(crate) fn matches(&self, one: &Planned, sets: &[Able], records: &Records) -> bool {
        let last = || records.get(&one.id);
        let instance = &one.instance;
        match self {
            Self::All => true,
            Self::None => false,
            Self::Not(inner) => !inner.matches(one, sets, records),
            Self::Both(a, b) => a.matches(one, sets, records) && b.matches(one, sets, records),
            Self::Either(a, b) => a.matches(one, sets, records) || b.matches(one, sets, records),
            Self::Text(field, text, _) => field.of(one, sets).iter().any(|value| text.is_in(value)),
            Self::Format(format) => instance.format == *format,
            Self::Protocol(protocol) => instance.protocol == *protocol,
            Self::Cache(cache) => instance.cache == *cache,
            Self::Aio(aio) => instance.aio == *aio,
            Self::Backend(backend) => instance.backend == Some(*backend),
            Self::Last(wanted) => wanted.is_of(last()),
            Self::Took { longer, than } => last().is_some_and(|last| match longer {
                true => last.elapsed > *than,
                false => last.elapsed < *than,
            }),
        }
    }
}

impl Filter {
    /// Whether the case may match at some point, on some set, with some history.
    pub(crate) fn may_match(&self, instance: &Instance) -> bool {
        self.ends(instance).0
    }

    /// Adds the matrix points that the expression names.
    pub(crate) fn points(&self, points: &mut MorePoints) {
        match self {
            Self::Not(inner) => inner.points(points),
            Self::Both(a, b) | Self::Either(a, b) => {
                a.points(points);
                b.points(points);
            }
            Self::Format(format) => points.formats.push(*format),
            Self::Protocol(protocol) => points.protocols.push(*protocol),
            Self::Cache(cache) => points.caches.push(*cache),
            Self::Aio(aio) => points.aios.push(*aio),
            _ => {}
        }
    }

    /// Refuses names that do not exist here: they would select nothing, or everything behind a `!`.
    pub(crate) fn check(&self, existing: &Existing<'_>) -> Result<(), FilterError> {
        match self {
            Self::Not(inner) => inner.check(existing),
            Self::Both(a, b) | Self::Either(a, b) => {
                a.check(existing)?;
                b.check(existing)
            }
            Self::Text(field, text @ (Text::Part(value) | Text::Whole(value)), at) => {
                let Some((what, known)) = existing.of(*field) else {
                    return Ok(());
                };
                match known.iter().any(|one| text.is_in(one)) {
                    true => Ok(()),
                    false => Err(at.error(unknown(what, value, &known))),
                }
            }
            _ => Ok(()),
        }
    }

    /// A hint which options to add, if it names matrix points at which nothing is planned.
    pub(crate) fn missing_points(&self, planned: &[Planned]) -> Option<String> {
        let mut points = MorePoints::default();
        self.points(&mut points);
        let mut options = missing("-f", points.formats, planned, |one| one.format);
        options.extend(missing("-p", points.protocols, planned, |one| one.protocol));
        options.extend(missing("-c", points.caches, planned, |one| one.cache));
        options.extend(missing("--aio", points.aios, planned, |one| one.aio));
        match options[..] {
            [] => None,
            _ => Some(format!(
                "an expression only narrows what the options select: add {}",
                options.join(" ")
            )),
        }
    }

    /// Whether it can be true for the case, and whether it can be false.
    fn ends(&self, instance: &Instance) -> (bool, bool) {
        match self {
            Self::All => (true, false),
            Self::None => (false, true),
            Self::Not(inner) => {
                let (yes, no) = inner.ends(instance);
                (no, yes)
            }
            Self::Both(a, b) => {
                let (a, b) = (a.ends(instance), b.ends(instance));
                (a.0 && b.0, a.1 || b.1)
            }
            Self::Either(a, b) => {
                let (a, b) = (a.ends(instance), b.ends(instance));
                (a.0 || b.0, a.1 && b.1)
            }
            Self::Text(field, text, _) => match field.of_case(instance) {
                Some(values) => {
                    let is_so = values.iter().any(|value| text.is_in(value));
                    (is_so, !is_so)
                }
                None => (true, true),
            },
            Self::Format(format) => (instance.meta.formats.to_vec().contains(format), true),
            Self::Protocol(protocol) => (instance.meta.protocols.contains(protocol), true),
            _ => (true, true),
        }
    }
}

/// The options that would request those values that no planned instance has.
fn missing<T: PartialEq + fmt::Display>(
    option: &str,
    mut values: Vec<T>,
    planned: &[Planned],
    of: fn(&Instance) -> T,
) -> Vec<String> {
    values.retain(|value| !planned.iter().any(|one| of(&one.instance) == *value));
    values.iter().map(|value| format!("{option} {value}")).collect()
}

/// The names that exist here, to check those in an expression.
pub(crate) struct Existing<'a> {
    pub(crate) entries: &'static [Registered],
    pub(crate) sets: &'a [Able],
}

impl Existing<'_> {
    /// The field's label and all existing values; `None` if it may be any text.
    fn of(&self, field: Field) -> Option<(&'static str, Vec<String>)> {
        let all = |of: fn(&Registered) -> Vec<String>| {
            let all: BTreeSet<String> = self.entries.iter().flat_map(of).collect();
            all.into_iter().collect::<Vec<_>>()
        };
        match field {
            Field::Group => Some(("group", plan::groups(self.entries))),
            Field::Set => {
                let sets = self.sets.iter().map(|set| set.name.clone());
                Some(("set", sets.collect()))
            }
            Field::Needs => {
                let mut all = all(|entry| declared_needs(&entry.meta));
                all.push(Requirement::Emulator.to_string());
                all.push(Backend::Qsd.tool().to_string());
                Some(("need", all))
            }
            Field::Name => Some(("name", all(|entry| vec![entry.name()]))),
            _ => None,
        }
    }
}

impl At {
    fn error(&self, why: String) -> FilterError {
        FilterError::new(&self.text, self.at, why)
    }
}

/// The error about an unknown value, with all known ones unless they are many, and the nearest one.
pub(crate) fn unknown(what: &str, value: &str, known: &[String]) -> String {
    let parts = known.iter().flat_map(|one| one.split([':', '/', ' ']));
    let near = nearest_word(value, known.iter().map(String::as_str).chain(parts));
    let mut why = format!("{what} `{value}` is unknown");
    if known.len() <= MANY {
        why += &format!("; known: {}", known.join(", "));
    }
    if let Some(near) = near {
        why += &format!("; did you mean `{near}`?");
    }
    why
}

/// The most names worth listing in an error.
const MANY: usize = 40;

impl Field {
    /// The values, if they are the same wherever the case runs.
    fn of_case(self, instance: &Instance) -> Option<Vec<String>> {
        match self {
            Self::Name => Some(vec![instance.name()]),
            Self::Upstream => Some(instance.upstream().map(str::to_owned).collect()),
            Self::File => Some(vec![instance.case.file.to_owned()]),
            Self::Group => {
                let groups = instance.meta.groups.iter();
                Some(groups.map(|group| group.0.to_owned()).collect())
            }
            Self::Id | Self::Set | Self::Needs | Self::Mentions | Self::Skipped => None,
        }
    }

    fn of(self, one: &Planned, sets: &[Able]) -> Vec<String> {
        let instance = &one.instance;
        match self {
            Self::Name | Self::Upstream | Self::File | Self::Group => {
                self.of_case(instance).unwrap_or_default()
            }
            Self::Id => vec![one.id.clone()],
            Self::Needs => needs(instance),
            Self::Mentions => mentions(instance),
            Self::Set => sets.get(one.set).map(|set| set.name.clone()).into_iter().collect(),
            Self::Skipped => one.skip.iter().map(ToString::to_string).collect(),
        }
    }
}

/// All texts about a case, one by one.
fn mentions(instance: &Instance) -> Vec<String> {
    let mut all = needs(instance);
    all.extend([instance.name(), instance.case.description.to_owned()]);
    all.extend(instance.meta.groups.iter().map(ToString::to_string));
    all.extend(instance.upstream().map(str::to_owned));
    if let Body::Script(script) = &instance.case.body {
        // A missing script is reported when it runs.
        let text = std::fs::read(&script.path).unwrap_or_default();
        all.push(String::from_utf8_lossy(&text).into_owned());
    }
    all
}

/// Everything an instance needs: its declared requirements, one by one, and its host process.
fn needs(instance: &Instance) -> Vec<String> {
    let mut all = Vec::new();
    match instance.backend {
        Some(Backend::System) => all.push(Requirement::Emulator.to_string()),
        Some(Backend::Qsd) => all.push(Backend::Qsd.tool().to_string()),
        None => {}
    }
    all.extend(declared_needs(instance.meta));
    all
}

fn declared_needs(meta: &Meta) -> Vec<String> {
    let mut all = Vec::new();
    for requirement in &meta.needs {
        requirement.walk(&mut |part| all.push(part.to_string()));
    }
    all
}

impl Text {
    fn is_in(&self, value: &str) -> bool {
        match self {
            Self::Part(part) => value.contains(part),
            Self::Whole(whole) => value == whole,
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

impl Last {
    fn is_of(&self, last: Option<&History>) -> bool {
        let verdict = last.and_then(|last| last.verdicts.last().copied());
        match (self, verdict) {
            (Self::Never, verdict) => verdict.is_none(),
            (Self::AnyFailure, Some(verdict)) => verdict.is_failure(),
            (Self::Verdict(wanted), Some(verdict)) => verdict == *wanted,
            (_, None) => false,
        }
    }
}

/// Translates a glob into a regular expression: `*` is any text and `?` one character, as in a
/// shell.
pub(crate) fn glob(pattern: &str) -> String {
    let mut regex = String::new();
    for c in pattern.chars() {
        match c {
            '*' => regex += ".*",
            '?' => regex += ".",
            c => regex += &regex::escape(c.encode_utf8(&mut [0; 4])),
        }
    }
    regex
}

struct Parser<'a> {
    text: &'a str,
    rest: Peekable<CharIndices<'a>>,
}

impl Parser<'_> {
    fn error(&self, at: usize, why: impl Into<String>) -> FilterError {
        FilterError::new(self.text, at, why)
    }

    /// The next character that is not a space, and its place.
    fn peek(&mut self) -> Option<(usize, char)> {
        while self.rest.next_if(|(_, c)| c.is_whitespace()).is_some() {}
        self.rest.peek().copied()
    }

    fn takes(&mut self, wanted: char) -> bool {
        self.peek().is_some_and(|(_, c)| c == wanted) && self.rest.next().is_some()
    }

    fn takes_word(&mut self, wanted: &str) -> bool {
        let Some((at, _)) = self.peek() else {
            return false;
        };
        let is_there = self.text[at..]
            .strip_prefix(wanted)
            .is_some_and(|after| !after.starts_with(|c: char| c.is_alphanumeric() || c == '('));
        if is_there {
            self.rest.nth(wanted.chars().count() - 1);
        }
        is_there
    }

    fn either(&mut self) -> Result<Filter, FilterError> {
        let mut all = self.both()?;
        while self.takes('|') || self.takes_word("or") {
            all = Filter::Either(Box::new(all), Box::new(self.both()?));
        }
        Ok(all)
    }

    fn both(&mut self) -> Result<Filter, FilterError> {
        let mut all = self.one()?;
        while self.takes('&') || self.takes_word("and") {
            all = Filter::Both(Box::new(all), Box::new(self.one()?));
        }
        Ok(all)
    }

    fn one(&mut self) -> Result<Filter, FilterError> {
        if self.takes('!') || self.takes_word("not") {
            return Ok(Filter::Not(Box::new(self.one()?)));
        }
        if self.takes('(') {
            let inner = self.either()?;
            return match self.takes(')') {
                true => Ok(inner),
                false => Err(self.missing("`)`")),
            };
        }
        let Some((at, _)) = self.peek() else {
            return Err(self.missing("a condition, such as `name(commit)`,"));
        };
        let mut word = String::new();
        while let Some((_, c)) = self.rest.next_if(|(_, c)| c.is_alphanumeric()) {
            word.push(c);
        }
        if !self.takes('(') {
            let (place, _) = self.peek().unwrap_or((self.text.len(), ' '));
            let why = match word.is_empty() {
                true => "expected a condition, such as `name(commit)`".to_owned(),
                false => format!("`{word}` needs a value in parentheses"),
            };
            return Err(self.error(place, why));
        }
        let (value_at, value) = self.value()?;
        self.condition(&word, &value, value_at)
            .map_err(|(is_word, why)| self.error(if is_word { at } else { value_at }, why))
    }

    fn missing(&self, what: &str) -> FilterError {
        self.error(self.text.len(), format!("{what} is missing at the end"))
    }

    /// The text up to the closing parenthesis. A regular expression may contain parentheses.
    fn value(&mut self) -> Result<(usize, String), FilterError> {
        let (at, first) = self.peek().unwrap_or((self.text.len(), ' '));
        let is_regex = first == '/';
        let mut value = String::new();
        let mut ends = !is_regex;
        for (_, c) in self.rest.by_ref() {
            match c {
                ')' if ends => return Ok((at, value.trim().to_owned())),
                '/' if is_regex && !value.is_empty() && !value.ends_with('\\') => ends = true,
                _ => {}
            }
            value.push(c);
        }
        Err(self.missing(if ends { "`)`" } else { "`/)`" }))
    }

    /// The error also says whether the word is to blame rather than the value.
    fn condition(&self, word: &str, value: &str, at: usize) -> Result<Filter, (bool, String)> {
        let of_value = |why: String| (false, why);
        let at = || At {
            text: self.text.into(),
            at,
        };
        let text = |field| Ok(Filter::Text(field, text(value).map_err(of_value)?, at()));
        // Whole names: `group(rw)` should not match every group with these letters in it.
        let whole = |field| match text(field)? {
            Filter::Text(field, Text::Part(name), at) => {
                Ok(Filter::Text(field, Text::Whole(name), at))
            }
            other => Ok(other),
        };
        match word {
            "all" | "none" if !value.is_empty() => {
                Err((false, format!("`{word}()` takes no value")))
            }
            "all" => Ok(Filter::All),
            "none" => Ok(Filter::None),
            "name" => text(Field::Name),
            "id" => text(Field::Id),
            "upstream" => text(Field::Upstream),
            "file" => text(Field::File),
            "group" => whole(Field::Group),
            "set" => whole(Field::Set),
            "needs" => text(Field::Needs),
            "mentions" => text(Field::Mentions),
            "skipped" => text(Field::Skipped),
            "format" | "fmt" => named(value).map(Filter::Format),
            "protocol" | "proto" => named(value).map(Filter::Protocol),
            "cache" => named(value).map(Filter::Cache),
            "aio" => named(value).map(Filter::Aio),
            "backend" => {
                let backend = Backend::ALL.iter().find(|one| one.to_string() == value);
                let known = || Backend::ALL.iter().map(ToString::to_string);
                backend.map(|one| Filter::Backend(*one)).ok_or_else(|| {
                    of_value(unknown("backend", value, &known().collect::<Vec<_>>()))
                })
            }
            "last" => last(value).map(Filter::Last).map_err(of_value),
            "took" => took(value).ok_or_else(|| {
                of_value(format!("`{value}` is not a time such as `>2s` or `<500ms`"))
            }),
            _ => Err((true, format!("there is no `{word}()`; see --help"))),
        }
    }
}

fn named<T: FromStr<Err = UnknownName>>(value: &str) -> Result<T, (bool, String)> {
    value.parse().map_err(|error: UnknownName| (false, unknown_name(&error)))
}

/// The error about an unknown name on a matrix axis, with the nearest one.
pub(crate) fn unknown_name(error: &UnknownName) -> String {
    let known: Vec<String> = error.known.split(", ").map(str::to_owned).collect();
    unknown(error.axis, &error.given, &known)
}

fn text(value: &str) -> Result<Text, String> {
    let regex =
        |pattern: &str| Regex::new(pattern).map(Text::Regex).map_err(|error| error.to_string());
    match value.split_at_checked(1) {
        Some(("=", whole)) => Ok(Text::Whole(whole.to_owned())),
        Some(("#", pattern)) => regex(&format!("^{}$", glob(pattern))),
        Some(("/", pattern)) => regex(pattern.strip_suffix('/').unwrap_or(pattern)),
        _ => Ok(Text::Part(value.to_owned())),
    }
}

fn last(value: &str) -> Result<Last, String> {
    let word = |verdict: &Verdict| verdict.word().to_lowercase().replace(' ', "-");
    match value {
        "never" => Ok(Last::Never),
        "fail" => Ok(Last::AnyFailure),
        value => match Verdict::ALL.iter().find(|verdict| word(verdict) == value) {
            Some(verdict) => Ok(Last::Verdict(*verdict)),
            None => {
                let mut known = vec!["never".to_owned()];
                known.extend(Verdict::ALL.iter().map(word));
                Err(unknown("verdict", value, &known))
            }
        },
    }
}

fn took(value: &str) -> Option<Filter> {
    let (sign, time) = value.split_at_checked(1)?;
    let longer = match sign {
        ">" => true,
        "<" => false,
        _ => return None,
    };
    let (number, unit) = time.split_at(time.find(|c: char| c.is_alphabetic())?);
    let factor = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "min" => 60.0,
        _ => return None,
    };
    let seconds = number.trim().parse::<f64>().ok()? * factor;
    let than = Duration::try_from_secs_f64(seconds).ok()?;
    Some(Filter::Took { longer, than })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        text.parse::<Filter>().unwrap_err().to_string()
    }

    /// The structure, with simplified leaves.
    fn shape(filter: &Filter) -> String {
        match filter {
            Filter::Not(inner) => format!("!{}", shape(inner)),
            Filter::Both(a, b) => format!("({}&{})", shape(a), shape(b)),
            Filter::Either(a, b) => format!("({}|{})", shape(a), shape(b)),
            Filter::Text(_, Text::Part(text), _) => text.clone(),
            Filter::Text(_, Text::Whole(text), _) => format!("={text}"),
            Filter::Text(_, Text::Regex(regex), _) => format!("/{regex}/"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn and_binds_stronger_than_or_and_not_strongest() {
        for (text, expected) in [
            ("name(a)", "a"),
            ("name(a) | name(b) & !name(c)", "(a|(b&!c))"),
            ("(name(a)|name(b))&name(c)", "((a|b)&c)"),
            ("not name(a) and name(b) or name(c)", "((!a&b)|c)"),
            ("name(=a::b)", "=a::b"),
            ("name(#a*b?.)", "/^a.*b.\\.$/"),
            ("name(/(a|b)\\/c/) & all()", "(/(a|b)\\/c/&All)"),
            ("fmt(qcow2) | proto(nbd)", "(Format(Qcow2)|Protocol(Nbd))"),
            ("took(>1.5s)", "Took { longer: true, than: 1.5s }"),
            ("took(< 2min)", "Took { longer: false, than: 120s }"),
            ("last(expected-fail)", "Last(Verdict(ExpectedFail))"),
            ("last(fail) | last(never)", "(Last(AnyFailure)|Last(Never))"),
            ("  backend( qsd )  ", "Backend(Qsd)"),
        ] {
            assert_eq!(shape(&text.parse().unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn an_error_points_at_its_place() {
        for (text, place, why) in [
            (
                "name(a) & fmt(qcow9)",
                "fmt(",
                "`qcow9` is unknown; known: raw, qcow2",
            ),
            ("name(a) & size(1)", "name(a) & ", "there is no `size()`"),
            ("name(a) name(b)", "name(a) ", "unexpected `n`"),
            ("name(a) &", "name(a) &", "is missing at the end"),
            ("(name(a)", "(name(a)", "`)` is missing at the end"),
            ("name(a", "name(a", "`)` is missing"),
            ("name(/a", "name(/a", "`/)` is missing"),
            ("quick", "quick", "needs a value in parentheses"),
            ("", "", "is missing at the end"),
            ("name(/[/)", "name(", "unclosed character class"),
            (
                "last(green)",
                "last(",
                "verdict `green` is unknown; known: never, pass",
            ),
            ("took(2s)", "took(", "is not a time such as"),
            ("backend(vm)", "backend(", "known: system, qsd"),
            ("all(x)", "all(", "takes no value"),
        ] {
            let error = error(text);
            assert!(error.contains(why), "{text}: {error}");
            let column = error.lines().last().unwrap().chars().count() - 5;
            let expected = match text.find("qcow9") {
                Some(at) => at,
                None => place.chars().count(),
            };
            assert_eq!(column, expected, "{text}: {error}");
        }
    }

    #[test]
    fn the_last_verdict_is_compared() {
        let of = |verdict| History {
            elapsed: Duration::from_secs(1),
            verdicts: vec![Verdict::Pass, verdict],
            times: Vec::new(),
        };
        assert!(Last::Never.is_of(None) && !Last::Never.is_of(Some(&of(Verdict::Pass))));
        assert!(Last::AnyFailure.is_of(Some(&of(Verdict::Crash))));
        assert!(!Last::AnyFailure.is_of(Some(&of(Verdict::Pass))) && !Last::AnyFailure.is_of(None));
        let passed = Last::Verdict(Verdict::Pass);
        assert!(passed.is_of(Some(&of(Verdict::Pass))) && !passed.is_of(Some(&of(Verdict::Flaky))));
    }

    proptest::proptest! {
        #[test]
        fn no_expression_makes_it_panic(text in ".{0,40}|[a-z()&|!/# ]{0,40}") {
            let _ = text.parse::<Filter>();
        }
    }
}
