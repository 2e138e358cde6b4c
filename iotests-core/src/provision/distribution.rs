//! Which distribution this is, and how its users install QEMU.

use std::fs;

/// Families of distributions with a known install command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// Debian, Ubuntu and derivatives: packages can be unpacked without installing.
    Debian,
    /// Fedora.
    Fedora,
    /// RHEL, CentOS Stream and derivatives: one emulator, `qemu-kvm`, and no separate package for
    /// the storage daemon.
    EnterpriseLinux,
    /// openSUSE and SLES.
    Suse,
    /// Arch and derivatives.
    Arch,
    /// Alpine.
    Alpine,
    /// macOS with Homebrew.
    MacOs,
    /// Something else.
    Unknown,
}

impl Family {
    /// The family of this machine.
    pub(super) fn of_this_machine() -> Self {
        if cfg!(target_os = "macos") {
            return Self::MacOs;
        }
        ["/etc/os-release", "/usr/lib/os-release"]
            .iter()
            .find_map(|path| fs::read_to_string(path).ok())
            .map_or(Self::Unknown, |text| Self::from_os_release(&text))
    }

    /// The family by the `ID` and `ID_LIKE` of an os-release file (see os-release(5)).
    pub(super) fn from_os_release(text: &str) -> Self {
        let value = |key: &str| {
            text.lines()
                .filter_map(|line| line.split_once('='))
                .find(|(name, _)| *name == key)
                .map(|(_, value)| value.trim_matches(['"', '\'']).to_ascii_lowercase())
                .unwrap_or_default()
        };
        let (id, like) = (value("ID"), value("ID_LIKE"));
        std::iter::once(id.as_str())
            .chain(like.split_whitespace())
            .map(Self::of_id)
            .find(|family| *family != Self::Unknown)
            .unwrap_or(Self::Unknown)
    }

    fn of_id(id: &str) -> Self {
        match id {
            "debian" | "ubuntu" => Self::Debian,
            "fedora" => Self::Fedora,
            "rhel" | "centos" => Self::EnterpriseLinux,
            "suse" | "opensuse" | "sles" => Self::Suse,
            "arch" => Self::Arch,
            "alpine" => Self::Alpine,
            id if id.starts_with("opensuse") => Self::Suse,
            _ => Self::Unknown,
        }
    }

    /// The command that installs the tools, the storage daemon and an emulator.
    pub(crate) fn install_command(self) -> &'static str {
        let arm = cfg!(target_arch = "aarch64");
        match self {
            Self::Debian if arm => "apt-get install qemu-utils qemu-block-extra qemu-system-arm",
            Self::Debian => "apt-get install qemu-utils qemu-block-extra qemu-system-x86",
            Self::Fedora if arm => {
                "dnf install qemu-img qemu-storage-daemon qemu-system-aarch64-core"
            }
            Self::Fedora => "dnf install qemu-img qemu-storage-daemon qemu-system-x86-core",
            Self::EnterpriseLinux => "dnf install qemu-img qemu-kvm",
            Self::Suse if arm => "zypper install qemu-tools qemu-arm",
            Self::Suse => "zypper install qemu-tools qemu-x86",
            Self::Arch => "pacman -S qemu-img qemu-base",
            Self::Alpine if arm => "apk add qemu-img qemu-storage-daemon qemu-system-aarch64",
            Self::Alpine => "apk add qemu-img qemu-storage-daemon qemu-system-x86_64",
            Self::MacOs => "brew install qemu",
            Self::Unknown => "install QEMU with your system's package manager",
        }
    }
}

/// The command that installs QEMU on this machine.
pub fn install_command() -> &'static str {
    Family::of_this_machine().install_command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_is_known_by_its_id_or_by_what_it_is_like() {
        let cases = [
            ("ID=debian\n", Family::Debian),
            (
                "NAME=\"Linux Mint\"\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n",
                Family::Debian,
            ),
            (
                "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n",
                Family::EnterpriseLinux,
            ),
            ("ID=\"rhel\"\nID_LIKE=\"fedora\"\n", Family::EnterpriseLinux),
            ("ID=fedora\n", Family::Fedora),
            (
                "ID=\"opensuse-tumbleweed\"\nID_LIKE=\"opensuse suse\"\n",
                Family::Suse,
            ),
            ("ID=arch\n", Family::Arch),
            ("ID=alpine\n", Family::Alpine),
            ("ID=nixos\n", Family::Unknown),
            ("", Family::Unknown),
        ];
        for (text, family) in cases {
            assert_eq!(Family::from_os_release(text), family, "{text}");
        }
    }

    #[test]
    fn every_known_family_has_a_command_of_its_own_package_manager() {
        let managers = [
            (Family::Debian, "apt-get "),
            (Family::Fedora, "dnf "),
            (Family::EnterpriseLinux, "dnf "),
            (Family::Suse, "zypper "),
            (Family::Arch, "pacman "),
            (Family::Alpine, "apk "),
            (Family::MacOs, "brew "),
        ];
        for (family, manager) in managers {
            assert!(family.install_command().starts_with(manager), "{family:?}");
        }
    }
}
