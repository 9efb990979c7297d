//! The confined half of an import: gets a [`Job`] as its argument and the files for it over descriptor 0, and speaks to
//! [`crate::import`] in JSON lines on descriptor 2. It opens no file, and its caller believes nothing that it says
//! but refusals and defaults: the image's digest and size are taken by the caller.

use crate::container::{self, Packed};
use crate::erofs::Writer;
use crate::import::Limits;
use crate::job::{self, Blob, Job};
use crate::oci::{self, Config};
use crate::signature::Signed;
use crate::store::Digest;
use crate::{archive, outer, root, source};
use model::image::ImageConfig;
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

/// Address space of the worker. The largest trees that the limits let in take about half of it.
const MEMORY: u64 = 4 << 30;
/// That of the one that downloads, which keeps nothing.
const FETCH_MEMORY: u64 = 2 << 30;
/// What an image may be larger than its archive: rounding to blocks, and inodes.
const OVERHEAD: u64 = 9 << 30;
/// The archive's bytes between two lines of progress.
const PROGRESS_STEP: u64 = 4 << 20;

/// A line from the worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Message {
    /// So many bytes of the archive, as packed, were read.
    Read { bytes: u64 },
    /// The image is complete.
    Done {
        /// What went into it, and what did not.
        counts: archive::Counts,
        /// What it says of programs in it.
        config: Box<ImageConfig>,
    },
    /// What a document says.
    Parsed {
        /// All of it that matters.
        parsed: Parsed,
    },
    /// There will be no image. The sentence is for the user, printable, and of bounded length.
    Refused { why: String },
}

/// What a document says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Parsed {
    /// Of several images, this one is for this machine.
    Index {
        /// Its manifest.
        chosen: Blob,
    },
    /// One image.
    Manifest {
        /// Its configuration.
        config: Blob,
        /// Its layers, from the lowest up.
        layers: Vec<Blob>,
    },
    /// What is said to have been signed, and by whom.
    Signatures(Vec<Signed>),
    /// The digest that a payload names.
    Payload(Digest),
}

/// What `PROGRAM image-worker JOB` runs; JOB as it was given, which is [`Job`] as JSON.
pub fn main(job: &str) -> ExitCode {
    let worked = serde_json::from_str(job)
        .map_err(|error| format!("image-worker is started by cofferdam itself, not by hand: {error}"))
        .and_then(work);
    match worked {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&Message::Refused { why });
            ExitCode::FAILURE
        }
    }
}

fn work(job: Job) -> Result<(), String> {
    let not_started = |error: io::Error| format!("the import could not be started: {error}");
    let files = |limits: &Limits| -> Result<std::vec::IntoIter<OwnedFd>, String> {
        bound(MEMORY, limits.bytes.saturating_add(OVERHEAD)).map_err(not_started)?;
        Ok(job::receive(io::stdin()).map_err(not_started)?.into_iter())
    };
    let next = |files: &mut std::vec::IntoIter<OwnedFd>| {
        files.next().map(File::from).ok_or_else(|| not_started(io::ErrorKind::InvalidInput.into()))
    };
    let document = || -> Result<Vec<u8>, String> {
        let small = Limits { bytes: oci::MAX_DOCUMENT, entries: 0 };
        read_document(next(&mut files(&small)?)?)
    };
    let parsed = |parsed: Result<Parsed, oci::Unusable>| -> Result<(), String> {
        let parsed = parsed.map_err(|error| error.to_string())?;
        say(&Message::Parsed { parsed });
        Ok(())
    };
    let (counts, config) = match job {
        Job::Fetch {} => {
            bound(FETCH_MEMORY, 0).map_err(not_started)?;
            return crate::fetch::main();
        }
        Job::Document {} => {
            return parsed(oci::document(&document()?).and_then(|document| document.parsed()));
        }
        Job::Signatures {} => return parsed(oci::signatures(&document()?).map(Parsed::Signatures)),
        Job::Payload {} => return parsed(oci::payload(&document()?).map(Parsed::Payload)),
        Job::Root { limits } => {
            let mut files = files(&limits)?;
            let (from, image) = (next(&mut files)?, next(&mut files)?);
            (convert(Reported::new(from), image, &limits)?, ImageConfig::default())
        }
        Job::Archive { limits, tag } => {
            let mut files = files(&limits)?;
            let (from, image, scratch) = (next(&mut files)?, next(&mut files)?, next(&mut files)?);
            import(from, image, scratch, &limits, tag.as_deref())?
        }
        Job::Layers { limits, layers } => {
            let mut files = files(&limits)?;
            let (image, document) = (next(&mut files)?, next(&mut files)?);
            let config =
                Config::parse(&read_document(document)?, layers.len()).map_err(|error| error.to_string())?;
            let progress = Meter::default();
            let layers = layers.into_iter().map(|claim| {
                let reader = Box::new(Reported { from: next(&mut files)?, meter: progress.clone() });
                Ok(Packed { reader, claim: Some(claim) })
            });
            container::assemble(config, layers, &limits, image)?
        }
    };
    say(&Message::Done { counts, config: Box::new(config) });
    Ok(())
}

