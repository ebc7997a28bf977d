//! Which tensors a job's parameters are, as text that a reader without the model's configuration can
//! use: JSON, `{"format":1,"tensors":[{"name":"..","dtype":"f32","shape":[..],"offset":0}]}`, where an
//! offset is in bytes of the region. The Python package reads it (`python/suanli/_catalogue.py`).

use crate::trainable::Trainable;
use bytes::Bytes;
use serde::Serialize;
use suanli_bus::JobSpec;
use suanli_params::Space;

/// Changes when a reader of the last one would misunderstand.
const FORMAT: u32 = 1;

#[derive(Serialize)]
struct Catalogue<'a> {
    format: u32,
    tensors: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    dtype: &'static str,
    shape: &'a [usize],
    offset: usize,
}

/// The catalogue of what a job trains: its model, or its adapters.
pub(super) fn of_job(spec: &JobSpec) -> Result<Bytes, String> {
    let trainable = Trainable::of(spec)?;
    let adapters = trainable.lora.as_ref().map(|lora| lora.space(&trainable.model));
    Ok(of(&adapters.unwrap_or_else(|| trainable.model.space())))
}

fn of(space: &Space) -> Bytes {
    let tensors = space.tensors().iter();
    let tensors = tensors.map(|tensor| Entry {
        name: &tensor.name,
        dtype: "f32",
        shape: &tensor.shape,
        offset: tensor.offset * size_of::<f32>(),
    });
    let catalogue = Catalogue { format: FORMAT, tensors: tensors.collect() };
    serde_json::to_vec(&catalogue).expect("names and numbers are JSON").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use suanli_params::TensorSpec;

    #[test]
    fn tensors_are_named_with_shape_and_place_in_bytes() {
        let specs = vec![TensorSpec::new("a.b", [2, 3]), TensorSpec::new("c", [4])];
        let text = of(&Space::new(specs).unwrap());
        let expected = concat!(
            r#"{"format":1,"tensors":[{"name":"a.b","dtype":"f32","shape":[2,3],"offset":0},"#,
            r#"{"name":"c","dtype":"f32","shape":[4],"offset":24}]}"#
        );
        assert_eq!(text, expected.as_bytes());
    }
}
