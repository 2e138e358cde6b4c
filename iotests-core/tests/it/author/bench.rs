//! What the tests here need: a case made of a closure, run on each set of tools.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use imgtools::tools::{Tool, ToolKind};
use iotests_core::author::{CaseResult, Sink, Test};
use iotests_core::case::{
    Aio, Backend, Cache, Capabilities, Feature, Format, Guest, HostFacts, Protocol, Support,
    ToolFacts,
};
use iotests_core::wire::{CaseEvent, CaseSpec, FailureReport, GoldenMode};

/// A case as a closure: `case!(|t| { … })`.
macro_rules! case {
    (|$test:ident| $body:block) => {
        |$test: &mut iotests_core::author::Test| {
            Box::pin(async move {
                $body
                #[allow(unreachable_code)]
                Ok(())
            })
        }
    };
}
pub(crate) use case;

/// A set of QEMU's programs.
#[derive(Clone, Debug)]
pub(super) struct Set {
    pub tools: BTreeMap<ToolKind, Tool>,
}

impl Set {
    fn new(find: impl Fn(&str) -> Option<PathBuf>) -> Option<Set> {
        let names = [
            (ToolKind::Img, "qemu-img"),
            (ToolKind::Io, "qemu-io"),
            (ToolKind::Nbd, "qemu-nbd"),
            (ToolKind::StorageDaemon, "qemu-storage-daemon"),
            (ToolKind::System, "qemu-system-x86_64"),
        ];
        let found =
            names.into_iter().filter_map(|(kind, name)| Some((kind, Tool::new(kind, find(name)?))));
        let tools: BTreeMap<_, _> = found.collect();
        tools.contains_key(&ToolKind::Img).then_some(Set { tools })
    }

    pub(super) fn backends(&self) -> Vec<Backend> {
        let all = [Backend::System, Backend::Qsd];
        all.into_iter().filter(|backend| self.tools.contains_key(&backend.tool())).collect()
    }
}

