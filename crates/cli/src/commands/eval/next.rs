//! `etude eval --next`: what a model would say next, now or at each checkpoint of its run.

use anyhow::Result;
use etude_eval::{NextToken, next_tokens};
use serde_json::{Map, Value, json};

use super::{EvalArgs, checkpoints, probes};
use crate::error::bad_input;
use crate::model::Loaded;
use crate::output;

/// How many tokens are shown.
const SHOWN: usize = 5;

pub(super) fn run(args: &EvalArgs, prompts: &[String]) -> Result<()> {
    if args.harness.checkpoints {
        return at_checkpoints(args, prompts);
    }
    let found = next(&args.device.load(&args.model)?, prompts)?;
    if args.json {
        return output::json(&json!({"next": as_json(prompts, &found)}));
    }
    let mut text = String::new();
    for (prompt, tokens) in prompts.iter().zip(&found) {
        text.push_str(&format!("{}\n", output::plain(prompt)));
        for token in tokens {
            text.push_str(&format!("  {}\n", shown(token)));
        }
    }
    output::text(&text)
}

fn at_checkpoints(args: &EvalArgs, prompts: &[String]) -> Result<()> {
    let mut steps = Vec::new();
    for (step, folder) in checkpoints::found(&args.model)? {
        steps.push((step, next(&args.device.load(&folder)?, prompts)?));
    }
    probes::keep(&args.model, "next", by_prompt(prompts, &steps));
    if args.json {
        let one = |(step, found): &(u64, Vec<Vec<NextToken>>)| json!({"step": step, "next": as_json(prompts, found)});
        return output::json(&json!({"checkpoints": steps.iter().map(one).collect::<Vec<_>>()}));
    }
    let mut text = String::new();
    for (number, prompt) in prompts.iter().enumerate() {
        text.push_str(&format!("{}\n", output::plain(prompt)));
        let row = |(step, found): &(u64, Vec<Vec<NextToken>>)| {
            let cells = found[number].iter().map(shown);
            [format!("  step {step}")]
                .into_iter()
                .chain(cells)
                .collect()
        };
        text.push_str(&output::columns(
            &steps.iter().map(row).collect::<Vec<Vec<String>>>(),
        ));
    }
    output::text(&text)
}

/// The likeliest tokens after each prompt, over the steps, as the report reads them.
fn by_prompt(prompts: &[String], steps: &[(u64, Vec<Vec<NextToken>>)]) -> Map<String, Value> {
    let of = |number: usize| {
        let at = steps
            .iter()
            .map(|(step, found)| json!({"step": step, "tokens": found[number]}));
        at.collect::<Value>()
    };
    (0..prompts.len())
        .map(|number| (prompts[number].clone(), of(number)))
        .collect()
}

fn next(loaded: &Loaded, prompts: &[String]) -> Result<Vec<Vec<NextToken>>> {
    let one = |prompt: &String| next_tokens(&loaded.decoder, &loaded.tokenizer, prompt, SHOWN);
    prompts
        .iter()
        .map(one)
        .collect::<Result<_>>()
        .map_err(bad_input)
}

fn as_json(prompts: &[String], found: &[Vec<NextToken>]) -> Vec<Value> {
    let one =
        |(prompt, tokens): (&String, &Vec<NextToken>)| json!({"prompt": prompt, "tokens": tokens});
    prompts.iter().zip(found).map(one).collect()
}

/// `61.2% " States"`, with line ends and the like as escapes.
fn shown(token: &NextToken) -> String {
    format!("{:4.1}% {:?}", 100.0 * token.probability, token.text)
}
