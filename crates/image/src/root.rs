//! Makes sure that a tree is a root file system that agents can live in, and completes what every agent relies on:
//! mount points that are real directories, a user for uid 1000, and no trace of the machine that it was made on.

use crate::tree::{Content, InsidePath, Kind, Meta, PathError, Tree};

const AGENT: u32 = 1000;
const HOME: &str = "home/agent";

/// What the boundary mounts on, or looks into.
const DIRECTORIES: [(&str, u16); 7] = [
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("proc", 0o555),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
];

/// Why a tree is no root file system.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotARoot {
    #[error(
        "this does not look like a root file system: it has no program /bin/sh; in an archive of one, bin, etc \
         and so on lie at the top"
    )]
    NoShell,
    #[error("this root file system cannot be used: /{0} has to be a directory, and no symbolic link")]
    MountPoint(&'static str),
    #[error("this root file system cannot be used: /{0} has to be a small text file")]
    NoText(&'static str),
    #[error("this root file system cannot be completed: {0}")]
    Path(#[from] PathError),
}

/// Checks that a tree is a system that one can work in, and completes it.
pub(crate) fn complete(tree: &mut Tree) -> Result<(), NotARoot> {
    match tree.resolve(b"/bin/sh").map(|id| tree.node(id)) {
        Some(node) if matches!(node.kind, Kind::File(_)) && node.meta.mode & 0o111 != 0 => {}
        _ => return Err(NotARoot::NoShell),
    }
    furnish(tree)
}

/// Completes a tree. A container image need not have a shell: it may be one program and nothing else.
pub(crate) fn furnish(tree: &mut Tree) -> Result<(), NotARoot> {
    for (name, mode) in DIRECTORIES {
        directory(tree, name, Meta::root(mode))?;
    }
    user(tree)?;
    directory(tree, HOME, Meta { uid: AGENT, gid: AGENT, ..Meta::root(0o755) })?;
    // Names and resolvers are the agent's own business; those of the machine that made the archive stay out.
    empty(tree, "etc/machine-id")?;
    empty(tree, "etc/resolv.conf")?;
    text(tree, "etc/hostname", "agent\n")?;
    text(tree, "etc/hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")?;
    Ok(())
}

fn directory(tree: &mut Tree, name: &'static str, meta: Meta) -> Result<(), NotARoot> {
    let path = InsidePath::parse(name.as_bytes())?;
    match tree.find(&path).map(|id| &tree.node(id).kind) {
        Some(Kind::Directory(_)) => Ok(()),
        Some(_) => Err(NotARoot::MountPoint(name)),
        None => Ok(tree.add_directory(&path, meta)?),
    }
}

fn empty(tree: &mut Tree, name: &str) -> Result<(), NotARoot> {
    text(tree, name, "")
}

fn text(tree: &mut Tree, name: &str, text: &str) -> Result<(), NotARoot> {
    let content = Content::Small(text.as_bytes().to_vec());
    Ok(tree.replace(&InsidePath::parse(name.as_bytes())?, Meta::root(0o644), Kind::File(content))?)
}

/// Gives uid and gid 1000 the name `agent`, unless the image has names of its own for them.
fn user(tree: &mut Tree) -> Result<(), NotARoot> {
    // The shell is looked at first: /bin/sh is there, bash is nicer.
    let bash = tree.resolve(b"/bin/bash").is_some();
    let shell = if bash { "/bin/bash" } else { "/bin/sh" };
    append(tree, "etc/passwd", 2, &format!("agent:x:{AGENT}:{AGENT}::/{HOME}:{shell}\n"))?;
    append(tree, "etc/group", 2, &format!("agent:x:{AGENT}:\n"))
}

/// Adds a line to a file of fields, unless one line has 1000 in the field that is the id.
fn append(tree: &mut Tree, name: &'static str, field: usize, line: &str) -> Result<(), NotARoot> {
    let path = InsidePath::parse(name.as_bytes())?;
    let (meta, mut bytes) = match tree.find(&path).map(|id| tree.node(id)) {
        None => (Meta::root(0o644), Vec::new()),
        Some(node) => match &node.kind {
            Kind::File(Content::Small(bytes)) => (node.meta, bytes.clone()),
            _ => return Err(NotARoot::NoText(name)),
        },
    };
    let id = AGENT.to_string();
    let taken = bytes.split(|byte| *byte == b'\n').any(|line| {
        line.split(|byte| *byte == b':').nth(field) == Some(id.as_bytes()) || line.starts_with(b"agent:")
    });
    if taken {
        return Ok(());
    }
    if bytes.last().is_some_and(|byte| *byte != b'\n') {
        bytes.push(b'\n');
    }
    bytes.extend(line.as_bytes());
    Ok(tree.replace(&path, meta, Kind::File(Content::Small(bytes)))?)
}
