//! A heap buffer that starts on a sector boundary, as direct I/O demands.
#![expect(unsafe_code, reason = "std has no aligned byte buffer")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::limits::SECTOR_LEN;

/// Bytes aligned to [`SECTOR_LEN`]; the length is a multiple of it and fixed.
pub struct Aligned {
    start: NonNull<u8>,
    len: usize,
}

impl Aligned {
    /// `len` zero bytes, `len` rounded up to whole sectors, at least one.
    pub fn zeroed(len: usize) -> Self {
        let len = len.max(1).next_multiple_of(SECTOR_LEN);
        let layout = Self::layout(len);
        // SAFETY: the layout's size is not zero: at least one sector.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        Self { start, len }
    }

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len, SECTOR_LEN).expect("a buffer is far below isize::MAX")
    }
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start` points at `len` initialised bytes that this value alone owns.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this layout, freed once.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.len)) }
    }
}

impl fmt::Debug for Aligned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Aligned({} bytes)", self.len)
    }
}

// SAFETY: the buffer is plain owned memory; nothing of it is tied to a thread.
unsafe impl Send for Aligned {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_on_a_sector_and_rounds_up() {
        let mut buf = Aligned::zeroed(SECTOR_LEN + 1);

        buf[SECTOR_LEN] = 7;

        assert_eq!(buf.as_ptr() as usize % SECTOR_LEN, 0);
        assert_eq!((buf.len(), buf[SECTOR_LEN], buf[0]), (2 * SECTOR_LEN, 7, 0));
    }
}
