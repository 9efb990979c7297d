//! What a node accepts of a desired state. Control is trusted to say what should run, not to be right: a
//! control that was taken over must not gain more on its nodes than agents within their owner's caps.

use crate::Config;
use model::agent::{Command, Level, RunAs};
use model::{AgentSpec, Driver};
use std::collections::BTreeMap;

/// One argument, value or path may have this many bytes: the kernel's own limit of a string of execve(2).
const MAX_STRING: usize = 128 << 10;
/// All arguments and environment together, well below the kernel's limit with an 8 MiB stack.
const MAX_TOTAL: usize = 1 << 20;
/// Ids inside an agent are below this, and one more is nobody's.
const MAX_ID: u32 = 65_535;
/// Arguments or variables.
const MAX_ITEMS: usize = 4096;

/// Why a spec is not acted on, in words for the agent's owner.
pub(crate) fn check(spec: &AgentSpec, config: &Config) -> Result<(), String> {
    let limits = &config.limits;
    level(spec)?;
    let driver = driver(spec, config);
    if spec.level != Level::Workspace && !config.drivers.contains(&driver) {
        let systemd = match driver {
            Driver::Systemd => " where systemd runs the machine (`cofferdam doctor` says)",
            _ => "",
        };
        return Err(format!(
            "this node makes no boundaries with {driver}; ask for another driver, or add it to drivers in node.toml{systemd}"
        ));
    }
    spec.resources.validate().map_err(|error| error.to_string())?;
    let resources = &spec.resources;
    let over = |what: &str, asked: String, cap: String| {
        Err(format!(
            "this node gives an agent at most {cap} {what}, and {asked} was asked for; lower the agent's {what}, or raise limits.{what} in node.toml"
        ))
    };
    if resources.cpus > limits.cpus {
        return over("cpus", resources.cpus.to_string(), limits.cpus.to_string());
    }
    if resources.memory > limits.memory {
        return over("memory", resources.memory.to_string(), limits.memory.to_string());
    }
    if resources.pids > limits.pids {
        return over("pids", resources.pids.to_string(), limits.pids.to_string());
    }
    if resources.disk > limits.disk {
        return over("disk", resources.disk.to_string(), limits.disk.to_string());
    }
    let config = &spec.image_config;
    if config.user.as_ref().is_some_and(|user| user.uid >= MAX_ID || user.gid >= MAX_ID) {
        return Err(format!("the image's user has an id that is not below {MAX_ID}"));
    }
    let mut total = directory(config.cwd.as_deref())?;
    total += environment(&spec.env)?;
    if let Some(main) = &spec.main {
        total += command(main)?;
    }
    if total > MAX_TOTAL {
        return Err(format!("arguments and environment have more than {MAX_TOTAL} bytes together"));
    }
    Ok(())
}

/// Whether this node makes agents of the level at all.
pub(crate) fn allowed(level: Level, levels: &[Level]) -> Result<(), String> {
    if levels.contains(&level) {
        return Ok(());
    }
    let names: Vec<&str> = levels.iter().map(|level| level.as_str()).collect();
    Err(format!(
        "this node makes no agents of level {level}, only of: {}; see `levels` in node.toml",
        names.join(", ")
    ))
}

/// Who makes its boundary here. Drivers that this machine does not have are not in the configuration by now.
pub(crate) fn driver(spec: &AgentSpec, config: &Config) -> Driver {
    let systemd = spec.level == Level::Process && config.drivers.contains(&Driver::Systemd);
    let own = if systemd { Driver::Systemd } else { Driver::Builtin };
    let configured = config.driver.filter(|driver| driver.makes(spec.level));
    spec.driver.or(configured).unwrap_or(own)
}

/// What a level has and what it cannot have.
fn level(spec: &AgentSpec) -> Result<(), String> {
    let level = spec.level;
    if let Some(driver) = spec.driver.filter(|driver| !driver.makes(level)) {
        return Err(format!("the driver {driver} makes no agent of level {level}"));
    }
    if level.has_image() {
        return match &spec.image_digest {
            Some(digest) if is_digest(digest) => Ok(()),
            Some(_) => Err("the image's digest is not 64 lowercase hexadecimal digits".into()),
            None => Err(format!("an agent of level {level} needs an image")),
        };
    }
    let main = spec.main.as_ref().and_then(|main| main.user);
    if spec.image.is_some() || spec.image_digest.is_some() || spec.image_config != Default::default() {
        return Err(format!("an agent of level {level} has no image: it sees this machine's own system"));
    }
    if spec.keep_scratch {
        return Err(format!("an agent of level {level} has no scratch layer that could be kept"));
    }
    if spec.run_as == RunAs::Root || main == Some(RunAs::Root) {
        return Err(format!("nobody is root in an agent of level {level}; run as the agent's user"));
    }
    Ok(())
}

/// Whether a text is a lowercase SHA-256 in hexadecimal, and so safe as a file's name.
pub(crate) fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn command(command: &Command) -> Result<usize, String> {
    if command.argv.first().is_none_or(String::is_empty) {
        return Err("the main process has no program".into());
    }
    if command.argv.len() > MAX_ITEMS {
        return Err(format!("the main process has more than {MAX_ITEMS} arguments"));
    }
    let mut total = environment(&command.env)?;
    for argument in &command.argv {
        total += string("an argument of the main process", argument)?;
    }
    Ok(total + directory(command.cwd.as_deref())?)
}

fn directory(cwd: Option<&str>) -> Result<usize, String> {
    let Some(cwd) = cwd else { return Ok(0) };
    if !cwd.starts_with('/') {
        return Err("the working directory is not an absolute path".into());
    }
    string("the working directory", cwd)
}

fn environment(env: &BTreeMap<String, String>) -> Result<usize, String> {
    if env.len() > MAX_ITEMS {
        return Err(format!("the environment has more than {MAX_ITEMS} variables"));
    }
    let mut total = 0;
    for (name, value) in env {
        if name.is_empty() || name.contains('=') {
            return Err("a variable of the environment has no name, or one with '='".into());
        }
        total += string("the name of a variable", name)? + string("the value of a variable", value)?;
    }
    Ok(total)
}

fn string(what: &str, text: &str) -> Result<usize, String> {
    if text.contains('\0') {
        return Err(format!("{what} holds a NUL byte"));
    }
    if text.len() > MAX_STRING {
        return Err(format!("{what} has more than {MAX_STRING} bytes"));
    }
    Ok(text.len() + 1)
}
