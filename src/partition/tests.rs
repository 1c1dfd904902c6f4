//! A partition against a log in the simulator.
