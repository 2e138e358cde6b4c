//! `cargo xtask coverage`: COVERAGE.md, what of upstream's tests is ported and where it ran, and
//! docs/versions.md, what differs between versions of QEMU.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::Value;

use crate::cargo::{self, XtaskError};
use crate::task::iotests;
use crate::task::versions::Differences;

/// Options of the coverage report.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Event files of earlier runs (`--jsonl`) to take the results from. Without any, every case
    /// is run on every set of QEMU programs there is.
    #[arg(long, value_name = "FILE")]
    from: Vec<PathBuf>,
}

/// Writes COVERAGE.md and docs/versions.md.
pub(crate) fn run(args: Args) -> Result<ExitCode, XtaskError> {
    let files = if args.from.is_empty() {
        vec![run_all()?]
    } else {
        args.from
    };
    let methods = read_methods(&cargo::root().join("data/upstream-methods.tsv"))?;
    let notes = read_notes(&cargo::root().join("data/coverage-notes.tsv"))?;
    let mut runs = Runs::default();
    for file in &files {
        runs.add(file)?;
    }
    let unknown = runs.unknown(&methods);
    if !unknown.is_empty() {
        return Err(XtaskError::Data {
            path: PathBuf::from("data/upstream-methods.tsv"),
            why: format!(
                "it has no {}, which cases name as upstream",
                unknown.join(", ")
            ),
        });
    }
    let path = cargo::root().join("COVERAGE.md");
    fs::write(&path, render(&methods, &notes, &runs)).map_err(file_error("write", &path))?;
    println!("{} written", path.display());
    let path = cargo::root().join("docs/versions.md");
    fs::write(&path, runs.differences.render()).map_err(file_error("write", &path))?;
    println!("{} written", path.display());
    Ok(ExitCode::SUCCESS)
}

/// Runs everything on everything; red cases are a matter for the report, not for this task.
fn run_all() -> Result<PathBuf, XtaskError> {
    let events = cargo::target_dir()?.join("coverage.jsonl");
    let mut command = iotests::command(&iotests::build()?)?;
    command
        .args(["--set", "all", "--format", "all", "--jsonl"])
        .arg(&events);
    match cargo::check(&mut command) {
        Ok(()) | Err(XtaskError::Failed { .. }) => Ok(events),
        Err(error) => Err(error),
    }
}

/// One upstream method; a script is a test with the single method `script`, and one for bash has the
/// method `bash`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Method {
    test: String,
    class: String,
    name: String,
}

impl Method {
    fn is_script(&self) -> bool {
        self.class == "-"
    }

    fn is_bash(&self) -> bool {
        self.is_script() && self.name == "bash"
    }

    /// Whether `id`, as cases write it, stands for this method: the test, its class or itself.
    fn is_meant_by(&self, id: &str) -> bool {
        let mut parts = id.split("::");
        parts.next() == Some(&self.test)
            && parts.next().is_none_or(|class| class == self.class)
            && parts.next().is_none_or(|name| name == self.name)
            && parts.next().is_none()
    }
}

fn read_methods(path: &Path) -> Result<Vec<Method>, XtaskError> {
    let rows = read_table(path, 4)?;
    Ok(rows
        .into_iter()
        .map(|row| Method {
            test: row[0].clone(),
            class: row[1].clone(),
            name: row[2].clone(),
        })
        .collect())
}

/// What is said about a method or a test: the id as cases write it, and the note.
fn read_notes(path: &Path) -> Result<Vec<(String, String)>, XtaskError> {
    Ok(read_table(path, 2)?
        .into_iter()
        .map(|row| (row[0].clone(), row[1].clone()))
        .collect())
}

