//! Reads and changes the loader and the library path of an ELF file.
//!
//! Nothing in the file is moved, so its other contents do not matter: longer data is appended, as a
//! new segment.

use object::elf::{
    DT_NULL, DT_RPATH, DT_RUNPATH, DT_STRSZ, DT_STRTAB, Dyn64, DynamicTag, FileHeader64, PF_R,
    PF_W, PT_DYNAMIC, PT_INTERP, PT_LOAD, PT_NOTE, ProgramHeader64, ProgramType, SectionHeader64,
};
use object::read::elf::FileHeader;
use object::{Endianness, I64, U64, pod};

/// The first bytes of ELF files.
pub(super) const MAGIC: &[u8] = b"\x7fELF";

/// Why a file cannot be read or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// A header is missing or invalid.
    #[error("it is not a dynamic ELF file of 64 bits: {0}")]
    Format(&'static str),
    /// There is no segment that a new one could replace.
    #[error("it has no room for {0}")]
    Room(&'static str),
}

/// A 64-bit ELF file in memory.
#[derive(Debug, Clone)]
pub(super) struct Elf {
    data: Vec<u8>,
    endian: Endianness,
}

impl Elf {
    /// Parses a 64-bit ELF file.
    pub(super) fn new(data: Vec<u8>) -> Result<Self, ElfError> {
        let header = FileHeader64::<Endianness>::parse(&*data)
            .map_err(|_| ElfError::Format("its header is damaged"))?;
        let endian = header.endian().map_err(|_| ElfError::Format("its byte order is unknown"))?;
        Ok(Self { data, endian })
    }

    /// The file in its current state.
    pub(super) fn into_data(self) -> Vec<u8> {
        self.data
    }

    /// The loader that it names; `None` if it needs no loader.
    pub(super) fn interpreter(&self) -> Result<Option<String>, ElfError> {
        let segments = self.segments()?;
        let Some(segment) = segments.iter().find(|one| self.is(one, PT_INTERP)) else {
            return Ok(None);
        };
        let (offset, size) = (segment.p_offset, segment.p_filesz);
        let text = self.bytes(offset.get(self.endian), size.get(self.endian))?;
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(Some(String::from_utf8_lossy(text).into_owned()))
    }

    /// Its own library search path.
    pub(super) fn runpath(&self) -> Result<Option<String>, ElfError> {
        let Some(dynamic) = self.dynamic()? else {
            return Ok(None);
        };
        let Some(entry) = self.entries(dynamic)?.iter().find(|one| self.is_path(one)) else {
            return Ok(None);
        };
        let strings = self.strings(dynamic)?;
        let start = usize::try_from(entry.d_val.get(self.endian)).unwrap_or(usize::MAX);
        let text = strings
            .get(start..)
            .and_then(|rest| rest.split(|byte| *byte == 0).next())
            .ok_or(ElfError::Format("a string is not in its table"))?;
        Ok(Some(String::from_utf8_lossy(text).into_owned()))
    }

    /// Removes its library search path, so that the program's path applies.
    pub(super) fn remove_runpath(&mut self) -> Result<(), ElfError> {
        let Some(dynamic) = self.dynamic()? else {
            return Ok(());
        };
        let endian = self.endian;
        let is_path = |entry: &Dyn64<Endianness>| is_path(entry, endian);
        let entries = self.entries_mut(dynamic)?;
        let mut kept = 0;
        for index in 0..entries.len() {
            if !is_path(&entries[index]) {
                entries[kept] = entries[index];
                kept += 1;
            }
        }
        for entry in &mut entries[kept..] {
            set(entry, endian, DT_NULL, 0);
        }
        Ok(())
    }

    /// Sets another loader, and the first search path for all libraries: the program's own, those
    /// of its libraries, and those that it loads later (`DT_RPATH`; `DT_RUNPATH` would cover only
    /// the first kind).
    pub(super) fn bind(&mut self, interpreter: &[u8], rpath: &[u8]) -> Result<(), ElfError> {
        let endian = self.endian;
        let dynamic = self.dynamic()?.ok_or(ElfError::Format("it has no dynamic section"))?;
        let mut strings = self.strings(dynamic)?.to_vec();
        let rpath_at = strings.len() as u64;
        strings.extend_from_slice(rpath);
        strings.push(0);
        let mut entries: Vec<Dyn64<Endianness>> = self.entries(dynamic)?.to_vec();
        entries.retain(|entry| !is_path(entry, endian) && !is_end(entry, endian));

        // Another segment, above all others in memory: the entries, which the loader writes to,
        // then the new strings.
        let align = self.alignment()?;
        let offset = (self.data.len() as u64).next_multiple_of(align);
        let address = self.end()?.next_multiple_of(align);
        let entries_size = ((entries.len() + 2) * size_of::<Dyn64<Endianness>>()) as u64;
        let interpreter_size = interpreter.len() as u64 + 1;
        let strings_address = address + entries_size + interpreter_size;
        for entry in &mut entries {
            match entry.d_tag.get(endian) {
                DT_STRTAB => set(entry, endian, DT_STRTAB, strings_address),
                DT_STRSZ => set(entry, endian, DT_STRSZ, strings.len() as u64),
                _ => {}
            }
        }
        entries.extend([new(endian, DT_RPATH, rpath_at), new(endian, DT_NULL, 0)]);
        self.data.resize(offset as usize, 0);
        self.data.extend_from_slice(pod::bytes_of_slice(&entries));
        self.data.extend_from_slice(interpreter);
        self.data.push(0);
        self.data.extend_from_slice(&strings);
        let size = self.data.len() as u64 - offset;

        self.move_part(PT_DYNAMIC, offset, address, entries_size)?;
        let (offset_of_name, address_of_name) = (offset + entries_size, address + entries_size);
        self.move_part(PT_INTERP, offset_of_name, address_of_name, interpreter_size)?;
        self.add_segment(offset, address, size, align)
    }

    /// Adds a loaded segment after the last one, replacing a note: build notes come first, and the
    /// last note only states the kernel version required.
    fn add_segment(
        &mut self,
        offset: u64,
        address: u64,
        size: u64,
        align: u64,
    ) -> Result<(), ElfError> {
        let endian = self.endian;
        let segments = self.segments_mut()?;
        let is = |one: &ProgramHeader64<Endianness>, kind| one.p_type.get(endian) == kind;
        let note = segments.iter().rposition(|one| is(one, PT_NOTE));
        let note = note.ok_or(ElfError::Room("another segment"))?;
        let last = segments.iter().rposition(|one| is(one, PT_LOAD));
        let last = last.ok_or(ElfError::Format("nothing of it is loaded"))?;
        let mut added = segments[last];
        added.p_flags.set(endian, PF_R | PF_W);
        added.p_offset.set(endian, offset);
        added.p_vaddr.set(endian, address);
        added.p_paddr.set(endian, address);
        added.p_filesz.set(endian, size);
        added.p_memsz.set(endian, size);
        added.p_align.set(endian, align);
        // Loaded segments must be in the order of their addresses.
        if note > last {
            segments[last + 1..=note].rotate_right(1);
            segments[last + 1] = added;
        } else {
            segments[note..=last].rotate_left(1);
            segments[last] = added;
        }
        Ok(())
    }

    /// Moves a segment, and the corresponding section, which debuggers read instead, to another
    /// place.
    fn move_part(
        &mut self,
        kind: ProgramType,
        offset: u64,
        address: u64,
        size: u64,
    ) -> Result<(), ElfError> {
        let endian = self.endian;
        let mut segments = self.segments_mut()?.iter_mut();
        let segment = segments
            .find(|one| one.p_type.get(endian) == kind)
            .ok_or(ElfError::Format("a segment is missing"))?;
        let old = segment.p_vaddr.get(endian);
        segment.p_offset.set(endian, offset);
        segment.p_vaddr.set(endian, address);
        segment.p_paddr.set(endian, address);
        segment.p_filesz.set(endian, size);
        segment.p_memsz.set(endian, size);
        for section in self.sections_mut()? {
            if section.sh_addr.get(endian) == old {
                section.sh_addr.set(endian, address);
                section.sh_offset.set(endian, offset);
                section.sh_size.set(endian, size);
            }
        }
        Ok(())
    }

    fn header(&self) -> Result<&FileHeader64<Endianness>, ElfError> {
        FileHeader64::parse(&*self.data).map_err(|_| ElfError::Format("its header is damaged"))
    }

    fn segments(&self) -> Result<&[ProgramHeader64<Endianness>], ElfError> {
        let header = self.header()?;
        header
            .program_headers(self.endian, &*self.data)
            .map_err(|_| ElfError::Format("its segments are damaged"))
    }

    fn segments_mut(&mut self) -> Result<&mut [ProgramHeader64<Endianness>], ElfError> {
        let count = self.segments()?.len();
        let start = self.header()?.e_phoff.get(self.endian);
        self.slice_mut(start, count)
    }

    fn sections_mut(&mut self) -> Result<&mut [SectionHeader64<Endianness>], ElfError> {
        let header = self.header()?;
        let sections = header.section_headers(self.endian, &*self.data);
        let count = sections.map_or(0, <[_]>::len);
        let start = header.e_shoff.get(self.endian);
        self.slice_mut(start, count)
    }

    /// The offset and the size of the dynamic section in the file.
    fn dynamic(&self) -> Result<Option<(u64, u64)>, ElfError> {
        let segments = self.segments()?.iter();
        let mut dynamic = segments.filter(|one| self.is(one, PT_DYNAMIC));
        Ok(dynamic.next().map(|segment| {
            let (offset, size) = (segment.p_offset, segment.p_filesz);
            (offset.get(self.endian), size.get(self.endian))
        }))
    }

    fn entries(&self, (offset, size): (u64, u64)) -> Result<&[Dyn64<Endianness>], ElfError> {
        let bytes = self.bytes(offset, size)?;
        let count = bytes.len() / size_of::<Dyn64<Endianness>>();
        pod::slice_from_bytes(bytes, count)
            .map(|(entries, _)| entries)
            .map_err(|()| ElfError::Format("its dynamic section is damaged"))
    }

    fn entries_mut(
        &mut self,
        (offset, size): (u64, u64),
    ) -> Result<&mut [Dyn64<Endianness>], ElfError> {
        let count = self.entries((offset, size))?.len();
        self.slice_mut(offset, count)
    }

    /// The string table of the dynamic section.
    fn strings(&self, dynamic: (u64, u64)) -> Result<&[u8], ElfError> {
        let entries = self.entries(dynamic)?;
        let value = |tag| {
            let mut entries = entries.iter();
            let entry = entries.find(|one| one.d_tag.get(self.endian) == tag);
            entry.map(|one| one.d_val.get(self.endian))
        };
        let place = value(DT_STRTAB).zip(value(DT_STRSZ));
        let (address, size) = place.ok_or(ElfError::Format("it has no table of strings"))?;
        self.bytes(self.offset_of(address)?, size)
    }

    /// The file offset of the data that is loaded at this address.
    fn offset_of(&self, address: u64) -> Result<u64, ElfError> {
        let endian = self.endian;
        let segments = self.segments()?.iter();
        let mut loaded = segments.filter(|one| self.is(one, PT_LOAD));
        loaded
            .find_map(|one| {
                let inside = address.checked_sub(one.p_vaddr.get(endian))?;
                (inside < one.p_filesz.get(endian)).then(|| one.p_offset.get(endian) + inside)
            })
            .ok_or(ElfError::Format("an address is in none of its segments"))
    }

    /// The end address of all loaded segments.
    fn end(&self) -> Result<u64, ElfError> {
        let loaded = self.segments()?.iter().filter(|one| self.is(one, PT_LOAD));
        let end = |one: &ProgramHeader64<Endianness>| {
            let start = one.p_vaddr.get(self.endian);
            start.checked_add(one.p_memsz.get(self.endian))
        };
        let ends: Option<Vec<u64>> = loaded.map(end).collect();
        ends.and_then(|ends| ends.into_iter().max())
            .filter(|end| *end < u64::MAX / 2)
            .ok_or(ElfError::Format("its segments are damaged"))
    }

    /// The alignment of its segments: the largest page size that the machine may have.
    fn alignment(&self) -> Result<u64, ElfError> {
        let loaded = self.segments()?.iter().filter(|one| self.is(one, PT_LOAD));
        loaded
            .map(|one| one.p_align.get(self.endian))
            .max()
            .filter(|align| align.is_power_of_two() && *align <= 1 << 24)
            .ok_or(ElfError::Format("its segments are damaged"))
    }

    fn is(&self, segment: &ProgramHeader64<Endianness>, kind: ProgramType) -> bool {
        segment.p_type.get(self.endian) == kind
    }

    fn is_path(&self, entry: &Dyn64<Endianness>) -> bool {
        is_path(entry, self.endian)
    }

    fn bytes(&self, offset: u64, size: u64) -> Result<&[u8], ElfError> {
        let range = usize::try_from(offset).ok().zip(usize::try_from(size).ok());
        range
            .and_then(|(start, size)| self.data.get(start..start.checked_add(size)?))
            .ok_or(ElfError::Format("a part of it is missing"))
    }

    fn slice_mut<T: pod::Pod>(&mut self, offset: u64, count: usize) -> Result<&mut [T], ElfError> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.data.get_mut(start..);
        let rest = rest.ok_or(ElfError::Format("a part of it is missing"))?;
        pod::slice_from_bytes_mut(rest, count)
            .map(|(entries, _)| entries)
            .map_err(|()| ElfError::Format("a part of it is missing"))
    }
}

