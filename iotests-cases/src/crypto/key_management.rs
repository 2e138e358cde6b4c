//! Keys of LUKS images, added and erased while the image is in use.

use std::collections::BTreeSet;

use imgtools::qcow2;
use iotests_core::author::{ImageBuilder, KEY, KEY_ID, NO_CPU_TIME, Run};
use iotests_core::prelude::*;

use crate::json::number;

defaults! {
    formats = [QCOW2, LUKS],
    groups = [RW, CRYPTO],
    needs = [Luks, Command("x-blockdev-amend")],
    host = Any,
    budget = secs(600),
    known_bugs = [LUKS_ABORTS],
}

/// Key 0 is the one that the image was made with.
const KEYS: usize = 6;
const SLOTS: usize = 8;

/// Where a LUKS header describes its first slot, and how long each description is.
const SLOT: u64 = 208;
const SLOT_SIZE: u64 = 48;

/// An encrypted image that is open in a machine, which knows all keys.
struct Disk<'t> {
    t: &'t Test,
    vm: Machine,
    image: Image,
}

impl<'t> Disk<'t> {
    /// An image with key 0 in slot 0; a LUKS image is one that QEMU made itself. (That takes it two
    /// seconds. The header in a qcow2 image is the same, and made by the same code.)
    async fn open(t: &'t Test) -> CaseResult<Self> {
        let image = t.image("disk");
        let image = match t.format() {
            Format::Luks => image.encrypted(),
            _ => image.keys(&[]),
        };
        Disk::of(t, image).await
    }

    /// An image that has these keys in these slots already, beside key 0.
    async fn with_keys(t: &'t Test, keys: &[(usize, usize)]) -> CaseResult<Self> {
        let keys = keys.iter().map(|(slot, key)| (*slot, password(*key)));
        let keys: Vec<_> = keys.collect();
        Disk::of(t, t.image("disk").keys(&keys)).await
    }

    async fn of(t: &'t Test, image: ImageBuilder) -> CaseResult<Self> {
        let image = image.size(MIB).fill(0x42).create().await?;
        let mut host = t.host().key().blockdev(image.node());
        for key in 1..KEYS {
            host = host.secret(&id(key), &password(key));
        }
        let vm = host.launch().await?;
        Ok(Disk { t, vm, image })
    }

    /// What is under `encrypt` in a qcow2 node stands in a LUKS node itself.
    fn nested(&self, mut options: Value) -> Value {
        if self.t.format() == Format::Luks {
            return options;
        }
        options["format"] = "luks".into();
        json!({"encrypt": options})
    }

    fn node(&self, name: &str, key: usize) -> Node {
        let node = Node::new(self.t.format().name()).node_name(name);
        let node = node.file(self.image.protocol_node());
        match self.t.format() {
            Format::Luks => node.set("key-secret", id(key)),
            _ => node.set("encrypt", json!({"format": "luks", "key-secret": id(key)})),
        }
    }

    async fn reopen(&self, key: usize) -> CaseResult {
        let name = self.image.name();
        self.vm.remove_node(name).await?;
        self.vm.add_node(self.node(name, key)).await?;
        Ok(())
    }

    /// Adds or erases a key.
    async fn amend(&self, change: Value, force: bool) -> CaseResult {
        while let Some(error) = self.change(change.clone(), force).error().await? {
            check!(error.contains(NO_CPU_TIME), "the job failed: {error}");
        }
        Ok(())
    }