/// The rows of a tab-separated file below its heading.
fn read_table(path: &Path, columns: usize) -> Result<Vec<Vec<String>>, XtaskError> {
    let text = fs::read_to_string(path).map_err(file_error("read", path))?;
    let rows = text
        .lines()
        .enumerate()
        .skip(1)
        .filter(|(_, line)| !line.trim().is_empty());
    rows.map(|(number, line)| {
        let row: Vec<String> = line
            .split('\t')
            .map(|field| field.trim().to_owned())
            .collect();
        if row.len() == columns {
            return Ok(row);
        }
        let why = format!(
            "line {} has {} fields, not {columns}",
            number + 1,
            row.len()
        );
        Err(XtaskError::Data {
            path: path.to_owned(),
            why,
        })
    })
    .collect()
}

/// One instance of a case, as a run reported it.
#[derive(Debug)]
struct Ran {
    case: String,
    upstream: Vec<String>,
    /// `7.2.22 system`, or just the version for a case of tools.
    place: String,
    /// How it ended; the reason of a skip is what a reader wants to know.
    verdict: String,
}

#[derive(Debug, Default)]
struct Runs {
    ran: Vec<Ran>,
    differences: Differences,
}

impl Runs {
    fn add(&mut self, path: &Path) -> Result<(), XtaskError> {
        let text = fs::read_to_string(path).map_err(file_error("read", path))?;
        self.add_events(&text).map_err(|why| XtaskError::Data {
            path: path.to_owned(),
            why,
        })
    }

