//! Likelihoods against a search token by token, and what must not change them: batches, limits, shared
//! contexts.

use std::fs;
use std::path::Path;

use etude_data::Catalog;
use etude_model::{Family, Input};
use etude_tensor::{Kind, Tensor, no_grad};
use serde_json::{Value, json};

use super::*;
use crate::task::testing::{decoder, tokenizer};

/// The contract's words: each token of the continuation from all tokens before it that fit.
fn brute_force(decoder: &Decoder, request: &Request, longest: usize) -> Likelihood {
    let ids: Vec<u32> = [&request.context[..], &request.continuation[..]].concat();
    let ids = &ids[ids.len().saturating_sub(longest + 1)..];
    let first = ids.len() - request.continuation.len();
    let mut found = Likelihood {
        log_likelihood: 0.0,
        is_greedy: true,
    };
    for place in first..ids.len() {
        let before: Vec<i64> = ids[..place].iter().map(|&id| i64::from(id)).collect();
        let read = Tensor::from_slice(&before).unsqueeze(0);
        let logits = no_grad(|| decoder.logits(&decoder.hidden(Input::plain(&read), None)));
        let last = logits.select(1, before.len() as i64 - 1).select(0, 0);
        let log_probabilities = last.log_softmax(-1, Kind::Double);
        found.log_likelihood += log_probabilities.double_value(&[i64::from(ids[place])]);
        let best = log_probabilities.argmax(-1, false).int64_value(&[]);
        found.is_greedy &= best == i64::from(ids[place]);
    }
    found
}

/// Numbers that look random, below `bound`.
fn numbers(seed: u64, count: usize, bound: u32) -> Vec<u32> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32 % bound
    };
    (0..count).map(|_| next()).collect()
}

/// Contexts short and long, each with several continuations, some of them of one token.
fn requests() -> Vec<Request> {
    let mut requests = Vec::new();
    for (seed, length) in [(1, 3), (2, 60), (3, 49), (4, 1), (5, 90)] {
        let context = numbers(seed, length, 290);
        for (number, more) in [1, 1, 4, 7, 2].into_iter().enumerate() {
            requests.push(Request {
                context: context.clone(),
                continuation: numbers(seed * 100 + number as u64, more, 290),
            });
        }
    }
    // One that is another's beginning, and one that repeats it.
    let again = requests[3].clone();
    let (mut shorter, last) = (again.clone(), 5);
    shorter.continuation.truncate(last);
    requests.extend([shorter, again]);
    requests
}

#[test]
fn equals_a_search_token_by_token_whatever_the_batches() {
    let requests = requests();
    for family in [Family::Llama, Family::Gpt2] {
        let decoder = decoder(family, 96);
        for longest in [96, 40] {
            let expected: Vec<Likelihood> = requests
                .iter()
                .map(|request| brute_force(&decoder, request, longest))
                .collect();
            for rows in [1, 2, 5, 32] {
                let found = likelihoods(&decoder, &requests, (longest, rows), &mut |_| Ok(()))
                    .expect("scores");
                for (found, expected) in found.iter().zip(&expected) {
                    let difference = (found.log_likelihood - expected.log_likelihood).abs();
                    assert!(
                        difference < 1e-9,
                        "{family:?} {longest} {rows}: {difference}"
                    );
                    assert_eq!(found.is_greedy, expected.is_greedy);
                }
            }
        }
    }
}

#[test]
fn greedy_continuations_are_known_as_such() {
    let decoder = decoder(Family::Llama, 96);
    let context = numbers(7, 5, 290);
    let mut ids: Vec<i64> = context.iter().map(|&id| i64::from(id)).collect();
    for _ in 0..4 {
        let read = Tensor::from_slice(&ids).unsqueeze(0);
        let logits = no_grad(|| decoder.logits(&decoder.hidden(Input::plain(&read), None)));
        let last = logits.select(1, ids.len() as i64 - 1);
        ids.push(last.argmax(-1, false).int64_value(&[0]));
    }
    let continuation: Vec<u32> = ids[5..].iter().map(|&id| id as u32).collect();
    let mut wrong = continuation.clone();
    wrong[2] = (wrong[2] + 1) % 290;
    let requests = [continuation, wrong].map(|continuation| Request {
        context: context.clone(),
        continuation,
    });
    let found = likelihoods(&decoder, &requests, (96, 8), &mut |_| Ok(())).expect("scores");
    assert_eq!([found[0].is_greedy, found[1].is_greedy], [true, false]);
}

