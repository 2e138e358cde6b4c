//! How a case has to read: short, documented, waiting for events and never for time.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use iotests_core::author::golden::{GOLDENS, Golden, golden_name};
use iotests_core::case::{CASES, Case, Registry};
// The cases register themselves; this line is what links them.
use iotests_cases as _;

/// A case may be this long, in lines from its signature to its closing brace; what is longer is a
/// table, and belongs into one.
const LONGEST: usize = 100;

/// Half of the cases are no longer than this.
const MEDIAN: usize = 30;

/// A declaration has no longer lines.
const COLUMNS: usize = 100;

/// The upstream tests that were the first to be written anew, and show what the API is good for.
const FIRST: [&str; 3] = ["163", "209", "218"];

/// What a case has no business with, and what there is instead.
const FORBIDDEN: &[(&str, &str)] = &[
    ("sleep(", "wait for an event or a state"),
    ("interval(", "wait for an event or a state"),
    ("yield_now(", "wait for an event or a state"),
    ("Duration::", "deadlines come from the case's budget"),
    ("timeout(", "deadlines come from the case's budget"),
    ("timeout_at(", "deadlines come from the case's budget"),
    ("with_deadline(", "deadlines come from the case's budget"),
    ("Instant::", "a case measures no time"),
    (
        "is_err() {}",
        "look at the error: the next one may be another",
    ),
    ("SystemTime::", "a case measures no time"),
    ("recv_timeout", "wait for an event"),
    ("thread::", "a case is one flow; join futures if need be"),
    (
        "process::Command",
        "call tools with t.qemu_img and its like",
    ),
    ("tokio::process", "call tools with t.qemu_img and its like"),
    ("println!", "use t.log or t.step"),
    ("print!", "use t.log or t.step"),
    ("dbg!", "use t.log or t.step"),
    (".unwrap()", "use `?`"),
    (".expect(", "use `?`"),
    ("std::env::", "what a case depends on is in its spec"),
    ("fn main(", "a case needs no entry point"),
    ("assert!(", "state facts with check!"),
    ("assert_eq!(", "state facts with check!"),
    (".assert(\"\",", "state facts with check!"),
    ("Failure::new(format!", "state facts with check!"),
];

/// What a case must not begin with, because its attribute says it.
const PREAMBLE: &[&str] = &[
    "t.require(",
    "t.skip(",
    "t.has(",
    "t.tool(",
    "if t.format() !=",
];

/// A function under `#[case]`.
struct Found {
    name: String,
    place: String,
    lines: usize,
    documented: bool,
    /// The first line of its body.
    first: String,
}

fn sources() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let entries = walkdir::WalkDir::new(root).sort_by_file_name();
    let mut all: Vec<PathBuf> = entries
        .into_iter()
        .map(|entry| entry.unwrap().into_path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "rs"))
        .collect();
    let of_file = |path: &PathBuf| test_modules(path, &fs::read_to_string(path).unwrap());
    let tests: Vec<PathBuf> = all.iter().flat_map(of_file).collect();
    all.retain(|path| !tests.contains(path));
    all
}

/// The files of the unit tests that a file has elsewhere.
fn test_modules(path: &Path, text: &str) -> Vec<PathBuf> {
    let is_folder = ["lib.rs", "main.rs", "mod.rs"].map(Path::new);
    let folder = match path.file_name() {
        Some(name) if is_folder.contains(&Path::new(name)) => path.parent().unwrap().to_owned(),
        _ => path.with_extension(""),
    };
    let lines: Vec<&str> = text.lines().collect();
    let pairs = lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]");
    let names = pairs.filter_map(|pair| pair[1].strip_prefix("mod ")?.strip_suffix(';'));
    names.map(|name| folder.join(name).with_extension("rs")).collect()
}

/// The cases of a source text. Formatted code is all that this has to read: an attribute and a
/// function begin in the first column, and a function ends with a brace there.
fn cases(place: &str, text: &str) -> Vec<Found> {
    let lines: Vec<&str> = text.lines().collect();
    let is_attribute = |at: &usize| lines[*at].starts_with("#[case");
    let found = |at: usize| {
        let rest = &lines[at..];
        let signature = rest.iter().position(|line| line.contains("async fn "));
        let start = at + signature.expect("a case is an async fn");
        let body = &lines[start..];
        let end = body.iter().position(|line| *line == "}");
        // A signature that is too long for its line ends with `) -> CaseResult {` on another one.
        let open = body.iter().position(|line| line.ends_with('{'));
        let first = open.and_then(|open| body.get(open + 1)).copied();
        let name = lines[start].split("fn ").nth(1).unwrap_or_default();
        Found {
            name: name.split(['(', '<']).next().unwrap_or_default().to_owned(),
            place: format!("{place}:{}", start + 1),
            lines: end.expect("it has an end") + 1,
            documented: at > 0 && lines[at - 1].starts_with("///"),
            first: first.unwrap_or_default().trim().to_owned(),
        }
    };
    (0..lines.len()).filter(is_attribute).map(found).collect()
}

