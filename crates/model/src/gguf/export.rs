//! A model as a GGUF file that llama.cpp runs.

use std::path::Path;

use etude_tensor::{Kind, Tensor};
use etude_tokenizer::Tokenizer;

use super::config;
use super::error::GgufError;
use super::format::TensorFormat;
use super::metadata::Value;
use super::names::{self, ROPE_FACTORS};
use super::quantize::quantize;
use super::tokenizer;
use super::write::{self, Planned};
use crate::config::{Family, Position, RotaryScaling};
use crate::decoder::Decoder;
use crate::hf::TokenIds;

/// How the matrices are stored. Norms, biases and learned positions are float32 always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// float32.
    F32,
    /// float16.
    F16,
    /// 8 bits, a scale for 32; float16 where a row is no multiple of 32.
    Q8_0,
}

impl ExportFormat {
    fn tensor(self) -> TensorFormat {
        match self {
            ExportFormat::F32 => TensorFormat::F32,
            ExportFormat::F16 => TensorFormat::F16,
            ExportFormat::Q8_0 => TensorFormat::Q8_0,
        }
    }

    /// GGUF's `general.file_type`.
    fn file_type(self) -> u64 {
        match self {
            ExportFormat::F32 => 0,
            ExportFormat::F16 => 1,
            ExportFormat::Q8_0 => 7,
        }
    }
}

/// Writes a model with its tokenizer and chat template to `path`, which is synced. The window of a Mistral
/// is no part of the format: the context is cut to it.
///
/// # Errors
/// A family, a setting or a tokenizer that llama.cpp has no counterpart for; a file that cannot be written.
pub fn export(
    decoder: &Decoder,
    ids: &TokenIds,
    tokenizer: &Tokenizer,
    path: &Path,
    format: ExportFormat,
) -> Result<(), GgufError> {
    let config = decoder.config();
    let architecture = config::architecture(config)?;
    let plain = match config.family {
        Family::Qwen2 => !config.out_bias,
        Family::Qwen3 => !config.qkv_bias,
        _ => true,
    };
    if !plain {
        let reason = "llama.cpp knows its family without the biases that it has";
        return Err(GgufError::unexportable(reason));
    }
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut metadata = vec![
        (
            "general.architecture".to_owned(),
            Value::Text(architecture.to_owned()),
        ),
        ("general.name".to_owned(), Value::Text(name.into_owned())),
        (
            "general.file_type".to_owned(),
            Value::Unsigned(format.file_type()),
        ),
        (
            "general.quantization_version".to_owned(),
            Value::Unsigned(2),
        ),
    ];
    metadata.extend(config::write(config, architecture)?);
    metadata.extend(tokenizer::write(tokenizer, ids, config.vocab_size)?);

    let (plan, tensors) = tensors(decoder, format);
    write::write(path, &metadata, &plan, |index| {
        let values = tensors[index].to_kind(Kind::Float).flatten(0, -1);
        let values = Vec::<f32>::try_from(values).expect("one dimension of float32");
        quantize(plan[index].format, &values)
    })
}

/// What is to be written, and the values.
fn tensors(decoder: &Decoder, format: ExportFormat) -> (Vec<Planned>, Vec<Tensor>) {
    let config = decoder.config();
    let mut plan = Vec::new();
    let mut tensors = Vec::new();
    let mut add = |name: String, values: Tensor| {
        let shape = values.size();
        let stored = match shape[..] {
            [_, _] if name.starts_with("position_embd") => TensorFormat::F32,
            [_, width] if width % format.tensor().block_len() as i64 == 0 => format.tensor(),
            [_, _] => TensorFormat::F16,
            _ => TensorFormat::F32,
        };
        plan.push(Planned {
            name,
            shape,
            format: stored,
        });
        tensors.push(values);
    };
    for param in decoder.params().entries() {
        let place = names::place(config, &param.name);
        let values = decoder.merged(param);
        if place.names.len() == 1 {
            add(place.names[0].clone(), values);
            continue;
        }
        let parts = values.split_with_sizes(&param.parts, 0);
        for (part, (name, rows)) in place.names.into_iter().zip(parts).enumerate() {
            let heads = place.permuted.and_then(|heads| heads.get(part).copied());
            add(
                name,
                heads.map_or_else(
                    || rows.shallow_clone(),
                    |heads| names::to_neighbours(&rows, heads),
                ),
            );
        }
    }
    if let Position::Rotary {
        theta,
        scaling: Some(scaling @ RotaryScaling::Llama3 { .. }),
        ..
    } = config.position
    {
        let factors: Vec<f32> = config::rotary_factors(&scaling, theta, config.head_dim)
            .map(|factor| factor as f32)
            .collect();
        add(ROPE_FACTORS.to_owned(), Tensor::from_slice(&factors));
    }
    (plan, tensors)
}
