//! `generation_config.json` beyond its special tokens: how a model's publisher would have it sampled.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::config::Fields;
use super::error::FolderError;
use super::folder::{GENERATION, read_json, write_json};
use super::peft;
use crate::generate::Beams;
use crate::sample::Sampling;

/// What a model folder recommends; what it does not name is none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recommended {
    /// `do_sample`: whether to draw at random, or always to take the most likely token.
    pub sample: Option<bool>,
    /// `temperature`.
    pub temperature: Option<f64>,
    /// `top_k`; 0 keeps all.
    pub top_k: Option<usize>,
    /// `top_p`.
    pub top_p: Option<f64>,
    /// `min_p`.
    pub min_p: Option<f64>,
    /// `repetition_penalty`.
    pub repetition_penalty: Option<f64>,
    /// `max_new_tokens`.
    pub max_tokens: Option<usize>,
    /// `num_beams`, where texts are to be searched for and not drawn.
    pub beams: Option<usize>,
    /// `length_penalty` of a search.
    pub length_penalty: Option<f64>,
    /// Fields that would change what Transformers writes, and that nothing here looks at. They are handed on.
    pub ignored: Map<String, Value>,
}

/// Such fields, which mean something in a search alone.
const OF_SEARCH: [&str; 2] = ["early_stopping", "renormalize_logits"];

/// Such fields, each with the number that means nothing; for lists and flags that is none at all.
const NOT_READ: &[(&str, f64)] = &[
    ("num_beam_groups", 1.0),
    ("typical_p", 1.0),
    ("encoder_repetition_penalty", 1.0),
    ("guidance_scale", 1.0),
    ("max_length", f64::NAN),
    ("max_time", f64::NAN),
    ("top_h", f64::NAN),
    ("dola_layers", f64::NAN),
    ("watermarking_config", 0.0),
    ("token_healing", 0.0),
    ("constraints", 0.0),
    ("diversity_penalty", 0.0),
    ("no_repeat_ngram_size", 0.0),
    ("encoder_no_repeat_ngram_size", 0.0),
    ("min_length", 0.0),
    ("min_new_tokens", 0.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("penalty_alpha", 0.0),
    ("suppress_tokens", 0.0),
    ("begin_suppress_tokens", 0.0),
    ("bad_words_ids", 0.0),
    ("force_words_ids", 0.0),
    ("forced_bos_token_id", f64::NAN),
    ("forced_eos_token_id", f64::NAN),
    ("exponential_decay_length_penalty", 0.0),
    ("sequence_bias", 0.0),
    ("stop_strings", 0.0),
    ("early_stopping", 0.0),
    ("renormalize_logits", 0.0),
];

fn is_asked(value: &Value, nothing: f64) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Number(number) => number.as_f64() != Some(nothing),
        Value::Array(all) => !all.is_empty(),
        Value::Object(all) => !all.is_empty(),
        Value::Bool(true) | Value::String(_) => true,
    }
}

impl Recommended {
    /// The sampling that the folder asks for, or `usual` where it asks for none.
    ///
    /// As in Transformers, `do_sample` that is false is greedy, and a folder that names some of the
    /// values means Transformers' defaults for the others: temperature 1, the 50 most likely tokens.
    /// A folder that names values and no `do_sample` is taken to mean them.
    pub fn sampling(&self, usual: &Sampling) -> Sampling {
        let names_some = self.temperature.is_some()
            || self.top_k.is_some()
            || self.top_p.is_some()
            || self.min_p.is_some();
        let base = match self.sample {
            Some(false) => Sampling::greedy(),
            None if !names_some => usual.clone(),
            _ => Sampling {
                temperature: self.temperature.unwrap_or(1.0),
                top_k: self.top_k.unwrap_or(50),
                top_p: self.top_p.unwrap_or(1.0),
                min_p: self.min_p.unwrap_or(0.0),
                ..Sampling::default()
            },
        };
        Sampling {
            repetition_penalty: self.repetition_penalty.unwrap_or(usual.repetition_penalty),
            seed: usual.seed,
            ..base
        }
    }

