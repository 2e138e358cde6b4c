//! Ratios within one run: our client against `qemu-img bench`, our server against qemu-nbd and
//! nbdkit, both with TLS as well, and the fault layer armed but idle against none.
//!
//! Absolute numbers only describe the machine. A and B are run in turns, and the median of each is
//! compared: `cargo bench -p qemu-nbd --all-features`, or with words of titles behind `--` some
//! comparisons alone. Needs the tools of QEMU on PATH, and nbdkit for what is compared with it. On
//! a busy machine wall-clock time depends on the other load, so processor time is compared as well.

use std::time::{Duration, Instant};

use imgtools::process::Command;
use imgtools::tools::{Finder, Tool, ToolKind};
use nbd::client::ClientBuilder;
use nbd::proto::CommandType;
use nbd::qemu_nbd::QemuNbdServer;
use nbd::server::backend::{MemoryBackend, ZeroBackend};
use nbd::server::plan::{Action, FaultPlan, On, Rule};
use nbd::server::{Export, Server};
use nbd::tls::{ClientTls, ServerTls};
use nbd::uri::Address;
use nbd::{Client, QemuNbd, Uri};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use tempfile::TempDir;

type Failure = Box<dyn std::error::Error>;

const BLOCK: u64 = 256 * 1024;
const DEPTH: usize = 16;
const REQUESTS: u64 = 8 * 1024;
const SIZE: u64 = 1 << 30;
const ROUNDS: usize = 7;

fn main() -> Result<(), Failure> {
    // The test harness asks every target for its list of tests; there are none here.
    if std::env::args().any(|arg| arg == "--list" || arg == "--test") {
        return Ok(());
    }
    // One thread, as qemu-img and qemu-nbd have.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // And several, as nbdkit has.
    let threads =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(all(threads.handle()))
}

async fn all(threads: &tokio::runtime::Handle) -> Result<(), Failure> {
    let finder = Finder::new();
    let (img, nbd) = (finder.find(ToolKind::Img)?, finder.find(ToolKind::Nbd)?);
    let dir = tempfile::Builder::new().prefix("nbd").tempdir()?;
    let real = null_server(&nbd, &dir).await?;

    let uri = real.uri();
    // qemu-img reads all requests into one buffer, which stays in the cache of its processor; so do ours,
    // as each reply takes the buffer that was given back last.
    let ours = async || client_reads(&uri).await;
    let theirs = async || qemu_img_bench(&img, &uri).await;
    let what = "client / qemu-img bench, 256 KiB reads at depth 16";
    compare(what, 1.0, (Cpu::Own, ours), (Cpu::Children, theirs)).await?;

    let plain = zero_server(FaultPlan::new(), &dir, "plain")?;
    let plain_uri = plain.uri().ok_or("the server listens")?;
    let ours = async || qemu_img_bench(&img, &plain_uri).await;
    let theirs = async || qemu_img_bench(&img, &uri).await;
    let what = "server / qemu-nbd on null-co, read by qemu-img";
    compare(what, 1.0, (Cpu::Own, ours), (Cpu::Of(real.pid()), theirs)).await?;

    memory(&img, &dir, threads).await?;
    protected(&img, &nbd, &dir).await?;

    let armed = FaultPlan::new()
        .rule(Rule::new(On::reply(CommandType::TRIM), Action::Drop))
        .rule(Rule::new(On::request(CommandType::READ), Action::CLOSE).nth(u64::MAX))
        .rule(Rule::new(On::data(), Action::FlipBits(1)).connection(u64::MAX));
    let armed = zero_server(armed, &dir, "armed")?;
    let armed_uri = armed.uri().ok_or("the server listens")?;
    let ours = async || client_reads(&armed_uri).await;
    let theirs = async || client_reads(&plain_uri).await;
    let what = "armed but idle / no faults";
    compare(what, 0.95, (Cpu::Own, ours), (Cpu::Own, theirs)).await
}

