//! The simulator: an Env made from a seed.
