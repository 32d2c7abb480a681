//! Greedy answers to prompts, in batches of similar length. Tasks and the harness both come here.

use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::{Context, Result};
use etude_model::{Decoder, Generation, Prompt, TextGenerator, TextSettings};
use etude_tokenizer::Tokenizer;

use crate::progress::{Listener, Progress, Stage};

/// Prompt tokens that go through the model at a time.
const BATCH_TOKENS: usize = 16_384;

/// All answers, in the order of the prompts.
pub(crate) struct Answers {
    pub(crate) rows: Vec<Generation>,
    pub(crate) seconds: f64,
}

/// Answers prompts, at most `rows` at a time. `place` says where a prompt comes from.
pub(crate) fn answers(
    (decoder, tokenizer): (&Decoder, &Tokenizer),
    prompts: &[Vec<u32>],
    text: &TextSettings,
    rows: usize,
    place: &dyn Fn(usize) -> String,
    on_progress: &mut Listener<'_>,
) -> Result<Answers> {
    let generator = TextGenerator::new(decoder, tokenizer)?;
    let total = prompts.len() as u64;
    let started = Instant::now();
    // The longest come first, so that memory that does not suffice shows at once.
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|&number| std::cmp::Reverse(prompts[number].len()));
    let mut answers: Vec<Option<Generation>> = vec![None; prompts.len()];
    let mut done = 0;
    while done < order.len() {
        on_progress(Progress {
            stage: Stage::Generating,
            done: done as u64,
            total,
        })?;
        let most = (BATCH_TOKENS / prompts[order[done]].len().max(1)).clamp(1, rows);
        let here = &order[done..order.len().min(done + most)];
        let asked: Vec<Prompt> = here
            .iter()
            .map(|&number| Prompt::Ids(prompts[number].clone()))
            .collect();
        let requests: Vec<_> = asked.iter().map(|prompt| (prompt, text)).collect();
        let made = generator
            .generate(&requests, &mut |_, _| ControlFlow::Continue(()))
            .with_context(|| format!("cannot answer {} and those with it", place(here[0])))?;
        for (&number, made) in here.iter().zip(made) {
            answers[number] = Some(made);
        }
        done += here.len();
    }
    on_progress(Progress {
        stage: Stage::Generating,
        done: total,
        total,
    })?;
    let whole = "the order holds every prompt";
    Ok(Answers {
        rows: answers.into_iter().map(|row| row.expect(whole)).collect(),
        seconds: started.elapsed().as_secs_f64(),
    })
}
