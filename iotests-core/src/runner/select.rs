//! Selectors: words on the command line, parsed into a name, a matrix point and a set.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::str::FromStr;

use regex::Regex;

use super::error::RunError;
use super::filter;
use super::near::NEAR;
use crate::case::{Aio, Backend, Cache, Case, Format, Instance, Protocol};

/// How many similar names an error lists.
const NEAREST: usize = 3;

/// The part of an id that names its set.
pub(crate) const SET: &str = ".set=";

/// A word on the command line: a part of a name, an upstream test, or an id.
#[derive(Debug, Clone)]
pub(crate) struct Selector {
    /// The word as given, for messages.
    pub(crate) text: String,
    name: Name,
    /// The part after an `@`. If there is one, the name must be whole.
    pub(crate) point: Option<At>,
    /// The set that the id names.
    pub(crate) set: Option<String>,
}

/// The part before the point.
#[derive(Debug, Clone)]
enum Name {
    /// Part of a name, or segments of an upstream id.
    Part(String),
    /// The whole name, with `*` and `?`.
    Glob(Regex),
    /// An upstream test's number without its leading zeros or, if there is no such test, part of a
    /// name.
    Short(u32),
    /// Upstream tests by their numbers.
    Numbers(RangeInclusive<u32>),
    /// A source file, by the end of its path, and a line in it.
    Source { file: String, line: Option<u32> },
}

/// Where cases start, and which upstream numbers exist.
#[derive(Debug)]
pub(crate) struct Places {
    lines: BTreeSet<(&'static str, u32)>,
    numbers: BTreeSet<u32>,
}

impl Places {
    pub(crate) fn of(all: &[Instance]) -> Self {
        let lines = all.iter().map(|one| (one.case.file, one.case.line));
        let numbers = all.iter().flat_map(numbers);
        Self {
            lines: lines.collect(),
            numbers: numbers.collect(),
        }
    }

    /// Whether this line of its file belongs to the case, which extends to the next one.
    fn is_within(&self, line: u32, case: &Case) -> bool {
        let mut begun = self.lines.range((case.file, 0)..=(case.file, line));
        begun.next_back() == Some(&(case.file, case.line))
    }
}

/// A matrix point, as far as an id specifies it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) format: Option<Format>,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) cache: Option<Cache>,
    pub(crate) aio: Option<Aio>,
    pub(crate) backend: Option<Backend>,
}

impl Selector {
    /// Parses one word.
    pub(crate) fn parse(text: &str) -> Result<Self, RunError> {
        if text.is_empty() {
            return Err(RunError::Usage(
                "an empty word selects nothing; leave it out for all cases".to_owned(),
            ));
        }
        let (rest, set) = match text.split_once(SET) {
            Some((rest, set)) => (rest, Some(set.to_owned())),
            None => (text, None),
        };
        let (name, point) = match rest.split_once('@') {
            Some((name, point)) => (name, Some(At::parse(text, point)?)),
            None => (rest, None),
        };
        Ok(Self {
            text: text.to_owned(),
            name: Name::parse(name),
            point,
            set,
        })
    }

    /// Whether it matches this case and row, at any point.
    pub(crate) fn names(&self, instance: &Instance, places: &Places) -> bool {
        match &self.name {
            Name::Part(part) => self.has_part(part, instance),
            Name::Short(number) if places.numbers.contains(number) => {
                numbers(instance).any(|one| one == *number)
            }
            Name::Short(number) => self.has_part(&number.to_string(), instance),
            Name::Glob(glob) => glob.is_match(&instance.name()),
            Name::Numbers(range) => numbers(instance).any(|number| range.contains(&number)),
            Name::Source { file, line } => {
                let case = instance.case;
                if !is_file(file, case.file) {
                    return false;
                }
                line.is_none_or(|line| places.is_within(line, case))
            }
        }
    }

