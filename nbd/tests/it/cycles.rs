//! Many starts and stops of qemu-nbd.

use std::time::{Duration, Instant};

use nbd::{Client, QemuNbd};

use crate::support::{all_tools, block_on, img, short_dir};

async fn cycles(count: usize) {
    for tools in all_tools() {
        let dir = short_dir();
        let image = dir.path().join("raw").to_str().unwrap().to_owned();
        img(&tools, ["create", "-q", "-f", "raw", &image, "1M"]).await;
        let mut ready: Vec<Duration> = Vec::new();
        for _ in 0..count {
            let nbd = QemuNbd::new(tools.nbd.clone()).format("raw");
            let start = Instant::now();
            let server = nbd.serve_unix(&image, dir.path().join("s")).await.unwrap();
            ready.push(start.elapsed());
            let client = Client::builder().connect_uri(&server.uri()).await.unwrap();
            client.read(0, 512).await.unwrap();
            client.disconnect().await.unwrap();
            let output = server.stop().await.unwrap().check().unwrap();
            assert_eq!(output.stderr_text(), "");
            assert!(!dir.path().join("s").exists());
        }
        ready.sort();
        let at = |p: usize| ready[ready.len() * p / 100];
        println!(
            "{}: {count} cycles, ready: median {:?}, p99 {:?}",
            tools.name,
            at(50),
            at(99)
        );
    }
}

#[test]
fn fifty_starts_and_stops_leave_nothing_and_never_fail() {
    block_on(cycles(50));
}

/// `cargo test -p qemu-nbd --test it -- --ignored a_thousand_starts --nocapture`
#[test]
#[ignore = "takes a minute; prints the median time to be ready"]
fn a_thousand_starts_and_stops_never_fail() {
    block_on(cycles(1000));
}
