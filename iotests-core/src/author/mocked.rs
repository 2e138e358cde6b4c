//! A case with a simulated QEMU, for behaviour that a real one shows only by chance.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::files::Directories;
use super::machine::Monitor;
use super::shared::Shared;
use super::test::Sink;
use crate::case::{Aio, Backend, Cache, Format, Guest, Protocol};
use crate::wire::{CaseSpec, GoldenMode};

/// The spec of such a case.
pub(crate) fn spec() -> CaseSpec {
    CaseSpec {
        id: "mocked".to_owned(),
        case: "mocked".to_owned(),
        row: None,
        format: Format::Raw,
        protocol: Protocol::File,
        cache: Cache::Writeback,
        aio: Aio::Threads,
        imgopts: Vec::new(),
        backend: Some(Backend::Qsd),
        guest: Guest::Stopped,
        accelerators: Vec::new(),
        test_dir: "/t".into(),
        sock_dir: "/s".into(),
        tools: BTreeMap::new(),
        capabilities_file: PathBuf::new(),
        budget: Duration::from_secs(3600),
        scale: 1.0,
        keep: false,
        goldens: GoldenMode::Compare,
        goldens_dir: PathBuf::new(),
        seed: 0,
        confine: false,
        print: false,
        debug: false,
        script: None,
    }
}

/// The monitor of a simulated QEMU.
pub(crate) async fn monitor(qemu: qmp::mock::Monitor) -> (Monitor, qmp::mock::Control) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let qemu = qemu.spawn(theirs);
    let options = qmp::Options::default().cache_events(100);
    let client = qmp::Client::from_stream(ours, options).await.unwrap();
    let directories = Directories::new(Path::new("/t"), Path::new("/s"));
    let monitor = Monitor {
        shared: Shared::new(spec(), Sink::new(drop), directories.unwrap()),
        name: "simulated".to_owned(),
        backend: Backend::Qsd,
        events: client.event_cache().unwrap(),
        client,
        ended: Arc::new(AtomicBool::new(false)),
    };
    (monitor, qemu)
}