const CHOICES: &str = r#"
name = "flowers"
kind = "multiple-choice"
data = "flowers.jsonl"
context = "{{ question }}"
choices = "{{ options }}"
answer = "{{ answer }}"
metrics = ["acc", "acc_norm", "acc_bytes", "macro_f1"]
"#;

const FLOWERS: &[&str] = &[
    r#"{"question": "roses are", "options": ["red", "blue"], "answer": 0}"#,
    r#"{"question": "violets are", "options": ["red", "blue"], "answer": "blue"}"#,
    r#"{"question": "a rose is a", "options": ["rose", "é"], "answer": "0"}"#,
    r#"{"question": "red", "options": ["roses", "is"], "answer": 1}"#,
];

fn task(folder: &Path, toml: &str, lines: &[&str]) -> Result<HarnessTask> {
    fs::write(folder.join("flowers.jsonl"), lines.join("\n"))?;
    let file = folder.join("flowers.toml");
    fs::write(&file, toml)?;
    let catalog = Catalog::load(&[] as &[&Path])?;
    HarnessTask::load(&file.to_string_lossy(), &catalog)
}

fn run(task: &HarnessTask, settings: &HarnessSettings) -> Result<HarnessResult> {
    let decoder = decoder(Family::Llama, 96);
    evaluate_harness(&decoder, &tokenizer(), task, settings, &mut |_| Ok(()))
}

#[test]
fn scores_are_those_of_the_samples() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let task = task(folder.path(), CHOICES, FLOWERS)?;
    let result = run(&task, &HarnessSettings::default())?;
    assert_eq!(
        (result.all.n, result.records, result.all.chance),
        (4, 4, Some(0.5))
    );
    let golds: Vec<&str> = result
        .samples
        .iter()
        .map(|sample| sample.target.as_str())
        .collect();
    assert_eq!(golds, ["0", "1", "0", "1"]);
    let right = |sample: &&Sample| match &sample.outcome {
        Outcome::Choice { gold, found, .. } => {
            let best = if found[1].log_likelihood > found[0].log_likelihood {
                1
            } else {
                0
            };
            best == *gold
        }
        _ => false,
    };
    let acc = result.samples.iter().filter(right).count() as f64 / 4.0;
    let found = *result.all.get("acc").expect("asked for");
    assert_eq!(found.value, acc);
    let deviation = (acc * (1.0 - acc) * 4.0 / 3.0).sqrt() / 2.0;
    assert!((found.stderr.expect("a mean") - deviation).abs() < 1e-12);
    assert_eq!(
        result.samples[0].requests[1],
        ("roses are".into(), " blue".into())
    );
    Ok(())
}

#[test]
fn batches_and_limits_change_no_sample() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let fewshot = format!("{CHOICES}[fewshot]\ncount = 2\n");
    let task = task(folder.path(), &fewshot, FLOWERS)?;
    let whole = run(&task, &HarnessSettings::default())?;
    let alone = HarnessSettings {
        rows: 1,
        limit: 2,
        ..HarnessSettings::default()
    };
    let part = run(&task, &alone)?;
    assert_eq!((part.all.n, part.records), (2, 4));
    for sample in &part.samples {
        let same = &whole.samples[sample.doc_id];
        assert_eq!(sample.requests, same.requests);
        let (Outcome::Choice { found: a, .. }, Outcome::Choice { found: b, .. }) =
            (&sample.outcome, &same.outcome)
        else {
            panic!("choices");
        };
        for (a, b) in a.iter().zip(b) {
            assert!((a.log_likelihood - b.log_likelihood).abs() < 1e-9);
        }
    }
    // Two solved examples, none of them the question.
    for sample in &whole.samples {
        let context = &sample.requests[0].0;
        assert_eq!(context.matches("\n\n").count(), 2, "{context}");
        let question = sample.record.value["question"].as_str().expect("text");
        let solved = context
            .strip_suffix(question)
            .expect("the question comes last");
        assert!(
            !format!("\n\n{solved}").contains(&format!("\n\n{question} ")),
            "{context}"
        );
    }
    let other = fewshot.replace("count = 2", "count = 2\nseed = 7");
    let other = run(
        &self::task(folder.path(), &other, FLOWERS)?,
        &HarnessSettings::default(),
    )?;
    assert!(
        other
            .samples
            .iter()
            .zip(&whole.samples)
            .any(|(a, b)| a.requests != b.requests)
    );
    let first = fewshot.replace("count = 2", "count = 1\nsampler = \"first\"");
    let first = run(
        &self::task(folder.path(), &first, FLOWERS)?,
        &HarnessSettings::default(),
    )?;
    assert!(
        first.samples[3].requests[0]
            .0
            .starts_with("roses are red\n\nred")
    );
    Ok(())
}

