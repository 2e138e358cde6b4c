//! `qemu-img create`, which knows the options under test, LUKS and backing files.

use std::path::Path;

use super::{Arguments, Call, ImgError, Operation};
use crate::image::{FileName, NameError, Options, Secret};
use crate::process::Output;

/// The time that unlocking may take, unless the options say otherwise. QEMU's own default is two
/// seconds, which no test needs.
const ITER_TIME_MS: u32 = 10;

/// `create`.
#[derive(Clone, Debug)]
pub struct Create {
    file: FileName,
    format: Option<String>,
    size: Option<String>,
    options: Options,
    backing: Option<(FileName, Option<String>)>,
    unsafe_backing: bool,
    secret: Option<Secret>,
    encrypt: bool,
    objects: Vec<Secret>,
}

impl Create {
    pub(super) fn new(file: FileName) -> Create {
        Create {
            file,
            format: None,
            size: None,
            options: Options::new(),
            backing: None,
            unsafe_backing: false,
            secret: None,
            encrypt: false,
            objects: Vec::new(),
        }
    }
}

impl Call<Create> {
    /// The format.
    pub fn format(self, format: impl Into<String>) -> Call<Create> {
        self.with(|op| op.format = Some(format.into()))
    }

    /// The size in bytes. An image with a backing file needs none.
    pub fn size(self, bytes: u64) -> Call<Create> {
        self.with(|op| op.size = Some(bytes.to_string()))
    }

    /// The size as qemu-img reads it, such as `64M`.
    pub fn size_text(self, size: impl Into<String>) -> Call<Create> {
        self.with(|op| op.size = Some(size.into()))
    }

    /// Adds a format option.
    pub fn option(self, key: &str, value: impl std::fmt::Display) -> Call<Create> {
        self.with(|op| op.options = std::mem::take(&mut op.options).set(key, value))
    }

    /// Adds an option string as it is.
    pub fn options(self, options: &str) -> Call<Create> {
        self.with(|op| op.options = std::mem::take(&mut op.options).append(options))
    }

    /// The backing file and its format. A relative file is looked for beside the new image.
    pub fn backing(self, file: impl Into<FileName>, format: impl Into<String>) -> Call<Create> {
        self.with(|op| op.backing = Some((file.into(), Some(format.into()))))
    }

    /// The backing file without its format, which current versions refuse.
    pub fn backing_without_format(self, file: impl Into<FileName>) -> Call<Create> {
        self.with(|op| op.backing = Some((file.into(), None)))
    }

    /// Does not look at the backing file, which need not be there then (`-u`).
    pub fn unsafe_backing(self) -> Call<Create> {
        self.with(|op| op.unsafe_backing = true)
    }

    /// The secret of a LUKS image.
    pub fn secret(self, secret: &Secret) -> Call<Create> {
        self.with(|op| op.secret = Some(secret.clone()))
    }

    /// Encrypts a qcow2 image by LUKS with this secret.
    pub fn encrypt(self, secret: &Secret) -> Call<Create> {
        self.secret(secret).with(|op| op.encrypt = true)
    }

    /// Makes a secret known to which the options refer.
    pub fn object(self, secret: &Secret) -> Call<Create> {
        self.with(|op| op.objects.push(secret.clone()))
    }
}

impl Operation for Create {
    type Answer = Output;
    const NAME: &'static str = "create";

    fn arguments(&self, args: &mut Arguments<'_>) -> Result<(), NameError> {
        let defaults = args.img.defaults.clone();
        let format = self
            .format
            .as_deref()
            .or(defaults.as_ref().map(|under| &*under.format));
        let defaults = defaults
            .as_ref()
            .filter(|under| format == Some(&*under.format));
        let own = |key: &str| self.options.get(key).is_some();
        let mut options = defaults
            .map(|under| under.options.clone())
            .unwrap_or_default();
        let is_luks = format == Some("luks");
        let mut secret = self.secret.as_ref();
        if is_luks && !own("key-secret") {
            secret = secret.or(defaults.and_then(|under| under.secret.as_ref()));
        }
        let prefix = match (is_luks, self.encrypt) {
            (true, _) => Some(""),
            (false, true) => Some("encrypt."),
            (false, false) => None,
        };
        if let Some(prefix) = prefix {
            let missing = |options: &Options, key: &str| options.get(key).is_none() && !own(key);
            if !is_luks {
                options = options.set("encrypt.format", "luks");
            }
            if let Some(secret) = secret {
                options = options.set(&format!("{prefix}key-secret"), secret.id());
            }
            let iter_time = format!("{prefix}iter-time");
            if missing(&options, &iter_time) {
                options = options.set(&iter_time, ITER_TIME_MS);
            }
        }
        let options = options.append(self.options.as_os_str());

        args.secrets(secret.map(std::slice::from_ref).unwrap_or_default());
        args.secrets(&self.objects);
        args.maybe("-f", format);
        args.options(&options);
        if let Some(backing) = &self.backing {
            args.backing("-b", backing, "-F");
        }
        args.flag("-u", self.unsafe_backing);
        args.operands([self.file.as_os_str()]);
        if let Some(size) = &self.size {
            args.push(size);
        }
        Ok(())
    }

