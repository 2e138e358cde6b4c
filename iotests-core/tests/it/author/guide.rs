//! What the guide and the README show is a part of this file, and is run here.

use iotests_core::author::assert::AssertJson;
use iotests_core::case::{Backend, Registry};
use iotests_core::prelude::*;

use super::bench::{Bench, case, hosts, sets};

/// Committing moves the data down and leaves the layers above alone.
#[case(upstream = "040", formats = [QCOW2, QED], groups = [RW, QUICK, JOB], host = Any)]
async fn commit_moves_the_data_down(t: &mut Test) -> CaseResult {
    let base = t.image("base").size(MIB).fill(0x11).create().await?;
    let mid = t.image("mid").backing(&base).write(0x22, 0..64 * KIB).create().await?;
    let top = t.image("top").backing(&mid).create().await?;
    let vm = t.host().disk(&top).launch().await?;

    vm.commit(&top).top(&mid).base(&base).start().await?.wait().await?;

    vm.assert_chain("top -> base").await?;
    vm.shutdown().await?;
    base.assert_pattern(0x22, 0..64 * KIB).await?;
    base.assert_pattern(0x11, 64 * KIB..MIB).await
}

#[test]
fn the_first_case_of_the_guide_passes() {
    for (set, backend) in hosts() {
        let run =
            Bench::new(&set).backend(backend).run(|t| Box::pin(commit_moves_the_data_down(t)));
        run.assert_passed();
    }
}

#[test]
fn expectations_are_said_on_the_thing_itself() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let disk = t.image("disk").size(MIB).create().await?;
            let null = json!({"driver": "null-co", "node-name": "a", "size": MIB});
            let full = json!({
                "driver": "blkdebug", "node-name": "full",
                "image": {"driver": "null-co", "size": MIB},
                "inject-error": [{"event": "none", "iotype": "write", "errno": 28, "once": false}],
            });
            let vm = t.host().blockdev(null).blockdev(full).launch().await?;
            vm.cmd("blockdev-add", json!({"driver": "nonsense"})).expect_error("nonsense").await?;
            vm.commit("nowhere").refused_class("DeviceNotFound", "nowhere").await?; // and nothing has changed
            vm.backup("a").to("full").start().await?.wait().expect_error("No space left").await?;
            t.qemu_img(["info", "/nowhere"]).expect_status(1).await?;
            let other = t.host().disk(&disk).tolerate("Failed to connect").launch().await?;
            other.shutdown().await?;
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}

const PATTERNS: Content = Content::of(&[(0x5d, 0..64 * KIB), (0xd5, MIB..MIB + 64 * KIB)]);

#[test]
fn the_whole_content_is_checked() {
    for set in sets() {
        let run = Bench::new(&set).run(case!(|t| {
            let base = t.image("base").size(4 * MIB).content(&PATTERNS).create().await?;
            let top = t.image("top").backing(&base).create().await?;
            let own = Content::nothing().written(0x33, clusters(1..3)).zeroes(clusters(8..9));
            top.write_all(&own).await?;
            top.assert_reads(own.over(&PATTERNS)).await?; // all of it, from start to end
            top.assert_layer(&own).await?; // this layer alone: its data and its allocation
            top.assert_backing(&base).await?; // what the header records
        }));
        run.assert_passed();
    }
}

