//! System calls with whatever arguments, for attempts.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// An argument of a system call. Addresses come from references alone, so that they point at something as long as the
/// call lasts; the buffers that attempts give are as long as what a call of that kind writes.
pub trait Word {
    /// As the kernel takes it.
    fn word(self) -> libc::c_long;
}

macro_rules! numbers {
    ($($number:ty),*) => {
        $(impl Word for $number {
            fn word(self) -> libc::c_long {
                self as libc::c_long
            }
        })*
    };
}

numbers!(i32, i64, u32, u64, usize);

impl Word for &CStr {
    fn word(self) -> libc::c_long {
        self.as_ptr() as libc::c_long
    }
}

impl<const N: usize> Word for &[u64; N] {
    fn word(self) -> libc::c_long {
        self.as_ptr() as libc::c_long
    }
}

impl<const N: usize> Word for &mut [u64; N] {
    fn word(self) -> libc::c_long {
        self.as_mut_ptr() as libc::c_long
    }
}

impl Word for &OwnedFd {
    fn word(self) -> libc::c_long {
        self.as_raw_fd().into()
    }
}

impl Word for BorrowedFd<'_> {
    fn word(self) -> libc::c_long {
        self.as_raw_fd().into()
    }
}

/// The null pointer.
pub const NULL: u64 = 0;

/// Makes a system call: its number, and up to six arguments.
macro_rules! call {
    ($number:expr $(, $argument:expr)*) => {{
        #[allow(unused_imports)]
        use $crate::probe::word::Word;
        // SAFETY: addresses are of values that live during the call, and large enough for it; everything else is a number
        // that the kernel checks. What the call changes is a child that ends after it.
        $crate::sys::check(unsafe { libc::syscall($number as libc::c_long $(, ($argument).word())*) })
    }};
}
pub(super) use call;
