//! Starts a process: the plan from a request, the descriptors, the fork, and what its failure is called.

use super::child::{self, Program, Stage, Standard};
use super::errors::{of_io, refuse};
use super::sys::{self, Forked};
use crate::layout::HOME;
use crate::spec::{Identity, InitConfig, User};
use channel::{ChannelError, ErrorKind, Size};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// Where programs are looked up unless the environment says otherwise.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What to start.
#[derive(Debug)]
pub struct Plan<'a> {
    /// Program and arguments.
    pub argv: &'a [String],
    /// Above the agent's environment.
    pub env: &'a BTreeMap<String, String>,
    /// Absolute, or the home.
    pub cwd: Option<&'a str>,
    /// Who.
    pub user: User,
    /// A terminal in place of pipes.
    pub tty: Option<Size>,
    /// Whether there is anything to read on stdin.
    pub stdin: bool,
    /// Both outputs in one pipe: for the main process's log.
    pub joined: bool,
}

/// A process that was forked. It may still fail to become its program: [`Started::status`] tells.
#[derive(Debug)]
pub struct Started {
    /// Also its process group and session.
    pub pid: i32,
    /// At its end of file the program runs; five bytes say why it does not ([`failure`]).
    pub status: OwnedFd,
    /// Writes to stdin.
    pub input: Option<OwnedFd>,
    /// Reads stdout, the terminal, or both outputs.
    pub output: OwnedFd,
    /// Reads stderr.
    pub error: Option<OwnedFd>,
}

fn c_string(what: &str, text: impl Into<Vec<u8>>) -> Result<CString, ChannelError> {
    CString::new(text).map_err(|_| refuse(ErrorKind::Invalid, format!("{what} holds a NUL byte; remove it")))
}

fn environment(config: &InitConfig, plan: &Plan<'_>) -> Result<BTreeMap<String, String>, ChannelError> {
    let (home, name) = match plan.user {
        User::Agent => (HOME, config.agent.name.as_str()),
        User::Root => ("/root", "root"),
    };
    let shell = if std::fs::exists("/bin/bash").unwrap_or(false) { "/bin/bash" } else { "/bin/sh" };
    let mut env: BTreeMap<String, String> = [
        ("PATH", DEFAULT_PATH),
        ("HOME", home),
        ("USER", name),
        ("LOGNAME", name),
        ("SHELL", shell),
        ("HOSTNAME", &config.hostname),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    if plan.tty.is_some() {
        env.insert("TERM".to_owned(), "xterm-256color".to_owned());
    }
    env.extend(config.env.iter().chain(plan.env).map(|(name, value)| (name.clone(), value.clone())));
    if env.keys().any(|name| name.is_empty() || name.contains('=')) {
        return Err(refuse(ErrorKind::Invalid, "the name of an environment variable is empty or holds '='"));
    }
    Ok(env)
}

fn program(config: &InitConfig, plan: &Plan<'_>, open_files: libc::rlimit) -> Result<Program, ChannelError> {
    let Some(name) = plan.argv.first().filter(|name| !name.is_empty()) else {
        return Err(refuse(ErrorKind::Invalid, "argv is empty: name a program"));
    };
    let env = environment(config, plan)?;
    let candidates = if name.contains('/') {
        vec![c_string("argv", name.as_str())?]
    } else {
        let path = env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
        let directory =
            |directory: &str| if directory.is_empty() { ".".to_owned() } else { directory.to_owned() };
        path.split(':')
            .map(|part| c_string("PATH or argv", format!("{}/{name}", directory(part))))
            .collect::<Result<_, _>>()?
    };
    let home = env.get("HOME").map_or("/", String::as_str);
    let own = config.cwd.as_deref().unwrap_or(home);
    if plan.cwd.is_some_and(|cwd| !cwd.starts_with('/')) {
        return Err(refuse(ErrorKind::Invalid, "the working directory must be an absolute path"));
    }
    Ok(Program {
        candidates,
        argv: plan.argv.iter().map(|text| c_string("argv", text.as_str())).collect::<Result<_, _>>()?,
        cwd: c_string("the working directory", plan.cwd.unwrap_or(own))?,
        cwd_optional: plan.cwd.is_none(),
        env: env
            .iter()
            .map(|(k, v)| c_string("the environment", format!("{k}={v}")))
            .collect::<Result<_, _>>()?,
        user: plan.user,
        ids: config.ids(plan.user),
        open_files,
    })
}

fn null() -> io::Result<OwnedFd> {
    Ok(OpenOptions::new().read(true).write(true).open("/dev/null")?.into())
}

fn terminal(size: Size, owner: Identity) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
    let open = |path| OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
    let master: File = open("/dev/ptmx").or_else(|_| open("/dev/pts/ptmx"))?;
    let peer = sys::terminal_peer(master.as_fd())?;
    sys::own(peer.as_fd(), owner.uid, owner.gid, 0o620)?;
    sys::set_window_size(master.as_fd(), size.rows, size.cols)?;
    Ok((master.into(), peer))
}

/// Init's ends of the descriptors, and the child's.
struct Wiring {
    input: Option<OwnedFd>,
    output: OwnedFd,
    error: Option<OwnedFd>,
    child: [OwnedFd; 3],
}

