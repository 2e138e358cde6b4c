//! The server without faults: five modes, every backend, our client and QEMU's.

use std::sync::Arc;
use std::time::Duration;

use nbd::client::{ConnectError, Deadlines, Feature, Pattern, StrictMode};
use nbd::proto::{CommandFlags, CommandType, Errno, Mode, Request, StatusFilter};
use nbd::server::backend::{FileBackend, MemoryBackend, PatternBackend, ProxyBackend, ZeroBackend};
use nbd::server::journal::Closed;
use nbd::server::{Backend, Entry, Event, Export, Server};
use nbd::{Client, QemuNbd};

use crate::support::{all_tools, block_on, img, io, short_dir};

const MIB: u64 = 1 << 20;

#[test]
fn our_client_and_our_server_agree_in_all_five_modes() {
    block_on(async {
        for mode in Mode::ALL {
            let memory = Arc::new(MemoryBackend::new(4 * MIB));
            let dir = short_dir();
            let server = Server::builder().export(Export::shared(memory.clone())).mode(mode);
            let server = server.listen_unix(dir.path().join("s")).unwrap();
            let client = Client::builder()
                .mode(mode)
                .context("base:allocation")
                .not_strict(StrictMode::BOUNDS)
                .connect_uri(&server.uri().unwrap())
                .await
                .unwrap();
            assert_eq!(
                (client.export().mode, client.export().size),
                (mode, 4 * MIB)
            );
            let mut data = vec![0; 200_000];
            Pattern::Offset(1).fill(1000, &mut data);
            client.write(1000, data.clone()).await.unwrap();
            assert_eq!(client.read(1000, 200_000).await.unwrap(), data);
            assert_eq!(memory.snapshot(1000, 200_000), data);
            client.write_zeroes(1000, 1000, CommandFlags::empty()).await.unwrap();
            client.trim(2 * MIB, MIB).await.unwrap();
            client.cache(0, MIB).await.unwrap();
            client.flush().await.unwrap();
            let whole = client.read(0, 4 * MIB).await.unwrap();
            assert_eq!(whole, memory.snapshot(0, 4 * MIB));
            let error = client.read(4 * MIB, 512).await.unwrap_err();
            assert_eq!(error.errno(), Some(Errno::EINVAL));
            assert_eq!(
                error.to_string().contains("beyond the end"),
                mode.has_chunks(),
                "{error}"
            );
            let error = client.write(4 * MIB, vec![0; 512]).await.unwrap_err();
            assert_eq!(error.errno(), Some(Errno::ENOSPC));
            if mode.has_chunks() {
                let map = client.map("base:allocation", 0..4 * MIB).await.unwrap();
                assert_eq!(map.iter().map(|e| e.len).sum::<u64>(), 4 * MIB);
                assert_eq!(map.len(), 2, "{map:?}");
                let df = client.read_with(0, 4 * MIB, CommandFlags::DF, Vec::new()).await;
                assert_eq!(df.unwrap(), whole);
            }
            client.disconnect().await.unwrap();
            server.finish().await.unwrap();
        }
    });
}

#[test]
fn qemus_clients_read_write_and_map_in_every_mode() {
    for tools in all_tools() {
        block_on(async {
            for (mode, tcp) in Mode::ALL.into_iter().flat_map(|m| [(m, false), (m, true)]) {
                let memory = Arc::new(MemoryBackend::new(4 * MIB));
                let dir = short_dir();
                let server = Server::builder().export(Export::shared(memory.clone())).mode(mode);
                let server = match tcp {
                    true => server.listen_tcp(),
                    false => server.listen_unix(dir.path().join("s")),
                };
                let server = server.unwrap();
                let uri = server.uri().unwrap().to_string();
                let mut commands = vec![
                    "write -P 7 64k 192k",
                    "read -P 7 64k 192k",
                    "read -P 0 1M 1M",
                ];
                if mode != Mode::Oldstyle {
                    commands.extend(["write -z 64k 64k", "discard 128k 64k", "flush"]);
                }
                let output = io(&tools, &uri, &commands).await;
                let (journal, tail) = (server.journal().to_json_lines(), output.tail());
                assert!(
                    output.status.is_success(),
                    "{} {mode}{tail}
{journal}",
                    tools.name
                );
                assert_eq!(memory.snapshot(192 * 1024, 65536), [7; 65536]);
                let map = img(&tools, ["map", "--output=json", "-f", "raw", &*uri]).await;
                assert_eq!(
                    map.contains("\"data\": false"),
                    mode.has_chunks(),
                    "{mode} {map}"
                );
                server.finish().await.unwrap();
            }
        });
    }
}

