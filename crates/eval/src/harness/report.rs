//! Results and samples as lm-evaluation-harness writes them, so that what reads its files reads these.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::metric::HarnessMetric;
use super::sample::{Likelihood, Outcome, Sample};
use super::score::{HarnessResult, Scored};
use super::spec::TaskKind;

/// The results of a model on several tasks: `results`, `groups`, `group_subtasks`, `configs`, `versions`,
/// `n-shot`, `higher_is_better` and `n-samples` as lm-evaluation-harness has them. Not of its layout:
/// `intervals`, the bootstrap interval of each score, and `chance`, what guessing gives.
///
/// A task that is scored apart (`by`) is a group whose subtasks are called `TASK_VALUE`.
pub fn results_json(results: &[HarnessResult]) -> Value {
    let mut top: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for key in [
        "results",
        "groups",
        "group_subtasks",
        "configs",
        "versions",
        "n-shot",
        "higher_is_better",
        "n-samples",
        "intervals",
        "chance",
    ] {
        top.insert(key, Map::new());
    }
    let mut put = |key: &'static str, task: &str, value: Value| {
        top.entry(key).or_default().insert(task.to_owned(), value);
    };
    for result in results {
        let task = result.spec.name.as_str();
        put("results", task, scores(task, &result.all));
        put("configs", task, config(result));
        if result.parts.is_empty() {
            put("group_subtasks", task, json!([]));
        } else {
            put("groups", task, scores(task, &result.all));
            let names: Vec<String> = result
                .parts
                .keys()
                .map(|part| part_name(task, part))
                .collect();
            put("group_subtasks", task, json!(names));
        }
        let parts = result
            .parts
            .iter()
            .map(|(part, scored)| (part_name(task, part), scored));
        for (name, scored) in parts.clone() {
            put("results", &name, scores(&name, scored));
        }
        let original = |name: &str, scored: &Scored| match name == task {
            true => result.records,
            false => scored.n,
        };
        for (name, scored) in [(task.to_owned(), &result.all)].into_iter().chain(parts) {
            put("versions", &name, json!(result.spec.version));
            put("n-shot", &name, json!(result.spec.fewshot.count));
            let better = scored.scores.iter();
            let better = better
                .map(|(metric, _)| (metric.name().to_owned(), json!(metric.higher_is_better())));
            put(
                "higher_is_better",
                &name,
                better.collect::<Map<_, _>>().into(),
            );
            let counts = json!({"original": original(&name, scored), "effective": scored.n});
            put("n-samples", &name, counts);
            let intervals = scored.scores.iter().map(|(metric, score)| {
                (
                    metric.name().to_owned(),
                    json!({"low": score.low, "high": score.high}),
                )
            });
            put("intervals", &name, intervals.collect::<Map<_, _>>().into());
            if let Some(chance) = scored.chance {
                put("chance", &name, json!(chance));
            }
        }
    }
    json!(top)
}

/// What the part of a task is called.
fn part_name(task: &str, part: &str) -> String {
    format!("{task}_{part}")
}

fn scores(name: &str, scored: &Scored) -> Value {
    let mut scores = Map::new();
    scores.insert("alias".to_owned(), json!(name));
    for (metric, score) in &scored.scores {
        scores.insert(format!("{metric},none"), json!(score.value));
        let stderr = score.stderr.map_or(json!("N/A"), |stderr| json!(stderr));
        scores.insert(format!("{metric}_stderr,none"), stderr);
    }
    scores.into()
}

fn config(result: &HarnessResult) -> Value {
    let spec = &result.spec;
    // There the delimiter of a cloze belongs to its answer.
    let (delimiter, target) = match spec.kind {
        TaskKind::Cloze => (String::new(), format!("{}{}", spec.delimiter, spec.answer)),
        TaskKind::Perplexity => (spec.delimiter.clone(), spec.text.clone()),
        _ => (spec.delimiter.clone(), spec.answer.clone()),
    };
    let metric = |metric: &HarnessMetric| json!({"metric": metric.name(), "higher_is_better": metric.higher_is_better()});
    json!({
        "task": spec.name,
        "dataset_path": spec.data,
        "test_split": spec.split.name(),
        "output_type": spec.kind.output_type(),
        "description": spec.description,
        "doc_to_text": spec.context,
        "doc_to_choice": spec.choices,
        "doc_to_target": target,
        "target_delimiter": delimiter,
        "num_fewshot": spec.fewshot.count,
        "fewshot_delimiter": spec.fewshot.delimiter,
        "fewshot_config": {"sampler": spec.fewshot.sampler, "seed": spec.fewshot.seed},
        "generation_kwargs": {
            "until": spec.generation.stop,
            "max_gen_toks": spec.generation.max_tokens,
            "do_sample": false,
        },
        "metric_list": spec.metrics.iter().map(metric).collect::<Vec<_>>(),
        "metadata": {"version": spec.version},
    })
}

/// A line of a samples file.
pub fn sample_json(result: &HarnessResult, sample: &Sample) -> Value {
    let spec = &result.spec;
    let argument = |(number, (context, rest)): (usize, &(String, String))| {
        let value = match &sample.outcome {
            Outcome::Rolling { .. } => json!({"arg_0": context}),
            Outcome::Text { .. } => json!({
                "arg_0": context,
                "arg_1": {"until": spec.generation.stop, "max_gen_toks": spec.generation.max_tokens},
            }),
            _ => json!({"arg_0": context, "arg_1": rest}),
        };
        (format!("gen_args_{number}"), value)
    };
    let arguments: Map<String, Value> = sample.requests.iter().enumerate().map(argument).collect();
    let found = |found: &Likelihood| {
        let greedy = if found.is_greedy { "True" } else { "False" };
        json!([found.log_likelihood.to_string(), greedy])
    };
    let filtered: Vec<Value> = match &sample.outcome {
        Outcome::Choice { found: all, .. } => all.iter().map(found).collect(),
        Outcome::Cloze(one) => vec![found(one)],
        Outcome::Rolling { log_likelihood, .. } => vec![json!(log_likelihood.to_string())],
        Outcome::Text { made, .. } => vec![json!(made)],
    };
    let metrics: Vec<&str> = spec.metrics.iter().map(HarnessMetric::name).collect();
    let pretty = serde_json::to_string_pretty(&sample.record.value).unwrap_or_default();
    let first = sample.requests.first().map_or("", |(context, _)| context);
    let mut line = json!({
        "doc_id": sample.doc_id,
        "doc": sample.record.value,
        "target": sample.target,
        "arguments": arguments,
        "resps": filtered.iter().map(|one| json!([one])).collect::<Vec<_>>(),
        "filtered_resps": filtered,
        "filter": "none",
        "metrics": metrics,
        "doc_hash": hash(&pretty),
        "prompt_hash": hash(first),
        "target_hash": hash(&sample.target),
    });
    for metric in &spec.metrics {
        line[metric.name()] = metric.of_item(sample);
    }
    line
}

fn hash(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
