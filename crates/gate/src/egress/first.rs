//! The first bytes of a connection: what it speaks.

use super::hello::{Hello, hello};
use crate::limits;
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// What a client began with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// Nothing, for as long as was waited.
    Silent,
    /// Nothing, and it said that nothing will come.
    Closed,
    /// A ClientHello.
    Tls {
        /// The name that it asks for.
        sni: Option<String>,
    },
    /// A request of HTTP/1.
    Http,
    /// Something else.
    Other,
    /// What is neither whole nor anything else, or took too long.
    Bad,
}

/// The first bytes, as far as they came.
#[derive(Default)]
pub struct First {
    bytes: Vec<u8>,
}

impl First {
    /// Reads until it is known what is spoken. `silence` is how long nothing at all is waited for.
    pub async fn read(&mut self, client: &TcpStream, silence: Duration) -> io::Result<Opening> {
        let begun = Instant::now();
        loop {
            let deadline = begun + if self.bytes.is_empty() { silence } else { limits::OPENING_TIME };
            match timeout_at(deadline, client.readable()).await {
                Ok(ready) => ready?,
                Err(_) if self.bytes.is_empty() => return Ok(Opening::Silent),
                Err(_) => return Ok(Opening::Bad),
            }
            // No more than it may have, so that what is not looked at stays in the kernel.
            let room = limits::OPENING_BYTES.saturating_sub(self.bytes.len());
            self.bytes.reserve(room.min(limits::OPENING_PART));
            match client.try_read_buf(&mut self.bytes) {
                Ok(0) if self.bytes.is_empty() => return Ok(Opening::Closed),
                Ok(0) => return Ok(never_completed(&self.bytes)),
                Ok(_) => {
                    if let Some(opening) = spoken(&self.bytes) {
                        return Ok(opening);
                    }
                    if self.bytes.len() >= limits::OPENING_BYTES {
                        return Ok(Opening::Bad);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What was read, which is to be passed on before all else.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// What these bytes begin; `None` as long as that is not sure.
fn spoken(bytes: &[u8]) -> Option<Opening> {
    match hello(bytes) {
        Hello::More => None,
        Hello::Tls { sni, .. } => Some(Opening::Tls { sni }),
        Hello::Bad => Some(Opening::Bad),
        Hello::NotTls => request_line(bytes),
    }
}

/// What these bytes are when nothing follows.
fn never_completed(bytes: &[u8]) -> Opening {
    match hello(bytes) {
        Hello::More => Opening::Bad,
        _ => spoken(bytes).unwrap_or(Opening::Other),
    }
}

/// Whether the first line is that of a request: `METHOD SP TARGET SP HTTP/…`. Servers are lenient about what comes before and
/// between, so this is as well: what could be taken for a request has to be one.
fn request_line(bytes: &[u8]) -> Option<Opening> {
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    let rest = bytes.get(start..).unwrap_or_default();
    let end = rest.iter().position(|&byte| byte == b'\n');
    let line = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let separates = |byte: u8| matches!(byte, b' ' | b'\t' | 0x0b | 0x0c | b'\r');
    if line.iter().any(|&byte| byte.is_ascii_control() && !separates(byte)) {
        return Some(Opening::Other);
    }
    let method = line.split(|&byte| separates(byte)).next().unwrap_or_default();
    let token = |&byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if method.is_empty() || !method.iter().all(token) {
        return Some(Opening::Other);
    }
    end?;
    let last = line.rsplit(|&byte| separates(byte)).find(|word| !word.is_empty()).unwrap_or_default();
    let says_http = last.len() >= 5 && last.iter().zip(b"HTTP/").all(|(a, b)| a.eq_ignore_ascii_case(b));
    // Version 2 with prior knowledge cannot be looked into: it passes only where anything does.
    let known = says_http && !(method == b"PRI" && last == b"HTTP/2.0");
    Some(if known && last.len() != line.len() { Opening::Http } else { Opening::Other })
}

#[cfg(test)]
mod tests {
    use super::{Opening, spoken};

    #[test]
    fn requests_are_told_from_everything_else() {
        let check = |bytes: &[u8], expected: Option<Opening>| {
            assert_eq!(spoken(bytes), expected, "{}", bytes.escape_ascii());
        };
        for request in [
            "GET / HTTP/1.1\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.0\n",
            "get / http/1.1\r\n",
            "FOO\t/\tHTTP/1.1\r\n",
            "GET  /  HTTP/1.1 \r\n",
            "CONNECT x:443 HTTP/1.1\r\n",
            "GET / x HTTP/9.9\r\n",
        ] {
            check(request.as_bytes(), Some(Opening::Http));
            let line = request.find("/1").unwrap_or(request.len() - 6);
            check(&request.as_bytes()[..line], None);
        }
        for other in [
            "SSH-2.0-OpenSSH_9.9\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "GET /\r\n",
            "HTTP/1.1\r\n",
            "OPTIONS rtsp://x RTSP/1.0\r\n",
            "*1\r\n$4\r\nPING\r\n",
            "0032git-upload-pack /project\0host=x\0",
            "(x)",
            " GET / HTTP/1.1\r\n",
            "\0\0\0\x08",
            "EHLO x\r\n",
        ] {
            check(other.as_bytes(), Some(Opening::Other));
        }
        for more in ["", "\r\n", "G", "GET /", "GET / HTTP/1.1\r"] {
            check(more.as_bytes(), None);
        }
    }
}
