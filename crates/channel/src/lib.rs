//! The frames between an agent's init and whoever talks to it: bytes in, typed messages out.
//!
//! This crate does no IO and knows no runtime. Both ends treat each other as hostile: every size is bounded, no
//! input makes it panic, and what it allocates follows the bytes that really came, never a claimed length.
//!
//! # A connection
//!
//! One connection carries one request. The client sends [`Kind::Hello`] and [`Kind::Request`], without waiting in
//! between; init answers [`Kind::Hello`] and then either one [`Kind::Error`], which ends the connection, or what
//! [`Request`] documents for the request. Streams are numbered as a process sees them: 0 goes into the agent
//! (stdin, file content, a port's input), 1 and 2 come out of it.

mod frame;
mod message;
#[cfg(test)]
mod tests;

pub use frame::{Decoder, Frame, FrameError, HEADER, Kind, MAX_PAYLOAD, encode, encode_json};
pub use message::{
    ChannelError, Control, ErrorKind, Event, ExecInfo, ExecRequest, Exit, ExitCause, FileInfo, FileKind,
    Hello, MAX_ARGV_BYTES, ProcessInfo, Reply, Request, Size, User, VERSION, VERSION_MIN,
};