fn all() -> Vec<Found> {
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        cases(&path.display().to_string(), &text)
    };
    sources().into_iter().flat_map(read).collect()
}

/// Those of a registered case.
fn of_case<'f>(found: &'f [Found], case: &Case) -> Vec<&'f Found> {
    let in_file = |one: &&Found| one.place.contains(&format!("{}:", case.file));
    let mut found: Vec<&Found> = found.iter().filter(in_file).collect();
    found.retain(|one| one.name == case.function);
    found
}

/// The cases of which any row covers this upstream test.
fn covering(number: &str) -> Vec<&'static Case> {
    let entries = Registry::get().unwrap().entries().iter();
    let is_meant = |id: &String| id.split("::").next() == Some(number);
    let mut cases: Vec<&'static Case> = entries
        .filter(|entry| entry.meta.upstream.iter().any(is_meant))
        .map(|entry| entry.case)
        .collect();
    cases.dedup_by_key(|case| case.name());
    cases
}

fn median(mut lines: Vec<usize>) -> usize {
    lines.sort_unstable();
    lines[lines.len() / 2]
}

/// A line without its comment, which begins with two slashes outside of a string.
fn code(line: &str) -> &str {
    let mut in_string = false;
    let mut chars = line.char_indices().peekable();
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => drop(chars.next()),
            '"' => in_string = !in_string,
            // A quotation mark as a character begins no string.
            '\'' if line[at..].starts_with("'\"'") => drop((chars.next(), chars.next())),
            '/' if !in_string && chars.peek().is_some_and(|(_, next)| *next == '/') => {
                return &line[..at];
            }
            _ => {}
        }
    }
    line
}

/// What is forbidden in this text, comments aside.
fn violations(place: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    // Unit tests of what a case consists of are no cases.
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    for (number, line) in text[..end].lines().enumerate() {
        let code = code(line);
        for (word, instead) in FORBIDDEN {
            if code.contains(word) {
                found.push(format!(
                    "{place}:{}: no `{word}` in a case: {instead}",
                    number + 1
                ));
            }
        }
    }
    found
}

#[test]
fn cases_wait_for_events_and_leave_processes_and_output_to_the_harness() {
    let check = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        // Neither the binary nor what runs and shrinks the programs of the random walk is a case.
        if path.ends_with("src/main.rs") || path.ends_with("src/walk/mod.rs") {
            Vec::new()
        } else {
            violations(&path.display().to_string(), &text)
        }
    };
    let found: Vec<String> = sources().iter().flat_map(check).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Names, upstream ids, known bugs and the rest of what is declared.
#[test]
fn the_declarations_are_right() {
    if let Err(problems) = Registry::get() {
        panic!("{problems}");
    }
}

/// A golden that no case compares with is what an old name left behind.
#[test]
fn every_golden_is_that_of_a_case() {
    let entries = Registry::get().unwrap().entries().iter();
    let names: BTreeSet<String> =
        entries.map(|entry| golden_name(&entry.case.name(), entry.row.as_deref())).collect();
    let goldens: Vec<&Golden> = GOLDENS.iter().flat_map(|table| table.iter()).collect();
    assert!(!goldens.is_empty());
    for golden in goldens {
        let name = golden.path.split('@').next().unwrap_or_default();
        let name = name.strip_suffix(".golden").unwrap_or(name);
        assert!(
            names.contains(name),
            "no case compares with {}",
            golden.path
        );
    }
}

