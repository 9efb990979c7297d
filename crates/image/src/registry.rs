//! The caller's half of a download: starts the confined process that speaks with the registry, asks it for one thing after
//! another, and believes nothing but what a digest confirms.

use crate::blobs::{Blobs, Wrong};
use crate::fetch::{Failed, FailedKind, Frame, MAX_FRAME, Request, Setup, Start};
use crate::import::{ImportError, Worker, printable};
use crate::job::{Blob, Job};
use crate::oci::MAX_DOCUMENT;
use crate::pull::PullError;
use crate::reference::Host;
use crate::store::Digest;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

/// How often a cut download is gone on with when nothing more arrives.
const TRIES: u32 = 4;
/// The longest frame that is no data.
const MAX_WORDS: usize = 64 << 10;

/// What looking up names and verifying certificates takes.
const FILES: [&str; 7] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/ssl",
    "/etc/ca-certificates",
    "/etc/pki",
];

/// A registry, through its own process.
pub(crate) struct Registry {
    host: Host,
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It holds nothing that could be lost.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    pub(crate) fn connect(worker: &Worker, setup: &Setup) -> Result<Self, PullError> {
        let mut command = worker.confined(&Job::Fetch {}, |command| {
            command.arg("--net");
            for path in FILES.iter().filter(|path| Path::new(path).exists()) {
                command.args(["--ro", path]);
            }
        });
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let not_started =
            |source| PullError::Import(ImportError::Start { jail: worker.jail.clone(), source });
        let mut child = command.spawn().map_err(not_started)?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(not_started(io::ErrorKind::BrokenPipe.into()));
        };
        let from = BufReader::with_capacity(MAX_FRAME, from);
        let mut registry = Self { host: setup.registry.clone(), child, to, from };
        registry.say(setup)?;
        Ok(registry)
    }

    fn say(&mut self, what: &impl serde::Serialize) -> Result<(), PullError> {
        let mut line = serde_json::to_vec(what).unwrap_or_default();
        line.push(b'\n');
        self.to.write_all(&line).map_err(|_| self.gone())
    }

    /// Its last words, once it is silent.
    fn gone(&mut self) -> PullError {
        let mut said = String::new();
        let _ = self.child.kill();
        if let Some(stderr) = self.child.stderr.take() {
            let _ = stderr.take(MAX_WORDS as u64).read_to_string(&mut said);
        }
        let status = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        PullError::Import(ImportError::Worker { status, said: printable(said.trim()) })
    }

    fn frame(&mut self, buffer: &mut Vec<u8>) -> Result<Frame, PullError> {
        let mut head = [0; 5];
        if self.from.read_exact(&mut head).is_err() {
            return Err(self.gone());
        }
        let [kind, a, b, c, d] = head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let known =
            [Frame::Start, Frame::Data, Frame::End, Frame::Failed].into_iter().find(|k| *k as u8 == kind);
        let most = if known == Some(Frame::Data) { MAX_FRAME } else { MAX_WORDS };
        let Some(kind) = known.filter(|_| length <= most) else { return Err(self.gone()) };
        buffer.resize(length, 0);
        if self.from.read_exact(buffer).is_err() {
            return Err(self.gone());
        }
        Ok(kind)
    }

    /// Asks for something and takes in the answer.
    fn get(
        &mut self,
        request: &Request,
        mut start: impl FnMut(u64) -> Result<(), PullError>,
        mut data: impl FnMut(&[u8]) -> Result<(), PullError>,
    ) -> Result<Result<(), Failed>, PullError> {
        self.say(request)?;
        let mut buffer = Vec::new();
        loop {
            match self.frame(&mut buffer)? {
                Frame::Start => {
                    let from = serde_json::from_slice::<Start>(&buffer).map_err(|_| self.gone())?.from;
                    start(from)?;
                }
                Frame::Data => data(&buffer)?,
                Frame::End => return Ok(Ok(())),
                Frame::Failed => {
                    let failed = serde_json::from_slice::<Failed>(&buffer).map_err(|_| self.gone())?;
                    return Ok(Err(Failed { why: printable(&failed.why), ..failed }));
                }
            }
        }
    }

    /// A manifest or an index, with the digest that it really has.
    pub(crate) fn manifest(&mut self, reference: &str) -> Result<(Digest, Vec<u8>), PullError> {
        let mut bytes = Vec::new();
        let request = Request::Manifest { reference: reference.to_owned() };
        self.document(&request, MAX_DOCUMENT, &mut bytes)?;
        Ok((Digest::of(&Sha256::digest(&bytes)), bytes))
    }

    /// A manifest that has to have this digest, and this size where one is known.
    pub(crate) fn manifest_by_digest(
        &mut self,
        digest: &Digest,
        size: Option<u64>,
    ) -> Result<Vec<u8>, PullError> {
        let (found, bytes) = self.manifest(&format!("sha256:{digest}"))?;
        if found != *digest || size.is_some_and(|size| size != bytes.len() as u64) {
            return Err(PullError::Lied {
                what: format!("manifest sha256:{digest}"),
                host: self.host.clone(),
            });
        }
        Ok(bytes)
    }

    /// A small blob, verified.
    pub(crate) fn small(&mut self, blob: &Blob) -> Result<Vec<u8>, PullError> {
        let mut bytes = Vec::new();
        if blob.size > MAX_DOCUMENT {
            return Err(PullError::Refused(format!("a document of {} bytes is too large", blob.size)));
        }
        let request = Request::Blob { digest: blob.digest.clone(), from: 0, most: blob.size };
        self.document(&request, blob.size, &mut bytes)?;
        if Digest::of(&Sha256::digest(&bytes)) != blob.digest || bytes.len() as u64 != blob.size {
            return Err(PullError::Lied {
                what: format!("blob sha256:{}", blob.digest),
                host: self.host.clone(),
            });
        }
        Ok(bytes)
    }

    fn document(&mut self, request: &Request, most: u64, bytes: &mut Vec<u8>) -> Result<(), PullError> {
        let mut tries = TRIES;
        loop {
            bytes.clear();
            let too_long = || PullError::Refused("the registry sends more than it should".to_owned());
            let got = self.get(
                request,
                |_| Ok(()),
                |piece| {
                    if (bytes.len() + piece.len()) as u64 > most {
                        return Err(too_long());
                    }
                    bytes.extend_from_slice(piece);
                    Ok(())
                },
            )?;
            match got {
                Ok(()) => return Ok(()),
                Err(failed) if failed.kind == FailedKind::Passing && tries > 1 => tries -= 1,
                Err(failed) => return Err(failed.into()),
            }
        }
    }

    /// Whether the registry says that these credentials may have a blob.
    pub(crate) fn may_have(&mut self, digest: &Digest) -> Result<bool, PullError> {
        let request = Request::Probe { digest: digest.clone() };
        Ok(self.get(&request, |_| Ok(()), |_| Ok(()))?.is_ok())
    }

    /// A layer, from the store where that is allowed, else downloaded. `progress` is told of bytes that are there.
    pub(crate) fn layer(
        &mut self,
        blob: &Blob,
        blobs: &Blobs,
        progress: &mut dyn FnMut(u64),
    ) -> Result<File, PullError> {
        if blobs.came_from(&blob.digest, &self.host)
            && let Some(file) = blobs.get(&blob.digest, blob.size)
            && self.may_have(&blob.digest)?
        {
            progress(blob.size);
            return Ok(file);
        }
        let wrong = |wrong: Wrong| match wrong {
            Wrong::Store(error) => PullError::Import(ImportError::Store(error)),
            wrong => PullError::Refused(format!("layer sha256:{} was refused: {wrong}", blob.digest)),
        };
        // What another registry gave is no proof that this one may be asked for it: it is downloaded once more.
        let mut partial = blobs.begin(&blob.digest, blob.size).map_err(ImportError::Store)?;
        let mut tries = TRIES;
        while partial.at() < blob.size {
            let before = partial.at();
            let request = Request::Blob { digest: blob.digest.clone(), from: before, most: blob.size };
            let cell = std::cell::RefCell::new(&mut partial);
            let got = self.get(
                &request,
                |from| cell.borrow_mut().continue_at(from).map_err(wrong),
                |piece| {
                    let mut partial = cell.borrow_mut();
                    partial.push(piece).map_err(wrong)?;
                    progress(partial.at());
                    Ok(())
                },
            );
            let short = match got {
                Ok(Ok(())) => partial.at() < blob.size,
                Ok(Err(failed)) if failed.kind == FailedKind::Passing && partial.at() > before => true,
                Ok(Err(failed)) if failed.kind == FailedKind::Passing && tries > 1 => true,
                // What was refused is nothing to go on with; what was cut is.
                Ok(Err(failed)) => {
                    if failed.kind != FailedKind::Passing {
                        partial.discard();
                    }
                    return Err(failed.into());
                }
                Err(error @ PullError::Refused(_)) => {
                    partial.discard();
                    return Err(error);
                }
                Err(error) => return Err(error),
            };
            if !short {
                break;
            }
            tries = if partial.at() > before { TRIES } else { tries - 1 };
            if tries == 0 {
                let (got, size) = (partial.at(), blob.size);
                partial.discard();
                return Err(wrong(Wrong::TooShort { got, size }));
            }
        }
        partial.finish(&self.host).map_err(wrong)
    }
}
