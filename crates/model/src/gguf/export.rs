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
use super::rope;
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
/// is no part of the format: the context is cut to it. Special tokens that the model does not know, such as those that
/// the settings of a small GPT-2 have from a large one, are left out.
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
    let mut metadata = vec![
        (
            "general.architecture".to_owned(),
            Value::Text(architecture.to_owned()),
        ),
        ("general.name".to_owned(), Value::Text(model_name(path))),
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
    for (planned, values) in plan.iter().zip(&tensors) {
        demand_fit(planned, values)?;
    }
    write::write(path, &metadata, &plan, |index| {
        let values = tensors[index].to_kind(Kind::Float).flatten(0, -1);
        let values = Vec::<f32>::try_from(values).expect("one dimension of float32");
        quantize(plan[index].format, &values)
    })
}

/// What comes before `.gguf` in a file's name, also while that is a hidden one that the file is finished under.
fn model_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.trim_start_matches('.');
    let end = name.to_ascii_lowercase().rfind(".gguf");
    let end = end.unwrap_or(name.len());
    name[..end].to_owned()
}

/// Refuses numbers that the format of their tensor does not hold.
fn demand_fit(planned: &Planned, values: &Tensor) -> Result<(), GgufError> {
    // What rounds to float16's largest, 65,504; the scales of Q8_0 are float16 as well.
    let most = match planned.format {
        TensorFormat::F16 => 65_519.0,
        TensorFormat::Q8_0 => 65_519.0 * 127.0,
        _ => f64::from(f32::MAX),
    };
    let largest = values.abs().max().to_kind(Kind::Double).double_value(&[]);
    if largest <= most {
        return Ok(());
    }
    let reason = match largest.is_finite() {
        true => format!(
            "`{}` holds {largest}, which is more than {} does; export it as f32",
            planned.name,
            planned.format.name()
        ),
        false => format!(
            "`{}` holds what is no number, or no finite one",
            planned.name
        ),
    };
    Err(GgufError::unexportable(reason))
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
        let factors: Vec<f32> = rope::factors(&scaling, theta, config.head_dim)
            .map(|factor| factor as f32)
            .collect();
        add(ROPE_FACTORS.to_owned(), Tensor::from_slice(&factors));
    }
    (plan, tensors)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use etude_tensor::Device;

    use super::*;
    use crate::certificate::Subject;
    use crate::config::{ModelConfig, Sizes};
    use crate::gguf;

    fn tokenizer() -> Tokenizer {
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
        gguf::load_tokenizer(&goldens.join("gguf/llama.gguf")).expect("loads")
    }

    fn exported(folder: &Path, config: ModelConfig, ids: &TokenIds) -> PathBuf {
        let path = folder.join("x.gguf");
        let decoder = Decoder::new(config, Kind::Float, Device::Cpu).expect("possible");
        export(&decoder, ids, &tokenizer(), &path, ExportFormat::F32).expect("exports");
        path
    }

    fn config(scaling: Option<RotaryScaling>) -> ModelConfig {
        let sizes = Sizes {
            vocab_size: 300,
            n_layer: 1,
            n_head: 2,
            n_kv_head: 1,
            n_embd: 16,
            n_inner: 16,
            context: 128,
            tied: true,
        };
        ModelConfig {
            position: Position::Rotary {
                theta: 10_000.0,
                flipped: false,
                scaling,
            },
            ..ModelConfig::new(Family::Llama, sizes)
        }
    }

    #[test]
    fn special_tokens_that_the_model_does_not_know_are_left_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let ids = TokenIds {
            bos: Some(50_256),
            eos: vec![50_256, 7],
            pad: Some(300),
        };
        let path = exported(folder.path(), config(None), &ids);
        let found = Subject::load_gguf(&path).expect("loads").ids;
        assert!(found.eos.contains(&7), "{found:?}");
        let mut all = found.eos.iter().chain(&found.bos).chain(&found.pad);
        assert!(all.all(|id| *id < 300), "{found:?}");
    }

    #[test]
    fn a_width_that_is_no_multiple_of_the_heads_comes_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = ModelConfig {
            family: Family::Mistral,
            n_embd: 17,
            ..config(None)
        };
        let path = exported(folder.path(), config.clone(), &TokenIds::default());
        let found = Subject::load_gguf(&path).expect("loads").decoder;
        assert_eq!(found.config(), &config);
    }

    #[test]
    fn what_is_wrong_with_the_positions_is_not_laid_to_the_tokenizer() {
        let scaling = RotaryScaling::Llama3 {
            factor: 8.0,
            low: 2.0,
            high: 4.0,
            original_context: 12_288.0,
        };
        let folder = tempfile::tempdir().expect("a folder");
        let path = exported(folder.path(), config(Some(scaling)), &TokenIds::default());
        Subject::load_gguf(&path).expect("any settings are found again");
        let factors: Vec<f32> = rope::factors(&scaling, 10_000.0, 8)
            .map(|factor| factor as f32)
            .collect();
        let bytes_of = |factors: &[f32]| -> Vec<u8> {
            factors
                .iter()
                .flat_map(|factor| factor.to_le_bytes())
                .collect()
        };
        let mut bytes = fs::read(&path).expect("reads");
        let known = bytes_of(&factors);
        let at = bytes
            .windows(known.len())
            .position(|window| window == known);
        let at = at.expect("the file holds them");
        bytes.splice(at..at + known.len(), bytes_of(&[1.0, 3.0, 2.0, 4.0]));
        fs::write(&path, bytes).expect("writes");
        let error = format!("{:#}", Subject::load_gguf(&path).expect_err("refused"));
        assert!(
            error.contains(ROPE_FACTORS) && !error.contains("tokenizer"),
            "{error}"
        );
    }
}