    fn read(fields: &Fields<'_>) -> Result<Self, FolderError> {
        let number = |name: &str| match fields.find(&[name]) {
            Some(_) => fields.float(name, 0.0).map(Some),
            None => Ok(None),
        };
        let count = |name: &str| match fields.int_or_none(&[name])? {
            // Some tools write -1 for "all".
            Some(count) => Ok::<_, FolderError>(Some(usize::try_from(count).unwrap_or(0))),
            None => Ok(None),
        };
        let sample = fields.find(&["do_sample"]).map(|_| ());
        let asked = NOT_READ.iter().filter_map(|&(name, nothing)| {
            let value = fields.find(&[name])?;
            is_asked(value, nothing).then(|| (name.to_owned(), value.clone()))
        });
        let mut found = Self {
            sample: sample
                .map(|()| fields.flag("do_sample", false))
                .transpose()?,
            temperature: number("temperature")?,
            top_k: count("top_k")?,
            top_p: number("top_p")?,
            min_p: number("min_p")?,
            repetition_penalty: number("repetition_penalty")?,
            max_tokens: count("max_new_tokens")?.filter(|&count| count > 0),
            beams: count("num_beams")?.filter(|&width| width != 1),
            length_penalty: number("length_penalty")?,
            ignored: asked.collect(),
        };
        found
            .sampling(&Sampling::default())
            .validate()
            .map_err(|error| {
                fields.error(
                    error.field,
                    format!("is {}: it must be {}", error.value, error.must),
                )
            })?;
        // Drawn at random they are another search, and too many are none that is made here.
        let made = found.search(None).validate(&Sampling::greedy()).is_ok();
        if (found.sample == Some(true) || !made)
            && let Some(width) = found.beams.take()
        {
            found.ignored.insert("num_beams".to_owned(), json!(width));
        }
        Ok(found)
    }

    /// The search that the folder asks for, or one of another width.
    pub fn search(&self, width: Option<usize>) -> Beams {
        let usual = Beams::default();
        Beams {
            width: width.or(self.beams).unwrap_or(usual.width),
            length_penalty: self.length_penalty.unwrap_or(usual.length_penalty),
        }
    }

    /// The names of those of the ignored fields that matter where texts are searched for or drawn so.
    pub fn missed(&self, sampling: &Sampling, beams: &Beams) -> Vec<&str> {
        let matters = |name: &str| match name {
            "renormalize_logits" => beams.is_search() && sampling.has_penalty(),
            name => beams.is_search() || !OF_SEARCH.contains(&name),
        };
        let names = self.ignored.keys().map(String::as_str);
        let mut names: Vec<&str> = names.filter(|name| matters(name)).collect();
        if self.beams.is_some() && !beams.is_search() {
            names.push("num_beams");
        }
        names
    }

    fn entries(&self) -> Map<String, Value> {
        let entries = [
            ("do_sample", json!(self.sample)),
            ("temperature", json!(self.temperature)),
            ("top_k", json!(self.top_k)),
            ("top_p", json!(self.top_p)),
            ("min_p", json!(self.min_p)),
            ("repetition_penalty", json!(self.repetition_penalty)),
            ("max_new_tokens", json!(self.max_tokens)),
            ("num_beams", json!(self.beams)),
            ("length_penalty", json!(self.length_penalty)),
        ];
        let named = entries.into_iter().filter(|(_, value)| !value.is_null());
        named
            .map(|(name, value)| (name.to_owned(), value))
            .chain(self.ignored.clone())
            .collect()
    }
}

/// What a model folder recommends, or an adapter's base; nothing where there is no
/// `generation_config.json`.
///
/// # Errors
/// A file that is not JSON, or a field with a value that means nothing.
pub fn load_generation(folder: &Path) -> Result<Recommended, FolderError> {
    if peft::is_adapter(folder) {
        return load_generation(&peft::base(folder)?);
    }
    let path = folder.join(GENERATION);
    if !path.is_file() {
        return Ok(Recommended::default());
    }
    match read_json(&path)?.as_object() {
        Some(object) => Recommended::read(&Fields {
            path: &path,
            object,
        }),
        None => Ok(Recommended::default()),
    }
}

