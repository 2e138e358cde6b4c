//! Creates images.

use std::fmt;
use std::fs::OpenOptions;
use std::ops::Range;
use std::panic::Location;
use std::path::Path;
use std::sync::Arc;

use imgtools::image::FileName;
use imgtools::img::{Call, Create};
use imgtools::probe::NO_CPU_TIME;
use imgtools::{luks, qcow2, raw};

use super::handle::{Image, Inner, KEY, KEY_ID};
use crate::author::action::Action;
use crate::author::content::Content;
use crate::author::failure::{CaseResult, Failure};
use crate::author::files::TestFile;
use crate::author::serve::Served;
use crate::author::shared::Shared;
use crate::author::storage::Storage;
use crate::author::test::Test;
use crate::case::{Format, Protocol, Requirement};

/// An image to create.
#[must_use = "an image is made by create()"]
pub struct ImageBuilder {
    shared: Arc<Shared>,
    unusable: CaseResult,
    name: String,
    format: Format,
    protocol: Protocol,
    size: Option<u64>,
    options: Vec<(String, String)>,
    folder: Option<String>,
    backing: Option<Image>,
    recorded: Option<String>,
    encrypted: bool,
    keys: Vec<(usize, String)>,
    content: Vec<Written>,
    place: &'static Location<'static>,
}

enum Written {
    Fill(u8),
    Content(Content),
    Markers,
}

impl Test {
    /// An image with the format and protocol under test, named `TEST_DIR/name`; its node in a
    /// machine is named `name`.
    #[track_caller]
    pub fn image(&self, name: &str) -> ImageBuilder {
        ImageBuilder {
            shared: self.shared.clone(),
            unusable: self.usable(),
            name: name.to_owned(),
            format: self.format(),
            protocol: self.protocol(),
            size: None,
            options: Vec::new(),
            folder: None,
            backing: None,
            recorded: None,
            encrypted: false,
            keys: Vec::new(),
            content: Vec::new(),
            place: Location::caller(),
        }
    }
}

impl ImageBuilder {
    /// Sets its virtual size in bytes; the default is the size of its backing image.
    pub fn size(mut self, bytes: u64) -> Self {
        self.size = Some(bytes);
        self
    }

    /// Sets another format than the one under test. `IMGOPTS` then do not apply.
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// Sets another protocol than the one under test.
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// Sets a creation option, as after `-o`; it takes precedence over those of the run.
    pub fn option(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.options.push((name.to_owned(), value.to_string()));
        self
    }

    /// Makes it an overlay of this image, whose name and format it records.
    pub fn backing(mut self, base: &Image) -> Self {
        self.backing = Some(base.clone());
        self
    }

    /// Makes it an overlay of this image, recorded under this name; a relative name is resolved
    /// from the overlay's own folder.
    pub fn backing_as(mut self, base: &Image, recorded: &str) -> Self {
        self.recorded = Some(recorded.to_owned());
        self.backing(base)
    }

    /// Puts it in a folder below the test directory, such as `deep/deeper`.
    pub fn folder(mut self, folder: &str) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// Encrypts a qcow2 image with LUKS. (The format luks is always encrypted.)
    pub fn encrypted(mut self) -> Self {
        self.encrypted = true;
        self
    }

    /// Encrypts it with keys created by the harness instead of QEMU: the usual key in slot 0, and
    /// these passwords in these slots. QEMU needs a second per key, to measure how expensive a
    /// password guess should be. LUKS options do not apply.
    pub fn keys(mut self, more: &[(usize, String)]) -> Self {
        self.keys = vec![(0, KEY.to_owned())];
        self.keys.extend_from_slice(more);
        self.encrypted()
    }

    /// Fills it with this byte.
    pub fn fill(mut self, pattern: u8) -> Self {
        self.content.push(Written::Fill(pattern));
        self
    }

    /// Writes this byte to a range.
    pub fn write(self, pattern: u8, range: Range<u64>) -> Self {
        self.content(&[(pattern, range)])
    }

    /// Writes all of this content.
    pub fn content(mut self, content: impl Into<Content>) -> Self {
        self.content.push(Written::Content(content.into()));
        self
    }

    /// Writes each sector's number at its start and end, so that a misplaced sector is detected.
    pub fn sector_markers(mut self) -> Self {
        self.content.push(Written::Markers);
        self
    }

