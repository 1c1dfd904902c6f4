//! Patterns of the kind shells use, as Redis matches them: `*`, `?`, `[a-c]`, `[^x]`, `\x`.

/// Whether all of `text` matches `pattern`. Linear in both but for the `*`s: a mismatch goes back
/// to the latest of them only, so no pattern is exponential.
pub fn matches(pattern: &[u8], text: &[u8], ignore_case: bool) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p + 1, t));
            p += 1;
        } else if let Some(next) = match_one(pattern, p, text[t], ignore_case) {
            (p, t) = (next, t + 1);
        } else if let Some((after_star, from)) = star {
            (p, t) = (after_star, from + 1);
            star = Some((after_star, from + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&b| b == b'*')
}

/// Where the pattern goes on, if what stands at `p` matches `byte`.
fn match_one(pattern: &[u8], p: usize, byte: u8, ignore_case: bool) -> Option<usize> {
    let fold = |b: u8| if ignore_case { b.to_ascii_lowercase() } else { b };
    match pattern.get(p)? {
        b'?' => Some(p + 1),
        b'[' => match_class(pattern, p + 1, byte, fold),
        b'\\' if p + 1 < pattern.len() => (fold(pattern[p + 1]) == fold(byte)).then_some(p + 2),
        &literal => (fold(literal) == fold(byte)).then_some(p + 1),
    }
}

/// A class, whose `]` may be missing at the end of the pattern.
fn match_class(pattern: &[u8], mut p: usize, byte: u8, fold: impl Fn(u8) -> u8) -> Option<usize> {
    let negated = pattern.get(p) == Some(&b'^');
    p += usize::from(negated);
    let (byte, mut found) = (fold(byte), false);
    while p < pattern.len() && pattern[p] != b']' {
        match pattern[p..] {
            [b'\\', escaped, ..] => {
                found |= fold(escaped) == byte;
                p += 2;
            }
            [a, b'-', z, ..] => {
                let (a, z) = (fold(a).min(fold(z)), fold(a).max(fold(z)));
                found |= (a..=z).contains(&byte);
                p += 3;
            }
            [literal, ..] => {
                found |= fold(literal) == byte;
                p += 1;
            }
            [] => unreachable!("p is inside the pattern"),
        }
    }
    (found != negated).then_some((p + 1).min(pattern.len()))
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_in_redis() {
        let yes = [
            ("*", ""),
            ("h?llo", "hello"),
            ("h*llo", "heeeello"),
            ("h[ae]llo", "hallo"),
            ("h[^e]llo", "hbllo"),
            ("h[a-b]llo", "hbllo"),
            ("\\*", "*"),
            ("a*b*c", "aXbXbYc"),
            ("[abc", "a"),
            ("**", "xyz"),
        ];
        let no =
            [("", "x"), ("h?llo", "hllo"), ("h[^e]llo", "hello"), ("a*b", "abc"), ("\\*", "x")];
        for (pattern, text) in yes {
            assert!(matches(pattern.as_bytes(), text.as_bytes(), false), "{pattern} {text}");
        }
        for (pattern, text) in no {
            assert!(!matches(pattern.as_bytes(), text.as_bytes(), false), "{pattern} {text}");
        }
        assert!(matches(b"MAX*", b"maxmemory", true));
    }
}
