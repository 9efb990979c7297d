//! The zygote, seen from node: one helper process that clones namespaces for us.
//!
//! Requests are numbered and answered in any order. A zygote that died is started again by the next launch
//! and given its images again; agents do not notice. One that does not answer in time is ended.

use crate::children::Watch;
use crate::host::process::spawn_with_fd;
use crate::image;
use crate::systemd::{self, SystemdError};
use jail::laps::Lap;
use jail::spec::{Launch, Limits, Prepare, PrepareFds, Reply, Request, Root};
use jail::wire;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long the zygote may take for anything. A launch takes milliseconds; a machine under load, seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why the zygote could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ZygoteError {
    /// Not started.
    #[error("cannot start {path}; build it with `cargo xtask build`")]
    Start {
        /// The binary.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Gone in the middle.
    #[error("the zygote ended unexpectedly; its last words are on the node's standard error")]
    Died,
    /// Silent.
    #[error("the zygote did not answer within {seconds} s while {what}")]
    Timeout {
        /// What it was asked.
        what: &'static str,
        /// How long.
        seconds: u64,
    },
    /// It could not take an image.
    #[error("the zygote could not attach image {digest} at step `{step}`")]
    Image {
        /// Which.
        digest: String,
        /// What it was doing.
        step: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Unsendable.
    #[error("cannot send to the zygote")]
    Send(#[source] io::Error),
    /// No unit for it.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
}

/// Which boundary of which zygote: it waits for an image and a volume, and ends with that zygote.
pub(crate) struct Begun {
    link: Arc<Link>,
    request: u64,
}

/// A boundary that the zygote began.
pub(crate) struct Prepared {
    pub(crate) begun: Begun,
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) laps: Vec<Lap>,
}

/// A boundary that it made whole.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) landlock_abi: u32,
    pub(crate) laps: Vec<Lap>,
}

/// A boundary that it could not make.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) step: String,
    pub(crate) errno: i32,
    pub(crate) detail: String,
}

/// What a launch, or what comes before it, is answered with.
enum Done {
    Prepared { pid: u32, pidfd: OwnedFd, laps: Vec<Lap> },
    Launched(Launched),
}

type Answer = Result<Done, Refusal>;
type ImageAnswer = Result<(), (String, i32)>;

/// Who waits for what.
#[derive(Default)]
struct Waiting {
    ready: Option<Sender<()>>,
    boundaries: HashMap<u64, Sender<Answer>>,
    images: HashMap<String, Sender<ImageAnswer>>,
    /// No answer will come any more.
    closed: bool,
}

/// The connection to one zygote.
struct Link {
    socket: OwnedFd,
    /// Its pid, for one that is a child of this process. One of a unit's is systemd's business, and ends with init.
    child: Option<(u32, OwnedFd)>,
    waiting: Mutex<Waiting>,
    dead: AtomicBool,
    /// Images that it has. Held while one is added, so that each is added once.
    images: Mutex<HashSet<String>>,
}