    /// Whether it matches this instance on the set of this name.
    pub(crate) fn matches(&self, instance: &Instance, set: Option<&str>, places: &Places) -> bool {
        self.names(instance, places)
            && self.point.as_ref().is_none_or(|at| at.is_of(instance))
            && (self.set.is_none() || self.set.as_deref() == set)
    }

    /// A hint what to write instead, if the name before the point is not whole.
    pub(crate) fn part_before_point(&self, all: &[Instance]) -> Option<String> {
        let Name::Part(part) = &self.name else {
            return None;
        };
        let is_part = all.iter().any(|one| one.name().contains(part.as_str()));
        if self.point.is_none() || !is_part {
            return None;
        }
        let after = self.text.strip_prefix(part.as_str()).unwrap_or_default();
        let mut hint =
            format!("before an @, the name or number must be whole: write '*{part}*{after}'");
        if let Some(format) = self.point.as_ref().and_then(At::only_format) {
            hint += &format!(", or {part} -f {format}");
        }
        Some(hint)
    }

    fn has_part(&self, part: &str, instance: &Instance) -> bool {
        if !part.is_empty() && instance.upstream().any(|id| upstream_matches(part, id)) {
            return true;
        }
        // A bare number is only an upstream test: `512` must not select every name that contains
        // it.
        if is_number(part) {
            return false;
        }
        let name = instance.name();
        match self.point {
            None => name.contains(part),
            Some(_) => is_whole(part, &name) || is_whole(part, &instance.case.name()),
        }
    }
}

/// The upstream tests that a case covers, by their numbers.
fn numbers(instance: &Instance) -> impl Iterator<Item = u32> {
    let first = |id: &'static str| id.split("::").next()?.parse().ok();
    instance.upstream().filter_map(first)
}

/// Whether this is a number as upstream's tests have.
fn is_number(text: &str) -> bool {
    text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit())
}

impl Name {
    fn parse(text: &str) -> Self {
        if let Some((first, last)) = text.split_once('-')
            && is_number(first)
            && is_number(last)
            && let (Ok(first), Ok(last)) = (first.parse(), last.parse())
        {
            return Self::Numbers(first..=last);
        }
        // As typed in the folder of the scripts.
        let text = match text.strip_prefix("./") {
            Some(name) if is_number(name) => name,
            _ => text,
        };
        if (1..3).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_digit())
            && let Ok(number) = text.parse()
        {
            return Self::Short(number);
        }
        // The path of a script in any tree.
        if let Some((_, script)) = text.rsplit_once("qemu-iotests/") {
            let name = script.strip_prefix("tests/").unwrap_or(script);
            return Self::Part(name.to_owned());
        }
        let (file, line) = match text.rsplit_once(".rs:") {
            Some((file, line)) if line.bytes().all(|byte| byte.is_ascii_digit()) => {
                (Some(format!("{file}.rs")), line.parse().ok())
            }
            _ => (text.ends_with(".rs").then(|| text.to_owned()), None),
        };
        if let Some(file) = file {
            return Self::Source { file, line };
        }
        if text.contains(['*', '?'])
            && let Ok(glob) = Regex::new(&format!("^(.*::)?{}$", filter::glob(text)))
        {
            return Self::Glob(glob);
        }
        Self::Part(text.to_owned())
    }
}

/// Whether one path is the end of the other.
fn is_file(given: &str, file: &str) -> bool {
    let is_end = |end: &str, whole: &str| match whole.strip_suffix(end) {
        Some(before) => before.is_empty() || before.ends_with('/'),
        None => false,
    };
    let given = given.trim_start_matches("./");
    is_end(given, file) || is_end(file, given)
}

/// Whether this is the name, or its end after some `::`. The empty name matches all.
fn is_whole(wanted: &str, name: &str) -> bool {
    match name.strip_suffix(wanted) {
        Some(before) => wanted.is_empty() || before.is_empty() || before.ends_with("::"),
        None => false,
    }
}

