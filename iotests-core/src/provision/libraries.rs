//! Makes programs use the C library and the shared libraries in their own tree.
//!
//! A program's ELF file names its loader and can specify where its libraries are. Both are set, so
//! that a program of any distribution can be started normally: by its own path, without a script,
//! environment variables or an explicit loader. Its `argv[0]` and `/proc/PID/exe` are its own, and
//! its child processes do not inherit its libraries.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::elf::{Elf, ElfError, MAGIC};
use super::error::ProvisionError;
use super::files::{file, file_names, install};

/// The C library and the shared libraries of an unpacked tree.
#[derive(Debug)]
pub(super) struct Libraries {
    tree: PathBuf,
    /// The folders with shared libraries, relative to the tree.
    folders: Vec<PathBuf>,
}

impl Libraries {
    /// Finds the libraries in `tree`. Removes the run path of libraries that would search a system
    /// folder, which may contain other versions, so that the program's own path applies.
    pub(super) fn gather(tree: &Path) -> Result<Self, ProvisionError> {
        let mut folders: Vec<PathBuf> = Vec::new();
        for folder in ["usr/lib", "lib", "usr/lib64", "lib64"] {
            let below = file_names(&tree.join(folder)).into_iter();
            let each = below.map(|name| Path::new(folder).join(name));
            for folder in std::iter::once(PathBuf::from(folder)).chain(each) {
                let mut names = file_names(&tree.join(&folder)).into_iter();
                if names.any(|name| is_library(&name)) {
                    folders.push(folder);
                }
            }
        }
        let mut all = Self {
            tree: tree.to_owned(),
            folders,
        };
        for folder in ["usr/lib", "lib"] {
            for entry in WalkDir::new(tree.join(folder)) {
                let Ok(entry) = entry else { continue };
                let is_named_so = entry.file_name().to_str().is_some_and(is_library);
                if is_named_so && entry.file_type().is_file() && is_elf(entry.path())? {
                    all.free(entry.path())?;
                }
            }
        }
        Ok(all)
    }

    fn free(&mut self, library: &Path) -> Result<(), ProvisionError> {
        let data = fs::read(library).map_err(file("read", library))?;
        // A library for another architecture, which no program here will load.
        let Ok(mut elf) = Elf::new(data) else {
            return Ok(());
        };
        let runpath = elf.runpath().map_err(unusable(library))?.unwrap_or_default();
        let folders = runpath.split(':');
        let mut absolute = folders.filter_map(|folder| folder.strip_prefix('/')).peekable();
        if absolute.peek().is_none() {
            return Ok(());
        }
        for folder in absolute.map(PathBuf::from) {
            if !self.folders.contains(&folder) && self.tree.join(&folder).is_dir() {
                self.folders.push(folder);
            }
        }
        elf.remove_runpath().map_err(unusable(library))?;
        install(library, elf.into_data())
    }

    /// The command words that start `program` at the tree's current location: its own loader with
    /// its own libraries. A script is started directly.
    pub(super) fn start(&self, program: &Path) -> Result<Vec<PathBuf>, ProvisionError> {
        let Some((_, loader)) = self.loader(program)? else {
            return Ok(vec![program.to_owned()]);
        };
        let folders = self.folders.iter().map(|folder| self.tree.join(folder));
        let path = std::env::join_paths(folders).map_err(|_| ProvisionError::Path {
            path: self.tree.clone(),
        })?;
        Ok(vec![
            self.tree.join(loader),
            "--inhibit-cache".into(),
            "--library-path".into(),
            path.into(),
            program.to_owned(),
        ])
    }

    /// Binds a program in `usr/bin` to the loader and the libraries of its tree, which will be
    /// moved to `installed_tree`. A script is not changed.
    pub(super) fn bind(&self, program: &Path, installed_tree: &Path) -> Result<(), ProvisionError> {
        let Some((mut elf, loader)) = self.loader(program)? else {
            return Ok(());
        };
        let loader = installed_tree.join(loader).into_os_string();
        let folders = self.folders.iter();
        let folders: Vec<String> =
            folders.map(|folder| format!("$ORIGIN/../../{}", folder.display())).collect();
        elf.bind(loader.as_encoded_bytes(), folders.join(":").as_bytes())
            .map_err(unusable(program))?;
        install(program, elf.into_data())
    }

