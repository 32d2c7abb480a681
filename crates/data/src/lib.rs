//! Everything between a file of text and a batch of token ids: dataset manifests and fetching,
//! documents, task examples, splits, token shards, packing, the order of data, and the loader.
//!
//! This crate never depends on libtorch; a batch is plain data.

#![cfg_attr(test, allow(clippy::unwrap_used))]

// From a name or a path to documents and examples.
mod archive;
mod cache;
mod catalog;
mod clean;
mod dataset;
mod debian;
mod documents;
mod error;
mod fetch;
mod hub;
mod local;
mod manifest;
mod mapping;
mod message;
mod models;
mod progress;
mod records;
mod settings;
mod show;
mod split;
mod task;
mod template;

pub use cache::Cache;
pub use catalog::Catalog;
pub use clean::{Clean, cut_at_word};
pub use dataset::{Dataset, LeftOut, Part, ReadAccount, Scan};
pub use documents::{Document, Documents, Examples, Items};
pub use error::{DataError, FilePlace};
pub use hub::Hub;
pub use local::LocalOptions;
pub use manifest::{
    Archive, Boundary, ChatMap, Counts, Filter, Format, Kind, Manifest, Map, Pair, Read, Registry,
    Source, SplitRule,
};
pub use message::{Message, Role};
pub use models::KnownModel;
pub use progress::Progress;
pub use settings::{line_of_key, nearest, parse_toml};
pub use show::Summary;
pub use split::{Split, bucket, key_hash, split_of};
pub use task::{SourceRef, TaskBody, TaskExample, spread};

// From token ids to batches.
mod batch;
mod collate;
mod example;
pub mod ledger;
mod loader;
mod order;
mod shard;
mod stream;
mod tokenize;
mod windows;

pub use batch::{Batch, IGNORE, Stretch};
pub use collate::{
    Epoch, EpochPart, FinetuneBatches, FinetuneSettings, Rows, collate, collate_packed,
};
pub use example::{
    ChatFormat, Cut, DropReason, ExampleFormat, ExampleSettings, Explained, PlainFormat,
    RenderReport, RenderedExample, RenderedPrompt, Renderer, Rendering, TokenPart, Truncation,
};
pub use loader::{Loader, LoaderSettings};
pub use order::{Order, Place};
pub use shard::{Shard, ShardDocument, ShardError, ShardWriter, TokenWidth};
pub use stream::TokenStream;
pub use tokenize::{
    TokenizeProgress, TokenizeSettings, Tokenized, open_cached, token_byte_lengths, tokenize,
};
pub use windows::{
    Boundaries, ValidationBatch, ValidationSettings, ValidationWindows, WindowSettings, Windows,
};