    fn add_events(&mut self, text: &str) -> Result<(), String> {
        let mut versions: BTreeMap<String, String> = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let record: Value = serde_json::from_str(line)
                .map_err(|error| format!("line {}: {error}", number + 1))?;
            let event = &record["event"];
            self.differences.add(event, &versions);
            match event["event"].as_str().unwrap_or_default() {
                "run-started" => versions = set_versions(event),
                "instance-finished" => {
                    let verdict = event["verdict"].as_str().unwrap_or("unknown");
                    self.ran.push(ran(&event["instance"], verdict, &versions));
                }
                "instance-skipped" => {
                    self.ran.push(ran(&event["instance"], "skip", &versions));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Ids that name nothing upstream: a slip of the pen in a case.
    fn unknown(&self, methods: &[Method]) -> Vec<String> {
        let ids: BTreeSet<&String> = self.ran.iter().flat_map(|ran| &ran.upstream).collect();
        ids.into_iter()
            .filter(|id| !methods.iter().any(|method| method.is_meant_by(id)))
            .cloned()
            .collect()
    }

    fn of<'a>(&'a self, method: &Method) -> Vec<&'a Ran> {
        self.ran
            .iter()
            .filter(|ran| ran.upstream.iter().any(|id| method.is_meant_by(id)))
            .collect()
    }
}

fn set_versions(event: &Value) -> BTreeMap<String, String> {
    let none = Vec::new();
    let sets = event["sets"].as_array().unwrap_or(&none);
    sets.iter()
        .filter_map(|set| {
            let tools = set["tools"].as_object()?;
            let version = tools.values().find_map(|tool| tool["version"].as_str())?;
            Some((set["name"].as_str()?.to_owned(), version.to_owned()))
        })
        .collect()
}

fn ran(instance: &Value, verdict: &str, versions: &BTreeMap<String, String>) -> Ran {
    let text = |key: &str| instance[key].as_str().unwrap_or_default().to_owned();
    let (id, set) = (text("id"), text("set"));
    let version = versions.get(&set).cloned().unwrap_or(set);
    // `module::case/row@qcow2.system.set=7.2.22`
    let (case, point) = id.split_once('@').unwrap_or((&id, ""));
    let point = point.split_once(".set=").map_or(point, |(point, _)| point);
    let backend = ["system", "qsd"]
        .into_iter()
        .find(|backend| point.split('.').any(|part| part == *backend));
    let place = backend.map_or_else(|| version.clone(), |backend| format!("{version} {backend}"));
    let upstream = instance["upstream"].as_array();
    Ran {
        case: case.to_owned(),
        upstream: upstream
            .map(|ids| {
                ids.iter()
                    .filter_map(|id| id.as_str().map(str::to_owned))
                    .collect()
            })
            .unwrap_or_default(),
        place,
        verdict: verdict.to_owned(),
    }
}

fn render(methods: &[Method], notes: &[(String, String)], runs: &Runs) -> String {
    let mut tests: BTreeMap<&str, Vec<&Method>> = BTreeMap::new();
    for method in methods {
        tests.entry(&method.test).or_default().push(method);
    }
    let mut table = String::new();
    let mut details = String::new();
    let (mut missing, mut missing_bash) = (Vec::new(), Vec::new());
    // Python's tests and methods, and bash's tests.
    let mut totals = (0, 0, 0);
    for (test, methods) in &tests {
        let ported: Vec<(&Method, Vec<&Ran>)> = methods
            .iter()
            .map(|method| (*method, runs.of(method)))
            .filter(|(_, ran)| !ran.is_empty())
            .collect();
        let is_bash = methods.iter().all(|method| method.is_bash());
        if ported.is_empty() {
            if is_bash {
                missing_bash.push(*test);
            } else {
                missing.push(*test);
            }
            continue;
        }
        if is_bash {
            totals.2 += 1;
        } else {
            totals.0 += 1;
            totals.1 += ported.len();
        }
        let said: Vec<&str> = notes
            .iter()
            .filter(|(id, _)| id.split("::").next() == Some(test))
            .map(|(_, note)| note.as_str())
            .collect();
        let state = if ported.len() == methods.len() && said.is_empty() {
            "ported"
        } else {
            "partly"
        };
        let all: Vec<&Ran> = ported
            .iter()
            .flat_map(|(_, ran)| ran.iter().copied())
            .collect();
        let _ = writeln!(
            table,
            "| {test} | {state} | {} of {} | {} |",
            ported.len(),
            methods.len(),
            places(&all)
        );
        let _ = writeln!(details, "\n### {test}\n");
        for note in said {
            let _ = writeln!(details, "{note}\n");
        }
        let _ = writeln!(details, "| upstream | case | passed on |\n|---|---|---|");
        for (method, ran) in &ported {
            let cases: BTreeSet<String> = ran.iter().map(|ran| format!("`{}`", ran.case)).collect();
            let cases: Vec<String> = cases.into_iter().collect();
            let _ = writeln!(
                details,
                "| {} | {} | {} |",
                label(method),
                cases.join("<br>"),
                places(ran)
            );
        }
        for method in methods.iter().filter(|method| runs.of(method).is_empty()) {
            let _ = writeln!(details, "| {} | not yet | |", label(method));
        }
    }
    let all_bash = methods.iter().filter(|method| method.is_bash()).count();
    format!(
        "# Coverage of upstream's tests\n\n\
         Written by `cargo xtask coverage` from the cases' own upstream ids and from runs on every\n\
         set of QEMU programs at hand; do not edit. Upstream's tests are those of QEMU 10.2.2; a test\n\
         without methods counts as one. `system` is an emulator, `qsd` the storage daemon; a version\n\
         alone means that only the image tools were needed.\n\n\
         **{} of {} Python tests, {} of {} methods; {} of {all_bash} bash tests.**\n\n\
         | upstream test | state | methods | passed on |\n|---|---|---|---|\n{table}\n\
         ## By method\n{details}\n## Not yet\n\nPython: {}\n\nBash: {}\n",
        totals.0,
        tests.len() - all_bash,
        totals.1,
        methods.len() - all_bash,
        totals.2,
        missing.join(", "),
        missing_bash.join(", "),
    )
}

fn label(method: &Method) -> String {
    if method.is_script() {
        "(script)".to_owned()
    } else {
        format!("{}::{}", method.class, method.name)
    }
}

/// Where it passed; and where it ran and did not, with the verdict. Skips are no result.
fn places(ran: &[&Ran]) -> String {
    let good = |verdict: &str| matches!(verdict, "pass" | "flaky");
    let mut places: BTreeSet<String> = BTreeSet::new();
    for ran in ran.iter().filter(|ran| ran.verdict != "skip") {
        let bad = (!good(&ran.verdict)).then(|| format!(" ({})", ran.verdict));
        places.insert(format!("{}{}", ran.place, bad.unwrap_or_default()));
    }
    if places.is_empty() {
        return "nowhere yet".to_owned();
    }
    places.into_iter().collect::<Vec<_>>().join(", ")
}

fn file_error(verb: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> XtaskError {
    let path = path.to_owned();
    move |source| XtaskError::File { verb, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn method(test: &str, class: &str, name: &str) -> Method {
        Method {
            test: test.into(),
            class: class.into(),
            name: name.into(),
        }
    }

    fn events() -> String {
        let instance =
            |id: &str, upstream: &str| json!({"id": id, "upstream": [upstream], "set": "host"});
        [
            json!({"event": "run-started", "sets": [
                {"name": "host", "tools": {"img": {"version": "10.0.2"}}}]}),
            json!({"event": "instance-finished", "verdict": "pass",
                "instance": instance("a::b@qcow2.qsd", "040::T::one")}),
            json!({"event": "instance-finished", "verdict": "fail",
                "instance": instance("a::b@raw.qsd", "040::T::one")}),
            json!({"event": "instance-finished", "verdict": "pass",
                "instance": instance("a::b@raw.system.set=10.0.2", "040::T::one")}),
            json!({"event": "instance-skipped", "instance": instance("a::b@raw.system", "040::T::one")}),
        ]
        .map(|event| json!({"at": 1, "event": event}).to_string())
        .join("\n")
    }

    #[test]
    fn an_id_means_its_method_or_all_below_it() {
        let one = method("040", "TestActive", "test_commit");
        for id in ["040", "040::TestActive", "040::TestActive::test_commit"] {
            assert!(one.is_meant_by(id), "{id}");
        }
        for id in [
            "04",
            "041",
            "040::Test",
            "040::TestActive::test",
            "040::TestActive::test_commit::x",
        ] {
            assert!(!one.is_meant_by(id), "{id}");
        }
    }

    #[test]
    fn a_method_is_listed_with_its_case_and_where_it_passed_and_where_not() {
        let methods = [
            method("040", "T", "one"),
            method("040", "T", "two"),
            method("041", "-", "script"),
            method("001", "-", "bash"),
        ];
        let mut runs = Runs::default();
        runs.add_events(&events()).unwrap();
        let text = render(&methods, &[], &runs);
        assert!(
            text.contains("**1 of 2 Python tests, 1 of 3 methods; 0 of 1 bash tests.**"),
            "{text}"
        );
        assert!(
            text.contains(
                "| 040 | partly | 1 of 2 | 10.0.2 qsd, 10.0.2 qsd (fail), 10.0.2 system |"
            ),
            "{text}"
        );
        assert!(
            text.contains("| T::one | `a::b` | 10.0.2 qsd, 10.0.2 qsd (fail), 10.0.2 system |"),
            "{text}"
        );
        assert!(text.contains("| T::two | not yet | |"), "{text}");
        assert!(
            text.ends_with("## Not yet\n\nPython: 041\n\nBash: 001\n"),
            "{text}"
        );
    }

    #[test]
    fn a_note_makes_a_port_partial_and_is_shown() {
        let mut runs = Runs::default();
        runs.add_events(&events()).unwrap();
        let notes = [(
            "040::T::one".to_owned(),
            "Without the last step: no such device.".to_owned(),
        )];
        let text = render(&[method("040", "T", "one")], &notes, &runs);
        assert!(
            text.contains("| 040 | partly |") && text.contains("no such device"),
            "{text}"
        );
    }

    #[test]
    fn an_id_that_upstream_does_not_have_is_found() {
        let mut runs = Runs::default();
        runs.add_events(&events()).unwrap();
        assert_eq!(
            runs.unknown(&[method("040", "T", "other")]),
            ["040::T::one"]
        );
        assert_eq!(
            runs.unknown(&[method("040", "T", "one")]),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_broken_line_is_named() {
        let error = Runs::default().add_events("{}\n{").unwrap_err();
        assert!(error.starts_with("line 2:"), "{error}");
    }
}
