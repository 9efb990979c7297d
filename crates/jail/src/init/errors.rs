//! How the kernel's errors are called on the channel.

use channel::{ChannelError, ErrorKind};
use std::io;

/// An error of our own.
pub fn refuse(kind: ErrorKind, message: impl Into<String>) -> ChannelError {
    ChannelError::new(kind, message)
}

/// What was attempted, and what the kernel said.
pub fn of_io(attempt: &str, error: &io::Error) -> ChannelError {
    ChannelError::new(kind(error), format!("{attempt}: {error}"))
}

fn kind(error: &io::Error) -> ErrorKind {
    use io::ErrorKind as Io;
    // Libraries wrap errors and keep only their kind, so the number comes second.
    match error.kind() {
        Io::NotFound => ErrorKind::NotFound,
        Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::PermissionDenied,
        Io::AlreadyExists => ErrorKind::Exists,
        Io::NotADirectory => ErrorKind::NotADirectory,
        Io::IsADirectory => ErrorKind::IsADirectory,
        Io::DirectoryNotEmpty => ErrorKind::NotEmpty,
        Io::StorageFull | Io::QuotaExceeded => ErrorKind::DiskFull,
        Io::ConnectionRefused => ErrorKind::Refused,
        Io::OutOfMemory | Io::WouldBlock => ErrorKind::TooMany,
        Io::InvalidInput
        | Io::InvalidData
        | Io::InvalidFilename
        | Io::CrossesDevices
        | Io::UnexpectedEof
        | Io::Unsupported => ErrorKind::Invalid,
        _ => match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => ErrorKind::TooMany,
            Some(libc::ELOOP) => ErrorKind::Invalid,
            _ => ErrorKind::Internal,
        },
    }
}
