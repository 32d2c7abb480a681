//! `adapter_config.json`, both ways. What PEFT can do and Etude cannot is refused by its field.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::super::config::Fields;
use super::super::error::FolderError;
use super::targets;
use crate::config::Family;
use crate::decoder::Decoder;
use crate::lora::{Adapter, Targets};

/// What of a configuration decides the values.
pub(super) struct PeftConfig {
    rank: i64,
    alpha: f64,
    rslora: bool,
    /// Whether each module has magnitudes.
    pub(super) dora: bool,
    rank_pattern: Map<String, Value>,
    alpha_pattern: Map<String, Value>,
    /// Names of updated modules; none when the file has a pattern over paths instead.
    pub(super) targets: Option<Vec<String>>,
    pub(super) whole: Vec<String>,
    /// The modules that it updates.
    pub(super) selected: targets::Targets,
}

/// Fields that change what an adapter means, with the values that change nothing.
fn neutral() -> [(&'static str, Vec<Value>); 13] {
    let off = || vec![json!(false)];
    let empty = || vec![json!([]), json!({})];
    [
        ("bias", vec![json!("none")]),
        ("lora_bias", off()),
        ("use_qalora", off()),
        ("layer_replication", empty()),
        ("trainable_token_indices", empty()),
        ("target_parameters", empty()),
        ("alora_invocation_tokens", empty()),
        ("arrow_config", empty()),
        ("velora_config", empty()),
        ("monteclora_config", empty()),
        ("use_bdlora", vec![Value::Null, json!(false)]),
        ("kasa_config", vec![Value::Null]),
        // These change the base's weights before training, unlike a random start.
        (
            "init_lora_weights",
            vec![
                json!(true),
                json!(false),
                json!("gaussian"),
                json!("eva"),
                json!("orthogonal"),
                json!("lora_ga"),
            ],
        ),
    ]
}

/// Reads a configuration.
pub(super) fn parse(path: &Path, json: &Value) -> Result<PeftConfig, FolderError> {
    let object = json.as_object().ok_or_else(|| FolderError::Json {
        path: path.to_owned(),
        reason: "not an object".to_owned(),
    })?;
    let fields = Fields { path, object };
    match fields.text("peft_type") {
        Some("LORA") => {}
        other => {
            let found = other.unwrap_or("none");
            return Err(fields.error("peft_type", format!("is `{found}`; Etude reads LORA")));
        }
    }
    for (field, values) in neutral() {
        fields.refuse(field, &values)?;
    }
    let rank = fields.int(&["r"])?;
    if rank < 1 {
        return Err(fields.error("r", format!("is {rank}; a rank is at least 1")));
    }
    let pattern = |field: &str| -> Result<Map<String, Value>, FolderError> {
        match fields.find(&[field]) {
            None => Ok(Map::new()),
            Some(Value::Object(map))
                if map.keys().all(|key| plain(key)) && map.values().all(Value::is_number) =>
            {
                Ok(map.clone())
            }
            Some(other) => Err(fields.error(
                field,
                format!("is {other}; numbers by a module's name or path are read, no patterns"),
            )),
        }
    };
    let names = |field: &str| -> Result<Option<Vec<String>>, FolderError> {
        match fields.find(&[field]) {
            None => Ok(Some(Vec::new())),
            Some(Value::String(_)) => Ok(None),
            Some(Value::Array(names)) if names.iter().all(Value::is_string) => Ok(Some(
                names
                    .iter()
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect(),
            )),
            Some(other) => Err(fields.error(field, format!("is {other}, not a list of names"))),
        }
    };
    let rank_pattern = pattern("rank_pattern")?;
    for (name, value) in &rank_pattern {
        if value.as_i64().is_none_or(|rank| rank < 1) {
            let reason = format!("gives `{name}` {value}; a rank is a whole number of at least 1");
            return Err(fields.error("rank_pattern", reason));
        }
    }
    let whole = names("modules_to_save")?.unwrap_or_default();
    Ok(PeftConfig {
        rank,
        alpha: fields.float("lora_alpha", 8.0)?,
        rslora: fields.flag("use_rslora", false)?,
        dora: fields.flag("use_dora", false)?,
        rank_pattern,
        alpha_pattern: pattern("alpha_pattern")?,
        targets: names("target_modules")?,
        selected: targets::Targets::parse(&fields, &whole)?,
        whole,
    })
}

/// A name or path, as opposed to a regular expression.
fn plain(key: &str) -> bool {
    key.chars()
        .all(|c| c.is_alphanumeric() || c == '_' || c == '.')
}

/// Whether a pattern's key means the module at `path`: PEFT takes the key for a regular expression of the path or of its
/// end after a dot, and a dot in it for any character.
fn is_meant(path: &str, key: &str) -> bool {
    let Some(start) = path.len().checked_sub(key.len()) else {
        return false;
    };
    let (before, end) = path.as_bytes().split_at(start);
    let alike = |(one, other): (&u8, u8)| *one == other || other == b'.';
    (before.is_empty() || before.ends_with(b".")) && end.iter().zip(key.bytes()).all(alike)
}

impl PeftConfig {
    /// Rank and scale of the module at `path`.
    pub(super) fn of(&self, path: &str) -> (i64, f64) {
        let pattern = |map: &Map<String, Value>| {
            let (_, value) = map.iter().find(|(key, _)| is_meant(path, key))?;
            value.as_f64()
        };
        let rank = pattern(&self.rank_pattern).map_or(self.rank, |rank| rank as i64);
        let alpha = pattern(&self.alpha_pattern).unwrap_or(self.alpha);
        (rank, crate::lora::scale(alpha, rank, self.rslora))
    }
}

/// Writes the configuration of a decoder's adapter, for PEFT.
pub(super) fn to_json(decoder: &Decoder, adapter: &Adapter) -> Value {
    let config = adapter.config();
    let leaf = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let targets: Vec<String> = match &config.targets {
        Targets::Named(names) => names.clone(),
        Targets::AllLinear => {
            let paths = adapter.layers.iter().flat_map(|layer| &layer.modules);
            BTreeSet::from_iter(paths.map(|path| leaf(path)))
                .into_iter()
                .collect()
        }
    };
    let mut whole = config.modules_to_save.clone();
    // A tied embedding is the output layer too, and PEFT keeps a copy of each.
    if decoder.config().tied && adapter.whole.iter().any(|name| name == "embedding.weight") {
        let embedding = if decoder.config().family == Family::Gpt2 {
            "wte"
        } else {
            "embed_tokens"
        };
        whole.retain(|name| {
            !embedding.ends_with(name.as_str()) && !name.ends_with(embedding) && name != "lm_head"
        });
        whole.extend([embedding.to_owned(), "lm_head".to_owned()]);
    }
    let alpha = if config.alpha.fract() == 0.0 {
        json!(config.alpha as i64)
    } else {
        json!(config.alpha)
    };
    json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": adapter.base(), "revision": null,
        "inference_mode": true, "r": config.rank, "lora_alpha": alpha, "lora_dropout": config.dropout,
        "use_rslora": config.rslora, "use_dora": config.dora, "lora_bias": false, "bias": "none",
        "target_modules": targets, "modules_to_save": if whole.is_empty() { Value::Null } else { json!(whole) },
        "fan_in_fan_out": decoder.config().family == Family::Gpt2, "init_lora_weights": true,
        "rank_pattern": {}, "alpha_pattern": {}, "layers_to_transform": null, "layers_pattern": null,
    })
}
