//! COVERAGE.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::Method;
use super::runs::{Ran, Runs};
use super::versions::Version;

/// The numbers of tests and methods, in total and ported.
#[derive(Default)]
struct Totals {
    python: [usize; 2],
    methods: [usize; 2],
    bash: [usize; 2],
}

pub(super) fn render(methods: &[Method], notes: &[(String, String)], runs: &Runs) -> String {
    let mut tests: BTreeMap<&str, Vec<&Method>> = BTreeMap::new();
    for method in methods {
        tests.entry(&method.test).or_default().push(method);
    }
    let mut totals = Totals::default();
    let (mut ported, mut details, mut others) = (String::new(), String::new(), String::new());
    for (test, methods) in &tests {
        let cases: Vec<Vec<&Ran>> = methods.iter().map(|method| runs.of(method)).collect();
        let covered = cases.iter().filter(|cases| !cases.is_empty()).count();
        let is_bash = methods.iter().all(|method| method.is_bash());
        let counted = if is_bash {
            &mut totals.bash
        } else {
            add(&mut totals.methods, methods.len(), covered);
            &mut totals.python
        };
        add(counted, 1, covered.min(1));
        let script = scripts(&runs.script(test));
        if covered == 0 {
            let language = if is_bash { "bash" } else { "Python" };
            let count = methods.len();
            let _ = writeln!(others, "| {test} | {language} | {count} | {script} |");
            continue;
        }
        let notes: Vec<&str> = notes
            .iter()
            .filter(|(id, _)| id.split("::").next() == Some(test))
            .map(|(_, note)| note.as_str())
            .collect();
        let is_whole = covered == methods.len() && notes.is_empty();
        let _ = writeln!(
            ported,
            "| {test} | {} | {covered} of {} | {} | {script} |",
            if is_whole { "ported" } else { "partly" },
            methods.len(),
            places(cases.iter().flatten()),
        );
        let _ = writeln!(details, "\n### {test}\n");
        for note in notes {
            let _ = writeln!(details, "{note}\n");
        }
        let _ = writeln!(details, "| upstream | case | passed on |\n|---|---|---|");
        for (method, cases) in methods.iter().zip(&cases) {
            let names: BTreeSet<String> =
                cases.iter().map(|ran| format!("`{}`", ran.case)).collect();
            let (names, places) = match cases.is_empty() {
                true => ("the script only".to_owned(), String::new()),
                false => (Vec::from_iter(names).join("<br>"), places(cases)),
            };
            let _ = writeln!(details, "| {} | {names} | {places} |", label(method));
        }
    }
    let [python, methods, bash] =
        [totals.python, totals.methods, totals.bash].map(|[all, some]| format!("{some} of {all}"));
    format!(
        "# Coverage of upstream's tests\n\n\
         Written by `cargo xtask coverage` from the cases' own upstream ids and from runs on every\n\
         set of QEMU programs at hand; do not edit. Upstream's tests are those of QEMU 10.2.2; a test\n\
         without methods counts as one. `system` is an emulator, `qsd` the storage daemon; a version\n\
         alone means that only the image tools were needed. The last column is upstream's own script,\n\
         unmodified (`--upstream DIR`), by version and format.\n\n\
         **{python} Python tests, {methods} methods; {bash} bash tests.**\n\n\
         | upstream test | state | methods | passed on | the script |\n|---|---|---|---|---|\n{ported}\n\
         ## What only the script covers\n\n\
         | upstream test | language | methods | the script |\n|---|---|---|---|\n{others}\n\
         ## By method\n{details}",
    )
}

fn add([all, some]: &mut [usize; 2], of_all: usize, of_some: usize) {
    *all += of_all;
    *some += of_some;
}

fn label(method: &Method) -> String {
    if method.is_script() {
        "(script)".to_owned()
    } else {
        format!("{}::{}", method.class, method.name)
    }
}

fn is_good(verdict: &str) -> bool {
    matches!(verdict, "pass" | "flaky")
}

/// Where cases passed, and where they did not pass, with the verdict. Skips are not a result.
fn places<'a>(ran: impl IntoIterator<Item = &'a &'a Ran>) -> String {
    let ran: Vec<&Ran> = ran.into_iter().copied().collect();
    let ended = |ran: &Ran| match ran.verdict.as_str() {
        "skip" => None,
        verdict if is_good(verdict) => Some(String::new()),
        verdict => Some(verdict.to_owned()),
    };
    by_version(&ran, ended).unwrap_or_else(|| "nowhere yet".to_owned())
}

/// How a script ended. Here a skip is a result: the question is what happens where.
fn scripts(ran: &[&Ran]) -> String {
    let ended = |ran: &Ran| {
        let reason = ran.reason.as_deref().unwrap_or_default();
        Some(match ran.verdict.as_str() {
            verdict if is_good(verdict) => String::new(),
            "skip" => format!("skip, {reason}"),
            verdict => verdict.to_owned(),
        })
    };
    by_version(ran, ended).unwrap_or_default()
}

