//! Log lines on standard error, and their level at run time.
//!
//! Not here: what is logged. `info` is a change of state, `warn` healed but odd, `error` wants a
//! person, `debug` is per request.

use std::io;
use std::sync::OnceLock;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, fmt};

use crate::config::LogFormat;

static LEVEL: OnceLock<Handle<Targets, Registry>> = OnceLock::new();

/// Begins to log. Once per process; later calls change nothing.
pub(super) fn start(level: &str, format: LogFormat) {
    let targets = level.parse().unwrap_or_else(|_| Targets::new());
    let (targets, handle) = reload::Layer::new(targets);
    let layer = match format {
        LogFormat::Human => fmt::layer().with_ansi(false).with_writer(io::stderr).boxed(),
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(io::stderr).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(targets));
    if subscriber.try_init().is_ok() && LEVEL.set(handle).is_ok() {
        log_panics(format);
    }
}

/// Changes the level at once, as `CONFIG SET loglevel` does. `level` is as the setting `log-level`.
///
/// # Errors
/// A sentence: not a level, or nothing is logged by this process.
pub fn set_level(level: &str) -> Result<(), &'static str> {
    if !crate::config::is_log_level(level) {
        return Err("expected error, warn, info, debug, trace or module=level");
    }
    let targets: Targets = level.parse().map_err(|_| "expected a level")?;
    let handle = LEVEL.get().ok_or("this process does not log")?;
    handle.reload(targets).map_err(|_| "the log has ended")
}

/// A panic is a log line too, so that JSON stays JSON.
fn log_panics(format: LogFormat) {
    if format == LogFormat::Human {
        return;
    }
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(place, message, "panic");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_level_is_refused() {
        assert!(set_level("chatty").is_err());
    }
}
