//! What a decoder makes of tokens that are given to it: one pass, no cache. A continuation is checked by
//! reading it: each token must be the likeliest one after those before it. So one difference does not hide
//! what follows, and it is seen by how much a token was missed.
//!
//! T tokens, C width, V vocabulary.

use etude_tensor::{Kind, Tensor, no_grad};

use crate::decoder::{Decoder, Input};

/// Logits after each of T tokens but the first ones, of which nothing is wanted.
pub(super) struct Reading {
    first: usize,
    logits: Tensor, // (T - first, V)
}

/// Whether a continuation is greedy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Greedy {
    /// Each token is the likeliest.
    Yes,
    /// Where it is not, another one is likelier by no more than this.
    NearTie(f64),
    /// After so many tokens another one is likelier by so much.
    No(usize, f64),
}

impl Reading {
    /// Reads `ids`, which are not empty, for the logits after each from position `first` on.
    ///
    /// # Errors
    /// Ids that the model cannot read, told without a place.
    pub(super) fn of(decoder: &Decoder, ids: &[u32], first: usize) -> Result<Self, String> {
        let config = decoder.config();
        if ids.is_empty() || ids.len() as i64 > config.context {
            return Err(format!(
                "{} tokens cannot be read at once, the context is {}",
                ids.len(),
                config.context
            ));
        }
        if let Some(id) = ids.iter().find(|&&id| i64::from(id) >= config.vocab_size) {
            return Err(format!("the model has no token {id}"));
        }
        let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        let ids = Tensor::from_slice(&ids).unsqueeze(0).to(decoder.device()); // (1, T)
        let logits = no_grad(|| {
            let hidden = decoder.hidden(Input::plain(&ids), None).squeeze_dim(0); // (T, C)
            let hidden = hidden.slice(0, first as i64, None::<i64>, 1); // (T - first, C)
            decoder.logits(&hidden).to_kind(Kind::Float) // (T - first, V)
        });
        Ok(Self { first, logits })
    }

    fn row(&self, position: usize) -> Tensor {
        self.logits
            .get((position - self.first) as i64)
            .to_kind(Kind::Double) // (V)
    }

    /// The logits of some tokens after the token at `position`, and the logarithm of the sum of all
    /// exponentials.
    pub(super) fn logits(&self, position: usize, ids: &[u32]) -> (Vec<f64>, f64) {
        let row = self.row(position);
        let values = ids.iter().map(|&id| row.double_value(&[i64::from(id)]));
        (
            values.collect(),
            row.logsumexp([0_i64], false).double_value(&[]),
        )
    }

    /// The logarithms of the probabilities of a continuation that starts at `start`.
    pub(super) fn logprobs(&self, start: usize, made: &[u32]) -> Vec<f64> {
        let each = made.iter().enumerate().map(|(at, &id)| {
            let (values, sum) = self.logits(start - 1 + at, &[id]);
            values[0] - sum
        });
        each.collect()
    }

    /// Whether a continuation that starts at `start` is greedy among the first `size` tokens; differences of
    /// at most `tie` do not count.
    pub(super) fn is_greedy(&self, start: usize, made: &[u32], size: i64, tie: f64) -> Greedy {
        let mut worst: f64 = 0.0;
        for (at, &id) in made.iter().enumerate() {
            let row = self.row(start - 1 + at);
            let best = row
                .narrow(0, 0, size.min(row.size()[0]))
                .max()
                .double_value(&[]);
            let missed = best - row.double_value(&[i64::from(id)]);
            let counts = missed <= tie;
            if !counts {
                return Greedy::No(at, missed);
            }
            worst = worst.max(missed);
        }
        match worst > 0.0 {
            true => Greedy::NearTie(worst),
            false => Greedy::Yes,
        }
    }
}

/// How far two numbers are apart; what is no number is as far as can be.
pub(super) fn apart(found: f64, wanted: f64) -> f64 {
    let apart = (found - wanted).abs();
    if apart.is_nan() { f64::INFINITY } else { apart }
}