#[test]
fn texts_clozes_and_answers_have_their_scores() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let lines = [
        r#"{"text": "a rose is a rose", "word": "rose", "kind": "roses"}"#,
        r#"{"text": "violets are blue", "word": "blue", "kind": "violets"}"#,
    ];
    let head = "name = \"x\"\ndata = \"flowers.jsonl\"\n";
    let rolling = task(
        folder.path(),
        &format!("{head}kind = \"perplexity\"\nby = \"{{{{ kind }}}}\"\n"),
        &lines,
    )?;
    let result = run(&rolling, &HarnessSettings::default())?;
    let decoder = decoder(Family::Llama, 96);
    let tokenizer = tokenizer();
    let encoder = Encoder::new(&tokenizer, 96);
    let nats = |text: &str| -> Result<f64> {
        Ok(-brute_force(&decoder, &encoder.windows(text)?[0], 96).log_likelihood)
    };
    let texts = ["a rose is a rose", "violets are blue"];
    let sum = nats(texts[0])? + nats(texts[1])?;
    let value = |name: &str| result.all.get(name).expect("usual").value;
    assert!((value("word_perplexity") - (sum / 8.0).exp()).abs() < 1e-9 * value("word_perplexity"));
    assert!((value("byte_perplexity") - (sum / 32.0).exp()).abs() < 1e-9);
    assert!((value("bits_per_byte") - sum / 32.0 / std::f64::consts::LN_2).abs() < 1e-9);
    let violets = result.parts["violets"]
        .get("bits_per_byte")
        .expect("usual")
        .value;
    assert!((violets - nats(texts[1])? / 16.0 / std::f64::consts::LN_2).abs() < 1e-9);

    let cloze = format!(
        "{head}kind = \"cloze\"\ncontext = \"{{{{ text.split(' ')[:-1] | join(' ') }}}}\"\nanswer = \"{{{{ word }}}}\"\n"
    );
    let result = run(
        &task(folder.path(), &cloze, &lines)?,
        &HarnessSettings::default(),
    )?;
    assert_eq!(
        result.samples[0].requests,
        [("a rose is a".to_owned(), " rose".to_owned())]
    );
    let mean = result.samples.iter().map(|sample| match sample.outcome {
        Outcome::Cloze(found) => -found.log_likelihood / 2.0,
        _ => f64::NAN,
    });
    let mean: f64 = mean.sum();
    let value = result.all.get("perplexity").expect("usual").value;
    assert!((value - mean.exp()).abs() < 1e-9 * value);

    let made = format!(
        "{head}kind = \"generation\"\ncontext = \"{{{{ text }}}}\"\nanswer = \"{{{{ [word, kind] }}}}\"\n[generation]\nmax_tokens = 3\n"
    );
    let result = run(
        &task(folder.path(), &made, &lines)?,
        &HarnessSettings::default(),
    )?;
    let Outcome::Text { references, .. } = &result.samples[1].outcome else {
        panic!("an answer");
    };
    assert_eq!(references, &["blue", "violets"]);
    assert!(result.all.get("exact_match").is_some());
    Ok(())
}

