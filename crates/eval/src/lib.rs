//! Perplexity, bits per byte and task scores of a model.
