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

/// Lets this process lock `min` bytes of memory, raising its limit if need be.
///
/// # Errors
/// The limit is lower, and only a privileged process may raise it.
#[cfg(feature = "glommio")]
pub fn raise_memlock(min: u64) -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: fills a plain struct of ours.
    if unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur >= min {
        return Ok(());
    }
    let raised = libc::rlimit { rlim_cur: min, rlim_max: limit.rlim_max.max(min) };
    // SAFETY: reads a plain struct of ours.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raised) } == 0 {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!(
            "locked memory is limited to {} bytes and {min} are needed: raise `ulimit -l` or \
             systemd's LimitMEMLOCK",
            limit.rlim_cur
        ),
    ))
}
