//! Two-mebibyte pieces of memory, each one huge page, and the prefetch instruction.
//!
//! Why a type of our own: a lookup in ten million keys meets two random lines, and with pages of
//! 4 KiB each costs a page-table walk as well. A `Box` can ask neither for the alignment nor for
//! the huge page. All that is unsafe about the memtable is in this file.
#![expect(unsafe_code, reason = "std has no aligned, partly filled array and no prefetch")]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Bytes of a chunk and its alignment: a huge page of x86-64 and of 4 KiB-granule AArch64.
pub const CHUNK_LEN: usize = 2 << 20;

const LINE_LEN: usize = 64;

/// A fixed array that is filled from the front; it never moves, and derefs to what is filled.
pub struct Chunk<T: Copy> {
    start: NonNull<T>,
    len: usize,
    owns: PhantomData<T>,
}

impl<T: Copy> Chunk<T> {
    /// Items that fit. A power of two when the size of `T` is one.
    pub const CAPACITY: usize = CHUNK_LEN / size_of::<T>();

    const LAYOUT: Layout = match Layout::from_size_align(CHUNK_LEN, CHUNK_LEN) {
        Ok(layout) => layout,
        Err(_) => panic!("a chunk is a power of two"),
    };

    /// An empty chunk. With `huge` the kernel is asked for one huge page, which it zeroes at the
    /// first touch (some 100 us); without, memory comes in small pages as it is filled.
    pub fn new(huge: bool) -> Self {
        const { assert!(size_of::<T>() > 0 && align_of::<T>() <= CHUNK_LEN) };
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc(Self::LAYOUT) };
        let Some(start) = NonNull::new(start.cast::<T>()) else { handle_alloc_error(Self::LAYOUT) };
        if huge {
            advise_huge(start.cast());
        }
        Self { start, len: 0, owns: PhantomData }
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
        // SAFETY: allocated in `new` with this layout, freed once; `T: Copy` has no drop glue.
        unsafe { dealloc(self.start.as_ptr().cast(), Self::LAYOUT) }
    }
}

// SAFETY: a chunk is plain owned memory; nothing of it is tied to a thread.
unsafe impl<T: Copy + Send> Send for Chunk<T> {}

#[cfg(all(target_os = "linux", not(miri)))]
fn advise_huge(start: NonNull<u8>) {
    // SAFETY: the range is one allocation of ours, and the advice changes no content. Its result
    // does not matter: a kernel without huge pages serves small ones.
    unsafe { libc::madvise(start.as_ptr().cast(), CHUNK_LEN, libc::MADV_HUGEPAGE) };
}

#[cfg(not(all(target_os = "linux", not(miri))))]
fn advise_huge(_: NonNull<u8>) {}

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
        let mut chunk = Chunk::<u64>::new(true);

        chunk.extend(3, 7);
        chunk[1] = 8;
        chunk.extend(chunk.room(), 9);

        assert_eq!(chunk[..4], [7, 8, 7, 9]);
        assert_eq!((chunk.len(), chunk.room()), (Chunk::<u64>::CAPACITY, 0));
        assert_eq!(chunk.as_ptr() as usize % CHUNK_LEN, 0);
        prefetch(&chunk[Chunk::<u64>::CAPACITY - 1], 256);
    }

    #[test]
    #[should_panic(expected = "2 items into room for 1")]
    fn refuses_to_overflow() {
        let mut chunk = Chunk::<u64>::new(false);
        chunk.extend(Chunk::<u64>::CAPACITY - 1, 0);

        chunk.extend(2, 0);
    }
}