/// Our memory against nbdkit's.
async fn memory(
    img: &Tool,
    dir: &TempDir,
    threads: &tokio::runtime::Handle,
) -> Result<(), Failure> {
    let what = "server / nbdkit, both from memory, read by qemu-img";
    if !is_wanted(what) {
        return Ok(());
    }
    let socket = dir.path().join("kit");
    let listener = std::os::unix::net::UnixListener::bind(&socket)?;
    let script = "LISTEN_PID=$$ LISTEN_FDS=1 exec nbdkit -f memory 1G";
    let kit = Command::new("/bin/sh").fd(listener, 3);
    let kit = kit.args(["-c", script]).spawn_async().await?;
    let theirs_uri = Uri::at(Address::Unix(socket), "");
    if Client::builder().connect_uri(&theirs_uri).await.is_err() {
        println!("skipped: nbdkit did not start: {:?}", kit.output());
        return Ok(());
    }
    let export = Export::new(MemoryBackend::new(SIZE));
    let server = Server::builder().export(export).journal_limit(0);
    let server = {
        let _inside = threads.enter();
        server.listen_unix(dir.path().join("memory"))?
    };
    let ours_uri = server.uri().ok_or("the server listens")?;
    for uri in [&ours_uri, &theirs_uri] {
        fill(uri).await?;
    }
    let ours = async || qemu_img_bench(img, &ours_uri).await;
    let theirs = async || qemu_img_bench(img, &theirs_uri).await;
    compare(what, 1.0, (Cpu::Own, ours), (Cpu::Of(kit.pid()), theirs)).await
}

/// Writes the whole export: memory that was never written costs nothing to read.
async fn fill(uri: &Uri) -> Result<(), Failure> {
    let client = Client::builder().connect_uri(uri).await?;
    let data = bytes::Bytes::from(vec![0x5a; 1 << 20]);
    for n in 0..SIZE >> 20 {
        client.write(n << 20, data.clone()).await?;
    }
    Ok(())
}

/// The same under TLS: rustls against GnuTLS. `qemu-img bench` takes no credentials, so it is
/// `qemu-img convert` that reads, with as many requests in flight. Both servers are read by our
/// client, on a thread of its own: qemu-img decrypts more slowly than either of them encrypts, and
/// would compare itself with itself.
async fn protected(img: &Tool, nbd: &Tool, dir: &TempDir) -> Result<(), Failure> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls");
    let name = "disks.example";
    let size = REQUESTS * BLOCK;
    let image = format!("driver=null-co,size={size},read-zeroes=off");
    let creds = format!("tls-creds-x509,id=tls0,endpoint=server,dir={folder},verify-peer=on");
    let real = QemuNbd::new(nbd.clone()).image_opts();
    let real = real.tls_creds("tls0").object(creds);
    let real = real.serve_unix(image, dir.path().join("real-tls")).await?;
    let theirs_uri = real.uri();

    let export = Export::new(ZeroBackend::new(size));
    let server = Server::builder().export(export).journal_limit(0);
    let server = server.tls(ServerTls::from_certificates(folder, true)?);
    let server = server.listen_unix(dir.path().join("tls"))?;
    let ours_uri = server.uri().ok_or("the server listens")?;

    let tls = ClientTls::from_certificates(folder, name)?;
    let bench = async |uri: &Uri| {
        let opts = uri.to_image_opts_with_tls("tls0").ok_or("a path for QEMU")?;
        let creds = format!("tls-creds-x509,id=tls0,endpoint=client,dir={folder}");
        let opts = format!("{opts},tls-hostname={name}");
        let target = format!("driver=null-co,size={size}");
        let depth = DEPTH.to_string();
        let command = img.command().args(["convert", "-n", "-W", "-m", &depth]);
        let command = command.args(["--object", &creds, "--image-opts", &opts]);
        let command = command.args(["--target-image-opts", &target]);
        let start = Instant::now();
        command.run().await?.check()?;
        Ok::<_, Failure>(start.elapsed())
    };
    let ours = async || reads_with(Client::builder().tls(tls.clone()), &theirs_uri).await;
    let theirs = async || bench(&theirs_uri).await;
    let what = "client / qemu-img convert, both with TLS from qemu-nbd";
    compare(what, 1.0, (Cpu::Own, ours), (Cpu::Children, theirs)).await?;
    let elsewhere = async |uri: &Uri| {
        let (builder, uri) = (Client::builder().tls(tls.clone()), uri.clone());
        let (done, result) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let read = runtime
                .map_err(Failure::from)
                .and_then(|runtime| runtime.block_on(reads_with(builder, &uri)));
            let _ = done.send(read.map_err(|error| error.to_string()));
        });
        Ok::<_, Failure>(result.await??)
    };
    let ours = async || elsewhere(&ours_uri).await;
    let theirs = async || elsewhere(&theirs_uri).await;
    let what = "server / qemu-nbd, both with TLS, read by our client";
    compare(
        what,
        1.0,
        (Cpu::Thread, ours),
        (Cpu::Of(real.pid()), theirs),
    )
    .await
}

/// Whether a comparison was asked for, by a word of its title.
fn is_wanted(what: &str) -> bool {
    let mut words = std::env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let all = words.next();
    all.is_none_or(|first| what.contains(&first) || words.any(|word| what.contains(&word)))
}

