//! The environment variables of a script: those that upstream's `check` sets, with the same
//! meaning.

use std::env;
use std::ffi::OsString;
use std::path::Path;

use super::ScriptSpec;
use crate::case::{Format, ToolKind};
use crate::wire::CaseSpec;

/// The machine types that emulators of these architectures need in order to start.
const MACHINES: [(&str, &str); 11] = [
    ("aarch64", "virt"),
    ("arm", "virt"),
    ("avr", "mega2560"),
    ("m68k", "virt"),
    ("or1k", "virt"),
    ("riscv32", "virt"),
    ("riscv64", "virt"),
    ("rx", "gdbsim-r5f562n8"),
    ("sh4", "r2d"),
    ("sh4eb", "r2d"),
    ("tricore", "tricore_testboard"),
];

/// Default image options of a format: without them, LUKS takes seconds for each image, and VMDK
/// cannot write zeroes.
const DEFAULT_OPTIONS: [(Format, &str); 2] = [
    (Format::Luks, "iter-time=10"),
    (Format::Vmdk, "zeroed_grain=on"),
];

/// The passphrase of all LUKS images of a script; not a secret.
const LUKS_KEY: &str = "123456";

/// All variables with their values; a variable without a value must be unset.
pub(crate) fn variables(
    spec: &CaseSpec,
    own: &ScriptSpec,
) -> Vec<(&'static str, Option<OsString>)> {
    let mut all: Vec<(&'static str, Option<OsString>)> = Vec::new();
    let mut set = |name: &'static str, value: OsString| all.push((name, Some(value)));
    let truth = |value: bool| OsString::from(if value { "true" } else { "false" });
    let is_luks = spec.format == Format::Luks;

    let emulator = program(spec, ToolKind::System);
    let mut options = "-nodefaults -display none -accel qtest".to_owned();
    let architecture = emulator.to_string_lossy();
    let architecture = architecture.rsplit("qemu-system-").next().unwrap_or_default();
    if let Some((_, machine)) = MACHINES.iter().find(|(name, _)| *name == architecture) {
        options += &format!(" -machine {machine}");
    }
    set("QEMU_PROG", emulator);
    set("QEMU_OPTIONS", options.into());
    set("QEMU_IMG_PROG", program(spec, ToolKind::Img));
    set("QEMU_IO_PROG", program(spec, ToolKind::Io));
    set("QEMU_NBD_PROG", program(spec, ToolKind::Nbd));
    set("QSD_PROG", program(spec, ToolKind::StorageDaemon));
    set("QEMU_DEFAULT_MACHINE", own.default_machine.clone().into());

    let mut io = format!("--cache {} --aio {}", spec.cache, spec.aio);
    if own.tooling.misalign {
        io += " --misalign";
    }
    set("QEMU_IO_OPTIONS_NO_FMT", io.clone().into());
    if !is_luks {
        io += &format!(" -f {}", spec.format);
    }
    set("QEMU_IO_OPTIONS", io.into());

    set("IMGFMT", spec.format.name().into());
    set("IMGPROTO", spec.protocol.name().into());
    set(
        "IMGFMT_GENERIC",
        truth(Format::GENERIC.contains(&spec.format)),
    );
    set("IMGOPTSSYNTAX", truth(is_luks));
    set("CACHEMODE", spec.cache.name().into());
    set("CACHEMODE_IS_DEFAULT", truth(own.cache_is_default));
    set("AIOMODE", spec.aio.name().into());
    set("TEST_DIR", spec.test_dir.clone().into());
    set("SOCK_DIR", spec.sock_dir.clone().into());
    set("PYTHONPATH", python_path(&own.script.folder));
    // Python also looks there for its own library; if nothing could be written, each script would
    // compile all of it again.
    set("PYTHONPYCACHEPREFIX", own.bytecode.clone().into());
    // If it is aborted at its deadline, Python prints its stack.
    set("PYTHONFAULTHANDLER", "1".into());

    let samples = env::var_os("SAMPLE_IMG_DIR");
    let samples = samples.unwrap_or_else(|| own.script.folder.join("sample_images").into());
    all.push(("SAMPLE_IMG_DIR", Some(samples)));
    all.push(("PYTHONDONTWRITEBYTECODE", None));
    all.push(("PYTHON", own.python.clone().map(OsString::from)));
    all.push(("IMGOPTS", image_options(spec).map(OsString::from)));
    all.push(("IMGKEYSECRET", is_luks.then(|| LUKS_KEY.into())));
    all.push(("VALGRIND_QEMU", own.tooling.valgrind.then(|| "y".into())));
    all.push(("GDB_OPTIONS", own.tooling.gdb.clone().map(OsString::from)));
    all.push(("PRINT_QEMU", spec.print.then(|| "y".into())));
    all
}

/// A program of the set, or a nonexistent name, so that a script that checks for it finds it
/// missing.
fn program(spec: &CaseSpec, kind: ToolKind) -> OsString {
    match spec.tools.get(&kind) {
        Some(tool) => tool.path.clone().into(),
        None => format!("{}-is-missing", kind.name()).into(),
    }
}

/// The helpers of the tests, the library of the tree, and the user's own path.
fn python_path(folder: &Path) -> OsString {
    let library = folder.join("../../python");
    let library = std::fs::canonicalize(&library).unwrap_or(library);
    let user = env::var_os("PYTHONPATH").filter(|path| !path.is_empty());
    let mut path = folder.as_os_str().to_owned();
    for part in [Some(library.into_os_string()), user].into_iter().flatten() {
        path.push(":");
        path.push(part);
    }
    path
}

fn image_options(spec: &CaseSpec) -> Option<String> {
    let mut options = spec.imgopts.clone();
    for (format, option) in DEFAULT_OPTIONS {
        let name = option.split('=').next().unwrap_or_default();
        let is_given = |given: &String| given.split('=').next() == Some(name);
        if spec.format == format && !options.iter().any(is_given) {
            options.push(option.to_owned());
        }
    }
    (!options.is_empty()).then(|| options.join(","))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::author::mocked;
    use crate::case::Tool;

    /// The variables of a script, without unset ones.
    fn found(spec: &CaseSpec) -> BTreeMap<&'static str, String> {
        let own = ScriptSpec::of(Path::new("/tree/tests/qemu-iotests/001"));
        let all = variables(spec, &own).into_iter();
        all.filter_map(|(name, value)| Some((name, value?.into_string().ok()?))).collect()
    }

    #[test]
    fn images_of_luks_have_a_key_and_are_made_quickly() {
        let mut spec = CaseSpec {
            format: Format::Luks,
            ..mocked::spec()
        };
        let luks = found(&spec);
        assert_eq!(luks["IMGOPTS"], "iter-time=10");
        assert_eq!(
            (&*luks["IMGKEYSECRET"], &*luks["IMGOPTSSYNTAX"]),
            ("123456", "true")
        );
        assert_eq!(luks["QEMU_IO_OPTIONS"], "--cache writeback --aio threads");
        spec.imgopts = ["key=1", "iter-time=20"].map(str::to_owned).to_vec();
        assert_eq!(found(&spec)["IMGOPTS"], "key=1,iter-time=20");
        let raw = found(&mocked::spec());
        assert!(["IMGOPTS", "IMGKEYSECRET"].iter().all(|name| !raw.contains_key(name)));
        assert_eq!(
            (&*raw["IMGOPTSSYNTAX"], &*raw["IMGFMT_GENERIC"]),
            ("false", "true")
        );
    }

    #[test]
    fn a_format_that_is_only_read_is_not_generic() {
        let spec = CaseSpec {
            format: Format::Bochs,
            ..mocked::spec()
        };
        assert_eq!(found(&spec)["IMGFMT_GENERIC"], "false");
    }

    #[test]
    fn an_emulator_that_has_no_machine_of_its_own_gets_one() {
        let mut spec = mocked::spec();
        for (name, ending) in [
            ("qemu-system-x86_64", "qtest"),
            ("qemu-system-aarch64", "qtest -machine virt"),
            ("qemu-system-avr", "qtest -machine mega2560"),
        ] {
            let tool = Tool::new(ToolKind::System, Path::new("/bin").join(name));
            spec.tools.insert(ToolKind::System, tool);
            let found = found(&spec);
            assert!(found["QEMU_OPTIONS"].ends_with(ending), "{found:?}");
            assert_eq!(found["QEMU_PROG"], format!("/bin/{name}"));
        }
    }
}
