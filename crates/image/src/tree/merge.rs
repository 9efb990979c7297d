//! One layer of a container image on top of those below it, by the rules of the OCI image specification (layer.md).
//!
//! A layer is read into a tree of its own first. So a whiteout takes away what lies below and never what its own layer
//! brings, in whatever order the archive has the two. Everything happens in memory: a symbolic link in a lower layer can
//! lead an entry to another directory of the image, and to nothing else.

use super::{InsidePath, Kind, NodeId, PathError, ROOT, Tree};
use std::collections::HashMap;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Bookkeeping of AUFS, which no image means anything by.
const RESERVED: &[u8] = b".wh..wh.";

/// What one layer does to the directory of the same path below it.
#[derive(Debug, Default)]
struct Marks {
    /// Nothing of it stays.
    opaque: bool,
    /// Names that go.
    whiteouts: Vec<Box<[u8]>>,
}

/// What one archive adds, and what it takes away.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) tree: Tree,
    marks: HashMap<usize, Marks>,
    /// Names for what only a lower layer has.
    links: Vec<(InsidePath, InsidePath)>,
    /// Marks and links of the kind above: they count as entries do.
    noted: usize,
}

/// Where a layer does not fit.
#[derive(Debug)]
pub(crate) struct Misfit {
    pub(crate) path: Vec<u8>,
    pub(crate) error: PathError,
}

impl Layer {
    pub(crate) fn new() -> Self {
        Self { tree: Tree::new(), marks: HashMap::new(), links: Vec::new(), noted: 0 }
    }

    /// Nodes, marks and links so far.
    pub(crate) fn len(&self) -> usize {
        self.tree.len() + self.noted
    }

    /// Takes an entry as the mark that its name makes it; whether it is one.
    pub(crate) fn mark(&mut self, path: &InsidePath) -> Result<bool, PathError> {
        let Some((name, parents)) = path.split() else { return Ok(false) };
        if parents.iter().any(|parent| parent.starts_with(WHITEOUT)) {
            return Err(PathError::Whiteout);
        }
        let Some(gone) = name.strip_prefix(WHITEOUT) else { return Ok(false) };
        if name == OPAQUE {
            let parent = self.tree.directory(parents)?;
            self.marks.entry(parent.index()).or_default().opaque = true;
        } else if name.starts_with(RESERVED) {
            return Ok(true);
        } else if matches!(gone, b"" | b"." | b"..") {
            return Err(PathError::Whiteout);
        } else {
            let parent = self.tree.directory(parents)?;
            self.marks.entry(parent.index()).or_default().whiteouts.push(gone.into());
        }
        self.noted += 1;
        Ok(true)
    }

    /// Remembers a hard link whose target this layer does not have.
    pub(crate) fn link_below(&mut self, path: InsidePath, target: InsidePath) {
        self.noted += 1;
        self.links.push((path, target));
    }
}

impl Tree {
    /// Applies the next layer.
    pub(crate) fn apply(&mut self, layer: Layer) -> Result<(), Misfit> {
        let Layer { tree, marks, links, noted: _ } = layer;
        // Looked up before anything moves: a link means what was there when the layer was made.
        let mut found = Vec::with_capacity(links.len());
        for (path, target) in links {
            match self.find(&target) {
                Some(id) if matches!(self.node(id).kind, Kind::Directory(_)) => {
                    return Err(misfit(&path, PathError::LinkToDirectory));
                }
                Some(id) => found.push((path, id)),
                None => return Err(misfit(&path, PathError::LinkTargetMissing)),
            }
        }
        // They stay, even where this layer takes their first name away.
        for (_, id) in &found {
            self.node_mut(*id).links += 1;
        }
        let moved = self.nodes.len();
        self.nodes.extend(tree.nodes);
        for node in &mut self.nodes[moved..] {
            if let Kind::Directory(children) = &mut node.kind {
                children.values_mut().for_each(|child| child.0 += moved);
            }
        }
        self.merge(moved, &marks)?;
        for (path, id) in found {
            let Some((name, parents)) = path.split() else { return Err(misfit(&path, PathError::IsRoot)) };
            let parent = match self.resolve(&parents.join(&b'/')) {
                Some(parent) if matches!(self.node(parent).kind, Kind::Directory(_)) => parent,
                _ => self.directory(parents).map_err(|error| misfit(&path, error))?,
            };
            self.put(parent, name, id);
        }
        Ok(())
    }

