//! Little-endian fields, read in order from a slice and never past its end.

/// What is left to read. Every method returns `None` when there is too little.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }

    pub fn numbers<const N: usize>(&mut self) -> Option<[u64; N]> {
        let (numbers, []) = self.take(8 * N)?.as_chunks() else { return None };
        Some(std::array::from_fn(|at| u64::from_le_bytes(numbers[at])))
    }

    /// Bytes that must be zero.
    pub fn zero(&mut self, len: usize) -> Option<()> {
        self.take(len)?.iter().all(|byte| *byte == 0).then_some(())
    }

    /// Nothing may be left.
    pub fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// Appends a length or a count. Its bound was checked by who made it.
pub(crate) fn put_u32(out: &mut Vec<u8>, value: usize) {
    let value = u32::try_from(value).expect("lengths in a frame are bounded by its own");
    out.extend_from_slice(&value.to_le_bytes());
}

/// As [`put_u32`].
pub(crate) fn put_u16(out: &mut Vec<u8>, value: usize) {
    let value = u16::try_from(value).expect("short texts are bounded");
    out.extend_from_slice(&value.to_le_bytes());
}
