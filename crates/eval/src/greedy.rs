//! Greedy answers to prompts, or searched ones, in batches of similar length. Tasks and the harness both come here.

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
    /// Those of them until each batch had a token.
    pub(crate) reading: f64,
    /// Tokens after the first one, of the longest answer of each batch.
    pub(crate) steps: usize,
}

/// How many prompts go through the model together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batches {
    /// At most.
    rows: usize,
    /// Rows that each prompt takes.
    width: usize,
    /// Ends each answer after about so many tokens, in the room that a whole one has; none lets it end by itself.
    break_off: Option<usize>,
}

impl Batches {
    /// Whole answers.
    pub(crate) fn of(rows: usize) -> Self {
        Self {
            rows,
            width: 1,
            break_off: None,
        }
    }

    /// Answers that end after about so many tokens.
    pub(crate) fn broken_off(self, most: usize) -> Self {
        Self {
            break_off: Some(most),
            ..self
        }
    }

    /// Where each prompt takes so many rows.
    fn shared(self, width: usize) -> Self {
        let rows = (self.rows / width).max(1);
        Self {
            rows,
            width,
            ..self
        }
    }

    /// How many prompts, beginning with one of `longest` tokens.
    fn next(self, longest: usize) -> usize {
        (BATCH_TOKENS / (longest.max(1) * self.width)).clamp(1, self.rows)
    }

    /// How many batches prompts of these lengths make.
    pub(crate) fn count(self, mut lengths: Vec<usize>) -> usize {
        lengths.sort_by_key(|&length| std::cmp::Reverse(length));
        let (mut done, mut count) = (0, 0);
        while let Some(&longest) = lengths.get(done) {
            done += self.next(longest);
            count += 1;
        }
        count
    }
}

/// Answers prompts. `place` says where a prompt comes from.
pub(crate) fn answers(
    (decoder, tokenizer): (&Decoder, &Tokenizer),
    prompts: &[Vec<u32>],
    text: &TextSettings,
    batches: Batches,
    place: &dyn Fn(usize) -> String,
    on_progress: &mut Listener<'_>,
) -> Result<Answers> {
    let generator = TextGenerator::new(decoder, tokenizer)?;
    let batches = batches.shared(text.beams.width);
    let total = prompts.len() as u64;
    let started = Instant::now();
    // The longest come first, so that memory that does not suffice shows at once.
    let mut order: Vec<usize> = (0..prompts.len()).collect();
    order.sort_by_key(|&number| std::cmp::Reverse(prompts[number].len()));
    let mut answers: Vec<Option<Generation>> = vec![None; prompts.len()];
    let (mut done, mut reading, mut steps) = (0, 0.0, 0);
    while done < order.len() {
        on_progress(Progress {
            stage: Stage::Generating,
            done: done as u64,
            total,
        })?;
        let most = batches.next(prompts[order[done]].len());
        let here = &order[done..order.len().min(done + most)];
        let asked: Vec<Prompt> = here
            .iter()
            .map(|&number| Prompt::Ids(prompts[number].clone()))
            .collect();
        let requests: Vec<_> = asked.iter().map(|prompt| (prompt, text)).collect();
        let (begun, mut first) = (Instant::now(), None);
        let mut pieces = vec![0; here.len()];
        let mut on_text = |row: usize, _: &str| {
            first.get_or_insert_with(|| begun.elapsed());
            pieces[row] += 1;
            match batches.break_off {
                Some(most) if pieces[row] >= most => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        };
        let made = generator
            .generate(&requests, &mut on_text)
            .with_context(|| format!("cannot answer {} and those with it", place(here[0])))?;
        reading += first.unwrap_or_else(|| begun.elapsed()).as_secs_f64();
        let longest = made.iter().map(|made| made.ids.len()).max();
        steps += longest.unwrap_or(0).saturating_sub(1);
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
        reading,
        steps,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_counted_longest_first() {
        assert_eq!(Batches::of(33).shared(4).rows, 8);
        assert_eq!(Batches::of(3).shared(4).rows, 1);
        assert_eq!(
            Batches::of(32).shared(4).count(vec![BATCH_TOKENS / 8; 4]),
            2
        );
        let batches = Batches::of(4);
        assert_eq!(batches.count(vec![]), 0);
        assert_eq!(batches.count(vec![10; 9]), 3);
        // Of long prompts fewer go together: two of half the tokens, then those that are left.
        let half = BATCH_TOKENS / 2;
        assert_eq!(batches.count(vec![1, half, half, half, 1, 1]), 3);
        assert_eq!(batches.count(vec![BATCH_TOKENS + 1; 2]), 2);
    }
}
