//! The names of scores: how a metric is called on the page and which way is better.

/// A metric as the page shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Metric {
    pub(crate) label: String,
    /// One line for someone who meets it for the first time; empty for unknown metrics.
    pub(crate) meaning: &'static str,
    pub(crate) higher_is_better: bool,
}

const DISTINCT: &str = "Share of different word sequences in all answers: how varied they are. Shorter answers have more.";
const REPEATED: &str = "Share of an answer's word sequences that it has said before.";

/// Looks a metric up by its key in the score files; unknown keys are shown as they are, and taken
/// to be better when higher unless they look like a loss.
pub(crate) fn metric(key: &str) -> Metric {
    let known = |label: &str, higher_is_better, meaning| Metric {
        label: label.into(),
        meaning,
        higher_is_better,
    };
    match key {
        "bits_per_byte" => known(
            "Bits per byte",
            false,
            "How surprised the model is by each byte of the right answer.",
        ),
        "perplexity" => known(
            "Perplexity",
            false,
            "Among how many equally likely tokens the model hesitates.",
        ),
        "loss" => known("Loss", false, "Surprise per token, in nats."),
        "rouge_1" => known("ROUGE-1", true, "Words that answer and reference share."),
        "rouge_2" => known(
            "ROUGE-2",
            true,
            "Pairs of neighbouring words that answer and reference share.",
        ),
        "rouge_l" => known(
            "ROUGE-L",
            true,
            "Longest run of words, in order, that answer and reference share.",
        ),
        "rouge_lsum" => known("ROUGE-Lsum", true, "ROUGE-L counted sentence by sentence."),
        "bleu" => known(
            "BLEU",
            true,
            "Word sequences up to four long that match the reference.",
        ),
        "chrf" => known(
            "chrF",
            true,
            "Character sequences that match the reference.",
        ),
        "exact_match" => known(
            "Exact match",
            true,
            "Share of answers that equal the reference.",
        ),
        "f1" | "token_f1" => known(
            "Token F1",
            true,
            "Balance of words found and words invented.",
        ),
        "accuracy" => known("Accuracy", true, "Share of right answers."),
        "choice_accuracy" => known(
            "Accuracy by likelihood",
            true,
            "Share of items whose right answer is the likeliest of all.",
        ),
        "choice_macro_f1" => known(
            "Macro F1 by likelihood",
            true,
            "F1 of each answer, averaged, so that a rare one counts as much.",
        ),
        "distinct_1" => known("Different words", true, DISTINCT),
        "distinct_2" => known("Different 2-grams", true, DISTINCT),
        "distinct_3" => known("Different 3-grams", true, DISTINCT),
        "repetition_1" => known("Repeated words", false, REPEATED),
        "repetition_2" => known("Repeated 2-grams", false, REPEATED),
        "repetition_3" => known("Repeated 3-grams", false, REPEATED),
        "repetition_4" => known("Repeated 4-grams", false, REPEATED),
        other => {
            let lower = ["loss", "perplexity", "bits", "error", "nll", "repetition"];
            Metric {
                label: other.replace('_', " "),
                meaning: "",
                higher_is_better: !lower.iter().any(|word| other.contains(word)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_and_repetition_are_better_when_lower() {
        assert!(!metric("bits_per_byte").higher_is_better);
        assert!(!metric("word_error_rate").higher_is_better);
        assert!(!metric("repetition_4").higher_is_better);
        assert!(!metric("repetition").higher_is_better);
        assert!(metric("rouge_l").higher_is_better && metric("distinct_2").higher_is_better);
        assert_eq!(metric("my_score").label, "my score");
    }
}
