//! The second driver of level 2: an OCI runtime of the machine's makes the boundary (runc), or a kernel in it (runsc).
//!
//! It does not make another boundary. What it is given to make and what comes of it are described in [`jail::oci`]; the
//! agent's cgroups, channel, record and volume are the same, and so are all that is done to it afterwards, without the
//! runtime: it has done its work when init runs, and what it needed for that is removed then.
//!
//! A runtime is the host's root, as the zygote is, unless it is a kernel ([`jail::oci::kernel`]). Its work is not taken on trust: before anything of the agent runs, all
//! controls are looked at, as with every boundary, and where one is missing there is none. It is looked for in a fixed list of
//! directories under a name of a closed list, has so much time, and what it needs lies in a workshop that a sweep finds by
//! its name and ends, like a blank.

mod bundle;
pub(crate) mod evidence;

use crate::children::{self, Watch};
use crate::container::EXIT_RECORD;
use crate::container::Shape;
use crate::container::blank::{self, Blank, CHANNEL, Traces};
use crate::error::LaunchError;
use crate::host::process::spawn_with_fd;
use crate::network::{self, Doors};
use crate::{Shared, UidRange, files, image};
use jail::laps::Laps;
use jail::layout::ZYGOTE_FD;
use jail::oci::kernel::{Seen, paths};
use jail::oci::{Order, PRESERVED, Word};
use jail::spec::{Limits, PrepareFds};
use model::{AgentSpec, BoundaryId, Driver, Resources};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Where runtimes are looked for, the first that is there.
pub const DIRECTORIES: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// How long a runtime may take. It takes a tenth of a second; on a machine under load, seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much of what a runtime says is repeated.
const SAID_MAX: usize = 400;

/// Names below the workshop.
const BUNDLE: &str = "bundle";
const ROOT: &str = "root";
const STATE: &str = "state";
const SAID: &str = "said";
const PID: &str = "pid";
const EXCHANGE: &str = "exchange";

/// Namespaces of each kind that a kernel makes: for itself, and for who opens files for it.
const NAMESPACES: u32 = 8;

/// Why a runtime made no boundary.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// Not there.
    #[error("there is no {driver} in {directories}; install it (apt install {driver})")]
    Missing {
        /// Which.
        driver: Driver,
        /// Where it was looked for.
        directories: String,
    },
    /// There, but others than root could replace it.
    #[error("{path} is not used: {why}")]
    Unsafe {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It could not be started, or heard.
    #[error("cannot run {driver}")]
    Run {
        /// Which.
        driver: Driver,
        /// Why.
        source: io::Error,
    },
    /// It ended, and there is no init.
    #[error("{driver} could not make the boundary ({status}): {said}")]
    Failed {
        /// Which.
        driver: Driver,
        /// How it ended.
        status: String,
        /// What it said of it.
        said: String,
    },
    /// It did not end.
    #[error("{driver} did not make the boundary within {seconds} s")]
    Timeout {
        /// Which.
        driver: Driver,
        /// How long it had.
        seconds: u64,
    },
}

/// A runtime's file, open, and where it is.
pub(crate) fn find(driver: Driver, directories: &[PathBuf]) -> Result<(File, PathBuf), RuntimeError> {
    for path in directories.iter().map(|directory| directory.join(driver.as_str())) {
        let open = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&path);
        let Ok(file) = open else { continue };
        let found = file.metadata().map_err(|source| RuntimeError::Run { driver, source })?;
        let why = match () {
            () if !found.is_file() || found.mode() & 0o111 == 0 => "it is no program",
            () if found.uid() != 0 || found.mode() & 0o022 != 0 => "others than root may change it",
            () => return Ok((file, path)),
        };
        return Err(RuntimeError::Unsafe { path, why });
    }
    let directories: Vec<_> = directories.iter().map(|path| path.display().to_string()).collect();
    Err(RuntimeError::Missing { driver, directories: directories.join(", ") })
}

