//! Measured outputs: pooling, comparing, what is refused.

use super::*;
use crate::diversity::distinct;

fn pairs(predictions: &[&str], reference: &str) -> Vec<Pair> {
    let pair = |&p: &&str| Pair::new(p, [reference]);
    predictions.iter().map(pair).collect()
}

#[test]
fn refuses_what_cannot_be_compared() {
    let bleu = Metric::parse("bleu").expect("known");
    let a = pairs(&["x", "y"], "x");
    assert_eq!(bleu.score(&[]), Err(ScoreError::NoItems));
    assert_eq!(
        paired(&bleu, &a, &a[..1]),
        Err(ScoreError::DifferentLengths { a: 2, b: 1 })
    );
    assert_eq!(
        paired(&bleu, &a, &pairs(&["x", "y"], "z")),
        Err(ScoreError::DifferentReferences { item: 0 })
    );
    let bare = [a[0].clone(), Pair::new::<String>("x", [])];
    assert_eq!(
        bleu.score(&bare),
        Err(ScoreError::NoReferences {
            metric: "bleu",
            item: 1
        })
    );
    assert!(Metric::Repetition(1).score(&bare).is_ok());
    let measure = |metric: &Metric| Measured::new(metric, &a).expect("measured");
    let found = measure(&bleu).minus(&measure(&Metric::Accuracy), &Bootstrap::default());
    assert!(matches!(found, Err(ScoreError::DifferentMetrics { .. })));
}

#[test]
fn distinct_has_the_value_of_all_texts_and_an_interval_around_it() {
    let texts: Vec<String> = (0..40)
        .map(|item| format!("the king of number {} had {} horses", item % 7, item % 5))
        .collect();
    let alike: Vec<Pair> = (texts.iter())
        .map(|text| Pair::new(text, Vec::<String>::new()))
        .collect();
    let varied: Vec<Pair> = (0..40)
        .map(|item| Pair::new(format!("a{item} b{item} c{item}"), Vec::<String>::new()))
        .collect();
    let metric = Metric::Distinct(2);
    let score = metric.score(&alike).expect("texts");
    assert!((score.value - distinct(&texts, 2)).abs() < 1e-12);
    assert!(
        score.low < score.value && score.value < score.high,
        "{score:?}"
    );
    let [a, b] = [&varied, &alike].map(|p| Measured::new(&metric, p).expect("measured"));
    assert_eq!(a.value(), Ok(1.0));
    let gain = a.minus(&b, &Bootstrap::default()).expect("paired");
    assert!((gain.value - (1.0 - score.value)).abs() < 1e-12 && gain.low > 0.0);
    // Two systems that say the same do not repeat each other.
    let both = Measured::pooled(&[b.clone(), b.clone()]).expect("alike");
    assert!((both.value().expect("texts") - score.value).abs() < 1e-12);
    // A model that says nothing says nothing varied.
    let silent = [Pair::new("", [""]), Pair::new("one", [""])];
    assert_eq!(metric.score(&silent).map(|score| score.value), Ok(0.0));
}

#[test]
fn bits_per_byte_is_a_quotient_of_sums() {
    let ln2 = std::f64::consts::LN_2;
    // 8 bits over 1 byte and 0 bits over 3: 2 bits per byte, not the mean of 8 and 0.
    let items = vec![Ratio::new(8.0 * ln2, 1.0), Ratio::new(0.0, 3.0)];
    let measured = Measured::bits_per_byte(items);
    assert!((measured.value().expect("bytes") - 2.0).abs() < 1e-12);
    let better = Measured::bits_per_byte(vec![Ratio::new(4.0 * ln2, 1.0), Ratio::new(0.0, 3.0)]);
    let gain = better
        .minus(&measured, &Bootstrap::default())
        .expect("paired");
    assert!((gain.value + 1.0).abs() < 1e-12 && gain.low >= -4.0 && gain.high <= 0.0);
    let perplexity = Measured::perplexity(vec![Ratio::new(3.0, 1.0), Ratio::new(1.0, 1.0)]);
    assert!((perplexity.value().expect("tokens") - 2_f64.exp()).abs() < 1e-12);
}

#[test]
fn pooled_outputs_are_one_system() {
    let settings = Bootstrap::default();
    let (good, bad) = (pairs(&["x", "x y"], "x"), pairs(&["y", "x"], "x"));
    for name in ["rouge_1", "bleu", "chrf"] {
        let metric = Metric::parse(name).expect("known");
        let [a, b] = [&good, &bad].map(|p| Measured::new(&metric, p).expect("measured"));
        let pooled = Measured::pooled(&[a.clone(), b.clone()]).expect("alike");
        let all = [good.clone(), bad.clone()].concat();
        assert_eq!(pooled.len(), 2);
        assert_eq!(
            pooled.value(),
            metric.score(&all).map(|s| s.value),
            "{name}"
        );
        let score = pooled.score(&settings).expect("a score");
        let resampled = pooled.resampled(&settings).expect("scores");
        assert_eq!(resampled.len(), settings.resamples);
        assert_eq!(
            settings.ends(&resampled, score.value),
            (score.low, score.high)
        );
        let other = Measured::new(&Metric::Accuracy, &good).expect("measured");
        assert!(Measured::pooled(&[a.clone(), other]).is_err());
        let short = Measured::new(&metric, &good[..1]).expect("measured");
        assert!(Measured::pooled(&[a, short]).is_err());
    }
    assert!(Measured::pooled(&[]).is_err());
}

#[test]
fn item_scores_are_per_item() {
    let rouge = Metric::parse("rouge_1").expect("known");
    let a = pairs(&["x", "y"], "x");
    assert_eq!(rouge.item_scores(&a), Ok(vec![1.0, 0.0]));
    assert_eq!(rouge.score(&a).map(|s| s.value), Ok(0.5));
    let bleu = Metric::parse("bleu").expect("known");
    let scores = bleu.item_scores(&a).expect("scores");
    assert!((scores[0] - 100.0).abs() < 1e-9 && scores[1] == 0.0);
}
