//! Integration tests: the crate as its users see it. One binary, so that it links once.

mod fuzz;
mod resp_cost;
