//! Two-mebibyte pieces of memory, each one huge page if wanted, and the prefetch instruction.
//!
//! Why a type of our own: a `Box` can ask neither for the alignment nor for the huge page, and an
//! arena wants memory that is not touched before it is filled. All that is unsafe about the
//! memtable is in this file.
#![expect(unsafe_code, reason = "std has no aligned, partly filled array and no prefetch")]

use std::alloc::{Layout, handle_alloc_error};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Bytes of a chunk and its alignment: a huge page of x86-64 and of 4 KiB-granule AArch64.
pub const CHUNK_LEN: usize = 2 << 20;

const LINE_LEN: usize = 64;

/// What memory a table asks the kernel for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// 4 KiB, as they are filled: only what is used is resident.
    Small,
    /// 2 MiB where the kernel has them. With ten million keys and a quiet machine a lookup then
    /// takes about two thirds of the time, since its misses walk shorter page tables; of a SET in a
    /// deep pipeline a seventh of all CPU goes. But the kernel zeroes a whole page at the first
    /// touch: 250 us and more, once in some ten thousand new keys. (4 ms were measured once on a
    /// virtual machine; of 800,000 new keys over 50 connections neither p99 nor the slowest nor the
    /// number of stalls was worse than with small pages.)
    Huge,
}

/// A fixed array that is filled from the front; it never moves, and derefs to what is filled.
pub struct Chunk<T: Copy> {
    start: NonNull<T>,
    len: usize,
    owns: PhantomData<T>,
}

impl<T: Copy> Chunk<T> {
    /// Items that fit. A power of two when the size of `T` is one.
    pub const CAPACITY: usize = CHUNK_LEN / size_of::<T>();

    /// An empty chunk.
    pub fn new(pages: Pages) -> Self {
        const { assert!(size_of::<T>() > 0 && align_of::<T>() <= CHUNK_LEN) };
        let start = memory::map().unwrap_or_else(|| handle_alloc_error(LAYOUT));
        if pages == Pages::Huge {
            memory::advise_huge(start);
        }
        Self { start: start.cast(), len: 0, owns: PhantomData }
    }

    /// Has the small pages that were filled become a huge one, if the kernel has one; it copies
    /// them. (`MADV_COLLAPSE`, from Linux 6.1 on.)
    pub fn merge_pages(&mut self) {
        memory::merge_pages(self.start.cast());
    }

    /// Items that still fit.
    pub fn room(&self) -> usize {
        Self::CAPACITY - self.len
    }

    /// Appends `count` copies of `item`.
    ///
    /// # Panics
    /// When there is no [`Chunk::room`] for them.
    pub fn extend(&mut self, count: usize, item: T) {
        assert!(count <= self.room(), "{count} items into room for {}", self.room());
        for at in self.len..self.len + count {
            // SAFETY: `at < CAPACITY` by the assertion, so the place is inside the allocation.
            unsafe { self.start.add(at).write(item) };
        }
        self.len += count;
    }
}

impl<T: Copy> Deref for Chunk<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the first `len` items are initialised by `extend` and owned by this value.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Copy> DerefMut for Chunk<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Copy> Drop for Chunk<T> {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, freed once; `T: Copy` has no drop glue.
        unsafe { memory::unmap(self.start.cast()) };
    }
}

// SAFETY: a chunk is plain owned memory; nothing of it is tied to a thread.
unsafe impl<T: Copy + Send> Send for Chunk<T> {}

const LAYOUT: Layout = match Layout::from_size_align(CHUNK_LEN, CHUNK_LEN) {
    Ok(layout) => layout,
    Err(_) => panic!("a chunk is a power of two"),
};

/// Memory straight from the kernel. An allocator may have touched it before the advice (mimalloc
/// has), and then the kernel serves small pages for good.
#[cfg(all(target_os = "linux", not(miri)))]
mod memory {
    use std::ptr::{NonNull, null_mut};

    use super::CHUNK_LEN;

    /// A chunk's memory, aligned to its length.
    pub fn map() -> Option<NonNull<u8>> {
        // Kernels from 6.7 on align a mapping of this length by themselves.
        let start = map_len(CHUNK_LEN)?;
        if (start.as_ptr() as usize).is_multiple_of(CHUNK_LEN) {
            return Some(start);
        }
        // SAFETY: the mapping is ours and unused.
        unsafe { libc::munmap(start.as_ptr().cast(), CHUNK_LEN) };
        let start = map_len(2 * CHUNK_LEN)?;
        let before = start.as_ptr().align_offset(CHUNK_LEN);
        // SAFETY: twice the length holds an aligned chunk; what is unmapped lies before and behind
        // it, inside the mapping, on page bounds; an empty range is refused without effect.
        unsafe {
            libc::munmap(start.as_ptr().cast(), before);
            let chunk = start.add(before);
            libc::munmap(chunk.add(CHUNK_LEN).as_ptr().cast(), CHUNK_LEN - before);
            Some(chunk)
        }
    }

