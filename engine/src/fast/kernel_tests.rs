//! Every kernel that goes by address, against plain loops over slices, with guards around all that
//! it may read and write: what lies outside is poison, and must neither be used nor changed.
#![allow(unsafe_code, reason = "kernels that go by address are called so")]

use suanli_base::Random;

use crate::config::ModelConfig;

use super::attention::{self, Heads, Place, Room, Rows, Slopes};
use super::body;
use super::kernel::{KernelChoice, Kernels, Left, Product, Shape, Start};
use super::pool::Parts;
use super::tile::COLUMNS;

/// Elements of poison before and after a buffer, more than any tile is wide.
const GUARD: usize = 80;

/// A quiet not-a-number with a mark: any use of it shows in the outcome, any write over it here.
const POISON: u32 = 0x7FC0_5A5A;

/// A buffer with poison around it, and in every place that is not taken.
struct Guarded {
    all: Vec<f32>,
    len: usize,
}

impl Guarded {
    fn new(len: usize) -> Self {
        Self { all: vec![f32::from_bits(POISON); len + 2 * GUARD], len }
    }

    fn full(values: &[f32]) -> Self {
        let mut guarded = Self::new(values.len());
        guarded.inner().copy_from_slice(values);
        guarded
    }

    fn inner(&mut self) -> &mut [f32] {
        &mut self.all[GUARD..GUARD + self.len]
    }

    fn values(&self) -> &[f32] {
        &self.all[GUARD..GUARD + self.len]
    }

    /// By address: may reach beyond, as a kernel that errs would.
    fn at(&mut self) -> *mut f32 {
        self.all.as_mut_ptr().wrapping_add(GUARD)
    }

    fn poisoned(&self, place: usize) -> bool {
        self.all[GUARD + place].to_bits() == POISON
    }

    fn assert_guards(&self, what: &str) {
        let (before, rest) = self.all.split_at(GUARD);
        let sound = |values: &[f32]| values.iter().all(|value| value.to_bits() == POISON);
        assert!(sound(before) && sound(&rest[self.len..]), "{what}: written outside");
    }
}

fn kernels() -> Vec<Kernels> {
    let all = [KernelChoice::Portable, KernelChoice::Avx2, KernelChoice::Avx512];
    all.into_iter().filter_map(|choice| Kernels::choose(choice).ok()).collect()
}

fn draw(count: usize, random: &mut Random) -> Vec<f32> {
    (0..count).map(|_| 2.0 * random.unit_f32() - 1.0).collect()
}

/// How the three matrices of a product lie.
#[derive(Clone, Copy, Debug)]
struct Layout {
    m: usize,
    n: usize,
    k: usize,
    /// A is given by columns.
    turned: bool,
    /// B is packed in panels; otherwise rows with a gap.
    packed: bool,
    add: bool,
    /// Poisoned elements between rows.
    gap: usize,
}

impl Layout {
    fn a(&self, i: usize, p: usize) -> usize {
        let (row, column) = self.a_strides();
        i * row + p * column
    }

    fn a_strides(&self) -> (usize, usize) {
        if self.turned { (1, self.m + self.gap) } else { (self.k + self.gap, 1) }
    }

    fn b(&self, p: usize, j: usize) -> usize {
        let (panel, row) = self.b_strides();
        j / COLUMNS * panel + p * row + j % COLUMNS
    }

    fn b_strides(&self) -> (usize, usize) {
        if self.packed { (self.k * COLUMNS, COLUMNS) } else { (COLUMNS, self.n + self.gap) }
    }

    fn c(&self, i: usize, j: usize) -> usize {
        i * (self.n + self.gap) + j
    }

    /// Runs the product on every kernel and compares each element with its chain.
    fn check(self, random: &mut Random) {
        let Self { m, n, k, .. } = self;
        let mut a = Guarded::new(self.a(m - 1, k - 1) + 1);
        let mut b = Guarded::new(self.b(k - 1, n - 1) + 1);
        let mut start = Guarded::new(self.c(m - 1, n - 1) + 1);
        for p in 0..k {
            (0..m).for_each(|i| a.inner()[self.a(i, p)] = 2.0 * random.unit_f32() - 1.0);
            (0..n).for_each(|j| b.inner()[self.b(p, j)] = 2.0 * random.unit_f32() - 1.0);
        }
        if self.add {
            let each = (0..m).flat_map(|i| (0..n).map(move |j| self.c(i, j)));
            each.for_each(|at| start.inner()[at] = 2.0 * random.unit_f32() - 1.0);
        }
        for kernels in kernels() {
            let mut c = Guarded::full(start.values());
            let ((a_row, a_column), (b_panel, b_row)) = (self.a_strides(), self.b_strides());
            let product = Product {
                m,
                n,
                k,
                a: a.at(),
                a_row,
                a_column,
                b: b.at(),
                b_panel,
                b_row,
                c: c.at(),
                c_row: n + self.gap,
                add: self.add,
            };
            // SAFETY: every element of A, B and C that the layout names was just made.
            unsafe { kernels.product(&product) }
            let what = format!("{} {self:?}", kernels.name());
            [&a, &b, &c].iter().for_each(|buffer| buffer.assert_guards(&what));
            let mut taken = vec![false; c.len];
            for i in 0..m {
                for j in 0..n {
                    let at = self.c(i, j);
                    taken[at] = true;
                    let mut chain = if self.add { start.values()[at] } else { 0.0 };
                    for p in 0..k {
                        chain = a.values()[self.a(i, p)].mul_add(b.values()[self.b(p, j)], chain);
                    }
                    assert_eq!(c.values()[at].to_bits(), chain.to_bits(), "{what}: ({i}, {j})");
                }
            }
            let gaps = (0..c.len).filter(|at| !taken[*at]);
            assert!({ gaps }.all(|at| c.poisoned(at)), "{what}: written between rows");
        }
    }
}

