//! A server that costs little, and clients that want much of it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

/// A server's part of a handshake.
const ANSWER: usize = 2048;
/// What is sent and read at once.
const PIECE: usize = 256 << 10;
/// Clients at the same time.
const CLIENTS: u32 = 8;

/// How a client gets to the server.
pub enum Way {
    /// It connects to this.
    Address(SocketAddr),
    /// It asks for a name first.
    Name(&'static str, u16),
    /// It asks a proxy by CONNECT.
    Connect(SocketAddr, SocketAddr),
}

impl Way {
    /// A connection, by which nothing was said yet.
    pub fn connect(&self) -> io::Result<TcpStream> {
        let stream = match self {
            Self::Address(address) => TcpStream::connect(address)?,
            Self::Name(name, port) => TcpStream::connect((*name, *port))?,
            Self::Connect(proxy, server) => TcpStream::connect(proxy).and_then(|mut stream| {
                write!(stream, "CONNECT {server} HTTP/1.1\r\nHost: {server}\r\n\r\n")?;
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") {
                    stream.read_exact(&mut byte)?;
                    head.extend(byte);
                }
                if !head.starts_with(b"HTTP/1.1 200") && !head.starts_with(b"HTTP/1.0 200") {
                    return Err(io::Error::other(String::from_utf8_lossy(&head).into_owned()));
                }
                Ok(stream)
            })?,
        };
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn open(&self) -> io::Result<TcpStream> {
        let mut stream = self.connect()?;
        stream.write_all(&hello())?;
        Ok(stream)
    }

    /// The same way without asking for the name each time.
    pub fn resolved(&self) -> Self {
        match self {
            Self::Address(address) => Self::Address(*address),
            Self::Name(name, port) => {
                let found = (*name, *port).to_socket_addrs().expect("an answer of DNS");
                Self::Address(found.into_iter().find(SocketAddr::is_ipv4).expect("an address"))
            }
            Self::Connect(proxy, server) => Self::Connect(*proxy, *server),
        }
    }
}

/// A ClientHello as programs send it, with the name in it.
fn hello() -> Vec<u8> {
    let name = super::NAME.as_bytes();
    let u16_of = |length: usize| u16::try_from(length).expect("it is short").to_be_bytes();
    let sni = [&u16_of(name.len() + 3)[..], &[0], &u16_of(name.len()), name].concat();
    let extension =
        |kind: u16, content: &[u8]| [&kind.to_be_bytes()[..], &u16_of(content.len()), content].concat();
    // A share of a key that is long (X25519MLKEM768), as browsers and tools send it now.
    let share = [&u16_of(1220)[..], &[0x11, 0xec], &u16_of(1216), &[7; 1216]].concat();
    let extensions = [extension(0, &sni), extension(43, &[2, 3, 4]), extension(51, &share)].concat();
    let suites = [0x13, 0x01, 0x13, 0x02, 0x13, 0x03];
    let body = [
        &[3, 3][..],
        &[9; 32],
        &[32],
        &[8; 32],
        &u16_of(suites.len()),
        &suites,
        &[1, 0],
        &u16_of(extensions.len()),
        &extensions,
    ]
    .concat();
    let handshake = [&[1, 0][..], &u16_of(body.len()), &body].concat();
    [&[22, 3, 1][..], &u16_of(handshake.len()), &handshake].concat()
}

/// Answers each hello, and then does as it is told by single letters: `e`choes a byte, or sends `g` times so many bytes.
pub fn serve(listener: TcpListener) {
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::Builder::new()
                .stack_size(128 << 10)
                .spawn(move || drop(answer(stream)))
                .expect("a thread");
        }
    });
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.read_exact(&mut vec![0; hello().len()])?;
    stream.write_all(&[6; ANSWER])?;
    let mut order = [0; 9];
    loop {
        stream.read_exact(&mut order[..1])?;
        match order[0] {
            b'e' => stream.write_all(b"e")?,
            _ => {
                stream.read_exact(&mut order[1..])?;
                let mut left = u64::from_be_bytes(order[1..].try_into().expect("8 bytes"));
                let piece = vec![0; PIECE];
                while left > 0 {
                    let length = left.min(PIECE as u64);
                    stream.write_all(&piece[..usize::try_from(length).expect("a piece")])?;
                    left -= length;
                }
            }
        }
    }
}

fn handshake(way: &Way) -> TcpStream {
    let mut stream = way.open().expect("a connection");
    stream.read_exact(&mut [0; ANSWER]).expect("the server's part");
    stream
}

/// So many connections, a handshake each, by some clients at a time.
pub fn connections(way: &Way, count: u32) -> Duration {
    let way = way.resolved();
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| (0..count / CLIENTS).for_each(|_| drop(handshake(&way))));
        }
    });
    begun.elapsed()
}

/// So many bytes from the server, by so many streams together.
pub fn streams(way: &Way, count: u64, bytes: u64) -> Duration {
    let way = way.resolved();
    let mut open: Vec<_> = (0..count).map(|_| handshake(&way)).collect();
    let begun = Instant::now();
    thread::scope(|scope| {
        for stream in &mut open {
            scope.spawn(move || {
                let order = [&b"g"[..], &(bytes / count).to_be_bytes()].concat();
                stream.write_all(&order).expect("an order");
                let (mut left, mut piece) = (bytes / count, vec![0; PIECE]);
                while left > 0 {
                    left -= stream.read(&mut piece).expect("bytes") as u64;
                }
            });
        }
    });
    begun.elapsed()
}

/// How long each of so many answers of a byte took, on one connection.
pub fn echoes(way: &Way, count: u32) -> Vec<Duration> {
    let mut stream = handshake(&way.resolved());
    let echo = |_| {
        let begun = Instant::now();
        stream.write_all(b"e").expect("a byte");
        stream.read_exact(&mut [0]).expect("a byte");
        begun.elapsed()
    };
    (0..count).map(echo).collect()
}

/// Connections that nothing happens on.
pub fn kept(way: &Way, count: usize) -> Vec<TcpStream> {
    let way = way.resolved();
    (0..count).map(|_| handshake(&way)).collect()
}

/// Waits until the name has an address again.
pub fn until_open(way: &Way) {
    if let Way::Name(name, port) = way {
        while (*name, *port).to_socket_addrs().is_err() {
            thread::sleep(Duration::from_millis(1));
        }
    }
}
