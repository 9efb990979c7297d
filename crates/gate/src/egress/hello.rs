//! Whom a client of TLS wants to speak with: the server name of its ClientHello (RFC 8446, section 4.1.2; RFC 6066, section 3).
//!
//! It only reads. Nothing is decrypted, and what a hello says never decides where bytes go; it has to agree with what is known.
//! Under Encrypted Client Hello the name in the clear is the one that counts, because it is the one that the far side's network goes
//! by.

#[cfg(test)]
mod tests;

/// What a ClientHello may take on the wire, in bytes: its records with their headers. Those of browsers have about two thousand.
pub const MAX_HELLO: usize = 32 << 10;
/// Records that it may be spread over.
const MAX_RECORDS: usize = 64;
/// What a record may hold (RFC 8446, section 5.1).
const MAX_RECORD: usize = 1 << 14;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;

/// What a connection begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hello {
    /// Too little to tell.
    More,
    /// A whole ClientHello.
    Tls {
        /// The server name that it asks for, normal as of [`model::policy::name`].
        sni: Option<String>,
        /// Whether it has another one, encrypted, or pretends to.
        ech: bool,
    },
    /// Something else.
    NotTls,
    /// It begins like TLS, but no server that keeps the rules would take it, or servers would read it differently.
    Bad,
}

/// Reads the first bytes of a connection. Once this is not [`Hello::More`], it stays the same whatever else comes; and never more than
/// [`MAX_HELLO`] bytes are asked for.
pub fn hello(bytes: &[u8]) -> Hello {
    match message(bytes) {
        Ok(body) => client_hello(&body).unwrap_or(Hello::Bad),
        Err(stop) => stop,
    }
}

/// Gathers the first message of the handshake from its records, without its header.
fn message(bytes: &[u8]) -> Result<Vec<u8>, Hello> {
    let byte = |at: usize| bytes.get(at).copied().ok_or(Hello::More);
    let mut at = 0;
    let mut pieces: Vec<&[u8]> = Vec::new();
    let mut held = 0;
    loop {
        // What a server would not take for TLS at all can be so at the beginning only.
        let other = if pieces.is_empty() { Hello::NotTls } else { Hello::Bad };
        if byte(at)? != HANDSHAKE || byte(at + 1)? != 3 {
            return Err(other);
        }
        let length = usize::from(u16::from_be_bytes([byte(at + 3)?, byte(at + 4)?]));
        let (start, end) = (at + 5, at + 5 + length);
        if length == 0 || length > MAX_RECORD || end > MAX_HELLO || pieces.len() == MAX_RECORDS {
            return Err(Hello::Bad);
        }
        pieces.push(&bytes[start.min(bytes.len())..end.min(bytes.len())]);
        let mut head = pieces.iter().copied().flatten().copied();
        if head.next().ok_or(Hello::More)? != CLIENT_HELLO {
            return Err(Hello::Bad);
        }
        // The length of the message may come with the next record.
        if let (Some(high), Some(middle), Some(low)) = (head.next(), head.next(), head.next()) {
            let message = 4 + u32::from_be_bytes([0, high, middle, low]) as usize;
            // Nothing may follow it in its last record: a server answers first.
            if message > MAX_HELLO || held + length > message {
                return Err(Hello::Bad);
            }
            if held + length == message && bytes.len() >= end {
                let mut body = pieces.concat();
                body.drain(..4);
                return Ok(body);
            }
        }
        if bytes.len() < end {
            return Err(Hello::More);
        }
        held += length;
        at = end;
    }
}

/// Reads a whole ClientHello; `None` when it breaks the rules.
fn client_hello(body: &[u8]) -> Option<Hello> {
    let mut rest = Reader(body);
    let version = rest.take(2)?;
    rest.take(32)?;
    let (session, suites) = (rest.short()?, rest.long()?);
    let compressions = rest.short()?;
    let holds = version[0] == 3
        && session.len() <= 32
        && !suites.is_empty()
        && suites.len() % 2 == 0
        && !compressions.is_empty();
    if !holds {
        return None;
    }
    let (mut sni, mut ech) = (None, false);
    if rest.0.is_empty() {
        // As clients of TLS 1.2 may have it.
        return Some(Hello::Tls { sni, ech });
    }
    let mut extensions = Reader(rest.long()?);
    let mut kinds = Vec::new();
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let data = extensions.long()?;
        kinds.push(kind);
        match kind {
            SERVER_NAME => sni = Some(server_name(data)?),
            ENCRYPTED_CLIENT_HELLO => ech = true,
            _ => {}
        }
    }
    kinds.sort_unstable();
    let twice = kinds.windows(2).any(|pair| pair[0] == pair[1]);
    (rest.0.is_empty() && !twice).then_some(Hello::Tls { sni, ech })
}

/// The one name of a list of server names. Names of other kinds than hosts were never defined, and more than one of a kind is
/// forbidden.
fn server_name(data: &[u8]) -> Option<String> {
    let mut outer = Reader(data);
    let mut list = Reader(outer.long()?);
    let kind = list.take(1)?[0];
    let name = std::str::from_utf8(list.long()?).ok()?;
    // Of other alphabets a hello has A-labels only.
    let alone = outer.0.is_empty() && list.0.is_empty() && kind == 0 && name.is_ascii();
    if alone { model::policy::name(name) } else { None }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// What has one byte of length before it.
    fn short(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(length.into())
    }

    /// What has two.
    fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(length.into())
    }
}
