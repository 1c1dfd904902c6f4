//! The log in the simulator.
