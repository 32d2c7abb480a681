//! A replayed step in figures: what it came to, the layers, and the batch.

use etude_train::replay::{Comparison, Example, Group, Outcome, Replay};

use super::verdict::{cause, fault, verdict};
use crate::output::{self, count, plain};

/// Lines of the table of examples.
const LINES: usize = 20;
/// Characters of a text in it.
const EXCERPT: usize = 32;

/// All of it but the texts. `changed` are the settings that were changed for the replay.
pub(super) fn page(found: &Replay, changed: &[String]) -> String {
    let mut text = format!(
        "step {} of {} of {} ({}), made again from {}\n\n",
        count(found.step),
        count(found.steps),
        plain(&found.run.display().to_string()),
        found.stage,
        match found.from {
            0 => "the beginning".to_owned(),
            step => format!("the checkpoint after step {}", count(step)),
        }
    );
    for line in &found.torn {
        text += &format!("passed over: {}\n", plain(line));
    }
    if found.unreadable > 0 {
        text += &format!(
            "metrics.jsonl: {} that cannot be read, and counts for nothing here\n",
            match found.unreadable {
                1 => "has a line".to_owned(),
                lines => format!("has {} lines, each of them one", count(lines as u64)),
            }
        );
    }
    text += &output::columns(&figures(found));
    text += &format!("\n{}\n", verdict(found, changed));
    for line in [cause(found), fault(found)].into_iter().flatten() {
        text += &format!("{line}\n");
    }
    text += &format!("\n{}", layers(found));
    text += &format!("\n{}", examples(found));
    text
}

fn figures(found: &Replay) -> Vec<Vec<String>> {
    let outcome = &found.outcome;
    let logged = |exact: fn(&Comparison) -> bool| match &found.recorded {
        None => "not logged".to_owned(),
        Some(log) if exact(log) => "as in the log, to the last bit".to_owned(),
        Some(_) => "NOT as in the log".to_owned(),
    };
    let row = |key: &str, value: String, remark: String| vec![key.to_owned(), value, remark];
    let mut rows = vec![
        row(
            "loss",
            number(outcome.loss, 6),
            format!("nats a token, {}", logged(|log| log.loss.exact)),
        ),
        row(
            "gradient norm",
            number(outcome.grad_norm, 6),
            format!(
                "{}; {}",
                logged(|log| log.grad_norm.exact),
                clipping(outcome)
            ),
        ),
        row(
            "learning rate",
            format!("{:.3e}", found.lr),
            format!(
                "{:.1}% of its peak, {}",
                100.0 * found.lr_scale,
                logged(|log| log.lr.is_none_or(|lr| lr.exact))
            ),
        ),
        row(
            "tokens",
            count(outcome.tokens as u64),
            format!(
                "{} of them supervised, in {}",
                count(outcome.supervised as u64),
                match found.examples.len() {
                    1 => "1 example".to_owned(),
                    many => format!("{} examples", count(many as u64)),
                }
            ),
        ),
    ];
    if let Some(without) = &found.without {
        let numbers: Vec<String> = without.examples.iter().map(usize::to_string).collect();
        let other = &without.outcome;
        let loss_remark = format!("nats a token, {:+.6}", other.loss - outcome.loss);
        let norm_remark = format!(
            "{:+.6}; {}",
            other.grad_norm - outcome.grad_norm,
            clipping(other)
        );
        let supervised = format!("{} of them supervised", count(other.supervised as u64));
        rows.extend([
            row(
                &format!("without {}", numbers.join(", ")),
                String::new(),
                String::new(),
            ),
            row("  loss", number(other.loss, 6), loss_remark),
            row("  gradient norm", number(other.grad_norm, 6), norm_remark),
            row("  tokens", count(other.tokens as u64), supervised),
        ]);
    }
    rows
}

fn clipping(outcome: &Outcome) -> String {
    match outcome.clip_factor {
        _ if outcome.skipped => "not finite, so the step was not applied".to_owned(),
        1.0 => "not clipped".to_owned(),
        factor => format!("clipped, times {factor:.3}"),
    }
}