#[test]
fn facts_are_asserted_with_a_path() {
    for (set, backend) in hosts() {
        if backend != Backend::System {
            continue;
        }
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let image = t.image("disk").size(MIB).option("lazy_refcounts", "on");
            let disk = image.create().await?;
            let info = disk.info().json().await?;
            let null = json!({"driver": "null-co", "node-name": "b", "size": MIB});
            let vm = t.vm().disk(&disk).blockdev(null).launch().await?;
            let blocks = vm.cmd("query-block", ()).await?;
            let job = vm.mirror(&disk).to("b").start().await?;
            let event = vm.event("BLOCK_JOB_READY").await?;
            info.assert("format-specific/data/lazy-refcounts", true)?;
            info.assert("format", any_of(["qcow2", "raw"]))?;
            info.assert_absent("backing-filename")?;
            blocks
                .find(&json!({"inserted": {"node-name": "disk"}}))?
                .assert("inserted/ro", false)?;
            event.assert_includes(&json!({"data": {"type": "mirror"}}))?;
            let header = imgtools::qcow2::Image::open(disk.file())?.header().clone();
            let file = std::fs::metadata(disk.file())?;
            check!(disk.size().await? == MIB);
            check!(
                header.incompatible_features == 0,
                "nobody has the image open"
            );
            check!(file.len() < MIB, "the file has {} bytes", file.len());
            job.complete().await?;
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}

mod smaller {
    //! Making images smaller.

    use iotests_core::prelude::*;

    defaults! { formats = [QCOW2], groups = [RW] }

    struct Shrink {
        cluster_size: u64,
    }

    rows! {
        SHRINKS: Shrink { cluster_size };
        "512-byte-clusters" => 512, upstream = "163::TestShrink512::test_empty_image";
        "64k-clusters" => 64 * KIB, needs = [Zstd];
    }

    /// A smaller image keeps the data below its new end.
    #[case(rows = SHRINKS)]
    async fn keeps_the_data(t: &mut Test, shrink: &Shrink) -> CaseResult {
        let image = t.image("disk").size(MIB).fill(1);
        let image = image.option("cluster_size", shrink.cluster_size).create().await?;
        image.shrink(64 * KIB).await?;
        image.assert_fill(1).await
    }

    rows! {
        SIZES: u64;
        "full" => MIB, upstream = "TestSingleDrive";
        "empty" => 0, upstream = "TestActiveZeroLengthImage";
    }

    rows! {
        TOPS: &str;
        "unknown-top" => "badfile", upstream = "test_top_invalid";
        "no-top" => "";
    }

    /// A commit from an image that is not in the chain is refused.
    #[case(
        upstream = "040::{size}::{top}", host = Any, rows = (SIZES, TOPS),
        excluded = [exclude(&["empty", "no-top"], "there is nothing to commit")]
    )]
    async fn is_refused(t: &mut Test, size: &u64, top: &&str) -> CaseResult {
        let disk = t.image("disk").size(*size).create().await?;
        let vm = t.host().disk(&disk).launch().await?;
        vm.commit(&disk).set("top", *top).expect_error("not found").await?;
        vm.shutdown().await?;
        Ok(())
    }
}

/// The rows of a case of this file, each run by itself.
fn run_rows(function: &str, bench: &dyn Fn() -> Bench) -> Vec<String> {
    let registry = Registry::get().unwrap_or_else(|problems| panic!("{problems}"));
    let mut names = Vec::new();
    for entry in registry.entries() {
        if entry.case.function == function {
            bench().run(|t| entry.call(t)).assert_passed();
            names.extend(entry.row.clone());
        }
    }
    names
}

#[test]
fn each_row_of_the_family_passes() {
    for set in sets() {
        let names = run_rows("keeps_the_data", &|| Bench::new(&set));
        assert_eq!(names, ["512-byte-clusters", "64k-clusters"]);
    }
}

#[test]
fn each_combination_of_the_tables_passes_but_the_excluded_one() {
    for (set, backend) in hosts() {
        let names = run_rows("is_refused", &|| Bench::new(&set).backend(backend));
        assert_eq!(
            names,
            ["full-unknown-top", "full-no-top", "empty-unknown-top"]
        );
    }
}

async fn logs(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(MIB).create().await?;
    let reply = disk.map().json().await?;
    t.log("=== map ===");
    t.log(t.qemu_img(["map", disk.filename()]).await?);
    t.log(Entry::from(reply).indent(2));
    t.golden()
}

#[test]
fn what_is_logged_is_compared() {
    for set in sets() {
        let run = Bench::new(&set).run(|t| Box::pin(logs(t)));
        assert!(run.log().starts_with("=== map ===\n"), "{}", run.log());
        assert!(run.failure().message.contains("no golden"));
    }
}

/// Not run: these wait for what nothing here does.
async fn waits(vm: &Machine, mut job: Job) -> CaseResult {
    vm.event(Matcher::event("BLOCK_IO_ERROR").data(json!({"node-name": "disk"}))).await?;
    job.wait_ready().await?;
    job.pause().await?; // until it really rests
    vm.wait_run_state("postmigrate").await?;
    vm.assert_no_event("STOP").await?; // until the machine has answered
    job.leave();
    Ok(())
}

/// Not run: it would depend on what is there.
async fn needs(t: &Test, vm: &Machine, driver: &'static str) -> CaseResult {
    t.require(Driver(driver))?; // skips, with the reason
    if t.has(Command("blockdev-set-active"))? {
        vm.cmd("blockdev-set-active", json!({"active": false})).await?;
    }
    t.skip("the file system has no holes")?; // ends the case
    t.not_run("no holes to be punched here"); // a part is left out, and the case goes on
    Ok(())
}

/// Not run: it wants a machine of its own.
async fn qmp_alone() -> Result<(), qmp::Error> {
    use qmp::types::{BlockdevMirror, MirrorSyncMode};

    let client = qmp::Client::connect_unix("/run/vm.qmp", qmp::Options::default()).await?;
    println!("QEMU {}", client.greeting().version);

    let nodes = client.execute("query-named-block-nodes", json!({"flat": true})).await?;

    let mut job = client.job("copy");
    client
        .call(BlockdevMirror::new("src", "dst", MirrorSyncMode::Full).job_id("copy"))
        .await?;
    job.wait_ready().await?;

    client.quit().await?;
    drop(nodes);
    Ok(())
}

