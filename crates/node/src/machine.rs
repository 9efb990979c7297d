//! What this machine is and has, and how it is told that the node is ready.

use model::node_api::Capacity;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

/// Changes with every start of the machine.
pub(crate) fn boot_id() -> std::io::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned())
}

/// Where this program lies. After an upgrade the running file has no name any more, and what lies at its old
/// name now is what gates are started from.
pub(crate) fn program() -> std::io::Result<PathBuf> {
    let running = std::env::current_exe()?;
    let text = running.as_os_str().as_bytes();
    match text.strip_suffix(b" (deleted)") {
        Some(name) if !running.exists() => Ok(PathBuf::from(OsStr::from_bytes(name))),
        _ => Ok(running),
    }
}

/// What there is to give.
pub(crate) fn capacity(slots: u32) -> Capacity {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = rustix::system::sysinfo();
    Capacity { slots, cpus: cpus as f64, memory: memory.totalram as u64 * u64::from(memory.mem_unit) }
}

/// Tells whoever started the node that it is ready: sd_notify(3). Nobody listens in most tests.
pub(crate) fn notify_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = UnixDatagram::unbound().and_then(|socket| {
        use std::os::linux::net::SocketAddrExt;
        let address = match path.as_bytes() {
            [b'@', name @ ..] => std::os::unix::net::SocketAddr::from_abstract_name(name)?,
            _ => std::os::unix::net::SocketAddr::from_pathname(&path)?,
        };
        socket.send_to_addr(b"READY=1", &address)
    });
    if let Err(error) = sent {
        tracing::warn!(%error, "could not say READY=1 on NOTIFY_SOCKET");
    }
}
