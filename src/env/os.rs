//! Small calls to the operating system that std does not offer, as safe functions.
#![expect(unsafe_code, reason = "raw system calls")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::FromRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

/// How long the port of a process that was just killed may take to come free: its ring is torn
/// down after it.
const PORT_WAIT_MAX: Duration = Duration::from_secs(2);

/// A port kept for the listeners of this process, which share it.
pub struct Reserved {
    _socket: Socket,
    port: u16,
}

impl Reserved {
    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Finds out that `addr` is free and keeps it, so that every shard can listen on it with
/// `SO_REUSEPORT` and no other process is listening there already. Port 0: any free one.
///
/// # Errors
/// As `bind`.
pub fn reserve_port(addr: SocketAddr) -> io::Result<Reserved> {
    let end = Instant::now() + PORT_WAIT_MAX;
    loop {
        match try_reserve(addr) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(20));
            }
            result => return result,
        }
    }
}

fn try_reserve(addr: SocketAddr) -> io::Result<Reserved> {
    let bind = |addr: SocketAddr, shared: bool| {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(shared)?;
        socket.bind(&addr.into())?;
        Ok::<_, io::Error>(socket)
    };
    // Alone first: a shared bind would join the listeners of another process of this user.
    let alone = bind(addr, false)?;
    let bound = alone.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidInput)?;
    drop(alone);
    Ok(Reserved { _socket: bind(bound, true)?, port: bound.port() })
}

/// Whether both ends of `stream` are the same socket. The kernel connects one to itself when nobody
/// listens on a local port and it drew that very port for the caller; it must not pass for a peer.
pub fn is_connected_to_itself(stream: &TcpStream) -> bool {
    stream.peer_addr().is_ok_and(|peer| stream.local_addr().is_ok_and(|local| local == peer))
}

/// Runs `main` on a thread of its own, on `core` alone if one is named.
///
/// # Errors
/// Out of threads. A core that does not exist is not an error: the thread then runs anywhere.
pub fn spawn(
    name: &str,
    core: Option<usize>,
    main: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        if let Some(core) = core {
            pin_to(core);
        }
        main();
    })
}

/// Whether this process has whole cores to itself, so that its threads are best pinned to them.
///
/// Why not under a CPU quota: containers with one see all cores of their machine, so that those of
/// several would all be pinned to the same first ones, and share them while others are idle.
pub fn has_whole_cores() -> bool {
    std::thread::available_parallelism().is_ok_and(|cores| cores.get() == usable_cores().len())
}

/// The cores that this thread may run on.
fn usable_cores() -> Vec<usize> {
    // SAFETY: `allowed` is a plain bit set of the size named, zero is a valid value of it.
    let (failed, allowed) = unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        (libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut allowed) != 0, allowed)
    };
    // SAFETY: no core is beyond the end of the set.
    let is_usable = |core: &usize| !failed && unsafe { libc::CPU_ISSET(*core, &allowed) };
    (0..libc::CPU_SETSIZE as usize).filter(is_usable).collect()
}

/// Runs this thread on the `n`th of the cores it may use.
fn pin_to(n: usize) {
    let usable = usable_cores();
    if usable.is_empty() {
        return;
    }
    // SAFETY: `wanted` is a plain bit set of the size named, zero is a valid value of it.
    unsafe {
        let mut wanted: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(usable[n % usable.len()], &mut wanted);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &wanted);
    }
}

/// A seed from the operating system.
pub fn random_seed() -> u64 {
    let mut seed = 0u64;
    // SAFETY: writes at most eight bytes into an integer of eight bytes.
    let got = unsafe { libc::getrandom((&raw mut seed).cast(), 8, 0) };
    assert_eq!(got, 8, "getrandom of eight bytes is never short");
    seed
}

/// What this process uses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Resident set, bytes.
    pub rss_bytes: u64,
    /// Memory of the machine, bytes.
    pub system_bytes: u64,
    /// CPU time in the kernel, microseconds.
    pub cpu_sys_us: u64,
    /// CPU time outside it, microseconds.
    pub cpu_user_us: u64,
}

/// Asks the kernel what this process uses.
pub fn usage() -> Usage {
    // SAFETY: fills a plain struct for which zero is a valid value.
    let times = unsafe {
        let mut times: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut times);
        times
    };
    let us = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    // SAFETY: names no memory.
    let system_pages = unsafe { libc::sysconf(libc::_SC_PHYS_PAGES) };
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    Usage {
        rss_bytes: pages.unwrap_or(0) * 4096,
        system_bytes: system_pages.max(0) as u64 * 4096,
        cpu_sys_us: us(times.ru_stime),
        cpu_user_us: us(times.ru_utime),
    }
}

/// Where the clocks of a process's shards count from.
#[derive(Clone, Copy, Debug)]
pub struct Start(pub(super) Instant);

impl Start {
    /// Now.
    pub fn now() -> Self {
        Self(Instant::now())
    }
}

/// Bytes that are free for us on the file system of `path`.
///
/// # Errors
/// As `statvfs`.
pub fn free_len(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: `path` ends with a zero; fills a plain struct for which zero is a valid value.
    let (result, found) = unsafe {
        let mut found: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(path.as_ptr(), &mut found), found)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

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

/// Wall time, unix milliseconds.
pub fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
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
