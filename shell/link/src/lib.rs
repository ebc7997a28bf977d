//! What carries RDPA: TCP with TLS 1.3 and raw ed25519 keys on both sides.