#[test]
fn zeroes_follow_the_export_unless_both_sides_leave_them_out() {
    block_on(async {
        for zeroes in [true, false] {
            let server = Server::builder().export(Export::new(ZeroBackend::new(512)));
            let server = if zeroes { server.with_zeroes() } else { server };
            let server = server.detached().unwrap();
            let (ours, mut theirs) = tokio::io::duplex(1 << 16);
            let (to_server, from_client) = tokio::io::duplex(1 << 16);
            server.serve(from_client);
            // The server's bytes are counted in transit.
            let counted = tokio::spawn(async move {
                let mut to_server = to_server;
                let counts = tokio::io::copy_bidirectional(&mut theirs, &mut to_server);
                counts.await.unwrap().1
            });
            let client = Client::builder().mode(Mode::ExportName).forbid(Feature::Go);
            let client = client.connect_stream(ours).await.unwrap();
            client.disconnect().await.unwrap();
            // Greeting, size, flags, and what follows them.
            let expected = 18 + 8 + 2 + if zeroes { 124 } else { 0 };
            assert_eq!(counted.await.unwrap(), expected);
            server.finish().await.unwrap();
        }
    });
}

#[test]
fn a_filter_of_contexts_must_name_known_ones_and_each_once() {
    block_on(async {
        let server = Server::builder().export(Export::new(ZeroBackend::new(512)));
        let server = server.detached().unwrap();
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        server.serve(theirs);
        let client = Client::builder().context("base:allocation");
        let client = client.connect_stream(ours).await.unwrap();
        for (contexts, refused) in [(vec![0], false), (vec![0, 0], true), (vec![1], true)] {
            let effect_len = 512;
            let payload = StatusFilter {
                effect_len,
                contexts,
            };
            let payload = payload.encode();
            let request = Request {
                flags: CommandFlags::PAYLOAD_LEN,
                command: CommandType::BLOCK_STATUS,
                cookie: 0,
                offset: 0,
                len: payload.len() as u64,
            };
            let answer = client.raw(request, payload).await;
            let errno = answer.err().and_then(|error| error.errno());
            assert_eq!(errno, refused.then_some(Errno::EINVAL));
        }
        client.disconnect().await.unwrap();
        server.finish().await.unwrap();
    });
}

#[test]
fn a_client_can_say_anything_in_the_negotiation() {
    block_on(async {
        let server = Server::builder().export(Export::new(ZeroBackend::new(512)));
        let server = server.detached().unwrap();
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let serving = server.serve(theirs);
        let mut options = Client::builder().negotiate_stream(ours).await.unwrap();
        options.send_raw(&[0x55; 16]).await.unwrap();
        assert!(options.list().await.is_err());
        serving.await.unwrap();
        let refused = |e: &Entry| matches!(e.event, Event::Closed(Closed::Refused(_)));
        assert_eq!(server.finish().await.unwrap().count(refused), 1);
    });
}

