//! A file's settings as a [`ModelConfig`], and the other way round.

use super::dequantize::dequantize;
use super::error::GgufError;
use super::file::GgufFile;
use super::metadata::{Metadata, Value};
use super::names::ROPE_FACTORS;
use super::rope;
use crate::config::{Family, MlpKind, ModelConfig, Position, QkNorm, RotaryScaling, Sizes};
use crate::hf::{Recommended, TokenIds};
use crate::sample::Sampling;

/// The architectures that are read; `llama` is SmolLM2's and Mistral's too.
pub(super) const ARCHITECTURES: [&str; 4] = ["llama", "qwen2", "qwen3", "gpt2"];

/// A file's architecture and the keys that belong to it.
struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn int(&self, name: &str) -> Result<i64, GgufError> {
        let key = self.key(name);
        let found = self.metadata.int(&key)?;
        found.ok_or_else(|| self.metadata.missing(&key))
    }

    fn int_or_none(&self, name: &str) -> Result<Option<i64>, GgufError> {
        self.metadata.int(&self.key(name))
    }

    fn float(&self, name: &str) -> Result<f64, GgufError> {
        let key = self.key(name);
        let found = self.metadata.float(&key)?;
        found.ok_or_else(|| self.metadata.missing(&key))
    }

    fn error(&self, name: &str, reason: impl Into<String>) -> GgufError {
        self.metadata.error(&self.key(name), reason)
    }

    /// Refuses a size that the file gives and the decoder would have to be told of.
    fn demand(&self, name: &str, wanted: i64) -> Result<(), GgufError> {
        match self.int_or_none(name)? {
            Some(found) if found != wanted => {
                let reason = format!("is {found}; only {wanted} is supported here");
                Err(self.error(name, reason))
            }
            _ => Ok(()),
        }
    }
}

/// Numbers that change what a model computes, and the decoder has no place for, with the one that changes nothing.
const PLAIN: [(&str, f64); 7] = [
    ("attention.scale", 0.0),
    ("attention.clamp_kqv", 0.0),
    ("attn_logit_softcapping", 0.0),
    ("final_logit_softcapping", 0.0),
    ("logit_scale", 1.0),
    ("embedding_scale", 1.0),
    ("residual_scale", 1.0),
];

impl Keys<'_> {
    /// Refuses what would make the model another one than the decoder's.
    fn demand_plain(&self) -> Result<(), GgufError> {
        if self.metadata.flag(&self.key("attention.causal"))? == Some(false) {
            let reason =
                "is false: every position sees those behind it, and only decoders are read";
            return Err(self.error("attention.causal", reason));
        }
        for (name, neutral) in PLAIN {
            let found = self.metadata.float(&self.key(name))?;
            if let Some(found) = found.filter(|&found| found != 0.0 && found != neutral) {
                return Err(self.error(name, format!("is {found}, which is not supported here")));
            }
        }
        Ok(())
    }
}

/// The settings of the model in a file.
pub(super) fn read(file: &GgufFile) -> Result<ModelConfig, GgufError> {
    let metadata = file.metadata();
    if let Some(kind) = metadata
        .text("general.type")?
        .filter(|kind| *kind != "model")
    {
        let reason = format!("is `{kind}`; only whole models are read");
        return Err(metadata.error("general.type", reason));
    }
    if let Some(parts) = metadata.int("split.count")?.filter(|&parts| parts > 1) {
        let reason = format!(
            "is {parts}: the file is a part of a model; join the parts with `llama-gguf-split --merge`"
        );
        return Err(metadata.error("split.count", reason));
    }
    let architecture = metadata.text("general.architecture")?;
    let architecture = architecture.ok_or_else(|| metadata.missing("general.architecture"))?;
    let family = match architecture {
        "llama" => Family::Llama,
        "qwen2" => Family::Qwen2,
        "qwen3" => Family::Qwen3,
        "gpt2" => Family::Gpt2,
        other => {
            return Err(GgufError::Architecture {
                path: file.path().to_owned(),
                found: other.to_owned(),
            });
        }
    };
    let keys = Keys {
        metadata,
        architecture,
    };
    keys.demand("expert_count", 0)?;
    keys.demand_plain()?;
    let config = ModelConfig::new(family, sizes(file, &keys)?);
    let config = if family == Family::Gpt2 {
        ModelConfig {
            norm_eps: keys.float("attention.layer_norm_epsilon")?,
            ..config
        }
    } else {
        llama_like(file, &keys, config)?
    };
    config.validate().map_err(|source| GgufError::Config {
        path: file.path().to_owned(),
        source,
    })?;
    Ok(config)
}

