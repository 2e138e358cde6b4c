//! Our client against the real servers, in every mode they speak.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use nbd::client::{Feature, HandshakeError, MapEntry, Pattern, StrictMode};
use nbd::proto::{CommandFlags, Errno, Mode, TransmissionFlags};
use nbd::{Client, QemuNbd, Uri};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Tools, all_tools, block_on, img, short_dir};

const MIB: u64 = 1 << 20;

/// A server of either kind, alive as long as this is.
struct Real {
    uri: Uri,
    _process: Box<dyn std::any::Any + Send + Sync>,
}

impl Real {
    fn new(uri: Uri, process: impl std::any::Any + Send + Sync) -> Real {
        Real {
            uri,
            _process: Box::new(process),
        }
    }
}

async fn both(tools: &Tools, dir: &TempDir, image: &str, bitmap: bool) -> Vec<Real> {
    let mut nbd =
        QemuNbd::new(tools.nbd.clone()).format("qcow2").export_name("e").allocation_depth();
    if bitmap {
        nbd = nbd.bitmap("b0").read_only();
    }
    let mut servers = Vec::new();
    if let Some(qsd) = &tools.qsd {
        let path = dir.path().join("qsd");
        let listener = UnixListener::bind(&path).unwrap();
        let access = if bitmap { "on" } else { "off" };
        let export = "nbd,id=x,node-name=q,name=e,allocation-depth=on";
        let mut export = format!("{export},writable={}", if bitmap { "off" } else { "on" });
        if bitmap {
            export += ",bitmaps.0=b0";
        }
        let command = qsd
            .command()
            .fd(OwnedFd::from(listener), 7)
            .args([
                "--blockdev".into(),
                format!("file,node-name=f,filename={image},read-only={access}"),
            ])
            .args([
                "--blockdev".into(),
                format!("qcow2,node-name=q,file=f,read-only={access}"),
            ])
            .args(["--nbd-server", "addr.type=fd,addr.str=7,max-connections=0"])
            .args(["--export", &export]);
        let child = command.spawn().unwrap();
        let server = Real::new(Uri::unix(path, "e"), child);
        // One writer at a time: the caller of a writable pair asks for them one by one.
        if !bitmap {
            return vec![server];
        }
        servers.push(server);
    }
    let server = nbd.serve_unix(image, dir.path().join("nbd")).await.unwrap();
    servers.push(Real::new(server.uri(), server));
    servers
}

async fn nbd_only(tools: &Tools, dir: &TempDir, image: &str) -> Real {
    let nbd = QemuNbd::new(tools.nbd.clone()).format("qcow2").export_name("e").allocation_depth();
    let server = nbd.serve_unix(image, dir.path().join("only")).await.unwrap();
    Real::new(server.uri(), server)
}

