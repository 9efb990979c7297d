//! Writes an EROFS file system: uncompressed, in one pass, the same bytes for the same tree.
//!
//! Our own, because mkfs.erofs takes owners from a directory on disk, so a hostile archive would have to be unpacked
//! by somebody who may give files to root. Only the plain and the inline layout are written, and no extended
//! attributes. The format: Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h of Linux; it needs 5.4 or later.
//!
//! The file: one block with the superblock; the contents of files in the order of the archive; the whole blocks
//! of directories; the inodes, each followed by its short content or the tail of its directory.

use crate::tree::{Content, Kind, NodeId, ROOT, Tree};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};

const BLOCK: usize = 4096;
const BLOCK_BITS: u8 = 12;
const SUPER_OFFSET: u64 = 1024;
const MAGIC: u32 = 0xE0F5_E1E2;
const INODE: usize = 64;
const SLOT: usize = 32;
const DIRENT: usize = 12;
/// Contents are copied in pieces of this size.
const CHUNK: usize = 1 << 16;
/// Where a file has no block of its own.
const NO_BLOCK: u32 = u32::MAX;

/// Contents up to this size lie beside their inode.
pub(crate) const SMALL: u64 = 2048;

/// Layouts of an inode's data; bit 0 of the format says that the inode is the 64-byte one.
const FORMAT_PLAIN: u16 = 1;
const FORMAT_INLINE: u16 = (2 << 1) | 1;

const S_IFDIR: u16 = 0o040_000;
const S_IFREG: u16 = 0o100_000;
const S_IFLNK: u16 = 0o120_000;

/// An image that is being written.
pub(crate) struct Writer<W: Write + Seek> {
    out: BufWriter<W>,
    /// Blocks written so far.
    blocks: u32,
}

impl<W: Write + Seek> Writer<W> {
    pub(crate) fn new(out: W) -> io::Result<Self> {
        let mut writer = Self { out: BufWriter::with_capacity(1 << 20, out), blocks: 0 };
        writer.write_blocks(&[0; BLOCK])?;
        Ok(writer)
    }

    /// Copies exactly `size` bytes of content; an earlier end of the reader is an error. Long runs of zeros
    /// become holes of the file, so that they take no room.
    pub(crate) fn content(&mut self, from: &mut impl Read, size: u64) -> io::Result<Content> {
        let first = self.blocks;
        let mut buffer = vec![0; CHUNK.min(size.next_multiple_of(BLOCK as u64) as usize)];
        let (mut left, mut hole) = (size, 0);
        while left > 0 {
            let chunk = &mut buffer[..left.min(CHUNK as u64) as usize];
            from.read_exact(chunk)?;
            left -= chunk.len() as u64;
            if chunk.iter().all(|byte| *byte == 0) {
                hole += chunk.len() as i64;
                continue;
            }
            self.leave(&mut hole)?;
            self.out.write_all(chunk)?;
        }
        self.leave(&mut hole)?;
        self.pad(size)?;
        Ok(Content::Blocks { first, size })
    }

    /// Writes the tree and the superblock.
    pub(crate) fn finish(mut self, tree: &Tree) -> io::Result<W> {
        let plan = Plan::make(tree)?;
        let mut first_blocks = Vec::with_capacity(plan.items.len());
        for item in &plan.items {
            first_blocks.push(self.blocks);
            if let Some(listing) = &item.listing {
                let bytes = listing.encode(&plan);
                // Whole blocks now; the tail follows the inode, unless it is too long for that.
                let whole = bytes.len() - item.tail;
                self.write_blocks(&bytes[..whole])?;
            }
            // What is kept in memory and yet too long to follow its inode.
            match &tree.node(item.node).kind {
                Kind::Symlink(bytes) if item.tail == 0 => self.write_blocks(bytes)?,
                Kind::File(Content::Small(bytes)) if item.tail == 0 => self.write_blocks(bytes)?,
                _ => {}
            }
        }
        let meta_block = self.blocks;
        let mut at = 0;
        for (item, first) in plan.items.iter().zip(first_blocks) {
            self.out.write_all(&vec![0; item.offset - at])?;
            let inode = item.inode(tree, first);
            self.out.write_all(&inode)?;
            self.out.write_all(&item.inline(tree, &plan))?;
            at = item.offset + INODE + item.tail;
        }
        self.pad(at as u64)?;
        self.out.seek(SeekFrom::Start(SUPER_OFFSET))?;
        let superblock = superblock(self.blocks, meta_block, plan.root(), plan.items.len());
        self.out.write_all(&superblock)?;
        self.out.into_inner().map_err(io::IntoInnerError::into_error)
    }

