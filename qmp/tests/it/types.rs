//! The typed layer: its facts checked against live schemas, and openness to unknown values.

use qmp::types::{
    BlockInfo, BlockJobCompleted, BlockdevAdd, BlockdevOptions, BlockdevOptionsFile,
    BlockdevOptionsQcow2, BlockdevOptionsVariant, BlockdevRef, EventData, JobStatus,
    JobStatusChange, QueryJobs, QueryNamedBlockNodes, SocketAddress, TransactionAction, TypedEvent,
};
use qmp::{Event, Version};
use serde_json::{Value, json};

use crate::facts_check::{check, facts};
use crate::qemu::{self, Qemu};

async fn expect_agreement(qemu: &mut Qemu) {
    let client = qemu.client().await;
    let schema = client.execute("query-qmp-schema", ()).await.unwrap();
    let found = check(&facts(), &schema, &client.greeting().version);
    let report = found.join("\n");
    assert!(found.is_empty(), "{}:\n{report}", client.greeting().version);
}

#[tokio::test]
async fn every_name_type_and_member_agrees_with_the_schema_of_every_storage_daemon() {
    for program in qemu::all("qemu-storage-daemon") {
        expect_agreement(&mut Qemu::storage_daemon(&program)).await;
    }
}

#[tokio::test]
async fn every_name_type_and_member_agrees_with_the_schema_of_every_emulator() {
    for program in qemu::all("qemu-system-x86_64") {
        expect_agreement(&mut Qemu::emulator(&program)).await;
    }
}

#[test]
fn the_readme_counts_commands_and_events_by_version() {
    let facts = facts();
    let readme = include_str!("../../README.md");
    for release in [(6, 2), (7, 2), (8, 2), (9, 2), (10, 0), (10, 2), (11, 1)] {
        let count = |kind| {
            let definitions = facts.definitions.iter().filter(|d| d.kind == kind);
            definitions.filter(|d| d.range.holds(release)).count()
        };
        let (commands, events) = (
            count(crate::facts_check::Kind::Command),
            count(crate::facts_check::Kind::Event),
        );
        let line = format!("| {}.{} | {commands} | {events} |", release.0, release.1);
        assert!(readme.contains(&line), "README.md should say: {line}");
    }
}

#[test]
fn arguments_go_out_with_qapi_names_and_only_when_given() {
    let file = BlockdevOptions::new(BlockdevOptionsFile::new("x"));
    let disk = BlockdevOptions::new(BlockdevOptionsQcow2::new(file).lazy_refcounts(true))
        .node_name("n0")
        .read_only(true);
    assert_eq!(
        serde_json::to_value(BlockdevAdd(disk)).unwrap(),
        json!({
            "driver": "qcow2", "node-name": "n0", "read-only": true, "lazy-refcounts": true,
            "file": {"driver": "file", "filename": "x"},
        })
    );
    assert_eq!(serde_json::to_value(QueryJobs::new()).unwrap(), json!({}));
    assert_eq!(
        serde_json::to_value(QueryNamedBlockNodes::new().flat(true).set("new", 1)).unwrap(),
        json!({"flat": true, "new": 1})
    );
}

