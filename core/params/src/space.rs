//! The order of all tensors in the one flat buffer.

use core::ops::Range;

use serde::{Deserialize, Serialize};
use suanli_base::Hash;

use crate::chunk::{CHUNK_ELEMENTS, chunk_count};
use crate::manifest::CHUNKS_MAX;

/// Tensors in one space: far above any model we train, low enough to bound what a stranger sends.
const TENSORS_MAX: usize = 65_536;
/// Dimensions of a tensor.
const DIMENSIONS_MAX: usize = 8;
/// Bytes of a tensor's name.
const NAME_BYTES_MAX: usize = 256;

/// A tensor as asked for: its name and shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// The name, in Hugging Face spelling.
    pub name: String,
    /// The shape, outermost dimension first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// A tensor of this name and shape.
    #[must_use]
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<usize>>) -> Self {
        Self { name: name.into(), shape: shape.into() }
    }
}

/// A tensor in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// The name.
    pub name: String,
    /// The shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// The first element in the flat buffer.
    pub offset: usize,
    /// How many elements.
    pub len: usize,
}

impl Tensor {
    /// The elements in the flat buffer.
    #[must_use]
    pub const fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len
    }
}

/// A list of tensors is no parameter space: the fault of whoever described the model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpaceError {
    /// No tensors, or too many.
    #[error("a model has 1 to {max} tensors, this one has {found}")]
    Count {
        /// How many were given.
        found: usize,
        /// How many may be.
        max: usize,
    },
    /// A name that is empty or too long.
    #[error("tensor {index} has a name of {found} bytes; give it one of 1 to {max}")]
    Name {
        /// Which tensor.
        index: usize,
        /// Its name's length.
        found: usize,
        /// The most.
        max: usize,
    },
    /// Two tensors of one name.
    #[error("two tensors are called {name}; names must differ")]
    Twice {
        /// The name.
        name: String,
    },
    /// A shape without dimensions, with too many, or with a zero.
    #[error(
        "tensor {name} has the shape {shape:?}; expected 1 to {max} dimensions, each at least 1"
    )]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// The most dimensions.
        max: usize,
    },
    /// More elements than a region can hold.
    #[error("the model passes {max} parameters at tensor {name}; make it smaller")]
    TooLarge {
        /// Where the count passed the bound.
        name: String,
        /// The most elements.
        max: usize,
    },
}

/// All tensors of a model, laid out one after the other without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    tensors: Vec<Tensor>,
    by_name: Vec<u32>,
    len: usize,
}

impl Space {
    /// The most elements of a space.
    pub const ELEMENTS_MAX: usize = CHUNKS_MAX * CHUNK_ELEMENTS;

    /// Lays `specs` out in the order given.
    ///
    /// # Errors
    /// [`SpaceError`] for names, shapes or sizes that cannot be.
    pub fn new(specs: Vec<TensorSpec>) -> Result<Self, SpaceError> {
        if specs.is_empty() || specs.len() > TENSORS_MAX {
            return Err(SpaceError::Count { found: specs.len(), max: TENSORS_MAX });
        }
        let mut tensors = Vec::with_capacity(specs.len());
        let mut offset = 0_usize;
        for (index, TensorSpec { name, shape }) in specs.into_iter().enumerate() {
            if name.is_empty() || name.len() > NAME_BYTES_MAX {
                return Err(SpaceError::Name { index, found: name.len(), max: NAME_BYTES_MAX });
            }
            let dimensions = 1..=DIMENSIONS_MAX;
            if !dimensions.contains(&shape.len()) || shape.contains(&0) {
                return Err(SpaceError::Shape { name, shape, max: DIMENSIONS_MAX });
            }
            let len = shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
            let end = len.and_then(|len| offset.checked_add(len));
            let (Some(len), Some(end)) = (len, end.filter(|end| *end <= Self::ELEMENTS_MAX)) else {
                return Err(SpaceError::TooLarge { name, max: Self::ELEMENTS_MAX });
            };
            tensors.push(Tensor { name, shape, offset, len });
            offset = end;
        }
        let mut by_name: Vec<u32> = (0..).take(tensors.len()).collect();
        let name = |index: u32| tensors[index as usize].name.as_str();
        by_name.sort_by_key(|index| name(*index));
        if let Some(pair) = by_name.windows(2).find(|pair| name(pair[0]) == name(pair[1])) {
            return Err(SpaceError::Twice { name: name(pair[0]).to_owned() });
        }
        Ok(Self { tensors, by_name, len: offset })
    }