async fn exercise(uri: &Uri, mode: Mode) {
    let client = Client::builder()
        .mode(mode)
        .contexts(["base:allocation", "qemu:allocation-depth"])
        .not_strict(StrictMode::BOUNDS | StrictMode::COMMANDS)
        .connect_uri(uri)
        .await
        .unwrap();
    let export = client.export().clone();
    assert_eq!((export.mode, export.size), (mode, 4 * MIB));
    let word = mode as u8;
    client.write(0, vec![word; 70_000]).await.unwrap();
    client.write_with(MIB, vec![word; 512], CommandFlags::FUA).await.unwrap();
    client.write_zeroes(512, 1024, CommandFlags::NO_HOLE).await.unwrap();
    client.trim(2 * MIB, 65536).await.unwrap();
    client.flush().await.unwrap();
    if export.flags.contains(TransmissionFlags::SEND_CACHE) {
        client.cache(0, 4096).await.unwrap();
    }
    let data = client.read(0, 70_000).await.unwrap();
    assert!(data[..512].iter().all(|b| *b == word));
    assert!(data[512..1536].iter().all(|b| *b == 0));
    assert!(data[1536..].iter().all(|b| *b == word));
    // Structured replies report holes; the pieces must make up the whole all the same.
    let whole = client.read(0, 4 * MIB).await.unwrap();
    assert_eq!(&whole[..70_000], &data);
    if export.flags.contains(TransmissionFlags::SEND_DF) {
        assert_eq!(
            client.read_with(0, 65536, CommandFlags::DF, Vec::new()).await.unwrap(),
            data[..65536]
        );
    }
    let error = client.read(4 * MIB - 512, 1024).await.unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EINVAL), "{error}");
    if mode.has_chunks() {
        assert!(error.to_string().contains('('), "no text in {error}");
        let statuses = client.block_status(0, 4 * MIB).await.unwrap();
        assert_eq!(statuses.len(), 2);
    } else {
        assert!(export.contexts.is_empty());
    }
    if export.flags.contains(TransmissionFlags::BLOCK_STATUS_PAYLOAD) {
        let one = client.block_status_of(&["qemu:allocation-depth"], 0, 4 * MIB).await.unwrap();
        assert_eq!(
            (one.len(), one[0].context.as_str()),
            (1, "qemu:allocation-depth")
        );
    } else {
        assert_ne!(mode, Mode::Extended);
    }
    let reads = (0..64u64).map(|n| {
        let client = client.clone();
        tokio::spawn(async move { (n, client.read(n * 65536, 65536).await.unwrap()) })
    });
    for read in reads.collect::<Vec<_>>() {
        let (n, piece) = read.await.unwrap();
        assert_eq!(piece, whole[n as usize * 65536..][..65536]);
    }
    client.disconnect().await.unwrap();
}

#[test]
fn every_mode_that_a_real_server_speaks() {
    for tools in all_tools() {
        block_on(async {
            let dir = short_dir();
            let image = dir.path().join("q").to_str().unwrap().to_owned();
            img(&tools, ["create", "-q", "-f", "qcow2", &image, "4M"]).await;
            for which in 0..2 {
                let server = match which {
                    0 => both(&tools, &dir, &image, false).await.remove(0),
                    _ => nbd_only(&tools, &dir, &image).await,
                };
                for mode in Mode::ALL {
                    let spoken = match mode {
                        Mode::Oldstyle => false,
                        // Extended headers came with 8.2.
                        Mode::Extended => tools.major >= 9,
                        _ => true,
                    };
                    if spoken {
                        exercise(&server.uri, mode).await;
                        continue;
                    }
                    let error = Client::builder().mode(mode).connect_uri(&server.uri).await;
                    let Err(nbd::client::ConnectError::Handshake { source, .. }) = error else {
                        panic!("{mode} on {}", tools.name);
                    };
                    assert!(matches!(source, HandshakeError::Feature { .. }), "{source}");
                }
            }
        });
    }
}

#[test]
fn go_and_export_name_reach_the_same_export() {
    for tools in all_tools() {
        block_on(async {
            let dir = short_dir();
            let image = dir.path().join("q").to_str().unwrap().to_owned();
            img(&tools, ["create", "-q", "-f", "qcow2", &image, "4M"]).await;
            let server = nbd_only(&tools, &dir, &image).await;
            // A server that agreed on extended headers must not be asked for EXPORT_NAME.
            let plain = Client::builder().forbid(Feature::ExtendedHeaders);
            let by_name = plain.clone().forbid(Feature::Go).forbid(Feature::NoZeroes);
            let by_name = by_name.connect_uri(&server.uri).await.unwrap();
            let go = plain.require(Feature::Go).connect_uri(&server.uri).await.unwrap();
            assert_eq!(by_name.export().size, go.export().size);
            assert_eq!(by_name.export().flags, go.export().flags);
            assert!(go.export().block_sizes.is_some());
            assert!(by_name.export().block_sizes.is_none());
            let wrong = Client::builder().connect_uri(&server.uri.clone().with_export("no")).await;
            assert!(crate::support::chain(&wrong.unwrap_err()).contains("err-unknown"));
        });
    }
}

