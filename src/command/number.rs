//! Numbers as Redis reads and writes them.

use smallvec::SmallVec;

use super::Error;

/// A decimal integer as Redis takes it: no blanks, no plus sign, no leading zeros, no `-0`.
///
/// # Errors
/// [`Error::NotInteger`].
pub fn parse_i64(text: &[u8]) -> Result<i64, Error> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Ok(0),
        [b'1'..=b'9', ..] => {}
        _ => return Err(Error::NotInteger),
    }
    let mut n: i64 = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return Err(Error::NotInteger);
        }
        // Counted downwards, since the lowest number has no positive twin.
        n = n
            .checked_mul(10)
            .and_then(|n| n.checked_sub(i64::from(digit - b'0')))
            .ok_or(Error::NotInteger)?;
    }
    if negative { Ok(n) } else { n.checked_neg().ok_or(Error::NotInteger) }
}

#[expect(dead_code, reason = "for the counters, next")]
/// A number in decimal.
pub fn format_i64(n: i64) -> SmallVec<[u8; 24]> {
    let mut digits = [0u8; 20];
    let (mut at, mut rest) = (digits.len(), n.unsigned_abs());
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    let mut text = SmallVec::new();
    if n < 0 {
        text.push(b'-');
    }
    text.extend_from_slice(&digits[at..]);
    text
}
