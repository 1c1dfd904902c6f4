//! The process as a whole: its signals and its limit of open files, as safe functions.
#![expect(unsafe_code, reason = "raw system calls")]

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

/// A signal that asks the process to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: a supervisor asks.
    Terminate,
    /// SIGINT: somebody pressed Ctrl-C.
    Interrupt,
}

/// Takes SIGTERM and SIGINT away from the calling thread and all it will start: they wait for
/// [`wait_signal`]. Call it before there is a second thread.
///
/// # Errors
/// As `pthread_sigmask`; not known to fail.
pub fn block_signals() -> io::Result<()> {
    let set = ending_signals();
    // SAFETY: the set is initialised and lives through the call.
    let code = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}

/// Waits for one of the signals that [`block_signals`] holds back.
///
/// # Errors
/// As `sigwait`; not known to fail.
pub fn wait_signal() -> io::Result<Signal> {
    let set = ending_signals();
    let mut number = 0;
    // SAFETY: both live through the call.
    let code = unsafe { libc::sigwait(&raw const set, &raw mut number) };
    match (code, number) {
        (0, libc::SIGINT) => Ok(Signal::Interrupt),
        (0, _) => Ok(Signal::Terminate),
        _ => Err(io::Error::from_raw_os_error(code)),
    }
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note_interrupt(_: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From now on SIGINT does not end the process: it sets this flag, and the system call that the
/// main thread waits in ends with EINTR. Whoever looks at the flag clears it.
///
/// # Errors
/// As `sigaction`; not known to fail.
pub fn note_interrupts() -> io::Result<&'static AtomicBool> {
    // SAFETY: a zeroed action has no flags and an empty mask, so calls are not restarted; the
    // handler touches nothing but an atomic, and lives for ever.
    let code = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = note_interrupt as *const () as libc::sighandler_t;
        libc::sigaction(libc::SIGINT, &raw const action, ptr::null_mut())
    };
    if code == 0 { Ok(&INTERRUPTED) } else { Err(io::Error::last_os_error()) }
}

fn ending_signals() -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the whole set; the numbers are valid signals.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        set
    }
}

/// Raises the limit of open files to `want`, or as near to it as an unprivileged process may;
/// returns the limit in force.
///
/// # Errors
/// As `getrlimit` and `setrlimit`.
pub fn raise_open_files_max(want: u64) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure lives through the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur >= want {
        return Ok(limit.rlim_cur);
    }
    limit.rlim_cur = want.min(limit.rlim_max);
    // SAFETY: the structure lives through the call.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_never_lowered() {
        let before = raise_open_files_max(0).expect("the limit can be read");

        let after = raise_open_files_max(before + 1).expect("raising ends at the hard limit");

        assert!(after >= before, "{after} < {before}");
    }

    #[test]
    fn a_blocked_signal_waits_to_be_taken() {
        let taken = std::thread::spawn(|| {
            block_signals().expect("the set is valid");
            // SAFETY: names no memory; the signal is for this thread, which blocks it.
            unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGTERM) };
            wait_signal()
        });

        let taken = taken.join().expect("no panic").expect("the set is valid");

        assert_eq!(taken, Signal::Terminate);
    }
}
