//! Choosing the next token from logits: greedy, or drawn at random after temperature, top-k, top-p,
//! min-p and a repetition penalty, applied in the order in which Transformers applies them.
//!
//! Everything here runs on the host, for one row; which logits come to the host is `generate`'s to
//! decide. What a row draws follows from its logits, its own past and its seed alone, never from the
//! rows beside it.

mod random;

use serde::{Deserialize, Serialize};

use random::Random;

/// How the next token is chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Logits are divided by this. 0, the default, takes the most likely token, and then the fields
    /// below are without effect, `repetition_penalty` excepted.
    pub temperature: f64,
    /// Only this many most likely tokens are kept; 0, the default, keeps all.
    pub top_k: usize,
    /// Only the fewest most likely tokens that together have this probability are kept (Holtzman et
    /// al. 2019); 1, the default, keeps all.
    pub top_p: f64,
    /// Only tokens at least this likely, as a share of the most likely one's probability, are kept
    /// (Nguyen et al. 2024); 0, the default, keeps all.
    pub min_p: f64,
    /// The logit of a token that the prompt or the text so far holds is divided by this where it is
    /// positive and multiplied where it is negative (Keskar et al. 2019); 1, the default, does nothing.
    pub repetition_penalty: f64,
    /// Two rows with the same prompt, settings and seed get the same tokens. Default 0.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// The most likely token, always.
    pub fn greedy() -> Self {
        Self::default()
    }

    /// Refuses values that mean nothing.
    ///
    /// # Errors
    /// The field, its value, and what it must be.
    pub fn validate(&self) -> Result<(), SamplingError> {
        let checks = [
            (
                "temperature",
                self.temperature,
                self.temperature >= 0.0,
                "0 (the most likely token) or more; 0.7 to 1 is usual",
            ),
            (
                "top_p",
                self.top_p,
                self.top_p > 0.0 && self.top_p <= 1.0,
                "above 0 and at most 1, which keeps all tokens",
            ),
            (
                "min_p",
                self.min_p,
                (0.0..=1.0).contains(&self.min_p),
                "0, which keeps all tokens, to 1",
            ),
            (
                "repetition_penalty",
                self.repetition_penalty,
                self.repetition_penalty > 0.0,
                "above 0; 1 does nothing, 1.1 to 1.3 is usual",
            ),
        ];
        for (field, value, good, must) in checks {
            if !(good && value.is_finite()) {
                return Err(SamplingError { field, value, must });
            }
        }
        Ok(())
    }

    /// Whether the most likely token is always taken.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// Whether earlier tokens change the logits.
    pub(crate) fn has_penalty(&self) -> bool {
        self.repetition_penalty != 1.0
    }
}

/// A setting of [`Sampling`] that means nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("sampling.{field} = {value}: it must be {must}")]
pub struct SamplingError {
    /// The field.
    pub field: &'static str,
    /// Its value.
    pub value: f64,
    /// What it must be.
    pub must: &'static str,
}

/// A token that may come next, with its logit (later its probability, not normalized).
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    id: u32,
    weight: f64,
}

impl Candidate {
    /// The more likely first, of equals the one with the lower id.
    fn order(&self, other: &Self) -> std::cmp::Ordering {
        (other.weight.total_cmp(&self.weight)).then(self.id.cmp(&other.id))
    }
}

/// Chooses the tokens of one row.
#[derive(Debug)]
pub(crate) struct Sampler {
    settings: Sampling,
    random: Random,
    /// The tokens of the prompt and the text so far, each once; kept only for the penalty.
    seen: Vec<u32>,
}

impl Sampler {
    /// For a row that begins with `prompt`; the settings are valid.
    pub(crate) fn new(settings: &Sampling, prompt: &[u32]) -> Self {
        let mut seen = Vec::new();
        if settings.has_penalty() {
            seen.extend_from_slice(prompt);
            seen.sort_unstable();
            seen.dedup();
        }
        Self {
            settings: settings.clone(),
            random: Random::new(settings.seed),
            seen,
        }
    }

    pub(crate) fn settings(&self) -> &Sampling {
        &self.settings
    }