impl At {
    /// Whether the instance is at this point, as far as the point is specified.
    fn is_of(&self, instance: &Instance) -> bool {
        self.format.is_none_or(|format| format == instance.format)
            && self.protocol.is_none_or(|protocol| protocol == instance.protocol)
            && self.cache.is_none_or(|cache| cache == instance.cache)
            && self.aio.is_none_or(|aio| aio == instance.aio)
            && (self.backend.is_none() || self.backend == instance.backend)
    }

    /// Its format, if nothing else is specified.
    fn only_format(&self) -> Option<Format> {
        let alone = Self {
            format: self.format,
            ..Self::default()
        };
        self.format.filter(|_| *self == alone)
    }

    fn parse(selector: &str, text: &str) -> Result<Self, RunError> {
        let mut point = Self::default();
        for word in text.split('.').filter(|word| !word.is_empty()) {
            point.add(word).map_err(|why| {
                RunError::Usage(format!(
                    "`{selector}`: `{word}` is not part of an id: {why}"
                ))
            })?;
        }
        Ok(point)
    }

    fn add(&mut self, word: &str) -> Result<(), String> {
        let unknown = |error: crate::case::UnknownName| filter::unknown_name(&error);
        if let Some(mode) = word.strip_prefix("cache=") {
            self.cache = Some(mode.parse().map_err(unknown)?);
        } else if let Some(mode) = word.strip_prefix("aio=") {
            self.aio = Some(mode.parse().map_err(unknown)?);
        } else if let Ok(protocol) = Protocol::from_str(word) {
            self.protocol = Some(protocol);
        } else if let Some(backend) = Backend::ALL.iter().find(|one| one.to_string() == word) {
            self.backend = Some(*backend);
        } else {
            self.format = Some(word.parse().map_err(unknown)?);
        }
        Ok(())
    }
}

/// Whether the selector is a sequence of whole segments of the id: `163`, `163::TestShrink512`,
/// `TestShrink512.test_empty_image` and so on.
fn upstream_matches(selector: &str, id: &str) -> bool {
    let normal = selector.replace('.', "::");
    let wanted: Vec<&str> = normal.split("::").collect();
    let have: Vec<&str> = id.split("::").collect();
    have.windows(wanted.len()).any(|window| window == wanted)
}

/// The names most similar to a selector that matches nothing, best first.
pub(crate) fn nearest(selector: &str, instances: &[Instance]) -> Vec<String> {
    let wanted = selector.split('@').next().unwrap_or(selector).to_lowercase();
    if let Ok(number) = wanted.parse() {
        return nearest_numbers(number, instances);
    }
    // The rows of a case have separate names, but one suggestion is enough.
    let mut best: BTreeMap<String, f64> = BTreeMap::new();
    for instance in instances {
        let name = instance.name();
        // Users type part of a name, mostly its end, rather than the whole path.
        let similarity = |part: &str| strsim::jaro_winkler(&wanted, &part.to_lowercase());
        let by_name =
            name.split(['/', ':']).chain([name.as_str()]).map(similarity).fold(0.0, f64::max);
        let score = instance.upstream().map(similarity).fold(by_name, f64::max);
        let known = best.entry(instance.case.name()).or_default();
        *known = known.max(score);
    }
    let mut scored: Vec<(f64, String)> =
        best.into_iter().map(|(name, score)| (score, name)).collect();
    scored.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    scored.truncate(NEAREST);
    scored.into_iter().filter(|(score, _)| *score > NEAR).map(|(_, name)| name).collect()
}