fn sizes(file: &GgufFile, keys: &Keys<'_>) -> Result<Sizes, GgufError> {
    let embedding = file
        .tensors()
        .get("token_embd.weight")
        .ok_or_else(|| GgufError::field(file.path(), "token_embd.weight", "is missing"))?;
    let n_head = keys.int("attention.head_count")?;
    Ok(Sizes {
        vocab_size: embedding.shape[0],
        n_layer: keys.int("block_count")?,
        n_head,
        n_kv_head: keys
            .int_or_none("attention.head_count_kv")?
            .unwrap_or(n_head),
        n_embd: keys.int("embedding_length")?,
        n_inner: keys.int("feed_forward_length")?,
        context: keys.int("context_length")?,
        tied: !file.tensors().contains_key("output.weight"),
    })
}

fn llama_like(
    file: &GgufFile,
    keys: &Keys<'_>,
    base: ModelConfig,
) -> Result<ModelConfig, GgufError> {
    let has = |tensor: &str| file.tensors().contains_key(tensor);
    let head_dim = keys
        .int_or_none("attention.key_length")?
        .unwrap_or(base.head_dim);
    keys.demand("attention.value_length", head_dim)?;
    keys.demand("rope.dimension_count", head_dim)?;
    let window = keys
        .int_or_none("attention.sliding_window")?
        .filter(|&window| window > 0);
    let family = match (base.family, window) {
        (Family::Llama, Some(_)) => Family::Mistral,
        // Transformers' Llama has no other width than its heads' together.
        (Family::Llama, None) if base.n_embd % base.n_head.max(1) != 0 => Family::Mistral,
        (family, None) => family,
        (_, Some(_)) => {
            let reason = "is set, which is supported for the architecture llama alone";
            return Err(keys.error("attention.sliding_window", reason));
        }
    };
    let theta = match keys.metadata.float(&keys.key("rope.freq_base"))? {
        None => 10_000.0,
        Some(theta) if theta > 0.0 => theta,
        Some(theta) => return Err(keys.error("rope.freq_base", format!("is {theta}"))),
    };
    let biased = [has("blk.0.attn_q.bias"), has("blk.0.attn_output.bias")];
    // Hugging Face's settings have one switch for both.
    if family != Family::Qwen2 && biased[0] != biased[1] {
        let reason = "is there for only one of queries and output, which no supported family has";
        return Err(GgufError::field(file.path(), "blk.0.attn_q.bias", reason));
    }
    Ok(ModelConfig {
        family,
        head_dim,
        position: Position::Rotary {
            theta,
            flipped: false,
            scaling: scaling(file, keys, theta, head_dim)?,
        },
        norm_eps: keys.float("attention.layer_norm_rms_epsilon")?,
        qkv_bias: biased[0],
        out_bias: biased[1],
        mlp_bias: has("blk.0.ffn_up.bias"),
        sliding_window: window,
        ..base
    })
}

