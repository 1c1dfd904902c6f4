//! Integration tests: the crate as its users see it. One binary, so that it links once.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a user's side of the seam: real files, threads and time"
)]

mod fuzz;
mod resp_cost;
