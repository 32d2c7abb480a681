//! `config.json` and `generation_config.json`, both ways.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::error::FolderError;
use super::{rope, window};
use crate::config::{
    Family, MlpKind, ModelConfig, NormKind, Position, QkNorm, RotaryScaling, Sizes,
};

/// The special tokens that a model's configuration names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenIds {
    /// Starts a document.
    pub bos: Option<u32>,
    /// Any of these ends one.
    pub eos: Vec<u32>,
    /// Fills rows up.
    pub pad: Option<u32>,
}

/// A JSON object and where it came from, so that each complaint names file and field.
pub(super) struct Fields<'a> {
    pub(super) path: &'a Path,
    pub(super) object: &'a Map<String, Value>,
}

impl Fields<'_> {
    pub(super) fn error(&self, field: &str, reason: impl Into<String>) -> FolderError {
        FolderError::Field {
            path: self.path.to_owned(),
            field: field.to_owned(),
            reason: reason.into(),
        }
    }

    pub(super) fn find(&self, names: &[&str]) -> Option<&Value> {
        names
            .iter()
            .filter_map(|name| self.object.get(*name))
            .find(|value| !value.is_null())
    }

    pub(super) fn int(&self, names: &[&str]) -> Result<i64, FolderError> {
        self.int_or_none(names)?
            .ok_or_else(|| self.error(names[0], "is missing"))
    }

    pub(super) fn int_or_none(&self, names: &[&str]) -> Result<Option<i64>, FolderError> {
        let Some(value) = self.find(names) else {
            return Ok(None);
        };
        value
            .as_i64()
            .map(Some)
            .ok_or_else(|| self.error(names[0], format!("is {value}, not a whole number")))
    }

    pub(super) fn float(&self, name: &str, default: f64) -> Result<f64, FolderError> {
        let Some(value) = self.find(&[name]) else {
            return Ok(default);
        };
        value
            .as_f64()
            .filter(|x| x.is_finite())
            .ok_or_else(|| self.error(name, format!("is {value}, not a number")))
    }

    /// What is added to a variance or mean square.
    fn epsilon(&self, name: &str, default: f64) -> Result<f64, FolderError> {
        let found = self.float(name, default)?;
        match found >= 0.0 {
            true => Ok(found),
            false => Err(self.error(name, format!("is {found}; it is at least 0"))),
        }
    }

    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool, FolderError> {
        let Some(value) = self.find(&[name]) else {
            return Ok(default);
        };
        value
            .as_bool()
            .ok_or_else(|| self.error(name, format!("is {value}, not true or false")))
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.find(&[name]).and_then(Value::as_str)
    }

    /// Refuses a feature that the decoder lacks when the file switches it on.
    pub(super) fn refuse(&self, name: &str, neutral: &[Value]) -> Result<(), FolderError> {
        match self.find(&[name]) {
            Some(value) if !neutral.contains(value) => {
                let known: Vec<String> = neutral.iter().map(Value::to_string).collect();
                let known = known.join(" or ");
                let reason = format!("is {value}, which is not supported (only {known})");
                Err(self.error(name, reason))
            }
            _ => Ok(()),
        }
    }
}

/// Reads a `config.json`.
pub(super) fn parse(path: &Path, json: &Value) -> Result<(ModelConfig, TokenIds), FolderError> {
    let object = json.as_object().ok_or_else(|| FolderError::Json {
        path: path.to_owned(),
        reason: "not an object".to_owned(),
    })?;
    let fields = Fields { path, object };
    let name = fields.text("model_type").unwrap_or("none");
    let family = Family::parse(name).ok_or_else(|| FolderError::Family {
        path: path.to_owned(),
        found: name.to_owned(),
    })?;
    if let Some(quantized) = fields.find(&["quantization_config"]) {
        let method = quantized.get("quant_method").and_then(Value::as_str);
        return Err(fields.error(
            "quantization_config",
            format!(
                "says that the weights are quantized by {}; Etude reads float32, bfloat16 and float16 here, and quantized weights from GGUF",
                method.unwrap_or("a method without a name")
            ),
        ));
    }
    // Transformers lets every position see those behind it, whichever the family.
    fields.refuse("is_causal", &[json!(true)])?;
    let config = if family == Family::Gpt2 {
        gpt2(&fields)?
    } else {
        llama_like(&fields, family)?
    };
    config.validate().map_err(|source| FolderError::Config {
        path: path.to_owned(),
        source,
    })?;
    Ok((config, token_ids(&fields)?))
}

