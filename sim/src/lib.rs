//! The same machines under a virtual clock, network and disk; faults, checkers, planted bugs.
