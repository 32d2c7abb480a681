//! Evaluation end to end on a random model.

use etude_data::{ExampleSettings, Message, PlainFormat, Role, TaskBody, Truncation, collate};
use etude_model::{Family, Prompt, TextGenerator, TextSettings};
use etude_scores::{Metric, Pair};

use super::testing::{decoder, example, tokenizer};
use super::*;
use crate::nats::windows_loss;
use crate::progress::{Progress, Stage};

fn renderer(tokenizer: &Tokenizer, format: ExampleFormat, context: usize) -> Renderer {
    let settings = ExampleSettings {
        format,
        context,
        answer_tokens: 8,
        truncation: Truncation::Drop,
    };
    Renderer::new(tokenizer, settings).expect("possible")
}

use etude_data::ExampleFormat;

fn plain() -> ExampleFormat {
    ExampleFormat::Plain(PlainFormat::default())
}

fn examples() -> Vec<TaskExample> {
    let long = "red ".repeat(100);
    vec![
        example(1, "a rose", "is a rose"),
        example(2, "roses are red, violets are", "blue"),
        example(3, &long, "too long"),
        example(4, "é", "日本 🌹"),
        example(5, "is a rose red?", "a rose is red"),
    ]
}

fn settings() -> TaskSettings {
    TaskSettings {
        max_tokens: 12,
        rows: 3,
        ..TaskSettings::default()
    }
}

#[test]
fn items_are_the_models_own_answers_in_order() -> Result<()> {
    let (tokenizer, decoder) = (tokenizer(), decoder(Family::Llama, 64));
    let talk = TaskExample {
        body: TaskBody::Chat {
            messages: [
                (Role::User, "a rose"),
                (Role::Assistant, "red"),
                (Role::User, "why"),
                (Role::Assistant, "é!"),
            ]
            .map(|(role, content)| Message {
                role,
                content: content.to_owned(),
            })
            .to_vec(),
        },
        ..example(6, "", "")
    };
    for format in [plain(), ExampleFormat::chat()] {
        let renderer = renderer(&tokenizer, format.clone(), 64);
        let mut examples = examples();
        examples[1].also = vec!["as blue".to_owned()];
        if format == ExampleFormat::chat() {
            examples.push(talk.clone());
        }
        let mut heard = Vec::new();
        let listen = &mut |progress| {
            heard.push(progress);
            Ok(())
        };
        let result = evaluate(
            &decoder,
            &tokenizer,
            &renderer,
            &examples,
            &settings(),
            listen,
        )?;
        assert_eq!(
            result.left_out,
            BTreeMap::from([("too long".to_owned(), 1)])
        );
        examples.remove(2);
        assert_eq!(result.items.len(), examples.len());
        let generator = TextGenerator::new(&decoder, &tokenizer)?;
        for (item, example) in result.items.iter().zip(&examples) {
            assert_eq!(
                (&item.id, item.reference.as_str(), &item.also),
                (&example.id, example.reference_text(), &example.also)
            );
            assert_eq!(item.prompt, example.prompt_text());
            let prompt = renderer.render_prompt(example)?.kept().expect("fits");
            let alone = TextSettings {
                max_tokens: 12,
                ..TextSettings::default()
            };
            let alone = generator.complete(&Prompt::Ids(prompt.ids), &alone)?;
            assert_eq!(
                (&item.prediction, item.tokens),
                (&alone.text, alone.ids.len() as u64)
            );
            assert_eq!(item.finish_reason, alone.finish_reason);
            let whole = renderer.render(example)?.kept().expect("fits");
            let (nats, _) = windows_loss(&decoder, [collate(&[&whole], 0)]);
            assert!((item.nats - nats).abs() < 1e-9 && item.nats > 0.0);
            assert_eq!(item.bytes, whole.target_bytes);
        }
        if format == ExampleFormat::chat() {
            let last = result.items.last().expect("there");
            assert_eq!((last.reference.as_str(), last.bytes), ("é!", 6));
        }
        let total = examples.len() as u64;
        for stage in [Stage::Scoring, Stage::Generating] {
            let last = heard
                .iter()
                .rfind(|progress: &&Progress| progress.stage == stage);
            assert_eq!(
                last,
                Some(&Progress {
                    stage,
                    done: total,
                    total
                })
            );
        }
        assert!(result.tokens_per_second > 0.0 && result.truncated_prompts == 0);
    }
    Ok(())
}

