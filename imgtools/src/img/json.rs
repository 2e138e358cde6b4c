//! The JSON that qemu-img prints, without loss: unknown members are kept alongside known ones, so
//! that values round-trip.
//!
//! The types follow `qapi/block-core.json`; versions in the comments are those of QEMU that added a
//! member. Members without one existed in 6.2. Sizes and offsets are in bytes.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Unknown members.
pub type Other = Map<String, Value>;

/// `info`: the description of an image (`ImageInfo`, in newer versions `BlockGraphInfo`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct ImageInfo {
    /// The name by which it was opened.
    pub filename: String,
    /// The format, such as `qcow2`; for a protocol node its driver, such as `file`.
    pub format: String,
    /// The size that a guest sees.
    pub virtual_size: u64,
    /// Its allocated size on disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual_size: Option<u64>,
    /// Whether it was not closed cleanly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dirty_flag: Option<bool>,
    /// The size of a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// Whether it is encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<bool>,
    /// Whether it has compressed data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compressed: Option<bool>,
    /// The backing file as recorded in the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename: Option<String>,
    /// The backing file with its path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_backing_filename: Option<String>,
    /// The backing file's format as recorded in the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename_format: Option<String>,
    /// The internal snapshots.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<SnapshotInfo>,
    /// Format-specific information.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format_specific: Option<FormatSpecific>,
    /// The nodes below (8.0; absent before).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub children: Option<Vec<ChildInfo>>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Other,
}

/// A node below another one (`BlockChildInfo`, 8.0).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ChildInfo {
    /// Its role for the parent, such as `file`.
    pub name: String,
    /// Its description.
    pub info: ImageInfo,
    /// Everything else.
    #[serde(flatten)]
    pub other: Other,
}

/// An internal snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct SnapshotInfo {
    /// The id, a number as text.
    pub id: String,
    /// The name.
    pub name: String,
    /// The size of the machine's state.
    pub vm_state_size: u64,
    /// When it was taken: seconds since 1970.
    pub date_sec: i64,
    /// When it was taken: nanoseconds of the second.
    pub date_nsec: i64,
    /// The clock of the machine: seconds.
    pub vm_clock_sec: i64,
    /// The clock of the machine: nanoseconds of the second.
    pub vm_clock_nsec: i64,
    /// The instruction count of the machine, if it had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icount: Option<i64>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Other,
}

/// Information specific to a format or protocol (`ImageInfoSpecific`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data", rename_all = "lowercase")]
#[non_exhaustive]
pub enum FormatSpecific {
    /// Of qcow2.
    Qcow2(Qcow2Info),
    /// Of vmdk.
    Vmdk(VmdkInfo),
    /// Of LUKS.
    Luks(LuksInfo),
    /// Of rbd.
    Rbd(RbdInfo),
    /// Of a file (8.0).
    File(FileInfo),
    /// Of an unknown format, or in an unknown form.
    #[serde(untagged)]
    Other(Value),
}

/// Information specific to qcow2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Qcow2Info {
    /// The compatibility level, `0.10` or `1.1`.
    pub compat: String,
    /// The data file as recorded in the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_file: Option<String>,
    /// Whether the data file is a raw image by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_file_raw: Option<bool>,
    /// Whether there are subclusters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extended_l2: Option<bool>,
    /// Whether lazy refcounts are enabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lazy_refcounts: Option<bool>,
    /// Whether it was marked as corrupt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrupt: Option<bool>,
    /// The width of a refcount.
    pub refcount_bits: u32,
    /// Its encryption.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypt: Option<EncryptInfo>,
    /// The persistent bitmaps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bitmaps: Option<Vec<BitmapInfo>>,
    /// How clusters are compressed, such as `zlib`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression_type: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Other,
}

/// A persistent bitmap of a qcow2 image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BitmapInfo {
    /// The name.
    pub name: String,
    /// How many bytes a bit covers.
    pub granularity: u64,
    /// The flags: `in-use`, `auto`.
    pub flags: Vec<String>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Other,
}

/// The encryption of a qcow2 image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "format", rename_all = "lowercase")]
#[non_exhaustive]
pub enum EncryptInfo {
    /// The old, weak AES encryption.
    Aes,
    /// A LUKS header inside the image.
    Luks(LuksInfo),
    /// An unknown encryption.
    #[serde(untagged)]
    Other(Value),
}

/// A LUKS header. It can be read without the secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct LuksInfo {
    /// The cipher, such as `aes-256`.
    pub cipher_alg: String,
    /// Its mode, such as `xts`.
    pub cipher_mode: String,
    /// How the initialisation vector is generated.
    pub ivgen_alg: String,
    /// The hash that this needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ivgen_hash_alg: Option<String>,
    /// The hash of the key derivation.
    pub hash_alg: String,
    /// Whether the header is in a separate file (9.0).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detached_header: Option<bool>,
    /// Where the data begins.
    pub payload_offset: u64,
    /// The iterations for the master key.
    pub master_key_iters: u64,
    /// The id of the volume.
    pub uuid: String,
    /// The key slots.
    pub slots: Vec<LuksSlot>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Other,
}