    /// A program, and its loader relative to the tree; `None` if it is not an ELF file or needs no
    /// loader.
    ///
    /// In a tree that is only unpacked, it is unknown whether `/lib64` is a link, and to where, so
    /// the loader is searched by name.
    fn loader(&self, program: &Path) -> Result<Option<(Elf, PathBuf)>, ProvisionError> {
        if !is_elf(program)? {
            return Ok(None);
        }
        let data = fs::read(program).map_err(file("read", program))?;
        let elf = Elf::new(data).map_err(unusable(program))?;
        let Some(wanted) = elf.interpreter().map_err(unusable(program))? else {
            return Ok(None);
        };
        let name = Path::new(&wanted).file_name().unwrap_or_default();
        let mut candidates = self.folders.iter().map(|folder| folder.join(name));
        let is_there = |path: &PathBuf| {
            fs::symlink_metadata(self.tree.join(path)).is_ok_and(|metadata| metadata.is_file())
        };
        match candidates.find(is_there) {
            Some(loader) => Ok(Some((elf, loader))),
            None => Err(ProvisionError::Broken {
                program: program.display().to_string(),
                why: format!("none of the packages has its loader {wanted}"),
            }),
        }
    }
}

fn is_library(name: &str) -> bool {
    name.ends_with(".so") || name.contains(".so.")
}

fn is_elf(path: &Path) -> Result<bool, ProvisionError> {
    let mut start = Vec::new();
    let opened = fs::File::open(path).map_err(file("open", path))?;
    opened.take(MAGIC.len() as u64).read_to_end(&mut start).map_err(file("read", path))?;
    Ok(start == MAGIC)
}

fn unusable(path: &Path) -> impl FnOnce(ElfError) -> ProvisionError {
    let path = path.to_owned();
    move |source| ProvisionError::Elf { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_leave_it_to_the_program_where_others_are() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path();
        fs::create_dir_all(tree.join("usr/lib/arch/sub")).unwrap();
        let library = |runpath: &[u8]| {
            let mut elf = Elf::new(fs::read("/bin/sh").unwrap()).unwrap();
            elf.bind(b"/l", runpath).unwrap();
            elf.into_data()
        };
        let at = |name: &str| tree.join("usr/lib/arch").join(name);
        fs::write(at("libone.so.1"), library(b"/usr/lib/arch/sub:/nowhere")).unwrap();
        fs::write(at("libtwo.so"), library(b"$ORIGIN/x")).unwrap();
        fs::write(at("script.so"), "GROUP ( libone.so.1 )").unwrap();
        let all = Libraries::gather(tree).unwrap();
        let names = ["usr/lib/arch", "usr/lib/arch/sub"].map(PathBuf::from);
        assert_eq!(all.folders, names);
        let runpath = |name: &str| Elf::new(fs::read(at(name)).unwrap()).unwrap().runpath();
        assert_eq!(runpath("libone.so.1"), Ok(None));
        assert_eq!(runpath("libtwo.so"), Ok(Some("$ORIGIN/x".to_owned())));
    }

    #[test]
    fn a_program_is_bound_to_the_loader_in_its_own_tree() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        let (program, library) = (tree.join("usr/bin/p"), tree.join("usr/lib/a:b"));
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        fs::create_dir_all(&library).unwrap();
        let shell = fs::read("/bin/sh").unwrap();
        install(&program, shell.clone()).unwrap();
        let loader = Elf::new(shell).unwrap().interpreter().unwrap().unwrap();
        let missing = Libraries::gather(&tree).unwrap();
        let error = missing.bind(&program, &tree).unwrap_err().to_string();
        assert!(
            error.contains("none of the packages has its loader"),
            "{error}"
        );

        let name = Path::new(&loader).file_name().unwrap().to_str().unwrap();
        let real = fs::canonicalize(&loader).unwrap();
        fs::copy(real, library.join(name)).unwrap();
        fs::write(library.join("libx.so"), "").unwrap();
        let all = Libraries::gather(&tree).unwrap();
        // The folder's name cannot be part of a library path.
        assert!(matches!(
            all.start(&program),
            Err(ProvisionError::Path { .. })
        ));
        all.bind(&program, &tree).unwrap();
        let bound = Elf::new(fs::read(&program).unwrap()).unwrap();
        let loader = library.join(name).display().to_string();
        assert_eq!(bound.interpreter(), Ok(Some(loader)));
    }
}