#[test]
fn a_listener_ends_an_evaluation() {
    let (tokenizer, decoder) = (tokenizer(), decoder(Family::Gpt2, 64));
    let renderer = renderer(&tokenizer, plain(), 64);
    for stage in [Stage::Scoring, Stage::Generating] {
        let ended = evaluate(
            &decoder,
            &tokenizer,
            &renderer,
            &examples(),
            &settings(),
            &mut |progress| {
                anyhow::ensure!(progress.stage != stage, "enough");
                Ok(())
            },
        );
        assert_eq!(ended.expect_err("the listener's").to_string(), "enough");
    }
}

#[test]
fn scores_are_those_of_the_items() -> Result<()> {
    let (tokenizer, decoder) = (tokenizer(), decoder(Family::Gpt2, 64));
    let renderer = renderer(&tokenizer, plain(), 64);
    let result = evaluate(
        &decoder,
        &tokenizer,
        &renderer,
        &examples(),
        &settings(),
        &mut |_| Ok(()),
    )?;
    let names: Vec<&str> = result.scores.keys().map(String::as_str).collect();
    let usual = [
        "bits_per_byte",
        "bleu",
        "chrf",
        "exact_match",
        "rouge_1",
        "rouge_2",
        "rouge_l",
        "token_f1",
    ];
    assert_eq!(names, usual);
    let pair = |item: &TaskItem| Pair::new(&item.prediction, [&item.reference]);
    let pairs: Vec<Pair> = result.items.iter().map(pair).collect();
    for name in ["bleu", "chrf", "rouge_l", "token_f1"] {
        assert_eq!(result.scores[name], Metric::parse(name)?.score(&pairs)?);
    }
    // The answers' bytes: 9 + 4 + 11 + 13.
    let nats: f64 = result.items.iter().map(|item| item.nats).sum();
    let bits = result.scores["bits_per_byte"];
    assert!((bits.value - nats / 37.0 / std::f64::consts::LN_2).abs() < 1e-12);
    assert!(bits.low < bits.value && bits.value < bits.high);
    Ok(())
}

#[test]
fn the_end_token_is_part_of_the_answers_cost() -> Result<()> {
    let (tokenizer, decoder) = (tokenizer(), decoder(Family::Llama, 64));
    let renderer = renderer(&tokenizer, plain(), 64);
    let example = example(1, "a", "rose");
    let whole = renderer.render(&example)?.kept().expect("fits");
    assert_eq!(whole.ids.last().copied(), tokenizer.eos_id());
    let (all, count) = windows_loss(&decoder, [collate(&[&whole], 0)]);
    let result = evaluate(
        &decoder,
        &tokenizer,
        &renderer,
        &[example],
        &settings(),
        &mut |_| Ok(()),
    )?;
    assert!((result.items[0].nats - all).abs() < 1e-12);
    assert_eq!(count as usize, tokenizer.encode("rose")?.len() + 1);
    assert_eq!(result.items[0].bytes, 4);
    Ok(())
}

