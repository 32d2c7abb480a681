//! What a replayed step proves: whether it is the one that was made, and what its loss is owed to.

use etude_train::replay::{Comparison, Pair, Replay};

use super::page::{place, ranked};
use crate::output::{count, plain};

/// What is compared of a step with the log.
const LOGGED: &str = "loss, gradient norm, learning rate and tokens";

/// Whether the step is the one that was made.
pub(super) fn verdict(found: &Replay, changed: &[String]) -> String {
    let compared = || found.passed.iter().chain(&found.recorded);
    let steps = compared().count();
    match found.reproduced {
        None => {
            "Nothing to compare with: the log has none of these steps, and no checkpoint of this one is left."
                .to_owned()
        }
        Some(true) => {
            let mut all = Vec::new();
            match steps {
                0 => {}
                1 => all.push(format!("{LOGGED} of 1 logged step")),
                _ => all.push(format!("{LOGGED} of {} logged steps", count(steps as u64))),
            }
            all.extend(found.same_weights.map(|_| {
                "all weights and the optimizer's state of the checkpoint after it".to_owned()
            }));
            let itself = match (&found.recorded, found.same_weights) {
                (None, None) => "; this step itself was not logged",
                _ => "",
            };
            format!("Reproduced to the last bit: {}{itself}.", all.join(", "))
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
                for (what, pair) in first.figures() {
                    if !pair.exact {
                        text += &format!("\n  {what} of step {}: {}", count(first.step), both(pair));
                    }
                }
            }
            for (what, same) in [
                ("the weights are", found.same_weights),
                ("the optimizer's state is", found.same_optimizer),
            ] {
                if same == Some(false) {
                    text += &format!("\n  {what} not as in the checkpoint after it");
                }
            }
            text + &reasons(found, changed)
        }
    }
}

fn both(pair: Pair) -> String {
    let number =
        |value: Option<f64>| value.map_or("not finite".to_owned(), |value| value.to_string());
    let off = pair.off().map(|off| format!(", {off:.1e} of it apart"));
    format!(
        "{} in the log, {} here{}",
        number(pair.recorded),
        number(pair.replayed),
        off.unwrap_or_default()
    )
}

fn reasons(found: &Replay, changed: &[String]) -> String {
    let mut text = String::new();
    if !changed.is_empty() {
        text += &format!(
            "\nThe replay was computed with --set {}, which may give other bits.",
            plain(&changed.join(" --set "))
        );
    }
    if !found.data_checked {
        text += "\nThe run folder does not tell which data it was, so that may have been another.";
    }
    if found.environment.is_empty() {
        return text
            + "\nWhat environment.json tells of the machine is the same here. So the log, recipe.toml or a checkpoint \
               was\nchanged, or an earlier session of the run had another machine, version or number of threads.";
    }
    text += "\nDifferent here from where the run was made:";
    for one in &found.environment {
        let (run, now) = (plain(&one.run), plain(&one.now));
        text += &format!("\n  {}: {run}, now {now}", plain(&one.what));
    }
    text
}

/// Nats above the median that ask for an explanation.
const SOME: f64 = 0.001;

/// The step beside those before it; and when its loss is higher, the example that raises it most.
pub(super) fn cause(found: &Replay) -> Option<String> {
    let usual = found.usual?;
    let loss = found.outcome.loss;
    if found.outcome.skipped || !loss.is_finite() {
        return None;
    }
    let excess = loss - usual.loss;
    let (is, norm) = (
        if excess < 0.0 { "below" } else { "above" },
        found.outcome.grad_norm / usual.grad_norm,
    );
    let mut text = match usual.steps {
        1 => format!(
            "The loss is {:.3} {is} that of the logged step before, {:.3}; the gradient norm is {norm:.2} times its.",
            excess.abs(),
            usual.loss
        ),
        steps => format!(
            "The loss is {:.3} {is} the median of the {} logged steps before, {:.3} (they had {:.3} to {:.3}); the \
             gradient norm is {norm:.2} times theirs.",
            excess.abs(),
            count(steps as u64),
            usual.loss,
            usual.lowest,
            usual.highest
        ),
    };
    let worst = ranked(found).into_iter().next()?;
    if let Some(without) = worst.loss_without.filter(|_| excess >= SOME) {
        let (number, place) = (worst.number, place(worst));
        text += &match loss - without >= excess / 2.0 {
            true => format!(
                "\nExample {number}, {place}, raises it by {:.3}: without it the loss would be {without:.3}.",
                loss - without
            ),
            false => format!(
                "\nNo example alone makes that: without {number}, {place}, which raises it most, it would be {without:.3}."
            ),
        };
    }
    Some(text)
}

/// Where what is not finite began.
pub(super) fn fault(found: &Replay) -> Option<String> {
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
        1 => text += &format!("; it is so in example {} alone", numbers[0]),
        _ => text += &format!("; it is so in examples {}", numbers.join(", ")),
    }
    text.push('.');
    for weights in &fault.weights {
        text += &format!("\nBroken before the step: {}", plain(weights));
    }
    Some(text)
}