    fn change(&self, change: Value, force: bool) -> Run<'_> {
        let mut options = self.nested(change);
        options["driver"] = self.t.format().name().into();
        let arguments = json!({"node-name": self.image.name(), "options": options});
        let job = self.vm.job("x-blockdev-amend", arguments);
        if force {
            job.set("force", true).run()
        } else {
            job.run()
        }
    }

    /// A change that is refused, and changes nothing.
    async fn refuse(&self, change: Value, error: &str) -> CaseResult {
        let content = self.image.file_bytes()?;
        self.change(change, false).expect_error(error).await?;
        self.vm.assert_no_jobs().await?;
        content.assert_unchanged()
    }

    /// What qemu-img reports of the LUKS header.
    async fn luks(&self) -> CaseResult<Value> {
        let info = self.image.info().with(|call| call.force_share());
        let info = info.json().await?;
        match self.t.format() {
            Format::Luks => info.at("format-specific/data").cloned(),
            _ => info.at("format-specific/data/encrypt").cloned(),
        }
    }

    /// Bytes of the LUKS header, or of what follows it.
    fn header_bytes(&self, at: u64, length: u64) -> CaseResult<Vec<u8>> {
        let header = match self.t.format() {
            Format::Luks => 0,
            _ => luks_header(&self.image)?,
        };
        Ok(qcow2::peek(self.image.file(), header + at, length)?)
    }

    /// What the file has of the key in this slot, by sectors.
    async fn stored_key(&self, slot: u64) -> CaseResult<Vec<Vec<u8>>> {
        let luks = self.luks().await?;
        let at = number(&luks, &format!("slots[{slot}]/key-offset"))?;
        // In the header stand the length of a key and how often a slot has it.
        let number = |at| self.header_bytes(at, 4);
        let [length, stripes] = [number(108)?, number(SLOT + slot * SLOT_SIZE + 44)?];
        let number = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
        let key = self.header_bytes(at, number(&length) * number(&stripes))?;
        Ok(key.chunks(512).map(<[u8]>::to_vec).collect())
    }

    /// Nothing is left of the key in this slot, nor of how it was derived.
    async fn assert_erased(&self, slot: u64, key: &[Vec<u8>]) -> CaseResult {
        let now = self.stored_key(slot).await?;
        let left = now.iter().zip(key).filter(|(now, was)| now == was);
        check!(left.count() == 0, "sectors of an erased key in the file");
        // The iterations and the salt.
        let derived = self.header_bytes(SLOT + slot * SLOT_SIZE + 4, 36)?;
        check!(derived == [0; 36], "slot {slot}");
        Ok(())
    }

    /// Exactly these slots hold a key, and exactly these keys open the image.
    async fn assert_keys(&self, in_slots: &[(usize, usize)]) -> CaseResult {
        self.vm.assert_no_jobs().await?;
        let luks = self.luks().await?;
        for slot in 0..SLOTS {
            let used = in_slots.iter().any(|(used, _)| *used == slot);
            luks.assert(&format!("slots[{slot}]/active"), used)?;
        }
        for key in 0..KEYS {
            // The image is open for writing already.
            let probe = self.node("probe", key).read_only(true);
            let probe = self.vm.add_node(probe.set("force-share", true));
            if in_slots.iter().any(|(_, known)| *known == key) {
                probe.await?;
                self.vm.remove_node("probe").await?;
            } else {
                probe.expect_error(NO_SLOT).await?;
            }
        }
        Ok(())
    }

    /// The machine can still write, whatever happened to the keys; afterwards those keys that are
    /// left show all data to a tool, and no other does.
    async fn close(self, left: &[usize]) -> CaseResult {
        self.vm.node(&self.image).write(0x43, 0..64 * KIB).await?;
        self.vm.shutdown().await?;
        for key in 0..KEYS {
            let secret = password(key);
            let options = self.image.image_opts();
            let read = ["-c", "read -P 0x43 0 64k", "-c", "read -P 0x42 64k 960k"];
            let io = self.t.qemu_io(["--image-opts", &options]).args(read);
            let io = io.secret(KEY_ID, &secret);
            if !left.contains(&key) {
                io.expect_error(NO_SLOT).await?;
                continue;
            }
            io.await?;
            if self.t.format() == Format::Qcow2 {
                let check = self.t.qemu_img(["check", "--image-opts", &options]);
                check.secret(KEY_ID, &secret).await?;
            }
        }
        Ok(())
    }
}

/// `qemu-storage-daemon` (or an emulator) with a LUKS node, then
/// `{"execute": "x-blockdev-amend", "arguments": {"job-id": "j", "node-name": "disk", "options":
/// {"driver": "luks", "state": "active", "new-secret": "key1"}}}`: the process aborts. The header is
/// read and written from the job's coroutine by functions that, since 1f051dcbdf and a4b740db5e, take
/// the graph lock as only the main loop may; "block: fix luks 'amend' when run in coroutine" has them
/// take it as a coroutine does.
const LUKS_ABORTS: KnownBug = known(
    "x-blockdev-amend of a LUKS node aborts",
    "bdrv_graph_rdlock_main_loop: Assertion `!qemu_in_coroutine()'",
    AllOf(&[since(8, 2), OnFormat(LUKS)]),
)
.fixed_in(["10.0.7", "10.2"]);

const NO_SLOT: &str = "Invalid password, cannot unlock any keyslot";

fn id(key: usize) -> String {
    if key == 0 {
        KEY_ID.to_owned()
    } else {
        format!("key{key}")
    }
}