#[test]
fn results_have_the_layout_that_readers_know() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let toml = format!("{CHOICES}by = \"{{{{ options[1] }}}}\"\n");
    let result = run(
        &task(folder.path(), &toml, FLOWERS)?,
        &HarnessSettings::default(),
    )?;
    let results = results_json(std::slice::from_ref(&result));
    let flowers = &results["results"]["flowers"];
    assert_eq!(flowers["alias"], "flowers");
    assert!(flowers["acc,none"].is_number() && flowers["acc_stderr,none"].is_number());
    assert_eq!(flowers["macro_f1_stderr,none"], "N/A");
    assert_eq!(
        results["n-samples"]["flowers"],
        json!({"original": 4, "effective": 4})
    );
    assert_eq!(results["n-samples"]["flowers_blue"]["effective"], 2);
    let parts = ["flowers_blue", "flowers_is", "flowers_é"];
    assert_eq!(results["group_subtasks"]["flowers"], json!(parts));
    assert_eq!(results["groups"]["flowers"], *flowers);
    assert_eq!(
        results["configs"]["flowers"]["output_type"],
        "multiple_choice"
    );
    assert_eq!(results["versions"]["flowers"], 1);
    assert_eq!(results["higher_is_better"]["flowers"]["acc"], true);
    let line = sample_json(&result, &result.samples[0]);
    assert_eq!(
        line["arguments"]["gen_args_1"],
        json!({"arg_0": "roses are", "arg_1": " blue"})
    );
    assert_eq!(line["filtered_resps"].as_array().map(Vec::len), Some(2));
    assert_eq!(line["resps"][0][0], line["filtered_resps"][0]);
    let is_bool = |value: &Value| value == "True" || value == "False";
    assert!(is_bool(&line["filtered_resps"][0][1]) && line["acc"].is_number());
    Ok(())
}

#[test]
fn mistakes_are_named_with_line_and_remedy() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let says = |toml: &str, lines: &[&str], words: &[&str]| {
        let found = task(folder.path(), toml, lines)
            .and_then(|task| run(&task, &HarnessSettings::default()));
        let error = format!("{:#}", found.expect_err("a mistake"));
        for word in words {
            assert!(error.contains(word), "{error:?} lacks {word:?}");
        }
    };
    let bad = |line| [FLOWERS[0], line];
    says(
        CHOICES,
        &bad(r#"{"qestion": "a"}"#),
        &["flowers.jsonl:2", "no `question`", "did you mean `qestion`"],
    );
    says(
        CHOICES,
        &bad(r#"{"question": "a", "options": ["b", "c"], "answer": "d"}"#),
        &[
            "flowers.jsonl:2",
            "`d` is none of the choices `b`, `c`",
            "flowers.toml",
        ],
    );
    says(
        CHOICES,
        &bad(r#"{"question": "a", "options": "b", "answer": 0}"#),
        &["flowers.jsonl:2", "no list"],
    );
    says(
        CHOICES,
        &bad(r#"{"question": "a", "options": ["b"], "answer": 0}"#),
        &["gives 1 of them"],
    );
    says(
        CHOICES,
        &bad(r#"{"question": "a", "options": ["b", ""], "answer": 0}"#),
        &["a choice is empty"],
    );
    says(CHOICES, &bad("{"), &["flowers.jsonl:2", "not valid JSON"]);
    says(CHOICES, &bad("[]"), &["flowers.jsonl:2", "not an object"]);
    says(CHOICES, &[], &["no record"]);
    says(
        &CHOICES.replace("{{ question }}", "{{ question"),
        FLOWERS,
        &["flowers.toml", "`context`, line 1"],
    );
    says(
        &format!("{CHOICES}[fewshot]\ncount = 4\n"),
        FLOWERS,
        &["`fewshot.count` is 4", "3 examples"],
    );
    says(
        &CHOICES.replace(
            "{{ question }}",
            "{% for i in range(9999999) %}{{ i }}{% endfor %}",
        ),
        FLOWERS,
        &["flowers.jsonl:1", "`context`"],
    );
    let catalog = Catalog::load(&[] as &[&Path])?;
    let error = HarnessTask::load("gramar", &catalog)
        .expect_err("misspelt")
        .to_string();
    assert!(error.contains("did you mean `grammar`?"), "{error}");
    Ok(())
}

#[test]
fn the_built_in_task_has_scores_by_phenomenon() -> Result<()> {
    let catalog = Catalog::load(&[] as &[&Path])?;
    let task = HarnessTask::load("grammar", &catalog)?;
    let settings = HarnessSettings {
        limit: 18,
        ..HarnessSettings::default()
    };
    let result = run(&task, &settings)?;
    let parts: Vec<&str> = result.parts.keys().map(String::as_str).collect();
    assert_eq!(parts, ["agreement", "negation", "word_order"]);
    assert_eq!((result.all.chance, result.records), (Some(0.5), 450));
    assert!(result.samples[0].requests[0].0.is_empty());
    Ok(())
}