#[test]
fn a_templates_own_text_is_no_part_of_an_answer() -> Result<()> {
    let (tokenizer, decoder) = (tokenizer(), decoder(Family::Llama, 64));
    let generator = TextGenerator::new(&decoder, &tokenizer)?;
    let free = renderer(&tokenizer, plain(), 64);
    let prompt = free
        .render_prompt(&example(1, "a", "b"))?
        .kept()
        .expect("fits");
    let text = TextSettings {
        max_tokens: 12,
        ..TextSettings::default()
    };
    let made = generator.complete(&Prompt::Ids(prompt.ids), &text)?.text;
    // A template that begins as this model's answer happens to.
    let begin: String = made.chars().take(2).collect();
    let format = PlainFormat {
        completion: format!("{begin}{{completion}}#"),
        ..PlainFormat::default()
    };
    let renderer = renderer(&tokenizer, ExampleFormat::Plain(format), 64);
    let examples = [example(1, "a", "b")];
    let result = evaluate(
        &decoder,
        &tokenizer,
        &renderer,
        &examples,
        &settings(),
        &mut |_| Ok(()),
    )?;
    assert_eq!(format!("{begin}{}", result.items[0].prediction), made);
    Ok(())
}

#[test]
fn what_cannot_be_evaluated_is_said() {
    let (tokenizer, decoder) = (tokenizer(), decoder(Family::Llama, 64));
    let says = |context, examples: &[TaskExample], settings: &TaskSettings, words: &str| {
        let renderer = renderer(&tokenizer, plain(), context);
        let found = evaluate(
            &decoder,
            &tokenizer,
            &renderer,
            examples,
            settings,
            &mut |_| Ok(()),
        );
        let error = format!("{:#}", found.expect_err(words));
        assert!(error.contains(words), "{error:?} lacks {words:?}");
    };
    says(64, &[], &settings(), "no example");
    says(64, &examples()[2..3], &settings(), "1 too long");
    says(65, &examples(), &settings(), "the model's is 64");
    says(
        64,
        &examples(),
        &TaskSettings {
            metrics: vec![],
            ..settings()
        },
        "metrics is empty",
    );
    says(
        64,
        &examples(),
        &TaskSettings {
            max_tokens: 0,
            ..settings()
        },
        "max_tokens = 0",
    );
    says(64, &[example(9, "a", " ")], &settings(), "task.jsonl:9");
    let bootstrap = Bootstrap {
        resamples: 0,
        ..Bootstrap::default()
    };
    says(
        64,
        &examples(),
        &TaskSettings {
            bootstrap,
            ..settings()
        },
        "resamples",
    );
}