fn layers(found: &Replay) -> String {
    let mut rows = vec![
        ["LAYER", "GRADIENT", "SHARE", "WEIGHTS", "MOVED BY"]
            .map(str::to_owned)
            .to_vec(),
    ];
    if found.without.is_some() {
        rows[0].extend(["WITHOUT", "MOVED BY"].map(str::to_owned));
    }
    // A diverged step has no shares.
    let percent = |ratio: f64, places| match ratio.is_nan() {
        true => "-".to_owned(),
        false => format!("{}%", number(100.0 * ratio, places)),
    };
    let moved = |layer: &Group| {
        layer
            .ratio
            .map_or("-".to_owned(), |ratio| percent(ratio, 4))
    };
    let squares = |layer: &Group| layer.grad_norm.powi(2);
    let whole: f64 = found.outcome.layers.iter().map(squares).sum();
    for (index, layer) in found.outcome.layers.iter().enumerate() {
        let mut row = vec![
            plain(&layer.name),
            number(layer.grad_norm, 5),
            match squares(layer) / whole {
                share if share.is_finite() => percent(share, 1),
                _ => "-".to_owned(),
            },
            number(layer.weight, 3),
            moved(layer),
        ];
        let other = found.without.as_ref();
        if let Some(other) = other.and_then(|without| without.outcome.layers.get(index)) {
            row.extend([number(other.grad_norm, 5), moved(other)]);
        }
        rows.push(row);
    }
    output::columns(&rows)
}

/// With so many digits behind the point; one that would be very long, by its power of ten.
fn number(value: f64, places: usize) -> String {
    match value.abs() >= 1e7 && value.is_finite() {
        true => format!("{value:.3e}"),
        false => format!("{value:.places$}"),
    }
}

fn examples(found: &Replay) -> String {
    let head = [
        "EXAMPLE",
        "LOSS",
        "TOKENS",
        "GRADIENT",
        "WITHOUT IT",
        "FROM",
        "LEARNS",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let ranked = ranked(found);
    for example in ranked.iter().take(LINES) {
        let loss = match example.supervised {
            0 => "-".to_owned(),
            _ => number(example.loss, 4),
        };
        rows.push(vec![
            example.number.to_string(),
            loss,
            count(example.supervised as u64),
            number(example.grad_norm, 4),
            example
                .loss_without
                .map_or("-".to_owned(), |loss| number(loss, 4)),
            place(example),
            excerpt(&learnt(example)),
        ]);
    }
    let mut text = output::columns(&rows);
    if ranked.len() > LINES {
        text += &format!(
            "and {} that raise the loss less\n",
            count((ranked.len() - LINES) as u64)
        );
    }
    text
}

/// The text that is supervised: what tells one example of a task from another.
fn learnt(example: &Example) -> String {
    let supervised = example.tokens.iter().filter(|token| token.supervised);
    supervised.map(|token| token.text.as_str()).collect()
}

/// The examples, those first that raise the step's loss most; those whose loss is not finite before all.
pub(super) fn ranked(found: &Replay) -> Vec<&Example> {
    let raised = |example: &Example| match example.loss_without {
        _ if example.nats().any(|nats| !nats.is_finite()) => f64::INFINITY,
        Some(without) if found.outcome.loss.is_finite() => found.outcome.loss - without,
        Some(_) => f64::NEG_INFINITY,
        None => f64::INFINITY,
    };
    let mut all: Vec<&Example> = found.examples.iter().collect();
    all.sort_by(|one, other| raised(other).total_cmp(&raised(one)));
    all
}

/// `tasks.jsonl:17`, without the folders; of several documents the first.
pub(super) fn place(example: &Example) -> String {
    let Some(first) = example.origins.first() else {
        return "unknown".to_owned();
    };
    let name = first.file.file_name().unwrap_or(first.file.as_os_str());
    let more = match example.origins.len() {
        1 => String::new(),
        many => format!(" and {} more", many - 1),
    };
    plain(&format!("{}:{}{more}", name.to_string_lossy(), first.line))
}

pub(super) fn excerpt(text: &str) -> String {
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match one_line.char_indices().nth(EXCERPT) {
        Some((end, _)) => format!("{}…", &one_line[..end]),
        None => one_line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_texts_stay_short() {
        assert_eq!([number(5.25, 4), number(1e30, 4)], ["5.2500", "1.000e30"]);
        assert_eq!(number(f64::NAN, 4), "NaN");
        assert_eq!(excerpt("a\n\n b"), "a b");
        assert_eq!(
            excerpt(&"\u{e9}".repeat(40)),
            "\u{e9}".repeat(EXCERPT) + "…"
        );
    }
}
