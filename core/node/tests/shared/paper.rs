//! A job on paper.

use suanli_base::{Hash, Tokens};
use suanli_bus::{
    DataSpec, JOB_FORMAT, JobSpec, Replicas, Schedule, Shape as Curve, ShardSpec, Training,
};
use suanli_params::Codec;

/// 100 parameters, int4, 64 tokens a step.
pub(crate) fn spec() -> JobSpec {
    let shard = ShardSpec { bytes: 1000 * 34, samples: 1000, root: Hash([5; 32]) };
    let total = Tokens(100_000);
    let (shape, warmup) = (Curve::Constant, Tokens(0));
    JobSpec {
        format: JOB_FORMAT,
        name: "paper".into(),
        model: "{}".into(),
        parameters: 100,
        numeric_class: "test".into(),
        replica_memory_bytes: 1 << 20,
        theta_root: Hash([9; 32]),
        frozen: None,
        tokenizer: Hash([8; 32]),
        data: DataSpec {
            sample_tokens: 17,
            token_bytes: 2,
            samples: 1000,
            group: 64,
            order_seed: 1,
            shards: vec![shard],
            held_out: shard,
        },
        training: Training {
            inner_steps: 10,
            batch_sequences: 4,
            schedule: Schedule { shape, lr: 1e-3, min_share: 0.1, decay_share: 0.2, warmup, total },
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            clip: 1.0,
            outer_lr: 0.9,
            outer_momentum: vec![0.2],
            codec: Codec::Int4,
            rounds: 3,
            tokens: Tokens(0),
        },
        replicas: Replicas {
            min: 1,
            expected: 2,
            max: 8,
            quorum_per_mille: 600,
            grace_ms: 500,
            staleness_max: 1,
        },
    }
}
