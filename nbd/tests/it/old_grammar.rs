//! The INI grammar of the old fault injector: upstream's tests 083 and 277.

use std::time::Duration;

use nbd::proto::Mode;
use nbd::server::backend::{MemoryBackend, ZeroBackend};
use nbd::server::journal::Closed;
use nbd::server::plan::IniError;
use nbd::server::{Event, Export, FaultPlan, Server, ServerBuilder};

use crate::support::{Tools, all_tools, block_on, short_dir};

/// What the old injector's disk is: 8 GiB of zeroes, without flags.
fn old_server(ini: &str, classic: bool) -> ServerBuilder {
    let export = Export::new(ZeroBackend::new(8 << 30)).flags(Default::default());
    let export = if classic { export } else { export.name("foo") };
    let mode = if classic {
        Mode::Oldstyle
    } else {
        Mode::ExportName
    };
    Server::builder().export(export).mode(mode).plan(FaultPlan::from_ini(ini).unwrap())
}

const OPEN: &str = "can't open";
const READ: &str = "read failed: Input/output error";

/// Event, moments, and what upstream expects of each: whether the image opens, and whether it
/// can then be read.
const TABLE: &[(&str, &[(&str, &str)])] = &[
    (
        "neg1",
        &[("before", OPEN), ("after", OPEN), ("8", OPEN), ("16", OPEN)],
    ),
    (
        "export",
        &[
            ("before", OPEN),
            ("after", OPEN),
            ("4", OPEN),
            ("12", OPEN),
            ("16", OPEN),
        ],
    ),
    (
        "neg2",
        &[("before", OPEN), ("after", READ), ("8", OPEN), ("10", OPEN)],
    ),
    ("request", &[("before", READ), ("after", READ)]),
    (
        "reply",
        &[("before", READ), ("after", READ), ("4", READ), ("8", READ)],
    ),
    (
        "data",
        &[
            ("before", READ),
            ("after", "read 512/512 bytes at offset 0"),
        ],
    ),
    (
        "neg-classic",
        &[
            ("before", OPEN),
            ("8", OPEN),
            ("16", OPEN),
            ("24", OPEN),
            ("28", OPEN),
            ("after", READ),
        ],
    ),
];

#[test]
fn the_54_combinations_of_083_give_the_errors_that_upstream_expects() {
    let mut combinations = 0;
    for tools in all_tools() {
        combinations = block_on(async {
            let mut cells = tokio::task::JoinSet::new();
            let mut n = 0;
            for tcp in [false, true] {
                for (event, moments) in TABLE {
                    for (when, expected) in *moments {
                        n += 1;
                        cells.spawn(cell(tools.clone(), tcp, event, when, expected));
                        if cells.len() == 4 {
                            cells.join_next().await.unwrap().unwrap();
                        }
                    }
                }
            }
            while let Some(done) = cells.join_next().await {
                done.unwrap();
            }
            n
        });
    }
    assert!(combinations == 54 || all_tools().is_empty());
}

async fn cell(tools: Tools, tcp: bool, event: &str, when: &str, expected: &str) {
    let dir = short_dir();
    let ini = format!("[inject-error]\nevent={event}\nwhen={when}\n");
    let server = old_server(&ini, event == "neg-classic");
    let server = match tcp {
        true => server.listen_tcp(),
        false => server.listen_unix(dir.path().join("s")),
    };
    let server = server.unwrap();
    let uri = server.uri().unwrap().to_string();
    let command = tools.io.command().args(["-f", "raw", "-c", "read 0 512"]).arg(&uri);
    let output = command.run().await.unwrap();
    let text = output.combined_text();
    assert!(
        text.contains(expected),
        "{} {event} {when}: {text}",
        tools.name
    );
    assert_eq!(
        output.status.code(),
        Some(i32::from(!expected.starts_with("read 512")))
    );
    let closed = |e: &nbd::server::Entry| e.event == Event::Closed(Closed::Fault);
    // A client that was served before the fault may be gone before it.
    let journal = server.journal();
    let fault = tokio::time::timeout(Duration::from_secs(120), journal.wait_for(1, closed));
    fault.await.unwrap().unwrap();
    let journal = server.finish().await.unwrap();
    assert_eq!(journal.count(closed), 1, "{event} {when}");
}

