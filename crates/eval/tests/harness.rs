//! The harness against what lm-evaluation-harness finds with the same tiny model and the same records
//! (`scripts/goldens/harness.py`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use etude_data::Catalog;
use etude_eval::{HarnessResult, HarnessSettings, HarnessTask, Outcome, Sample, evaluate_harness};
use etude_model::hf;
use etude_tensor::{Device, Kind};
use etude_tokenizer::Tokenizer;
use serde::Deserialize;

/// What lm-evaluation-harness found for a task.
#[derive(Deserialize)]
struct Expected {
    scores: BTreeMap<String, f64>,
    log_likelihoods: Vec<Vec<f64>>,
}

fn log_likelihoods(sample: &Sample) -> Vec<f64> {
    match &sample.outcome {
        Outcome::Choice { found, .. } => found.iter().map(|one| one.log_likelihood).collect(),
        Outcome::Cloze(one) => vec![one.log_likelihood],
        Outcome::Rolling { log_likelihood, .. } => vec![*log_likelihood],
        Outcome::Text { .. } => Vec::new(),
    }
}

fn check(result: &HarnessResult, expected: &Expected) -> Result<()> {
    let name = &result.spec.name;
    assert_eq!(
        result.samples.len(),
        expected.log_likelihoods.len(),
        "{name}"
    );
    for (sample, expected) in result.samples.iter().zip(&expected.log_likelihoods) {
        let found = log_likelihoods(sample);
        assert_eq!(found.len(), expected.len(), "{name} {}", sample.doc_id);
        for (found, expected) in found.iter().zip(expected) {
            let apart = (found - expected).abs() / expected.abs().max(1.0);
            assert!(apart < 1e-4, "{name} {}: {found} {expected}", sample.doc_id);
        }
    }
    for (metric, value) in &expected.scores {
        let found = match metric.strip_suffix("_stderr") {
            Some(metric) => result.all.get(metric).and_then(|score| score.stderr),
            None => result.all.get(metric).map(|score| score.value),
        };
        let found = found.with_context(|| format!("{name}: no {metric}"))?;
        // An untrained model's perplexities have no fourth digit that float32 could tell.
        let apart = (found - value).abs() / value.abs().max(1.0);
        let same = format!("{found:.4}") == format!("{value:.4}");
        assert!(
            same || (*value > 1000.0 && apart < 1e-4),
            "{name} {metric}: {found} {value}"
        );
    }
    Ok(())
}

#[test]
fn scores_and_likelihoods_are_those_of_lm_evaluation_harness() -> Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let goldens = here.join("tests/goldens/harness");
    let model = here.join("../model/tests/goldens/reference");
    let expected = fs::read_to_string(goldens.join("expected.json"))?;
    let expected: BTreeMap<String, Expected> = serde_json::from_str(&expected)?;
    let loaded = hf::load(&model, Kind::Float, Device::Cpu)?;
    let tokenizer = Tokenizer::load(&model)?;
    let catalog = Catalog::load(&[] as &[&Path])?;
    assert_eq!(expected.len(), 4);
    for (name, expected) in &expected {
        let file = goldens.join(format!("{name}.toml"));
        let task = HarnessTask::load(&file.to_string_lossy(), &catalog)?;
        for rows in [1, 8] {
            let settings = HarnessSettings {
                rows,
                ..HarnessSettings::default()
            };
            let result =
                evaluate_harness(&loaded.decoder, &tokenizer, &task, &settings, &mut |_| {
                    Ok(())
                })?;
            check(&result, expected)?;
        }
    }
    Ok(())
}
