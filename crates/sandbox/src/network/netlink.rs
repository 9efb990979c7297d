//! Messages of netlink (netlink(7)), made and read by hand.
//!
//! A socket belongs to the network namespace that it was made in, wherever it is used. The kernel answers before the call that
//! asks returns, so nothing here waits.

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};
use std::io;
use std::os::fd::OwnedFd;

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct nlattr`.
const ATTRIBUTE: usize = 4;
/// What a datagram may have, as the kernel fills them when dumping.
const DATAGRAM: usize = 32 << 10;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
/// Something changed while it was being dumped.
const NLM_F_DUMP_INTR: u16 = 0x10;

const NLA_F_NESTED: u16 = 0x8000;
/// An attribute's kind without its flags.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// How often something is dumped anew that changed meanwhile.
const ATTEMPTS: u32 = 3;

/// What a message is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// What is in the way is an error.
    Make,
    /// Behind the others.
    Append,
    /// Of what is there.
    Change,
    /// Neither: the beginning and the end of a batch.
    Mark,
}

/// Attributes as they are being written.
#[derive(Debug, Clone, Default)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    pub(super) fn put(mut self, kind: u16, value: &[u8]) -> Self {
        self.0.extend_from_slice(&((ATTRIBUTE + value.len()) as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        self.put(kind, &[value.as_bytes(), b"\0"].concat())
    }

    /// A number in the order of the network, as nf_tables wants them.
    pub(super) fn number(self, kind: u16, value: u32) -> Self {
        self.put(kind, &value.to_be_bytes())
    }

    pub(super) fn nest(self, kind: u16, inner: Self) -> Self {
        self.put(kind | NLA_F_NESTED, &inner.0)
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// One message to be sent: what it is, the header of its family, its attributes.
pub(super) fn message(kind: u16, order: Order, fixed: &[u8], attributes: &Attributes) -> Vec<u8> {
    let flags = match order {
        Order::Make => NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK,
        Order::Append => NLM_F_CREATE | NLM_F_APPEND | NLM_F_ACK,
        Order::Change => NLM_F_ACK,
        Order::Mark => 0,
    };
    written(kind, NLM_F_REQUEST | flags, fixed, attributes)
}

fn written(kind: u16, flags: u16, fixed: &[u8], attributes: &Attributes) -> Vec<u8> {
    let length = HEADER + fixed.len() + attributes.0.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(&(length as u32).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    // Sequence and port: nothing is asked before the last answer was read.
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(fixed);
    bytes.extend_from_slice(&attributes.0);
    bytes
}

/// What came of asking for all of a kind: of each its kind, and the rest without the header.
pub(super) type Dump = Vec<(u16, Vec<u8>)>;

/// A socket of one family of messages.
#[derive(Debug)]
pub(super) struct Link {
    socket: OwnedFd,
}

impl Link {
    /// In the network namespace that the thread is in. Without a protocol it is the one for routes.
    pub(super) fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        Ok(Self { socket })
    }

    /// Sends messages in one datagram and reads all answers. The first refusal is the error.
    pub(super) fn order(&self, messages: &[u8]) -> io::Result<()> {
        send(&self.socket, messages, SendFlags::empty())?;
        let (mut answered, mut refused) = (false, None);
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let length = match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _)) => length,
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            };
            for answer in Messages(&buffer[..length]) {
                let answer = answer?;
                if answer.kind == NLMSG_ERROR {
                    answered = true;
                    refused = refused.or(answer.refusal()?);
                }
            }
        }
        match refused {
            Some(error) => Err(error),
            None if answered => Ok(()),
            None => Err(io::Error::other("the kernel does not answer")),
        }
    }

    /// Asks for all of a kind.
    pub(super) fn dump(&self, kind: u16, fixed: &[u8]) -> io::Result<Dump> {
        let question = written(kind, NLM_F_REQUEST | NLM_F_DUMP, fixed, &Attributes::default());
        for _ in 0..ATTEMPTS {
            send(&self.socket, &question, SendFlags::empty())?;
            if let Some(all) = self.dumped()? {
                return Ok(all);
            }
        }
        Err(io::Error::other("it changes all the time"))
    }

    /// `None` when it changed under the kernel's hands.
    fn dumped(&self) -> io::Result<Option<Dump>> {
        let (mut all, mut whole) = (Vec::new(), true);
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let (length, _) = recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
            for message in Messages(&buffer[..length]) {
                let message = message?;
                whole &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_DONE => return Ok(whole.then_some(all)),
                    NLMSG_ERROR => match message.refusal()? {
                        Some(error) => return Err(error),
                        None => return Ok(whole.then_some(all)),
                    },
                    kind => all.push((kind, message.body.to_vec())),
                }
            }
        }
    }
}

/// A message as it came.
#[derive(Debug)]
struct Message<'a> {
    kind: u16,
    flags: u16,
    body: &'a [u8],
}

impl Message<'_> {
    /// What an answer says; `None` for yes.
    fn refusal(&self) -> io::Result<Option<io::Error>> {
        let code = self.body.first_chunk().ok_or(io::ErrorKind::InvalidData)?;
        let code = i32::from_ne_bytes(*code);
        Ok((code != 0).then(|| io::Error::from_raw_os_error(code.saturating_neg())))
    }
}

/// The messages of one datagram.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = io::Result<Message<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let message = self.take();
        if message.is_none() {
            self.0 = &[];
        }
        Some(message.ok_or_else(|| io::ErrorKind::InvalidData.into()))
    }
}

impl<'a> Messages<'a> {
    fn take(&mut self) -> Option<Message<'a>> {
        let length = u32::from_ne_bytes(*self.0.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*self.0.get(4..)?.first_chunk()?);
        let flags = u16::from_ne_bytes(*self.0.get(6..)?.first_chunk()?);
        let body = self.0.get(HEADER..length)?;
        self.0 = &self.0[length.next_multiple_of(4).min(self.0.len())..];
        Some(Message { kind, flags, body })
    }
}

/// The attributes of a message: kind without flags, whether it is marked as nested, value.
pub(super) fn attributes(mut bytes: &[u8]) -> io::Result<Vec<Attribute<'_>>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let length = bytes.first_chunk().map(|length| u16::from_ne_bytes(*length) as usize);
        let kind = bytes.get(2..).and_then(|rest| rest.first_chunk()).map(|kind| u16::from_ne_bytes(*kind));
        let (Some(length), Some(kind)) = (length, kind) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let value = bytes.get(ATTRIBUTE..length).ok_or(io::ErrorKind::InvalidData)?;
        found.push(Attribute { kind: kind & NLA_TYPE_MASK, nested: kind & NLA_F_NESTED != 0, value });
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    Ok(found)
}

/// An attribute as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attribute<'a> {
    pub(super) kind: u16,
    nested: bool,
    pub(super) value: &'a [u8],
}

/// Whether attributes are those that were sent, in any order, and no others but what the kernel adds: `added` says of a kind
/// and its value whether it does.
pub(super) fn same(sent: &Attributes, seen: &[u8], added: impl Fn(u16, &[u8]) -> bool) -> io::Result<bool> {
    let (sent, seen) = (attributes(&sent.0)?, attributes(seen)?);
    let mut found = 0;
    for attribute in &seen {
        match sent.iter().find(|wanted| wanted.kind == attribute.kind) {
            Some(wanted) if equal(*wanted, *attribute)? => found += 1,
            None if added(attribute.kind, attribute.value) => {}
            _ => return Ok(false),
        }
    }
    Ok(found == sent.len())
}

/// Byte for byte, but for the mark of what is nested, which the kernel leaves out.
fn equal(sent: Attribute<'_>, seen: Attribute<'_>) -> io::Result<bool> {
    if sent.kind != seen.kind || sent.value.len() != seen.value.len() {
        return Ok(false);
    }
    if !sent.nested {
        return Ok(sent.value == seen.value);
    }
    let (sent, seen) = (attributes(sent.value)?, attributes(seen.value)?);
    if sent.len() != seen.len() {
        return Ok(false);
    }
    for (sent, seen) in sent.into_iter().zip(seen) {
        if !equal(sent, seen)? {
            return Ok(false);
        }
    }
    Ok(true)
}
