//! How long names may be, and what they may hold.

use iotests_core::prelude::*;
use nbd::proto::OptionCode;

use super::super::wire::{Wire, counted, option, with};
use super::{LONGEST, SIZE, Victim};

/// Names and descriptions up to the greatest length are served; what is longer is refused, and nothing has changed.
#[case(host = Any, groups = [QUICK])]
async fn have_a_greatest_length(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(SIZE).fill(0x11).create().await?;
    let vm = t.host().blockdev(&disk).launch().await?;
    let server = vm.nbd_server().start().await?;
    let longest = "n".repeat(LONGEST);
    let add = |name: &str, description: &str| {
        let export = json!({
            "type": "nbd", "id": "export", "node-name": "disk", "name": name,
            "description": description,
        });
        vm.cmd("block-export-add", export)
    };
    let (name, description) = (format!("{longest}n"), format!("{longest}d"));
    let why = format!("export name '{name}' too long");
    add(&name, "").refused(why).await?;
    let why = format!("description '{description}' too long");
    add("disk", &description).refused(why).await?;
    add(&longest, &longest).await?;

    let client = nbd::Client::builder().context("base:allocation");
    let client = client.export(longest.clone());
    let socket = server.socket().ok_or_else(|| Failure::new("no socket"))?;
    let client = client.connect_unix(&**socket).await?;
    check!(client.export().description.as_ref() == Some(&longest));
    check!(client.read(0, SIZE).await?.iter().all(|byte| *byte == 0x11));
    client.disconnect().await?;
    vm.remove_export("export").await?;
    vm.shutdown().await?;
    disk.assert_fill(0x11).await
}

/// How a client chooses by `EXPORT_NAME`, and how many bytes the server says to that before it waits for requests.
struct Choice {
    sent: fn() -> Vec<u8>,
    said: usize,
}

const NUL: KnownBug = known(
    "the name of EXPORT_NAME is cut at a NUL, so that an export of another name is found",
    "a client got 10 bytes",
    ALWAYS,
);

rows! {
    CHOICES: Choice { sent, said };
    "its-name" => || with(vec![0, 0, 0, 3], &option(OptionCode::EXPORT_NAME, b"disk")), 10;
    "its-name-in-the-oldest-way" => || with(vec![0; 4], &option(OptionCode::EXPORT_NAME, b"disk")),
        134;
    "another-option-in-the-oldest-way" => || with(vec![0; 4], &option(OptionCode::LIST, &[])), 0;
    "its-name-and-a-nul" => || with(vec![0, 0, 0, 3], &option(OptionCode::EXPORT_NAME,
        b"disk\0other")), 0, known_bugs = [NUL];
    "a-part-of-its-name" => || with(vec![0, 0, 0, 3], &option(OptionCode::EXPORT_NAME, b"dis")), 0;
    "its-name-after-a-refused-one" => || with(with(vec![0, 0, 0, 3], &option(OptionCode::GO,
        &with(counted(b"other"), &[0, 0]))), &option(OptionCode::EXPORT_NAME, b"disk")),
        20 + b"export 'other' not present".len() + 10;
}

/// An export is chosen by its whole name, also after another was refused; where there is none of the name, the server hangs up.
#[case(host = Any, rows = CHOICES, groups = [QUICK], needs = [Driver("throttle")])]
async fn choose_an_export(t: &mut Test, choice: &Choice) -> CaseResult {
    let victim = Victim::machine(t, None).await?;
    let mut wire = Wire::connect(victim.socket()?).await?;
    wire.send(&(choice.sent)()).await;
    wire.say_no_more().await;
    let said = wire.ended().await.len();
    check!(said == choice.said, "a client got {said} bytes");
    victim.lives(&(0..0)).await?;
    victim.ends(&(0..0)).await
}
