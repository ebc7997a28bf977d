//! Norms in a fixed order of summation.

use crate::chunk::CHUNK_ELEMENTS;

const LANES: usize = 16;

/// The sum of squares, in f64. Chunk by chunk of [`CHUNK_ELEMENTS`] in ascending order; inside a
/// chunk, element i goes to lane i mod 16, and the lanes are added pairwise at the end. So the sum
/// over chunks done on several threads, added in ascending order, is the same number.
#[must_use]
pub fn sum_of_squares(values: &[f32]) -> f64 {
    values.chunks(CHUNK_ELEMENTS).map(chunk_sum).fold(0.0, |sum, chunk| sum + chunk)
}

fn chunk_sum(values: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let (rows, rest) = values.as_chunks::<LANES>();
    for row in rows {
        add_squares(&mut lanes, row);
    }
    add_squares(&mut lanes, rest);
    let mut width = LANES / 2;
    while width > 0 {
        let (low, high) = lanes.split_at_mut(width);
        for (low, high) in low.iter_mut().zip(high) {
            *low += *high;
        }
        width /= 2;
    }
    lanes[0]
}

fn add_squares(lanes: &mut [f64; LANES], row: &[f32]) {
    for (lane, value) in lanes.iter_mut().zip(row) {
        // Exact: the square of an f32 fits in an f64.
        *lane += f64::from(*value) * f64::from(*value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_summed_in_order_give_the_sum_of_the_whole() {
        let values: Vec<f32> =
            (0..150_001).map(|i| ((i * 37 % 1001) as f32 - 500.0) / 7.0).collect();
        let chunks = values.chunks(CHUNK_ELEMENTS).map(sum_of_squares).fold(0.0, |a, b| a + b);
        assert_eq!(sum_of_squares(&values).to_bits(), chunks.to_bits());
        let plain: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
        assert!((chunks - plain).abs() <= plain * 1e-12, "{chunks} against {plain}");
    }

    #[test]
    fn nothing_sums_to_zero_and_every_element_counts() {
        assert_eq!(sum_of_squares(&[]).to_bits(), 0.0_f64.to_bits());
        for len in 1..70 {
            assert_eq!(sum_of_squares(&vec![2.0; len]), 4.0 * len as f64);
        }
    }
}
