//! The speed of framing, round trips and events.
//!
//! Criterion measures each alone. `ratios` then compares in one run, in turns: the client with a
//! bare blocking loop on a socket of a real storage daemon, medians and 99th percentiles.
//!
//! The bare loop is measured twice. QEMU makes a few system calls for each byte that it reads, so
//! its time is close to proportional to the length of the command, and the eleven bytes of
//! `,"id":"ab0"` weigh more than all of this crate: on an idle machine the loop with them is slower
//! than the client, and without them within a tenth of it; on a busy one it was up to a third
//! faster. The client could leave them out, as in-band replies come in order. It does not: an error
//! that QEMU cannot attribute, a reply that cannot be decoded, or one to the previous client, would
//! then be assigned to the next command, shifting all later replies. With ids such a message
//! affects at most its own call.

use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use qmp::frame::Framer;
use qmp::message::Message;
use qmp::mock::{Answer, Monitor};
use qmp::{Client, Matcher, Options};
use serde_json::json;
use tokio::runtime::Runtime;

/// One message of about `size` bytes, of the kind `query-named-block-nodes` returns.
fn message(size: usize) -> Vec<u8> {
    let node = r#"{"iops_rd": 0, "detect_zeroes": "off", "image": {"virtual-size": 1073741824, "filename": "/var/lib/libvirt/images/disk.qcow2", "format": "qcow2", "actual-size": 200704, "format-specific": {"type": "qcow2", "data": {"compat": "1.1", "lazy-refcounts": false}}, "dirty-flag": false}, "iops_wr": 0, "ro": false, "node-name": "node0", "backing_file_depth": 0, "drv": "qcow2", "bps": 0, "cache": {"no-flush": false, "direct": false, "writeback": true}}"#;
    let mut text = String::from("{\"return\": [");
    while text.len() < size {
        text.push_str(node);
        text.push_str(", ");
    }
    text.push_str("0], \"id\": \"abc0\"}\r\n");
    text.into_bytes()
}

fn framing(c: &mut Criterion) {
    let mut group = c.benchmark_group("framing");
    for size in [1 << 10, 1 << 16, 1 << 20, (64 << 20) - 4096] {
        let text = message(size);
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.sample_size(if size > 1 << 20 { 10 } else { 50 });
        group.bench_with_input(BenchmarkId::from_parameter(text.len()), &text, |b, text| {
            b.iter(|| {
                let mut framer = Framer::default();
                let mut found = 0;
                // As the driver reads it.
                for piece in text.chunks(64 << 10) {
                    framer.push(piece);
                    while let Some(frame) = framer.next_frame() {
                        found += frame.map_or(0, |frame| frame.bytes.len());
                    }
                }
                assert!(found + 2 == text.len());
            });
        });
    }
    let text = message(1 << 16);
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("decode", |b| {
        b.iter(|| Message::decode(black_box(&text[..text.len() - 2]), 5));
    });
    group.finish();
}

/// The processor time that this thread has used; other load does not count.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// Megabytes per second of processor time, for messages of several sizes.
fn framing_rates() {
    for size in [1 << 10, 1 << 20, (64 << 20) - 4096] {
        let text = message(size);
        let rounds = (128 << 20) / text.len();
        let begun = cpu_time();
        for _ in 0..rounds {
            let mut framer = Framer::default();
            for piece in text.chunks(64 << 10) {
                framer.push(piece);
                while let Some(frame) = framer.next_frame() {
                    black_box(frame.is_ok());
                }
            }
        }
        let spent = (cpu_time() - begun).as_secs_f64();
        let rate = (rounds * text.len()) as f64 / spent / 1e6;
        println!(
            "framing: {} bytes at {rate:.0} MB/s (wanted: 500)",
            text.len()
        );
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

async fn mock() -> (Client, qmp::mock::Control) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let control =
        Monitor::new().otherwise(|_| Answer::value(json!({"running": true}))).spawn(theirs);
    (
        Client::from_stream(ours, Options::default()).await.expect("a session"),
        control,
    )
}

fn round_trip(c: &mut Criterion) {
    let runtime = runtime();
    let (client, _control) = runtime.block_on(mock());
    c.bench_function("round trip/mock", |b| {
        b.to_async(&runtime).iter(|| async { client.execute("query-status", ()).await });
    });
}

/// All of `count` events to 4 subscribers, everything on one thread.
async fn fan_out(count: usize) -> Duration {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let control = Monitor::new().spawn(theirs);
    let options = Options::default().event_capacity(count).transcript_lines(0);
    let client = Client::from_stream(ours, options).await.expect("a session");
    let streams: Vec<_> = (0..4).map(|_| client.subscribe(Matcher::any())).collect();
    let line = "{\"timestamp\": {\"seconds\": 1700000000, \"microseconds\": 123456}, \"event\": \"JOB_STATUS_CHANGE\", \"data\": {\"status\": \"running\", \"id\": \"job0\"}}\r\n";
    let begun = Instant::now();
    let readers: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            tokio::spawn(async move {
                for _ in 0..count {
                    stream.recv().await.expect("an event");
                }
            })
        })
        .collect();
    control.raw(line.repeat(count));
    for reader in readers {
        reader.await.expect("a reader");
    }
    begun.elapsed()
}

