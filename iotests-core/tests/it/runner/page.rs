//! The HTML page: its content, and how it reacts to clicks in headless Chromium.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use iotests_core::runner::Attempt;
use iotests_core::runner::Verdict;
use iotests_core::runner::event::{InstanceInfo, Outcome, RunEvent, Summary};
use iotests_core::runner::record::Record;
use iotests_core::wire::{CaseEvent, FailureReport};
use serde_json::{Value, json};

use super::bench::Bench;
use super::model::ALL;

/// The data of a page.
pub(super) struct Page<'p> {
    text: &'p str,
    pub(super) index: Value,
}

impl<'p> Page<'p> {
    pub(super) fn read(text: &'p str) -> Self {
        Self {
            text,
            index: block(text, "index").expect("the page has an index"),
        }
    }

    fn id(&self, row: &Value) -> String {
        let name = self.index["cases"][row[0].as_u64().unwrap() as usize][0].as_str().unwrap();
        let suffix = row[1].as_str().unwrap();
        suffix.strip_prefix('=').map_or_else(|| format!("{name}{suffix}"), str::to_owned)
    }

    fn rows(&self) -> &[Value] {
        self.index["rows"].as_array().unwrap()
    }

    pub(super) fn row(&self, id: &str) -> &Value {
        let mut rows = self.rows().iter();
        rows.find(|row| self.id(row) == id).unwrap_or_else(|| panic!("{id} has no row"))
    }

    pub(super) fn detail(&self, id: &str) -> Value {
        let number = self.rows().iter().position(|row| self.id(row) == id).unwrap();
        block(self.text, &format!("d{number}")).unwrap()
    }

    pub(super) fn verdicts(&self) -> BTreeMap<String, Verdict> {
        let verdict = |row: &Value| {
            let word = &self.index["verdicts"][row[2].as_u64().unwrap() as usize][0];
            *Verdict::ALL.iter().find(|one| one.word() == word).unwrap()
        };
        self.rows().iter().map(|row| (self.id(row), verdict(row))).collect()
    }
}

fn block(page: &str, id: &str) -> Option<Value> {
    let start = format!("<script type=\"application/json\" id=\"{id}\">");
    let rest = page.split_once(&start)?.1;
    serde_json::from_str(rest.split_once("</script>")?.0).ok()
}

/// A headless Chromium, controlled over its debugging pipe.
struct Browser {
    child: Child,
    to: File,
    from: BufReader<File>,
    number: u64,
    session: Option<String>,
    _folder: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Browser {
    fn open(page: &Path) -> Option<Self> {
        let program = ["chromium", "chromium-browser", "google-chrome"].iter().find_map(|name| {
            let path = std::env::var_os("PATH")?;
            std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.exists())
        });
        let Some(program) = program else {
            println!("skipped: the page in a browser, for there is no chromium in PATH");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let ((in_read, in_write), (out_read, out_write)) = (pipe(), pipe());
        let mapping = |parent_fd, child_fd| FdMapping {
            parent_fd,
            child_fd,
        };
        let mut command = Command::new(program);
        command
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                "--remote-debugging-pipe",
                "--window-size=1400,900",
            ])
            .args([
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-extensions",
                "--disable-component-update",
            ])
            .arg(format!("--user-data-dir={}", folder.path().display()))
            .arg("about:blank")
            .env("HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .fd_mappings(vec![mapping(in_read, 3), mapping(out_write, 4)])
            .unwrap();
        let child = command.spawn().unwrap();
        drop(command);
        let mut browser = Self {
            child,
            to: File::from(in_write),
            from: BufReader::new(File::from(out_read)),
            number: 0,
            session: None,
            _folder: folder,
        };
        let targets = browser.call("Target.getTargets", json!({}));
        let target = targets["targetInfos"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["type"] == "page")
            .unwrap();
        let target = target["targetId"].clone();
        let attached = browser.call(
            "Target.attachToTarget",
            json!({"targetId": target, "flatten": true}),
        );
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        browser.call(
            "Page.navigate",
            json!({"url": format!("file://{}", page.display())}),
        );
        browser.value("new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', done))");
        Some(browser)
    }

