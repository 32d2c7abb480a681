//! Text to token ids and back, for training and for serving language models, without libtorch.
//!
//! * [`Tokenizer::train`] makes a byte-level BPE from any stream of documents under a byte budget;
//!   [`Tokenizer::load`] reads any `tokenizer.json` or Hugging Face model folder;
//!   [`Tokenizer::save`] writes a folder that Python's `transformers.AutoTokenizer` loads.
//! * [`Tokenizer::encode`] treats its text as untrusted: the spelling of a special token inside it
//!   is ordinary text. [`Tokenizer::encode_with_special`] is for text that you wrote yourself.
//! * [`Tokenizer::render_conversation`] and [`Tokenizer::render_prompt`] run the chat template once
//!   for training, evaluation, chat and serving, and give typed [`Segment`]s that say which text
//!   the model must learn; [`Tokenizer::encode_segments`] turns them into ids and a mask.
//! * [`Tokenizer::decoder`] decodes token by token and never splits a character.
//!
//! The BPE engine is the `tokenizers` crate; chat templates run on `minijinja`. This crate knows
//! nothing of models, tensors or files of training data.
//!
//! ```
//! use etude_tokenizer::{Message, Role, Tokenizer, TrainSettings};
//!
//! let documents = ["a rose is a rose", "is a rose a rose?"].map(String::from);
//! let settings = TrainSettings { vocab_size: 280, ..TrainSettings::default() };
//! let (tokenizer, report) = Tokenizer::train(documents.into_iter(), &settings)?;
//! assert_eq!(report.documents_seen, 2);
//!
//! let ids = tokenizer.encode("a rose 🌹")?;
//! assert_eq!(tokenizer.decode(&ids, true)?, "a rose 🌹");
//!
//! let talk = [Message::new(Role::User, "Is it a rose?"), Message::new(Role::Assistant, "It is.")];
//! let rendered = tokenizer.encode_segments(&tokenizer.render_conversation(&talk)?)?;
//! let learnt: Vec<u32> = (rendered.ids.iter().zip(&rendered.supervised))
//!     .filter_map(|(id, supervised)| supervised.then_some(*id))
//!     .collect();
//! assert_eq!(tokenizer.decode(&learnt, false)?, "It is.<|end|>");
//! # Ok::<(), etude_tokenizer::TokenizerError>(())
//! ```

#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct ReadmeExamples;

mod bytes;
mod chat;
mod config;
mod decode;
mod encode;
mod error;
mod files;
mod pattern;
mod sample;
mod split;
mod stages;
mod template;
#[cfg(feature = "tensor")]
mod tensor;
mod tokenizer;
mod train;
mod words;

pub use chat::{Message, Rendered, Role, Segment};
pub use decode::IncrementalDecoder;
pub use error::TokenizerError;
pub use pattern::python_fullmatch;
pub use template::{ChatTemplate, write_like_python};
#[cfg(feature = "tensor")]
pub use tensor::{IdBatch, PadSide};
pub use tokenizer::Tokenizer;
pub use train::{
    ASSISTANT, DEFAULT_TEMPLATE, END_OF_TEXT, END_OF_TURN, PAD, SYSTEM, Split, TrainReport,
    TrainSettings, USER,
};
