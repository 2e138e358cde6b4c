//! The binary `nbd-probe`.

use imgtools::process::Command;
use serde_json::Value;

use crate::support::{all_tools, block_on, img, short_dir};
use nbd::QemuNbd;
use nbd::server::backend::MemoryBackend;
use nbd::server::{Export, Server};

async fn probe(args: &[&str]) -> imgtools::process::Output {
    Command::new(env!("CARGO_BIN_EXE_nbd-probe")).args(args).run().await.unwrap()
}

#[test]
fn it_prints_info_and_maps_as_text_and_json() {
    for tools in all_tools() {
        block_on(async {
            let dir = short_dir();
            let image = dir.path().join("q").to_str().unwrap().to_owned();
            img(&tools, ["create", "-q", "-f", "qcow2", &image, "1M"]).await;
            img(&tools, ["bitmap", "--add", &image, "b0"]).await;
            let write = tools.io.command().args(["-f", "qcow2", "-c", "write 64k 64k", &image]);
            write.run().await.unwrap().check().unwrap();
            let nbd = QemuNbd::new(tools.nbd.clone()).format("qcow2").bitmap("b0").read_only();
            let nbd = nbd.allocation_depth().export_name("e").description("text");
            let server = nbd.serve_unix(&image, dir.path().join("s")).await.unwrap();
            let uri = server.uri().to_string();
            let text = probe(&[&uri]).await.check().unwrap().stdout_text().into_owned();
            for expected in [
                "export: \"e\"",
                "size: 1048576",
                "read-only",
                "description: text",
                "map of base:allocation:",
                "hole,zero",
                "depth 1",
                "dirty",
            ] {
                assert!(text.contains(expected), "{expected} is not in {text}");
            }
            let json = probe(&["--json", &uri]).await.check().unwrap();
            let json: Value = serde_json::from_str(&json.stdout_text()).unwrap();
            let map = json["maps"]["base:allocation"].as_array().unwrap();
            assert_eq!((map.len(), map[1]["offset"].as_u64()), (3, Some(65536)));
            let one =
                probe(&["--json", "--context", "base:allocation", &uri]).await.check().unwrap();
            let one: Value = serde_json::from_str(&one.stdout_text()).unwrap();
            assert_eq!(one["maps"].as_object().unwrap().len(), 1);
            let legacy = server.uri().to_legacy().unwrap();
            let list = probe(&["--list", "--json", &legacy]).await.check().unwrap();
            let list: Value = serde_json::from_str(&list.stdout_text()).unwrap();
            assert_eq!(list["exports"][0]["contexts"].as_array().unwrap().len(), 3);
        });
    }
}

#[test]
fn it_fails_with_one_line_that_says_why() {
    block_on(async {
        let output = probe(&["nbd+unix:///?socket=/nonexistent"]).await;
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(
            output.stderr_text(),
            "nbd-probe: failed to connect to unix:/nonexistent: No such file or directory (os error 2)\n"
        );
        assert_eq!(probe(&["http://x/"]).await.status.code(), Some(1));
        assert_eq!(probe(&[]).await.status.code(), Some(2));
    });
}

#[test]
fn it_takes_one_connection_in_any_mode_and_says_goodbye() {
    use nbd::proto::Mode;
    use nbd::server::backend::MemoryBackend;
    use nbd::server::journal::Closed;
    use nbd::server::{Entry, Event, Export, Server};
    block_on(async {
        for mode in Mode::ALL {
            let dir = short_dir();
            let export = Export::new(MemoryBackend::new(1 << 20)).name("e");
            let server = Server::builder().export(export).mode(mode);
            let server = server.listen_unix(dir.path().join("s")).unwrap();
            let uri = server.uri().unwrap().to_string();
            let text = probe(&[&uri]).await.check().unwrap();
            let text = text.stdout_text();
            assert!(text.contains(&format!("mode: {mode}")), "{text}");
            assert_eq!(text.contains("map of base:allocation"), mode.has_chunks());
            let left = |e: &Entry| e.event == Event::Closed(Closed::Goodbye);
            let came = |e: &Entry| e.event == Event::Accepted;
            let journal = server.finish().await.unwrap();
            assert_eq!((journal.count(came), journal.count(left)), (1, 1), "{mode}");
        }
    });
}

#[test]
fn what_could_not_be_printed_is_a_failure_unless_the_reader_left() {
    use nbd::server::backend::ZeroBackend;
    use nbd::server::{Export, Server};
    block_on(async {
        let dir = short_dir();
        let server = Server::builder().export(Export::new(ZeroBackend::new(512)));
        let server = server.listen_unix(dir.path().join("s")).unwrap();
        let uri = server.uri().unwrap().to_string();
        for (to, status) in [(">/dev/full", 1), ("| true", 0)] {
            let script = format!("set -o pipefail; \"$0\" \"$1\" {to}");
            let probe = env!("CARGO_BIN_EXE_nbd-probe");
            let command = Command::new("bash").args(["-c", &script, probe, &uri]);
            let output = command.run().await.unwrap();
            assert_eq!(output.status.code(), Some(status), "{to}{}", output.tail());
        }
    });
}

/// A server's text must not control the terminal, nor look like lines of ours.
#[test]
fn it_prints_what_a_server_says_without_what_a_terminal_obeys() {
    block_on(async {
        // A title, a line of its own, a control sequence in one character, and text from right to left.
        let evil = "\u{1b}]0;title\u{7} \"quoted\"\n  size: 1\u{9b}2J\u{202e}";
        let harmless = r#"\u{1b}]0;title\u{7} "quoted"\n  size: 1\u{9b}2J\u{202e}"#;
        let export = Export::new(MemoryBackend::new(512)).description(evil);
        let server = Server::builder().export(export).listen_tcp().unwrap();
        let uri = server.uri().unwrap();
        let is_harmless = |text: &str| !text.contains(|c: char| c.is_control() && c != '\n');
        let list = probe(&["--list", &uri.to_string()]).await.check().unwrap();
        let list = list.stdout_text().into_owned();
        let line = format!("  description: {harmless}\n");
        assert!(list.contains(&line) && is_harmless(&list), "{list:?}");
        let json = probe(&["--list", "--json", &uri.to_string()]).await;
        let json = json.check().unwrap().stdout_text().into_owned();
        assert!(is_harmless(&json), "{json:?}");
        let value: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["exports"][0]["info"]["description"], evil);
        // The server repeats the name that it was asked for.
        let missing = probe(&[&uri.with_export("\u{1b}[2J").to_string()]).await;
        let why = missing.stderr_text();
        assert!(is_harmless(&why) && why.contains("\\u{1b}[2J"), "{why:?}");
        server.finish().await.unwrap();
    });
}
