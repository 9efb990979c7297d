//! The second driver of level 1: systemd, where it runs the machine, starts what makes the boundary.
//!
//! Each boundary is a transient unit, asked for through D-Bus: a zygote for this boundary alone ([`jail::zygote::unit`]), with
//! as much hardening around it as its work bears ([`unit`]). What it makes is what every zygote makes, by the same messages, and
//! is looked at in the same way before anything of the agent runs. Init becomes the unit's main process, and systemd's
//! child; its cgroups are those that node made, for they have to outlive it: how it ended is read there.
//!
//! The unit is gone when init is, whatever ended it, and nobody is asked to remove it. It has no tie to node's unit: node may
//! end, and the agent goes on.

mod unit;

use jail::wire;
use model::BoundaryId;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;
use zbus::{Connection, Fd, Variant};

/// How long systemd may take to answer. It takes milliseconds; on a machine under load, seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// It is there where systemd runs the machine (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";
/// Where D-Bus listens, whatever the environment says.
const BUS: &str = "unix:path=/run/dbus/system_bus_socket";

const NAME: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// Why systemd made no unit.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// Another init, or none.
    #[error("systemd does not run this machine; ask for no driver, or for the driver builtin")]
    NotBooted,
    /// Silent.
    #[error("systemd did not answer on D-Bus within {seconds} s while {what}")]
    Timeout {
        /// What it was asked.
        what: &'static str,
        /// How long.
        seconds: u64,
    },
    /// It cannot be reached, or refuses.
    #[error("systemd could not be asked on D-Bus ({what}); see that dbus.service runs")]
    Call {
        /// What for.
        what: &'static str,
        /// What it, or the bus, said.
        source: zbus::Error,
    },
    /// There is a unit, and nothing in it.
    #[error("the unit {unit} did not come up; see `journalctl -u {unit}`, or ask for the driver builtin")]
    Failed {
        /// Which.
        unit: String,
    },
    /// Something of our own.
    #[error("cannot hand a unit its socket")]
    Socket(#[source] io::Error),
}

/// The name of a boundary's unit.
pub(crate) fn name(boundary: BoundaryId) -> String {
    format!("cofferdam-{}.service", boundary.base32())
}

/// Which systemd runs this machine; an error where none does, or where it cannot be asked.
pub fn version() -> Result<String, SystemdError> {
    if !Path::new(BOOTED).is_dir() {
        return Err(SystemdError::NotBooted);
    }
    ask("reading its version", |bus| async move {
        let body = (MANAGER, "Version");
        let properties = "org.freedesktop.DBus.Properties";
        let reply = bus.call_method(Some(NAME), OBJECT, Some(properties), "Get", &body).await?;
        let body = reply.body();
        String::try_from(body.deserialize::<Variant<'_>>()?)
    })
}

/// Has systemd start a zygote for one boundary, with this socket.
pub(crate) fn start(
    unit: &str,
    jail: &Path,
    hidden: &[PathBuf],
    socket: &OwnedFd,
) -> Result<(), SystemdError> {
    if !Path::new(BOOTED).is_dir() {
        return Err(SystemdError::NotBooted);
    }
    let (ours, theirs) = wire::pair().map_err(SystemdError::Socket)?;
    wire::send(ours.as_fd(), &(), &[socket.as_fd()]).map_err(SystemdError::Socket)?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (unit, jail) = (unit.to_owned(), text(jail));
    let hidden: Vec<String> = hidden.iter().map(|path| text(path)).collect();
    ask("starting a unit", |bus| async move {
        let properties = unit::properties(&jail, &hidden, Fd::from(theirs));
        let auxiliary: [(&str, Vec<(&str, Variant<'_>)>); 0] = [];
        // What has this name already is another's.
        let body = (unit.as_str(), "fail", properties, auxiliary.as_slice());
        bus.call_method(Some(NAME), OBJECT, Some(MANAGER), "StartTransientUnit", &body).await.map(drop)
    })
}

/// Asks within the time that there is, by a connection of its own: whoever hangs is left behind.
fn ask<T: Send + 'static, F: Future<Output = zbus::Result<T>>>(
    what: &'static str,
    question: impl FnOnce(Connection) -> F + Send + 'static,
) -> Result<T, SystemdError> {
    let (sender, answer) = mpsc::channel();
    let asking = std::thread::Builder::new().name("systemd".into()).spawn(move || {
        let asked = zbus::block_on(async {
            let bus = zbus::connection::Builder::address(BUS).method_timeout(PATIENCE).build().await?;
            question(bus).await
        });
        let _ = sender.send(asked);
    });
    asking.map_err(SystemdError::Socket)?;
    match answer.recv_timeout(PATIENCE) {
        Ok(answer) => answer.map_err(|source| SystemdError::Call { what, source }),
        Err(_) => Err(SystemdError::Timeout { what, seconds: PATIENCE.as_secs() }),
    }
}
