//! Texts that are equal or nearly so, found in time that grows with their number and not with its square.
//!
//! Each text becomes the set of its runs of three words. MinHash (Broder, *On the resemblance and containment of
//! documents*, 1997) makes 32 numbers of a set, of which two sets share as many, on average, as their Jaccard
//! similarity says; those that agree in one of eight bands of four are compared exactly.
//!
//! Runs of words that many texts have, such as an instruction before each of them, do not count: by them alone every
//! text would be nearly equal to every other.

use std::collections::{HashMap, HashSet};

use rayon::prelude::*;

use crate::order::mix;

/// Two texts are nearly equal from this Jaccard similarity of their word triples on.
const NEAR: f64 = 0.8;
const BANDS: usize = 8;
const BAND: usize = 4;
/// A text with fewer triples of its own is too short to be nearly equal to another.
const LEAST: usize = 4;
/// Triples that stand in more than one of so many texts are common.
const COMMON: usize = 10;
/// And in more than so many: in a small set that is near-duplicates as well as not.
const COMMON_LEAST: usize = 16;
/// Texts among which common triples are looked for.
const SAMPLE: usize = 1_000;

/// Texts to look among.
#[derive(Debug)]
pub struct Texts {
    exact: HashMap<u64, u32>,
    sketches: Vec<Sketch>,
    bands: HashMap<(u8, u64), Vec<u32>>,
    common: HashSet<u64>,
}

#[derive(Debug)]
struct Sketch {
    exact: u64,
    /// Hashes of the word triples that are not common, sorted, each once; none if they are too few.
    shingles: Vec<u64>,
    bands: [u64; BANDS],
}

/// What a text is to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Similar {
    /// Equal, apart from white space and letter case, to the text of this number.
    Same(usize),
    /// Nearly equal to it.
    Near(usize),
}

impl Texts {
    /// Prepares texts.
    pub fn new(texts: &[String]) -> Texts {
        let common = common(texts);
        let sketch = |text: &String| Sketch::new(text, &common);
        let sketches: Vec<Sketch> = texts.par_iter().map(sketch).collect();
        let (mut exact, mut bands) = (HashMap::new(), HashMap::<_, Vec<u32>>::new());
        for (number, sketch) in sketches.iter().enumerate() {
            exact.entry(sketch.exact).or_insert(number as u32);
            for (band, &hash) in sketch.bands().enumerate() {
                let texts = bands.entry((band as u8, hash)).or_default();
                // Of very many alike a few are enough to be found by.
                if texts.len() < 16 {
                    texts.push(number as u32);
                }
            }
        }
        Texts {
            exact,
            sketches,
            bands,
            common,
        }
    }

    /// For each of `texts`, what it is like among these, if anything.
    pub fn like(&self, texts: &[String]) -> Vec<Option<Similar>> {
        let find = |text: &String| self.find(&Sketch::new(text, &self.common), usize::MAX);
        texts.par_iter().map(find).collect()
    }

    /// For each of these texts, an earlier one that it is like.
    pub fn repeated(&self) -> Vec<Option<Similar>> {
        let numbered = self.sketches.par_iter().enumerate();
        numbered
            .map(|(number, sketch)| self.find(sketch, number))
            .collect()
    }

    /// A text before number `before` that is like this one.
    fn find(&self, sketch: &Sketch, before: usize) -> Option<Similar> {
        if let Some(&same) = self.exact.get(&sketch.exact)
            && (same as usize) < before
        {
            return Some(Similar::Same(same as usize));
        }
        for (band, &hash) in sketch.bands().enumerate() {
            let candidates = self.bands.get(&(band as u8, hash)).into_iter().flatten();
            for &other in candidates.filter(|&&other| (other as usize) < before) {
                let near = &self.sketches[other as usize];
                if near.exact != sketch.exact && jaccard(&near.shingles, &sketch.shingles) >= NEAR {
                    return Some(Similar::Near(other as usize));
                }
            }
        }
        None
    }
}

