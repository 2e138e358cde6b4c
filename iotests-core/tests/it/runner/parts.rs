//! A plan partitioned among machines.

use std::collections::BTreeMap;
use std::fs;

use iotests_core::runner::Verdict;

use super::bench::{Bench, Ran, events, verdicts};

/// The ids in this part.
fn ids(bench: &Bench, args: &[&str]) -> Vec<String> {
    let ran = bench.run(&[args, &["--list=ids"]].concat());
    ran.assert_code(0);
    ran.stdout.lines().map(str::to_owned).collect()
}

const WORK: [&str; 6] = [
    "passes",
    "verdicts::fails",
    "skips",
    "runs_each_row",
    "-j2",
    "--allow-all-skipped",
];

#[test]
fn parts_are_disjoint_and_complete_and_merge_into_one_report() {
    let bench = Bench::new();
    let mut whole = ids(&bench, &WORK);
    let (mut all, mut records) = (Vec::new(), Vec::new());
    let mut expected = BTreeMap::new();
    for number in 1..=3 {
        let part = format!("--partition={number}/3");
        all.extend(ids(&bench, &[&WORK[..], &[&part]].concat()));
        // They run one after another on one machine: the times of one part do not change the next.
        let record = bench.path(&format!("{number}.jsonl")).display().to_string();
        let ran = bench.run(&[&WORK[..], &[&part, "--jsonl", &record]].concat());
        ran.assert_says(&format!("part {number}/3, "));
        expected.extend(verdicts(&events(&fs::read_to_string(&record).unwrap())));
        records.push(record);
    }
    whole.sort();
    all.sort();
    assert_eq!(all, whole);
    assert!(
        expected.len() > whole.len(),
        "skipped ones are of a part as well"
    );

    let merged = bench.path("all.jsonl").display().to_string();
    let (junit, html) = (
        bench.path("junit").display().to_string(),
        bench.path("html").display().to_string(),
    );
    let folder = bench.path("").display().to_string();
    let ran = bench.run(&[
        "merge", &folder, "--jsonl", &merged, "--junit", &junit, "--html", &html,
    ]);
    ran.assert_code(1).assert_does_not_say("missing");
    for verdict in Verdict::ALL {
        let count = expected.values().filter(|other| **other == verdict).count();
        if count > 0 {
            ran.assert_says(&format!("{count} {}", verdict.counted()));
        }
    }
    assert_eq!(
        verdicts(&events(&fs::read_to_string(&merged).unwrap())),
        expected
    );
    let page = fs::read_to_string(&html).unwrap();
    let page = super::page::Page::read(&page);
    assert_eq!(page.verdicts(), expected);
    assert!(
        page.index["lanes"].as_array().unwrap().len() >= 3,
        "each machine has lines of its own"
    );
    // Merged results are in the local history.
    let known = bench.run(&["--list=json", "verdicts::fails@"]);
    assert!(
        known.stdout.contains("\"verdicts\":[\"fail\"]"),
        "{}",
        known.stdout
    );

    // If a part is missing, it is a failure in every report.
    fs::remove_file(&records[1]).unwrap();
    fs::remove_file(&merged).unwrap();
    let ran = bench.run(&["merge", &folder, "--tap", "-"]);
    ran.assert_code(1)
        .assert_says("not ok")
        .assert_says("part 2 of 3 is missing: run it with --partition 2/3 --jsonl FILE");
    bench
        .run(&["merge", &records[0], "--junit", &junit])
        .assert_code(1)
        .assert_says("parts 2-3 of 3 are missing");
    assert!(fs::read_to_string(&junit).unwrap().contains("parts 2-3 of 3 are missing"));
}

