//! Launching a process that outlives its launcher.

use super::failure::not_started;
use crate::args::Chardev;
use crate::builder::{Builder, Kind, MONITOR_ID, monitor_option};
use crate::error::{BuildError, LaunchError};
use crate::socket;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A process that was launched to outlive its launcher: what is needed to find it again.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Detached {
    /// The process.
    pub pid: u32,
    /// Where its monitor listens, for [`Attached::connect`](crate::Attached::connect).
    pub monitor: PathBuf,
}

/// Starts a process that puts itself into the background once its monitor listens.
pub(super) async fn launch_detached<K: Kind>(
    builder: &Builder<K>,
    monitor: &Path,
) -> Result<Detached, LaunchError> {
    let mut common = builder.common.clone();
    let mut args = builder.own.base_args(&mut common)?;
    let name = common.name.clone();
    let descriptor = |what: &str| {
        let (name, what) = (name.clone(), what.to_owned());
        move |source| LaunchError::Descriptor { name, what, source }
    };
    let monitor =
        std::path::absolute(monitor).map_err(descriptor("a name for the monitor's socket"))?;
    if !socket::fits(&monitor) {
        common.fail(BuildError::SocketName {
            path: monitor.clone(),
        });
    }
    if let Some(error) = &common.error {
        let source = Arc::clone(error);
        return Err(LaunchError::Build { name, source });
    }
    let device = Chardev::listening(MONITOR_ID, &monitor);
    let option = |name: &str| OsString::from(format!("{}{name}", K::DASH));
    args.extend([option("chardev"), device.as_os_str().to_owned()]);
    args.extend(monitor_option(
        K::DASH,
        K::MONITOR_OPTION,
        common.tool.version,
    ));
    args.append(&mut common.args);
    args.push(option("daemonize"));

    // The daemon leaves the process group and is not watched by the process runner, which watches
    // only the parent; the parent exits when the daemon is ready, or with an error.
    let mut command =
        common.tool.command().args(&args).until_exit().deadline(common.deadlines.launch);
    command = command.envs(common.env.iter().map(|(key, value)| (key, value)));
    if let Some(dir) = &common.current_dir {
        command = command.current_dir(dir);
    }
    for (fd, number) in &common.fds {
        let copy = fd.try_clone().map_err(descriptor("a copy of an inherited descriptor"))?;
        command = command.fd(copy, *number);
    }
    let child = command.spawn_async().await.map_err(|e| not_started(&common, e))?;
    let output = child.wait().await.map_err(|source| LaunchError::Lost {
        name: name.clone(),
        command: Box::new(child.command().clone()),
        source: Box::new(source),
    })?;
    if !output.status.is_success() {
        return Err(LaunchError::Exited {
            name,
            output: Box::new(output),
        });
    }
    let stream = socket::connect(&monitor).map_err(descriptor("the monitor's connection"))?;
    let peer = rustix::net::sockopt::socket_peercred(&stream);
    let peer = peer.map_err(|errno| descriptor("the monitor's connection")(errno.into()))?;
    Ok(Detached {
        pid: peer.pid.as_raw_nonzero().get().unsigned_abs(),
        monitor,
    })
}
