//! The reply encoder: appends RESP2 or RESP3 to a byte buffer.

use std::sync::Arc;

use crate::limits::LARGE_LEN_MIN;

/// Which version of the protocol a connection speaks; RESP2 until `HELLO 3`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Proto {
    /// RESP2.
    #[default]
    Resp2,
    /// RESP3: maps, sets, nulls, doubles and pushes have types of their own.
    Resp3,
}

/// Appends replies to `out`. A large value is not copied: it is noted in `spliced` with the place
/// in `out` where its bytes belong, and the connection sends it from where it is.
pub struct Reply<'a> {
    out: &'a mut Vec<u8>,
    spliced: &'a mut Vec<(usize, Arc<Vec<u8>>)>,
    proto: Proto,
}

impl<'a> Reply<'a> {
    /// An encoder that appends to `out` and notes large values in `spliced`.
    pub fn new(
        proto: Proto,
        out: &'a mut Vec<u8>,
        spliced: &'a mut Vec<(usize, Arc<Vec<u8>>)>,
    ) -> Self {
        Self { out, spliced, proto }
    }

    /// The protocol version this reply is encoded in.
    pub fn proto(&self) -> Proto {
        self.proto
    }

    /// Encodes what follows in `proto`: `HELLO 3` is answered in RESP3 already.
    pub fn set_proto(&mut self, proto: Proto) {
        self.proto = proto;
    }

    /// `+text`: a status. `text` has no CR or LF.
    pub fn simple(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    /// `-PREFIX text`: an error. `text` starts with its prefix, such as `ERR`; CR and LF (from
    /// quoted input) become spaces.
    pub fn error(&mut self, text: &str) {
        self.out.push(b'-');
        self.out.extend(text.bytes().map(|b| if b == b'\r' || b == b'\n' { b' ' } else { b }));
        self.out.extend_from_slice(b"\r\n");
    }

    /// `:n`.
    pub fn integer(&mut self, n: i64) {
        self.header(b':', n);
    }

    /// A floating-point number: `,x`, in RESP2 a bulk string. Shortest digits that read back as the
    /// same number.
    pub fn double(&mut self, x: f64) {
        let text = double_text(x);
        match self.proto {
            Proto::Resp2 => self.bulk(text.as_bytes()),
            Proto::Resp3 => self.line(b',', text.as_bytes()),
        }
    }

    /// Truth: `#t` or `#f`, in RESP2 1 or 0.
    pub fn boolean(&mut self, truth: bool) {
        match self.proto {
            Proto::Resp2 => self.integer(i64::from(truth)),
            Proto::Resp3 => self.line(b'#', if truth { b"t" } else { b"f" }),
        }
    }

    /// A binary-safe string, copied.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.header(b'$', bytes.len() as i64);
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    /// A binary-safe string that is held elsewhere; spliced in when large, else copied.
    pub fn bulk_shared(&mut self, bytes: &Arc<Vec<u8>>) {
        if bytes.len() < LARGE_LEN_MIN {
            return self.bulk(bytes);
        }
        self.header(b'$', bytes.len() as i64);
        self.spliced.push((self.out.len(), Arc::clone(bytes)));
        self.out.extend_from_slice(b"\r\n");
    }

    /// The absent value: `$-1` or `_`.
    pub fn null(&mut self) {
        self.out.extend_from_slice(match self.proto {
            Proto::Resp2 => b"$-1\r\n".as_slice(),
            Proto::Resp3 => b"_\r\n",
        });
    }

    /// The absent array: `*-1` or `_`.
    pub fn null_array(&mut self) {
        self.out.extend_from_slice(match self.proto {
            Proto::Resp2 => b"*-1\r\n".as_slice(),
            Proto::Resp3 => b"_\r\n",
        });
    }

    /// The head of an array of `len` elements, which the caller appends next.
    pub fn array(&mut self, len: usize) {
        self.header(b'*', len as i64);
    }

    /// The head of a map of `len` pairs; in RESP2 a flat array of twice as many elements.
    pub fn map(&mut self, len: usize) {
        match self.proto {
            Proto::Resp2 => self.header(b'*', 2 * len as i64),
            Proto::Resp3 => self.header(b'%', len as i64),
        }
    }

    /// The head of a set of `len` elements; in RESP2 an array.
    pub fn set(&mut self, len: usize) {
        match self.proto {
            Proto::Resp2 => self.header(b'*', len as i64),
            Proto::Resp3 => self.header(b'~', len as i64),
        }
    }

    /// The head of a message of `len` elements that answers no command; in RESP2 an array.
    pub fn push(&mut self, len: usize) {
        match self.proto {
            Proto::Resp2 => self.header(b'*', len as i64),
            Proto::Resp3 => self.header(b'>', len as i64),
        }
    }

    /// Text for people, such as `INFO`: in RESP3 `=len txt:...`, in RESP2 a bulk string.
    pub fn verbatim(&mut self, text: &str) {
        match self.proto {
            Proto::Resp2 => self.bulk(text.as_bytes()),
            Proto::Resp3 => {
                self.header(b'=', text.len() as i64 + 4);
                self.out.extend_from_slice(b"txt:");
                self.out.extend_from_slice(text.as_bytes());
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.push(kind);
        self.out.extend_from_slice(text);
        self.out.extend_from_slice(b"\r\n");
    }

    /// By hand, since every bulk string has one: 1.4 ns for one digit, 7 for two or three, where
    /// `write!` takes 15.
    fn header(&mut self, kind: u8, n: i64) {
        if (0..10).contains(&n) {
            return self.out.extend_from_slice(&[kind, b'0' + n as u8, b'\r', b'\n']);
        }
        const LEN_MAX: usize = "+-9223372036854775808\r\n".len();
        let mut line = [0; LEN_MAX];
        let mut start = LEN_MAX - 2;
        line[start..].copy_from_slice(b"\r\n");
        let mut left = n.unsigned_abs();
        loop {
            start -= 1;
            line[start] = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                break;
            }
        }
        if n < 0 {
            start -= 1;
            line[start] = b'-';
        }
        start -= 1;
        line[start] = kind;
        self.out.extend_from_slice(&line[start..]);
    }
}

/// As Redis writes it: `inf`, `nan`, an exponent only for the very large and the very small.
fn double_text(x: f64) -> String {
    let plain = x == 0.0 || (1e-5..1e17).contains(&x.abs()) || !x.is_finite();
    if x.is_nan() {
        "nan".to_owned()
    } else if plain {
        format!("{x}")
    } else {
        let text = format!("{x:e}");
        if text.contains("e-") { text } else { text.replace('e', "e+") }
    }
}