#[test]
fn incomplete_and_repeated_parts_are_noticed() {
    let bench = Bench::new();
    let mut records = Vec::new();
    for number in [1, 2] {
        let record = bench.path(&format!("{number}.jsonl")).display().to_string();
        let part = format!("{number}/2");
        bench
            .run(&[
                "verdicts::passes@",
                "--partition",
                &part,
                "--jsonl",
                &record,
            ])
            .assert_code(0);
        records.push(record);
    }
    let all = [
        &["merge"],
        &records.iter().map(String::as_str).collect::<Vec<_>>()[..],
    ]
    .concat();
    bench.run(&all).assert_code(0).assert_says("2 passed");
    // A restarted job.
    let copy = bench.path("again.jsonl");
    fs::copy(&records[0], &copy).unwrap();
    bench
        .run(&[&all[..], &[&copy.display().to_string()]].concat())
        .assert_code(0)
        .assert_says("2 passed")
        .assert_says("are of the same part; the later one counts");
    // A part killed before it had started everything.
    let text = fs::read_to_string(&records[0]).unwrap();
    let first: String = text.split_inclusive('\n').take(1).collect();
    fs::write(&records[0], first).unwrap();
    bench.run(&all).assert_code(1).assert_says("a part was cut short");
    // A part of another plan.
    bench
        .run(&[
            "verdicts::passes@raw",
            "--partition",
            "1/2",
            "--jsonl",
            &records[0],
        ])
        .assert_code(0);
    bench.run(&all).assert_code(1).assert_says("the parts are of different plans");
}

#[test]
fn parts_are_balanced_by_recorded_times_and_auto_reads_ci_variables() {
    let bench = Bench::new();
    let whole = ids(&bench, &WORK);
    assert!(whole.len() > 4);
    // An instance that takes as long as all others is alone in its part.
    fs::create_dir_all(bench.path("build/iotests")).unwrap();
    let time = |id: &String| {
        let seconds = if id == "verdicts::passes@raw" { 100 } else { 1 };
        (
            id.clone(),
            serde_json::json!({"elapsed": {"secs": seconds, "nanos": 0}, "verdicts": ["pass"]}),
        )
    };
    let known: BTreeMap<_, _> = whole.iter().map(time).collect();
    let records = serde_json::json!({"format": 1, "instances": known});
    fs::write(
        bench.path("build/iotests/records.json"),
        records.to_string(),
    )
    .unwrap();
    assert_eq!(
        ids(&bench, &[&WORK[..], &["--partition", "1/2"]].concat()),
        ["verdicts::passes@raw"]
    );
    assert_eq!(
        ids(&bench, &[&WORK[..], &["--partition", "2/2"]].concat()).len(),
        whole.len() - 1
    );

    let auto = |variables: &[(&str, &str)]| {
        let mut command =
            bench.command(&[&WORK[..], &["--partition", "auto", "--list=ids"]].concat());
        Ran::new(command.envs(variables.iter().copied()).output().unwrap())
    };
    let gitlab = auto(&[("CI_NODE_INDEX", "1"), ("CI_NODE_TOTAL", "2")]);
    assert_eq!(gitlab.assert_code(0).stdout, "verdicts::passes@raw\n");
    auto(&[]).assert_code(0).assert_says("so everything runs");
    auto(&[("GITHUB_ACTIONS", "true")]).assert_code(2).assert_says("strategy.job-index");
    bench.run(&["--partition", "3/2"]).assert_code(2).assert_says("there is no part 3 of 2");
    bench
        .run(&["verdicts::passes@raw", "--partition", "2/2"])
        .assert_code(0)
        .assert_says("part 2 of 2 has nothing to run: there is 1 instance in all");
    let record = bench.path("1.jsonl").display().to_string();
    let part = |number| {
        let part = format!("{number}/2");
        let one = [
            "verdicts::passes@raw",
            "--partition",
            &part,
            "--jsonl",
            &record,
        ];
        bench.run(&one).assert_code(0);
        fs::read_to_string(&record).unwrap()
    };
    let first = part(1);
    let second = part(2);
    assert!(second.contains("run-finished"), "{second}");
    let other = bench.path("2.jsonl");
    fs::write(&other, first).unwrap();
    bench
        .run(&["merge", &record, &other.display().to_string()])
        .assert_code(0)
        .assert_says("1 passed")
        .assert_does_not_say("missing");
    // A part with only skipped instances does not fail if another part runs something.
    for part in ["1/2", "2/2"] {
        bench.run(&["verdicts::passes@raw", "is_skipped", "--partition", part]).assert_code(0);
    }
}