/// `qemu-img map` as (offset, length, …), equal neighbours joined as [`Client::map`] does.
async fn qemu_map(tools: &Tools, args: &[&str], status: impl Fn(&Value) -> u64) -> Vec<MapEntry> {
    let text = img(tools, [&["map", "--output=json"], args].concat()).await;
    let entries: Vec<Value> = serde_json::from_str(&text).unwrap();
    let mut map: Vec<MapEntry> = Vec::new();
    for e in entries {
        let (offset, len) = (e["start"].as_u64().unwrap(), e["length"].as_u64().unwrap());
        let status = status(&e);
        match map.last_mut() {
            Some(last) if last.status == status => last.len += len,
            _ => map.push(MapEntry {
                offset,
                len,
                status,
            }),
        }
    }
    map
}

/// A chain of 1 to 4 images with random data, zeroes and discards, and a bitmap in the top one.
async fn chain(tools: &Tools, dir: &TempDir, rng: &mut StdRng) -> (String, usize) {
    let depth = rng.random_range(1..=4);
    let cluster = ["512", "4k", "64k"][rng.random_range(0..3)];
    let mut below: Option<String> = None;
    for layer in 0..depth {
        let path = dir.path().join(format!("l{layer}")).to_str().unwrap().to_owned();
        let options = format!("cluster_size={cluster}");
        let mut args = vec!["create", "-q", "-f", "qcow2", "-o", &options];
        if let Some(below) = &below {
            args.extend(["-b", below, "-F", "qcow2"]);
        }
        args.extend([&*path, "4M"]);
        img(tools, args).await;
        if layer + 1 == depth {
            img(tools, ["bitmap", "--add", "-g", "64k", &*path, "b0"]).await;
        }
        let mut io = tools.io.command().args(["-f", "qcow2"]);
        for _ in 0..rng.random_range(1..8) {
            let at = rng.random_range(0..64u64) * 64;
            let len = rng.random_range(1..=(4096 - at).min(512));
            let command = match rng.random_range(0..4) {
                0 => format!("write -q -z {at}k {len}k"),
                1 => format!("discard -q {at}k {len}k"),
                _ => format!("write -q -P {} {at}k {len}k", rng.random_range(1..255)),
            };
            io = io.args(["-c", &command]);
        }
        io.arg(&path).run().await.unwrap().check().unwrap();
        below = Some(path);
    }
    (below.unwrap(), depth)
}

async fn compare_maps(tools: &Tools, server: &Real, image: &str, mode: Mode) {
    let uri = &server.uri;
    let names = [
        "base:allocation",
        "qemu:allocation-depth",
        "qemu:dirty-bitmap:b0",
    ];
    let client = Client::builder().mode(mode).require(Feature::MetaContexts).contexts(names);
    let client = client.connect_uri(uri).await.unwrap();
    let maps = client.maps(0..client.export().size).await.unwrap();
    let get = |name: &str| &maps.iter().find(|(n, _)| n == name).unwrap().1;
    let local = ["-f", "qcow2", image];
    // What qemu-img sees in the file itself.
    let allocation = qemu_map(tools, &local, |e| {
        let hole = !e["data"].as_bool().unwrap();
        u64::from(hole) | u64::from(e["zero"].as_bool().unwrap()) << 1
    });
    assert_eq!(
        *get("base:allocation"),
        allocation.await,
        "base:allocation of {image}"
    );
    let depth = qemu_map(tools, &local, |e| match e["present"].as_bool().unwrap() {
        true => e["depth"].as_u64().unwrap() + 1,
        false => 0,
    });
    assert_eq!(
        *get("qemu:allocation-depth"),
        depth.await,
        "depth of {image}"
    );
    // The bitmap is visible through QEMU's own client, where data=false means dirty.
    let opts = uri.to_image_opts().unwrap() + ",x-dirty-bitmap=qemu:dirty-bitmap:b0";
    let remote = ["--image-opts", &*opts];
    let dirty = qemu_map(tools, &remote, |e| u64::from(!e["data"].as_bool().unwrap()));
    assert_eq!(
        *get("qemu:dirty-bitmap:b0"),
        dirty.await,
        "bitmap of {image}"
    );
}

