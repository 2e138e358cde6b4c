//! Translates what a test needs into command line arguments.

use serde::{Deserialize, Serialize};
use std::fmt;

/// An accelerator, as `-accel` names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
#[non_exhaustive]
pub enum Accel {
    /// No CPU at all; the virtual clock moves only by qtest commands.
    Qtest,
    /// The kernel's hypervisor.
    Kvm,
    /// QEMU's dynamic translator.
    Tcg,
    /// Any other.
    Other(String),
}

impl Accel {
    /// The name on the command line.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Accel::Qtest => "qtest",
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg",
            Accel::Other(name) => name,
        }
    }
}

impl From<String> for Accel {
    fn from(name: String) -> Self {
        match name.as_str() {
            "qtest" => Accel::Qtest,
            "kvm" => Accel::Kvm,
            "tcg" => Accel::Tcg,
            _ => Accel::Other(name),
        }
    }
}

impl From<Accel> for String {
    fn from(accel: Accel) -> Self {
        accel.name().to_owned()
    }
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a test needs from the guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Mode {
    /// No guest code runs. The run state may be `prelaunch` or, under qtest, `running`;
    /// block jobs, device commands and HMP qemu-io work in both.
    #[default]
    Stopped,
    /// The run state is `running` (so there are STOP and RESUME events, migrations end in
    /// `postmigrate`), but nothing reads a disk.
    RunningIdle,
    /// The firmware runs, on a real accelerator.
    Native,
    /// The virtual clock is stopped and advanced by qtest's `clock_step`.
    VirtualClock,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Stopped => "stopped",
            Mode::RunningIdle => "running idle",
            Mode::Native => "native",
            Mode::VirtualClock => "virtual clock",
        })
    }
}

/// How to start a machine in a [`Mode`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// Given by `-accel`.
    pub accel: Accel,
    /// Whether `-S` keeps the CPUs from starting.
    pub paused: bool,
    /// Whether the firmware is replaced by the [idle ROM](super::idle_rom).
    pub idle_rom: bool,
    /// A machine type that the mode depends on; `None` leaves the choice to the caller.
    pub machine: Option<&'static str>,
}

/// No way was found to start a machine in this mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to find a way to start the machine in mode \"{mode}\": {reason}")]
#[non_exhaustive]
pub struct NoPlan {
    /// The mode asked for.
    pub mode: Mode,
    /// What is missing.
    pub reason: String,
}