fn scaling(
    file: &GgufFile,
    keys: &Keys<'_>,
    theta: f64,
    head_dim: i64,
) -> Result<Option<RotaryScaling>, GgufError> {
    let kind = keys.key("rope.scaling.type");
    // Files from before the type had a name have a factor alone, the oldest under a name of its own.
    let [new, old] = ["rope.scaling.factor", "rope.scale_linear"].map(|key| keys.key(key));
    let factor = match keys.metadata.float(&new)? {
        None => keys.metadata.float(&old)?,
        found => found,
    };
    let factor = factor.filter(|factor| *factor != 0.0);
    let usual = match factor {
        None | Some(1.0) => "none",
        Some(_) => "linear",
    };
    match keys.metadata.text(&kind)?.unwrap_or(usual) {
        "none" => {}
        "linear" => {
            let factor = factor.map_or_else(|| keys.float("rope.scaling.factor"), Ok)?;
            if factor <= 0.0 {
                return Err(keys.error("rope.scaling.factor", format!("is {factor}")));
            }
            return Ok(Some(RotaryScaling::Linear { factor }));
        }
        other => {
            let reason = format!("is `{other}`; none and linear are supported, and Llama 3's");
            return Err(keys.metadata.error(&kind, reason));
        }
    }
    let Some(tensor) = file.tensors().get(ROPE_FACTORS) else {
        return Ok(None);
    };
    let wrong = |reason: &str| GgufError::field(file.path(), ROPE_FACTORS, reason);
    if tensor.shape != [head_dim / 2] {
        return Err(wrong("has not one factor for each pair of a head"));
    }
    let mut factors = vec![0f32; (head_dim / 2) as usize];
    dequantize(tensor.format, file.bytes(tensor), &mut factors);
    let found = rope::llama3(&factors, theta, head_dim);
    let remedy = "does not hold the factors of Llama 3's scaling, the only ones supported";
    found.map(Some).ok_or_else(|| wrong(remedy))
}

/// The architecture that a model is written as.
///
/// # Errors
/// What llama.cpp could not run.
pub(super) fn architecture(config: &ModelConfig) -> Result<&'static str, GgufError> {
    match config.family {
        Family::Llama | Family::Mistral => Ok("llama"),
        Family::Qwen2 => Ok("qwen2"),
        Family::Qwen3 => Ok("qwen3"),
        Family::Gpt2 if config.mlp == MlpKind::GeluTanh => Ok("gpt2"),
        Family::Gpt2 => Err(GgufError::unexportable(
            "its activation is `gelu`, and GGUF's gpt2 has `gelu_new` alone",
        )),
        Family::NanoChat => Err(GgufError::unexportable(
            "the family nanochat has no architecture in GGUF; llama, mistral, qwen2, qwen3 and gpt2 have",
        )),
        Family::Olmo2 => Err(GgufError::unexportable(
            "olmo2 is not written as GGUF; llama, mistral, qwen2, qwen3 and gpt2 are",
        )),
    }
}

/// The settings as metadata.
pub(super) fn write(
    config: &ModelConfig,
    architecture: &str,
) -> Result<Vec<(String, Value)>, GgufError> {
    let size = |number: i64| Value::Unsigned(number.unsigned_abs());
    // The window is not part of GGUF's llama. Within its length it makes no difference.
    let context = config
        .sliding_window
        .map_or(config.context, |window| window.min(config.context));
    let mut entries = vec![
        ("context_length", size(context)),
        ("embedding_length", size(config.n_embd)),
        ("block_count", size(config.n_layer)),
        ("feed_forward_length", size(config.n_inner)),
        ("attention.head_count", size(config.n_head)),
        ("attention.head_count_kv", size(config.n_kv_head)),
        ("vocab_size", size(config.vocab_size)),
    ];
    match config.position {
        Position::Learned => {
            entries.push((
                "attention.layer_norm_epsilon",
                Value::Float(config.norm_eps),
            ));
        }
        Position::Rotary { theta, scaling, .. } => {
            entries.extend([
                (
                    "attention.layer_norm_rms_epsilon",
                    Value::Float(config.norm_eps),
                ),
                ("attention.key_length", size(config.head_dim)),
                ("attention.value_length", size(config.head_dim)),
                ("rope.dimension_count", size(config.head_dim)),
                ("rope.freq_base", Value::Float(theta)),
            ]);
            if let Some(RotaryScaling::Linear { factor }) = scaling {
                entries.push(("rope.scaling.type", Value::Text("linear".to_owned())));
                entries.push(("rope.scaling.factor", Value::Float(factor)));
            }
        }
    }
    debug_assert!(config.logit_cap.is_none() && config.qk_norm != QkNorm::Plain);
    Ok(entries
        .into_iter()
        .map(|(name, value)| (format!("{architecture}.{name}"), value))
        .collect())
}