    /// Creates the image.
    pub fn create(self) -> Action<'static, Image> {
        let place = self.place;
        Action::at(
            place,
            format!("the image {} to be made", self.name),
            self.make(),
        )
    }

    /// Does not create the image, because the case does so in another way, such as
    /// `blockdev-create`; only records the image's name, format, key and size, and removes the file
    /// with the image.
    ///
    /// Over NBD and FUSE there is a file, empty or full of zeroes, because it is served. An NBD
    /// export cannot grow, so it has room for the size and the format's metadata.
    pub fn reserve(self) -> Action<'static, Image> {
        let what = format!("the image {}", self.name);
        Action::at(self.place, what, async move {
            self.unusable?;
            let file = self.shared.directories.file(&self.name)?;
            let size = self.size.unwrap_or_default();
            match (self.protocol, self.format) {
                (Protocol::Nbd, Format::Raw) => raw::create_sparse(&*file, size)?,
                (Protocol::Nbd, _) => raw::create_sparse(&*file, room_for(size))?,
                (Protocol::Fuse, _) => raw::create_sparse(&*file, 0)?,
                (Protocol::File | Protocol::Ssh, _) => {}
            }
            let served = Served::new(&self.shared, self.protocol, &file, &self.name).await?;
            let encrypted = self.encrypted || self.format == Format::Luks;
            Ok(Image(Arc::new(Inner {
                shared: self.shared,
                name: self.name,
                format: self.format,
                size,
                encrypted: encrypted.then_some(self.format),
                read_only: false,
                served,
                file,
                backing: self.backing,
            })))
        })
    }

    async fn make(mut self) -> CaseResult<Image> {
        std::mem::replace(&mut self.unusable, Ok(()))?;
        let shared = &self.shared;
        let file = match &self.folder {
            None => shared.directories.file(&self.name)?,
            Some(folder) => shared.directories.file_in(folder, &self.name)?,
        };
        let encrypted = self.encrypted || self.format == Format::Luks;
        if encrypted && let Err(skip) = shared.check(&Requirement::Luks)? {
            return Err(Failure::skip(skip));
        }
        let size = match (self.size, &self.backing) {
            (Some(size), _) => size,
            (None, Some(base)) => base.size_as_backing().await?,
            (None, None) => {
                return Err(Failure::new(format!(
                    "{file} has no size and no backing image"
                )));
            }
        };
        let (numbered, mut content) = self.contents(size);
        let options = self.creation_options();
        if !self.create_here(&file, size, &options, &mut content)? {
            self.create_by_qemu(&file, &options).await?;
        }
        if self.protocol == Protocol::Nbd && self.format == Format::Qcow2 {
            // An export cannot grow, and qcow2 ignores what follows its clusters.
            let file = OpenOptions::new().write(true).open(&*file)?;
            file.set_len(file.metadata()?.len().max(room_for(size)))?;
        }
        let served = Served::new(shared, self.protocol, &file, &self.name).await?;
        let image = Image(Arc::new(Inner {
            shared: self.shared,
            name: self.name,
            format: self.format,
            size,
            encrypted: encrypted.then_some(self.format),
            read_only: false,
            served,
            file,
            backing: self.backing,
        }));
        if numbered {
            image.write_markers().await?;
        }
        image.write_all(content).await?;
        Ok(image)
    }

    /// Whether to number its sectors first, and all other content to write.
    fn contents(&self, size: u64) -> (bool, Content) {
        let mut numbered = false;
        let mut writes = Content::nothing();
        for content in &self.content {
            match content {
                Written::Fill(byte) => writes = writes.written(*byte, 0..size),
                Written::Content(content) => writes = content.over(&writes),
                // This overwrites everything before it.
                Written::Markers => (numbered, writes) = (true, Content::nothing()),
            }
        }
        (numbered, writes)
    }

    /// The creation options.
    fn creation_options(&self) -> Vec<(String, String)> {
        let spec = &self.shared.spec;
        let of_the_run: &[String] = match self.format == spec.format {
            true => &spec.imgopts,
            false => &[],
        };
        creation_options(
            self.format,
            self.encrypted,
            of_the_run,
            self.options.clone(),
        )
    }

    /// Creates a simple image without qemu-img, whose process costs more than most of the rest of a
    /// case. Takes the content that it has written; returns `false` if it created nothing.
    fn create_here(
        &self,
        path: &Path,
        size: u64,
        options: &[(String, String)],
        content: &mut Content,
    ) -> CaseResult<bool> {
        if !self.keys.is_empty() && self.size.is_some() {
            create_with_keys(path, self.format, size, &self.keys)?;
            return Ok(true);
        }
        if !options.is_empty() {
            return Ok(false);
        }
        match self.format {
            // It has only a size, in whole sectors.
            Format::Raw if self.backing.is_none() && size.is_multiple_of(raw::SECTOR) => {
                raw::create_sparse(path, size)?;
                Ok(true)
            }
            Format::Qcow2 => {
                let mut image = qcow2::Builder::new(size);
                if let Some(base) = &self.backing {
                    let recorded = self.recorded_backing(base);
                    let Some(recorded) = recorded.as_os_str().to_str() else {
                        return Ok(false);
                    };
                    image = image.backing(recorded, base.format().name());
                }
                for (byte, range) in content.to_write() {
                    image = image.fill(range, byte);
                }
                match image.create(path) {
                    Ok(()) => *content = Content::nothing(),
                    Err(qcow2::Qcow2Error::Unmakeable { .. }) => return Ok(false),
                    Err(error) => return Err(error.into()),
                }
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn recorded_backing(&self, base: &Image) -> FileName {
        let recorded = self.recorded.as_deref().map(FileName::from);
        recorded.unwrap_or_else(|| base.file_name())
    }

    async fn create_by_qemu(&self, file: &TestFile, options: &[(String, String)]) -> CaseResult {
        let shared = &self.shared;
        let mut call = shared.img()?.create(Path::new(file.as_str()));
        call = call.format(self.format.name());
        if self.encrypted || self.format == Format::Luks {
            call = call.object(&shared.key()?);
        }
        for (name, value) in options {
            call = call.option(name, value);
        }
        if let Some(base) = &self.backing {
            call = call.backing(self.recorded_backing(base), base.format().name());
        }
        if let Some(size) = self.size {
            call = call.size(size);
        }
        create(call).await
    }
}

/// The maximum file size for this virtual size: an eighth more for tables, plus LUKS headers.
fn room_for(size: u64) -> u64 {
    const HEADERS: u64 = 16 << 20;
    (size + size / 8 + HEADERS).next_multiple_of(raw::SECTOR)
}

/// Creates an image with these keys, without QEMU.
fn create_with_keys(
    path: &Path,
    format: Format,
    size: u64,
    keys: &[(usize, String)],
) -> CaseResult {
    let keys: Vec<_> = keys.iter().map(|(slot, key)| (*slot, key.as_str())).collect();
    match format {
        Format::Luks => Ok(luks::create(path, size, &keys)?),
        Format::Qcow2 => Ok(luks::create_qcow2(path, size, &keys)?),
        other => Err(Failure::new(format!("{other} has no LUKS header"))),
    }
}

/// Creates an image with qemu-img.
async fn create(call: Call<Create>) -> CaseResult {
    while let Err(error) = call.clone().run().await {
        // A LUKS problem; see the constant.
        if !error.to_string().contains(NO_CPU_TIME) {
            return Err(error.into());
        }
    }
    Ok(())
}

/// The creation options of an image: those of the harness, overridden by those of the run
/// (`NAME=VALUE,…`), overridden by those of the case.
fn creation_options(
    format: Format,
    encrypted_qcow2: bool,
    of_the_run: &[String],
    of_the_case: Vec<(String, String)>,
) -> Vec<(String, String)> {
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let by_default = default_options(format, encrypted_qcow2).iter().copied();
    let of_the_run = of_the_run.iter().flat_map(|text| text.split(','));
    let of_the_run = of_the_run.filter_map(|option| option.split_once('='));
    let mut options: Vec<(String, String)> = Vec::new();
    for (name, value) in by_default.chain(of_the_run).map(owned).chain(of_the_case) {
        options.retain(|(other, _)| *other != name);
        options.push((name, value));
    }
    options
}

fn default_options(
    format: Format,
    encrypted_qcow2: bool,
) -> &'static [(&'static str, &'static str)] {
    match format {
        // As few iterations as possible: the key needs no protection, and each open would take
        // seconds.
        Format::Luks => &[("key-secret", KEY_ID), ("iter-time", "1")],
        Format::Qcow2 if encrypted_qcow2 => &[
            ("encrypt.format", "luks"),
            ("encrypt.key-secret", KEY_ID),
            ("encrypt.iter-time", "1"),
        ],
        // Without it, discarded and zeroed areas of VMDK are reported as allocated.
        Format::Vmdk => &[("zeroed_grain", "on")],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each as after `-o`.
    fn options(format: Format, encrypted: bool, run: &str, own: &[(&str, &str)]) -> Vec<String> {
        let run: Vec<String> = run.split_whitespace().map(str::to_owned).collect();
        let own = own.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
        let options = creation_options(format, encrypted, &run, own.collect());
        let option = options.iter().map(|(name, value)| format!("{name}={value}"));
        option.collect()
    }

    #[test]
    fn luks_and_vmdk_are_made_with_options_of_their_own_and_other_formats_with_none() {
        assert_eq!(
            options(Format::Luks, false, "", &[]),
            ["key-secret=keysec0", "iter-time=1"]
        );
        assert_eq!(
            options(Format::Qcow2, true, "", &[]),
            [
                "encrypt.format=luks",
                "encrypt.key-secret=keysec0",
                "encrypt.iter-time=1"
            ]
        );
        assert_eq!(options(Format::Vmdk, false, "", &[]), ["zeroed_grain=on"]);
        for format in [Format::Qcow2, Format::Raw, Format::Qed, Format::Vdi] {
            assert_eq!(options(format, false, "", &[]), [""; 0], "{format}");
        }
    }

    #[test]
    fn the_run_says_otherwise_and_the_case_has_the_last_word() {
        assert_eq!(
            options(
                Format::Vmdk,
                false,
                "subformat=twoGbMaxExtentFlat,zeroed_grain=off",
                &[]
            ),
            ["subformat=twoGbMaxExtentFlat", "zeroed_grain=off"]
        );
        assert_eq!(
            options(
                Format::Luks,
                false,
                "iter-time=50 hash-alg=sha1",
                &[("hash-alg", "sha512")]
            ),
            ["key-secret=keysec0", "iter-time=50", "hash-alg=sha512"]
        );
        assert_eq!(
            options(Format::Qcow2, false, "compat=0.10", &[("compat", "1.1")]),
            ["compat=1.1"]
        );
    }
}
