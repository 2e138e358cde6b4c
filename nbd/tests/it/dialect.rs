//! [`QemuDialect`] predicts what qemu-img takes.

use nbd::uri::{Dialect, QemuDialect};

use crate::support::{all_tools, block_on};

/// A hundred URIs; none leads anywhere, so what counts is how qemu-img fails.
fn uris() -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let schemes = [
        "nbd",
        "nbd+tcp",
        "nbd+unix",
        "nbds",
        "nbds+unix",
        "nbd+ssh",
        "NBD",
        "nbd+udp",
    ];
    for scheme in schemes {
        for rest in [
            "//127.0.0.1:1/x",
            "//127.0.0.1:1",
            "//127.0.0.1:1/x?socket=/none",
            "///x?socket=/none",
            "///?socket=/none",
            "///x",
            "///x?",
            "///x?sock=/none",
            "///x?socket=/none&a=b",
            "//127.0.0.1:1/?a=b",
            "//127.0.0.1/x?socket=/none&socket=/other",
            "//:1/x",
            "//[::1]:1/x%20y",
        ] {
            all.push(format!("{scheme}:{rest}"));
        }
    }
    all
}

#[test]
fn qemu_img_takes_and_refuses_what_the_dialect_says() {
    // QEMU parses URIs with GLib since 9.0; what was before had a parser of its own.
    for tools in all_tools() {
        let dialect = match tools.major {
            ..9 => Dialect::UriC,
            _ => Dialect::Glib,
        };
        block_on(async {
            let uris = uris();
            assert!(uris.len() >= 100);
            let mut running = tokio::task::JoinSet::new();
            let mut wrong = Vec::new();
            for uri in uris {
                let command = tools.img.command().args(["info", &uri]);
                running.spawn(async move {
                    let text = command.run().await.unwrap().stderr_text().into_owned();
                    let refused = text.contains("No valid URL specified")
                        || text.contains("Unknown protocol")
                        || text.contains("No such file or directory")
                            && !text.contains("Failed to connect");
                    (QemuDialect::parse_as(&uri, dialect).is_ok() != refused)
                        .then_some(())
                        .ok_or((uri, text))
                });
                if running.len() == 8 {
                    wrong.extend(running.join_next().await.unwrap().unwrap().err());
                }
            }
            wrong.extend(running.join_all().await.into_iter().filter_map(Result::err));
            assert!(wrong.is_empty(), "{wrong:#?}");
        });
    }
}
