//! URIs: the examples of `uri.md`, refusals, round trips, and QEMU's older names.

use nbd::Uri;
use nbd::uri::{Address, UriError};
use proptest::prelude::*;

#[test]
fn the_examples_of_the_specification_mean_what_it_says() {
    let tcp = |port| Address::Tcp {
        host: "example.com".into(),
        port,
    };
    for (text, export) in [
        ("nbd://example.com/disk", "disk"),
        ("nbd://example.com/", ""),
        ("nbd://example.com", ""),
        ("nbd://example.com//disk", "/disk"),
        ("nbd://example.com/hello%20world", "hello world"),
    ] {
        let uri = Uri::parse(text).unwrap();
        assert_eq!(
            (uri.export.as_str(), uri.address),
            (export, tcp(10809)),
            "{text}"
        );
    }
    let uri = Uri::parse("nbd://example.com:10810/export").unwrap();
    assert_eq!(uri.address, tcp(10810));
    let uri = Uri::parse("nbd+unix:///disk?socket=sock").unwrap();
    assert_eq!(
        (uri.export.as_str(), uri.address),
        ("disk", Address::Unix("sock".into()))
    );
    let uri = Uri::parse("nbd+unix:///?socket=%00/abstract").unwrap();
    assert_eq!(uri.address, Address::Abstract(b"/abstract".to_vec()));
    let uri = Uri::parse("nbds://user@[::1]:1/x?tls-type=psk&tls-verify-peer=0&x-mine=1").unwrap();
    assert!(uri.tls);
    assert_eq!(uri.user.as_deref(), Some("user"));
    assert_eq!(
        uri.address,
        Address::Tcp {
            host: "::1".into(),
            port: 1
        }
    );
    assert_eq!(uri.parameters.len(), 3);
}

#[test]
fn an_ipv6_address_may_have_a_zone() {
    let uri = Uri::parse("nbd://[fe80::1%25eth0]:1/x").unwrap();
    let host = "fe80::1%eth0".to_owned();
    assert_eq!(uri.address, Address::Tcp { host, port: 1 });
    assert_eq!(uri.to_string(), "nbd://[fe80::1%25eth0]:1/x");
}

#[test]
fn what_is_not_understood_is_refused() {
    for text in [
        "",
        "nbd",
        "://",
        "/path",
        "nbd:",
        "nbd:host",
        "1nbd://h",
        "http://h/",
        "nbd+ssh://h/",
        "nbd+vsock://a/",
        "nbd://[r=a&=&xp%2Fport:]",
        "nbd://[h:1]/",
        "nbd://[::1%25]/",
        "nbd://[::1%25a%2Fb]/",
        "nbd:///x",
        "nbd://:10809/x",
        "nbd://h:0/",
        "nbd://h:65536/",
        "nbd://h:-1/",
        "nbd://h:1x/",
        "nbd://h:+1/",
        "nbd://[::1/",
        "nbd://[::1]x/",
        "nbd://a:b:1/",
        "nbd://h/%",
        "nbd://h/%2",
        "nbd://h/%zz",
        "nbd://h/%ff",
        "nbd://h/%00",
        "nbd://h/a b",
        "nbd://h/#f",
        "nbd://h/?socket=x",
        "nbd+unix:///x",
        "nbd+unix:///x?socket=",
        "nbd+unix://host/x?socket=s",
        "nbd+unix://:1/x?socket=s",
        "nbd+unix:///?socket=a&socket=b",
        "nbd+unix:///?socket=a%00b",
        "nbd://h/?unknown=1",
        "nbd://h/?tls-type=x",
        "nbd://h/?tls-verify-peer=2",
        "nbds://h/?tls-type=psk&tls-type=psk",
        "nbd://[h]/",
    ] {
        assert!(
            Uri::parse(text).is_err(),
            "{text:?} was accepted: {:?}",
            Uri::parse(text)
        );
    }
    assert_eq!(
        Uri::parse("nbd://h/?y=1"),
        Err(UriError::Parameter("y".into()))
    );
}

#[test]
fn the_older_names_of_qemu_are_read_and_written() {
    for (text, uri) in [
        ("nbd:unix:/tmp/s", Uri::unix("/tmp/s", "")),
        ("nbd:unix:/tmp/s:exportname=a:b", Uri::unix("/tmp/s", "a:b")),
        ("nbd:localhost:10809", Uri::tcp("localhost", 10809, "")),
        ("nbd:[::1]:5:exportname=x", Uri::tcp("::1", 5, "x")),
    ] {
        assert_eq!(Uri::parse_legacy(text).as_ref(), Ok(&uri), "{text}");
        assert_eq!(uri.to_legacy().as_deref(), Some(text));
    }
    for text in [
        "nbd:",
        "nbd:unix:",
        "nbd:host",
        "nbd:host:x",
        "nbd://h/",
        "x:unix:/",
        "nbd:a:b:1",
    ] {
        assert!(Uri::parse_legacy(text).is_err(), "{text}");
    }
}

#[test]
fn image_opts_double_their_commas() {
    let opts = Uri::unix("/a,b", "x,y").to_image_opts().unwrap();
    assert_eq!(
        opts,
        "driver=nbd,server.type=unix,server.path=/a,,b,export=x,,y"
    );
}

fn uri() -> impl Strategy<Value = Uri> {
    let address = prop_oneof![
        ("[a-z0-9.-]{1,12}", 1u16..).prop_map(|(host, port)| Address::Tcp { host, port }),
        any::<std::net::Ipv6Addr>().prop_map(|a| Address::Tcp {
            host: a.to_string(),
            port: 10809
        }),
        "[^\\x00]{1,20}".prop_map(|p| Address::Unix(p.into())),
        prop::collection::vec(any::<u8>(), 0..10).prop_map(Address::Abstract),
    ];
    (
        any::<bool>(),
        address,
        "[^\\x00]{0,20}",
        prop::option::of("[^\\x00]{1,8}"),
        "[^\\x00]{0,8}",
    )
        .prop_map(|(tls, address, export, user, value)| Uri {
            tls,
            address,
            export,
            user,
            parameters: vec![("tls-hostname".into(), value)],
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn every_uri_is_read_as_it_was_written(uri in uri()) {
        prop_assert_eq!(Uri::parse(&uri.to_string()), Ok(uri));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "(nbds?(\\+unix|\\+tcp)?:(//)?)?[\\x00-\\x7f]{0,30}\\PC{0,4}") {
        let _ = nbd::uri::QemuDialect::parse(&text);
        let _ = Uri::parse_legacy(&text);
        if let Ok(uri) = Uri::parse(&text) {
            prop_assert_eq!(Uri::parse(&uri.to_string()), Ok(uri));
        }
    }
}
