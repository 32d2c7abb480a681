//! The first stage: general text to a base model.