fn gpt2(fields: &Fields<'_>) -> Result<ModelConfig, FolderError> {
    fields.refuse("scale_attn_weights", &[json!(true)])?;
    fields.refuse("scale_attn_by_inverse_layer_idx", &[json!(false)])?;
    fields.refuse("add_cross_attention", &[json!(false)])?;
    // The second names are Transformers' own for the same.
    let n_embd = fields.int(&["n_embd", "hidden_size"])?;
    let n_head = fields
        .int_or_none(&["n_head", "num_attention_heads"])?
        .unwrap_or(12);
    let contexts = ["n_positions", "max_position_embeddings", "n_ctx"];
    let sizes = Sizes {
        vocab_size: fields.int(&["vocab_size"])?,
        n_layer: fields.int(&["n_layer", "num_hidden_layers"])?,
        n_head,
        n_kv_head: n_head,
        n_embd,
        n_inner: fields
            .int_or_none(&["n_inner"])?
            .unwrap_or(n_embd.saturating_mul(4)),
        context: fields.int_or_none(&contexts)?.unwrap_or(1024),
        tied: fields.flag("tie_word_embeddings", true)?,
    };
    let mlp = match fields.text("activation_function").unwrap_or("gelu_new") {
        "gelu_new" | "gelu_pytorch_tanh" => MlpKind::GeluTanh,
        "gelu" => MlpKind::Gelu,
        other => {
            return Err(fields.error(
                "activation_function",
                format!("is `{other}`; gelu_new and gelu are known"),
            ));
        }
    };
    let norm_eps = fields.epsilon("layer_norm_epsilon", 1e-5)?;
    Ok(ModelConfig {
        mlp,
        norm_eps,
        ..ModelConfig::new(Family::Gpt2, sizes)
    })
}

/// What Transformers takes for sizes that a file does not name and that no tensor tells.
struct Absent {
    n_head: i64,
    /// None where it is that of the queries.
    n_kv_head: Option<i64>,
    context: i64,
}

impl Absent {
    fn of(family: Family) -> Self {
        let (n_head, n_kv_head, context) = match family {
            Family::Mistral => (32, Some(8), 131_072),
            Family::Qwen2 | Family::Qwen3 => (32, Some(32), 32_768),
            Family::NanoChat => (6, None, 2048),
            _ => (32, None, 2048),
        };
        Self {
            n_head,
            n_kv_head,
            context,
        }
    }
}

/// Transformers' default of some families is a number, and null is the queries' heads.
fn n_kv_head(
    fields: &Fields<'_>,
    n_head: i64,
    absent: &Absent,
    family: Family,
) -> Result<i64, FolderError> {
    const FIELD: &str = "num_key_value_heads";
    match (fields.object.get(FIELD), absent.n_kv_head) {
        (None, Some(usual)) if n_head % usual != 0 => Err(fields.error(
            FIELD,
            format!(
                "is missing, which means {usual} for {}, and that does not divide num_attention_heads = {n_head}; write the number",
                family.name()
            ),
        )),
        (None, Some(usual)) => Ok(usual),
        _ => Ok(fields.int_or_none(&[FIELD])?.unwrap_or(n_head)),
    }
}

