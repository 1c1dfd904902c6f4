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

/// Seconds with a fraction, as milliseconds; what is negative is none.
///
/// # Errors
/// [`Error::NotFloat`].
pub fn parse_seconds(text: &[u8]) -> Result<u64, Error> {
    let text = std::str::from_utf8(text).map_err(|_| Error::NotFloat)?;
    let seconds: f64 = text.parse().map_err(|_| Error::NotFloat)?;
    Ok((seconds * 1000.0) as u64)
}

/// Digits after the point that `INCRBYFLOAT` keeps, as in Redis.
const FRACTION_DIGITS: u32 = 17;
const ONE: i128 = 10_i128.pow(FRACTION_DIGITS);

/// The sum of two decimal numbers, with at most 17 digits after the point.
///
/// Redis adds in 80-bit floats, which no portable type has; we add decimals exactly, so that
/// `10.5 + 0.1` is `10.6` as there, and so is every sum of up to 19 digits. Numbers too large or
/// too long for that are added as 64-bit floats.
///
/// # Errors
/// [`Error::NotFloat`], [`Error::NotFinite`].
pub fn add_decimal(left: &[u8], right: &[u8]) -> Result<SmallVec<[u8; 24]>, Error> {
    let floats = (parse_f64(left)?, parse_f64(right)?);
    let exact = parse_scaled(left).zip(parse_scaled(right));
    if let Some(sum) = exact.and_then(|(left, right)| left.checked_add(right)) {
        return Ok(format_scaled(sum));
    }
    let sum = floats.0 + floats.1;
    if sum.is_finite() {
        Ok(SmallVec::from_slice(format!("{sum}").as_bytes()))
    } else {
        Err(Error::NotFinite)
    }
}

/// A float as C reads it, but for hexadecimal ones.
fn parse_f64(text: &[u8]) -> Result<f64, Error> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok());
    number.filter(|number| !number.is_nan()).ok_or(Error::NotFloat)
}

/// A well-formed decimal number times [`ONE`], rounded; none when it does not fit.
fn parse_scaled(text: &[u8]) -> Option<i128> {
    let (negative, text) = match text {
        [b'-', text @ ..] => (true, text),
        [b'+', text @ ..] => (false, text),
        text => (false, text),
    };
    let at = text.iter().position(|b| b.eq_ignore_ascii_case(&b'e'));
    let (digits, exponent) = text.split_at(at.unwrap_or(text.len()));
    let exponent: i32 = match exponent {
        [] => 0,
        [_, exponent @ ..] => std::str::from_utf8(exponent).ok()?.parse().ok()?,
    };
    let (mut mantissa, mut shift) = (0_i128, exponent.checked_add(FRACTION_DIGITS as i32)?);
    let mut past_point = false;
    for &digit in digits {
        match digit {
            b'.' => past_point = true,
            b'0'..=b'9' => {
                mantissa = mantissa.checked_mul(10)?.checked_add(i128::from(digit - b'0'))?;
                shift = if past_point { shift.checked_sub(1)? } else { shift };
            }
            _ => return None,
        }
    }
    let power = 10_i128.checked_pow(shift.unsigned_abs())?;
    let scaled = if shift >= 0 {
        mantissa.checked_mul(power)?
    } else {
        mantissa.checked_add(power / 2)? / power
    };
    Some(if negative { -scaled } else { scaled })
}

fn format_scaled(scaled: i128) -> SmallVec<[u8; 24]> {
    let (whole, fraction) =
        (scaled.unsigned_abs() / ONE as u128, scaled.unsigned_abs() % ONE as u128);
    let sign = if scaled < 0 { "-" } else { "" };
    let text = format!("{sign}{whole}.{fraction:017}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    SmallVec::from_slice(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_taken_as_redis_takes_them() {
        for n in [0, 1, -1, 10, 99, i64::MAX, i64::MIN] {
            assert_eq!(parse_i64(n.to_string().as_bytes()), Ok(n));
            assert_eq!(&format_i64(n)[..], n.to_string().as_bytes());
        }
        let bad = ["", "-", "-0", "+1", "01", " 1", "1 ", "1a", "9223372036854775808", "00"];
        for text in bad.into_iter().chain(["-9223372036854775809", "99999999999999999999"]) {
            assert_eq!(parse_i64(text.as_bytes()), Err(Error::NotInteger), "{text:?}");
        }
    }

    #[test]
    fn decimals_add_without_noise() {
        let sum = |a: &str, b: &str| {
            let sum = add_decimal(a.as_bytes(), b.as_bytes()).expect("both are numbers");
            String::from_utf8(sum.to_vec()).expect("digits")
        };

        assert_eq!(sum("0.1", "0.2"), "0.3");
        assert_eq!(sum("5.0e3", "200"), "5200");
        assert_eq!(sum("10.50", "-10.5"), "0");
        assert_eq!(sum("3", "-5.25"), "-2.25");
        assert_eq!(sum("1e30", "1"), "1000000000000000000000000000000");
        assert_eq!(sum("1e-20", "0"), "0");
        assert_eq!(add_decimal(b"inf", b"1"), Err(Error::NotFinite));
        assert_eq!(add_decimal(b"nan", b"1"), Err(Error::NotFloat));
        assert_eq!(add_decimal(b" 1", b"1"), Err(Error::NotFloat));
        assert_eq!(add_decimal(b"", b"1"), Err(Error::NotFloat));
    }
}