/// The special tokens that a file names: beginning, all ends (of the text, of a turn, of a message), filler.
pub(super) fn token_ids(metadata: &Metadata) -> Result<TokenIds, GgufError> {
    let mut eos = Vec::new();
    for (_, id) in end_ids(metadata)? {
        if !eos.contains(&id) {
            eos.push(id);
        }
    }
    Ok(TokenIds {
        bos: token_id(metadata, "bos")?,
        eos,
        pad: token_id(metadata, "padding")?,
    })
}

/// The ends among them, with the words that their keys have for them.
pub(super) fn end_ids(metadata: &Metadata) -> Result<Vec<(&'static str, u32)>, GgufError> {
    let mut ends = Vec::new();
    for name in ["eos", "eot", "eom"] {
        ends.extend(token_id(metadata, name)?.map(|id| (name, id)));
    }
    Ok(ends)
}

fn token_id(metadata: &Metadata, name: &str) -> Result<Option<u32>, GgufError> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    let Some(found) = metadata.int(&key)? else {
        return Ok(None);
    };
    let id = u32::try_from(found).map_err(|_| metadata.error(&key, format!("is {found}")))?;
    // Some writers mean "none" by the largest number.
    Ok((id != u32::MAX).then_some(id))
}

/// How the file's publisher would have the model sampled, where it says so.
pub(super) fn recommended(metadata: &Metadata) -> Result<Recommended, GgufError> {
    let key = |name: &str| format!("general.sampling.{name}");
    let number = |name: &str| metadata.float(&key(name));
    let top_k = metadata.int(&key("top_k"))?;
    let found = Recommended {
        temperature: number("temp")?,
        // Below 0 is "all" too.
        top_k: top_k.map(|count| usize::try_from(count).unwrap_or(0)),
        top_p: number("top_p")?,
        min_p: number("min_p")?,
        repetition_penalty: number("penalty_repeat")?,
        ..Recommended::default()
    };
    let sampling = found.sampling(&Sampling::default());
    sampling.validate().map_err(|error| {
        let name = match error.field {
            "temperature" => "temp",
            "repetition_penalty" => "penalty_repeat",
            field => field,
        };
        let reason = format!("is {}: it must be {}", error.value, error.must);
        metadata.error(&key(name), reason)
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::file::GgufFile;
    use crate::gguf::write::write;

    fn read(entries: &[(&str, Value)]) -> Result<Recommended, GgufError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.gguf");
        let entries: Vec<(String, Value)> = (entries.iter())
            .map(|(name, value)| (format!("general.sampling.{name}"), value.clone()))
            .collect();
        write(&path, &entries, &[], |_| Vec::new()).expect("written");
        recommended(GgufFile::open(&path).expect("opens").metadata())
    }

    #[test]
    fn what_a_file_says_of_sampling_is_kept_and_nothing_is_added() {
        assert_eq!(read(&[]).expect("good"), Recommended::default());
        let said = [
            ("temp", Value::Float(0.6)),
            ("top_k", Value::Signed(20)),
            ("penalty_repeat", Value::Float(1.05)),
        ];
        let expected = Recommended {
            temperature: Some(0.6),
            top_k: Some(20),
            repetition_penalty: Some(1.05),
            ..Recommended::default()
        };
        assert_eq!(read(&said).expect("good"), expected);
        let error = read(&[("temp", Value::Float(-1.0))]).expect_err("refused");
        assert!(
            error.to_string().contains("general.sampling.temp"),
            "{error}"
        );
    }
}
