//! The parser against a reference: whole, in pieces, and at its limits.