fn llama_like(fields: &Fields<'_>, family: Family) -> Result<ModelConfig, FolderError> {
    let absent = Absent::of(family);
    let n_head = fields
        .int_or_none(&["num_attention_heads"])?
        .unwrap_or(absent.n_head);
    let n_embd = fields.int(&["hidden_size"])?;
    let sizes = Sizes {
        vocab_size: fields.int(&["vocab_size"])?,
        n_layer: fields.int(&["num_hidden_layers"])?,
        n_head,
        n_kv_head: n_kv_head(fields, n_head, &absent, family)?,
        n_embd,
        n_inner: fields.int(&["intermediate_size"])?,
        context: fields
            .int_or_none(&["max_position_embeddings"])?
            .unwrap_or(absent.context),
        tied: fields.flag("tie_word_embeddings", false)?,
    };
    let base = ModelConfig::new(family, sizes);
    // Of the latter two names Transformers means the same by both.
    let activations = match family {
        Family::NanoChat => vec![json!("relu2")],
        _ => vec![json!("silu"), json!("swish")],
    };
    fields.refuse("hidden_act", &activations)?;
    let Position::Rotary { flipped, .. } = base.position else {
        unreachable!("this branch's families are rotary")
    };
    let (theta, scaling) = rope::read(fields, base.context)?;
    // Transformers' Qwen2 and Mistral have theirs in the code, and look at no flag.
    let fixed = matches!(family, Family::Qwen2 | Family::Mistral);
    let bias = !fixed && fields.flag("attention_bias", false)?;
    // Transformers' default of Qwen3 is a number; the others' follows from the width.
    let head_dim = match (fields.int_or_none(&["head_dim"])?, family) {
        (Some(width), _) => width,
        (None, Family::Qwen3) => 128,
        (None, _) => n_embd / n_head.max(1),
    };
    let usual_eps = if family == Family::Olmo2 { 1e-5 } else { 1e-6 };
    // Transformers' default of nanochat is a number, and null is none.
    let logit_cap = match fields.object.get("final_logit_softcapping") {
        _ if family != Family::NanoChat => None,
        Some(Value::Null) => None,
        _ => Some(fields.float("final_logit_softcapping", 15.0)?),
    };
    Ok(ModelConfig {
        head_dim,
        position: Position::Rotary {
            theta,
            flipped,
            scaling,
        },
        norm_eps: fields.epsilon("rms_norm_eps", usual_eps)?,
        qkv_bias: bias || family == Family::Qwen2,
        out_bias: bias,
        mlp_bias: family == Family::Llama && fields.flag("mlp_bias", false)?,
        logit_cap,
        sliding_window: window::read(fields, &base)?,
        ..base
    })
}

fn token_ids(fields: &Fields<'_>) -> Result<TokenIds, FolderError> {
    let id = |value: &Value, name: &str| {
        value
            .as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| fields.error(name, format!("is {value}, not a token id")))
    };
    // Some tools write -1 for none.
    let is_there = |value: &&Value| value.as_i64().is_none_or(|id| id >= 0);
    let single = |name: &str| {
        fields
            .find(&[name])
            .filter(is_there)
            .map(|value| id(value, name))
            .transpose()
    };
    let eos = match fields.find(&["eos_token_id"]) {
        Some(Value::Array(ids)) => ids
            .iter()
            .filter(is_there)
            .map(|value| id(value, "eos_token_id"))
            .collect::<Result<_, _>>()?,
        Some(value) if is_there(&value) => vec![id(value, "eos_token_id")?],
        _ => Vec::new(),
    };
    Ok(TokenIds {
        bos: single("bos_token_id")?,
        eos,
        pad: single("pad_token_id")?,
    })
}

/// Reads the end tokens that a `generation_config.json` adds.
pub(super) fn generation_eos(path: &Path, json: &Value) -> Result<Vec<u32>, FolderError> {
    match json.as_object() {
        Some(object) => Ok(token_ids(&Fields { path, object })?.eos),
        None => Ok(Vec::new()),
    }
}