/// Groups versions with the same result: `7.2.22, 10.0.2 (qsd, system)`; what did not pass is shown
/// as `11.1.3 (qsd: fail)`.
fn by_version(ran: &[&Ran], ended: impl Fn(&Ran) -> Option<String>) -> Option<String> {
    let mut kinds: BTreeMap<(&Version, String), BTreeSet<&str>> = BTreeMap::new();
    for ran in ran {
        if let Some(ended) = ended(ran) {
            let kinds = kinds.entry((&ran.version, ended)).or_default();
            kinds.extend(ran.kind.as_deref());
        }
    }
    let mut together: BTreeMap<(String, Vec<&str>), Vec<&str>> = BTreeMap::new();
    for ((version, ended), kinds) in kinds {
        let same = (ended, kinds.into_iter().collect());
        together.entry(same).or_default().push(version.text());
    }
    let lines = together.into_iter().map(|((ended, kinds), versions)| {
        let (kinds, versions) = (kinds.join(", "), versions.join(", "));
        match (kinds.as_str(), ended.as_str()) {
            ("", "") => versions,
            (kinds, "") => format!("{versions} ({kinds})"),
            ("", ended) => format!("{versions} ({ended})"),
            (kinds, ended) => format!("{versions} ({kinds}: {ended})"),
        }
    });
    let text = lines.collect::<Vec<_>>().join("; ");
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn runs() -> Runs {
        let instance = |id: &str, upstream: &str, set: &str| json!({"id": id, "upstream": [upstream], "set": set});
        let passed = |instance: Value| json!({"event": "instance-finished", "verdict": "pass", "instance": instance});
        let set = |name: &str, version: &str| json!({"name": name, "tools": {"img": {"version": version}}});
        let events = [
            json!({"event": "run-started", "sets": [set("host", "10.0.2"), set("old", "7.2.22")]}),
            passed(instance("a::b@qcow2.qsd", "040::T::one", "host")),
            json!({"event": "instance-finished", "verdict": "fail",
                "instance": instance("a::b@raw.qsd", "040::T::one", "host")}),
            passed(instance("a::b@raw.system.set=old", "040::T::one", "old")),
            passed(instance("a::b@raw.system", "040::T::one", "host")),
            passed(instance("a::b@raw.qsd.set=old", "040::T::one", "old")),
            json!({"event": "instance-skipped", "instance": instance("a::b@raw.system", "040::T::one", "host")}),
            passed(instance("upstream::041@qcow2", "041", "host")),
            passed(instance("upstream::041@raw", "041", "host")),
            passed(instance("upstream::040@raw", "040", "host")),
            json!({"event": "instance-skipped", "instance": instance("upstream::041@raw.set=old", "041", "old"),
                "reason": {"kind": "no-accelerator", "name": "qtest"}}),
        ];
        let lines = events.map(|event| json!({"at": 1, "event": event}).to_string());
        let mut runs = Runs::default();
        runs.add_events(&lines.join("\n")).unwrap();
        runs
    }

    #[test]
    fn a_method_is_listed_with_its_case_and_where_it_passed_and_where_not() {
        let methods = [
            Method::new("040", "T", "one"),
            Method::new("040", "T", "two"),
            Method::new("041", "-", "script"),
            Method::new("001", "-", "bash"),
        ];
        let text = render(&methods, &[], &runs());
        let places = "7.2.22, 10.0.2 (qsd, system); 10.0.2 (qsd: fail)";
        for line in [
            "**1 of 2 Python tests, 1 of 3 methods; 0 of 1 bash tests.**".to_owned(),
            format!("| 040 | partly | 1 of 2 | {places} | 10.0.2 (raw) |\n"),
            format!("| T::one | `a::b` | {places} |\n"),
            "| T::two | the script only |  |\n".to_owned(),
            "| 001 | bash | 1 |  |\n".to_owned(),
            "| 041 | Python | 1 | 10.0.2 (qcow2, raw); 7.2.22 (raw: skip, no-accelerator qtest) |\n".to_owned(),
        ] {
            assert!(text.contains(&line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_note_makes_a_port_partial_and_is_shown() {
        let notes = [(
            "040::T::one".to_owned(),
            "Without the last step: no such device.".to_owned(),
        )];
        let text = render(&[Method::new("040", "T", "one")], &notes, &runs());
        assert!(text.contains("| 040 | partly |"), "{text}");
        assert!(text.contains("no such device"), "{text}");
    }

    #[test]
    fn an_id_that_upstream_does_not_have_is_found() {
        let unknown = |name: &str| runs().unknown(&[Method::new("040", "T", name)]);
        assert_eq!(unknown("other"), ["040::T::one"]);
        assert_eq!(unknown("one"), Vec::<String>::new());
    }
}
