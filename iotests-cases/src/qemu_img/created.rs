//! Images that `qemu-img create` refuses to make.

use iotests_core::author::{KEY, KEY_ID};
use iotests_core::prelude::*;

use super::with_cpu_time;

defaults! { formats = [QCOW2], protocols = [FILE], groups = [QUICK] }

/// What is asked for: `{base}` stands for a raw image of 1 MiB, `{key}` for a secret.
struct Refusal {
    arguments: &'static [&'static str],
    size: &'static str,
    error: &'static str,
}

/// The largest size of a disk that is a multiple of 512.
const LARGEST: &str = "9223372036854775296";

rows! {
    REFUSALS: Refusal { arguments, size, error };
    "over-what-is-not-there" => &["-f", "qcow2", "-b", "/nowhere", "-F", "raw"], "1M",
        "Could not open '/nowhere'";
    "over-what-is-of-another-format" => &["-f", "qcow2", "-b", "{base}", "-F", "qcow2"], "1M",
        "Image is not in qcow2 format";
    "over-what-has-no-format" => &["-f", "qcow2", "-b", "{base}"], "1M",
        "Backing file specified without backing format";
    "over-itself" => &["-f", "qcow2", "-b", "{image}", "-F", "qcow2"], "1M",
        "Trying to create an image with the same filename as the backing file";
    "raw-over-anything" => &["-f", "raw", "-b", "{base}", "-F", "raw"], "1M",
        "Backing file not supported for file format 'raw'";
    "of-an-unknown-format" => &["-f", "nonsense"], "1M", "Unknown file format 'nonsense'";
    "with-an-empty-option" => &["-f", "qcow2", "-o", ""], "1M", "Invalid option list";
    "with-an-unknown-option" => &["-f", "qcow2", "-o", "nonsense=1"], "1M",
        "Invalid parameter 'nonsense'";
    "negative" => &["-f", "qcow2"], "-1", "Invalid image size specified";
    "without-a-size" => &["-f", "qcow2", "-o", "lazy_refcounts=on"], "",
        "Image creation needs a size parameter";
    "larger-than-its-tables-allow" => &["-f", "qcow2", "-o", "cluster_size=512"], "1P",
        "The image size is too large for file format 'qcow2'";
    "encrypted-and-larger-than-all" => &[
            "-f", "luks", "-o", "key-secret={key},iter-time=10",
        ], LARGEST, "The requested file size is too large", needs = [Luks];
    "encrypted-without-a-key" => &["-f", "luks"], "1M", "Parameter 'key-secret' is required";
}

/// An invalid image is refused, and no file is left that was not there before.
#[case(rows = REFUSALS)]
async fn make_nothing(t: &mut Test, refusal: &Refusal) -> CaseResult {
    let base = t.image("base").format(RAW).size(MIB).create().await?;
    let file = t.file("image")?;
    let word = |word: &&str| {
        let word = word.replace("{base}", base.file().as_str());
        let word = word.replace("{image}", file.as_str());
        word.replace("{key}", KEY_ID)
    };
    let arguments = refusal.arguments.iter().map(word);
    let call = t.qemu_img(["create"]).secret(KEY_ID, KEY).args(arguments);
    let size = Some(refusal.size).filter(|size| !size.is_empty());
    let call = call.arg("--").arg(file.as_str()).args(size);
    let output = with_cpu_time(call).await?;
    check!(output.status.code() == Some(1));
    let said = output.combined_text();
    check!(said.contains(refusal.error), "{said}");
    check!(!file.exists(), "there is a file now");
    base.assert_fill(0).await
}
