//! The city's record: entries, hash chain, framing, recovery as a fold.