    fn leave(&mut self, hole: &mut i64) -> io::Result<()> {
        match std::mem::take(hole) {
            0 => Ok(()),
            bytes => self.out.seek(SeekFrom::Current(bytes)).map(drop),
        }
    }

    fn write_blocks(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.pad(bytes.len() as u64)
    }

    /// Counts `size` bytes that were just written, and fills the last block up with zeros.
    fn pad(&mut self, size: u64) -> io::Result<()> {
        let blocks = size.div_ceil(BLOCK as u64);
        let padding = blocks * BLOCK as u64 - size;
        self.out.write_all(&[0; BLOCK][..padding as usize])?;
        let total = u64::from(self.blocks) + blocks;
        self.blocks =
            u32::try_from(total).map_err(|_| io::Error::other("the image is too large for EROFS"))?;
        Ok(())
    }
}

/// Where everything will lie. Sizes do not depend on positions, so one walk settles them.
struct Plan<'t> {
    items: Vec<Item<'t>>,
    /// From node to item; `u32::MAX` for what is not written.
    index: Vec<u32>,
}

struct Item<'t> {
    node: NodeId,
    /// From the start of the inodes.
    offset: usize,
    /// Bytes that follow the inode.
    tail: usize,
    listing: Option<Listing<'t>>,
}

impl<'t> Plan<'t> {
    fn make(tree: &'t Tree) -> io::Result<Self> {
        let mut plan = Self { items: Vec::new(), index: vec![u32::MAX; tree.len()] };
        let mut parents = Vec::new();
        plan.enlist(ROOT)?;
        parents.push(ROOT);
        let mut next = 0;
        while next < plan.items.len() {
            let node = plan.items[next].node;
            if let Kind::Directory(children) = &tree.node(node).kind {
                let mut listing = Listing::new(node, parents[next]);
                for (name, child) in children {
                    let Some(kind) = dirent_type(&tree.node(*child).kind) else { continue };
                    listing.entries.push((name, *child, kind));
                    if plan.index[child.index()] == u32::MAX {
                        plan.enlist(*child)?;
                        parents.push(node);
                    }
                }
                listing.split();
                plan.items[next].listing = Some(listing);
            }
            next += 1;
        }
        // The number of an inode is its position, and readdir(3) passes over the number 0: leave two slots free.
        let mut at = 2 * SLOT;
        for item in &mut plan.items {
            item.tail = item.tail_size(tree);
            // An inode and what follows it may not cross into another block.
            if at % BLOCK + INODE + item.tail > BLOCK {
                at = at.next_multiple_of(BLOCK);
            }
            item.offset = at;
            at = (at + INODE + item.tail).next_multiple_of(SLOT);
        }
        Ok(plan)
    }

    fn enlist(&mut self, node: NodeId) -> io::Result<()> {
        let number = u32::try_from(self.items.len()).map_err(io::Error::other)?;
        self.index[node.index()] = number;
        self.items.push(Item { node, offset: 0, tail: 0, listing: None });
        Ok(())
    }

    fn nid(&self, node: NodeId) -> u64 {
        (self.items[self.index[node.index()] as usize].offset / SLOT) as u64
    }

    fn root(&self) -> u16 {
        // The first item always lies at two slots.
        2
    }
}

impl Item<'_> {
    fn tail_size(&self, tree: &Tree) -> usize {
        match &tree.node(self.node).kind {
            Kind::Directory(_) => {
                let last = self.listing.as_ref().map_or(0, Listing::last_block_size);
                if INODE + last <= BLOCK { last } else { 0 }
            }
            Kind::File(Content::Small(bytes)) if bytes.len() as u64 <= SMALL => bytes.len(),
            Kind::Symlink(target) if target.len() as u64 <= SMALL => target.len(),
            Kind::File(_) | Kind::Symlink(_) | Kind::Skipped => 0,
        }
    }

    fn inline(&self, tree: &Tree, plan: &Plan<'_>) -> Vec<u8> {
        match (&tree.node(self.node).kind, &self.listing) {
            _ if self.tail == 0 => Vec::new(),
            (Kind::Directory(_), Some(listing)) => listing.block(listing.blocks.len() - 1, plan),
            (Kind::File(Content::Small(bytes)), _) => bytes.clone(),
            (Kind::Symlink(target), _) => target.to_vec(),
            _ => Vec::new(),
        }
    }

    /// `struct erofs_inode_extended`.
    fn inode(&self, tree: &Tree, own_blocks: u32) -> [u8; INODE] {
        let node = tree.node(self.node);
        let (kind, size, block, links) = match &node.kind {
            Kind::Directory(children) => {
                let is_directory = |id: &&NodeId| matches!(tree.node(**id).kind, Kind::Directory(_));
                let below = children.values().filter(is_directory).count() as u32;
                let size = self.listing.as_ref().map_or(0, Listing::size);
                (S_IFDIR, size as u64, own_blocks, 2 + below)
            }
            Kind::File(Content::Blocks { first, size }) => (S_IFREG, *size, *first, node.links),
            Kind::File(Content::Small(bytes)) => (S_IFREG, bytes.len() as u64, own_blocks, node.links),
            Kind::Symlink(target) => (S_IFLNK, target.len() as u64, own_blocks, node.links),
            Kind::Skipped => (S_IFREG, 0, NO_BLOCK, node.links),
        };
        let whole_blocks = size as usize > self.tail;
        let mut bytes = [0; INODE];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &if self.tail > 0 { FORMAT_INLINE } else { FORMAT_PLAIN }.to_le_bytes());
        put(4, &(kind | (node.meta.mode & 0o7777)).to_le_bytes());
        put(8, &size.to_le_bytes());
        put(16, &if whole_blocks { block } else { NO_BLOCK }.to_le_bytes());
        put(20, &((self.offset / SLOT) as u32).to_le_bytes());
        put(24, &node.meta.uid.to_le_bytes());
        put(28, &node.meta.gid.to_le_bytes());
        put(32, &node.meta.mtime.to_le_bytes());
        put(44, &links.to_le_bytes());
        bytes
    }
}