/// Has a runtime make a boundary around an init that waits for its configuration.
pub(crate) fn begin(
    shared: &Shared,
    spec: &AgentSpec,
    lease: UidRange,
    driver: Driver,
) -> Result<Blank, LaunchError> {
    spec.resources.validate()?;
    // As the zygote has it: ids below are the machine's own.
    if lease.base < UidRange::COUNT {
        let detail = "the first uid must leave the host's first 65536 ids alone".to_owned();
        return Err(LaunchError::Step { step: "checking the boundary".to_owned(), detail, source: None });
    }
    let mut laps = Laps::start();
    let (runtime, _) = find(driver, &shared.config.runtimes)?;
    let digest = spec.image_digest.as_deref().unwrap_or_default();
    let image = image::mount(&shared.config.images, digest)?;
    let disk = shared.volumes.mount(&shared.volumes.path(spec.volume))?;
    laps.lap("mount image and volume");
    let mut traces = Traces::new(shared, BoundaryId::new());
    let (fds, config) = traces.lay_out(shared, &spec.resources)?;
    let workshop = Workshop::new(shared, driver)?;
    let launch = blank::launch_request(0, &Shape::of(spec));
    let (fds, kernel) = if driver.is_kernel() {
        let bundle = bundle::of_kernel(spec.name.as_str(), launch.shm_bytes);
        let exchange = workshop.exchange(&traces, lease).map_err(|error| workshop.run(error))?;
        // It is in the agent's from the start.
        let cgroups = traces.group.procs()?;
        (PrepareFds { cgroups, ..fds }, Some(jail::oci::kernel::Order { bundle, exchange }))
    } else {
        let cgroup = shared.cgroups.path(&traces.id.base32());
        bundle::write(&workshop.path(BUNDLE), &workshop.path(ROOT), &cgroup, lease.base, launch.apparmor)
            .map_err(|error| workshop.run(error))?;
        (PrepareFds { cgroups: workshop.traces.group.procs()?, ..fds }, None)
    };
    let order = Order {
        base_uid: lease.base,
        limits: Limits { namespaces: if driver.is_kernel() { NAMESPACES } else { 0 }, ..Limits::default() },
        launch,
        root: workshop.text(ROOT),
        args: workshop.arguments(traces.id),
        kernel,
    };
    laps.lap("cgroups, channel, bundle");
    let given = [image, disk, runtime.into()].into_iter().chain(fds.into_vec()).collect();
    let mut made = workshop.make(&shared.init.path, &order, given)?;
    laps.lap(driver.as_str());
    let pid = match made.guard {
        Some(pid) => pid,
        None => workshop.init_pid()?,
    };
    let pidfd = pidfd(pid).map_err(LaunchError::DiedAtOnce)?;
    traces.group.join(pid)?;
    traces.pidfd = Some(pidfd);
    if driver.is_kernel() {
        // It has a network of its own, with nothing in it.
        workshop.take_channel(&traces).map_err(|error| workshop.run(error))?;
    } else {
        made.doors = network::own_doors(pid)?;
    }
    laps.lap("steering and doors");
    let blank = Blank::made(traces, lease, spec.resources, pid, made, config, laps);
    // Its bundle and its state are of no use any more.
    drop(workshop);
    Ok(blank)
}

/// What a runtime made.
pub(crate) struct Made {
    /// The ABI of Landlock around its init.
    pub(crate) landlock_abi: u32,
    /// What its init is under, if that is not the host's kernel.
    pub(crate) kernel: Option<Seen>,
    /// Who stands for init then.
    guard: Option<u32>,
    /// Where all arrives that leaves it, where there is anything.
    pub(crate) doors: Option<Doors>,
}

/// What a runtime needs while it works, under the name of a boundary that there never is. With its traces goes
/// everything that it started and left there; the agent's init is elsewhere by then.
struct Workshop {
    driver: Driver,
    traces: Traces,
}