/// Where a qcow2 image has its LUKS header.
fn luks_header(image: &Image) -> CaseResult<u64> {
    let image = qcow2::Image::open(image.file())?;
    let pointer = image.extension(qcow2::Extension::CRYPTO)?;
    let start = pointer
        .as_ref()
        .and_then(|it| it.data.first_chunk())
        .ok_or_else(|| Failure::new("the image points to no LUKS header"))?;
    Ok(u64::from_be_bytes(*start))
}

fn password(key: usize) -> String {
    if key == 0 {
        KEY.to_owned()
    } else {
        format!("password of key {key}")
    }
}

fn add(key: usize) -> Value {
    // Few iterations: the key is not worth more.
    json!({"state": "active", "new-secret": id(key), "iter-time": 1})
}

fn add_in_slot(key: usize, slot: usize) -> Value {
    let mut add = add(key);
    add["keyslot"] = slot.into();
    add
}

fn erase_slot(slot: usize) -> Value {
    json!({"state": "inactive", "keyslot": slot})
}

fn erase(key: usize) -> Value {
    json!({"state": "inactive", "old-secret": id(key)})
}

/// A key is added to the first free slot or to a given one, and a key that was erased no longer opens the
/// image.
#[case(upstream = "295::EncryptionSetupTestCase::testChangeKey")]
async fn keys_are_changed(t: &mut Test) -> CaseResult {
    let disk = Disk::open(t).await?;
    disk.assert_keys(&[(0, 0)]).await?;
    disk.amend(add(1), false).await?;
    // If no time were said, it would be two seconds, and so millions.
    let iterations = number(&disk.luks().await?, "slots[1]/iters")?;
    check!(
        iterations < 200_000,
        "slot 1 has {iterations} iterations, expected less than 200,000"
    );
    disk.assert_keys(&[(0, 0), (1, 1)]).await?;
    disk.amend(add_in_slot(2, 5), false).await?;
    disk.assert_keys(&[(0, 0), (1, 1), (5, 2)]).await?;
    let salt = |slot| disk.header_bytes(SLOT + slot * SLOT_SIZE + 8, 32);
    let salts = [salt(0)?, salt(1)?, salt(5)?, vec![0; 32]];
    let different = salts.iter().collect::<BTreeSet<_>>();
    check!(
        different.len() == salts.len(),
        "salts, none of them zero: {salts:x?}"
    );
    disk.amend(erase(0), false).await?;
    disk.assert_keys(&[(1, 1), (5, 2)]).await?;

    disk.reopen(1).await?;
    disk.assert_keys(&[(1, 1), (5, 2)]).await?;
    disk.close(&[1, 2]).await
}

/// When the key with which the image was opened is erased, keys can still be added, but only with
/// another valid key at hand.
#[case(upstream = "295::EncryptionSetupTestCase::testOldPassword")]
async fn keys_are_added_with_another_key_at_hand(t: &mut Test) -> CaseResult {
    let disk = Disk::with_keys(t, &[(1, 1)]).await?;
    disk.assert_keys(&[(0, 0), (1, 1)]).await?;
    disk.amend(erase(0), false).await?;
    disk.assert_keys(&[(1, 1)]).await?;

    disk.refuse(add(2), NO_SLOT).await?;
    disk.assert_keys(&[(1, 1)]).await?;
    let mut with_key_1 = add(2);
    with_key_1["secret"] = id(1).into();
    disk.amend(with_key_1, false).await?;
    disk.assert_keys(&[(0, 2), (1, 1)]).await?;
    disk.close(&[1, 2]).await
}

/// A key is overwritten, or the last one erased, only with force; after that nothing opens the image,
/// but a machine that has it open carries on.
#[case(upstream = "295::EncryptionSetupTestCase::testUseForceLuke")]
async fn keys_are_destroyed_only_with_force(t: &mut Test) -> CaseResult {
    let disk = Disk::with_keys(t, &[(1, 0), (2, 4), (4, 1)]).await?;
    disk.assert_keys(&[(0, 0), (1, 0), (2, 4), (4, 1)]).await?;

    t.step("overwrite");
    let in_use = "Refusing to overwrite active keyslot 2 - please erase it first";
    disk.refuse(add_in_slot(5, 2), in_use).await?;
    disk.amend(add_in_slot(5, 2), true).await?;
    disk.assert_keys(&[(0, 0), (1, 0), (2, 5), (4, 1)]).await?;

    t.step("erase");
    disk.amend(erase(5), false).await?;
    let stored = disk.stored_key(4).await?;
    disk.amend(erase_slot(4), false).await?;
    disk.assert_erased(4, &stored).await?;
    disk.assert_keys(&[(0, 0), (1, 0)]).await?;
    let last =
        "erasing them will erase all the data in the image irreversibly - refusing operation";
    disk.refuse(erase(0), last).await?;
    disk.assert_keys(&[(0, 0), (1, 0)]).await?;
    disk.amend(erase_slot(1), false).await?;
    let last = "Attempt to erase the only active keyslot 0";
    disk.refuse(erase_slot(0), last).await?;
    disk.assert_keys(&[(0, 0)]).await?;
    disk.amend(erase(0), true).await?;
    disk.assert_keys(&[]).await?;
    disk.close(&[]).await
}