/// Address space, and the size of any file that is written.
fn bound(memory: u64, file: u64) -> io::Result<()> {
    let both = |most: u64| Rlimit { current: Some(most), maximum: Some(most) };
    setrlimit(Resource::As, both(memory))?;
    Ok(setrlimit(Resource::Fsize, both(file))?)
}

fn read_document(file: File) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = file.take(oci::MAX_DOCUMENT).read_to_end(&mut bytes);
    read.map(|_| bytes).map_err(|error| error.to_string())
}

/// An archive that is a root file system or a container image.
pub(crate) fn import(
    from: File,
    image: File,
    scratch: File,
    limits: &Limits,
    tag: Option<&str>,
) -> Result<(archive::Counts, ImageConfig), String> {
    // One that is not packed and can be read in any order is read where it lies.
    let at =
        from.metadata().ok().filter(std::fs::Metadata::is_file).and_then(|_| (&from).stream_position().ok());
    let meter = Meter::default();
    let counted = Reported { from: &from, meter: meter.clone() };
    let source::Unpacked { mut reader, was_packed } =
        source::decode(counted).map_err(|error| error.to_string())?;
    let mut start = Vec::new();
    let begun = reader.by_ref().take(outer::SNIFF as u64).read_to_end(&mut start);
    begun.map_err(|error| format!("the archive was refused: {}", archive::blame_read(error)))?;
    if !outer::is_container(&start) {
        if let Some(tag) = tag {
            return Err(format!("the archive is one root file system, and has no image {tag}"));
        }
        let counts = root_of(Cursor::new(start).chain(reader), image, limits)?;
        return Ok((counts, ImageConfig::default()));
    }
    let report = |bytes| meter.at(bytes);
    if at == Some(0) && !was_packed {
        drop(reader);
        return outer::import(&from, tag, limits, image, &report);
    }
    let mut whole = Cursor::new(start).chain(reader).take(limits.bytes.saturating_add(1));
    let copied = io::copy(&mut whole, &mut &scratch).map_err(|error| match error.kind() {
        io::ErrorKind::StorageFull => archive::Refusal::Write(error).to_string(),
        _ => format!("the archive was refused: {}", archive::blame_read(error)),
    })?;
    if copied > limits.bytes {
        return Err(format!("the archive was refused: {}", archive::Refusal::TooLarge(limits.bytes)));
    }
    outer::import(&scratch, tag, limits, image, &|_| {})
}

/// Turns an archive of a root file system into an image; an error is a sentence for the user.
pub(crate) fn convert<W: Write + Seek>(
    archive: impl Read,
    image: W,
    limits: &Limits,
) -> Result<archive::Counts, String> {
    root_of(source::decode(archive).map_err(|error| error.to_string())?.reader, image, limits)
}

fn root_of<W: Write + Seek>(
    unpacked: impl Read,
    image: W,
    limits: &Limits,
) -> Result<archive::Counts, String> {
    let failed = |error: io::Error| archive::Refusal::Write(error).to_string();
    let mut writer = Writer::new(image).map_err(failed)?;
    let mut budget = archive::Budget::new(limits);
    let read = archive::read(unpacked, archive::Rules::Root, &mut budget, &mut writer);
    let mut tree = read
        .map_err(|refusal| match refusal {
            // Not the archive's fault.
            archive::Refusal::Write(error) => failed(error),
            refusal => format!("the archive was refused: {refusal}"),
        })?
        .tree;
    root::complete(&mut tree).map_err(|error| error.to_string())?;
    writer.finish(&tree).map_err(failed)?;
    budget.counts.packages = budget.databases.packages(&tree);
    Ok(budget.counts)
}

/// The same, for the fuzzer.
#[cfg(fuzzing)]
pub fn convert_for_fuzzing<W: Write + Seek>(
    archive: impl Read,
    image: W,
    limits: &Limits,
) -> Result<(), String> {
    convert(archive, image, limits).map(drop)
}

fn say(message: &Message) {
    let mut line = serde_json::to_string(message).unwrap_or_default();
    line.push('\n');
    // Without anybody to read it there is nothing to say either.
    let _ = io::stderr().write_all(line.as_bytes());
}

/// How much was read of all that there is to read.
#[derive(Clone, Default)]
struct Meter(std::rc::Rc<(Cell<u64>, Cell<u64>)>);

impl Meter {
    fn add(&self, bytes: u64) {
        self.at(self.0.0.get() + bytes);
    }

    fn at(&self, bytes: u64) {
        let (now, reported) = &*self.0;
        now.set(bytes);
        if bytes.saturating_sub(reported.get()) >= PROGRESS_STEP {
            reported.set(bytes);
            say(&Message::Read { bytes });
        }
    }
}

/// A reader that reports how far it is.
struct Reported<R> {
    from: R,
    meter: Meter,
}

impl<R: Read> Reported<R> {
    fn new(from: R) -> Self {
        Self { from, meter: Meter::default() }
    }
}

impl<R: Read> Read for Reported<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.meter.add(count as u64);
        Ok(count)
    }
}
