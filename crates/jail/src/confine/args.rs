//! The arguments of `confine`. Written by hand: three forms need no parser of a thousand lines in a program that is root.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What is accepted.
pub const USAGE: &str = "usage: cofferdam-jail confine --uid UID --gid GID [--ro PATH]… [--rw PATH]… [--net] [--proc] \
                         [--keep-fds N] -- PROGRAM [ARGUMENT]…";

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Never 0.
    pub uid: u32,
    /// Never 0.
    pub gid: u32,
    /// Absolute paths, and whether they can be written to.
    pub places: Vec<(PathBuf, bool)>,
    /// The network of whoever started this.
    pub network: bool,
    /// Its own processes in `/proc`.
    pub proc: bool,
    /// How many descriptors from 3 up are for the program, which it is told of by `LISTEN_FDS`.
    pub keep_fds: Option<u32>,
    /// Program and arguments.
    pub command: Vec<OsString>,
}

/// Why not.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused(String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

fn number(name: &str, value: &OsString) -> Result<u32, Refused> {
    let parsed = value.to_str().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| Refused(format!("{name} takes a number, not {}", value.display())))
}

/// Reads the arguments that follow `confine`.
pub fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Options, Refused> {
    let (mut uid, mut gid, mut keep_fds) = (None, None, None);
    let (mut places, mut network, mut proc) = (Vec::new(), false, false);
    loop {
        let name = args.next().ok_or_else(|| Refused("-- and a program are missing".into()))?;
        let name = name.to_str().unwrap_or_default().to_owned();
        let mut value = || args.next().ok_or_else(|| Refused(format!("{name} takes a value")));
        match name.as_str() {
            "--" => break,
            "--net" => network = true,
            "--proc" => proc = true,
            "--uid" => uid = Some(number(&name, &value()?)?),
            "--gid" => gid = Some(number(&name, &value()?)?),
            "--keep-fds" => keep_fds = Some(number(&name, &value()?)?),
            "--ro" | "--rw" => {
                let path = PathBuf::from(value()?);
                if !path.is_absolute() || path == Path::new("/") {
                    let path = path.display();
                    return Err(Refused(format!("{name} takes an absolute path beneath /, not {path}")));
                }
                places.push((path, name == "--rw"));
            }
            _ => return Err(Refused(format!("there is no option {name:?}"))),
        }
    }
    let id = |id: Option<u32>, name| match id {
        Some(id) if id != 0 && id != u32::MAX => Ok(id),
        _ => Err(Refused(format!("{name} must be given, and not be root's"))),
    };
    let command: Vec<OsString> = args.collect();
    if command.is_empty() {
        return Err(Refused("a program is missing".into()));
    }
    if keep_fds.is_some_and(|count| count > 1024) {
        return Err(Refused("--keep-fds takes at most 1024".into()));
    }
    Ok(Options { uid: id(uid, "--uid")?, gid: id(gid, "--gid")?, places, network, proc, keep_fds, command })
}