/// Whose processor time is compared.
#[derive(Clone, Copy)]
enum Cpu {
    /// That of this process.
    Own,
    /// That of this thread.
    Thread,
    /// That of programs which this process has waited for.
    Children,
    /// That of a program which still runs.
    Of(u32),
}

impl Cpu {
    /// Seconds that they have had.
    fn seconds(self) -> Result<f64, Failure> {
        let who = match self {
            Cpu::Own => UsageWho::RUSAGE_SELF,
            Cpu::Thread => UsageWho::RUSAGE_THREAD,
            Cpu::Children => UsageWho::RUSAGE_CHILDREN,
            Cpu::Of(pid) => {
                // In clock ticks, of threads that have ended as well.
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
                let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
                let ticks: Vec<f64> = fields.skip(11).take(2).flat_map(str::parse).collect();
                return Ok(ticks.iter().sum::<f64>() / 100.0);
            }
        };
        let usage = getrusage(who)?;
        let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        Ok(micros as f64 / 1e6)
    }
}

/// Runs A and B in turns and compares the medians of their speed, and of their processor time.
async fn compare(
    what: &str,
    wanted: f64,
    (cpu_of_a, a): (Cpu, impl AsyncFn() -> Result<Duration, Failure>),
    (cpu_of_b, b): (Cpu, impl AsyncFn() -> Result<Duration, Failure>),
) -> Result<(), Failure> {
    if !is_wanted(what) {
        return Ok(());
    }
    let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let before = cpu_of_a.seconds()?;
        of_a.push((a().await?.as_secs_f64(), cpu_of_a.seconds()? - before));
        let before = cpu_of_b.seconds()?;
        of_b.push((b().await?.as_secs_f64(), cpu_of_b.seconds()? - before));
    }
    let median = |of: &[(f64, f64)], which: fn(&(f64, f64)) -> f64| {
        let mut all: Vec<f64> = of.iter().map(which).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let passed = median(&of_a, |turn| turn.0);
    let speed = (REQUESTS * BLOCK) as f64 / passed / (1 << 30) as f64;
    let ratio = median(&of_b, |turn| turn.0) / passed;
    let cpu = median(&of_b, |turn| turn.1) / median(&of_a, |turn| turn.1);
    let verdict = if ratio >= wanted { "ok" } else { "MISSED" };
    println!(
        "{what}: {ratio:.2} (wanted {wanted:.2}, {verdict}); by processor time {cpu:.2}; {speed:.2} GiB/s"
    );
    Ok(())
}

async fn null_server(nbd: &Tool, dir: &TempDir) -> Result<QemuNbdServer, Failure> {
    let image = format!("driver=null-co,size={SIZE},read-zeroes=off");
    let nbd = QemuNbd::new(nbd.clone()).image_opts();
    Ok(nbd.serve_unix(image, dir.path().join("real")).await?)
}

fn zero_server(plan: FaultPlan, dir: &TempDir, name: &str) -> Result<Server, Failure> {
    let export = Export::new(ZeroBackend::new(SIZE));
    let server = Server::builder().export(export).plan(plan);
    Ok(server.listen_unix(dir.path().join(name))?)
}

async fn qemu_img_bench(img: &Tool, uri: &Uri) -> Result<Duration, Failure> {
    let (count, size, depth) = (REQUESTS.to_string(), BLOCK.to_string(), DEPTH.to_string());
    let command = img.command().args(["bench", "-t", "none"]);
    let command = command.args(["-c", &count, "-s", &size, "-d", &depth]);
    let command = command.args(["-f", "raw", &uri.to_string()]);
    let text = command.run().await?.check()?.stdout_text().into_owned();
    let seconds = text.split("completed in ").nth(1).and_then(|t| t.split(' ').next());
    Ok(Duration::from_secs_f64(
        seconds.ok_or("no time in the output")?.parse()?,
    ))
}

async fn client_reads(uri: &Uri) -> Result<Duration, Failure> {
    reads_with(Client::builder(), uri).await
}

async fn reads_with(builder: ClientBuilder, uri: &Uri) -> Result<Duration, Failure> {
    let client = builder.connect_uri(uri).await?;
    let start = Instant::now();
    let workers = (0..DEPTH as u64).map(|worker| {
        let client = client.clone();
        tokio::spawn(async move {
            let mut buffer = Vec::new();
            for n in (worker..REQUESTS).step_by(DEPTH) {
                buffer = client.read_into(n * BLOCK % SIZE, BLOCK, buffer).await?;
            }
            Ok::<_, nbd::client::RequestError>(())
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await??;
    }
    Ok(start.elapsed())
}