/// Adds what is recommended to the `generation_config.json` of a folder that was just saved.
///
/// # Errors
/// When the file cannot be read or written.
pub fn save_generation(recommended: &Recommended, folder: &Path) -> Result<(), FolderError> {
    let entries = recommended.entries();
    if entries.is_empty() {
        return Ok(());
    }
    let path = folder.join(GENERATION);
    let mut json = read_json(&path)?;
    if let Some(object) = json.as_object_mut() {
        object.extend(entries);
    }
    write_json(path, &json).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Recommended, FolderError> {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(GENERATION), text).expect("written");
        load_generation(folder.path())
    }

    fn usual() -> Sampling {
        Sampling {
            temperature: 0.7,
            top_p: 0.9,
            seed: 5,
            ..Sampling::default()
        }
    }

    #[test]
    fn fields_that_nothing_here_looks_at_are_named() {
        let missed = |text: &str, beams: Beams| -> Vec<String> {
            let found = read(text).expect("it is good");
            let sampling = found.sampling(&usual());
            let names = found.missed(&sampling, &beams);
            names.into_iter().map(str::to_owned).collect()
        };
        let (one, four) = (
            Beams::default(),
            Beams {
                width: 4,
                ..Beams::default()
            },
        );
        let neutral = r#"{"num_beams": 1, "no_repeat_ngram_size": 0, "typical_p": 1.0, "bad_words_ids": null,
            "suppress_tokens": [], "renormalize_logits": true, "cache_implementation": "static"}"#;
        assert_eq!(missed(neutral, one), [""; 0]);
        let asked = r#"{"no_repeat_ngram_size": 2, "typical_p": 0.9, "bad_words_ids": [[7]], "forced_bos_token_id": 0}"#;
        let mut expected = [
            "no_repeat_ngram_size",
            "typical_p",
            "bad_words_ids",
            "forced_bos_token_id",
        ];
        let mut found = missed(asked, one);
        found.sort();
        expected.sort_unstable();
        assert_eq!(found, expected);
        // Beams that are drawn at random are not followed, and these end and count in another way.
        let drawn = r#"{"num_beams": 4, "do_sample": true}"#;
        assert_eq!(missed(drawn, one), ["num_beams"]);
        assert_eq!(missed(r#"{"num_beams": 3000}"#, one), ["num_beams"]);
        let ends = r#"{"early_stopping": true, "renormalize_logits": true}"#;
        assert_eq!(missed(ends, one), [""; 0]);
        assert_eq!(missed(ends, four), ["early_stopping"]);
        let counts = r#"{"renormalize_logits": true, "repetition_penalty": 1.4}"#;
        assert_eq!(missed(counts, four), ["renormalize_logits"]);
        // A search that is asked for and not made.
        let beams = r#"{"num_beams": 4}"#;
        assert_eq!(missed(beams, one), ["num_beams"]);
        assert_eq!(missed(beams, four), [""; 0]);
    }

    #[test]
    fn beams_are_those_of_a_search() {
        let beams = |text: &str, width| read(text).expect("it is good").search(width);
        let search = |width, length_penalty| Beams {
            width,
            length_penalty,
        };
        let five = r#"{"num_beams": 5, "length_penalty": 0.6}"#;
        assert_eq!(beams(five, None), search(5, 0.6));
        assert_eq!(beams(five, Some(3)), search(3, 0.6));
        assert_eq!(beams(r#"{"length_penalty": 0.0}"#, Some(3)), search(3, 0.0));
        for none in [
            r#"{"num_beams": 1}"#,
            r#"{"num_beams": null}"#,
            r#"{"num_beams": 5, "do_sample": true}"#,
        ] {
            assert_eq!(beams(none, None), Beams::default(), "{none}");
        }
    }

    #[test]
    fn what_is_named_is_taken_as_transformers_takes_it() {
        let with = |text: &str| read(text).expect("it is good").sampling(&usual());
        assert_eq!(
            with(r#"{"eos_token_id": [1, 2], "pad_token_id": 0}"#),
            usual()
        );
        let greedy = Sampling {
            seed: 5,
            ..Sampling::greedy()
        };
        assert_eq!(with(r#"{"do_sample": false, "temperature": 0.6}"#), greedy);
        let llama = Sampling {
            temperature: 0.6,
            top_k: 50,
            top_p: 0.9,
            seed: 5,
            ..Sampling::default()
        };
        assert_eq!(
            with(r#"{"do_sample": true, "temperature": 0.6, "top_p": 0.9}"#),
            llama
        );
        assert_eq!(
            with(r#"{"temperature": 0.6, "top_p": 0.9, "top_k": null}"#),
            llama
        );
        let qwen = r#"{"do_sample": true, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05}"#;
        let expected = Sampling {
            temperature: 0.7,
            top_k: 20,
            top_p: 0.8,
            repetition_penalty: 1.05,
            seed: 5,
            ..Sampling::default()
        };
        assert_eq!(with(qwen), expected);
        let penalty = with(r#"{"repetition_penalty": 1.1}"#);
        assert_eq!(
            (penalty.temperature, penalty.repetition_penalty),
            (0.7, 1.1)
        );
    }

    #[test]
    fn values_that_mean_nothing_are_refused_by_name() {
        for (text, field) in [
            (r#"{"temperature": -1}"#, "temperature"),
            (r#"{"top_p": "high"}"#, "top_p"),
            (r#"{"do_sample": 1}"#, "do_sample"),
            (r#"{"repetition_penalty": 0}"#, "repetition_penalty"),
            (r#"{"num_beams": "four"}"#, "num_beams"),
        ] {
            let error = read(text).expect_err("refused").to_string();
            assert!(
                error.contains(field) && error.contains(GENERATION),
                "{error}"
            );
        }
    }

    #[test]
    fn it_survives_saving() {
        let found =
            read(r#"{"do_sample": true, "top_k": 20, "max_new_tokens": 512, "num_beams": 3, "length_penalty": 0.5,
                "no_repeat_ngram_size": 2, "suppress_tokens": [5], "early_stopping": true, "max_length": 30}"#)
            .expect("good");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(GENERATION), r#"{"eos_token_id": 2}"#).expect("written");
        save_generation(&found, folder.path()).expect("saved");
        assert_eq!(load_generation(folder.path()).expect("good"), found);
        let text = std::fs::read_to_string(folder.path().join(GENERATION)).expect("there");
        assert!(text.contains("\"eos_token_id\": 2"), "{text}");
        save_generation(&Recommended::default(), Path::new("nowhere")).expect("nothing to do");
    }
}