    fn map_len(len: usize) -> Option<NonNull<u8>> {
        let (prot, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANON);
        // SAFETY: a new anonymous mapping touches nothing that exists.
        let start = unsafe { libc::mmap(null_mut(), len, prot, flags, -1, 0) };
        if start == libc::MAP_FAILED { None } else { NonNull::new(start.cast()) }
    }

    pub fn advise_huge(start: NonNull<u8>) {
        // SAFETY: the range is one mapping of ours, and the advice changes no content. Its result
        // does not matter: a kernel without huge pages serves small ones.
        unsafe { libc::madvise(start.as_ptr().cast(), CHUNK_LEN, libc::MADV_HUGEPAGE) };
    }

    pub fn merge_pages(start: NonNull<u8>) {
        // SAFETY: as above. Whoever refuses leaves the small ones as they are.
        unsafe { libc::madvise(start.as_ptr().cast(), CHUNK_LEN, libc::MADV_COLLAPSE) };
    }

    /// # Safety
    /// `start` is from [`map`], and nothing uses the memory any more.
    pub unsafe fn unmap(start: NonNull<u8>) {
        // SAFETY: by the caller's promise.
        unsafe { libc::munmap(start.as_ptr().cast(), CHUNK_LEN) };
    }
}

/// Memory from the allocator, where there is no `madvise` that we know.
#[cfg(not(all(target_os = "linux", not(miri))))]
mod memory {
    use std::ptr::NonNull;

    use super::LAYOUT;

    pub fn map() -> Option<NonNull<u8>> {
        // SAFETY: the layout's size is not zero.
        NonNull::new(unsafe { std::alloc::alloc(LAYOUT) })
    }

    pub fn advise_huge(_: NonNull<u8>) {}

    pub fn merge_pages(_: NonNull<u8>) {}

    /// # Safety
    /// `start` is from [`map`], and nothing uses the memory any more.
    pub unsafe fn unmap(start: NonNull<u8>) {
        // SAFETY: allocated with this layout; by the caller's promise, freed once.
        unsafe { std::alloc::dealloc(start.as_ptr(), LAYOUT) };
    }
}

/// Asks for the cache lines that the first `len` bytes at `item` lie in; `len` may reach past it.
#[inline]
pub fn prefetch<T>(item: &T, len: usize) {
    let start = std::ptr::from_ref(item).cast::<i8>();
    for offset in (0..len).step_by(LINE_LEN) {
        prefetch_line(start.wrapping_add(offset));
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
fn prefetch_line(line: *const i8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch is a hint and never faults, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
}

#[cfg(all(target_arch = "aarch64", not(miri)))]
#[inline]
fn prefetch_line(line: *const i8) {
    // SAFETY: a prefetch is a hint and never faults, whatever the address.
    unsafe {
        std::arch::asm!(
            "prfm pldl1keep, [{0}]",
            in(reg) line,
            options(nostack, preserves_flags, readonly)
        );
    }
}

#[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
#[inline]
fn prefetch_line(_: *const i8) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_from_the_front_to_the_brim() {
        let mut chunk = Chunk::<u64>::new(Pages::Huge);

        chunk.extend(3, 7);
        chunk[1] = 8;
        chunk.merge_pages();
        chunk.extend(chunk.room(), 9);

        assert_eq!(chunk[..4], [7, 8, 7, 9]);
        assert_eq!((chunk.len(), chunk.room()), (Chunk::<u64>::CAPACITY, 0));
        assert_eq!(chunk.as_ptr() as usize % CHUNK_LEN, 0);
        prefetch(&chunk[Chunk::<u64>::CAPACITY - 1], 256);
    }

    #[test]
    #[should_panic(expected = "2 items into room for 1")]
    fn refuses_to_overflow() {
        let mut chunk = Chunk::<u64>::new(Pages::Small);
        chunk.extend(Chunk::<u64>::CAPACITY - 1, 0);

        chunk.extend(2, 0);
    }
}
