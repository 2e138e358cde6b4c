//! The wrapper against real qemu-nbds; known traps are tested in `traps`.

use nbd::qemu_nbd::{Listen, QemuNbdError};
use nbd::{Client, QemuNbd};

use crate::support::{MIB, each, img, io, raw, served};

#[test]
fn a_server_is_ready_when_serve_returns_and_leaves_nothing_behind() {
    each(|tools, dir| async move {
        let server = served(&tools, &dir).await;
        let client = Client::builder().connect_uri(&server.uri()).await.unwrap();
        assert_eq!(client.export().size, MIB);
        client.write(4096, vec![7; 512]).await.unwrap();
        assert_eq!(client.read(4096, 512).await.unwrap(), [7; 512]);
        client.disconnect().await.unwrap();
        let output = server.stop().await.unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(output.stderr_text(), "");
        assert!(!dir.path().join("s").exists());
    });
}

#[test]
fn an_image_that_does_not_open_is_an_error_with_the_reason() {
    each(|tools, dir| async move {
        let nbd = QemuNbd::new(tools.nbd.clone()).format("qcow2");
        let image = raw(&tools, &dir).await;
        let error = nbd.serve_unix(image, dir.path().join("s")).await.unwrap_err();
        let QemuNbdError::Exited(output) = &error else {
            panic!("{error}")
        };
        assert_eq!(output.status.code(), Some(1));
        let text = error.to_string();
        assert!(text.contains("not in qcow2 format"), "{text}");
        assert!(text.contains("-f qcow2"), "{text}");
        assert!(!dir.path().join("s").exists(), "the socket was left behind");
    });
}

#[test]
fn a_killed_server_says_so_and_its_socket_goes() {
    each(|tools, dir| async move {
        let server = served(&tools, &dir).await;
        let client = Client::builder().connect_uri(&server.uri()).await.unwrap();
        assert_eq!(server.kill().await.unwrap().status.signal(), Some(9));
        client.closed().await;
        assert!(!dir.path().join("s").exists());
    });
}

#[test]
fn a_server_restarts_on_the_same_path_and_keeps_its_options() {
    each(|tools, dir| async move {
        let image = raw(&tools, &dir).await;
        let nbd = QemuNbd::new(tools.nbd.clone()).format("raw").export_name("e");
        let mut server = nbd.serve_unix(image, dir.path().join("s")).await.unwrap();
        let uri = server.uri();
        for _ in 0..3 {
            server = server.restart().await.unwrap();
            assert_eq!(server.uri(), uri);
            Client::builder().connect_uri(&uri).await.unwrap();
        }
        let template = server.template();
        server.kill().await.unwrap();
        let server = template.start().await.unwrap();
        Client::builder().connect_uri(&server.uri()).await.unwrap();
    });
}

#[test]
fn whoever_comes_to_a_held_address_waits_for_the_next_server_or_is_hung_up_on() {
    each(|tools, dir| async move {
        let image = raw(&tools, &dir).await;
        let nbd = QemuNbd::new(tools.nbd.clone()).format("raw").hold_address();
        let path = dir.path().join("s");
        for listen in [
            Listen::Unix(path.clone()),
            Listen::Tcp("127.0.0.1".into(), 0),
        ] {
            let server = nbd.clone().serve(&image, listen).await.unwrap();
            let uri = server.uri();
            let template = server.template();
            server.stop().await.unwrap().check().unwrap();

            let builder = Client::builder();
            let client = builder.connect_uri(&uri);
            let (client, hung_up) = tokio::join!(client, template.hang_up());
            hung_up.unwrap();
            assert!(client.is_err());

            let client = builder.connect_uri(&uri);
            let (client, server) = tokio::join!(client, template.start());
            let client = client.unwrap();
            client.read(0, 512).await.unwrap();
            let server = server.unwrap();
            assert_eq!(server.uri(), uri);

            server.stop().await.unwrap();
            // (Another process may have the port by now.)
            assert!(!path.exists());
        }
    });
}

#[test]
fn an_address_that_is_not_held_cannot_be_hung_up_on() {
    each(|tools, dir| async move {
        let server = served(&tools, &dir).await;
        let template = server.template();
        server.stop().await.unwrap();
        let error = template.hang_up().await.unwrap_err();
        let error = crate::support::chain(&error);
        assert!(error.contains("hold_address"), "{error}");
    });
}

#[test]
fn a_server_that_binds_for_itself_is_ready_too() {
    each(|tools, dir| async move {
        let image = raw(&tools, &dir).await;
        let nbd = QemuNbd::new(tools.nbd.clone()).format("raw");
        let listen = Listen::OwnUnix(dir.path().join("own"));
        let server = nbd.serve(image, listen).await.unwrap();
        Client::builder().connect_uri(&server.uri()).await.unwrap();
        assert!(server.stop().await.unwrap().status.is_success());
        assert!(!dir.path().join("own").exists());
    });
}

#[test]
fn secrets_are_in_no_error() {
    each(|tools, dir| async move {
        let nbd = QemuNbd::new(tools.nbd.clone()).secret("hunter2");
        let nbd = nbd.object("secret,id=s0,data=hunter2").image_opts();
        let image = "driver=luks,key-secret=s0,file.filename=/nonexistent/hunter2";
        let error = nbd.serve_unix(image, dir.path().join("s")).await.unwrap_err();
        assert!(
            !format!("{error} {error:?}").contains("hunter2"),
            "{error:?}"
        );
    });
}

#[test]
fn qemu_io_meets_a_scoped_server() {
    each(|tools, dir| async move {
        let image = raw(&tools, &dir).await;
        let nbd = QemuNbd::new(tools.nbd.clone()).format("raw");
        let output = nbd
            .run(image, dir.path().join("s"), |uri| async move {
                io(
                    &tools,
                    &uri.to_string(),
                    &["write -P 5 0 4k", "read -P 5 0 4k"],
                )
                .await
            })
            .await
            .unwrap();
        assert!(output.status.is_success(), "{}", output.tail());
    });
}

#[test]
fn snapshots_are_served_and_temporary_ones_keep_the_image() {
    each(|tools, dir| async move {
        let image = dir.path().join("q").to_str().unwrap().to_owned();
        img(&tools, ["create", "-q", "-f", "qcow2", &image, "1M"]).await;
        img(&tools, ["snapshot", "-c", "before", &image]).await;
        let nbd = QemuNbd::new(tools.nbd.clone()).format("qcow2");
        let byte = async |nbd: QemuNbd, write: Option<u8>| {
            let server = nbd.serve_unix(&image, dir.path().join("s")).await.unwrap();
            let client = Client::builder().connect_uri(&server.uri()).await.unwrap();
            if let Some(byte) = write {
                client.write(0, vec![byte; 512]).await.unwrap();
            }
            let found = client.read(0, 1).await.unwrap()[0];
            client.disconnect().await.unwrap();
            server.stop().await.unwrap().check().unwrap();
            found
        };
        assert_eq!(byte(nbd.clone(), Some(1)).await, 1);
        assert_eq!(byte(nbd.clone().temporary_snapshot(), Some(2)).await, 2);
        assert_eq!(
            byte(nbd.clone(), None).await,
            1,
            "a temporary write has stayed"
        );
        let old = nbd.read_only().load_snapshot("before");
        assert_eq!(byte(old, None).await, 0);
    });
}
