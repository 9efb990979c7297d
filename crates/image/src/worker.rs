//! The confined half of an import: reads the archive from descriptor 0, writes the image to descriptor 1, and speaks to
//! [`crate::import`] in JSON lines on descriptor 2. It opens no file, and its caller believes nothing that it says
//! but refusals: the image's digest and size are taken by the caller.

use crate::erofs::Writer;
use crate::import::Limits;
use crate::{archive, root, source};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

/// Address space of the worker. The largest trees that the limits let in take about half of it.
const MEMORY: u64 = 4 << 30;
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
    Done(archive::Counts),
    /// There will be no image. The sentence is for the user, printable, and of bounded length.
    Refused { why: String },
}

/// What `PROGRAM image-worker LIMITS` runs; LIMITS as it was given, which is [`Limits`] as JSON.
pub fn main(limits: &str) -> ExitCode {
    let worked = serde_json::from_str(limits)
        .map_err(|error| format!("image-worker is started by cofferdam itself, not by hand: {error}"))
        .and_then(|limits| work(&limits));
    match worked {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&Message::Refused { why });
            ExitCode::FAILURE
        }
    }
}

fn work(limits: &Limits) -> Result<(), String> {
    let both = |most: u64| Rlimit { current: Some(most), maximum: Some(most) };
    let confine = || -> io::Result<(File, File)> {
        setrlimit(Resource::As, both(MEMORY))?;
        setrlimit(Resource::Fsize, both(limits.bytes.saturating_add(OVERHEAD)))?;
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        let output = io::stdout().as_fd().try_clone_to_owned()?;
        Ok((input.into(), output.into()))
    };
    let (input, output) = confine().map_err(|error| format!("the import could not be started: {error}"))?;
    let counts = convert(Reported::new(input), output, limits)?;
    say(&Message::Done(counts));
    Ok(())
}

/// Turns an archive into an image; an error is a sentence for the user.
pub(crate) fn convert<W: Write + Seek>(
    archive: impl Read,
    image: W,
    limits: &Limits,
) -> Result<archive::Counts, String> {
    let unpacked = source::decode(archive).map_err(|error| error.to_string())?;
    let failed = |error: io::Error| archive::Refusal::Write(error).to_string();
    let mut writer = Writer::new(image).map_err(failed)?;
    let read = archive::read(unpacked, limits, &mut writer);
    let (mut tree, counts) = read.map_err(|refusal| match refusal {
        // Not the archive's fault.
        archive::Refusal::Write(error) => failed(error),
        refusal => format!("the archive was refused: {refusal}"),
    })?;
    root::complete(&mut tree).map_err(|error| error.to_string())?;
    writer.finish(&tree).map_err(failed)?;
    Ok(counts)
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

/// A reader that reports how far it is.
struct Reported<R> {
    from: R,
    bytes: u64,
    reported: u64,
}

impl<R: Read> Reported<R> {
    fn new(from: R) -> Self {
        Self { from, bytes: 0, reported: 0 }
    }
}

impl<R: Read> Read for Reported<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.bytes += count as u64;
        if self.bytes - self.reported >= PROGRESS_STEP {
            self.reported = self.bytes;
            say(&Message::Read { bytes: self.bytes });
        }
        Ok(count)
    }
}
