//! What archives come packed in: nothing, gzip (RFC 1952) or zstd (RFC 8878), told apart by their first bytes.

use std::io::{self, BufRead, BufReader, Read};

/// A window of 128 MiB, the most that zstd uses without `--ultra --long=31`: it bounds what decoding takes in memory.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Why an archive cannot even be unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("{0} archives are not supported; repack it with gzip or zstd, or not at all")]
    Unsupported(&'static str),
    #[error("cannot read the archive")]
    Read(#[from] io::Error),
}

/// What an archive is without its packing.
pub(crate) struct Unpacked<'a> {
    pub(crate) reader: Box<dyn Read + 'a>,
    /// Whether it was packed at all.
    pub(crate) was_packed: bool,
}

/// The archive without its packing.
pub(crate) fn decode<'a>(from: impl Read + 'a) -> Result<Unpacked<'a>, DecodeError> {
    let mut from = BufReader::with_capacity(1 << 18, from);
    // The first read of a pipe may give less than the longest of the magic numbers.
    let mut start = Vec::new();
    while start.len() < 6 {
        let available = from.fill_buf()?;
        if available.is_empty() {
            break;
        }
        let count = available.len().min(6 - start.len());
        start.extend_from_slice(&available[..count]);
        from.consume(count);
    }
    let whole = io::Cursor::new(start.clone()).chain(from);
    let packed = |reader| Ok(Unpacked { reader, was_packed: true });
    match start.as_slice() {
        [0x1f, 0x8b, ..] => packed(Box::new(flate2::bufread::MultiGzDecoder::new(whole))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = zstd::Decoder::with_buffer(whole)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            packed(Box::new(decoder))
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Err(DecodeError::Unsupported("xz")),
        [b'B', b'Z', b'h', ..] => Err(DecodeError::Unsupported("bzip2")),
        [b'P', b'K', 3, 4, ..] => Err(DecodeError::Unsupported("zip")),
        _ => Ok(Unpacked { reader: Box::new(whole), was_packed: false }),
    }
}