impl Sketch {
    fn new(text: &str, common: &HashSet<u64>) -> Sketch {
        let words = words(text);
        let mut shingles: Vec<u64> = triples(&words)
            .filter(|triple| !common.contains(triple))
            .collect();
        shingles.sort_unstable();
        shingles.dedup();
        if shingles.len() < LEAST {
            shingles.clear();
        }
        let mut least = [u64::MAX; BANDS * BAND];
        for &shingle in &shingles {
            for (number, least) in least.iter_mut().enumerate() {
                // Multiplying by odd numbers of its own makes each order of the hashes another one.
                let key = (number as u64 * 2 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                let hash = (shingle ^ key).wrapping_mul(key);
                *least = (*least).min(hash ^ (hash >> 32));
            }
        }
        let mut bands = [0; BANDS];
        for (band, least) in bands.iter_mut().zip(least.chunks(BAND)) {
            *band = chain(least);
        }
        Sketch {
            exact: chain(&words),
            shingles,
            bands,
        }
    }

    /// What others are found by: nothing if there are too few triples.
    fn bands(&self) -> impl Iterator<Item = &u64> {
        let all = if self.shingles.is_empty() { 0 } else { BANDS };
        self.bands[..all].iter()
    }
}

/// Triples that stand in so many of the texts that they tell nothing.
fn common(texts: &[String]) -> HashSet<u64> {
    let step = texts.len().div_ceil(SAMPLE).max(1);
    let sample: Vec<&String> = texts.iter().step_by(step).collect();
    let each = |text: &&String| triples(&words(text)).collect::<HashSet<u64>>();
    let sets: Vec<HashSet<u64>> = sample.par_iter().map(each).collect();
    let mut counts: HashMap<u64, usize> = HashMap::new();
    for triple in sets.into_iter().flatten() {
        *counts.entry(triple).or_default() += 1;
    }
    let most = (sample.len() / COMMON).max(COMMON_LEAST);
    counts.retain(|_, count| *count > most);
    counts.into_keys().collect()
}

fn words(text: &str) -> Vec<u64> {
    text.split_whitespace().map(word_hash).collect()
}

fn triples(words: &[u64]) -> impl Iterator<Item = u64> {
    words.windows(3).map(chain)
}

fn chain(words: &[u64]) -> u64 {
    words.iter().fold(0, |hash, &word| mix(hash, word))
}

fn word_hash(word: &str) -> u64 {
    let lower = word.chars().flat_map(char::to_lowercase);
    lower.fold(word.len() as u64, |hash, c| {
        (hash ^ u64::from(c))
            .wrapping_mul(0x0100_0000_01b3)
            .rotate_left(23)
    })
}

/// The share of the elements of two sorted sets that is in both.
fn jaccard(one: &[u64], other: &[u64]) -> f64 {
    let (mut i, mut j, mut both) = (0, 0, 0usize);
    while i < one.len() && j < other.len() {
        match one[i].cmp(&other[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => {
                both += 1;
                i += 1;
                j += 1;
            }
        }
    }
    both as f64 / (one.len() + other.len() - both).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(seed: u64, words: u64) -> String {
        let word = |n: u64| format!("w{}", mix(seed, n) % 5_000);
        (0..words).map(word).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn equal_and_nearly_equal_texts_are_found_and_others_not() {
        let texts: Vec<String> = (0..500).map(|seed| text(seed, 40)).collect();
        let known = Texts::new(&texts);
        assert!(known.repeated().iter().all(Option::is_none));
        let changed = format!("{} and more", texts[7]);
        let asked = [texts[3].to_uppercase(), changed, text(9_999, 40)];
        assert_eq!(
            known.like(&asked),
            [Some(Similar::Same(3)), Some(Similar::Near(7)), None]
        );
    }

    #[test]
    fn an_instruction_before_every_text_makes_none_alike() {
        let instruction = text(77, 60);
        let with = |seed| format!("{instruction} {}", text(seed, 8));
        let texts: Vec<String> = (0..200).map(with).collect();
        let known = Texts::new(&texts);
        assert!(known.repeated().iter().all(Option::is_none));
        let asked: Vec<String> = (1_000..1_100).map(with).collect();
        assert!(known.like(&asked).iter().all(Option::is_none));

        // What is nearly the same behind it is found all the same.
        let long = |seed| format!("{instruction} {}", text(seed, 40));
        let texts: Vec<String> = (0..200).map(long).collect();
        let changed = format!("{} and more", texts[150]);
        assert_eq!(
            Texts::new(&texts).like(&[changed]),
            [Some(Similar::Near(150))]
        );
    }

    #[test]
    fn a_short_text_is_like_itself_alone() {
        let texts = ["one", "one  ", "two", ""].map(str::to_owned);
        let repeated = Texts::new(&texts).repeated();
        assert_eq!(repeated, [None, Some(Similar::Same(0)), None, None]);
    }
}
