//! Makes an image of a container image's layers and configuration, both verified as they are read: the bytes as they came
//! against the manifest's digests and sizes, the unpacked ones against the configuration's.

use crate::archive::{self, Budget, Counts, Refusal, Rules};
use crate::erofs::Writer;
use crate::import::Limits;
use crate::oci::{Config, Settings};
use crate::root;
use crate::source;
use crate::store::Digest;
use crate::tree::{Content, InsidePath, Kind, Meta, Tree};
use model::image::{ImageConfig, ImageUser};
use sha2::{Digest as _, Sha256};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Read, Seek, Write};

/// Ids inside an agent are 0 to 65535, and the last one is nobody's.
const MAX_ID: u32 = 65_534;

/// One layer as it is packed.
pub(crate) struct Packed<'a> {
    pub(crate) reader: Box<dyn Read + 'a>,
    /// What the manifest says of it. `docker save` says nothing of layers but how they are unpacked.
    pub(crate) claim: Option<crate::job::Blob>,
}

/// Reads all layers into one image. An error is a sentence for the user.
pub(crate) fn assemble<'a, W: Write + Seek>(
    config: Config,
    layers: impl ExactSizeIterator<Item = Result<Packed<'a>, String>>,
    limits: &Limits,
    image: W,
) -> Result<(Counts, ImageConfig), String> {
    let diff_ids = config.diff_ids().map_err(|error| error.to_string())?;
    let failed = |error: io::Error| Refusal::Write(error).to_string();
    let mut writer = Writer::new(image).map_err(failed)?;
    let mut budget = Budget::new(limits);
    let mut tree = Tree::new();
    let total = layers.len();
    for ((layer, diff_id), number) in layers.zip(diff_ids).zip(1..) {
        let refused = |why: String| format!("layer {number} of {total} was refused: {why}");
        let layer = layer.map_err(refused)?;
        let read = read_layer(layer, &diff_id, &mut budget, &mut writer).map_err(refused)?;
        tree.apply(read).map_err(|misfit| {
            let path = archive::shown(misfit.path.strip_prefix(b"/").unwrap_or(&misfit.path));
            refused(format!("{path}: {}", misfit.error))
        })?;
    }
    root::furnish(&mut tree).map_err(|error| error.to_string())?;
    let config = defaults(config.settings(), &mut tree)?;
    writer.finish(&tree).map_err(failed)?;
    budget.counts.packages = budget.databases.packages(&tree);
    Ok((budget.counts, config))
}

fn read_layer<W: Write + Seek>(
    layer: Packed<'_>,
    diff_id: &Digest,
    budget: &mut Budget,
    writer: &mut Writer<W>,
) -> Result<crate::tree::Layer, String> {
    // Both counts are read after the readers that they are part of are gone.
    let (packed, unpacked) = (RefCell::new(Hash::default()), RefCell::new(Hash::default()));
    let size = layer.claim.as_ref().map(|claim| claim.size);
    let mut source = Hashed { from: layer.reader, hash: &packed, most: size };
    let read = {
        let decoded = source::decode(&mut source).map_err(|error| error.to_string())?;
        let from = Hashed { from: decoded.reader, hash: &unpacked, most: None };
        archive::read(from, Rules::Layer, budget, writer)
    };
    // Whatever is wrong with the content, a wrong digest says more: it came damaged, or as something else.
    let verified =
        io::copy(&mut source, &mut io::sink()).map_err(|error| error.to_string()).and_then(|_| match &layer
            .claim
        {
            Some(claim) => packed.into_inner().check(&claim.digest, Some(claim.size)),
            None => Ok(()),
        });
    match read {
        Err(refusal @ (Refusal::Write(_) | Refusal::TooLarge(_) | Refusal::TooManyEntries(_))) => {
            return Err(refusal.to_string());
        }
        Err(refusal) => return Err(verified.err().unwrap_or_else(|| refusal.to_string())),
        Ok(_) => verified?,
    }
    unpacked
        .into_inner()
        .check(diff_id, None)
        .map_err(|_| format!("unpacked it is not what the image's configuration says (sha256:{diff_id})"))?;
    read.map_err(|refusal| refusal.to_string())
}

/// Bytes that went by.
#[derive(Default)]
struct Hash {
    state: Sha256,
    bytes: u64,
}

impl Hash {
    fn check(self, digest: &Digest, size: Option<u64>) -> Result<(), String> {
        if let Some(size) = size
            && size != self.bytes
        {
            let than = if self.bytes < size { "fewer" } else { "more" };
            return Err(format!("it has {than} than the {size} bytes that the manifest says"));
        }
        let found = Digest::of(&self.state.finalize());
        if found == *digest {
            return Ok(());
        }
        Err(format!("its content is sha256:{found}, and the manifest says sha256:{digest}"))
    }
}

struct Hashed<'a, R> {
    from: R,
    hash: &'a RefCell<Hash>,
    /// Bytes that there may be: one more is enough to know that a size is a lie.
    most: Option<u64>,
}