    fn read(&mut self) -> Value {
        let mut message = Vec::new();
        let read = self.from.read_until(0, &mut message).unwrap();
        assert!(read > 0, "the browser has ended");
        message.pop();
        serde_json::from_slice(&message).unwrap()
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.number += 1;
        let mut message = json!({"id": self.number, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let read = self.read();
            if read["id"] == self.number {
                assert!(read["error"].is_null(), "{method}: {read}");
                return read["result"].clone();
            }
        }
    }

    /// The value of an expression in the page.
    fn value(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let result = self.call("Runtime.evaluate", params);
        assert!(
            result["exceptionDetails"].is_null(),
            "{expression}: {result}"
        );
        result["result"]["value"].clone()
    }

    /// Clicks in the middle of the element that the selector matches, after the page has been
    /// drawn.
    fn click(&mut self, selector: &str) {
        let place = self.value(&format!(
            "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => {{
               const it = document.querySelector({}); it.scrollIntoView({{block: 'nearest'}});
               const box = it.getBoundingClientRect(); done([box.x + box.width / 2, box.y + box.height / 2]); }})))",
            json!(selector)
        ));
        for (kind, buttons) in [("mousePressed", 1), ("mouseReleased", 0)] {
            let params = json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "buttons": buttons, "clickCount": 1});
            self.call("Input.dispatchMouseEvent", params);
        }
    }

    fn type_text(&mut self, text: &str) {
        for c in text.chars() {
            let text = c.to_string();
            let params = |kind: &str| json!({"type": kind, "key": text, "text": if kind == "keyDown" { text.as_str() } else { "" }});
            self.call("Input.dispatchKeyEvent", params("keyDown"));
            self.call("Input.dispatchKeyEvent", params("keyUp"));
        }
    }

    fn key(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            self.call("Input.dispatchKeyEvent", json!({"type": kind, "key": key}));
        }
    }

    fn text(&mut self, selector: &str) -> String {
        let text = self.value(&format!(
            "document.querySelector({}).textContent",
            json!(selector)
        ));
        text.as_str().unwrap().to_owned()
    }
}

fn pipe() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap()
}

#[test]
fn a_user_finds_a_failure_with_clicks_and_keys() {
    // The browser recognizes HTML by the suffix.
    let named = ALL.bench.path("page.html");
    std::fs::copy(ALL.bench.path("html"), &named).unwrap();
    let Some(mut browser) = Browser::open(&named) else {
        return;
    };
    let page = Page::read(&ALL.html);
    let failed = page.verdicts().into_values().filter(|verdict| verdict.is_failure()).count();
    assert_eq!(
        browser.text("nav [aria-selected=true]"),
        format!("Failures {failed}")
    );
    assert_eq!(
        browser.value("document.querySelectorAll('.row').length"),
        failed
    );
    // Failures with the same headline are one group.
    let groups = page.index["causes"].as_array().unwrap().len();
    assert_eq!(
        browser.value("document.querySelectorAll('details.cause').length"),
        groups
    );

    let number =
        page.rows().iter().position(|row| page.id(row) == "verdicts::fails@qcow2").unwrap();
    browser.click(&format!(".row[data-row='{number}']"));
    let detail = browser.text("#detail");
    for wanted in [
        "the <answer> & the question differ",
        "second",
        "Kept files",
        "evidence/report",
        "--seed 7",
    ] {
        assert!(detail.contains(wanted), "{wanted}: {detail}");
    }
    browser.key("Escape");
    assert_eq!(
        browser.value("document.querySelector('#detail').hidden"),
        true
    );

    browser.key("2");
    assert_eq!(
        browser.text("nav [aria-selected=true]"),
        format!("Instances {}", page.rows().len())
    );
    browser.key("/");
    browser.type_text("needy");
    assert_eq!(
        browser.text("#shown"),
        format!("1 of {}", page.rows().len())
    );
    browser.click("#clear");
    browser.click("[data-verdict=flaky]");
    assert_eq!(
        browser.text("#shown"),
        format!("1 of {}", page.rows().len())
    );
    browser.click("#clear");
    let theme = "document.documentElement.dataset.theme";
    let before = browser.value(theme);
    browser.click("#theme");
    assert_ne!(browser.value(theme), before);

    for (tab, wanted) in [
        ("skips", "the moon is in the wrong phase"),
        ("flaky", "verdicts::is_flaky@qcow2"),
        ("slowest", "%"),
        ("run", "sha256"),
        ("timeline", "A line for each slot"),
    ] {
        browser.click(&format!("nav [data-tab={tab}]"));
        let shown = browser.text("#view");
        assert!(shown.contains(wanted), "{tab}: {shown}");
    }
    // A click on an instance's bar opens its details.
    let bar = browser.value(
        "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => {
           const box = boxes.reduce((a, b) => a.w > b.w ? a : b), at = canvas.getBoundingClientRect();
           done([at.x + box.x + box.w / 2, at.y + box.y + box.h / 2, box.row.id]); })))",
    );
    for kind in ["mousePressed", "mouseReleased"] {
        let params =
            json!({"type": kind, "x": bar[0], "y": bar[1], "button": "left", "clickCount": 1});
        browser.call("Input.dispatchMouseEvent", params);
    }
    assert_eq!(browser.text("#detail h2"), bar[2].as_str().unwrap());
}