#[test]
fn the_two_faults_of_277_are_survived_by_a_client_that_reconnects() {
    for tools in all_tools() {
        block_on(async {
            let dir = short_dir();
            let path = dir.path().join("s");
            let start = |event: &str| {
                let ini = format!("[inject-error]\nevent={event}\nwhen=after");
                old_server(&ini, true).listen_unix(&path).unwrap()
            };
            let first = start("data");
            let opts = format!(
                "{},reconnect-delay=60",
                first.uri().unwrap().to_image_opts().unwrap()
            );
            let client =
                tools.io.command().args(["-c", "write -P 0x7 0 3M", "--image-opts", &opts]);
            let client = client.spawn_async().await.unwrap();
            let closed = |e: &nbd::server::Entry| matches!(e.event, Event::Closed(_));
            first.journal().wait_for(1, closed).await.unwrap();
            first.finish().await.unwrap();
            let second = start("reply");
            let output = client.wait().await.unwrap();
            let text = output.stdout_text();
            assert!(
                text.contains("wrote 3145728/3145728 bytes at offset 0"),
                "{}",
                output.tail()
            );
            second.finish().await.unwrap();
        });
    }
}

#[test]
fn what_the_old_parser_refuses_is_refused_with_its_words() {
    for (ini, words) in [
        ("[x]\nevent=neg1", "invalid config section name: x"),
        (
            "[inject-error]\nio=read",
            "missing \"event\" option in inject-error",
        ),
        (
            "[inject-error]\nevent=export-name",
            "invalid \"event\" option value \"export-name\"",
        ),
        (
            "[inject-error]\nevent=neg1\nio=both",
            "invalid \"io\" option value \"both\"",
        ),
        (
            "[inject-error]\nevent=neg1\nwhen=soon",
            "invalid \"when\" option value \"soon\"",
        ),
        (
            "[inject-error]\nevent=neg1\nwhen=-2",
            "invalid \"when\" option value \"-2\"",
        ),
        ("event=neg1", "no section"),
        ("[inject-error]\nevent", "not understood"),
        (
            "[inject-error]\nevent=neg1\n[inject-error]\nevent=neg1",
            "twice",
        ),
        ("[inject-error]\nevent=neg1\nEVENT=neg2", "twice"),
    ] {
        let error: IniError = FaultPlan::from_ini(ini).unwrap_err();
        assert!(error.to_string().contains(words), "{ini:?}: {error}");
    }
}

#[test]
fn comments_colons_case_and_defaults_are_read_as_python_reads_them() {
    let ini = "# c\n; d\n[DEFAULT]\nwhen: after\n[inject-error \"a\"]\nEvent : reply\nIO=write\nother=1\n";
    let plan = FaultPlan::from_ini(ini).unwrap();
    assert_eq!(plan.rules.len(), 1);
    assert_eq!(plan.rules[0].name, "inject-error \"a\"");
    assert_eq!(plan.rules[0].at, nbd::server::plan::At::After);
    assert_eq!(FaultPlan::from_ini("").unwrap(), FaultPlan::new());
}

#[test]
fn an_event_in_the_wrong_direction_never_fires() {
    let reads_replies = "[inject-error]\nevent=reply\nio=read";
    assert_eq!(FaultPlan::from_ini(reads_replies).unwrap().rules.len(), 0);
    let memory = MemoryBackend::new(512);
    let plan = FaultPlan::from_ini("[inject-error]\nevent=reply").unwrap();
    block_on(async {
        let server = Server::builder().export(Export::new(memory)).plan(plan).detached().unwrap();
        let error = server.finish().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "rules of the fault plan never fired: inject-error"
        );
    });
}