#[test]
fn settings_and_metrics_are_text() -> Result<()> {
    let json = r#"{"metrics": ["rouge_l", "bits-per-byte"], "max_tokens": 9}"#;
    let settings: TaskSettings = serde_json::from_str(json)?;
    let names: Vec<&str> = settings.metrics.iter().map(TaskMetric::name).collect();
    assert_eq!(
        (names, settings.rows),
        (vec!["rouge_l", "bits_per_byte"], 32)
    );
    assert_eq!(
        serde_json::from_str::<TaskSettings>(&serde_json::to_string(&settings)?)?,
        settings
    );
    assert!(!settings.metrics[1].higher_is_better() && settings.metrics[0].higher_is_better());
    let error =
        serde_json::from_str::<TaskSettings>(r#"{"metrics": ["rogue_l"]}"#).expect_err("unknown");
    assert!(error.to_string().contains("rouge_l"), "{error}");
    assert!(serde_json::from_str::<TaskSettings>(r#"{"max_token": 9}"#).is_err());
    Ok(())
}

#[test]
fn a_classification_chooses_the_answer_that_costs_least() -> Result<()> {
    let (tokenizer, decoder) = (tokenizer(), decoder(Family::Llama, 64));
    let renderer = renderer(&tokenizer, plain(), 64);
    let answers = ["red", "blue", "a rose"];
    let examples: Vec<TaskExample> = (0..9)
        .map(|line| {
            example(
                line,
                &format!("roses are {line}"),
                answers[line as usize % 3],
            )
        })
        .collect();
    let settings = TaskSettings {
        metrics: ["choice_accuracy", "choice_macro_f1"]
            .map(|name| TaskMetric::parse(name).expect("known"))
            .to_vec(),
        ..settings()
    };
    let result = evaluate(
        &decoder,
        &tokenizer,
        &renderer,
        &examples,
        &settings,
        &mut |_| Ok(()),
    )?;
    let mut right = 0;
    for (item, wanted) in result.items.iter().zip(&examples) {
        let cost = |answer: &str| -> Result<f64> {
            let asked = example(wanted.source.line, &item.prompt, answer);
            let whole = renderer.render(&asked)?.kept().expect("fits");
            Ok(windows_loss(&decoder, [collate(&[&whole], 0)]).0)
        };
        let costs = answers.map(|answer| cost(answer).expect("scored"));
        let least = costs.iter().copied().fold(f64::INFINITY, f64::min);
        let chosen = item.chosen.as_deref().expect("compared");
        assert!((cost(chosen)? - least).abs() < 1e-9, "{costs:?} {chosen}");
        right += usize::from(chosen == item.reference);
    }
    assert_eq!(result.scores["choice_accuracy"].value, right as f64 / 9.0);
    assert!(result.scores["choice_macro_f1"].value <= 1.0);
    Ok(())
}

#[test]
fn a_pace_is_measured_on_the_longest_and_a_listener_ends_it() -> Result<()> {
    let (tokenizer, decoder) = (tokenizer(), decoder(Family::Gpt2, 64));
    let renderer = renderer(&tokenizer, plain(), 64);
    let examples: Vec<TaskExample> = (1..6)
        .map(|number| example(number, &"a question ".repeat(number as usize), "an answer"))
        .collect();
    let settings = TaskSettings {
        rows: 2,
        max_tokens: 20,
        ..TaskSettings::default()
    };
    let pace = task_pace(
        &decoder,
        &tokenizer,
        &renderer,
        &examples,
        &settings,
        &mut |_| Ok(()),
    )?;
    assert!(pace.reading > 0.0 && pace.token > 0.0, "{pace:?}");
    assert!(pace.seconds(20) > pace.seconds(1), "{pace:?}");
    assert_eq!(pace.seconds(1), pace.reading);
    let choice = TaskSettings {
        metrics: vec![TaskMetric::ChoiceAccuracy],
        choices: vec!["an answer".to_owned(), "another".to_owned()],
        ..settings.clone()
    };
    let listen = &mut |_| Ok(());
    let pace = task_pace(&decoder, &tokenizer, &renderer, &examples, &choice, listen)?;
    assert!(pace.reading > 0.0 && pace.token == 0.0, "{pace:?}");
    let listen = &mut |_| anyhow::bail!("enough");
    let ended = task_pace(
        &decoder, &tokenizer, &renderer, &examples, &settings, listen,
    );
    assert_eq!(ended.expect_err("the listener's").to_string(), "enough");
    // All of five short ones would fit a batch of likelihoods; of answers two go together.
    let (items, _) = render(&renderer, &examples)?;
    assert_eq!(pace::longest(&items, 2).len(), 5);
    assert_eq!(pace::longest(&items, 2)[0].id, examples[4].id);
    Ok(())
}

#[test]
fn an_answer_that_would_be_cut_is_not_chosen_from() -> Result<()> {
    let tokenizer = tokenizer();
    let settings = ExampleSettings {
        format: plain(),
        context: 24,
        answer_tokens: 8,
        truncation: Truncation::Truncate,
    };
    let renderer = Renderer::new(&tokenizer, settings)?;
    let choice = TaskSettings {
        metrics: vec![TaskMetric::ChoiceAccuracy],
        choices: vec![
            "a".to_owned(),
            "a rose, and another rose, as ever".to_owned(),
        ],
        ..TaskSettings::default()
    };
    let examples = [example(1, "x", "a"), example(2, "y", "a")];
    let refused = check_examples(&renderer, &examples, &choice).expect_err("cut");
    assert!(
        format!("{refused:#}").contains("does not fit"),
        "{refused:#}"
    );
    let fits = TaskSettings {
        choices: vec!["a".to_owned(), "b".to_owned()],
        ..choice
    };
    check_examples(&renderer, &examples, &fits)
}