impl Mode {
    /// Chooses arguments.
    ///
    /// `usable` are the accelerators that a trial launch accepted, `target` is QEMU's name of the
    /// emulated architecture, `devices` says whether the machine gets guest devices: without them
    /// it needs no board if no guest code runs.
    ///
    /// # Errors
    /// If the binary does not support this mode; the reason is suitable for a skipped test.
    pub fn plan(self, usable: &[Accel], target: &str, devices: bool) -> Result<Plan, NoPlan> {
        let first = |wanted: &[Accel]| wanted.iter().find(|a| usable.contains(a)).cloned();
        let none = |reason: &str| NoPlan {
            mode: self,
            reason: reason.to_owned(),
        };
        let plan = |accel| Plan {
            accel,
            paused: false,
            idle_rom: false,
            // No CPU runs, and building a board is half the cost of a start.
            machine: (!devices && matches!(self, Mode::Stopped | Mode::RunningIdle))
                .then_some("none"),
        };
        let qtest = first(&[Accel::Qtest]);
        // TCG before KVM where no guest code runs: it works on every host, and in containers.
        let real = || {
            first(&[Accel::Tcg, Accel::Kvm])
                .or_else(|| usable.iter().find(|a| **a != Accel::Qtest).cloned())
                .ok_or_else(|| none("no accelerator works with this binary on this host"))
        };
        match (self, qtest) {
            (Mode::VirtualClock, None) => Err(none(
                "only -accel qtest has a clock that can be moved, and this binary has none",
            )),
            (Mode::VirtualClock | Mode::Stopped | Mode::RunningIdle, Some(qtest)) => {
                Ok(plan(qtest))
            }
            (Mode::Stopped, None) => Ok(Plan {
                paused: true,
                ..plan(real()?)
            }),
            (Mode::RunningIdle, None) if !devices => Ok(plan(real()?)),
            (Mode::RunningIdle, None) if matches!(target, "x86_64" | "i386") => Ok(Plan {
                idle_rom: true,
                ..plan(real()?)
            }),
            (Mode::RunningIdle, None) => Err(none(&format!(
                "a machine with guest devices stays idle only under -accel qtest or, on x86, with the idle ROM; the target is {target}"
            ))),
            (Mode::Native, _) => first(&[Accel::Kvm, Accel::Tcg])
                .or_else(|| usable.iter().find(|a| **a != Accel::Qtest).cloned())
                .map(plan)
                .ok_or_else(|| none("neither kvm nor tcg works with this binary on this host")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Accel::{Kvm, Qtest, Tcg};

    #[test]
    fn qtest_is_taken_wherever_no_guest_code_is_wanted() {
        for mode in [Mode::Stopped, Mode::RunningIdle, Mode::VirtualClock] {
            let plan = mode.plan(&[Tcg, Qtest], "s390x", true).unwrap();
            assert_eq!(
                (plan.accel, plan.paused, plan.idle_rom),
                (Qtest, false, false)
            );
        }
        assert_eq!(
            Mode::Native.plan(&[Tcg, Qtest, Kvm], "x86_64", true).unwrap().accel,
            Kvm
        );
    }

    #[test]
    fn without_qtest_a_stopped_machine_is_paused() {
        let plan = Mode::Stopped.plan(&[Kvm, Tcg], "x86_64", true).unwrap();
        assert_eq!((plan.accel, plan.paused, plan.idle_rom), (Tcg, true, false));
        assert!(Mode::Stopped.plan(&[Accel::Other("hvf".into())], "aarch64", true).is_ok());
    }

    #[test]
    fn a_native_machine_has_the_accelerator_that_there_is_but_not_qtest() {
        let xen = Accel::Other("xen".into());
        let native = |usable: &[Accel]| Mode::Native.plan(usable, "x86_64", true);
        assert_eq!(native(&[Qtest, xen.clone()]).unwrap().accel, xen);
        assert!(native(&[Qtest]).is_err());
    }

    #[test]
    fn without_qtest_an_idle_machine_has_no_board_or_the_idle_rom() {
        let plan = Mode::RunningIdle.plan(&[Tcg], "aarch64", false).unwrap();
        assert_eq!(plan.machine, Some("none"));
        let plan = Mode::RunningIdle.plan(&[Tcg], "x86_64", true).unwrap();
        assert!(plan.idle_rom && !plan.paused);
        let error = Mode::RunningIdle.plan(&[Tcg], "aarch64", true).unwrap_err();
        assert!(error.to_string().contains("aarch64"), "{error}");
    }

    #[test]
    fn where_no_guest_code_runs_a_board_is_for_devices() {
        for accel in [Qtest, Tcg] {
            for mode in [Mode::Stopped, Mode::RunningIdle] {
                let board = |devices| {
                    let plan = mode.plan(std::slice::from_ref(&accel), "x86_64", devices);
                    plan.unwrap().machine
                };
                assert_eq!((board(false), board(true)), (Some("none"), None));
            }
        }
        let native = Mode::Native.plan(&[Tcg], "x86_64", false).unwrap();
        assert_eq!(native.machine, None);
    }

    #[test]
    fn a_missing_mode_says_what_is_missing() {
        let error = Mode::VirtualClock.plan(&[Tcg], "x86_64", false).unwrap_err();
        assert!(error.to_string().contains("qtest"), "{error}");
        for mode in [Mode::Stopped, Mode::RunningIdle, Mode::Native] {
            assert!(mode.plan(&[], "x86_64", false).is_err());
        }
    }

    #[test]
    fn accelerators_keep_unknown_names_through_json() {
        let all: Vec<Accel> = serde_json::from_str(r#"["qtest","kvm","tcg","nitro"]"#).unwrap();
        assert_eq!(all, [Qtest, Kvm, Tcg, Accel::Other("nitro".into())]);
        assert_eq!(
            serde_json::to_string(&all).unwrap(),
            r#"["qtest","kvm","tcg","nitro"]"#
        );
    }
}