fn events(c: &mut Criterion) {
    const COUNT: usize = 20_000;
    let runtime = runtime();
    let mut group = c.benchmark_group("events");
    group.throughput(Throughput::Elements(COUNT as u64));
    group.sample_size(10);
    group.bench_function("to 4 subscribers", |b| {
        b.iter_custom(|rounds| (0..rounds).map(|_| runtime.block_on(fan_out(COUNT))).sum());
    });
    group.finish();
}

/// A storage daemon with a monitor on a socket pair.
struct Daemon(Child);

impl Daemon {
    fn start() -> Option<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair().ok()?;
        let child = Command::new("qemu-storage-daemon")
            .args(["--chardev", "socket,id=m,fd=0", "--monitor", "chardev=m"])
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        Some((Self(child), ours))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The least that a program could do: write a line, read a line.
struct Bare {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    line: String,
}

impl Bare {
    fn new(socket: UnixStream) -> Self {
        let writer = socket.try_clone().expect("a second descriptor");
        let mut bare = Self {
            reader: BufReader::new(socket),
            writer,
            line: String::new(),
        };
        bare.read();
        bare.round_trip("{\"execute\":\"qmp_capabilities\"}\n");
        bare
    }

    fn read(&mut self) {
        self.line.clear();
        self.reader.read_line(&mut self.line).expect("a line");
    }

    fn round_trip(&mut self, command: &str) -> Duration {
        let begun = Instant::now();
        self.writer.write_all(command.as_bytes()).expect("written");
        self.read();
        begun.elapsed()
    }
}

fn percentiles(times: &mut [Duration]) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

/// Compares in one run, in turns.
fn ratios() {
    framing_rates();
    let runtime = runtime();
    let mut times: Vec<Duration> = runtime.block_on(async {
        let (client, _control) = mock().await;
        let mut times = Vec::new();
        for _ in 0..50_000 {
            let begun = Instant::now();
            client.execute("query-status", ()).await.expect("a reply");
            times.push(begun.elapsed());
        }
        times
    });
    let (median, p99) = percentiles(&mut times);
    println!("mock: median {median:?}, p99 {p99:?} (wanted: p99 below 20 us)");

    let count = 100_000;
    let begun = cpu_time();
    let took = runtime.block_on(fan_out(count));
    println!(
        "events: {count} to 4 subscribers on one thread in {took:?}, {:?} of processor time \
         (wanted: 1 s)",
        cpu_time() - begun
    );

    let (Some((_a, first)), Some((_b, second))) = (Daemon::start(), Daemon::start()) else {
        println!("skipped: no qemu-storage-daemon on PATH");
        return;
    };
    let mut bare = Bare::new(first);
    let client = runtime.block_on(Client::from_fd(second, Options::default())).expect("a session");
    for command in ["query-version", "query-jobs", "query-commands"] {
        let without = format!("{{\"execute\":\"{command}\"}}\n");
        let with = format!("{{\"execute\":\"{command}\",\"id\":\"ab0\"}}\n");
        let (mut none, mut same, mut ours) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..200 {
            none.extend((0..20).map(|_| bare.round_trip(&without)));
            same.extend((0..20).map(|_| bare.round_trip(&with)));
            runtime.block_on(async {
                for _ in 0..20 {
                    let begun = Instant::now();
                    client.execute(command, ()).raw().await.expect("a reply");
                    ours.push(begun.elapsed());
                }
            });
        }
        let (none, same, ours) = (
            percentiles(&mut none).0,
            percentiles(&mut same).0,
            percentiles(&mut ours).0,
        );
        println!(
            "{command}: median {ours:?}; bare loop {none:?} without id, ratio {:.2}; \
             {same:?} with id, ratio {:.2} (wanted: 1.10)",
            ours.as_secs_f64() / none.as_secs_f64(),
            ours.as_secs_f64() / same.as_secs_f64(),
        );
    }
}

fn main() {
    ratios();
    let mut criterion = Criterion::default().configure_from_args();
    framing(&mut criterion);
    round_trip(&mut criterion);
    events(&mut criterion);
    criterion.final_summary();
}