/// Keeps a zygote.
pub(crate) struct Keeper {
    jail: PathBuf,
    hidden: Vec<PathBuf>,
    images: PathBuf,
    current: Mutex<Option<Arc<Link>>>,
    requests: AtomicU64,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("jail", &self.jail).field("pid", &self.pid()).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Keeper {
    /// Starts the first zygote.
    pub(crate) fn start(jail: &Path, images: &Path, hidden: Vec<PathBuf>) -> Result<Self, ZygoteError> {
        let keeper = Self {
            jail: jail.to_owned(),
            hidden,
            images: images.to_owned(),
            current: Mutex::new(None),
            requests: AtomicU64::new(1),
        };
        keeper.link()?;
        Ok(keeper)
    }

    /// The living zygote's pid.
    pub(crate) fn pid(&self) -> Option<u32> {
        lock(&self.current).as_ref().filter(|link| !link.is_dead()).and_then(|link| link.pid())
    }

    /// The living zygote; a new one when the last died.
    fn link(&self) -> Result<Arc<Link>, ZygoteError> {
        let mut current = lock(&self.current);
        if let Some(link) = current.as_ref().filter(|link| !link.is_dead()) {
            return Ok(link.clone());
        }
        let link = Link::start(&self.jail, &self.hidden)?;
        Ok(current.insert(link).clone())
    }

    /// Has the zygote begin a boundary; one of its own, in the unit of this name, where there is one.
    pub(crate) fn prepare(
        &self,
        base_uid: u32,
        host_network: bool,
        unit: Option<&str>,
        fds: PrepareFds<OwnedFd>,
    ) -> Result<Result<Prepared, Refusal>, ZygoteError> {
        let link = match unit {
            Some(unit) => Link::of_unit(unit, &self.jail, &self.hidden)?,
            None => self.link()?,
        };
        let request = self.requests.fetch_add(1, Ordering::Relaxed);
        let prepare = Prepare { request, base_uid, limits: Limits::default(), host_network };
        let answer = link.ask(request, &Request::Prepare(Box::new(prepare)), fds.into_vec())?;
        Ok(match answer {
            Ok(Done::Prepared { pid, pidfd, laps }) => {
                Ok(Prepared { begun: Begun { link, request }, pid, pidfd, laps })
            }
            Ok(Done::Launched(_)) => return Err(ZygoteError::Died),
            Err(refusal) => Err(refusal),
        })
    }

    /// Has it make the boundary whole; an image that is wanted it is given first if it does not have it.
    pub(crate) fn launch(
        &self,
        Begun { link, request }: &Begun,
        launch: impl FnOnce(u64) -> Launch,
        volume: OwnedFd,
    ) -> Result<Result<Launched, Refusal>, crate::LaunchError> {
        let launch = launch(*request);
        if let Root::Image { digest, .. } = &launch.root {
            link.add_image(&self.images, digest)?;
        }
        let answer = link.ask(*request, &Request::Launch(Box::new(launch)), vec![volume])?;
        Ok(match answer {
            Ok(Done::Launched(launched)) => Ok(launched),
            Ok(Done::Prepared { .. }) => return Err(ZygoteError::Died.into()),
            Err(refusal) => Err(refusal),
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(link) = lock(&self.current).take() {
            // End of file ends the zygote, and its end the reader's thread.
            let _ = shutdown(&link.socket, Shutdown::Both);
        }
    }
}

impl Link {
    fn start(jail: &Path, hidden: &[PathBuf]) -> Result<Arc<Self>, ZygoteError> {
        let failed = |source: io::Error| ZygoteError::Start { path: jail.to_owned(), source };
        let (ours, theirs) = pair().map_err(failed)?;
        let mut command = Command::new(jail);
        command
            .arg("zygote")
            .args(hidden)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let child = spawn_with_fd(command, theirs, jail::layout::ZYGOTE_FD).map_err(failed)?;
        let pid = child.id();
        let pidfd = Pid::from_raw(pid as i32)
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .map_err(|error| failed(error.into()))?;
        let link =
            Self::connect(ours, Some((child, Watch::new(pid))), Some((pid, pidfd))).map_err(failed)??;
        crate::inspect::zygote_holds(pid);
        Ok(link)
    }

    /// One for a single boundary, which systemd starts.
    fn of_unit(unit: &str, jail: &Path, hidden: &[PathBuf]) -> Result<Arc<Self>, ZygoteError> {
        let (ours, theirs) = pair().map_err(SystemdError::Socket)?;
        systemd::start(unit, jail, hidden, &theirs)?;
        // That nobody has its other end shows when the unit fails.
        drop(theirs);
        Self::connect(ours, None, None).map_err(SystemdError::Socket)?.map_err(|error| match error {
            ZygoteError::Died => SystemdError::Failed { unit: unit.to_owned() }.into(),
            error => error,
        })
    }

    /// Waits until it is ready.
    fn connect(
        socket: OwnedFd,
        process: Option<(Child, Watch)>,
        child: Option<(u32, OwnedFd)>,
    ) -> io::Result<Result<Arc<Self>, ZygoteError>> {
        let (sender, ready) = mpsc::channel();
        let waiting = Waiting { ready: Some(sender), ..Waiting::default() };
        let link = Arc::new(Self {
            socket,
            child,
            waiting: Mutex::new(waiting),
            dead: AtomicBool::new(false),
            images: Mutex::default(),
        });
        let reader = link.clone();
        std::thread::Builder::new().name("zygote-reader".into()).spawn(move || reader.read_all(process))?;
        Ok(link.wait(&ready, "starting").map(|()| link))
    }

    fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(|(pid, _)| *pid)
    }

    /// Ends it, whatever it does. One of a unit's ends with its unit, when that does not come up or its init is gone.
    fn end(&self) {
        self.dead.store(true, Ordering::Release);
        match &self.child {
            Some((_, pidfd)) => drop(pidfd_send_signal(pidfd, Signal::KILL)),
            None => drop(shutdown(&self.socket, Shutdown::Both)),
        }
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Hands every reply to who waits for it, until the zygote ends.
    fn read_all(&self, process: Option<(Child, Watch)>) {
        loop {
            match wire::receive::<Reply>(self.socket.as_fd()) {
                Ok(Some((reply, fds))) => self.dispatch(reply, fds),
                Ok(None) => break,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::error!(%error, "the zygote sent something unreadable");
                }
                Err(error) => {
                    tracing::error!(%error, "cannot read from the zygote");
                    break;
                }
            }
        }
        // Its end of the socket is closed: it is dead, or has nothing to live for.
        self.end();
        {
            let mut waiting = lock(&self.waiting);
            *waiting = Waiting { closed: true, ..Waiting::default() };
        }
        let Some((mut child, _watch)) = process else { return };
        match child.wait() {
            Ok(status) => tracing::info!(%status, pid = child.id(), "the zygote ended"),
            Err(error) => tracing::error!(%error, pid = child.id(), "cannot collect the zygote"),
        }
    }

    fn dispatch(&self, reply: Reply, fds: Vec<OwnedFd>) {
        let mut fds = fds.into_iter();
        match reply {
            Reply::Ready { landlock_abi } => {
                tracing::info!(pid = self.pid(), landlock_abi, "the zygote is ready");
                if let Some(sender) = lock(&self.waiting).ready.take() {
                    let _ = sender.send(());
                }
            }
            Reply::ImageAdded { digest } => self.image_answer(&digest, Ok(())),
            Reply::ImageFailed { digest, step, errno } => self.image_answer(&digest, Err((step, errno))),
            Reply::Prepared { request, pid, laps } => {
                let (Some(pidfd), Ok(pid)) = (fds.next(), u32::try_from(pid)) else {
                    tracing::error!(request, "the zygote began a boundary without a pidfd");
                    return;
                };
                let unwanted = self.answer(request, Ok(Done::Prepared { pid, pidfd, laps }));
                // Whoever asked gave up: nobody will ever end this one.
                if let Some(Ok(Done::Prepared { pidfd, .. })) = unwanted {
                    let _ = pidfd_send_signal(&pidfd, Signal::KILL);
                    reap(&pidfd);
                }
            }
            // Whoever does not wait any more ends what was prepared, whatever it is now.
            Reply::Launched { request, landlock_abi, laps } => {
                drop(self.answer(request, Ok(Done::Launched(Launched { landlock_abi, laps }))));
            }
            Reply::Failed { request, step, errno, detail, pid: _ } => {
                if let Some(pidfd) = fds.next() {
                    let _ = pidfd_send_signal(&pidfd, Signal::KILL);
                    reap(&pidfd);
                }
                drop(self.answer(request, Err(Refusal { step, errno, detail })));
            }
        }
    }

    /// Hands an answer over; back comes one that nobody waits for.
    fn answer(&self, request: u64, answer: Answer) -> Option<Answer> {
        match lock(&self.waiting).boundaries.remove(&request) {
            Some(sender) => sender.send(answer).err().map(|refused| refused.0),
            None => Some(answer),
        }
    }

    fn image_answer(&self, digest: &str, answer: ImageAnswer) {
        if let Some(sender) = lock(&self.waiting).images.remove(digest) {
            let _ = sender.send(answer);
        }
    }

    fn add_image(&self, images: &Path, digest: &str) -> Result<(), crate::LaunchError> {
        // Also of one that is attached already: what is made of it now could not be started again.
        image::check(images, digest)?;
        let mut added = lock(&self.images);
        if added.contains(digest) {
            return Ok(());
        }
        let mount = image::mount(images, digest)?;
        let (sender, receiver) = mpsc::channel();
        self.register(|waiting| waiting.images.insert(digest.to_owned(), sender).map(drop))?;
        self.send(&Request::AddImage { digest: digest.to_owned() }, &[mount])?;
        match self.wait(&receiver, "attaching an image")? {
            Ok(()) => {
                added.insert(digest.to_owned());
                Ok(())
            }
            Err((step, errno)) => {
                let source = io::Error::from_raw_os_error(errno);
                Err(ZygoteError::Image { digest: digest.to_owned(), step, source }.into())
            }
        }
    }

    fn ask(&self, request: u64, message: &Request, fds: Vec<OwnedFd>) -> Result<Answer, ZygoteError> {
        let (sender, receiver) = mpsc::channel();
        self.register(|waiting| waiting.boundaries.insert(request, sender).map(drop))?;
        self.send(message, &fds)?;
        // Ours are copies: the sooner they are closed, the fewer hold the volume.
        drop(fds);
        self.wait(&receiver, "making a boundary").inspect_err(|_| {
            lock(&self.waiting).boundaries.remove(&request);
        })
    }

    fn register(&self, add: impl FnOnce(&mut Waiting) -> Option<()>) -> Result<(), ZygoteError> {
        let mut waiting = lock(&self.waiting);
        if waiting.closed {
            return Err(ZygoteError::Died);
        }
        add(&mut waiting);
        Ok(())
    }

    fn send(&self, request: &Request, fds: &[OwnedFd]) -> Result<(), ZygoteError> {
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        wire::send(self.socket.as_fd(), request, &borrowed).map_err(|error| match error.raw_os_error() {
            Some(libc::EPIPE | libc::ECONNRESET) => ZygoteError::Died,
            Some(libc::EAGAIN) => self.give_up("reading its socket"),
            _ => ZygoteError::Send(error),
        })
    }

    fn wait<T>(&self, receiver: &mpsc::Receiver<T>, what: &'static str) -> Result<T, ZygoteError> {
        receiver.recv_timeout(PATIENCE).map_err(|error| match error {
            RecvTimeoutError::Disconnected => ZygoteError::Died,
            RecvTimeoutError::Timeout => self.give_up(what),
        })
    }

    /// Ends a zygote that hangs. Its agents live on; the next launch starts another.
    fn give_up(&self, what: &'static str) -> ZygoteError {
        tracing::error!(pid = self.pid(), what, "the zygote does not answer and is ended");
        self.end();
        ZygoteError::Timeout { what, seconds: PATIENCE.as_secs() }
    }
}

/// A socket to a zygote, ours and theirs.
fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    // A zygote that stopped reading must not hold us for ever.
    rustix::net::sockopt::set_socket_timeout(&ours, rustix::net::sockopt::Timeout::Send, Some(PATIENCE))?;
    Ok((ours, theirs))
}

/// Collects a child that was killed, or is ending by itself.
fn reap(pidfd: &OwnedFd) {
    loop {
        match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
            Err(rustix::io::Errno::INTR) => {}
            // Not ours (any more) is fine.
            _ => return,
        }
    }
}
