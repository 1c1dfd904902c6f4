//! The body of a long set, as it comes: its value goes straight into the vector in which it will
//! live, and every byte is summed when it comes, so that no step takes longer for a long value.
//!
//! Nothing is allocated for the value before its lengths were judged, and then address space alone.

use super::header::{Checksum, Header};
use super::{Code, LONG_LEN_MIN, OPERAND_LEN_MAX, Opcode};
use crate::limits::{KEY_LEN_MAX, VALUE_LEN_MAX};
use crate::protocol::with_address_space;

/// Bytes of an op before its key.
const OP_LEN: usize = 32;

/// See the module's header.
#[derive(Clone, Debug, Default)]
pub(super) struct Long {
    /// The body without the value, as far as it came.
    rest: Vec<u8>,
    value: Vec<u8>,
    /// Known once the op's own fields are there.
    lens: Option<Lens>,
    sum: Checksum,
}

#[derive(Clone, Copy, Debug)]
struct Lens {
    key: usize,
    value: usize,
    operand: usize,
}

/// Whether the body of this request is gathered here.
pub(super) fn is_long(header: &Header) -> bool {
    header.opcode == Opcode::Set as u8 && header.body_len as usize > LONG_LEN_MIN
}

impl Long {
    /// Bytes held.
    pub fn held_len(&self) -> usize {
        self.rest.capacity() + self.value.len()
    }

    /// Takes from the front of `bytes` what belongs to the body. True: that is all of it.
    ///
    /// # Errors
    /// [`Code::TooLarge`], [`Code::BadRequest`]: its lengths make no sense.
    pub fn take(&mut self, header: &Header, bytes: &mut &[u8]) -> Result<bool, Code> {
        let lens = match self.lens {
            Some(lens) => lens,
            None => {
                fill(&mut self.rest, OP_LEN, bytes, &mut self.sum);
                let Some(op) = self.rest.first_chunk() else { return Ok(false) };
                let lens = judged(op, header)?;
                self.value = with_address_space(lens.value);
                *self.lens.insert(lens)
            }
        };
        if self.value.is_empty() {
            fill(&mut self.rest, OP_LEN + lens.key, bytes, &mut self.sum);
        }
        if self.rest.len() >= OP_LEN + lens.key {
            fill(&mut self.value, lens.value, bytes, &mut self.sum);
        }
        if self.value.len() < lens.value {
            return Ok(false);
        }
        let whole = OP_LEN + lens.key + lens.operand;
        fill(&mut self.rest, whole, bytes, &mut self.sum);
        Ok(self.rest.len() == whole)
    }

    /// The body without the value, the value, and the checksum of both.
    pub fn finish(self) -> (Vec<u8>, Vec<u8>, u32) {
        (self.rest, self.value, self.sum.digest())
    }
}

fn judged(op: &[u8; OP_LEN], header: &Header) -> Result<Lens, Code> {
    let len = |at: usize| u32::from_le_bytes([op[at], op[at + 1], op[at + 2], op[at + 3]]) as usize;
    let lens = Lens { key: len(4), value: len(8), operand: len(12) };
    if lens.key > KEY_LEN_MAX || lens.value > VALUE_LEN_MAX || lens.operand > OPERAND_LEN_MAX {
        return Err(Code::TooLarge);
    }
    let whole = OP_LEN + lens.key + lens.value + lens.operand;
    if whole == header.body_len as usize { Ok(lens) } else { Err(Code::BadRequest) }
}

/// Moves bytes over until `len` are there, and sums them.
fn fill(into: &mut Vec<u8>, len: usize, bytes: &mut &[u8], sum: &mut Checksum) {
    let (moved, left) = bytes.split_at(len.saturating_sub(into.len()).min(bytes.len()));
    sum.update(moved);
    into.extend_from_slice(moved);
    *bytes = left;
}
