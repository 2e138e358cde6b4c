//! What an NBD server reports of the allocation of an image.

use std::ops::Range;

use iotests_core::prelude::*;
use nbd::client::MapEntry;
use nbd::proto::{BaseAllocation, CommandFlags};

use super::allocation_client;
use crate::json::items;

defaults! { formats = [QCOW2], groups = [QUICK] }

/// A client of qemu-nbd sees which half of an image has data.
#[case(upstream = "209", needs = [Tool(ToolKind::Nbd)])]
async fn qemu_nbd_tells_data_from_holes(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(MIB).write(0xcd, 0..512 * KIB).create().await?;
    let server = t.nbd_server(&disk).export("exp").start().await?;
    assert_first_half_has_data(t, &server.uri()).await
}

/// A client of a machine's NBD server sees which half of an image has data.
#[case(upstream = "209", groups = [EXPORT], host = Any)]
async fn a_machine_tells_data_from_holes(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(MIB).write(0xcd, 0..512 * KIB).create().await?;
    let vm = t.host().disk(&disk).launch().await?;
    let export = vm.export(&disk).await?;
    assert_first_half_has_data(t, &export.uri()?).await?;
    vm.shutdown().await?;
    Ok(())
}

/// Holes of a file are holes to a client.
#[case(formats = [RAW], needs = [Tool(ToolKind::Nbd)])]
async fn holes_of_a_file_are_holes(t: &mut Test) -> CaseResult {
    let data = 256 * KIB..512 * KIB;
    let disk = t.image("disk").size(MIB).write(0xcd, data.clone()).create().await?;
    let server = t.nbd_server(&disk).export("exp").start().await?;
    let client = allocation_client(&server.uri()).await?;
    assert_reported(&client, &[data]).await?;
    client.disconnect().await?;
    Ok(())
}

/// Clusters of zeroes take no space in the file, and so are holes to a client like any other; all of
/// an image is reported in one answer, or one piece to a client that wants no more.
#[case(needs = [Tool(ToolKind::Nbd)])]
async fn written_zeroes_are_holes(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0xcd).create().await?;
    t.qemu_io(["-c", "write -z -u 256k 512k", disk.filename()]).await?;
    let server = t.nbd_server(&disk).export("exp").start().await?;
    let client = allocation_client(&server.uri()).await?;
    let (first, second) = (256 * KIB, 768 * KIB);
    assert_reported(&client, &[0..first, second..MIB]).await?;
    for (flags, pieces) in [(CommandFlags::empty(), 3), (CommandFlags::REQ_ONE, 1)] {
        let reported = client.block_status_with(0, MIB, flags).await?;
        let reported: Vec<_> = reported.iter().flat_map(|reported| &reported.extents).collect();
        check!(reported.len() == pieces, "with {flags:?}: {reported:?}");
    }
    client.disconnect().await?;
    Ok(())
}

/// How it is asked.
struct Asked {
    contexts: &'static [&'static str],
    again: &'static [&'static str],
}

const ALLOCATION: &str = "base:allocation";
const DEPTH: &str = "qemu:allocation-depth";

rows! {
    /// One client after another, and what each of them asks for.
    ASKED: Asked { contexts, again };
    "depth-and-allocation" => &[DEPTH], &[ALLOCATION];
    "allocation-and-depth" => &[ALLOCATION], &[DEPTH];
    "both-at-once" => &[DEPTH, ALLOCATION], &[ALLOCATION, DEPTH];
}

rows! {
    /// Who serves it, and whether it is the file itself.
    SERVERS: Option<bool>;
    "of-the-image" => Some(false), host = Any;
    "of-the-file" => Some(true), host = Any;
    "of-qemu-nbd" => None, needs = [Tool(ToolKind::Nbd)];
}