/// A directory's entries, sorted by name, and how they fall into blocks.
struct Listing<'t> {
    entries: Vec<(&'t [u8], NodeId, u8)>,
    /// The entries of each block.
    blocks: Vec<std::ops::Range<usize>>,
}

impl<'t> Listing<'t> {
    fn new(own: NodeId, parent: NodeId) -> Self {
        Self { entries: vec![(b".", own, 2), (b"..", parent, 2)], blocks: Vec::new() }
    }

    fn split(&mut self) {
        self.entries.sort_by_key(|(name, _, _)| *name);
        let (mut start, mut used) = (0, 0);
        for (index, (name, _, _)) in self.entries.iter().enumerate() {
            let needed = DIRENT + name.len();
            if used + needed > BLOCK {
                self.blocks.push(start..index);
                (start, used) = (index, 0);
            }
            used += needed;
        }
        self.blocks.push(start..self.entries.len());
    }

    fn last_block_size(&self) -> usize {
        let entries = self.blocks.last().map_or(&[][..], |range| &self.entries[range.clone()]);
        entries.iter().map(|(name, _, _)| DIRENT + name.len()).sum()
    }

    fn size(&self) -> usize {
        self.blocks.len().saturating_sub(1) * BLOCK + self.last_block_size()
    }

    /// One block: `struct erofs_dirent` for each entry, then the names. All blocks but the last are filled up.
    fn block(&self, number: usize, plan: &Plan<'_>) -> Vec<u8> {
        let entries = &self.entries[self.blocks[number].clone()];
        let mut bytes = Vec::with_capacity(BLOCK);
        let mut name_at = entries.len() * DIRENT;
        for (name, node, kind) in entries {
            bytes.extend(plan.nid(*node).to_le_bytes());
            bytes.extend((name_at as u16).to_le_bytes());
            bytes.extend([*kind, 0]);
            name_at += name.len();
        }
        for (name, _, _) in entries {
            bytes.extend(*name);
        }
        if number + 1 < self.blocks.len() {
            bytes.resize(BLOCK, 0);
        }
        bytes
    }

    fn encode(&self, plan: &Plan<'_>) -> Vec<u8> {
        (0..self.blocks.len()).flat_map(|number| self.block(number, plan)).collect()
    }
}

/// The type in a directory entry (`EROFS_FT_*`); `None` for what is not written.
fn dirent_type(kind: &Kind) -> Option<u8> {
    match kind {
        Kind::File(_) => Some(1),
        Kind::Directory(_) => Some(2),
        Kind::Symlink(_) => Some(7),
        Kind::Skipped => None,
    }
}

/// `struct erofs_super_block`. No checksum: the whole file is named by its digest.
fn superblock(blocks: u32, meta_block: u32, root: u16, inodes: usize) -> [u8; 128] {
    let mut bytes = [0; 128];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &MAGIC.to_le_bytes());
    put(12, &[BLOCK_BITS]);
    put(14, &root.to_le_bytes());
    put(16, &(inodes as u64).to_le_bytes());
    put(36, &blocks.to_le_bytes());
    put(40, &meta_block.to_le_bytes());
    // The same for every image: equal trees give equal files.
    put(48, b"cofferdam-image\0");
    bytes
}
