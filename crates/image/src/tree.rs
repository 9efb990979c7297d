//! A root file system in memory: names, owners, modes and links. File contents are elsewhere, unless they are small.
//!
//! Paths are only ever looked up in here, one component after another, and a symbolic link is never followed
//! while an archive is read. What an archive calls `/etc/passwd` can therefore be nothing but the image's own.

mod merge;

pub(crate) use merge::Layer;

use std::collections::BTreeMap;

/// The longest name, in bytes (`NAME_MAX`).
const MAX_NAME: usize = 255;
/// The longest path, in bytes (`PATH_MAX`, without the final NUL).
const MAX_PATH: usize = 4095;

/// Why an entry cannot be put into the tree. Each is followed by the entry's name where it is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    #[error("its path has a `..` component")]
    ParentComponent,
    #[error("its path is absolute")]
    Absolute,
    #[error("its path is longer than {MAX_PATH} bytes")]
    PathTooLong,
    #[error("a name in its path is longer than {MAX_NAME} bytes")]
    NameTooLong,
    #[error("its path has a NUL byte")]
    Nul,
    #[error("its path goes through a symbolic link")]
    ThroughSymlink,
    #[error("its path goes through something that is not a directory")]
    ThroughFile,
    #[error("the same path occurs twice")]
    Duplicate,
    #[error("it is a hard link to something that did not come before it")]
    LinkTargetMissing,
    #[error("it is a hard link to a directory")]
    LinkToDirectory,
    #[error("its path is the root itself")]
    IsRoot,
    #[error(
        "a name that begins with `.wh.` marks a deletion, and this one marks nothing that could be deleted"
    )]
    Whiteout,
}

/// Names, one in the other.
pub(crate) type Components = [Box<[u8]>];

/// A path inside the image: checked components, without `.` and `..`. Empty is the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InsidePath(Vec<Box<[u8]>>);

impl InsidePath {
    /// Checks a path as a layer spells it. Some writers begin with a slash, which is the root of the image.
    pub(crate) fn parse_rooted(raw: &[u8]) -> Result<Self, PathError> {
        let start = raw.iter().position(|byte| *byte != b'/').unwrap_or(raw.len());
        Self::parse(&raw[start..])
    }

    /// Checks a path as an archive spells it: relative, perhaps with a leading `./` or a trailing `/`.
    pub(crate) fn parse(raw: &[u8]) -> Result<Self, PathError> {
        if raw.len() > MAX_PATH {
            return Err(PathError::PathTooLong);
        }
        if raw.contains(&0) {
            return Err(PathError::Nul);
        }
        if raw.first() == Some(&b'/') {
            return Err(PathError::Absolute);
        }
        let mut components = Vec::new();
        for component in raw.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return Err(PathError::ParentComponent),
                name if name.len() > MAX_NAME => return Err(PathError::NameTooLong),
                name => components.push(name.into()),
            }
        }
        Ok(Self(components))
    }

    /// The last component and those before it; `None` for the root.
    pub(crate) fn split(&self) -> Option<(&[u8], &Components)> {
        self.0.split_last().map(|(name, parents)| (&**name, parents))
    }

    /// The components.
    pub(crate) fn components(&self) -> &Components {
        &self.0
    }
}

/// An index into [`Tree`]'s nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeId(usize);

impl NodeId {
    /// Its place among the tree's nodes, less than [`Tree::len`].
    pub(crate) fn index(self) -> usize {
        self.0
    }
}

pub(crate) const ROOT: NodeId = NodeId(0);

/// Owner, permission bits (`07777`) and time of last change in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: u64,
}

impl Meta {
    /// What belongs to root and was made at no particular time.
    pub(crate) const fn root(mode: u16) -> Self {
        Self { mode, uid: 0, gid: 0, mtime: 0 }
    }
}

