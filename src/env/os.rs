//! Small calls to the operating system that std does not offer, as safe functions.
#![expect(unsafe_code, reason = "raw system calls")]

use std::fs::File;
use std::io;
use std::os::fd::FromRawFd as _;
use std::ptr;

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

/// The processors that this process may run on, in order.
///
/// # Errors
/// As `sched_getaffinity`: more than 1,024 processors.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    // SAFETY: a cpu_set_t is plain bits, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set lives through the call and its size is given.
    let result = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let count = 8 * size_of_val(&set);
    // SAFETY: `cpu` is below the number of bits in the set.
    Ok((0..count).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect())
}

/// Keeps the calling thread on processor `cpu`, one of [`allowed_cpus`].
///
/// # Errors
/// As `sched_setaffinity`: there is no such processor, or the process may not use it.
pub fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    // SAFETY: a cpu_set_t is plain bits, for which zero is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if cpu >= 8 * size_of_val(&set) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: `cpu` is below the number of bits in the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set lives through the call and its size is given.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A signal that asks the process to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: a supervisor asks.
    Terminate,
    /// SIGINT: somebody pressed Ctrl-C.
    Interrupt,
}

/// Takes SIGTERM and SIGINT away from the calling thread and all it will start: they wait for
/// [`wait_signal`]. Call it first thing, before there is a second thread.
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
    fn a_thread_stays_on_the_processor_it_was_pinned_to() {
        let cpus = allowed_cpus().expect("affinity can be read");
        let last = *cpus.last().expect("there is a processor to run on");

        let pinned = std::thread::spawn(move || pin_to_cpu(last).and_then(|()| allowed_cpus()));

        let pinned = pinned.join().expect("no panic").expect("an allowed processor");
        assert_eq!(pinned, [last]);
        assert_eq!(allowed_cpus().expect("affinity can be read"), cpus);
    }

    #[test]
    fn the_limit_of_open_files_is_never_lowered() {
        let before = raise_open_files_max(0).expect("the limit can be read");

        let after = raise_open_files_max(before + 1).expect("raising ends at the hard limit");

        assert!(after >= before, "{after} < {before}");
    }
}