fn wire(plan: &Plan<'_>, ids: Identity) -> io::Result<Wiring> {
    if let Some(size) = plan.tty {
        let (master, peer) = terminal(size, ids)?;
        let input = if plan.stdin { Some(master.try_clone()?) } else { None };
        let child = [peer.try_clone()?, peer.try_clone()?, peer];
        return Ok(Wiring { input, output: master, error: None, child });
    }
    let (child_input, input) = if plan.stdin {
        let (read, write) = sys::pipe()?;
        sys::set_nonblocking(write.as_fd(), true)?;
        (read, Some(write))
    } else {
        (null()?, None)
    };
    let (output, child_output) = sys::pipe()?;
    sys::set_nonblocking(output.as_fd(), true)?;
    let (error, child_error) = if plan.joined {
        (None, child_output.try_clone()?)
    } else {
        let (error, child_error) = sys::pipe()?;
        sys::set_nonblocking(error.as_fd(), true)?;
        (Some(error), child_error)
    };
    Ok(Wiring { input, output, error, child: [child_input, child_output, child_error] })
}

/// Forks the process.
pub fn start(
    config: &InitConfig,
    plan: &Plan<'_>,
    open_files: libc::rlimit,
) -> Result<Started, ChannelError> {
    let program = program(config, plan, open_files)?;
    let no_descriptors = |error| of_io("could not make pipes or a terminal for the process", &error);
    let wiring = wire(plan, program.ids).map_err(no_descriptors)?;
    let (status, child_status) = sys::pipe().map_err(no_descriptors)?;
    sys::set_nonblocking(status.as_fd(), true).map_err(no_descriptors)?;
    match sys::fork().map_err(|error| no_process(&error))? {
        Forked::Child => {
            let [input, output, error] = &wiring.child;
            let standard = Standard {
                input: input.as_fd(),
                output: output.as_fd(),
                error: error.as_fd(),
                terminal: plan.tty.is_some(),
            };
            // A panic must not unwind into init's loop: the child would go on as a second init.
            let attempt = std::panic::AssertUnwindSafe(|| {
                child::become_program(&program, standard, child_status.as_fd())
            });
            if let Ok((stage, error)) = std::panic::catch_unwind(attempt) {
                report(&child_status, stage, &error);
            }
            sys::exit_now(127)
        }
        Forked::Parent(pid) => {
            let Wiring { input, output, error, .. } = wiring;
            Ok(Started { pid, status, input, output, error })
        }
    }
}

fn report(status: &OwnedFd, stage: Stage, error: &io::Error) {
    let [a, b, c, d] = error.raw_os_error().unwrap_or(libc::EIO).to_le_bytes();
    let message = [stage as u8, a, b, c, d];
    // Before the descriptors were moved it is still where init had it, afterwards at its fixed place.
    if !matches!(sys::write(status.as_fd(), &message), Ok(Some(_)))
        && let Ok(moved) = sys::inherited(child::STATUS_FD)
    {
        let _ = sys::write(moved.as_fd(), &message);
    }
}

/// A fork that failed.
pub fn no_process(error: &io::Error) -> ChannelError {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOMEM) => refuse(
            ErrorKind::TooMany,
            "the agent is at its limit of processes or memory; end some processes or raise the limit",
        ),
        _ => of_io("could not start a process", error),
    }
}

/// Reads what the status pipe holds. `None`: nothing yet. `Some(None)`: the program runs.
pub fn outcome(status: &OwnedFd, argv0: &str, cwd: Option<&str>) -> Option<Option<ChannelError>> {
    let mut message = [0; 5];
    match sys::read(status.as_fd(), &mut message) {
        Ok(None) => None,
        Ok(Some(5)) => {
            let [stage, a, b, c, d] = message;
            let error = io::Error::from_raw_os_error(i32::from_le_bytes([a, b, c, d]));
            Some(Some(failure(Stage::from_byte(stage), &error, argv0, cwd)))
        }
        Ok(Some(_)) | Err(_) => Some(None),
    }
}

fn failure(stage: Stage, error: &io::Error, argv0: &str, cwd: Option<&str>) -> ChannelError {
    let argv0: String = argv0.chars().take(200).collect();
    match (stage, error.raw_os_error()) {
        (Stage::Setup, _) => of_io("could not prepare the process", error),
        (Stage::User, _) => of_io("could not give up init's privileges for the process", error),
        (Stage::Directory, _) => {
            of_io(&format!("could not enter the working directory {}", cwd.unwrap_or("/")), error)
        }
        (Stage::Exec, Some(libc::ENOENT | libc::ENOTDIR)) => refuse(
            ErrorKind::CommandNotFound,
            format!("{argv0}: no such program (or its interpreter is missing); is it in PATH?"),
        ),
        (Stage::Exec, Some(libc::E2BIG)) => {
            refuse(ErrorKind::Invalid, "arguments and environment together are too long for the kernel")
        }
        (Stage::Exec, Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE)) => {
            of_io(&format!("could not execute {argv0}"), error)
        }
        (Stage::Exec, _) => refuse(ErrorKind::NotExecutable, format!("{argv0} cannot be executed: {error}")),
    }
}