impl<R: Read> Read for Hashed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut hash = self.hash.borrow_mut();
        let room = self.most.map_or(u64::MAX, |most| (most + 1).saturating_sub(hash.bytes));
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.from.read(&mut buffer[..room])?;
        hash.state.update(&buffer[..count]);
        hash.bytes += count as u64;
        Ok(count)
    }
}

/// A document's bytes, as claimed.
pub(crate) fn verified(bytes: Vec<u8>, claim: &crate::job::Blob) -> Result<Vec<u8>, String> {
    let mut hash = Hash::default();
    hash.state.update(&bytes);
    hash.bytes = bytes.len() as u64;
    hash.check(&claim.digest, Some(claim.size)).map(|()| bytes)
}

/// What the configuration says of processes, made sure that it can be done in this tree.
fn defaults(settings: Settings, tree: &mut Tree) -> Result<ImageConfig, String> {
    let no_nul = |what: &str, words: &[String]| match words.iter().any(|word| word.contains('\0')) {
        true => Err(format!("the image's {what} holds a NUL character")),
        false => Ok(()),
    };
    let [entrypoint, cmd] = [settings.entrypoint, settings.cmd].map(Option::unwrap_or_default);
    no_nul("entrypoint", &entrypoint)?;
    no_nul("command", &cmd)?;
    let user = settings.user.as_deref().filter(|user| !user.is_empty());
    Ok(ImageConfig {
        env: environment(&settings.env.unwrap_or_default())?,
        cwd: working_directory(settings.working_dir, tree)?,
        entrypoint,
        cmd,
        user: user.map(|user| find_user(user, tree)).transpose()?,
    })
}

/// `NAME=value`. Names that no shell could set are passed over, as most programs would.
fn environment(pairs: &[String]) -> Result<BTreeMap<String, String>, String> {
    let mut env = BTreeMap::new();
    for pair in pairs {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let named = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if value.contains('\0') {
            return Err("a variable of the image's environment holds a NUL character".to_owned());
        }
        if named {
            env.insert(name.to_owned(), value.to_owned());
        }
    }
    Ok(env)
}

/// Where processes start. It is made where it is missing; `/` is what an image says that has nothing to say.
fn working_directory(path: Option<String>, tree: &mut Tree) -> Result<Option<String>, String> {
    let Some(path) = path.filter(|path| !matches!(path.as_str(), "" | "/")) else { return Ok(None) };
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    let refused =
        || format!("the image's working directory {} cannot be one", archive::shown(path.as_bytes()));
    match tree.resolve(path.as_bytes()).map(|id| &tree.node(id).kind) {
        Some(Kind::Directory(_)) => {}
        Some(_) => return Err(refused()),
        None => {
            let inside = InsidePath::parse_rooted(path.as_bytes()).map_err(|_| refused())?;
            tree.add_directory(&inside, Meta::root(0o755)).map_err(|_| refused())?;
        }
    }
    Ok(Some(path))
}

/// `USER`, `USER:GROUP`, each a name or a number. Names are the image's own.
fn find_user(text: &str, tree: &Tree) -> Result<ImageUser, String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    let accounts = fields(tree, b"/etc/passwd");
    let own =
        |field: usize, value: &str| accounts.iter().find(|line| line.get(field).is_some_and(|f| f == value));
    let unknown = |kind: &str, name: &str, file: &str| {
        format!("the image's {kind} {} is not in its {file}", archive::shown(name.as_bytes()))
    };
    let number = |text: &str| text.parse::<u32>().ok();
    let (uid, line) = match number(user) {
        Some(uid) => (uid, own(2, user)),
        None => {
            let line = own(0, user).ok_or_else(|| unknown("user", user, "/etc/passwd"))?;
            let uid = line.get(2).and_then(|uid| number(uid));
            (uid.ok_or_else(|| unknown("user", user, "/etc/passwd"))?, Some(line))
        }
    };
    let gid = match group {
        Some(group) => number(group).or_else(|| {
            let groups = fields(tree, b"/etc/group");
            let line = groups.iter().find(|line| line.first().is_some_and(|name| name == group))?;
            number(line.get(2)?)
        }),
        // As container engines have it: who is in no list is of root's group.
        None => Some(line.and_then(|line| number(line.get(3)?)).unwrap_or(0)),
    };
    let gid = gid.ok_or_else(|| unknown("group", group.unwrap_or_default(), "/etc/group"))?;
    if uid > MAX_ID || gid > MAX_ID {
        return Err(format!("the image's user is {uid}:{gid}, and ids in an agent are 0 to {MAX_ID}"));
    }
    let name = line.and_then(|line| line.first()).filter(|name| is_name(name)).cloned();
    Ok(ImageUser { uid, gid, name })
}

fn is_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'$'))
}

/// The lines of a file of fields, as far as they are text.
fn fields(tree: &Tree, path: &[u8]) -> Vec<Vec<String>> {
    let Some(Kind::File(Content::Small(bytes))) = tree.resolve(path).map(|id| &tree.node(id).kind) else {
        return Vec::new();
    };
    let lines = bytes.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    lines.map(|line| line.split(':').map(str::to_owned).collect()).collect()
}
