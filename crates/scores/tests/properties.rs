//! What must hold for any texts: bounds, symmetry, perfect scores, and statistics that add up.

use etude_scores::{Bootstrap, Measured, Metric, Pair, Score, distinct, paired};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, prop_assert, prop_assert_eq, prop_oneof, proptest};

/// Texts of common words, punctuation and any characters at all, often empty.
fn any_text() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        4 => "[a-d]{1,2}",
        1 => "[.,!&;0-9-]{1,3}",
        1 => "\\PC{1,2}",
        1 => Just("\n".to_owned()),
    ];
    vec(word, 0..12).prop_map(|words| words.join(" "))
}

fn any_pairs() -> impl Strategy<Value = Vec<Pair>> {
    let pair = (any_text(), vec(any_text(), 1..3));
    vec(pair.prop_map(|(p, r)| Pair::new(p, r)), 1..6)
}

fn metrics() -> impl Iterator<Item = Metric> {
    Metric::names().map(|name| Metric::parse(name).expect("a listed name"))
}

proptest! {
    #[test]
    fn every_score_lies_on_its_scale(pairs in any_pairs()) {
        let few = Bootstrap { resamples: 20, ..Bootstrap::default() };
        for metric in metrics() {
            let measured = Measured::new(&metric, &pairs).expect("references");
            let Score { value, low, high } = measured.score(&few).expect("a score");
            let top = metric.scale() * (1.0 + 1e-12);
            for score in [value, low, high].into_iter().chain(measured.item_scores()) {
                prop_assert!((0.0..=top).contains(&score), "{metric}: {score}");
            }
            prop_assert!(low <= high);
        }
    }

    #[test]
    fn the_order_of_items_does_not_matter(pairs in any_pairs()) {
        let reversed: Vec<Pair> = pairs.iter().rev().cloned().collect();
        for metric in metrics() {
            let value = |pairs| Measured::new(&metric, pairs).and_then(|m| m.value()).expect("a score");
            prop_assert!((value(&pairs) - value(&reversed)).abs() < 1e-10);
        }
    }

    #[test]
    fn a_copy_of_a_reference_is_perfect(pairs in any_pairs()) {
        let copies: Vec<Pair> = pairs
            .into_iter()
            .map(|pair| Pair { prediction: pair.references[0].clone(), ..pair })
            .collect();
        for name in ["exact_match", "token_f1", "accuracy"] {
            let metric = Metric::parse(name).expect("known");
            prop_assert_eq!(metric.item_scores(&copies), Ok(vec![1.0; copies.len()]));
        }
    }

    #[test]
    fn a_system_against_itself_is_no_difference(pairs in any_pairs()) {
        for name in ["rouge_lsum", "bleu", "chrf++"] {
            let metric = Metric::parse(name).expect("known");
            let found = paired(&metric, &pairs, &pairs).expect("the same items");
            prop_assert_eq!((found.value, found.low, found.high, found.p), (0.0, 0.0, 0.0, 1.0));
        }
    }

    #[test]
    fn distinct_is_a_share(texts in vec(any_text(), 0..4), n in 1_usize..4) {
        prop_assert!((0.0..=1.0).contains(&distinct(&texts, n)));
    }
}