#[test]
fn unions_and_alternates_are_read_and_written_as_they_are_and_keep_what_they_do_not_know() {
    let disk = json!({
        "driver": "qcow2", "node-name": "n0", "backing": null, "new-option": {"a": 1},
        "file": {"driver": "nbd", "server": {"type": "unix", "path": "/run/nbd"}},
    });
    let options: BlockdevOptions = serde_json::from_value(disk.clone()).unwrap();
    assert_eq!(options.node_name.as_deref(), Some("n0"));
    let BlockdevOptionsVariant::Qcow2(qcow2) = &options.driver else {
        panic!("{options:?}")
    };
    assert_eq!(qcow2.extra["new-option"]["a"], 1);
    let BlockdevRef::Definition(file) = &qcow2.file else {
        panic!("{qcow2:?}")
    };
    let BlockdevOptionsVariant::Nbd(nbd) = &file.driver else {
        panic!("{file:?}")
    };
    assert!(matches!(&nbd.server, SocketAddress::Unix(unix) if unix.path == "/run/nbd"));
    assert_eq!(serde_json::to_value(&options).unwrap(), disk);

    let future = json!({"driver": "of-tomorrow", "node-name": "n1", "x": [1]});
    let options: BlockdevOptions = serde_json::from_value(future.clone()).unwrap();
    assert!(
        matches!(&options.driver, BlockdevOptionsVariant::Other { tag, .. } if tag == "of-tomorrow")
    );
    assert_eq!(serde_json::to_value(&options).unwrap(), future);

    let action = json!({"type": "block-dirty-bitmap-add", "data": {"node": "n0", "name": "b"}});
    let typed: TransactionAction = serde_json::from_value(action.clone()).unwrap();
    assert!(
        matches!(typed, TransactionAction::BlockDirtyBitmapAdd(_)),
        "{typed:?}"
    );
    assert_eq!(serde_json::to_value(&typed).unwrap(), action);

    let wrong = json!({"driver": "nbd", "server": {"type": "unix"}});
    let error = serde_json::from_value::<BlockdevOptions>(wrong).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("server") && error.contains("`path`"),
        "{error}"
    );
    let nowhere = serde_json::from_value::<BlockdevOptions>(json!({"node-name": "n"}));
    assert!(nowhere.unwrap_err().to_string().contains("`driver`"));
}

#[test]
fn unknown_values_members_and_events_are_kept() {
    let future = json!({"id": "j", "status": "levitating", "height": {"m": 2}});
    let Value::Object(data) = future.clone() else {
        unreachable!()
    };
    let event = Event::new("JOB_STATUS_CHANGE").with_data(data.clone());
    let typed = JobStatusChange::from_event(&event).unwrap().unwrap();
    assert_eq!(typed.status, JobStatus::Other("levitating".into()));
    assert_eq!(typed.extra["height"]["m"], 2);
    assert_eq!(serde_json::to_value(&typed).unwrap(), future);
    assert!(matches!(
        TypedEvent::decode(&event),
        Ok(TypedEvent::JobStatusChange(_))
    ));

    let unknown = Event::new("NEW_EVENT").with_data(data);
    assert_eq!(
        TypedEvent::decode(&unknown).unwrap(),
        TypedEvent::Other(unknown.clone())
    );
    assert!(BlockJobCompleted::from_event(&unknown).is_none());
    let wrong = Event::new("JOB_STATUS_CHANGE");
    let error = TypedEvent::decode(&wrong).unwrap_err();
    assert!(error.message.contains("id"), "{error}");
}

#[test]
fn every_value_of_an_enumeration_survives_the_way_there_and_back() {
    let facts = facts();
    let statuses = facts.definitions.iter().find(|d| d.name == "JobStatus").unwrap();
    assert_eq!(statuses.members.len(), 11);
    for value in &statuses.members {
        let status: JobStatus = serde_json::from_value(json!(value.name)).unwrap();
        assert!(!matches!(status, JobStatus::Other(_)), "{}", value.name);
        assert_eq!(serde_json::to_value(&status).unwrap(), json!(value.name));
    }
}

/// A type's declarations about its command are enforced before anything is sent.
#[tokio::test]
async fn a_typed_call_obeys_out_of_band_stability_and_silence() {
    use crate::calls::{connect, connect_with, echo};
    use qmp::encode::EncodeError;
    use qmp::types::{BlockJobPause, QueryStatus, QueryYank, XDebugQueryBlockGraph};
    let encode = |error: qmp::Error| match error {
        qmp::Error::Encode { source, .. } => source,
        other => panic!("{other:?}"),
    };
    let monitor =
        echo().on("query-yank", |_| qmp::mock::Answer::value(json!([]))).allow_oob("query-yank");
    let (client, control) = connect(monitor).await;
    let refused = client.call(QueryStatus::new()).oob().await.unwrap_err();
    assert_eq!(encode(refused), EncodeError::NotOutOfBand);
    client.call(QueryYank::new()).oob().await.unwrap();
    assert_eq!(control.requests().len(), 1);
    let options = qmp::Options::default().stable_only();
    let (client, control) = connect_with(echo(), options).await;
    let refused = client.call(XDebugQueryBlockGraph::new()).await.unwrap_err();
    assert_eq!(encode(refused), EncodeError::Unstable);
    let refused = client.call(BlockJobPause::new("j")).await.unwrap_err();
    assert_eq!(encode(refused), EncodeError::Deprecated);
    assert!(control.requests().is_empty());
}

