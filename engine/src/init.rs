//! Seeded parameters: the same bits on every machine.

use suanli_base::Random;

use crate::config::ModelConfig;
use crate::math::{ln64, sin_cos64};

/// Spread of a fresh matrix (Radford et al. 2019, GPT-2; also the Hugging Face Llama default).
const SPREAD: f64 = 0.02;

/// The parameters of a fresh model: normal with spread 0.02, for the two projections that write
/// into the residual stream 0.02 / sqrt(2 x layers), norms 1. Each tensor draws from its own
/// stream, so that the seed alone decides.
#[must_use]
pub fn initial_params(config: &ModelConfig, seed: u64) -> Vec<f32> {
    let mut params = vec![0.0; config.parameters()];
    let root = Random::new(seed).fork(0x1217);
    for (index, tensor) in config.space().tensors().iter().enumerate() {
        let out = &mut params[tensor.range()];
        if tensor.shape.len() < 2 {
            out.fill(1.0);
            continue;
        }
        let writes =
            tensor.name.ends_with("o_proj.weight") || tensor.name.ends_with("down_proj.weight");
        let spread = if writes { SPREAD / ((2 * config.layers) as f64).sqrt() } else { SPREAD };
        fill_normal(out, spread, &mut root.fork(index as u64));
    }
    params
}

/// Box and Muller 1958.
fn fill_normal(out: &mut [f32], spread: f64, random: &mut Random) {
    const UNIT: f64 = 1.0 / 9_007_199_254_740_992.0; // 2^-53
    for pair in out.chunks_mut(2) {
        let u = ((random.next_u64() >> 11) + 1) as f64 * UNIT;
        let turn = (random.next_u64() >> 11) as f64 * UNIT;
        let radius = spread * (-2.0 * ln64(u)).sqrt();
        let (sine, cosine) = sin_cos64(core::f64::consts::TAU * turn);
        pair[0] = (radius * cosine) as f32;
        if let Some(second) = pair.get_mut(1) {
            *second = (radius * sine) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_normal_matrices_unit_norms_and_always_the_same_bits() {
        let config = ModelConfig::demo();
        let params = initial_params(&config, 7);
        assert_eq!(params, initial_params(&config, 7));
        assert_ne!(params, initial_params(&config, 8));
        let spread = |name: &str| {
            let values = &params[config.space().tensor(name).unwrap().range()];
            let square: f64 = values.iter().map(|&x| f64::from(x).powi(2)).sum();
            (square / values.len() as f64).sqrt()
        };
        assert!((spread("lm_head.weight") - 0.02).abs() < 3e-4);
        let scaled = spread("model.layers.2.mlp.down_proj.weight");
        assert!((scaled - 0.02 / 8_f64.sqrt()).abs() < 2e-4, "{scaled}");
        assert_eq!(spread("model.norm.weight"), 1.0);
        // Any other bits would split a job into families that cannot agree.
        let hash = suanli_base::Hash::of(
            &params.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>(),
        );
        assert_eq!(hash.short(), "d74b630480");
    }
}
