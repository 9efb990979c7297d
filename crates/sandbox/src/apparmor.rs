//! The AppArmor profile of containers: into the kernel, where it has AppArmor, and how an agent's init is seen in it.
//!
//! Its text is part of this program, so that what is loaded is what boundaries were tested with. A program that compiles
//! it (`apparmor_parser`) is the machine's, at a fixed path; without one there is no profile, and evidence and `doctor` say
//! so. One that is there and fails is no reason to do without.

use jail::apparmor::PROFILE;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

const TEXT: &str = include_str!("apparmor.profile");
const PARSERS: [&str; 4] = [
    "/usr/sbin/apparmor_parser",
    "/sbin/apparmor_parser",
    "/usr/bin/apparmor_parser",
    "/usr/local/sbin/apparmor_parser",
];
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
const POLICY: &str = "/sys/kernel/security/apparmor";

/// Whether boundaries of this machine are in the profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// They are, or are not made.
    Loaded,
    /// This machine cannot: why.
    Absent(String),
    /// It could, and the profile is not there: why.
    Refused(String),
}

/// What there is on this machine. The profile is loaded the first time that somebody asks.
pub fn offer() -> &'static Offer {
    static OFFER: LazyLock<Offer> = LazyLock::new(load);
    &OFFER
}

/// Loads the profile, in place of one that another version of this program has loaded. Agents that run are in the new one
/// then.
pub fn load() -> Offer {
    if let Err(why) = kernel() {
        return Offer::Absent(why);
    }
    let loaded = match parser() {
        None => Err(Offer::Absent("this kernel has AppArmor, and there is no apparmor_parser".to_owned())),
        Some(parser) => parse(parser, "--replace").map_err(Offer::Refused),
    };
    match loaded {
        // Node has not the capability where systemd started it, and has somebody do it before (`cofferdam-node.service`).
        Err(_) if is_loaded() => Offer::Loaded,
        Err(offer) => offer,
        Ok(()) => Offer::Loaded,
    }
}

/// Whether this kernel has AppArmor, and policy can be loaded from here; if not, why.
pub(crate) fn kernel() -> Result<(), String> {
    match fs::read_to_string(ENABLED) {
        Ok(enabled) if enabled.trim() == "Y" => {}
        _ => return Err("this kernel has no AppArmor, or it is switched off".to_owned()),
    }
    match Path::new(POLICY).is_dir() {
        true => Ok(()),
        false => Err(format!("this kernel has AppArmor, and {POLICY} is not mounted here")),
    }
}

/// What compiles profiles.
pub(crate) fn parser() -> Option<&'static str> {
    PARSERS.into_iter().find(|path| Path::new(path).is_file())
}

/// Has the profile compiled, and what `doing` says done with it.
pub(crate) fn parse(parser: &str, doing: &str) -> Result<(), String> {
    let run = || {
        // From no file, and into none: caches are the distribution's.
        let mut child = Command::new(parser)
            .args([doing, "--skip-cache"])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            // One that does not read to the end has something to say about it.
            let _ = input.write_all(TEXT.as_bytes());
        }
        child.wait_with_output()
    };
    match run() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("{parser} did not load the profile: {}", crate::container::printable(said.trim())))
        }
        Err(error) => Err(format!("cannot run {parser}: {error}")),
    }
}

fn is_loaded() -> bool {
    let loaded = fs::read_to_string(Path::new(POLICY).join("profiles")).unwrap_or_default();
    loaded.lines().any(|line| line.strip_prefix(PROFILE).is_some_and(|mode| mode == " (enforce)"))
}

/// Which profile a process is in, as the kernel says it: name and mode.
fn label(pid: u32) -> io::Result<String> {
    let label = crate::procfs::read(format!("/proc/{pid}/attr/apparmor/current"))?;
    Ok(label.trim_end().to_owned())
}

/// Whether a process is in the profile, and nothing of that is only written down.
pub(crate) fn confines(pid: u32) -> bool {
    label(pid).is_ok_and(|label| label.strip_prefix(PROFILE) == Some(" (enforce)"))
}

/// What is seen of an init.
pub(crate) fn seen(pid: u32) -> Result<String, String> {
    if confines(pid) {
        return Ok(format!("{PROFILE} (enforce)"));
    }
    match offer() {
        Offer::Absent(why) | Offer::Refused(why) => Err(why.clone()),
        Offer::Loaded => Err(match label(pid) {
            Ok(label) => format!("its init is {label}, not {PROFILE} (enforce)"),
            Err(error) => format!("cannot read which profile its init is in: {error}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parser_that_fails_has_loaded_nothing() {
        assert_eq!(parse("/bin/true", "--replace"), Ok(()));
        for parser in ["/bin/false", "/nowhere/apparmor_parser"] {
            let why = parse(parser, "--replace").unwrap_err();
            assert!(why.contains(parser), "{why}");
        }
        // Of a shell, which takes the profile for a script, what it says is passed on.
        let why = parse("/bin/sh", "--replace").unwrap_err();
        assert!(why.len() > "/bin/sh did not load the profile: ".len(), "{why}");
    }
}
