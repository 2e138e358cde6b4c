//! The typed layer: against live schemas, and open to what it does not know.

use qmp::types::{
    self, BlockInfo, BlockJobCompleted, BlockdevAdd, BlockdevDriver, EventData, JobStatus,
    JobStatusChange, QueryJobs, QueryNamedBlockNodes, Shape, TransactionAction, TypedEvent,
};
use qmp::{Event, Schema};
use serde_json::{Value, json};

use crate::qemu::{self, Qemu};

async fn expect_agreement(qemu: &mut Qemu) {
    let client = qemu.client().await;
    let schema = Schema::query(&client).await.unwrap();
    let found = types::check(&schema, &client.greeting().version);
    let report: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(
        found.is_empty(),
        "{}:\n{}",
        client.greeting().version,
        report.join("\n")
    );
}

#[tokio::test]
async fn every_typed_name_agrees_with_the_schema_of_every_storage_daemon() {
    for program in qemu::all("qemu-storage-daemon") {
        expect_agreement(&mut Qemu::storage_daemon(&program)).await;
    }
}

#[tokio::test]
async fn every_typed_name_agrees_with_the_schema_of_every_emulator() {
    for program in qemu::all("qemu-system-x86_64") {
        expect_agreement(&mut Qemu::emulator(&program)).await;
    }
}

#[test]
fn names_are_unique_and_many() {
    let mut commands: Vec<_> = types::commands().map(|command| command.name).collect();
    let mut events: Vec<_> = types::events().map(|event| event.name).collect();
    let counts = (commands.len(), events.len());
    assert!(counts.0 >= 75 && counts.1 >= 13, "{counts:?}");
    commands.sort_unstable();
    commands.dedup();
    events.sort_unstable();
    events.dedup();
    assert_eq!((commands.len(), events.len()), counts);
}

#[test]
fn arguments_go_out_with_qapi_names_and_only_when_given() {
    let add = BlockdevAdd::new(BlockdevDriver::Qcow2)
        .node_name("n0")
        .read_only(true)
        .set("file", json!({"driver": "file", "filename": "x"}));
    assert_eq!(
        serde_json::to_value(&add).unwrap(),
        json!({
            "driver": "qcow2", "node-name": "n0", "read-only": true,
            "file": {"driver": "file", "filename": "x"},
        })
    );
    assert_eq!(serde_json::to_value(QueryJobs::new()).unwrap(), json!({}));
    let flat = QueryNamedBlockNodes::new().flat(true);
    let action = TransactionAction::of(&flat).unwrap();
    assert_eq!(
        serde_json::to_value(&action).unwrap(),
        json!({"type": "query-named-block-nodes", "data": {"flat": true}})
    );
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
fn every_enumeration_value_survives_the_way_there_and_back() {
    let Shape::Enum(info) = <JobStatus as types::Describe>::shape() else {
        panic!("an enum")
    };
    for value in info.values {
        let status: JobStatus = serde_json::from_value(json!(value.name)).unwrap();
        assert!(!matches!(status, JobStatus::Other(_)), "{}", value.name);
        assert_eq!(serde_json::to_value(&status).unwrap(), json!(value.name));
    }
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
    std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(read)
        .unwrap()
        .join()
        .unwrap();
}
