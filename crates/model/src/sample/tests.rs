//! Against Transformers' processors (tests/goldens/sampling.json, made by scripts/goldens/sampling.py),
//! and what no reference can say: that draws have the probabilities and depend on nothing else.

use std::path::Path;

use serde_json::Value;

use super::*;

fn golden() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/sampling.json");
    let text = std::fs::read_to_string(path).expect("the golden opens");
    let whole: Value = serde_json::from_str(&text).expect("JSON");
    whole["cases"].as_array().expect("cases").clone()
}

fn numbers(value: &Value) -> Vec<f64> {
    let list = value.as_array().expect("a list").iter();
    list.map(|number| number.as_f64().expect("a number"))
        .collect()
}

/// A case's sampler and logits.
fn open(case: &Value) -> (Sampler, Vec<f32>) {
    let settings = serde_json::from_value(case["settings"].clone()).expect("settings");
    let seen: Vec<u32> = numbers(&case["seen"]).iter().map(|&id| id as u32).collect();
    let logits = numbers(&case["logits"]).iter().map(|&x| x as f32).collect();
    (Sampler::new(&settings, &seen), logits)
}

#[test]
fn probabilities_equal_transformers() {
    let cases = golden();
    assert!(cases.len() >= 12);
    for case in cases {
        let (sampler, logits) = open(&case);
        let kept = sampler.distribution(sampler.candidates(&logits, None).expect("finite"));
        let sum: f64 = kept.iter().map(|c| c.weight).sum();
        let mut ours = vec![0.0; logits.len()];
        for candidate in &kept {
            ours[candidate.id as usize] = candidate.weight / sum;
        }
        for (id, (ours, theirs)) in ours.iter().zip(numbers(&case["probabilities"])).enumerate() {
            assert_eq!(
                *ours > 0.0,
                theirs > 0.0,
                "token {id} of {}",
                case["settings"]
            );
            assert!(
                (ours - theirs).abs() < 2e-6,
                "token {id} of {}",
                case["settings"]
            );
        }
    }
}

#[test]
fn draws_have_the_probabilities() {
    let case = &golden()[9];
    let (sampler, logits) = open(case);
    let probabilities = numbers(&case["probabilities"]);
    let kept = sampler.distribution(sampler.candidates(&logits, None).expect("finite"));
    let mut random = Random::new(7);
    let draws = 200_000;
    let mut counts = vec![0.0; logits.len()];
    for _ in 0..draws {
        counts[draw(&kept, random.next()) as usize] += 1.0;
    }
    // Pearson's statistic over the kept tokens: its mean is their number less one, and it passes
    // twice that with a probability under 0.1% here.
    let support = probabilities.iter().filter(|&&p| p > 0.0).count();
    let statistic: f64 = (counts.iter().zip(&probabilities))
        .filter(|(_, p)| **p > 0.0)
        .map(|(count, p)| {
            let expected = p * f64::from(draws);
            (count - expected).powi(2) / expected
        })
        .sum();
    assert!(
        statistic < 2.5 * (support - 1) as f64,
        "{statistic} for {support} tokens"
    );
    let removed = counts
        .iter()
        .zip(&probabilities)
        .filter(|(_, p)| **p == 0.0);
    assert_eq!(removed.map(|(count, _)| *count).sum::<f64>(), 0.0);
}

#[test]
fn candidates_in_another_order_give_the_same_draws() {
    let logits: Vec<f32> = (0..300).map(|i| ((i * 7919) % 300) as f32 * 0.02).collect();
    let mut ids: Vec<u32> = (0..300).collect();
    ids.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
    let sorted: Vec<f32> = ids.iter().map(|&id| logits[id as usize]).collect();
    let settings = Sampling {
        temperature: 1.1,
        top_k: 200,
        top_p: 0.9,
        seed: 3,
        ..Sampling::default()
    };
    let (mut a, mut b) = (Sampler::new(&settings, &[]), Sampler::new(&settings, &[]));
    let mut found = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let id = a.pick(&logits, None);
        assert_eq!(id, b.pick(&sorted[..200], Some(&ids[..200])));
        found.insert(id);
    }
    assert!(found.len() > 50, "{}", found.len());
}

#[test]
fn a_nucleus_in_chunks_is_the_nucleus() {
    let mut candidates: Vec<Candidate> = (0..5000)
        .map(|id| Candidate {
            id,
            weight: f64::from((id * 7919) % 5000 + 1),
        })
        .collect();
    let mut sorted = candidates.clone();
    sorted.sort_by(Candidate::order);
    let all: f64 = candidates.iter().map(|c| c.weight).sum();
    for share in [1e-9, 0.3, 0.77, 0.999, 1.0] {
        let mut mass = 0.0;
        let fewest = sorted.iter().take_while(|c| {
            let more = mass < share * all;
            mass += c.weight;
            more
        });
        let fewest = fewest.count();
        candidates.reverse();
        let mut kept = candidates.clone();
        keep_nucleus(&mut kept, share);
        assert_eq!(kept, sorted[..fewest], "{share}");
    }
}

#[test]
fn greedy_takes_the_first_of_equals_and_the_penalty_remembers() {
    let mut plain = Sampler::new(&Sampling::greedy(), &[]);
    assert_eq!(
        plain.pick(&[0.5, 2.0, 2.0, f32::NEG_INFINITY], None),
        Some(1)
    );
    let settings = Sampling {
        repetition_penalty: 2.0,
        ..Sampling::greedy()
    };
    let mut sampler = Sampler::new(&settings, &[9, 1]);
    // Seen: 1 (halved), then what is picked; negative logits move away from zero.
    let logits = [0.9, 1.7, 0.8, -0.1];
    let picks: Vec<_> = (0..3).map(|_| sampler.pick(&logits, None)).collect();
    assert_eq!(picks, [Some(0), Some(1), Some(1)]);
    let negative = [-1.0f32, -1.5];
    let mut sampler = Sampler::new(&settings, &[0]);
    assert_eq!(sampler.pick(&negative, None), Some(1));
}

#[test]
fn broken_logits_are_seen() {
    for settings in [
        Sampling::greedy(),
        Sampling {
            temperature: 1.0,
            ..Sampling::default()
        },
    ] {
        for bad in [f32::NAN, f32::INFINITY] {
            assert_eq!(Sampler::new(&settings, &[]).pick(&[1.0, bad], None), None);
        }
        assert_eq!(
            Sampler::new(&settings, &[]).pick(&[f32::NEG_INFINITY; 2], None),
            None
        );
    }
}

#[test]
fn settings_that_mean_nothing_are_refused_by_name() {
    let good = Sampling {
        temperature: 0.7,
        top_p: 0.9,
        min_p: 0.1,
        ..Sampling::default()
    };
    assert_eq!(good.validate(), Ok(()));
    let refuse = |bad: Sampling, field: &str| {
        let error = bad.validate().expect_err(field);
        assert_eq!(error.field, field);
        assert!(
            error
                .to_string()
                .starts_with(&format!("sampling.{field} = ")),
            "{error}"
        );
    };
    for temperature in [-0.1, f64::NAN, f64::INFINITY] {
        refuse(
            Sampling {
                temperature,
                ..good.clone()
            },
            "temperature",
        );
    }
    for top_p in [0.0, 1.1, f64::NAN] {
        refuse(
            Sampling {
                top_p,
                ..good.clone()
            },
            "top_p",
        );
    }
    refuse(
        Sampling {
            min_p: -0.1,
            ..good.clone()
        },
        "min_p",
    );
    refuse(
        Sampling {
            repetition_penalty: 0.0,
            ..good
        },
        "repetition_penalty",
    );
}
