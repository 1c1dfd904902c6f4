//! Raft, wrapped: events in, effects out.