/// A key slot of a LUKS header.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct LuksSlot {
    /// Whether it is used.
    pub active: bool,
    /// The iterations of its key derivation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iters: Option<u64>,
    /// The stripes of its key material.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stripes: Option<u64>,
    /// Where its key material is.
    pub key_offset: u64,
    /// Everything else.
    #[serde(flatten)]
    pub other: Other,
}

/// Information specific to vmdk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct VmdkInfo {
    /// The kind of the image, such as `monolithicSparse`.
    pub create_type: String,
    /// The content id.
    pub cid: u64,
    /// The content id of the parent.
    pub parent_cid: u64,
    /// The extents.
    pub extents: Vec<VmdkExtent>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Other,
}

/// An extent of a vmdk image: before 8.0 a whole `ImageInfo` of which only these members matter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct VmdkExtent {
    /// The file.
    pub filename: String,
    /// The kind, such as `SPARSE` or `FLAT`.
    pub format: String,
    /// The size that a guest sees.
    pub virtual_size: u64,
    /// The size of a grain, if it has grains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// Whether the grains are compressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compressed: Option<bool>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Other,
}

/// Information specific to rbd.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct RbdInfo {
    /// The encryption, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption_format: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Other,
}

/// Information specific to a file (8.0).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct FileInfo {
    /// The extent size hint of the file system, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extent_size_hint: Option<u64>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Other,
}

/// `check`: what was found in an image (`ImageCheck`). A count that is absent in the JSON is 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct CheckReport {
    /// The name by which it was opened.
    pub filename: String,
    /// The format.
    pub format: String,
    /// Errors that prevented parts of the check.
    pub check_errors: i64,
    /// Where the image ends in its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_end_offset: Option<u64>,
    /// Remaining corruptions.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub corruptions: u64,
    /// Remaining leaked clusters.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub leaks: u64,
    /// Corruptions that were repaired.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub corruptions_fixed: u64,
    /// Leaked clusters that were freed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub leaks_fixed: u64,
    /// The total number of clusters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_clusters: Option<u64>,
    /// Allocated clusters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocated_clusters: Option<u64>,
    /// Fragmented clusters: not where a sequential image would have them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fragmented_clusters: Option<u64>,
    /// Compressed clusters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compressed_clusters: Option<u64>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Other,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// `map`: a part of an image with uniform state (`MapEntry`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MapExtent {
    /// Its guest offset.
    pub start: u64,
    /// Its length.
    pub length: u64,
    /// The image of the chain that holds it; 0 is the top.
    pub depth: u64,
    /// Whether any image of the chain holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
    /// Whether it reads as zeroes.
    pub zero: bool,
    /// Whether it has data.
    pub data: bool,
    /// Whether the data is compressed (8.2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compressed: Option<bool>,
    /// Its offset in the file, if it is contiguous there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Other,
}

impl MapExtent {
    /// Where it ends.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }
}

/// `measure`: how large a file would be (`BlockMeasureInfo`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct MeasureReport {
    /// For this content.
    pub required: u64,
    /// When fully allocated.
    pub fully_allocated: u64,
    /// For the bitmaps in addition, if the formats support any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bitmaps: Option<u64>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Other,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Any JSON.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z-]{1,8}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn keeps<T: Serialize + serde::de::DeserializeOwned>(document: &Value) {
        let parsed: T = serde_json::from_str(&document.to_string()).unwrap();
        assert_eq!(&serde_json::to_value(parsed).unwrap(), document);
    }

    proptest! {
        #[test]
        fn members_and_types_of_tomorrow_are_kept(
            new in prop::collection::btree_map("new-[a-z]{1,8}", value(), 0..4),
            kind in "[a-z0-9]{1,8}", data in value(),
        ) {
            let with = |mut known: Value| {
                let members = known.as_object_mut().unwrap();
                members.extend(new.iter().map(|(key, value)| (key.clone(), value.clone())));
                known
            };
            let info = with(json!({ "filename": "x", "format": "raw", "virtual-size": 1 }));
            keeps::<ImageInfo>(&info);
            let mut specific = info.clone();
            specific["format-specific"] = json!({ "type": kind, "data": data });
            keeps::<ImageInfo>(&specific);
            specific["format-specific"] = json!({ "type": "qcow2", "data": data });
            keeps::<ImageInfo>(&specific);
            let qcow2 = with(json!({ "compat": "1.1", "refcount-bits": 16 }));
            specific["format-specific"] = json!({ "type": "qcow2", "data": qcow2 });
            keeps::<ImageInfo>(&specific);
            specific["children"] = json!([with(json!({ "name": "file", "info": info }))]);
            keeps::<ImageInfo>(&specific);
            keeps::<CheckReport>(&with(json!({
                "filename": "x", "format": "qcow2", "check-errors": 0, "leaks": 3
            })));
            keeps::<MapExtent>(&with(json!({
                "start": 0, "length": 1, "depth": 0, "zero": false, "data": true
            })));
            keeps::<MeasureReport>(&with(json!({ "required": 1, "fully-allocated": 2 })));
        }
    }
}