/// Where a regular file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// Here.
    Small(Vec<u8>),
    /// In the image, from a block on.
    Blocks { first: u32, size: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory(BTreeMap<Box<[u8]>, NodeId>),
    File(Content),
    Symlink(Box<[u8]>),
    /// A device, FIFO or link to one: it holds its path, and is not written to the image.
    Skipped,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) meta: Meta,
    pub(crate) kind: Kind,
    /// Names that lead here, for what is not a directory.
    pub(crate) links: u32,
    /// Only for directories: whether the archive had an entry of its own for it.
    described: bool,
}

/// The file system. There is always a root directory.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    pub(crate) fn new() -> Self {
        Self { nodes: vec![Node::directory(Meta::root(0o755))] }
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0]
    }

    /// How many nodes there are, skipped ones and implied directories included.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Says what a directory is like. One that is there only because something lies in it is filled in.
    pub(crate) fn add_directory(&mut self, path: &InsidePath, meta: Meta) -> Result<(), PathError> {
        let id = self.directory(&path.0)?;
        let node = self.node_mut(id);
        if std::mem::replace(&mut node.described, true) {
            return Err(PathError::Duplicate);
        }
        node.meta = meta;
        Ok(())
    }

    /// Says once more what a directory is like: the last word counts.
    pub(crate) fn redescribe(&mut self, path: &InsidePath, meta: Meta) -> Result<(), PathError> {
        let id = self.directory(&path.0)?;
        let node = self.node_mut(id);
        node.described = true;
        node.meta = meta;
        Ok(())
    }

    /// Takes away what is at a path, unless it is a directory or nothing.
    pub(crate) fn vacate(&mut self, path: &InsidePath) {
        let Some(id) = self.find(path) else { return };
        if matches!(self.node(id).kind, Kind::Directory(_)) {
            return;
        }
        if let Some((name, parents)) = path.0.split_last()
            && let Some(parent) = self.find(&InsidePath(parents.to_vec()))
            && let Kind::Directory(children) = &mut self.node_mut(parent).kind
        {
            children.remove(name);
            self.release(id);
        }
    }

    /// Adds what is not a directory.
    pub(crate) fn add(&mut self, path: &InsidePath, meta: Meta, kind: Kind) -> Result<NodeId, PathError> {
        let (parent, name) = self.vacancy(path)?;
        let id = NodeId(self.nodes.len());
        self.nodes.push(Node { meta, kind, links: 1, described: true });
        self.enter(parent, name, id);
        Ok(id)
    }

    /// Fails as [`Tree::add`] would, and changes nothing: so that no content is copied in vain.
    pub(crate) fn check_vacant(&mut self, path: &InsidePath) -> Result<(), PathError> {
        self.vacancy(path).map(|_| ())
    }

    /// Adds another name for what an earlier entry added.
    pub(crate) fn add_link(&mut self, path: &InsidePath, target: &InsidePath) -> Result<NodeId, PathError> {
        let id = self.find(target).ok_or(PathError::LinkTargetMissing)?;
        if matches!(self.node(id).kind, Kind::Directory(_)) {
            return Err(PathError::LinkToDirectory);
        }
        let (parent, name) = self.vacancy(path)?;
        self.enter(parent, name, id);
        self.node_mut(id).links += 1;
        Ok(id)
    }

    /// The node at a path; symbolic links are not followed.
    pub(crate) fn find(&self, path: &InsidePath) -> Option<NodeId> {
        path.0.iter().try_fold(ROOT, |at, name| match &self.node(at).kind {
            Kind::Directory(children) => children.get(name).copied(),
            _ => None,
        })
    }

    /// The node at a path as a process in the image would find it; symbolic links are followed, and `..` at the
    /// root stays there. `None` also when there are more than 40 links (as in Linux).
    pub(crate) fn resolve(&self, path: &[u8]) -> Option<NodeId> {
        let components =
            |raw: &[u8]| -> Vec<Box<[u8]>> { raw.rsplit(|byte| *byte == b'/').map(Into::into).collect() };
        let mut pending = components(path);
        let mut trail = vec![ROOT];
        let mut links = 0;
        while let Some(component) = pending.pop() {
            match &*component {
                b"" | b"." => continue,
                b".." if trail.len() > 1 => drop(trail.pop()),
                b".." => {}
                name => {
                    let Kind::Directory(children) = &self.node(*trail.last()?).kind else { return None };
                    let id = *children.get(name)?;
                    let Kind::Symlink(target) = &self.node(id).kind else {
                        trail.push(id);
                        continue;
                    };
                    links += 1;
                    if links > 40 {
                        return None;
                    }
                    if target.first() == Some(&b'/') {
                        trail.truncate(1);
                    }
                    pending.extend(components(target));
                }
            }
        }
        trail.last().copied()
    }

    /// Puts a node in the place of whatever is at the path. Its parents are made where they are missing.
    pub(crate) fn replace(&mut self, path: &InsidePath, meta: Meta, kind: Kind) -> Result<(), PathError> {
        let Some(id) = self.find(path) else { return self.add(path, meta, kind).map(|_| ()) };
        // Another name of the old node may exist, and keeps it.
        let (last, parents) = path.0.split_last().ok_or(PathError::IsRoot)?;
        let parent = self.directory(parents)?;
        self.release(id);
        let fresh = NodeId(self.nodes.len());
        self.nodes.push(Node { meta, kind, links: 1, described: true });
        self.enter(parent, last.clone(), fresh);
        Ok(())
    }

    /// The directory at a path, made with its parents where it is missing.
    pub(crate) fn directory(&mut self, components: &[Box<[u8]>]) -> Result<NodeId, PathError> {
        let mut at = ROOT;
        for (index, name) in components.iter().enumerate() {
            let Kind::Directory(children) = &self.node(at).kind else { return Err(PathError::ThroughFile) };
            let last = index + 1 == components.len();
            at = match children.get(name).map(|id| (*id, &self.node(*id).kind)) {
                Some((id, Kind::Directory(_))) => id,
                Some(_) if last => return Err(PathError::Duplicate),
                Some((_, Kind::Symlink(_))) => return Err(PathError::ThroughSymlink),
                Some(_) => return Err(PathError::ThroughFile),
                None => {
                    let id = NodeId(self.nodes.len());
                    self.nodes.push(Node::directory(Meta::root(0o755)));
                    self.enter(at, name.clone(), id);
                    id
                }
            };
        }
        Ok(at)
    }

    /// The directory and the free name in it for something new.
    fn vacancy(&mut self, path: &InsidePath) -> Result<(NodeId, Box<[u8]>), PathError> {
        let (name, parents) = path.0.split_last().ok_or(PathError::IsRoot)?;
        let parent = self.directory(parents).map_err(|error| match error {
            // The last of the parents is, for this entry, something in the way.
            PathError::Duplicate => self.in_the_way(parents),
            other => other,
        })?;
        match &self.node(parent).kind {
            Kind::Directory(children) if children.contains_key(name) => Err(PathError::Duplicate),
            _ => Ok((parent, name.clone())),
        }
    }

    fn in_the_way(&self, parents: &[Box<[u8]>]) -> PathError {
        match self.find(&InsidePath(parents.to_vec())).map(|id| &self.node(id).kind) {
            Some(Kind::Symlink(_)) => PathError::ThroughSymlink,
            _ => PathError::ThroughFile,
        }
    }

    fn enter(&mut self, parent: NodeId, name: Box<[u8]>, id: NodeId) {
        if let Kind::Directory(children) = &mut self.node_mut(parent).kind {
            children.insert(name, id);
        }
    }
}

impl Node {
    fn directory(meta: Meta) -> Self {
        Self { meta, kind: Kind::Directory(BTreeMap::new()), links: 1, described: false }
    }
}
