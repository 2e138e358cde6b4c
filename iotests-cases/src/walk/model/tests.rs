use super::*;

fn shape(size: u64) -> Shape {
    Shape {
        size,
        cluster: 4096,
        subclusters: false,
        data_file: None,
        preallocated: false,
        compressed: false,
        data: Vec::new(),
    }
}

/// A chain of two images of 64 KiB.
fn model() -> Model {
    Model::new(&[shape(65536), shape(65536)], true, true)
}

fn io(kind: IoKind, range: Range<u64>) -> Io {
    Io { kind, range }
}

fn job(held: Vec<Io>, ready: Vec<Io>, end: End) -> Job {
    let becomes_ready = !ready.is_empty();
    Job {
        held,
        beside: None,
        ready,
        becomes_ready,
        end,
        fault: None,
    }
}

fn byte(model: &Model, image: &str, place: u64) -> Option<u8> {
    let layer = model.chain.iter().chain(&model.copies);
    let layer = layer.into_iter().find(|layer| layer.name == image)?;
    let runs = layer.reads.as_ref()?.runs();
    let run = runs.iter().find(|(_, range)| range.contains(&place));
    run.map(|(byte, _)| *byte)
}

fn write(byte: u8, range: Range<u64>) -> Step {
    Step::Io(io(IoKind::Write(byte), range))
}

#[test]
fn a_write_changes_the_active_image_alone() {
    let mut model = model();
    model.apply(&write(7, 100..200));
    assert_eq!(byte(&model, "image2", 199), Some(7));
    assert_eq!(byte(&model, "image2", 200), Some(0));
    assert_eq!(byte(&model, "image1", 199), Some(0));
}

#[test]
fn what_an_image_has_at_first_lies_over_what_is_below() {
    let mut upper = shape(65536);
    upper.data = vec![(3, 0..10), (4, 5..6)];
    let mut lower = shape(65536);
    lower.data = vec![(2, 0..100)];
    let model = Model::new(&[lower, upper], true, true);
    let bytes = [0, 5, 10, 100].map(|place| byte(&model, "image2", place));
    assert_eq!(bytes, [Some(3), Some(4), Some(2), Some(0)]);
    assert_eq!(byte(&model, "image1", 5), Some(2));
}

#[test]
fn a_discard_takes_whole_clusters_where_it_has_an_effect() {
    for (discards, inside) in [(true, 0), (false, 7)] {
        let mut model = model();
        model.discards = discards;
        model.apply(&write(7, 0..65536));
        model.apply(&Step::Io(io(IoKind::Discard, 4000..8300)));
        assert_eq!(byte(&model, "image2", 4095), Some(7));
        assert_eq!(byte(&model, "image2", 4096), Some(inside));
        assert_eq!(byte(&model, "image2", 8192), Some(7));
    }
}

#[test]
fn a_commit_leaves_the_base_with_all_data_and_a_cancelled_one_with_what_nobody_knows() {
    for end in [End::Complete, End::Cancel] {
        let mut model = model();
        model.apply(&write(7, 0..512));
        let left = model.apply(&Step::Commit {
            top: "image2".to_owned(),
            base: "image1".to_owned(),
            job: job(
                vec![io(IoKind::Write(8), 512..1024)],
                vec![
                    io(IoKind::Write(9), 1024..1025),
                    io(IoKind::Discard, 0..65536),
                ],
                end,
            ),
        });
        match end {
            End::Complete => {
                assert_eq!(model.chain_text(), "image1");
                assert_eq!(left, ["image2"]);
                let bytes = [0, 512, 1024].map(|place| byte(&model, "image1", place));
                assert_eq!(bytes, [Some(7), Some(8), Some(9)]);
            }
            End::Cancel => {
                assert_eq!(model.chain_text(), "image2 -> image1");
                assert_eq!(left, [""; 0]);
                assert_eq!(byte(&model, "image1", 0), None);
                assert_eq!(byte(&model, "image2", 512), Some(8));
            }
        }
    }
}