/// The tools on PATH, and those of each prefix: `QEMU_TEST_PREFIXES`, or what the workspace has
/// provisioned.
pub(super) fn sets() -> Vec<Set> {
    let in_directory = |directory: &Path, name: &str| {
        let path = directory.join(name);
        path.is_file().then_some(path)
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path =
        |name: &str| std::env::split_paths(&path).find_map(|dir| in_directory(&dir, name));
    let mut sets: Vec<Set> = Set::new(on_path).into_iter().collect();
    let prefixes: Vec<PathBuf> = match std::env::var_os("QEMU_TEST_PREFIXES") {
        Some(prefixes) => std::env::split_paths(&prefixes).collect(),
        None => {
            let provisioned = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/qemu");
            let entries = std::fs::read_dir(provisioned).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect()
        }
    };
    sets.extend(
        prefixes.iter().filter_map(|p| Set::new(|name| in_directory(&p.join("bin"), name))),
    );
    let required = std::env::var_os("QEMU_TEST_REQUIRE").is_some_and(|v| v == "1");
    assert!(
        !sets.is_empty() || !required,
        "QEMU_TEST_REQUIRE is 1, but there is no QEMU"
    );
    if sets.is_empty() {
        println!("skipped: there is no QEMU");
    }
    sets
}

/// Every set with every backend it has. Loudly less where there is no emulator.
pub(super) fn hosts() -> Vec<(Set, Backend)> {
    let sets = sets();
    let hosts: Vec<_> = sets
        .iter()
        .flat_map(|set| set.backends().into_iter().map(|b| (set.clone(), b)))
        .collect();
    if !hosts.iter().any(|(_, backend)| *backend == Backend::System) {
        println!("skipped: the emulator's half, there is no qemu-system-x86_64");
        let required = std::env::var_os("QEMU_TEST_REQUIRE").is_some_and(|v| v == "1");
        assert!(
            !required,
            "QEMU_TEST_REQUIRE is 1, but there is no emulator"
        );
    }
    hosts
}

/// A case to be run here.
pub(super) struct Bench {
    pub spec: CaseSpec,
    _directory: tempfile::TempDir,
}

/// How it went.
#[derive(Debug)]
pub(super) struct Run {
    pub events: Vec<CaseEvent>,
}

impl Run {
    pub(super) fn passed(&self) -> bool {
        self.events.last() == Some(&CaseEvent::Passed)
    }

    #[track_caller]
    pub(super) fn assert_passed(&self) {
        assert!(self.passed(), "{:#?}", self.events);
    }

    #[track_caller]
    pub(super) fn failure(&self) -> &FailureReport {
        match self.events.last() {
            Some(CaseEvent::Failed(report)) => report,
            other => panic!("expected a failure, not {other:#?}"),
        }
    }

    pub(super) fn log(&self) -> String {
        let text = |event: &CaseEvent| match event {
            CaseEvent::Log { text } => Some(format!("{text}\n")),
            _ => None,
        };
        self.events.iter().filter_map(text).collect()
    }
}

impl Bench {
    pub(super) fn new(set: &Set) -> Bench {
        Bench::in_directory(set, "test")
    }

    /// The test directory is called so.
    pub(super) fn in_directory(set: &Set, name: &str) -> Bench {
        // Short, for sockets.
        let directory = tempfile::Builder::new().prefix("ia").tempdir_in("/tmp").unwrap();
        let test_dir = directory.path().join(name);
        let sock_dir = directory.path().join("s");
        std::fs::create_dir_all(&test_dir).unwrap();
        std::fs::create_dir_all(&sock_dir).unwrap();
        let mut capabilities = Capabilities::default();
        for kind in set.tools.keys() {
            capabilities.tools.insert(*kind, ToolFacts::default());
        }
        capabilities.writable = ["raw", "qcow2"].map(str::to_owned).into();
        for backend in set.backends() {
            let facts = serde_json::from_value(serde_json::json!({
                "program": if backend == Backend::System { "emulator" } else { "storage-daemon" },
                "version": {"major": 0, "minor": 0, "micro": 0},
                "package": "",
                "target": "x86_64",
                "accelerators": [{"accel": "tcg", "refused": null}],
                "machines": [],
                "devices": [],
                "formats": null,
                "drivers": ["null-co", "qcow2", "raw", "file", "nbd", "luks"],
                "commands": [],
                "objects": [],
                "exports": [],
            }));
            let host = HostFacts {
                facts: facts.unwrap(),
                schema_file: None,
            };
            capabilities.hosts.insert(backend, host);
        }
        capabilities.features.insert(Feature::Luks, Support::Yes);
        let capabilities_file = directory.path().join("capabilities.json");
        std::fs::write(
            &capabilities_file,
            serde_json::to_vec(&capabilities).unwrap(),
        )
        .unwrap();
        let spec = CaseSpec {
            id: "area::module::case@qcow2".to_owned(),
            case: "area::module::case".to_owned(),
            row: None,
            format: Format::Qcow2,
            protocol: Protocol::File,
            cache: Cache::Writeback,
            aio: Aio::Threads,
            imgopts: Vec::new(),
            backend: None,
            guest: Guest::Stopped,
            accelerators: vec!["tcg".to_owned()],
            test_dir,
            sock_dir,
            tools: set.tools.clone(),
            capabilities_file,
            budget: Duration::from_secs(60),
            scale: 2.0,
            keep: false,
            goldens: GoldenMode::Compare,
            goldens_dir: directory.path().to_owned(),
            seed: 1,
            confine: false,
            print: false,
            debug: false,
            script: None,
        };
        Bench {
            spec,
            _directory: directory,
        }
    }

    /// The capabilities are these instead.
    pub(super) fn capabilities(self, change: impl FnOnce(&mut Capabilities)) -> Bench {
        let path = &self.spec.capabilities_file;
        let mut capabilities = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        change(&mut capabilities);
        std::fs::write(path, serde_json::to_vec(&capabilities).unwrap()).unwrap();
        self
    }

    /// The emulator has these accelerators.
    pub(super) fn accelerators(self, names: &[&str]) -> Bench {
        let trials: Vec<_> =
            names.iter().map(|name| serde_json::json!({"accel": name, "refused": null})).collect();
        self.capabilities(|capabilities| {
            if let Some(host) = capabilities.hosts.get_mut(&Backend::System) {
                host.facts.accelerators =
                    serde_json::from_value(serde_json::Value::from(trials)).unwrap();
            }
        })
    }

    pub(super) fn backend(mut self, backend: Backend) -> Bench {
        self.spec.backend = Some(backend);
        self
    }

    pub(super) fn format(mut self, format: Format) -> Bench {
        self.spec.format = format;
        self
    }

    /// Runs a case as the case process does.
    pub(super) fn run<F>(&self, body: F) -> Run
    where
        F: for<'t> FnOnce(&'t mut Test) -> Pin<Box<dyn Future<Output = CaseResult> + 't>>,
    {
        let events = Arc::new(Mutex::new(Vec::new()));
        let kept = events.clone();
        let sink = Sink::new(move |event| kept.lock().unwrap().push(event));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut test = Test::new(self.spec.clone(), sink);
            let result = Test::guard(body(&mut test), || None).await;
            test.finish(result).await;
        });
        Run {
            events: std::mem::take(&mut *events.lock().unwrap()),
        }
    }
}
