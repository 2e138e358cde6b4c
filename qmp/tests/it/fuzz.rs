//! The fuzz targets' bodies as property tests of bounded length, over their corpus and more.

use proptest::prelude::*;

#[path = "../../fuzz/bodies.rs"]
mod bodies;

/// Bytes that look enough like QMP to get somewhere.
fn almost_qmp() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"{".to_vec()),
        Just(b"}".to_vec()),
        Just(b"[".to_vec()),
        Just(b"]".to_vec()),
        Just(b"\"".to_vec()),
        Just(b"\\".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\n{".to_vec()),
        Just(b"\xFF".to_vec()),
        Just(b": ".to_vec()),
        Just(b", ".to_vec()),
        Just(b"\"return\": {}".to_vec()),
        Just(b"\"error\": {\"class\": \"GenericError\", \"desc\": \"\"}".to_vec()),
        Just(b"\"id\": \"a0\"".to_vec()),
        Just(b"{\"event\": \"STOP\"}".to_vec()),
        Just(b"{\"QMP\": {}}".to_vec()),
        Just(b"inf".to_vec()),
        proptest::collection::vec(any::<u8>(), 1..20),
        (1usize..400).prop_map(|count| vec![b'x'; count]),
        (1usize..30).prop_map(|count| vec![b'['; count]),
    ];
    proptest::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_framer_survives_anything_in_any_pieces(data in almost_qmp()) {
        bodies::framer(&data);
    }

    #[test]
    fn a_session_survives_anything_and_understands_what_follows(data in almost_qmp()) {
        bodies::decoder(&data);
    }
}

#[test]
fn the_corpus_holds() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut files = 0;
    for target in ["framer", "decoder"] {
        for entry in std::fs::read_dir(folder.join(target)).unwrap() {
            let data = std::fs::read(entry.unwrap().path()).unwrap();
            bodies::framer(&data);
            bodies::decoder(&data);
            files += 1;
        }
    }
    assert!(files >= 10, "{files}");
}