/// The upstream tests with the nearest numbers, each with a case that covers it.
fn nearest_numbers(wanted: u64, instances: &[Instance]) -> Vec<String> {
    let mut known: BTreeMap<u64, String> = BTreeMap::new();
    for instance in instances {
        for number in numbers(instance) {
            let number = u64::from(number);
            known.entry(number).or_insert_with(|| instance.case.name());
        }
    }
    let mut near: Vec<(u64, String)> = known.into_iter().collect();
    near.sort_by_key(|(number, _)| number.abs_diff(wanted));
    near.truncate(NEAREST);
    near.into_iter().map(|(number, case)| format!("{number:03} ({case})")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_id_is_matched_by_whole_segments() {
        let id = "163::TestShrink512::test_empty_image";
        for selector in [
            "163",
            "163::TestShrink512",
            "TestShrink512",
            "TestShrink512.test_empty_image",
            id,
        ] {
            assert!(upstream_matches(selector, id), "{selector}");
        }
        for selector in [
            "16",
            "163::test_empty_image",
            "TestShrink",
            "163::TestShrink512::test_empty_image::x",
        ] {
            assert!(!upstream_matches(selector, id), "{selector}");
        }
    }

    #[test]
    fn a_selector_is_read_into_name_point_and_set() {
        let read = |text: &str| Selector::parse(text).unwrap();
        let whole = read("a::b/c@qcow2.nbd.cache=none.aio=native.qsd.set=7.2.22");
        assert!(matches!(&whole.name, Name::Part(name) if name == "a::b/c"));
        assert_eq!(whole.set.as_deref(), Some("7.2.22"));
        let point = whole.point.unwrap();
        assert_eq!(point.format, Some(Format::Qcow2));
        assert_eq!(point.protocol, Some(Protocol::Nbd));
        assert_eq!(point.cache, Some(Cache::None));
        assert_eq!(point.aio, Some(Aio::Native));
        assert_eq!(point.backend, Some(Backend::Qsd));
        assert_eq!(read("mirror").point, None);
        assert_eq!(read("mirror@").point, Some(At::default()));
        for bad in ["", "a@qcow9", "a@qcow2.cache=never"] {
            let error = Selector::parse(bad).unwrap_err();
            assert_eq!(error.exit(), crate::runner::Exit::Usage, "{bad}");
        }
        let error = Selector::parse("a@qcow9").unwrap_err().to_string();
        assert!(
            error.contains("`qcow9` is unknown; known: raw, qcow2"),
            "{error}"
        );
    }

    #[test]
    fn a_name_is_a_part_a_glob_a_range_of_numbers_a_script_or_a_place_in_a_file() {
        let read = |text: &str| match Name::parse(text) {
            Name::Part(part) => part,
            Name::Short(number) => format!("number {number}"),
            Name::Glob(glob) => glob.to_string(),
            Name::Numbers(numbers) => format!("{numbers:?}"),
            Name::Source { file, line } => format!("{file} at {line:?}"),
        };
        for (text, expected) in [
            ("mirror", "mirror"),
            ("040", "040"),
            ("./163", "163"),
            ("./a/163", "./a/163"),
            ("40", "number 40"),
            ("040-060", "40..=60"),
            ("040-060x", "040-060x"),
            ("tests/qemu-iotests/040", "040"),
            ("~/q/tests/qemu-iotests/tests/mirror-top", "mirror-top"),
            ("a::*/b?", "^(.*::)?a::.*/b.$"),
            ("a/b.rs", "a/b.rs at None"),
            ("b.rs:87", "b.rs at Some(87)"),
            ("b.rs:x", "b.rs:x"),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        assert!(is_file("a/b.rs", "src/a/b.rs") && is_file("/q/src/a/b.rs", "src/a/b.rs"));
        assert!(!is_file("b.rs", "src/ab.rs") && is_file("./src/b.rs", "src/b.rs"));
    }

    #[test]
    fn before_a_point_a_name_is_compared_whole() {
        for (wanted, name, whole) in [
            ("a::b/c", "a::b/c", true),
            ("b/c", "a::b/c", true),
            ("c", "a::b/c", false),
            ("b", "a::b", true),
            ("b", "a::bb", false),
            ("b", "a::b_more", false),
            ("", "a::b", true),
        ] {
            assert_eq!(is_whole(wanted, name), whole, "{wanted} {name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_selector_makes_it_panic(text in ".{0,40}") {
            let _ = Selector::parse(&text);
        }
    }
}