impl Workshop {
    fn new(shared: &Shared, driver: Driver) -> Result<Self, LaunchError> {
        let traces = Traces::new(shared, BoundaryId::new());
        // Limits of its own: the agent's may be too small for it.
        traces.group.create(&Resources::default())?;
        let workshop = Self { driver, traces };
        for name in [BUNDLE, ROOT, STATE] {
            let path = workshop.path(name);
            files::directory(&path, 0o700).map_err(|source| LaunchError::Files { path, source })?;
        }
        Ok(workshop)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.traces.dir.join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    fn run(&self, source: io::Error) -> RuntimeError {
        RuntimeError::Run { driver: self.driver, source }
    }

    /// Makes the directory in which a kernel's init finds what it could not inherit, and leaves its channel.
    fn exchange(&self, traces: &Traces, lease: UidRange) -> io::Result<String> {
        use jail::oci::kernel::{INIT, LOGS, RECORD};
        let own = |path: &Path| std::os::unix::fs::chown(path, Some(lease.base), Some(lease.base));
        let path = self.path(EXCHANGE);
        files::directory(&path, 0o700)?;
        own(&path)?;
        for name in [INIT].into_iter().chain(LOGS) {
            File::create(path.join(name))?;
        }
        // The same file: it is read where it always is.
        fs::hard_link(traces.dir.join(EXIT_RECORD), path.join(RECORD))?;
        own(&path.join(RECORD))?;
        // Init makes it, and nobody has this one.
        files::remove(&traces.dir.join(CHANNEL))?;
        Ok(self.text(EXCHANGE))
    }

    /// Takes the channel out of the directory, which is removed with the workshop: who is inside can make nothing in it then.
    fn take_channel(&self, traces: &Traces) -> io::Result<()> {
        let made = self.path(EXCHANGE).join(jail::oci::kernel::CHANNEL);
        if !fs::symlink_metadata(&made)?.file_type().is_socket() {
            return Err(io::Error::other("its channel is no socket"));
        }
        fs::rename(made, traces.dir.join(CHANNEL))
    }

    /// With its state in a directory of ours it leaves nothing elsewhere but cgroups.
    fn arguments(&self, id: BoundaryId) -> Vec<String> {
        if self.driver.is_kernel() {
            let id = id.base32();
            // Without sockets of the host's the kernel may be nobody, in a user namespace below the agent's.
            let all = ["--ignore-cgroups", "--network=none", "--host-uds=create", "--overlay2=none"];
            let run = ["run", "--detach", "--bundle", paths::BUNDLE, "--pid-file", paths::PID, &id];
            let name = [self.driver.as_str(), "--root", paths::STATE];
            return name.into_iter().chain(all).chain(run).map(str::to_owned).collect();
        }
        let (state, bundle, pid) = (self.text(STATE), self.text(BUNDLE), self.text(PID));
        let (name, id, preserved) = (self.driver.as_str(), id.base32(), PRESERVED.to_string());
        let options =
            ["run", "--detach", "--preserve-fds", &preserved, "--bundle", &bundle, "--pid-file", &pid];
        [name, "--root", &state].into_iter().chain(options).chain([id.as_str()]).map(str::to_owned).collect()
    }

    /// Has the boundary made.
    fn make(&self, jail: &Path, order: &Order, fds: Vec<OwnedFd>) -> Result<Made, RuntimeError> {
        let end = Instant::now() + PATIENCE;
        let (ours, theirs) = jail::wire::pair().map_err(|error| self.run(error))?;
        let said = File::create(self.path(SAID)).map_err(|error| self.run(error))?;
        let mut command = Command::new(jail);
        command.arg("oci").env_clear().current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        let mut child = spawn_with_fd(command, theirs, ZYGOTE_FD).map_err(|error| self.run(error))?;
        // Nobody else collects it.
        let _watch = Watch::new(child.id());
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let sent = jail::wire::send(ours.as_fd(), order, &borrowed);
        // Ours are copies, and one of them has the volume.
        drop(borrowed);
        drop(fds);
        let mut guard = None;
        let word = sent.and_then(|()| last_word(&ours, end, &mut guard));
        let ended = pidfd(child.id()).and_then(|pidfd| children::wait(pidfd.as_fd(), end));
        if !matches!(ended, Ok(true)) {
            let _ = child.kill();
        }
        let status = child.wait().map_err(|error| self.run(error))?;
        let failed =
            |said: String| RuntimeError::Failed { driver: self.driver, status: status.to_string(), said };
        match (word, ended) {
            (Ok(Heard::Late), _) | (_, Ok(false)) => {
                Err(RuntimeError::Timeout { driver: self.driver, seconds: PATIENCE.as_secs() })
            }
            (Ok(Heard::Word(Word::Ready { landlock_abi, kernel })), Ok(true)) if status.success() => {
                Ok(Made { landlock_abi, kernel, guard, doors: None })
            }
            (Ok(Heard::Word(Word::Failed(error))), _) => Err(failed(error.to_string())),
            (Ok(_), Ok(_)) => Err(failed(self.said())),
            (Err(error), _) | (_, Err(error)) => Err(self.run(error)),
        }
    }

    /// What the runtime wrote, on one line.
    fn said(&self) -> String {
        let said = fs::read(self.path(SAID)).unwrap_or_default();
        let said = &said[said.len().saturating_sub(SAID_MAX)..];
        let text = String::from_utf8_lossy(said).trim().replace('\n', "; ");
        if text.is_empty() { "it said nothing".to_owned() } else { crate::container::printable(&text) }
    }

    /// The init that the runtime says it started. This process is its reaper.
    fn init_pid(&self) -> Result<u32, RuntimeError> {
        let text = fs::read_to_string(self.path(PID)).map_err(|error| self.run(error))?;
        text.trim().parse().map_err(|error| self.run(io::Error::other(error)))
    }
}

fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// What came of listening.
enum Heard {
    Word(Word),
    /// Not one.
    Nothing,
    Late,
}

/// The last word before the other ends are closed, and who stands for init where somebody does.
fn last_word(socket: &OwnedFd, end: Instant, guard: &mut Option<u32>) -> io::Result<Heard> {
    let mut heard = Heard::Nothing;
    while children::wait(socket.as_fd(), end)? {
        match jail::wire::receive::<Word>(socket.as_fd())? {
            Some((Word::Begun { pid }, _)) => *guard = u32::try_from(pid).ok(),
            Some((word, _)) => heard = Heard::Word(word),
            None => return Ok(heard),
        }
    }
    Ok(Heard::Late)
}
