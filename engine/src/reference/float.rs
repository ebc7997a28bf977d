//! The two widths in which the reference computes.

use core::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use crate::math;

/// A floating-point number: `f32` as in the fast engine, `f64` as the judge of both.
pub trait Float:
    Copy
    + PartialOrd
    + Send
    + Sync
    + Add<Output = Self>
    + AddAssign
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + 'static
{
    /// Zero.
    const ZERO: Self;
    /// One.
    const ONE: Self;
    /// What an engine of this width is called.
    const CLASS: &'static str;
    /// The nearest number of this width.
    fn of(value: f64) -> Self;
    /// Exact.
    fn wide(self) -> f64;
    /// Square root.
    fn root(self) -> Self;
    /// `e` to this power.
    fn exp(self) -> Self;
}

impl Float for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const CLASS: &'static str = "reference-f32-1";

    fn of(value: f64) -> Self {
        value as Self
    }

    fn wide(self) -> f64 {
        f64::from(self)
    }

    fn root(self) -> Self {
        self.sqrt()
    }

    fn exp(self) -> Self {
        math::exp(self)
    }
}

impl Float for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const CLASS: &'static str = "reference-f64-1";

    fn of(value: f64) -> Self {
        value
    }

    fn wide(self) -> f64 {
        self
    }

    fn root(self) -> Self {
        self.sqrt()
    }

    fn exp(self) -> Self {
        math::exp64(self)
    }
}