#[test]
fn what_a_stream_drops_is_between_top_and_base() {
    let mut model = Model::new(&[shape(512), shape(512), shape(512)], false, false);
    let stream = |base: Option<&str>, end| Step::Stream {
        top: "image3".to_owned(),
        base: base.map(str::to_owned),
        job: job(Vec::new(), Vec::new(), end),
    };
    model.apply(&stream(Some("image1"), End::Cancel));
    assert_eq!(model.chain_text(), "image3 -> image2 -> image1");
    model.apply(&stream(Some("image1"), End::Complete));
    assert_eq!(model.chain_text(), "image3 -> image1");
    model.apply(&stream(None, End::Complete));
    assert_eq!(model.chain_text(), "image3");
}

#[test]
fn a_mirror_has_what_is_written_meanwhile_and_a_backup_has_not() {
    let held = vec![io(IoKind::Write(9), 0..1)];
    let mut copied = model();
    copied.apply(&Step::Backup {
        target: "image3".to_owned(),
        shape: shape(65536),
        what: Part::All,
        compressed: false,
        job: job(held.clone(), Vec::new(), End::Complete),
    });
    assert_eq!(byte(&copied, "image3", 0), Some(0));
    assert_eq!(byte(&copied, "image2", 0), Some(9));
    for (below, chain) in [(None, "image3"), (Some("image1"), "image3 -> image1")] {
        let mut model = model();
        let left = model.apply(&Step::Mirror {
            target: "image3".to_owned(),
            shape: shape(65536),
            below: below.map(str::to_owned),
            mode: "background",
            granularity: 65536,
            job: job(held.clone(), Vec::new(), End::Complete),
        });
        assert_eq!(
            (model.chain_text().as_str(), byte(&model, "image3", 0)),
            (chain, Some(9))
        );
        assert_eq!(left, ["image2"]);
    }
}

#[test]
fn a_bitmap_has_what_was_written_while_it_recorded() {
    let mut model = model();
    let bitmap = |name: &str, change| Step::Bitmap {
        node: "image2".to_owned(),
        name: name.to_owned(),
        change,
    };
    let add = |persistent, disabled| Change::Add {
        granularity: 1024,
        persistent,
        disabled,
    };
    model.apply(&bitmap("a", add(true, false)));
    model.apply(&bitmap("b", add(false, true)));
    model.apply(&write(1, 1000..1025));
    let dirty = |model: &Model, name: &str| -> Vec<(u64, u64)> {
        let ranges = model.active().bitmaps[name].ranges(65536).into_iter();
        ranges.map(|range| (range.start, range.end)).collect()
    };
    assert_eq!(dirty(&model, "a"), [(0, 2048)]);
    assert_eq!(dirty(&model, "b"), []);
    model.apply(&bitmap("b", Change::Enable));
    model.apply(&bitmap("a", Change::Disable));
    model.apply(&write(1, 65535..65536));
    assert_eq!(dirty(&model, "b"), [(64512, 65536)]);
    model.apply(&bitmap("a", Change::Merge(vec!["b".to_owned()])));
    assert_eq!(dirty(&model, "a"), [(0, 2048), (64512, 65536)]);
    model.apply(&Step::Restart { inside: None });
    let names: Vec<&String> = model.active().bitmaps.keys().collect();
    assert_eq!(names, ["a"]);
    model.apply(&bitmap("a", Change::Clear));
    assert_eq!(dirty(&model, "a"), []);
}

#[test]
fn an_overlay_shows_what_is_below_as_far_as_that_goes() {
    let mut model = Model::new(&[shape(1024)], true, true);
    model.apply(&write(5, 0..1024));
    model.apply(&Step::Snapshot {
        node: "image1".to_owned(),
        overlay: "image2".to_owned(),
        shape: shape(2048),
    });
    assert_eq!(
        (byte(&model, "image2", 1023), byte(&model, "image2", 1024)),
        (Some(5), Some(0))
    );
    assert_eq!(model.disk, 2048);
    model.apply(&Step::Resize { size: 4096 });
    assert_eq!((byte(&model, "image2", 4095), model.disk), (Some(0), 4096));
    assert_eq!(model.active().shape.size, 4096);
}