#[test]
fn two_hundred_backing_images_have_a_type() {
    let mut image = json!({"filename": "base", "format": "raw", "virtual-size": 1});
    for _ in 0..200 {
        image =
            json!({"filename": "x", "format": "qcow2", "virtual-size": 1, "backing-image": image});
    }
    let cache = json!({"writeback": true, "direct": false, "no-flush": false});
    let reply = json!([{"device": "", "type": "unknown", "removable": false, "locked": false,
        "inserted": {"file": "x", "ro": false, "drv": "qcow2", "backing_file_depth": 200,
        "encrypted": false, "detect_zeroes": "off", "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 0,
        "iops_rd": 0, "iops_wr": 0, "image": image, "cache": cache, "write_threshold": 0}}]);
    let raw = serde_json::value::to_raw_value(&reply).unwrap();
    let read = move || {
        let blocks: Vec<BlockInfo> = qmp::decode::from_return(&raw).unwrap();
        let mut image = &blocks[0].inserted.as_ref().unwrap().image;
        let mut layers = 0;
        while let Some(below) = &image.backing_image {
            image = below;
            layers += 1;
        }
        assert_eq!(layers, 200);
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(read).unwrap().join().unwrap();
}

/// The check itself: each kind of difference is reported, and what a version or a build lacks is not.
#[test]
fn differences_between_facts_and_a_schema_are_reported() {
    let facts = crate::facts_check::Facts::parse(
        "versions 7.2 10.2\nmodule job\ncommand job-pause\n  id str\n  later? str since=8.0\n\
         command job-new since=9.0\ncommand job-built if=CONFIG_X\nenum Mode\n  a\n  b since=9.0\n\
         event STOP\n  mode Mode\n",
    )
    .unwrap();
    let schema = |members: Value, values: Value| {
        json!([
            {"name": "job-pause", "meta-type": "command", "arg-type": "0", "ret-type": "1"},
            {"name": "STOP", "meta-type": "event", "arg-type": "2"},
            {"name": "0", "meta-type": "object", "members": members},
            {"name": "1", "meta-type": "object", "members": []},
            {"name": "2", "meta-type": "object", "members": [{"name": "mode", "type": "3"}]},
            {"name": "3", "meta-type": "enum", "values": values},
            {"name": "int", "meta-type": "builtin", "json-type": "int"},
            {"name": "str", "meta-type": "builtin", "json-type": "string"},
        ])
    };
    let id = json!({"name": "id", "type": "str"});
    let old = Version::new(7, 2, 22);
    let good = check(&facts, &schema(json!([id]), json!(["a"])), &old);
    assert_eq!(good, [""; 0]);
    for (members, values, version, place) in [
        (json!([id]), json!(["a"]), Version::new(10, 0, 0), "job-new"),
        (json!([]), json!(["a"]), old.clone(), "job-pause/id"),
        (
            json!([{"name": "id", "type": "int"}]),
            json!(["a"]),
            old.clone(),
            "job-pause/id",
        ),
        (
            json!([{"name": "id", "type": "str", "default": null}]),
            json!(["a"]),
            old.clone(),
            "job-pause/id",
        ),
        (
            json!([id, {"name": "new", "type": "str"}]),
            json!(["a"]),
            old.clone(),
            "job-pause/new",
        ),
        (json!([id]), json!(["a", "b"]), old.clone(), "STOP/mode/^b"),
        (json!([id]), json!(["a", "c"]), old.clone(), "STOP/mode/^c"),
        (json!([id]), json!([]), old.clone(), "STOP/mode/^a"),
        (
            json!([{"name": "id", "type": "str", "features": ["deprecated"]}]),
            json!(["a"]),
            Version::new(10, 2, 0),
            "job-pause/id",
        ),
    ] {
        let found = check(&facts, &schema(members, values), &version);
        assert!(
            found.iter().any(|line| line.starts_with(&format!("{place}: "))),
            "{place}: {found:?}"
        );
    }
}
