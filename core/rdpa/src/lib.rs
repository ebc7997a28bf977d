//! RDPA, remote direct parameter access: frames, verbs, sessions, transfers.