/// All that is left over of any tile: up to 8 rows and 32 columns at a time.
#[test]
fn products_touch_what_they_name_and_nothing_else() {
    let mut random = Random::new(1);
    let sizes = if cfg!(miri) { (vec![1, 7, 9], vec![1, 15, 33]) } else { every_remainder() };
    for m in sizes.0 {
        for n in sizes.1.iter().copied() {
            for (turned, packed, add) in [
                (false, true, false),
                (false, true, true),
                (true, true, true),
                (false, false, false),
                (true, false, true),
            ] {
                let k = 1 + random.below(5) as usize;
                let gap = random.below(4) as usize;
                Layout { m, n, k, turned, packed, add, gap }.check(&mut random);
            }
        }
    }
}

fn every_remainder() -> (Vec<usize>, Vec<usize>) {
    ((1..=17).collect(), (1..=67).collect())
}

/// Chains longer than a block of the inner dimension go on from what the block before left.
#[test]
fn long_chains_are_one_chain() {
    let mut random = Random::new(2);
    let lengths: &[usize] = if cfg!(miri) { &[257] } else { &[255, 256, 257, 512, 700] };
    for k in lengths.iter().copied() {
        for (add, turned) in [(false, false), (true, true)] {
            Layout { m: 9, n: 35, k, turned, packed: true, add, gap: 3 }.check(&mut random);
        }
    }
}

/// Attention in plain loops over slices and in f64; the gradient of the sum of `dy * y`.
fn plain_attention(heads: &Heads, length: usize, qkv: &[f32], dy: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let (width, stride) = (heads.width, heads.stride);
    let wide = |at: usize| f64::from(qkv[at]);
    let (mut y, mut dqkv) = (vec![0.0; length * heads.query], vec![0.0; length * stride]);
    for head in 0..heads.kv_heads * heads.group {
        let (q, key) = (head * width, heads.query + head / heads.group * width);
        let value = key + heads.kv_heads * width;
        for t in 0..length {
            let dots = (0..=t).map(|s| {
                let each =
                    (0..width).map(|i| wide(t * stride + q + i) * wide(s * stride + key + i));
                each.sum::<f64>() * f64::from(heads.scale)
            });
            let mut p: Vec<f64> = dots.map(f64::exp).collect();
            let sum: f64 = p.iter().sum();
            p.iter_mut().for_each(|p| *p /= sum);
            let slope = |i: usize| f64::from(dy[t * heads.query + q + i]);
            let dp = |s: usize| (0..width).map(|i| slope(i) * wide(s * stride + value + i)).sum();
            let dp: Vec<f64> = (0..=t).map(dp).collect();
            let mean: f64 = dp.iter().zip(&p).map(|(dp, p)| dp * p).sum();
            for s in 0..=t {
                let ds = p[s] * (dp[s] - mean) * f64::from(heads.scale);
                for i in 0..width {
                    y[t * heads.query + q + i] += p[s] * wide(s * stride + value + i);
                    dqkv[s * stride + value + i] += p[s] * slope(i);
                    dqkv[t * stride + q + i] += ds * wide(s * stride + key + i);
                    dqkv[s * stride + key + i] += ds * wide(t * stride + q + i);
                }
            }
        }
    }
    (y, dqkv)
}

