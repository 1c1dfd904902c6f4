//! What went wrong at a server, for people and for programs: cause, cure and exit code.

use std::io;

use serde::Serialize;
use stavekv_client::{Code, Error, Reason, Refusal, Retry};

use super::{EXIT_ABSENT, EXIT_ADDRESS, EXIT_FAILURE, EXIT_OK, EXIT_UNKNOWN, EXIT_USAGE};

const NO_SERVER: &str = "is `stave serve` running there? --server HOST:PORT or STAVE_SERVER names \
                         its binary port, 7400 unless it was told otherwise; that is not its \
                         Redis port";

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The server refused, or could not be reached.
    #[error("{}", text_of(.0))]
    Request(#[from] Error),
    /// It can not be asked like that.
    #[error("{0}")]
    Usage(String),
    #[error("standard input can not be read: {0}")]
    Input(io::Error),
    #[error("the answer can not be written: {0}")]
    Output(io::Error),
}

/// A failure in JSON.
#[derive(Serialize)]
struct Told<'a> {
    error: Fields<'a>,
}

#[derive(Serialize)]
struct Fields<'a> {
    /// "no" or "unknown".
    done: &'a str,
    code: &'a str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cure: Option<String>,
    /// Of the key, where a condition did not hold; 0: it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
}

/// The cause; whether it was done only where that is not known. Of several keys none is named: each
/// is asked about by itself.
fn text_of(error: &Error) -> String {
    match error {
        Error::NotDone(Reason::Refused(refusal)) => {
            format!("{}: {}", refusal.code.name(), refusal.text)
        }
        Error::NotDone(reason) => reason.to_string(),
        Error::Unknown(_) => error.to_string(),
    }
}

impl Failure {
    /// Tells it on standard error, unless nobody is there to be told; returns the exit code.
    pub fn tell(&self, json: bool) -> u8 {
        let code = self.exit_code();
        if code == EXIT_OK {
            return code;
        }
        if json {
            let told = serde_json::to_string(&Told { error: self.fields() });
            eprintln!("{}", told.expect("strings alone"));
            return code;
        }
        eprintln!("stave: {self}");
        if let Some(cure) = self.cure() {
            eprintln!("       {cure}");
        }
        code
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => EXIT_USAGE,
            // Whoever closed the pipe has seen enough.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => EXIT_OK,
            Self::Input(_) | Self::Output(_) => EXIT_FAILURE,
            Self::Request(Error::Unknown(_)) => EXIT_UNKNOWN,
            Self::Request(error) if error.unmet().is_some() => EXIT_ABSENT,
            Self::Request(Error::NotDone(Reason::Connect { .. })) => EXIT_ADDRESS,
            Self::Request(Error::NotDone(_)) => EXIT_FAILURE,
        }
    }

    fn fields(&self) -> Fields<'_> {
        let (done, code, version) = match self {
            Self::Request(error) => {
                let done = if error.is_unknown() { "unknown" } else { "no" };
                (done, code_of(error.reason()), error.unmet().map(|version| version.to_string()))
            }
            Self::Usage(_) => ("no", "usage", None),
            Self::Input(_) => ("no", "input", None),
            Self::Output(_) => ("unknown", "output", None),
        };
        Fields { done, code, message: self.to_string(), cure: self.cure(), version }
    }

    /// What to do about it, if anything helps.
    fn cure(&self) -> Option<String> {
        let Self::Request(error) = self else { return None };
        match error {
            Error::Unknown(_) => {
                Some("read the key before doing it again, or do it again with --if".to_owned())
            }
            Error::NotDone(reason) => cure_of(reason),
        }
    }
}

fn code_of(reason: &Reason) -> &'static str {
    match reason {
        Reason::Refused(refusal) => refusal.code.name(),
        Reason::Connect { .. } => "connect",
        Reason::ConnectionLost(_) => "connection_lost",
        Reason::Deadline { .. } => "deadline",
        Reason::Interrupted => "interrupted",
        Reason::SessionEnded => "session_ended",
        Reason::TooLarge { .. } => "too_large",
        Reason::Protocol(_) => "protocol",
        _ => "other",
    }
}

