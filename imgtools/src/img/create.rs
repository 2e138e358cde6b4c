//! `qemu-img create`, with encryption and backing files.

use std::path::Path;
use std::time::Duration;

use super::{Arguments, Call, ImgError, Operation};
use crate::image::{FileName, NameError, Options, Secret};
use crate::process::Output;

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
    iter_time: Option<Duration>,
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
            iter_time: None,
            objects: Vec::new(),
        }
    }
}

impl Call<Create> {
    /// The format.
    pub fn format(self, format: impl Into<String>) -> Call<Create> {
        self.with(|op| op.format = Some(format.into()))
    }

    /// The size in bytes. Optional for an image with a backing file.
    pub fn size(self, bytes: u64) -> Call<Create> {
        self.with(|op| op.size = Some(bytes.to_string()))
    }

    /// The size in qemu-img's notation, such as `64M`.
    pub fn size_text(self, size: impl Into<String>) -> Call<Create> {
        self.with(|op| op.size = Some(size.into()))
    }

    /// Adds a format option.
    pub fn option(self, key: &str, value: impl std::fmt::Display) -> Call<Create> {
        self.with(|op| op.options = std::mem::take(&mut op.options).set(key, value))
    }

    /// Adds an option string, unchanged.
    pub fn options(self, options: &str) -> Call<Create> {
        self.with(|op| op.options = std::mem::take(&mut op.options).append(options))
    }

    /// The backing file and its format. A relative name is resolved against the new image's
    /// directory.
    pub fn backing(self, file: impl Into<FileName>, format: impl Into<String>) -> Call<Create> {
        self.with(|op| op.backing = Some((file.into(), Some(format.into()))))
    }

    /// The backing file without its format, which current versions reject.
    pub fn backing_without_format(self, file: impl Into<FileName>) -> Call<Create> {
        self.with(|op| op.backing = Some((file.into(), None)))
    }

    /// Does not open the backing file, which then need not exist (`-u`).
    pub fn unsafe_backing(self) -> Call<Create> {
        self.with(|op| op.unsafe_backing = true)
    }

    /// The secret of a LUKS image.
    pub fn secret(self, secret: &Secret) -> Call<Create> {
        self.with(|op| op.secret = Some(secret.clone()))
    }

    /// Encrypts a qcow2 image with LUKS and this secret.
    pub fn encrypt(self, secret: &Secret) -> Call<Create> {
        self.secret(secret).with(|op| op.encrypt = true)
    }

    /// How long QEMU may take to derive the key of an encrypted image from its secret, on this
    /// machine, each time the image is opened (default: two seconds). A shorter time is weaker.
    pub fn iter_time(self, time: Duration) -> Call<Create> {
        self.with(|op| op.iter_time = Some(time))
    }

    /// Passes a secret to which the options refer.
    pub fn object(self, secret: &Secret) -> Call<Create> {
        self.with(|op| op.objects.push(secret.clone()))
    }
}

impl Operation for Create {
    type Answer = Output;
    const NAME: &'static str = "create";

    fn arguments(&self, args: &mut Arguments) -> Result<(), NameError> {
        let is_luks = self.format.as_deref() == Some("luks");
        let prefix = match (is_luks, self.encrypt) {
            (true, _) => Some(""),
            (false, true) => Some("encrypt."),
            (false, false) => None,
        };
        let mut options = Options::new();
        if let Some(prefix) = prefix {
            if !is_luks {
                options = options.set("encrypt.format", "luks");
            }
            if let Some(secret) = &self.secret {
                options = options.set(&format!("{prefix}key-secret"), secret.id());
            }
            if let Some(time) = self.iter_time {
                options = options.set(&format!("{prefix}iter-time"), time.as_millis());
            }
        }
        let options = options.append(self.options.as_os_str());

        args.secrets(self.secret.as_slice());
        args.secrets(&self.objects);
        args.maybe("-f", self.format.as_ref());
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
    fn options_are_given_as_they_are() {
        let call = img()
            .create("x")
            .format("qcow2")
            .option("compat", "1.1")
            .options("lazy_refcounts=on")
            .size(7);
        assert_eq!(
            shown(&call),
            "qemu-img create -f qcow2 -o compat=1.1,lazy_refcounts=on -- x 7"
        );
    }

    #[test]
    fn an_encrypted_image_has_its_secret_and_as_strong_a_key_as_is_asked_for() {
        let secret = Secret::new("sec0", "hunter2").unwrap();
        let call = img().create("x").format("luks").size(1).secret(&secret);
        let expected = "qemu-img create --object secret,id=sec0,file=FILE -f luks \
                        -o key-secret=sec0 -- x 1";
        assert_eq!(shown(&call), expected);
        let call = call.iter_time(Duration::from_millis(20));
        assert!(
            shown(&call).contains(" -o key-secret=sec0,iter-time=20 "),
            "{}",
            shown(&call)
        );
        let call =
            img().create("x").format("qcow2").encrypt(&secret).iter_time(Duration::from_secs(1));
        let expected = "qemu-img create --object secret,id=sec0,file=FILE -f qcow2 \
             -o encrypt.format=luks,encrypt.key-secret=sec0,encrypt.iter-time=1000 -- x";
        assert_eq!(shown(&call), expected);
    }

    #[test]
    fn a_backing_file_comes_with_its_format() {
        let call = img().create("x").format("qcow2").backing("b", "raw").unsafe_backing();
        assert_eq!(shown(&call), "qemu-img create -f qcow2 -b b -F raw -u -- x");
        let call = img().create("x").format("qcow2").backing_without_format("b");
        assert_eq!(shown(&call), "qemu-img create -f qcow2 -b b -- x");
    }
}
