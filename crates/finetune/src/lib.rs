//! The second stage: a base model and examples to a task model.
