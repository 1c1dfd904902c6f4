//! Wire formats, pure: bytes in, values out. No sockets here.

pub mod binary;
pub mod peer;
pub mod resp;

/// An empty vector in which `len` bytes fit.
///
/// Why all at once: growing by doubling copies a 512 MiB value twice over and stalls the core for
/// 290 ms (`tools/hostile --case big`: 9 ms so), while a client that announces more than it sends
/// costs only address space, for the pages are the kernel's until they are written. Where address
/// space is limited the vector grows as it fills.
fn with_address_space(len: usize) -> Vec<u8> {
    let mut value = Vec::new();
    // A refusal is no loss: the vector stays empty.
    let _ = value.try_reserve_exact(len);
    value
}
