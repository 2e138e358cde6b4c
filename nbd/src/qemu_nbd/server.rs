//! A running qemu-nbd.

use std::sync::Arc;

use imgtools::process::{Captured, Child, Command, Output, Signal, Status};

use super::builder::{Listen, QemuNbd};
use super::error::QemuNbdError;
use super::image::Image;
use super::pid_file::PidFile;
use super::ready;
use super::socket::{Listening, SocketFile};
use crate::uri::{Address, Uri};

/// A serving qemu-nbd. Dropping it kills the process, reaps it and removes its socket.
#[derive(Debug)]
pub struct QemuNbdServer {
    child: Child,
    builder: QemuNbd,
    image: Image,
    listen: Listen,
    address: Address,
    /// The socket, if it keeps listening after the process has exited.
    held: Option<Arc<Listening>>,
    /// Removed after the process is gone: fields are dropped in this order.
    file: Option<Arc<SocketFile>>,
}

impl QemuNbdServer {
    pub(super) async fn start(
        builder: QemuNbd,
        image: Image,
        listen: Listen,
        held: Option<Arc<Listening>>,
    ) -> Result<QemuNbdServer, QemuNbdError> {
        let started = match listen.is_activation() {
            true => Self::activate(&builder, &image, &listen, held)?,
            false => Self::leave_alone(&builder, &image, &listen)?,
        };
        let server = QemuNbdServer {
            child: started.command.spawn_async().await?,
            builder,
            image,
            listen,
            address: started.address,
            held: started.held,
            file: started.file,
        };
        server.until_ready(started.pid_file).await
    }

    fn activate(
        builder: &QemuNbd,
        image: &Image,
        listen: &Listen,
        held: Option<Arc<Listening>>,
    ) -> Result<Start, QemuNbdError> {
        let address = listen.address();
        let wrap = |source| QemuNbdError::Listen {
            address: address.clone(),
            source,
        };
        let listening = match held {
            Some(listening) => listening,
            None => Arc::new(Listening::at(&address).map_err(wrap)?),
        };
        Ok(Start {
            command: builder.activated(image.as_os_str(), listening.share().map_err(wrap)?),
            address: listening.address.clone(),
            file: listening.file.clone(),
            // Otherwise only the process listens, until it exits.
            held: builder.hold_address.then_some(listening),
            pid_file: None,
        })
    }

    fn leave_alone(
        builder: &QemuNbd,
        image: &Image,
        listen: &Listen,
    ) -> Result<Start, QemuNbdError> {
        let address = listen.address();
        let pid_file = PidFile::new().map_err(|source| QemuNbdError::File {
            path: "pid file".into(),
            source,
        })?;
        let file = match &address {
            Address::Unix(_) => Some(Arc::new(SocketFile::default())),
            _ => None,
        };
        Ok(Start {
            command: builder.unactivated(image.as_os_str(), &address, pid_file.path()),
            address,
            file,
            held: None,
            pid_file: Some(pid_file),
        })
    }

    async fn until_ready(self, pid_file: Option<PidFile>) -> Result<QemuNbdServer, QemuNbdError> {
        let after = self.builder.ready_within;
        let ready = async {
            if let Some(pid_file) = &pid_file {
                pid_file.written().await?;
            }
            ready::greeting(&self.address).await
        };
        let greeted = tokio::select! {
            greeted = tokio::time::timeout(after, ready) => greeted,
            _ = self.child.exited() => Ok(Err(std::io::ErrorKind::NotConnected.into())),
        };
        match greeted {
            Ok(Ok(())) => {
                // A socket that qemu-nbd created is known only now.
                if let (false, Address::Unix(path), Some(file)) =
                    (self.listen.is_activation(), &self.address, &self.file)
                {
                    file.made(path);
                }
                Ok(self)
            }
            Ok(Err(_)) => {
                // A server that drops a client before its greeting is about to exit. Its exit gives
                // the reason.
                self.child.set_deadline(Some(after));
                Err(QemuNbdError::Exited(Box::new(self.child.wait().await?)))
            }
            Err(_) => {
                self.child.kill();
                let output = Box::new(self.child.wait().await?);
                Err(QemuNbdError::NotReady { output, after })
            }
        }
    }

    /// What a client connects to.
    pub fn uri(&self) -> Uri {
        self.builder.uri(self.address.clone())
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Its output so far.
    pub fn output(&self) -> Captured {
        self.child.output()
    }

    /// Its exit status, if it has exited.
    pub fn status(&self) -> Option<Status> {
        self.child.try_wait()
    }

    /// The process itself.
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// Terminates it with SIGTERM, and waits. Any exit status is accepted; see [`Output::check`].
    ///
    /// # Errors
    /// When it does not exit after SIGTERM within the builder's timeout.
    pub async fn stop(self) -> Result<Output, QemuNbdError> {
        self.child.signal(Signal::SIGTERM);
        let waiting = tokio::time::timeout(self.builder.stop_within, self.child.wait());
        match waiting.await {
            Ok(output) => Ok(output?),
            Err(_) => {
                self.child.kill();
                Err(QemuNbdError::Killed(Box::new(self.child.wait().await?)))
            }
        }
    }

    /// Kills it with SIGKILL, as a crash would, and waits.
    pub async fn kill(self) -> Result<Output, QemuNbdError> {
        self.child.kill();
        Ok(self.child.wait().await?)
    }

    /// Waits until it exits by itself, like a server that ends with its last client.
    pub async fn wait(self) -> Result<Output, QemuNbdError> {
        Ok(self.child.wait().await?)
    }

    /// Stops it, and starts another one on the same address.
    pub async fn restart(self) -> Result<QemuNbdServer, QemuNbdError> {
        let again = self.template();
        self.stop().await?.check()?;
        again.start().await
    }

    /// What is needed to start it again at the same address, after it has exited.
    pub fn template(&self) -> QemuNbdTemplate {
        let listen = match (&self.listen, &self.address) {
            (Listen::Tcp(host, _), Address::Tcp { port, .. }) => Listen::Tcp(host.clone(), *port),
            (listen, _) => listen.clone(),
        };
        QemuNbdTemplate {
            builder: self.builder.clone(),
            image: self.image.clone(),
            listen,
            held: self.held.clone(),
        }
    }
}

/// What is needed to start a process, and what we keep.
struct Start {
    command: Command,
    address: Address,
    file: Option<Arc<SocketFile>>,
    held: Option<Arc<Listening>>,
    pid_file: Option<PidFile>,
}

/// A server that ran once and can run again at the same address.
#[derive(Clone, Debug)]
pub struct QemuNbdTemplate {
    builder: QemuNbd,
    image: Image,
    listen: Listen,
    held: Option<Arc<Listening>>,
}

impl QemuNbdTemplate {
    /// Starts it.
    pub async fn start(self) -> Result<QemuNbdServer, QemuNbdError> {
        QemuNbdServer::start(self.builder, self.image, self.listen, self.held).await
    }

    /// Waits for a client at the address of the exited server, and hangs up on it without a
    /// greeting. Afterwards it is known that a client has tried to reach its server and found none.
    ///
    /// # Errors
    /// When the address is not held ([`QemuNbd::hold_address`]): no client can connect there.
    pub async fn hang_up(&self) -> Result<(), QemuNbdError> {
        let hung_up = match &self.held {
            Some(listening) => listening.hang_up().await,
            None => Err(std::io::Error::other(
                "the address was not held (QemuNbd::hold_address), or qemu-nbd made the socket",
            )),
        };
        hung_up.map_err(|source| QemuNbdError::Listen {
            address: self.listen.address(),
            source,
        })
    }
}
