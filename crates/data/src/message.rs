//! Where this crate takes the message of a conversation from: the tokenizer's own, so that what is
//! read here is what is rendered there.

pub use etude_tokenizer::{Message, Role};