    /// The tensors, in order.
    #[must_use]
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor called `name`.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        let tensor = |index: &u32| &self.tensors[*index as usize];
        let at = self.by_name.binary_search_by(|index| tensor(index).name.as_str().cmp(name));
        at.ok().map(|at| tensor(&self.by_name[at]))
    }

    /// How many elements the flat buffer has.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a space is never empty")]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// How many chunks the flat buffer has.
    #[must_use]
    pub const fn chunks(&self) -> usize {
        chunk_count(self.len)
    }

    /// The hash that two machines compare to know that they mean the same layout.
    #[must_use]
    pub fn hash(&self) -> Hash {
        let mut bytes = Vec::new();
        for tensor in &self.tensors {
            bytes.extend_from_slice(&(tensor.name.len() as u64).to_le_bytes());
            bytes.extend_from_slice(tensor.name.as_bytes());
            bytes.extend_from_slice(&(tensor.shape.len() as u64).to_le_bytes());
            for size in &tensor.shape {
                bytes.extend_from_slice(&(*size as u64).to_le_bytes());
            }
        }
        Hash::of_parts("suanli 2026 parameter space", &[&bytes])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs() -> Vec<TensorSpec> {
        vec![TensorSpec::new("b", [2, 3]), TensorSpec::new("a", [4])]
    }

    #[test]
    fn tensors_lie_one_after_the_other_in_the_order_given() {
        let space = Space::new(specs()).unwrap();
        assert_eq!(space.len(), 10);
        assert_eq!(space.tensor("b").map(Tensor::range), Some(0..6));
        assert_eq!(space.tensor("a").map(Tensor::range), Some(6..10));
        assert_eq!(space.tensor("c"), None);
    }

    #[test]
    fn another_order_or_shape_is_another_space() {
        let space = Space::new(specs()).unwrap().hash();
        let mut turned = specs();
        turned.reverse();
        let mut reshaped = specs();
        reshaped[0].shape = vec![3, 2];
        assert_ne!(Space::new(turned).unwrap().hash(), space);
        assert_ne!(Space::new(reshaped).unwrap().hash(), space);
    }

    #[test]
    fn what_cannot_be_a_space_is_refused_with_its_reason() {
        let refused = |specs| Space::new(specs).unwrap_err();
        assert!(matches!(refused(vec![]), SpaceError::Count { found: 0, .. }));
        let twice = vec![TensorSpec::new("a", [1]), TensorSpec::new("a", [1])];
        assert!(matches!(refused(twice), SpaceError::Twice { .. }));
        let zero = vec![TensorSpec::new("a", [1, 0])];
        assert!(matches!(refused(zero), SpaceError::Shape { .. }));
        let scalar = vec![TensorSpec::new("a", [])];
        assert!(matches!(refused(scalar), SpaceError::Shape { .. }));
        let huge = vec![TensorSpec::new("a", [usize::MAX, 2])];
        assert!(matches!(refused(huge), SpaceError::TooLarge { .. }));
        let large = vec![TensorSpec::new("a", [Space::ELEMENTS_MAX]), TensorSpec::new("b", [1])];
        assert!(matches!(refused(large), SpaceError::TooLarge { name, .. } if name == "b"));
        assert!(matches!(refused(vec![TensorSpec::new("", [1])]), SpaceError::Name { .. }));
    }
}