/// The second of three sequences: the rows of the others are poison.
#[test]
fn attention_touches_its_own_sequence_and_nothing_else() {
    let mut random = Random::new(3);
    let shapes: &[(usize, usize, usize, usize)] = if cfg!(miri) {
        &[(1, 2, 4, 5)]
    } else {
        &[(1, 1, 2, 1), (2, 2, 6, 31), (1, 3, 10, 33), (3, 1, 16, 64), (2, 2, 8, 70)]
    };
    for (kv_heads, group, head_dim, length) in shapes.iter().copied() {
        let (heads, head_dim) = (kv_heads * group, Some(head_dim));
        let config = ModelConfig { heads, kv_heads, head_dim, ..ModelConfig::demo() };
        let heads = Heads::new(&config);
        let qkv = draw(length * heads.stride, &mut random);
        let dy = draw(length * heads.query, &mut random);
        let (y, dqkv) = plain_attention(&heads, length, &qkv, &dy);
        for kernels in kernels() {
            let what = format!("{} {kv_heads} {group} {head_dim:?} {length}", kernels.name());
            let among = |values: &[f32]| {
                let mut all = vec![f32::from_bits(POISON); 3 * values.len()];
                all[values.len()..2 * values.len()].copy_from_slice(values);
                all
            };
            let empty = |len: usize| vec![f32::from_bits(POISON); 3 * len];
            let (mut all_qkv, mut all_dy) = (among(&qkv), among(&dy));
            let (mut all_y, mut all_dqkv) = (empty(dy.len()), empty(qkv.len()));
            let count = length * kv_heads * group;
            let mut sums = vec![(f32::NAN, f32::NAN); 3 * count];
            let rows = Rows {
                qkv: Parts::new(&mut all_qkv),
                y: Parts::new(&mut all_y),
                sums: Parts::new(&mut sums),
            };
            let slopes = Slopes { dy: Parts::new(&mut all_dy), dqkv: Parts::new(&mut all_dqkv) };
            let mut room = Room::new();
            room.grow(&heads, length);
            for kv in 0..kv_heads {
                let place = Place { first: length, length, kv };
                attention::forward(&kernels, &heads, place, rows, &mut room);
            }
            for kv in 0..kv_heads {
                let place = Place { first: length, length, kv };
                attention::backward(&kernels, &heads, place, (rows, slopes), &mut room);
            }
            for (found, expected) in [(&all_y, &y), (&all_dqkv, &dqkv)] {
                let (before, rest) = found.split_at(expected.len());
                let (found, after) = rest.split_at(expected.len());
                let sound = |values: &[f32]| values.iter().all(|x| x.to_bits() == POISON);
                assert!(sound(before) && sound(after), "{what}: another sequence was written");
                let close = |(a, b): (&f32, &f64)| (f64::from(*a) - b).abs() < 1e-5;
                assert!(found.iter().zip(expected).all(close), "{what}: not what plain loops say");
            }
            let strange = |sums: &[(f32, f32)]| sums.iter().all(|sum| sum.0.is_nan());
            assert!(strange(&sums[..count]) && strange(&sums[2 * count..]), "{what}: sums");
        }
    }
}

/// One row times panels, as generation does it, in both widths; and what is widened, strip by strip.
#[test]
fn rows_times_panels_are_the_chains_of_products() {
    let mut random = Random::new(4);
    let widths: &[usize] = if cfg!(miri) { &[1, 33] } else { &[1, 31, 32, 33, 64, 100] };
    for n in widths.iter().copied() {
        for (k, add) in [(1, false), (7, true), (if cfg!(miri) { 9 } else { 300 }, true)] {
            let len = n.next_multiple_of(COLUMNS) * k;
            let (x, start) = (draw(k, &mut random), draw(n, &mut random));
            let half: Vec<u16> = draw(len, &mut random).iter().map(|x| body::half(*x)).collect();
            let wide: Vec<f32> =
                half.iter().map(|half| f32::from_bits(u32::from(*half) << 16)).collect();
            let expected: Vec<u32> = (0..n)
                .map(|j| {
                    let b = |p: usize| wide[j / COLUMNS * COLUMNS * k + p * COLUMNS + j % COLUMNS];
                    let first = if add { start[j] } else { 0.0 };
                    (0..k).fold(first, |chain, p| x[p].mul_add(b(p), chain)).to_bits()
                })
                .collect();
            for kernels in kernels() {
                let what = format!("{} {n} {k} {add}", kernels.name());
                let mut out = [(); 3].map(|()| Guarded::full(&start));
                let [one, two, three] = &mut out;
                kernels.vector(&x, &wide, one.inner(), add);
                kernels.vector_half(&x, &half, two.inner(), add);
                let (shape, a) = (Shape { m: 1, n, k }, Left::rows(&x, k));
                let begin = if add { Start::Here } else { Start::Zero };
                kernels.multiply_half(shape, a, &half, (three.inner(), n), begin);
                for out in out {
                    out.assert_guards(&what);
                    let bits = out.values().iter().map(|x| x.to_bits());
                    assert!(bits.eq(expected.iter().copied()), "{what}");
                }
            }
        }
    }
}