    /// The next token, or none when no logit can be compared (a NaN, or no finite maximum).
    ///
    /// `logits` are those of the ids 0, 1, 2, …, or of `ids` where that is given; it then holds at
    /// least the `top_k` most likely ones.
    pub(crate) fn pick(&mut self, logits: &[f32], ids: Option<&[u32]>) -> Option<u32> {
        let id = match self.candidates(logits, ids)? {
            candidates if self.settings.is_greedy() => best(&candidates).id,
            candidates => {
                let kept = self.distribution(candidates);
                draw(&kept, self.random.next())
            }
        };
        if self.settings.has_penalty()
            && let Err(place) = self.seen.binary_search(&id)
        {
            self.seen.insert(place, id);
        }
        Some(id)
    }

    /// The logits with the repetition penalty, or none when they cannot be compared.
    fn candidates(&self, logits: &[f32], ids: Option<&[u32]>) -> Option<Vec<Candidate>> {
        let mut candidates: Vec<Candidate> = logits
            .iter()
            .enumerate()
            .map(|(place, &logit)| Candidate {
                id: ids.map_or(place as u32, |ids| ids[place]),
                weight: f64::from(logit),
            })
            .collect();
        if self.settings.has_penalty() {
            assert!(ids.is_none(), "a penalty needs the logits of all tokens");
            let penalty = self.settings.repetition_penalty;
            for &id in &self.seen {
                // A prompt may hold ids that cannot be chosen.
                if let Some(candidate) = candidates.get_mut(id as usize) {
                    let positive = candidate.weight > 0.0;
                    candidate.weight *= if positive { 1.0 / penalty } else { penalty };
                }
            }
        }
        let comparable = !candidates.iter().any(|c| c.weight.is_nan())
            && !candidates.is_empty()
            && best(&candidates).weight.is_finite();
        comparable.then_some(candidates)
    }

    /// What is kept, with probabilities that are not normalized, by ascending id: an order that does
    /// not depend on how the candidates came.
    fn distribution(&self, mut candidates: Vec<Candidate>) -> Vec<Candidate> {
        let settings = &self.settings;
        let largest = best(&candidates).weight;
        if settings.top_k > 0 && settings.top_k < candidates.len() {
            candidates.select_nth_unstable_by(settings.top_k - 1, Candidate::order);
            candidates.truncate(settings.top_k);
        }
        for candidate in &mut candidates {
            candidate.weight = ((candidate.weight - largest) / settings.temperature).exp();
        }
        if settings.top_p < 1.0 {
            // A sum in an order of its own, so that it does not depend on how the candidates came.
            candidates.sort_unstable_by_key(|candidate| candidate.id);
            keep_nucleus(&mut candidates, settings.top_p);
        }
        // The most likely one weighs 1.
        candidates.retain(|candidate| candidate.weight >= settings.min_p);
        candidates.sort_unstable_by_key(|candidate| candidate.id);
        candidates
    }
}

fn best(candidates: &[Candidate]) -> Candidate {
    let first = candidates.iter().min_by(|a, b| a.order(b));
    *first.expect("there is a candidate")
}

/// Keeps the fewest most likely candidates that together have `share` of the whole probability.
fn keep_nucleus(candidates: &mut Vec<Candidate>, share: f64) {
    let enough = share * candidates.iter().map(|c| c.weight).sum::<f64>();
    let (mut kept, mut mass, mut chunk) = (0, 0.0, 64);
    // The nucleus is mostly small, so the most likely are sorted in growing chunks, not all.
    while mass < enough && kept < candidates.len() {
        let rest = &mut candidates[kept..];
        let size = chunk.min(rest.len());
        if size < rest.len() {
            rest.select_nth_unstable_by(size - 1, Candidate::order);
        }
        rest[..size].sort_unstable_by(Candidate::order);
        for candidate in &rest[..size] {
            if mass >= enough {
                break;
            }
            mass += candidate.weight;
            kept += 1;
        }
        chunk *= 4;
    }
    candidates.truncate(kept);
}

/// The candidate at which the running sum passes `uniform` (in [0, 1)) of the whole.
fn draw(candidates: &[Candidate], uniform: f64) -> u32 {
    let mut left = uniform * candidates.iter().map(|c| c.weight).sum::<f64>();
    for candidate in candidates {
        left -= candidate.weight;
        if left < 0.0 {
            return candidate.id;
        }
    }
    // Rounding can leave a crumb at the end.
    best(candidates).id
}

#[cfg(test)]
mod tests;