/// The formatter leaves macros and long attributes alone.
#[test]
fn no_line_of_a_declaration_is_longer_than_others() {
    let mut long = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in declarations(&text) {
            let columns = line.chars().count();
            if columns > COLUMNS {
                long.push(format!("{}:{number}: {columns} columns", path.display()));
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

/// The lines of attributes, `defaults!` and `rows!`, with their numbers.
fn declarations(text: &str) -> Vec<(usize, &str)> {
    let mut inside = false;
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let is_macro = ["defaults! {", "rows! {"].iter().any(|it| line.starts_with(it));
        inside |= is_macro || line.starts_with("#[case");
        if inside {
            found.push((index + 1, line));
        }
        inside &= !line.ends_with(")]") && line != "#[case]" && !line.starts_with('}');
        inside &= !(is_macro && line.ends_with('}'));
    }
    found
}

#[test]
fn no_case_is_long_and_most_are_short() {
    let found = all();
    for case in &found {
        assert!(
            case.lines <= LONGEST,
            "{} {}: {} lines",
            case.place,
            case.name,
            case.lines
        );
    }
    let median = median(found.iter().map(|case| case.lines).collect());
    assert!(median <= MEDIAN, "the median case has {median} lines");
}

#[test]
fn the_first_cases_stay_as_short_as_they_were_to_be() {
    let found = all();
    let mut lines = Vec::new();
    for number in FIRST {
        let cases = covering(number).into_iter();
        let of_test: Vec<&Found> = cases.flat_map(|case| of_case(&found, case)).collect();
        assert!(!of_test.is_empty(), "nothing covers {number}");
        lines.extend(of_test.iter().map(|case| case.lines));
    }
    let median = median(lines);
    assert!(
        median <= MEDIAN,
        "the median of {FIRST:?} is {median} lines"
    );
}

#[test]
fn every_registered_case_is_looked_at() {
    let found = all();
    assert_eq!(found.len(), CASES.len());
    for case in CASES {
        assert_eq!(of_case(&found, case).len(), 1, "{case:?}");
    }
}

#[test]
fn no_case_begins_with_what_its_attribute_could_say() {
    for case in all() {
        let preamble = PREAMBLE.iter().find(|start| case.first.starts_with(**start));
        assert!(
            preamble.is_none(),
            "{} {} begins with `{}`: declare it beside the case",
            case.place,
            case.name,
            case.first
        );
    }
}

#[test]
fn every_case_says_what_it_shows() {
    for case in all() {
        assert!(
            case.documented,
            "{} {} has no description",
            case.place, case.name
        );
    }
}

#[test]
fn the_lint_itself_finds_what_it_looks_for() {
    let text = "#[case(formats = [RAW])]\nasync fn bad(t: &mut Test) -> CaseResult {\n    \
                tokio::time::sleep(Duration::from_secs(1)).await; // sleep( in a comment\n    Ok(())\n}\n";
    let found = cases("x.rs", text);
    assert_eq!(
        (found[0].name.as_str(), found[0].lines, found[0].documented),
        ("bad", 4, false)
    );
    assert_eq!(found[0].place, "x.rs:2");
    assert!(found[0].first.starts_with("tokio::time::sleep"));
    let long =
        "#[case]\nasync fn long(\n    t: &mut Test,\n) -> CaseResult {\n    t.require(Luks)?;\n}\n";
    assert_eq!(cases("x.rs", long)[0].first, "t.require(Luks)?;");
    assert_eq!(violations("x.rs", text).len(), 2);
    assert!(violations("x.rs", "    // sleep(1)\n").is_empty());
    assert!(violations("x.rs", "#[cfg(test)]\nmod tests {\nsleep(1)\n").is_empty());
    for line in [
        r#"let uri = "nbd://x"; std::thread::sleep(second)"#,
        r#"let (slash, uri) = ('"', "\"//"); sleep(second)"#,
        "use std::process::Command;",
        "let value = it.expect(\"something\");",
    ] {
        assert!(!violations("x.rs", line).is_empty(), "{line}");
    }
    let text = "defaults! { host = Any }\nfn a() {}\nrows! {\n    A: u8;\n}\n#[case]\nfn b() {}\n\
                #[case(\n    host = Any\n)]\nfn c() {}\n";
    let numbers: Vec<usize> = declarations(text).iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [1, 3, 4, 5, 6, 8, 9, 10]);
    let elsewhere = "#[cfg(test)]\nmod tests;\nsleep(1)\n";
    assert_eq!(violations("x.rs", elsewhere).len(), 1);
    let files = |path| test_modules(Path::new(path), elsewhere);
    assert_eq!(files("src/x.rs"), [Path::new("src/x/tests.rs")]);
    assert_eq!(files("src/x/mod.rs"), [Path::new("src/x/tests.rs")]);
    let harmless = r#"let uri = format!("nbd://{host}"); // sleep( behind a string"#;
    assert_eq!(violations("x.rs", harmless), [""; 0]);
}