    fn merge(&mut self, moved: usize, marks: &HashMap<usize, Marks>) -> Result<(), Misfit> {
        // Pairs of a directory below and the layer's own for it, with the path that led to both.
        let mut pairs = vec![(ROOT, NodeId(moved), Vec::new())];
        while let Some((below, above, path)) = pairs.pop() {
            if let Some(marks) = marks.get(&(above.index() - moved)) {
                self.unmask(below, marks);
            }
            if self.node(above).described {
                self.node_mut(below).meta = self.node(above).meta;
            }
            let Kind::Directory(children) = &mut self.node_mut(above).kind else { continue };
            for (name, child) in std::mem::take(children) {
                let path = [&path[..], b"/", &name].concat();
                match self.meeting(below, &name, child, &path)? {
                    Some(pair) => pairs.push((pair, child, path)),
                    None => self.put(below, &name, child),
                }
            }
        }
        Ok(())
    }

    /// The directory that a directory of the layer merges with; `None` where it takes the place of what was there.
    fn meeting(
        &self,
        below: NodeId,
        name: &[u8],
        child: NodeId,
        path: &[u8],
    ) -> Result<Option<NodeId>, Misfit> {
        let Kind::Directory(siblings) = &self.node(below).kind else { return Ok(None) };
        let (Some(old), Kind::Directory(_)) = (siblings.get(name), &self.node(child).kind) else {
            return Ok(None);
        };
        let refused = |error| Err(Misfit { path: path.to_vec(), error });
        match &self.node(*old).kind {
            Kind::Directory(_) => Ok(Some(*old)),
            // It says itself that there is a directory now.
            _ if self.node(child).described => Ok(None),
            // Something in it was named, and whoever made the layer saw it through the link.
            Kind::Symlink(_) => match self.resolve(path) {
                Some(id) if matches!(self.node(id).kind, Kind::Directory(_)) => Ok(Some(id)),
                _ => refused(PathError::ThroughSymlink),
            },
            _ => refused(PathError::ThroughFile),
        }
    }

    /// Takes away what the marks say.
    fn unmask(&mut self, directory: NodeId, marks: &Marks) {
        let Kind::Directory(children) = &mut self.node_mut(directory).kind else { return };
        let gone: Vec<NodeId> = if marks.opaque {
            std::mem::take(children).into_values().collect()
        } else {
            marks.whiteouts.iter().filter_map(|name| children.remove(name)).collect()
        };
        gone.into_iter().for_each(|id| self.release(id));
    }

    fn put(&mut self, directory: NodeId, name: &[u8], id: NodeId) {
        let Kind::Directory(children) = &mut self.node_mut(directory).kind else { return };
        if let Some(old) = children.insert(name.into(), id) {
            self.release(old);
        }
    }

    /// One name less for a node; without any, its content and everything beneath it goes.
    pub(super) fn release(&mut self, id: NodeId) {
        let mut gone = vec![id];
        while let Some(id) = gone.pop() {
            let node = self.node_mut(id);
            node.links = node.links.saturating_sub(1);
            if node.links > 0 {
                continue;
            }
            if let Kind::Directory(children) = std::mem::replace(&mut node.kind, Kind::Skipped) {
                gone.extend(children.into_values());
            }
        }
    }
}

fn misfit(path: &InsidePath, error: PathError) -> Misfit {
    Misfit { path: path.components().join(&b'/'), error }
}
