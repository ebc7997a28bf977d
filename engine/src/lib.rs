//! The model and how it learns: plain reference, fast CPU kernels, optimiser, tokenizer, data order, generation.
