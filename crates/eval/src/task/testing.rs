//! What several tests need: a tiny tokenizer, a random model for it, examples.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use etude_data::{SourceRef, TaskBody, TaskExample};
use etude_model::{Decoder, Family, FinishReason, ModelConfig, Sizes};
use etude_tensor::{Device, Kind, device, no_grad, seed_everything};
use etude_tokenizer::{Tokenizer, TrainSettings};

use super::TaskItem;

pub(crate) fn tokenizer() -> Tokenizer {
    let documents = [
        "roses are red, violets are blue; a rose is a rose — é, 日本",
        "a rose 🌹 is red",
    ];
    let settings = TrainSettings {
        vocab_size: 290,
        ..TrainSettings::default()
    };
    Tokenizer::train(documents.into_iter().map(String::from), &settings)
        .expect("trains")
        .0
}

/// A random decoder in float64, surer of itself than a fresh one, so that positions differ.
pub(crate) fn decoder(family: Family, context: i64) -> Decoder {
    // libtorch has one generator for all tests of the process.
    static DRAWING: Mutex<()> = Mutex::new(());
    let _drawing = DRAWING.lock().unwrap_or_else(PoisonError::into_inner);
    device::set_threads(1);
    seed_everything(5);
    let sizes = Sizes {
        vocab_size: 300,
        n_layer: 2,
        n_head: 2,
        n_kv_head: if family == Family::Gpt2 { 2 } else { 1 },
        n_embd: 16,
        n_inner: 32,
        context,
        tied: true,
    };
    let config = ModelConfig::new(family, sizes);
    let decoder = Decoder::new(config, Kind::Double, Device::Cpu).expect("possible");
    no_grad(|| {
        for (_, tensor) in decoder
            .params()
            .iter()
            .filter(|(_, tensor)| tensor.dim() == 2)
        {
            let _ = tensor.shallow_clone().g_mul_scalar_(10.0);
        }
    });
    decoder
}

/// An example of the line `line`.
pub(crate) fn example(line: u64, prompt: &str, completion: &str) -> TaskExample {
    let body = TaskBody::Completion {
        prompt: prompt.to_owned(),
        completion: completion.to_owned(),
    };
    let source = SourceRef {
        file: PathBuf::from("task.jsonl"),
        line,
    };
    TaskExample::new(format!("item-{line}"), body, source)
}

pub(crate) fn item(id: &str, prediction: &str, reference: &str) -> TaskItem {
    TaskItem {
        id: id.to_owned(),
        prompt: "a prompt".to_owned(),
        reference: reference.to_owned(),
        also: Vec::new(),
        prediction: prediction.to_owned(),
        finish_reason: FinishReason::Stop,
        tokens: 3,
        nats: 2.5 * reference.len() as f64,
        bytes: reference.len() as u64,
        chosen: None,
    }
}
