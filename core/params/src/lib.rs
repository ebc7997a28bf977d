//! The parameter space: tensors, chunks, manifests, wire codecs, error feedback, sealing of moments.
