//! Appends, syncs and reads: the log, blobs by hash, data shards, checkpoints in Hugging Face layout.

pub mod job_file;
