//! What one connection remembers between its commands.

use super::pubsub::Subscribed;
use super::tracking::Tracking;
use crate::ack::Ack;
use crate::protocol::resp::Proto;

/// Whether replies are sent (`CLIENT REPLY`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyMode {
    /// Each command is answered.
    #[default]
    On,
    /// Nothing is answered.
    Off,
    /// `CLIENT REPLY SKIP` is the current command.
    SkipNext,
    /// The current command is the one to skip.
    Skip,
}

/// What one connection remembers. Lives on the core that owns the connection.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Number of the connection: unique and rising on its node.
    pub id: u64,
    /// Address of the client, `host:port`.
    pub peer: String,
    /// Our end of the connection, `host:port`.
    pub local: String,
    /// When it was accepted, unix milliseconds.
    pub created_ms: u64,
    /// When bytes last came from it or went to it, unix milliseconds.
    pub active_ms: u64,
    /// Full name of the latest command, lower case; empty before the first.
    pub last_command: &'static str,
    /// Chosen by `CLIENT SETNAME` or `HELLO`; empty for none.
    pub name: String,
    /// `CLIENT SETINFO LIB-NAME`.
    pub lib_name: String,
    /// `CLIENT SETINFO LIB-VER`.
    pub lib_ver: String,
    /// Protocol version replies are encoded in.
    pub proto: Proto,
    /// Whether a password was given, or none is needed.
    pub authenticated: bool,
    /// Database of the keys, 0 to 15.
    pub db: u8,
    /// `CLIENT NO-EVICT`.
    pub no_evict: bool,
    /// `CLIENT NO-TOUCH`.
    pub no_touch: bool,
    /// `READONLY`: reads may be answered by a follower.
    pub readonly: bool,
    /// `CLIENT ACK`: what its answers wait for.
    pub ack: Ack,
    /// `ASKING`: the next command may touch a slot that is being moved to this node.
    pub asking: bool,
    /// `CLIENT REPLY`.
    pub reply_mode: ReplyMode,
    /// How much it listens to.
    pub subscribed: Subscribed,
    /// `MONITOR`.
    pub is_monitor: bool,
    /// `CLIENT TRACKING`.
    pub tracking: Option<Box<Tracking>>,
}

impl Session {
    /// A new connection. `authenticated` when the server asks for no password.
    pub fn new(id: u64, peer: String, local: String, now_ms: u64, authenticated: bool) -> Self {
        let (created_ms, active_ms) = (now_ms, now_ms);
        Self { id, peer, local, created_ms, active_ms, authenticated, ..Self::default() }
    }

    /// The same, whose answers wait for this unless it says otherwise.
    pub fn answered_at(self, ack: Ack) -> Self {
        Self { ack, ..self }
    }

    /// What its answers wait for. Who tracks keys must not keep what may be lost, since nobody
    /// would tell it so.
    #[inline]
    pub fn answers_at(&self) -> Ack {
        if self.tracking.is_some() { Ack::Quorum } else { self.ack }
    }

    /// Whether it listens in RESP2, where messages look like replies: few commands are allowed.
    pub fn is_confined(&self) -> bool {
        self.subscribed.is_any() && self.proto == Proto::Resp2
    }

    /// Notes that a command runs, for `CLIENT LIST`. `command` is its full name.
    pub fn note(&mut self, command: &'static str, now_ms: u64) {
        self.last_command = command;
        self.active_ms = now_ms;
    }

    /// Back to a fresh connection, as `RESET` promises. Keeps who it is and what library it uses.
    pub fn reset(&mut self, authenticated: bool, ack: Ack) {
        *self = Self {
            lib_name: std::mem::take(&mut self.lib_name),
            lib_ver: std::mem::take(&mut self.lib_ver),
            last_command: self.last_command,
            active_ms: self.active_ms,
            ack,
            ..Self::new(
                self.id,
                std::mem::take(&mut self.peer),
                std::mem::take(&mut self.local),
                self.created_ms,
                authenticated,
            )
        };
    }

    /// Whether the current command's reply is sent. To be called exactly once per command: after
    /// a connection command has run, and when a command on keys is sent on its way.
    pub fn replies(&mut self) -> bool {
        match self.reply_mode {
            ReplyMode::On => true,
            ReplyMode::Off => false,
            ReplyMode::SkipNext => {
                self.reply_mode = ReplyMode::Skip;
                true
            }
            ReplyMode::Skip => {
                self.reply_mode = ReplyMode::On;
                false
            }
        }
    }
}
