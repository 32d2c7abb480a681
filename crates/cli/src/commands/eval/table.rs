//! What `etude eval --tasks` shows: the table that lm-evaluation-harness prints, with an interval and the score
//! of guessing besides.

use etude_eval::{HarnessMetric, HarnessResult, HarnessScore, Scored};

use crate::output;

/// The results of one model.
pub(super) fn results(results: &[HarnessResult]) -> String {
    let head = [
        "Tasks",
        "Version",
        "n-shot",
        "Metric",
        "",
        "Value",
        "",
        "Stderr",
        "95% interval",
        "Chance",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for result in results {
        let spec = &result.spec;
        let mut part = |name: &str, scored: &Scored| {
            for (number, (metric, score)) in scored.scores.iter().enumerate() {
                let first = |text: String| if number == 0 { text } else { String::new() };
                let arrow = if metric.higher_is_better() {
                    "↑"
                } else {
                    "↓"
                };
                let chance = scored.chance.filter(|_| has_chance(*metric));
                rows.push(vec![
                    first(name.to_owned()),
                    first(spec.version.to_string()),
                    spec.fewshot.count.to_string(),
                    metric.name().to_owned(),
                    arrow.to_owned(),
                    format!("{:.4}", score.value),
                    "±".to_owned(),
                    score
                        .stderr
                        .map_or("N/A".to_owned(), |stderr| format!("{stderr:.4}")),
                    format!("{:.4} to {:.4}", score.low, score.high),
                    chance.map_or(String::new(), |chance| format!("{chance:.4}")),
                ]);
            }
        };
        part(&spec.name, &result.all);
        for (name, scored) in &result.parts {
            part(&format!(" - {name}"), scored);
        }
    }
    let mut text = columns(&rows);
    for result in results {
        let records = match result.all.n == result.records {
            true => output::count(result.all.n as u64),
            false => format!(
                "{} of {}",
                output::count(result.all.n as u64),
                output::count(result.records as u64)
            ),
        };
        text.push_str(&format!(
            "{}: {records} records in {:.1} s\n",
            result.spec.name, result.seconds
        ));
    }
    text
}

/// The score that stands for the others.
pub(super) fn chief(scored: &Scored) -> Option<(HarnessMetric, HarnessScore)> {
    // bits_per_byte is the comparable one of perplexity's three.
    let mut found = scored.scores.iter().rev();
    let bits = found.find(|(metric, _)| *metric == HarnessMetric::BitsPerByte);
    bits.or_else(|| scored.scores.first()).copied()
}

/// A row a step: the first metric of each task and of its parts.
pub(super) fn steps(steps: &[(u64, Vec<HarnessResult>)]) -> String {
    let mut rows = Vec::new();
    let mut head = vec!["step".to_owned()];
    let mut guess = vec!["chance".to_owned()];
    let cells = |results: &[HarnessResult]| -> Vec<(String, HarnessScore, Option<f64>)> {
        let mut cells = Vec::new();
        for result in results {
            let name = &result.spec.name;
            let mut cell = |name: String, scored: &Scored| {
                if let Some((metric, score)) = chief(scored) {
                    cells.push((format!("{name} {metric}"), score, scored.chance));
                }
            };
            cell(name.clone(), &result.all);
            for (part, scored) in &result.parts {
                cell(format!("- {part}"), scored);
            }
        }
        cells
    };
    for (step, results) in steps {
        let cells = cells(results);
        if rows.is_empty() {
            head.extend(cells.iter().map(|(name, _, _)| name.clone()));
            guess.extend(
                cells
                    .iter()
                    .map(|(_, _, chance)| chance.map_or(String::new(), |c| format!("{c:.3}"))),
            );
        }
        let mut row = vec![step.to_string()];
        let cell = |score: &HarnessScore| {
            format!("{:.3} [{:.3}, {:.3}]", score.value, score.low, score.high)
        };
        row.extend(cells.iter().map(|(_, score, _)| cell(score)));
        rows.push(row);
    }
    if guess[1..].iter().any(|cell| !cell.is_empty()) {
        rows.insert(0, guess);
    }
    rows.insert(0, head);
    output::columns(&rows)
}

fn has_chance(metric: HarnessMetric) -> bool {
    matches!(
        metric,
        HarnessMetric::Acc | HarnessMetric::AccNorm | HarnessMetric::AccBytes
    )
}

/// Rows in columns between bars, a rule beneath the first; columns that are empty throughout are left out.
fn columns(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let used = |column: &usize| rows[1..].iter().any(|row| !row[*column].is_empty());
    let widths: Vec<(usize, usize)> = (0..rows[0].len())
        .filter(used)
        .map(|column| (column, width(column)))
        .collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (column, width) in &widths {
            text.push_str(&format!("|{:<width$}", output::plain(&row[*column])));
        }
        text.push_str("|\n");
        if number == 0 {
            for (_, width) in &widths {
                text.push_str(&format!("|{:-<width$}", ""));
            }
            text.push_str("|\n");
        }
    }
    text
}
