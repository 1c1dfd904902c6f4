//! Small calls to the operating system that std does not offer, as safe functions.
#![expect(unsafe_code, reason = "raw system calls")]

use std::fs::File;
use std::io;
use std::os::fd::FromRawFd as _;

/// A fresh eventfd, closed on exec.
///
/// # Errors
/// As `eventfd`: out of descriptors.
pub fn eventfd() -> io::Result<File> {
    // SAFETY: names no memory; the descriptor is new and ours alone.
    unsafe {
        let fd = libc::eventfd(0, libc::EFD_CLOEXEC);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(File::from_raw_fd(fd)) }
    }
}