/// Writes a record of a run with this many instances, a tenth of which failed.
fn long_record(path: &Path, instances: usize) {
    let mut file = std::io::BufWriter::new(File::create(path).unwrap());
    let mut write = |elapsed: usize, slot: Option<u16>, event: RunEvent| {
        let record = Record {
            at: 0,
            elapsed: Duration::from_millis(elapsed as u64),
            slot,
            event,
        };
        serde_json::to_writer(&mut file, &record).unwrap();
        file.write_all(b"\n").unwrap();
    };
    let Some(RunEvent::RunStarted(started)) = ALL.jsonl.first() else {
        panic!("the run has a beginning");
    };
    let id = |number: usize| {
        format!(
            "area{}::module::case{}/row{number}@qcow2",
            number % 7,
            number / 5
        )
    };
    let mut started = started.clone();
    started.planned = instances;
    started.skipped = 0;
    started.selected = (0..instances).map(id).collect();
    write(0, None, RunEvent::RunStarted(started));
    let mut summary = Summary::default();
    for number in 0..instances {
        let mut instance = InstanceInfo {
            id: id(number),
            case: format!("area{}::module::case{}", number % 7, number / 5),
            description: format!(
                "The {number}th thing is as it should be. <script>window.broken = 1</script>"
            ),
            set: "host".to_owned(),
            ..InstanceInfo::default()
        };
        instance.place.file = "iotests-cases/src/area/module.rs".to_owned();
        let slot = Some((number % 8) as u16);
        let begun = number / 8 * 100;
        let info = instance.clone();
        write(
            begun,
            slot,
            RunEvent::InstanceStarted {
                instance: info,
                attempt: 1,
                expected: None,
            },
        );
        let mut say = |said| {
            let id = instance.id.clone();
            write(begun + 10, slot, RunEvent::Case { id, said });
        };
        for step in ["first", "second"] {
            say(CaseEvent::Step {
                text: step.to_owned(),
                place: instance.place.clone(),
            });
            say(CaseEvent::Log {
                text: format!("\u{1b}[31m{step}</script><script>window.broken = 1</script>"),
            });
        }
        let failed = number % 10 == 0;
        let attempt = Attempt {
            verdict: Some(if failed { Verdict::Fail } else { Verdict::Pass }),
            headline: if failed {
                format!("byte {number} is wrong; <img src=x onerror=window.broken=1>")
            } else {
                String::new()
            },
            elapsed: Duration::from_millis(90),
            failure: failed.then(|| FailureReport {
                diff: Some("@@ 1 @@\n-a\n+b\n".repeat(20)),
                ..FailureReport::default()
            }),
            ..Attempt::default()
        };
        let mut outcome = Outcome::new(instance, attempt.verdict.unwrap(), attempt);
        outcome.rerun = "iotests --seed 1 'it'".to_owned();
        *summary.counts.entry(outcome.verdict).or_default() += 1;
        summary.elapsed = Duration::from_millis(begun as u64 + 90);
        write(
            begun + 90,
            slot,
            RunEvent::InstanceFinished(Box::new(outcome)),
        );
    }
    let end = summary.elapsed.as_millis() as usize;
    write(end, None, RunEvent::RunFinished(Box::new(summary)));
}

/// Speed was measured by hand. This tests what does not depend on it: all 10,000 are there, few
/// exist as elements, and no output of a case is taken for markup.
#[test]
fn a_page_of_10_000_instances_draws_only_what_is_visible_and_runs_no_foreign_script() {
    let bench = Bench::new();
    let (path, page) = (bench.path("long.jsonl"), bench.path("long.html"));
    long_record(&path, 10_000);
    let [path, page_path] = [&path, &page].map(|path| path.display().to_string());
    bench.run(&["--from-record", &path, "--html", &page_path]).assert_code(1);
    let text = std::fs::read_to_string(&page).unwrap();
    assert_eq!(
        text.matches("<script").count(),
        text.matches("</script>").count()
    );
    assert_eq!(Page::read(&text).verdicts().len(), 10_000);
    assert!(!text.contains("<img") && !text.contains('\u{1b}'));
    let Some(mut browser) = Browser::open(&page) else {
        return;
    };
    assert_eq!(
        browser.text("#title"),
        "9000 passed, 1000 failed in 2 min 04 s"
    );
    assert_eq!(
        browser.value("document.querySelectorAll('details.cause').length"),
        1,
        "all say the same"
    );
    browser.click(".row");
    let detail = browser.text("#detail");
    assert!(detail.contains("␛[31mfirst</script><script>"), "{detail}");
    assert_eq!(
        browser.value("document.querySelectorAll('#detail pre .del').length"),
        20
    );
    browser.key("Escape");
    browser.key("2");
    assert!(browser.value("document.querySelectorAll('.row').length").as_u64().unwrap() < 100);
    browser.value("new Promise(done => { document.querySelector('main').scrollTop = 1e9; requestAnimationFrame(() => requestAnimationFrame(done)); })");
    assert!(browser.text("#list").contains("/row9999@qcow2"));
    assert_eq!(browser.value("typeof window.broken"), "undefined");
    let load = "performance.getEntriesByType('navigation')[0].loadEventEnd";
    println!(
        "10,000 instances: {} MiB, opened in {} ms",
        text.len() >> 20,
        browser.value(load)
    );
}
