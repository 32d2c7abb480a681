//! Which modules an adapter updates, by PEFT's rules: what a file must therefore hold.

use etude_tokenizer::python_fullmatch;
use serde_json::Value;

use super::super::config::Fields;
use super::super::error::FolderError;
use crate::lora::matches;

/// The modules that a configuration selects.
pub(super) struct Targets {
    targets: Names,
    excluded: Option<Names>,
    /// Around and in modules that are trained whole.
    saved: Vec<Test>,
    /// `layers_to_transform`; none for all.
    layers: Option<Vec<i64>>,
    /// Where a path has its layer's number; where there is none, anywhere.
    places: Vec<Test>,
}

/// Whether a path is meant.
pub(super) type Meant = Box<dyn Fn(&str) -> bool>;

/// The same; none for a pattern that is not understood here.
type Test = Option<Meant>;

enum Names {
    List(Vec<String>),
    Pattern(Test),
    /// All linear layers but the output layer.
    Linear,
}

impl Targets {
    /// Reads a configuration, which trains `saved` whole.
    pub(super) fn parse(fields: &Fields<'_>, saved: &[String]) -> Result<Self, FolderError> {
        let targets = match names(fields, "target_modules")? {
            Some(Names::Pattern(_))
                if (fields.text("target_modules"))
                    .is_some_and(|text| text.eq_ignore_ascii_case("all-linear")) =>
            {
                Names::Linear
            }
            found => found.unwrap_or(Names::List(Vec::new())),
        };
        let around = |name: &String| test(&format!(r"(?:|.*\.)(?:{name})(?:|\..*)"));
        let places = match fields.find(&["layers_pattern"]) {
            Some(Value::String(one)) if !one.is_empty() => vec![one.as_str()],
            Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let place = |pattern: &str| test(&format!(r"(?:|.*\.)(?:{pattern})\.\d+\..*"));
        Ok(Self {
            targets,
            excluded: names(fields, "exclude_modules")?,
            saved: saved.iter().map(around).collect(),
            layers: layers(fields)?,
            places: places.into_iter().map(place).collect(),
        })
    }

    /// Whether PEFT gives the module at `path` an update; none, where that depends on a pattern that is not understood.
    pub(super) fn choose(&self, path: &str) -> Option<bool> {
        let excluded = (self.excluded.iter()).map(|names| names.mean(path));
        let out: Vec<Option<bool>> = excluded
            .chain(self.saved.iter().map(|test| holds(test, path)))
            .collect();
        let is_in = match &self.targets {
            // A whole path means its module in any layer.
            Names::List(names) if names.iter().any(|name| name == path) => Some(true),
            Names::Pattern(test) => holds(test, path),
            names => names
                .mean(path)
                .map(|meant| meant && self.is_in_layers(path)),
        };
        match is_in {
            Some(false) => Some(false),
            _ if out.contains(&Some(true)) => Some(false),
            _ if out.contains(&None) => None,
            is_in => is_in,
        }
    }

    fn is_in_layers(&self, path: &str) -> bool {
        let Some(layers) = &self.layers else {
            return true;
        };
        let is_place = |test: &Test| test.as_ref().is_some_and(|test| test(path));
        if !self.places.is_empty() && !self.places.iter().any(is_place) {
            return false;
        }
        layer_of(path).is_some_and(|layer| layers.contains(&layer))
    }
}

impl Names {
    fn mean(&self, path: &str) -> Option<bool> {
        match self {
            Names::List(names) => Some(names.iter().any(|name| matches(path, name))),
            Names::Pattern(test) => holds(test, path),
            // Outside the layers are the embeddings and the output layer.
            Names::Linear => Some(layer_of(path).is_some()),
        }
    }
}

fn layer_of(path: &str) -> Option<i64> {
    path.split('.').find_map(|part| part.parse().ok())
}

fn holds(test: &Test, path: &str) -> Option<bool> {
    Some(test.as_ref()?(path))
}

pub(super) fn test(pattern: &str) -> Test {
    let test = python_fullmatch(pattern)?;
    Some(Box::new(test))
}

fn names(fields: &Fields<'_>, field: &str) -> Result<Option<Names>, FolderError> {
    match fields.find(&[field]) {
        None => Ok(None),
        Some(Value::String(pattern)) if pattern.is_empty() => Ok(None),
        Some(Value::String(pattern)) => Ok(Some(Names::Pattern(test(pattern)))),
        Some(Value::Array(names)) if names.iter().all(Value::is_string) => {
            let names = names.iter().filter_map(Value::as_str).map(str::to_owned);
            Ok(Some(Names::List(names.collect())))
        }
        Some(other) => {
            let reason = format!("is {other}, neither a list of names nor a pattern");
            Err(fields.error(field, reason))
        }
    }
}

/// One number, or a list of them; an empty one means all.
fn layers(fields: &Fields<'_>) -> Result<Option<Vec<i64>>, FolderError> {
    const FIELD: &str = "layers_to_transform";
    let Some(found) = fields.find(&[FIELD]) else {
        return Ok(None);
    };
    let one = std::slice::from_ref(found);
    let all = found.as_array().map_or(one, Vec::as_slice);
    let layers: Option<Vec<i64>> = all.iter().map(Value::as_i64).collect();
    match layers {
        Some(layers) => Ok(Some(layers).filter(|layers| !layers.is_empty())),
        None => Err(fields.error(FIELD, format!("is {found}, not a layer or a list of them"))),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn wanted(settings: &Value, saved: &[&str]) -> Vec<String> {
        let fields = Fields {
            path: Path::new("adapter_config.json"),
            object: settings.as_object().expect("an object"),
        };
        let saved: Vec<String> = saved.iter().map(|name| (*name).to_owned()).collect();
        let targets = Targets::parse(&fields, &saved).unwrap_or_else(|error| panic!("{error}"));
        let in_layer = |layer: i64| {
            ["self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"]
                .map(|module| format!("model.layers.{layer}.{module}"))
        };
        let mut paths = [in_layer(0), in_layer(1)].concat();
        paths.extend(["lm_head", "model.embed_tokens"].map(str::to_owned));
        paths.retain(|path| targets.choose(path) == Some(true));
        let short = |path: &String| path.replace("model.layers.", "").replace("_proj", "");
        paths.iter().map(short).collect()
    }

    #[test]
    fn modules_are_those_that_peft_would_update() {
        let all = ["0.self_attn.q", "0.self_attn.k", "0.mlp.down"];
        let all = [all, ["1.self_attn.q", "1.self_attn.k", "1.mlp.down"]].concat();
        for (settings, saved, expected) in [
            (json!({"target_modules": ".*_proj"}), vec![], all.clone()),
            (json!({"target_modules": "all-linear"}), vec![], all.clone()),
            (json!({"target_modules": "proj"}), vec![], vec![]),
            (json!({"target_modules": null}), vec![], vec![]),
            (
                json!({"target_modules": ["lm_head"]}),
                vec![],
                vec!["lm_head"],
            ),
            (
                json!({"target_modules": ["embed_tokens"]}),
                vec![],
                vec!["model.embed_tokens"],
            ),
            (
                json!({"target_modules": r".*\.1\..*(q|k)_proj"}),
                vec![],
                vec![all[3], all[4]],
            ),
            // Not understood, so nothing is demanded.
            (
                json!({"target_modules": ".*(?<!down)_proj"}),
                vec![],
                vec![],
            ),
            (
                json!({"target_modules": "^(?!.*mlp).*_proj$"}),
                vec![],
                vec![all[0], all[1], all[3], all[4]],
            ),
            (
                json!({"target_modules": ["q_proj", "mlp.down_proj"]}),
                vec![],
                vec![all[0], all[2], all[3], all[5]],
            ),
            (
                json!({"target_modules": ["q_proj"], "layers_to_transform": 1}),
                vec![],
                vec![all[3]],
            ),
            (
                json!({"target_modules": ["q_proj"], "layers_to_transform": []}),
                vec![],
                vec![all[0], all[3]],
            ),
            (
                json!({"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"}),
                vec![],
                vec![all[3]],
            ),
            (
                json!({"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["h"]}),
                vec![],
                vec![],
            ),
            (
                json!({"target_modules": ["model.layers.0.self_attn.q_proj"], "layers_to_transform": [1]}),
                vec![],
                vec![all[0]],
            ),
            // PEFT looks at the layers of listed names alone.
            (
                json!({"target_modules": ".*q_proj", "layers_to_transform": [1]}),
                vec![],
                vec![all[0], all[3]],
            ),
            (
                json!({"target_modules": ".*_proj", "exclude_modules": ["k_proj"]}),
                vec![],
                vec![all[0], all[2], all[3], all[5]],
            ),
            (
                json!({"target_modules": ["q_proj"], "exclude_modules": r".*layers\.0.*"}),
                vec![],
                vec![all[3]],
            ),
            (
                json!({"target_modules": ".*_proj"}),
                vec!["self_attn"],
                vec![all[2], all[5]],
            ),
            (
                json!({"target_modules": ".*"}),
                vec!["lm_head", "q_proj", "embed_tokens"],
                vec![all[1], all[2], all[4], all[5]],
            ),
        ] {
            assert_eq!(wanted(&settings, &saved), expected, "{settings} {saved:?}");
        }
    }

    #[test]
    fn fields_of_another_kind_are_refused_by_name() {
        for (field, value) in [
            ("layers_to_transform", json!("all")),
            ("layers_to_transform", json!([0.5])),
            ("exclude_modules", json!(1)),
            ("target_modules", json!([1])),
        ] {
            let mut settings = json!({"target_modules": ["q_proj"]});
            settings[field] = value;
            let fields = Fields {
                path: Path::new("adapter_config.json"),
                object: settings.as_object().expect("an object"),
            };
            let refused = Targets::parse(&fields, &[]).err().expect("refused");
            let told = refused.to_string();
            assert!(
                told.contains("adapter_config.json") && told.contains(field),
                "{told}"
            );
        }
    }
}