/// A key is erased from every slot that has it, and from no other.
#[case]
async fn a_key_is_erased_from_all_its_slots(t: &mut Test) -> CaseResult {
    let disk = Disk::with_keys(t, &[(1, 1), (3, 2), (7, 1)]).await?;
    let mut stored = Vec::new();
    for slot in [1, 3, 7] {
        stored.push(disk.stored_key(slot).await?);
    }
    disk.amend(erase(1), false).await?;
    disk.assert_erased(1, &stored[0]).await?;
    disk.assert_erased(7, &stored[2]).await?;
    check!(disk.stored_key(3).await? == stored[1]);
    disk.assert_keys(&[(0, 0), (3, 2)]).await?;
    disk.close(&[0, 2]).await
}

/// An invalid change of the keys.
struct Refusal {
    change: fn() -> Value,
    error: &'static str,
}

rows! {
    REFUSALS: Refusal { change, error };
    "add-to-slot-8" => || add_in_slot(2, 8), "Invalid keyslot 8 specified, must be between 0 and 7";
    "add-nothing" =>
        || json!({"state": "active"}),
        "'new-secret' is required to activate a keyslot";
    "add-with-old-key" =>
        || json!({"state": "active", "new-secret": id(2), "old-secret": id(0)}),
        "'old-secret' must not be given when activating keyslots";
    "add-a-secret-that-is-not-there" =>
        || json!({"state": "active", "new-secret": "nobody"}),
        "No secret with id 'nobody'";
    "erase-nothing" =>
        || json!({"state": "inactive"}),
        "either explicit keyslot index or the password currently contained in them must be given";
    "erase-slot-8" => || erase_slot(8), "Invalid keyslot 8 specified, must be between 0 and 7";
    "erase-an-empty-slot" => || erase_slot(5), "Given keyslot 5 is already erased (inactive)";
    "erase-a-slot-with-another-key" =>
        || json!({"state": "inactive", "keyslot": 1, "old-secret": id(0)}),
        "Given keyslot 1 doesn't contain the given old password";
    "erase-an-unknown-key" => || erase(3), "No keyslots match given (old) password";
    "erase-with-new-key" =>
        || json!({"state": "inactive", "keyslot": 1, "new-secret": id(2)}),
        "'new-secret' must not be given when erasing keyslots";
    "erase-with-iterations" =>
        || json!({"state": "inactive", "keyslot": 1, "iter-time": 1}),
        "'iter-time' must not be given when erasing keyslots";
    "erase-with-key-at-hand" =>
        || json!({"state": "inactive", "keyslot": 1, "secret": id(0)}),
        "'secret' must not be given when erasing keyslots";
}

/// An invalid change is refused, and leaves all keys as they are.
#[case(formats = [QCOW2], budget = secs(300), rows = REFUSALS)]
async fn keys_are_left_alone(t: &mut Test, refusal: &Refusal) -> CaseResult {
    let disk = Disk::with_keys(t, &[(1, 1)]).await?;
    disk.refuse((refusal.change)(), refusal.error).await?;
    disk.vm.shutdown().await?;
    Ok(())
}

/// Where every slot has a key, another one cannot be added.
#[case(formats = [QCOW2], budget = secs(300))]
async fn keys_have_eight_slots(t: &mut Test) -> CaseResult {
    let disk = Disk::with_keys(t, &[1, 2, 3, 4, 5, 6, 7].map(|slot| (slot, 1))).await?;
    let full = "Can't add a keyslot - all keyslots are in use";
    disk.refuse(add(2), full).await?;
    disk.amend(erase_slot(6), false).await?;
    disk.amend(add(2), false).await?;
    disk.refuse(add(3), full).await?;
    disk.vm.shutdown().await?;
    Ok(())
}
