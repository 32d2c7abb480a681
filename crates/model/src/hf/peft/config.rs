//! `adapter_config.json`, both ways. What PEFT can do and Etude cannot is refused by its field.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use super::super::config::Fields;
use super::super::error::FolderError;
use super::targets::{self, Meant};
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
    /// Whether a base's tied embedding and output layer stay one matrix.
    pub(super) tying: bool,
    /// Which biases it trains, where that is not none.
    biases: Option<String>,
    rank_pattern: Pattern,
    alpha_pattern: Pattern,
    /// Names of updated modules; none when the file has a pattern over paths instead.
    pub(super) targets: Option<Vec<String>>,
    pub(super) whole: Vec<String>,
    /// The modules that it updates.
    pub(super) selected: targets::Targets,
}

/// Numbers by the modules that they are for, in the file's order.
type Pattern = Vec<(Meant, f64)>;

/// Fields that change what an adapter means, with the values that change nothing.
fn neutral() -> [(&'static str, Vec<Value>); 12] {
    let off = || vec![json!(false)];
    let empty = || vec![json!([]), json!({})];
    [
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
    let is_rank = |value: &Value| value.as_i64().is_some_and(|rank| rank >= 1);
    let whole = names("modules_to_save")?.unwrap_or_default();
    Ok(PeftConfig {
        rank,
        alpha: fields.float("lora_alpha", 8.0)?,
        rslora: fields.flag("use_rslora", false)?,
        dora: fields.flag("use_dora", false)?,
        tying: fields.flag("ensure_weight_tying", false)?,
        biases: fields
            .find(&["bias"])
            .filter(|bias| **bias != json!("none"))
            .map(Value::to_string),
        rank_pattern: pattern(
            &fields,
            "rank_pattern",
            is_rank,
            "a whole number of at least 1",
        )?,
        alpha_pattern: pattern(&fields, "alpha_pattern", Value::is_number, "a number")?,
        targets: names("target_modules")?,
        selected: targets::Targets::parse(&fields, &whole)?,
        whole,
    })
}

/// Reads numbers by module. PEFT takes a key for a regular expression of a module's path or of its end after a dot, so
/// that a dot in it is any character.
fn pattern(
    fields: &Fields<'_>,
    field: &str,
    is_fit: fn(&Value) -> bool,
    kind: &str,
) -> Result<Pattern, FolderError> {
    let found = match fields.find(&[field]) {
        None => return Ok(Pattern::new()),
        Some(Value::Object(found)) => found,
        Some(other) => {
            let reason = format!("is {other}, not {kind} by a module's name or a pattern");
            return Err(fields.error(field, reason));
        }
    };
    let mut pattern = Pattern::new();
    for (key, value) in found {
        let number = value.as_f64().filter(|_| is_fit(value));
        let number = number.ok_or_else(|| {
            fields.error(field, format!("gives `{key}` {value}; it must be {kind}"))
        })?;
        let meant = targets::test(&format!(r"(?:.*\.)?(?:{key})")).ok_or_else(|| {
            let reason = format!(
                "has the pattern `{key}`, which Etude does not understand; write the names of the modules instead"
            );
            fields.error(field, reason)
        })?;
        pattern.push((meant, number));
    }
    Ok(pattern)
}

impl PeftConfig {
    /// Refuses trained biases, but for those of a base that has none.
    pub(super) fn demand_no_biases(
        &self,
        path: &Path,
        decoder: &Decoder,
    ) -> Result<(), FolderError> {
        let mut params = decoder.params().entries().iter();
        match &self.biases {
            Some(biases) if params.any(|param| param.name.ends_with(".bias")) => {
                Err(FolderError::Field {
                    path: path.to_owned(),
                    field: "bias".to_owned(),
                    reason: format!(
                        "is {biases}: adapters that train the base's biases are not supported (only \"none\")"
                    ),
                })
            }
            _ => Ok(()),
        }
    }

    /// Rank and scale of the module at `path`.
    pub(super) fn of(&self, path: &str) -> (i64, f64) {
        let pattern = |pattern: &Pattern| {
            let found = pattern.iter().find(|(meant, _)| meant(path));
            found.map(|(_, number)| *number)
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
    // A tied embedding is the output layer too. PEFT writes a copy of each, and trains them as one where it is told to.
    let tying =
        decoder.config().tied && adapter.whole.iter().any(|name| name == "embedding.weight");
    if tying {
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
    let mut json = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": adapter.base(), "revision": null,
        "inference_mode": true, "r": config.rank, "lora_alpha": alpha, "lora_dropout": config.dropout,
        "use_rslora": config.rslora, "use_dora": config.dora, "lora_bias": false, "bias": "none",
        "target_modules": targets, "modules_to_save": if whole.is_empty() { Value::Null } else { json!(whole) },
        "fan_in_fan_out": decoder.config().family == Family::Gpt2, "init_lora_weights": true,
        "rank_pattern": {}, "alpha_pattern": {}, "layers_to_transform": null, "layers_pattern": null,
    });
    if tying {
        json["ensure_weight_tying"] = json!(true);
    }
    json
}
