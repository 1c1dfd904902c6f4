//! `--if`: what must hold of a key for a write to be done.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;

use stavekv_client::Op;

const FORMS: &str = "absent, present, equals=VALUE or version=NUMBER";

/// What must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Absent,
    Present,
    Equals(Vec<u8>),
    Version(u64),
}

impl Condition {
    /// Reads one.
    ///
    /// # Errors
    /// A sentence that says how one is written.
    pub fn parse(text: OsString) -> Result<Self, String> {
        let wrong = || format!("{} is no condition: say {FORMS}", text.display());
        match text.as_bytes() {
            b"absent" => Ok(Self::Absent),
            b"present" => Ok(Self::Present),
            bytes => {
                if let Some(value) = bytes.strip_prefix(b"equals=") {
                    return Ok(Self::Equals(value.to_vec()));
                }
                let number = bytes.strip_prefix(b"version=").and_then(|n| str::from_utf8(n).ok());
                number.and_then(|number| number.parse().ok()).map(Self::Version).ok_or_else(wrong)
            }
        }
    }

    /// `op`, only if this holds.
    pub fn hold<'a>(condition: Option<&'a Self>, op: Op<'a>) -> Op<'a> {
        match condition {
            None => op,
            Some(Self::Absent) => op.if_absent(),
            Some(Self::Present) => op.if_present(),
            Some(Self::Equals(value)) => op.if_equals(value),
            Some(Self::Version(version)) => op.if_version(*version),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn every_form_is_read() {
        let parse = |text: &[u8]| Condition::parse(OsString::from_vec(text.to_vec()));

        assert_eq!(parse(b"absent"), Ok(Condition::Absent));
        assert_eq!(parse(b"present"), Ok(Condition::Present));
        assert_eq!(parse(b"equals="), Ok(Condition::Equals(Vec::new())));
        assert_eq!(parse(b"equals=a=\xff"), Ok(Condition::Equals(b"a=\xff".to_vec())));
        assert_eq!(parse(b"version=7"), Ok(Condition::Version(7)));
        for wrong in [&b"missing"[..], b"", b"version=", b"version=-1", b"equals", b"\xff"] {
            assert!(parse(wrong).expect_err("no condition").contains(FORMS));
        }
    }
}