fn is_path(entry: &Dyn64<Endianness>, endian: Endianness) -> bool {
    let tag = entry.d_tag.get(endian);
    [DT_RPATH, DT_RUNPATH].contains(&tag)
}

fn is_end(entry: &Dyn64<Endianness>, endian: Endianness) -> bool {
    entry.d_tag.get(endian) == DT_NULL
}

fn new(endian: Endianness, tag: DynamicTag, value: u64) -> Dyn64<Endianness> {
    Dyn64 {
        d_tag: I64::new(endian, tag),
        d_val: U64::new(endian, value),
    }
}

fn set(entry: &mut Dyn64<Endianness>, endian: Endianness, tag: DynamicTag, value: u64) {
    entry.d_tag.set(endian, tag);
    entry.d_val.set(endian, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small dynamic program.
    fn shell() -> Elf {
        Elf::new(std::fs::read("/bin/sh").unwrap()).unwrap()
    }

    #[test]
    fn a_bound_program_runs_with_the_loader_that_it_was_bound_to() {
        let folder = tempfile::tempdir().unwrap();
        let mut elf = shell();
        // This test itself: linked by another linker, with no spare entry.
        let own = std::env::current_exe().unwrap();
        let mut own = Elf::new(std::fs::read(own).unwrap()).unwrap();
        let loader = elf.interpreter().unwrap().unwrap();
        let link = folder.path().join("a loader with a longer name than that of the system");
        std::os::unix::fs::symlink(loader, &link).unwrap();
        for (elf, argument) in [(&mut elf, "-c"), (&mut own, "--list")] {
            let name = link.as_os_str().as_encoded_bytes();
            elf.bind(name, b"/nowhere:$ORIGIN/lib").unwrap();
            let program = folder.path().join("program");
            super::super::files::install(&program, elf.clone().into_data()).unwrap();
            let run = || std::process::Command::new(&program).args([argument, ":"]).output();
            let output = run().unwrap();
            assert!(output.status.success(), "{output:?}");
            std::fs::rename(&link, folder.path().join("gone")).unwrap();
            assert!(run().is_err(), "it runs without its loader");
            std::fs::rename(folder.path().join("gone"), &link).unwrap();
        }
    }

    #[test]
    fn a_bound_program_names_its_loader_and_the_place_of_its_libraries() {
        let mut elf = shell();
        let before = elf.clone();
        let (loader, path) = ("/a/loader/with/a/path/that/is/longer", "$ORIGIN/../x:/y z");
        elf.bind(loader.as_bytes(), path.as_bytes()).unwrap();
        // Reading follows the loader's view: addresses in segments.
        let elf = Elf::new(elf.into_data()).unwrap();
        assert_eq!(elf.interpreter().unwrap().unwrap(), loader);
        assert_eq!(elf.runpath().unwrap().unwrap(), path);
        let strings = |elf: &Elf| {
            let dynamic = elf.dynamic().unwrap().unwrap();
            elf.strings(dynamic).unwrap().to_vec()
        };
        assert!(strings(&elf).starts_with(&strings(&before)));
        let addresses: Vec<u64> = elf
            .segments()
            .unwrap()
            .iter()
            .filter(|one| elf.is(one, PT_LOAD))
            .map(|one| one.p_vaddr.get(elf.endian))
            .collect();
        assert!(addresses.is_sorted(), "{addresses:?}");
    }

    #[test]
    fn a_removed_path_is_gone_and_all_else_is_there() {
        let mut elf = shell();
        elf.bind(b"/l", b"/x").unwrap();
        let dynamic = elf.dynamic().unwrap().unwrap();
        let count = |elf: &Elf| {
            let entries = elf.entries(dynamic).unwrap().iter();
            entries.filter(|one| !is_end(one, elf.endian)).count()
        };
        let before = count(&elf);
        elf.remove_runpath().unwrap();
        assert_eq!(elf.runpath().unwrap(), None);
        assert_eq!(count(&elf), before - 1);
    }

    #[test]
    fn what_is_cut_off_or_damaged_is_refused_and_never_a_panic() {
        assert!(Elf::new(b"#!/bin/sh\n".to_vec()).is_err());
        let whole = shell().into_data();
        for end in [4, 63, 64, 200, 1000, 5000] {
            if let Ok(mut elf) = Elf::new(whole[..end].to_vec()) {
                assert!(elf.bind(b"/l", b"/x").is_err(), "{end}");
            }
        }
        // Sets all bits of each byte of the headers in turn.
        for at in 16..64 + 56 * 14 {
            let mut damaged = whole.clone();
            damaged[at] = 0xff;
            if let Ok(mut elf) = Elf::new(damaged) {
                let _ = (elf.interpreter(), elf.runpath(), elf.bind(b"/l", b"/x"));
                let _ = elf.remove_runpath();
            }
        }
    }
}
