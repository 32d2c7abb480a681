//! A replayed step in figures: what it came to, whether that is what was logged, which example weighs most, the
//! layers, and the batch.

use etude_train::replay::{Comparison, Example, Outcome, Replay};

use crate::output::{self, count, plain};

/// Lines of the table of examples.
const LINES: usize = 20;
/// Characters of a text in it.
const EXCERPT: usize = 32;

/// All of it but the texts.
pub(super) fn page(found: &Replay) -> String {
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
    text += &output::columns(&figures(found));
    text += &format!("\n{}\n", verdict(found));
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
            format!("{:.6}", outcome.loss),
            format!("nats a token, {}", logged(|log| log.loss.exact)),
        ),
        row(
            "gradient norm",
            format!("{:.6}", outcome.grad_norm),
            format!(
                "{}; {}",
                logged(|log| log.grad_norm.exact),
                clipping(outcome)
            ),
        ),
        row(
            "learning rate",
            format!("{:.3e}", found.lr),
            format!("{:.1}% of its peak", 100.0 * found.lr_scale),
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
        let numbers = numbers.join(", ");
        rows.push(row(
            "without",
            numbers,
            format!(
                "loss {:.6}, gradient norm {:.6}; {}; {} tokens supervised",
                without.outcome.loss,
                without.outcome.grad_norm,
                clipping(&without.outcome),
                count(without.outcome.supervised as u64),
            ),
        ));
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

/// Whether the step is the one that was made.
fn verdict(found: &Replay) -> String {
    let compared = || found.passed.iter().chain(&found.recorded);
    let steps = compared().count();
    match found.reproduced {
        None => "Nothing to compare with: the log has none of these steps, and no checkpoint was made after it."
            .to_owned(),
        Some(true) => {
            let mut all = Vec::new();
            match steps {
                0 => {}
                1 => all.push("the logged loss and gradient norm".to_owned()),
                _ => all.push(format!("loss and gradient norm of {} logged steps", count(steps as u64))),
            }
            all.extend(found.same_weights.map(|_| "all weights of the checkpoint after it".to_owned()));
            format!("Reproduced to the last bit: {}.", all.join(", "))
        }
        Some(false) => {
            let mut text = "NOT reproduced:".to_owned();
            let other: Vec<&Comparison> = compared().filter(|one| !one.exact).collect();
            if let Some(first) = other.first() {
                text += &format!(
                    " {} of {} logged steps came out otherwise, step {} first.",
                    count(other.len() as u64),
                    count(steps as u64),
                    count(first.step)
                );
                for (what, pair) in [("loss", first.loss), ("gradient norm", first.grad_norm)] {
                    if !pair.exact {
                        let number = |value: Option<f64>| {
                            value.map_or("not finite".to_owned(), |value| value.to_string())
                        };
                        text += &format!(
                            "\n  {what} of step {}: {} in the log, {} here",
                            count(first.step),
                            number(pair.recorded),
                            number(pair.replayed)
                        );
                        text += &pair.off().map_or(String::new(), |off| {
                            format!(", {:.1e} of it apart", off)
                        });
                    }
                }
            }
            if found.same_weights == Some(false) {
                text += "\n  the weights are not those of the checkpoint after it";
            }
            text + &reasons(found)
        }
    }
}

fn reasons(found: &Replay) -> String {
    if found.environment.is_empty() {
        return "\nWhat environment.json tells of the machine is the same here. So the log or a checkpoint was changed, or \
                an\nearlier session of the run had another machine, version, train.threads or train.micro_rows."
            .to_owned();
    }
    let mut text = "\nDifferent here from where the run was made:".to_owned();
    for one in &found.environment {
        let (run, now) = (plain(&one.run), plain(&one.now));
        text += &format!("\n  {}: {run}, now {now}", plain(&one.what));
    }
    text
}

/// Which example the loss owes most to, beside what was usual.
fn cause(found: &Replay) -> Option<String> {
    let usual = found.usual?;
    let loss = found.outcome.loss;
    let excess = loss - usual.loss;
    let mut text = format!(
        "The loss is {:.3} {} the median of the {} logged steps before, {:.3}; the gradient norm is {:.2} times theirs.",
        excess.abs(),
        if excess < 0.0 { "below" } else { "above" },
        count(usual.steps as u64),
        usual.loss,
        found.outcome.grad_norm / usual.grad_norm,
    );
    let worst = ranked(found).into_iter().next()?;
    let without = worst.loss_without?;
    if excess > 0.0 && loss.is_finite() {
        let place = place(worst);
        text += &if loss - without >= excess / 2.0 {
            format!(
                "\nOf that, {:.3} is example {}, {place}: without it the loss would be {without:.3}.",
                loss - without,
                worst.number,
            )
        } else {
            format!(
                "\nNo example alone makes that: without the one that raises it most, {} ({place}), it would be {without:.3}.",
                worst.number
            )
        };
    }
    loss.is_finite().then_some(text)
}

fn fault(found: &Replay) -> Option<String> {
    let fault = found.fault.as_ref()?;
    let mut text = format!("The first that is not finite is {}", fault.place);
    if let Some(token) = &fault.token {
        text += &format!(
            ", at token {} in column {} of example {}",
            token.id, token.column, token.example
        );
    }
    let numbers: Vec<String> = fault.examples.iter().map(usize::to_string).collect();
    match numbers.len() {
        0 => {}
        all if all == found.examples.len() => text += "; it is so in every example",
        _ => text += &format!("; it is so in example {}", numbers.join(", ")),
    }
    text.push('.');
    for weights in &fault.weights {
        text += &format!("\nBroken before the step: {}", plain(weights));
    }
    Some(text)
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
    let moved =
        |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{:.4}%", 100.0 * ratio));
    let whole: f64 = found
        .outcome
        .layers
        .iter()
        .map(|layer| layer.grad_norm.powi(2))
        .sum();
    for (index, layer) in found.outcome.layers.iter().enumerate() {
        let mut row = vec![
            plain(&layer.name),
            format!("{:.5}", layer.grad_norm),
            format!("{:.1}%", 100.0 * layer.grad_norm.powi(2) / whole),
            format!("{:.3}", layer.weight),
            moved(layer.ratio),
        ];
        if let Some(other) = found
            .without
            .as_ref()
            .and_then(|w| w.outcome.layers.get(index))
        {
            row.extend([format!("{:.5}", other.grad_norm), moved(other.ratio)]);
        }
        rows.push(row);
    }
    output::columns(&rows)
}

fn examples(found: &Replay) -> String {
    let head = [
        "EXAMPLE",
        "LOSS",
        "TOKENS",
        "GRADIENT",
        "WITHOUT IT",
        "FROM",
        "BEGINS",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let ranked = ranked(found);
    for example in ranked.iter().take(LINES) {
        let number = |value: f64| match value.is_finite() || example.supervised > 0 {
            true => format!("{value:.4}"),
            false => "-".to_owned(),
        };
        rows.push(vec![
            example.number.to_string(),
            number(example.loss),
            count(example.supervised as u64),
            format!("{:.4}", example.grad_norm),
            example
                .loss_without
                .map_or("-".to_owned(), |loss| format!("{loss:.4}")),
            place(example),
            excerpt(&example.text),
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
fn place(example: &Example) -> String {
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

fn excerpt(text: &str) -> String {
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match one_line.char_indices().nth(EXCERPT) {
        Some((end, _)) => format!("{}…", &one_line[..end]),
        None => one_line,
    }
}