fn cure_of(reason: &Reason) -> Option<String> {
    match reason {
        Reason::Refused(refusal) => cure_of_refusal(refusal),
        Reason::Connect { .. } | Reason::Protocol(_) => Some(NO_SERVER.to_owned()),
        Reason::ConnectionLost(_) => Some("try again; the server's log says more".to_owned()),
        Reason::Deadline { .. } => {
            Some("the server is slow or out of reach: wait longer with --deadline".to_owned())
        }
        _ => None,
    }
}

fn cure_of_refusal(refusal: &Refusal) -> Option<String> {
    let cure = match (refusal.code, refusal.retry) {
        (Code::AuthRequired, _) => "give the password in STAVE_PASSWORD",
        (Code::AuthFailed, _) => "look at STAVE_PASSWORD: it is not what the server was told",
        (Code::ConditionFailed, _) if refusal.version == 0 => {
            "it is absent: --if absent or --if version=0 would hold"
        }
        (Code::ConditionFailed, _) => {
            return Some(format!("--if version={} would hold", refusal.version));
        }
        (Code::OutOfMemory, _) => "delete keys, or start the server with more --memory",
        (Code::DiskFull, _) => "free space on the server's disk: writes go on by themselves",
        (Code::LogFailed | Code::ReadOnly, _) => "the server's disk failed: see its log",
        (Code::Moved, _) => return Some(format!("ask --server {}", refusal.address)),
        (_, Retry::Now) => "try again",
        (_, Retry::After(wait)) => return Some(format!("try again in {} ms", wait.as_millis())),
        (_, Retry::Elsewhere) => "try another node, or this one when it is back",
        (_, Retry::Never) => return None,
    };
    Some(cure.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: Code, version: u64) -> Reason {
        let (text, address) = ("the text".to_owned(), String::new());
        let retry = Retry::Never;
        Reason::Refused(Refusal { code, retry, index: None, version, text, address })
    }

    #[test]
    fn each_fate_has_its_exit_code() {
        let lost = || Reason::ConnectionLost("gone".to_owned());
        let connect = Reason::Connect {
            address: "a:1".to_owned(),
            kind: io::ErrorKind::ConnectionRefused,
            text: "refused".to_owned(),
        };
        for (failure, code) in [
            (Failure::Request(Error::Unknown(lost())), EXIT_UNKNOWN),
            (Failure::Request(Error::Unknown(refused(Code::LogFailed, 0))), EXIT_UNKNOWN),
            (Failure::Request(Error::NotDone(lost())), EXIT_FAILURE),
            (Failure::Request(Error::NotDone(refused(Code::ConditionFailed, 7))), EXIT_ABSENT),
            (Failure::Request(Error::NotDone(refused(Code::OutOfMemory, 0))), EXIT_FAILURE),
            (Failure::Request(Error::NotDone(connect)), EXIT_ADDRESS),
            (Failure::Usage("no".to_owned()), EXIT_USAGE),
            (Failure::Output(io::ErrorKind::BrokenPipe.into()), EXIT_OK),
            (Failure::Output(io::ErrorKind::StorageFull.into()), EXIT_FAILURE),
        ] {
            assert_eq!(failure.exit_code(), code, "{failure}");
        }
    }

    #[test]
    fn programs_are_told_all_that_people_are() {
        let failure = Failure::Request(Error::NotDone(refused(Code::ConditionFailed, 7)));

        let told = serde_json::to_string(&Told { error: failure.fields() }).expect("strings");

        let expected = r#"{"error":{"done":"no","code":"condition_failed","#.to_owned()
            + r#""message":"condition_failed: the text","cure":"--if version=7 would hold","#
            + r#""version":"7"}}"#;
        assert_eq!(told, expected);
    }
}
