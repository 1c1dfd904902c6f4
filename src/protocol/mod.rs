//! Wire formats, pure: bytes in, values out. No sockets here.

pub mod binary;
pub mod resp;