#[test]
fn requests_are_held() {
    let _ = (waits, needs, qmp_alone);
    for (set, backend) in hosts() {
        if backend != Backend::System {
            continue;
        }
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let disk = t.image("disk").size(MIB).create().await?;
            let vm = t.vm().disk(Disk::of(&disk).with_breakpoints()).launch().await?;
            let held = vm.disk(&disk).hold("write_aio").await?;
            vm.disk(&disk).io("aio_write 0 64k").await?;
            held.resume().await?;
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}

#[test]
fn a_server_crashes_and_comes_back() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let source = t.image("source").size(4 * MIB).fill(7).create().await?;
            // A killed server of another format loses what it has not flushed, and may.
            let target = t.image("target").format(RAW).size(4 * MIB);
            let target = target.create().await?;
            let server = t.nbd_server(&target).start().await?;
            let mut remote = json!({"driver": "raw", "node-name": "remote", "file": server.node()});
            remote["file"]["reconnect-delay"] = 60.into();
            let vm = t.host().disk(&source).blockdev(remote).launch().await?;
            // So slow that it cannot end before, however busy the machine is.
            let job = vm.backup(&source).to("remote").speed(64 * KIB).start().await?;
            let server = server.kill().await?.start().await?; // crashes, and comes back at the same address
            job.set_speed(0).await?;
            job.wait().await?;
            vm.shutdown().await?;
            server.stop().await?;
            target.assert_same_as(&source).await?;
        }));
        run.assert_passed();
    }
}

#[test]
fn a_guest_is_migrated() {
    for (set, backend) in hosts() {
        if backend != Backend::System {
            continue;
        }
        let mut bench = Bench::new(&set).backend(backend);
        bench.spec.guest = Guest::RunningIdle;
        let run = bench.run(case!(|t| {
            let disk = t.image("disk").size(MIB).create().await?;
            let source = t.vm().name("source").disk(&disk).launch().await?;
            let target = t.vm().name("target").disk(&disk).incoming("defer").launch().await?;
            t.migrate(&source, &target).capability("dirty-bitmaps").await?;
            source.shutdown().await?;
            target.shutdown().await?;
        }));
        run.assert_passed();
    }
}

/// The tables of the guide name no call that does not exist.
#[test]
fn each_call_in_the_tables_of_the_guide_is_one_of_the_api() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = walkdir::WalkDir::new(root.join("src/author")).into_iter();
    let sources: String = files
        .map(|file| file.unwrap().into_path())
        .filter(|path| path.is_file())
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    let guide = std::fs::read_to_string(root.join("../docs/writing-a-case.md")).unwrap();
    let call = regex::Regex::new(r"[.:]([a-z_]+)[(`]").unwrap();
    let mut seen = 0;
    for line in guide.lines().filter(|line| line.starts_with('|')) {
        for found in call.captures_iter(line) {
            let function = format!("fn {}", &found[1]);
            let is_there =
                ["(", "<"].iter().any(|end| sources.contains(&format!("{function}{end}")));
            // Of qemu-img's calls, the options are those of `imgtools`.
            assert!(is_there || &found[1] == "force_share", "{function}: {line}");
            seen += 1;
        }
    }
    assert!(seen > 80, "only {seen} calls");
}

/// Code without what a formatter decides about: white space, and the comma after the last of several
/// things; without comments behind code as well.
pub(super) fn plain(code: &str) -> String {
    let code = code.lines().map(|line| match line.split_once(" // ") {
        Some((code, _)) => code,
        None => line,
    });
    let dense: String = code.flat_map(str::chars).filter(|c| !c.is_whitespace()).collect();
    [",)", ",]", ",}"].iter().fold(dense, |dense, end| dense.replace(end, &end[1..]))
}

/// The blocks of Rust in a text of Markdown.
pub(super) fn blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while lines.by_ref().any(|line| line == "```rust") {
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        blocks.push(block.join("\n"));
    }
    blocks
}

#[test]
fn all_that_the_guide_and_the_readme_show_is_a_part_of_this_file() {
    let here = plain(include_str!("guide.rs"));
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (file, least) in [("README.md", 2), ("docs/writing-a-case.md", 8)] {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        let blocks = blocks(&text);
        assert!(blocks.len() >= least, "{file} shows {}", blocks.len());
        for block in blocks {
            assert!(
                here.contains(&plain(&block)),
                "{file} shows what no test does:\n{block}"
            );
        }
    }
}