#[test]
fn two_hundred_clients_at_once_are_all_served() {
    block_on(async {
        let dir = short_dir();
        let pattern = Pattern::Offset(5);
        let server = Server::builder().export(Export::new(PatternBackend::new(MIB, pattern)));
        let server = server.listen_unix(dir.path().join("s")).unwrap();
        let uri = server.uri().unwrap();
        // On a busy machine each waits for all others.
        let patient = Client::builder().deadlines(Deadlines {
            connect: Duration::from_secs(600),
            handshake: Duration::from_secs(600),
            request: Duration::from_secs(600),
        });
        let clients = (0..200).map(|_| {
            let (uri, patient) = (uri.clone(), patient.clone());
            tokio::spawn(async move {
                let client = patient.connect_uri(&uri).await.unwrap();
                assert_eq!(client.verify(0..MIB, pattern).await.unwrap(), None);
                assert!(client.write(0, vec![1]).await.is_err());
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
        server.finish().await.unwrap();
    });
}

#[test]
fn a_file_backend_keeps_data_and_holes() {
    block_on(async {
        let dir = short_dir();
        let path = dir.path().join("f");
        std::fs::File::create(&path).unwrap().set_len(8 * MIB).unwrap();
        let backend = FileBackend::open(&path, false).unwrap();
        let server = Server::builder().export(Export::new(backend).name("f"));
        let server = server.listen_unix(dir.path().join("s")).unwrap();
        let client = Client::builder().context("base:allocation");
        let client = client.connect_uri(&server.uri().unwrap()).await.unwrap();
        client.write_with(MIB, vec![3; 65536], CommandFlags::FUA).await.unwrap();
        client.write(4 * MIB, vec![4; 65536]).await.unwrap();
        client.write_zeroes(4 * MIB, 65536, CommandFlags::empty()).await.unwrap();
        client.flush().await.unwrap();
        let map = client.map("base:allocation", 0..8 * MIB).await.unwrap();
        assert_eq!(map.len(), 3, "{map:?}");
        assert_eq!((map[1].offset, map[1].len, map[1].status), (MIB, 65536, 0));
        assert_eq!(client.compare(&path).await.unwrap(), None);
        assert_eq!(std::fs::read(&path).unwrap()[MIB as usize], 3);
        server.finish().await.unwrap();
    });
}

#[test]
fn a_proxy_passes_data_errors_and_every_context_on() {
    for tools in all_tools() {
        block_on(async {
            let dir = short_dir();
            let image = dir.path().join("q").to_str().unwrap().to_owned();
            img(&tools, ["create", "-q", "-f", "qcow2", &image, "4M"]).await;
            img(&tools, ["bitmap", "--add", &image, "b0"]).await;
            let real = QemuNbd::new(tools.nbd.clone()).format("qcow2").bitmap("b0").read_only();
            let real = real.serve_unix(image, dir.path().join("real")).await.unwrap();
            let names = ["base:allocation", "qemu:dirty-bitmap:b0"];
            let upstream =
                Client::builder().contexts(names).connect_uri(&real.uri()).await.unwrap();
            let proxy = Server::builder().export(Export::new(ProxyBackend::new(upstream)));
            let proxy = proxy.listen_unix(dir.path().join("proxy")).unwrap();
            let uri = proxy.uri().unwrap();
            let client = Client::builder().contexts(names).not_strict(StrictMode::all());
            let client = client.connect_uri(&uri).await.unwrap();
            assert!(client.export().is_read_only());
            assert_eq!(client.maps(0..4 * MIB).await.unwrap().len(), 2);
            let error = client.write(0, vec![1; 512]).await.unwrap_err();
            assert_eq!(error.errno(), Some(Errno::EPERM));
            let opts = uri.to_image_opts().unwrap() + ",x-dirty-bitmap=qemu:dirty-bitmap:b0";
            img(&tools, ["map", "--image-opts", &opts]).await;
            proxy.finish().await.unwrap();
        });
    }
}

#[test]
fn qemu_lists_all_our_exports_with_their_contexts() {
    for tools in all_tools() {
        block_on(async {
            let dir = short_dir();
            let server = Server::builder()
                .export(Export::new(ZeroBackend::sparse(MIB)).name("a").description("first"))
                .export(Export::new(PatternBackend::new(MIB, Pattern::Byte(1))).name("b"));
            let server = server.listen_unix(dir.path().join("s")).unwrap();
            let nbd = QemuNbd::new(tools.nbd.clone());
            let listed = nbd.list(&server.uri().unwrap().address).await.unwrap();
            assert_eq!(listed.exports.len(), 2, "{listed:?}");
            assert_eq!(listed.exports[0].description.as_deref(), Some("first"));
            assert_eq!(listed.exports[0].contexts, ["base:allocation"]);
            assert!(listed.exports[1].flag_names.contains(&"readonly".to_owned()));
            let ours = nbd::list(&server.uri().unwrap()).await.unwrap();
            assert_eq!(ours.exports.len(), 2);
            server.finish().await.unwrap();
        });
    }
}

#[test]
fn a_sparse_terabyte_is_verified_without_reading_it() {
    block_on(async {
        let memory = MemoryBackend::new(1 << 40);
        memory.write(1 << 39, vec![9; 512].into(), false).await.unwrap();
        let server = Server::builder().export(Export::new(memory)).detached().unwrap();
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        server.serve(theirs);
        let client =
            Client::builder().context("base:allocation").connect_stream(ours).await.unwrap();
        let found = client.verify(0..1 << 40, Pattern::Byte(0)).await.unwrap().unwrap();
        assert_eq!((found.offset, found.found), (1 << 39, 9));
        assert!(client.stats().bytes_in < 4 * MIB);
    });
}

#[test]
fn a_socketpair_end_can_be_handed_to_the_client() {
    block_on(async {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        b.set_nonblocking(true).unwrap();
        let server =
            Server::builder().export(Export::new(ZeroBackend::new(MIB))).detached().unwrap();
        server.serve(tokio::net::UnixStream::from_std(b).unwrap());
        let client = Client::builder().connect_fd(a.into()).await.unwrap();
        assert_eq!(client.read(0, 512).await.unwrap(), [0; 512]);
    });
}

#[test]
fn deadlines_beyond_all_time_are_none() {
    block_on(async {
        let patient = Deadlines {
            connect: Duration::MAX,
            handshake: Duration::MAX,
            request: Duration::MAX,
        };
        let server = Server::builder().export(Export::new(ZeroBackend::new(MIB)));
        let server = server.listen_tcp().unwrap();
        let builder = Client::builder().deadlines(patient);
        let client = builder.connect_uri(&server.uri().unwrap()).await.unwrap();
        assert_eq!(client.read(0, 512).await.unwrap(), [0; 512]);
        client.disconnect().await.unwrap();
        server.finish().await.unwrap();
    });
}

#[test]
fn a_full_queue_is_waited_for_until_the_deadline() {
    use nix::sys::socket::{Backlog, listen};
    block_on(async {
        let dir = short_dir();
        let path = dir.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        // A backlog of 0 still has room for one.
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let first = std::os::unix::net::UnixStream::connect(&path).unwrap();
        for limit in [Duration::ZERO, Duration::from_millis(20)] {
            let hasty = Deadlines {
                connect: limit,
                ..Deadlines::default()
            };
            let refused = Client::builder().deadlines(hasty).connect_unix(&path).await;
            assert!(
                matches!(refused, Err(ConnectError::Deadline { .. })),
                "{refused:?}"
            );
        }
        let waiting = tokio::spawn({
            let path = path.clone();
            let patient = Deadlines {
                connect: Duration::from_secs(120),
                handshake: Duration::from_secs(120),
                ..Deadlines::default()
            };
            async move { Client::builder().deadlines(patient).connect_unix(path).await }
        });
        drop(listener.accept().unwrap());
        drop(first);
        let (stream, _) =
            tokio::task::spawn_blocking(move || listener.accept()).await.unwrap().unwrap();
        stream.set_nonblocking(true).unwrap();
        let server =
            Server::builder().export(Export::new(MemoryBackend::new(512))).detached().unwrap();
        server.serve(tokio::net::UnixStream::from_std(stream).unwrap());
        assert_eq!(waiting.await.unwrap().unwrap().export().size, 512);
    });
}