/// Writes a `config.json` that Transformers reads.
pub(crate) fn to_json(config: &ModelConfig, ids: &TokenIds, dtype: &str) -> Value {
    let mut json = if config.family == Family::Gpt2 {
        gpt2_json(config)
    } else {
        llama_json(config)
    };
    let object = json.as_object_mut().expect("built as an object");
    object.insert("model_type".to_owned(), json!(config.family.name()));
    object.insert(
        "architectures".to_owned(),
        json!([architecture(config.family)]),
    );
    object.insert("dtype".to_owned(), json!(dtype));
    object.insert("torch_dtype".to_owned(), json!(dtype));
    object.extend(ids_json(ids));
    json
}

/// Writes a `generation_config.json`.
pub(super) fn generation_json(ids: &TokenIds) -> Value {
    Value::Object(ids_json(ids))
}

fn ids_json(ids: &TokenIds) -> Map<String, Value> {
    let eos = match ids.eos[..] {
        [] => Value::Null,
        [one] => json!(one),
        _ => json!(ids.eos),
    };
    let entries = [
        ("bos_token_id", json!(ids.bos)),
        ("eos_token_id", eos),
        ("pad_token_id", json!(ids.pad)),
    ];
    entries
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

fn architecture(family: Family) -> &'static str {
    match family {
        Family::Gpt2 => "GPT2LMHeadModel",
        Family::Llama => "LlamaForCausalLM",
        Family::Mistral => "MistralForCausalLM",
        Family::Qwen2 => "Qwen2ForCausalLM",
        Family::Qwen3 => "Qwen3ForCausalLM",
        Family::Olmo2 => "Olmo2ForCausalLM",
        Family::NanoChat => "NanoChatForCausalLM",
    }
}

fn gpt2_json(config: &ModelConfig) -> Value {
    let activation = if config.mlp == MlpKind::Gelu {
        "gelu"
    } else {
        "gelu_new"
    };
    json!({
        "vocab_size": config.vocab_size, "n_positions": config.context, "n_embd": config.n_embd,
        "n_layer": config.n_layer, "n_head": config.n_head, "n_inner": config.n_inner,
        "activation_function": activation, "layer_norm_epsilon": config.norm_eps,
        "tie_word_embeddings": config.tied, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    })
}

fn llama_json(config: &ModelConfig) -> Value {
    let Position::Rotary { theta, scaling, .. } = config.position else {
        unreachable!("these families are rotary")
    };
    let rope = match scaling {
        None => json!({"rope_type": "default", "rope_theta": theta}),
        Some(RotaryScaling::Linear { factor }) => json!({
            "rope_type": "linear", "rope_theta": theta, "factor": factor,
        }),
        Some(RotaryScaling::Llama3 {
            factor,
            low,
            high,
            original_context,
        }) => json!({
            "rope_type": "llama3", "rope_theta": theta, "factor": factor,
            "low_freq_factor": low, "high_freq_factor": high,
            "original_max_position_embeddings": original_context as i64,
        }),
    };
    let mut json = json!({
        "vocab_size": config.vocab_size, "hidden_size": config.n_embd, "intermediate_size": config.n_inner,
        "num_hidden_layers": config.n_layer, "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head, "head_dim": config.head_dim,
        "max_position_embeddings": config.context, "rms_norm_eps": config.norm_eps,
        "rope_theta": theta, "rope_parameters": rope, "tie_word_embeddings": config.tied,
        "attention_bias": config.out_bias, "attention_dropout": 0.0,
        "hidden_act": if config.mlp == MlpKind::ReluSquared { "relu2" } else { "silu" },
    });
    let object = json.as_object_mut().expect("built as an object");
    if scaling.is_some() {
        object.insert("rope_scaling".to_owned(), rope);
    }
    match config.family {
        Family::Llama => drop(object.insert("mlp_bias".to_owned(), json!(config.mlp_bias))),
        Family::Mistral => {
            drop(object.insert("sliding_window".to_owned(), json!(config.sliding_window)))
        }
        Family::NanoChat => drop(object.insert(
            "final_logit_softcapping".to_owned(),
            json!(config.logit_cap),
        )),
        _ => {}
    }
    debug_assert!(
        config.norm != NormKind::Layer
            && (config.qk_norm != QkNorm::Weighted || config.family == Family::Qwen3)
    );
    json
}