#[test]
fn block_status_is_what_qemu_img_map_says_on_fifty_random_chains() {
    let all = all_tools();
    let (all, seeds) = (std::sync::Arc::new(all), 0..50u64);
    if all.is_empty() {
        return;
    }
    block_on(async {
        let mut running = tokio::task::JoinSet::new();
        for seed in seeds {
            let all = all.clone();
            running.spawn(async move {
                let mut rng = StdRng::seed_from_u64(seed);
                let tools = &all[seed as usize % all.len()];
                let dir = short_dir();
                let (image, _) = chain(tools, &dir, &mut rng).await;
                for server in both(tools, &dir, &image, true).await {
                    compare_maps(tools, &server, &image, Mode::Structured).await;
                    if tools.major >= 9 {
                        compare_maps(tools, &server, &image, Mode::Extended).await;
                    }
                }
            });
            if running.len() >= 4 {
                running.join_next().await.unwrap().unwrap();
            }
        }
        while let Some(done) = running.join_next().await {
            done.unwrap();
        }
    });
}

#[test]
fn one_request_tells_of_a_hole_beyond_4_gib_in_extended_mode() {
    const SIZE: u64 = 16 << 30;
    for tools in all_tools() {
        block_on(async {
            let dir = short_dir();
            let image = dir.path().join("q").to_str().unwrap().to_owned();
            img(&tools, ["create", "-q", "-f", "qcow2", &image, "16G"]).await;
            let server = nbd_only(&tools, &dir, &image).await;
            for mode in [Mode::Structured, Mode::Extended] {
                if mode == Mode::Extended && tools.major < 9 {
                    // That it refuses is for another test.
                    continue;
                }
                let client = Client::builder().mode(mode).context("base:allocation");
                let client = client.connect_uri(&server.uri).await.unwrap();
                if mode == Mode::Extended {
                    let reply = client.block_status(0, SIZE).await.unwrap();
                    let lens = reply[0].extents.iter().map(|e| e.len);
                    assert_eq!(lens.collect::<Vec<_>>(), [SIZE]);
                }
                let map = client.map("base:allocation", 0..SIZE).await.unwrap();
                assert_eq!((map.len(), map[0].len), (1, SIZE), "{mode}");
                let zero = client.verify(0..SIZE, Pattern::Byte(0)).await.unwrap();
                assert_eq!(zero, None);
            }
        });
    }
}

#[test]
fn verify_and_compare_find_the_one_wrong_byte_and_skip_the_holes() {
    for tools in all_tools() {
        block_on(async {
            let dir = short_dir();
            let image = dir.path().join("raw").to_str().unwrap().to_owned();
            img(&tools, ["create", "-q", "-f", "raw", &image, "1T"]).await;
            let nbd = QemuNbd::new(tools.nbd.clone()).format("raw");
            let server = nbd.serve_unix(&image, dir.path().join("s")).await.unwrap();
            let client = Client::builder().context("base:allocation");
            let client = client.connect_uri(&server.uri()).await.unwrap();
            let mut data = vec![0; 1 << 20];
            Pattern::Offset(9).fill(5 * MIB, &mut data);
            client.write(5 * MIB, data).await.unwrap();
            let good = client.verify(5 * MIB..6 * MIB, Pattern::Offset(9)).await.unwrap();
            assert_eq!(good, None);
            let copy = dir.path().join("copy");
            img(
                &tools,
                [
                    "convert",
                    "-U",
                    "-f",
                    "raw",
                    "-O",
                    "raw",
                    &image,
                    copy.to_str().unwrap(),
                ],
            )
            .await;
            assert_eq!(client.compare(&copy).await.unwrap(), None);
            client.write(6 * MIB - 1, vec![0x55]).await.unwrap();
            let found = client.verify(5 * MIB..6 * MIB, Pattern::Offset(9)).await.unwrap().unwrap();
            assert_eq!((found.offset, found.found), (6 * MIB - 1, 0x55));
            assert_eq!(client.compare(&copy).await.unwrap(), Some(found));
            // A byte in a hole of the export, in the file only.
            client.write(6 * MIB - 1, vec![found.expected]).await.unwrap();
            let file = std::fs::File::options().write(true).open(&copy).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &[1], 1 << 39).unwrap();
            let found = client.compare(&copy).await.unwrap().unwrap();
            assert_eq!((found.offset, found.expected, found.found), (1 << 39, 1, 0));
        });
    }
}
