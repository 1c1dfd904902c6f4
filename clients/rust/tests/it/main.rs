//! The clients against a real server; it is started on free ports, killed and cleaned up.
//!
//! The binary is the one that `STAVE_BIN` names, else `target/release/stave`.

mod loss;
mod ops;
mod server;
