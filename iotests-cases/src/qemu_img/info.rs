//! The information on an image, from qemu-img and from a machine that has it open.

use iotests_core::prelude::*;

defaults! {
    formats = [QCOW2], protocols = [FILE], groups = [QUICK],
    unsupported_imgopts = [
        "data_file", "encrypt", "extended_l2", "lazy_refcounts", "refcount_bits",
    ],
}

/// The properties of a qcow2 image that are reported.
struct Kind {
    compat: &'static str,
    compression: &'static str,
    lazy: bool,
    refcount_bits: u64,
    extended_l2: bool,
}

rows! {
    KINDS: Kind { compat, compression, lazy, refcount_bits, extended_l2 };
    "v2" => "0.10", "zlib", false, 16, false, upstream = "TestQCow2";
    "v3" => "1.1", "zstd", false, 16, false, needs = [Zstd], upstream = "TestQCow3NotLazy";
    "v3-zlib" => "1.1", "zlib", false, 16, false;
    "v3-lazy" => "1.1", "zlib", true, 16, false, upstream = "TestQCow3Lazy";
    "v3-wide-refcounts" => "1.1", "zlib", false, 64, false;
    "v3-extended-l2" => "1.1", "zlib", true, 1, true;
}

rows! {
    OPENED: Kind { compat: "1.1", compression, lazy, refcount_bits: 16, extended_l2: false };
    "as-lazy" => "zlib", false, upstream = "TestQCow3NotLazyQMP";
    "as-not-lazy" => "zstd", true, needs = [Zstd], upstream = "TestQCow3LazyQMP";
    "as-not-lazy-with-zlib" => "zlib", true;
}

impl Kind {
    async fn create(&self, t: &Test) -> CaseResult<Image> {
        let image = t.image("disk").size(128 * KIB).option("compat", self.compat);
        let image = image.option("compression_type", self.compression);
        let image = image.option("refcount_bits", self.refcount_bits);
        match self.compat {
            "0.10" => image.create().await,
            _ => {
                let lazy = if self.lazy { "on" } else { "off" };
                let extended = if self.extended_l2 { "on" } else { "off" };
                let image = image.option("lazy_refcounts", lazy);
                image.option("extended_l2", extended).create().await
            }
        }
    }

    /// All that is specific to the format, in the order in which it is printed.
    fn facts(&self) -> Vec<(&'static str, Value)> {
        let v3 = self.compat == "1.1";
        let facts = [
            ("compat", self.compat.into(), true),
            ("compression-type", self.compression.into(), true),
            ("lazy-refcounts", self.lazy.into(), v3),
            ("refcount-bits", self.refcount_bits.into(), true),
            ("corrupt", false.into(), v3),
            ("extended-l2", self.extended_l2.into(), v3),
        ];
        let facts = facts.into_iter().filter(|(_, _, recorded)| *recorded);
        facts.map(|(name, value, _)| (name, value)).collect()
    }

    /// The information has these facts, and no others.
    fn assert_json(&self, info: &Value) -> CaseResult {
        let facts = self.facts().into_iter();
        let data: serde_json::Map<_, _> =
            facts.map(|(name, value)| (name.to_owned(), value)).collect();
        info.assert("format-specific/type", "qcow2")?;
        info.assert("format-specific/data", Value::Object(data))
    }
}

/// The JSON of qemu-img has everything that is specific to the format.
#[case(upstream = "065::{kind}::test_json", groups = [IMG], rows = KINDS)]
async fn has_the_format_in_json(t: &mut Test, kind: &Kind) -> CaseResult {
    let image = kind.create(t).await?;
    let file = image.file_bytes()?;
    let info = t.qemu_img(["info", "--output=json", image.filename()]).json().await?;
    info.assert("virtual-size", 128 * KIB)?;
    kind.assert_json(&info)?;
    file.assert_unchanged()
}

/// The text of qemu-img has the same facts, each on an indented line of its own.
#[case(upstream = "065::{kind}::test_human", groups = [IMG], rows = KINDS)]
async fn has_the_format_as_text(t: &mut Test, kind: &Kind) -> CaseResult {
    let image = kind.create(t).await?;
    let text = t.qemu_img(["info", "--output=human", image.filename()]).text().await?;
    let lines = text.lines().skip_while(|line| *line != "Format specific information:");
    let found: Vec<&str> = lines.skip(1).take_while(|line| line.starts_with(' ')).collect();
    let fact = |(name, value): (&str, Value)| {
        let value = value.as_str().map_or(value.to_string(), str::to_owned);
        format!("    {}: {value}", name.replace('-', " "))
    };
    let expected: Vec<String> = kind.facts().into_iter().map(fact).collect();
    check!(found == expected);
    Ok(())
}

/// A machine reports what the image records, not the options that the image was opened with, and writes nothing for that.
#[case(upstream = "065::{kind}::test_qmp", host = Any, rows = OPENED)]
async fn is_reported_by_a_machine(t: &mut Test, kind: &Kind) -> CaseResult {
    let image = kind.create(t).await?;
    let node = image.node().set("lazy-refcounts", !kind.lazy);
    let file = image.file_bytes()?;
    let vm = t.host().disk(Disk::of(node)).launch().await?;
    kind.assert_json(vm.node("disk").await?.at("image")?)?;
    file.assert_unchanged()?;

    vm.disk("disk").write(0x11, 0..64 * KIB).await?;

    kind.assert_json(vm.node("disk").await?.at("image")?)?;
    vm.shutdown().await?;
    let info = t.qemu_img(["info", "--output=json", image.filename()]).json().await?;
    kind.assert_json(&info)?;
    image.assert_reads(&[(0x11, 0..64 * KIB)]).await?;
    image.assert_clean().await
}