/// Where there is data, and where there are holes, is reported the same whatever was asked before, and what is
/// written is reported from then on.
#[case(formats = [RAW], rows = (ASKED, SERVERS))]
async fn holes_stay_holes_whatever_is_asked(
    t: &mut Test,
    asked: &Asked,
    server: &Option<bool>,
) -> CaseResult {
    let disk = t.image("disk").size(MIB);
    let disk = disk
        .write(0xcd, CLUSTER..2 * CLUSTER)
        .write(0xcd, 512 * KIB..640 * KIB)
        .create()
        .await?;
    let mut data = vec![CLUSTER..2 * CLUSTER, 512 * KIB..640 * KIB];
    let (vm, nbd, uri);
    match server {
        Some(of_the_file) => {
            let node = match of_the_file {
                true => disk.protocol_node().node_name("disk"),
                false => disk.node(),
            };
            let launched = t.host().blockdev(node).launch().await?;
            let export = launched.export("disk").writable().set("allocation-depth", true).await?;
            (uri, vm, nbd) = (export.uri()?, Some(launched), None);
        }
        None => {
            let server = t.nbd_server(&disk).export("disk").arg("--allocation-depth");
            let server = server.start().await?;
            (uri, vm, nbd) = (server.uri(), None, Some(server));
        }
    }
    let uri = uri.parse()?;
    for written in [256 * KIB..320 * KIB, 0..0] {
        for contexts in [asked.contexts, asked.again, asked.contexts] {
            let client = nbd::Client::builder().contexts(contexts.iter().copied());
            let client = client.connect_uri(&uri).await?;
            let maps = client.maps(0..MIB).await?;
            check!(maps.len() == contexts.len());
            for (context, map) in maps {
                check!(map.last().map(MapEntry::end) == Some(MIB));
                match &*context {
                    ALLOCATION => check!(with_data(&map) == data, "{map:x?}"),
                    _ => check!(map.iter().all(|piece| piece.status == 1), "{map:x?}"),
                }
            }
            client.disconnect().await?;
        }
        if !written.is_empty() {
            let client = nbd::Client::builder().connect_uri(&uri).await?;
            client.write(written.start, vec![0xcd; CLUSTER as usize]).await?;
            client.disconnect().await?;
            data.insert(1, written);
        }
    }
    if let Some(vm) = vm {
        vm.shutdown().await?;
    }
    drop(nbd);
    Ok(())
}

/// Where data is reported.
fn with_data(map: &[MapEntry]) -> Vec<Range<u64>> {
    let data = map.iter().filter(|piece| piece.base().is_empty());
    data.map(|piece| piece.offset..piece.end()).collect()
}

/// A client sees data in these parts and in no other; it reads that, and zeroes
/// elsewhere.
async fn assert_reported(client: &nbd::Client, data: &[Range<u64>]) -> CaseResult {
    let reported = client.map("base:allocation", 0..MIB).await?;
    let reported: Vec<_> =
        reported.iter().map(|piece| (piece.offset..piece.end(), piece.base())).collect();
    let (mut expected, mut end) = (Vec::new(), 0);
    let mut bytes = vec![0; MIB as usize];
    let hole = BaseAllocation::HOLE | BaseAllocation::ZERO;
    for part in data {
        expected.push((end..part.start, hole));
        expected.push((part.clone(), BaseAllocation::empty()));
        bytes[part.start as usize..part.end as usize].fill(0xcd);
        end = part.end;
    }
    expected.push((end..MIB, hole));
    expected.retain(|(part, _)| !part.is_empty());
    check!(reported == expected);
    // With holes in the middle, an answer comes in pieces.
    let read = client.read(0, MIB).await?;
    check!(read.iter().eq(&bytes), "a client reads something else");
    Ok(())
}

/// Says so to `qemu-img map`, whose text is the golden, and to a client that asks for itself.
async fn assert_first_half_has_data(t: &Test, uri: &str) -> CaseResult {
    let map = t.qemu_img(["map", "-f", "raw", "--output=json", uri]).json().await?;
    for extent in items(&map, "")? {
        // What newer versions report as well is not under test.
        let reported = [
            "start", "length", "depth", "present", "zero", "data", "offset",
        ];
        let reported: Value = reported.into_iter().map(|key| (key, extent[key].clone())).collect();
        t.log(Entry::from(reported).ordered());
    }
    let client = allocation_client(uri).await?;
    assert_reported(&client, std::slice::from_ref(&(0..512 * KIB))).await?;
    client.disconnect().await?;
    t.golden()
}
