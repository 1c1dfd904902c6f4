//! The server in the simulator.