    fn makes(&self) -> Option<&Path> {
        self.file.local()
    }

    fn answer(self, output: Output) -> Result<Output, ImgError> {
        Ok(output.check()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::img::QemuImg;
    use crate::tools::{Tool, ToolKind};

    fn img() -> QemuImg {
        QemuImg::new(Tool::new(ToolKind::Img, "qemu-img"))
    }

    fn shown(call: &Call<Create>) -> String {
        let mut shown = call.command().unwrap().command_line().to_string();
        for secret in call.op.secret.iter().chain(&call.op.objects) {
            shown = shown.replace(secret.path().to_str().unwrap(), "FILE");
        }
        shown
    }

    #[test]
    fn the_options_under_test_are_for_images_of_the_format_under_test_only() {
        let img = img().image_format("qcow2", "compat=0.10", None);
        for (call, expected) in [
            (
                img.create("x"),
                "qemu-img create -f qcow2 -o compat=0.10 -- x",
            ),
            (
                img.create("x").format("qcow2"),
                "qemu-img create -f qcow2 -o compat=0.10 -- x",
            ),
            (
                img.create("x").format("raw").size(7),
                "qemu-img create -f raw -- x 7",
            ),
            (
                img.create("x")
                    .option("compat", "1.1")
                    .options("lazy_refcounts=on"),
                "qemu-img create -f qcow2 -o compat=0.10,compat=1.1,lazy_refcounts=on -- x",
            ),
        ] {
            assert_eq!(shown(&call), expected);
        }
    }

    #[test]
    fn luks_has_its_secret_and_a_short_key_derivation() {
        let secret = Secret::new("sec0", "hunter2").unwrap();
        let call = img().create("x").format("luks").size(1).secret(&secret);
        let expected = "qemu-img create --object secret,id=sec0,file=FILE -f luks \
                        -o key-secret=sec0,iter-time=10 -- x 1";
        assert_eq!(shown(&call), expected);
        let call = call.option("iter-time", 20);
        assert!(
            shown(&call).contains(" -o key-secret=sec0,iter-time=20 "),
            "{}",
            shown(&call)
        );
        let call = img().create("x").format("qcow2").encrypt(&secret);
        let expected = "qemu-img create --object secret,id=sec0,file=FILE -f qcow2 \
             -o encrypt.format=luks,encrypt.key-secret=sec0,encrypt.iter-time=10 -- x";
        assert_eq!(shown(&call), expected);
    }

    #[test]
    fn the_secret_under_test_is_used_where_none_is_given() {
        let (default, own) = (
            Secret::new("def", "dee-ee-eff").unwrap(),
            Secret::new("own", "oh-double-u-en").unwrap(),
        );
        let img = img().image_format("luks", "iter-time=15", Some(&default));
        let found = shown(&img.create("x"));
        assert!(
            found.contains(" -o iter-time=15,key-secret=def -- x"),
            "{found}"
        );
        let call = img.create("x").secret(&own);
        assert!(shown(&call).contains(" -o iter-time=15,key-secret=own -- x"));
        let call = img.create("x").object(&own).option("key-secret", "own");
        assert!(
            shown(&call).ends_with(" -o iter-time=15,key-secret=own -- x"),
            "{}",
            shown(&call)
        );
        assert!(!shown(&img.create("x").format("qcow2")).contains("secret"));
    }

    #[test]
    fn a_backing_file_comes_with_its_format() {
        let call = img()
            .create("x")
            .format("qcow2")
            .backing("b", "raw")
            .unsafe_backing();
        assert_eq!(shown(&call), "qemu-img create -f qcow2 -b b -F raw -u -- x");
        let call = img()
            .create("x")
            .format("qcow2")
            .backing_without_format("b");
        assert_eq!(shown(&call), "qemu-img create -f qcow2 -b b -- x");
    }
}
