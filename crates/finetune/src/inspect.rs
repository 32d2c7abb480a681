//! The supervision ledger of a fine-tuning recipe, and its examples and batches as the model sees them. No model is
//! loaded: only its tokenizer and its context.

use std::collections::HashMap;

use anyhow::Result;
use etude_data::ledger::{
    Account, Amount, Asked, BatchView, ExampleView, Inspection, Ledger, Line, Unit, counted,
    findings,
};
use etude_data::{DataError, FinetuneBatches, SourceRef, Split, TaskExample};
use etude_train::{RunContext, Validate};

use crate::recipe::Recipe;
use crate::task::{Task, prepare};
use crate::{base, batches};

/// The text of examples.
pub(crate) fn text_of(examples: &[TaskExample]) -> Amount {
    let mut all = Amount::default();
    for example in examples {
        let messages = example.messages();
        all += Amount::of(messages.iter().map(|message| message.content.as_str()));
    }
    all
}

/// The books of a task, from its files to the batches of one epoch.
pub fn ledger(task: &Task, batches: &FinetuneBatches) -> Ledger {
    let held_out = [
        (Split::Validation, task.validation.as_slice()),
        (Split::Test, task.test.as_slice()),
    ];
    let found = findings(
        task.renderer.tokenizer(),
        &task.examples,
        &task.train[..task.report.kept as usize],
        &task.report,
        &task.read,
        &held_out,
    );
    Ledger::closed(accounts(task, batches), found)
}

fn accounts(task: &Task, batches: &FinetuneBatches) -> Vec<Account> {
    let report = &task.report;
    let in_use = Amount {
        items: report.kept,
        characters: report.characters,
        bytes: report.bytes,
        tokens: 0,
    };
    let mut chosen = Vec::new();
    if task.not_chosen.items > 0 {
        chosen.push(Line::new("not chosen (task.examples)", task.not_chosen));
    }
    chosen.extend(report.dropped_text.iter().map(|(reason, text)| {
        let places = report
            .dropped_places
            .get(reason)
            .cloned()
            .unwrap_or_default();
        Line::new(format!("left out: {reason}"), *text).at(places)
    }));
    chosen.push(Line::new("in use", in_use).keyed("in-use"));

    // What `task.mix` puts behind the examples.
    let general = &task.train[report.kept as usize..];
    let stretches = general.len() as u64;
    let general_tokens = general.iter().map(|stretch| stretch.ids.len() as u64).sum();
    let general_learnt: u64 = general.iter().map(|stretch| stretch.targets() as u64).sum();

    let tokens = |name: &str, tokens| Line::new(name, Amount::tokens(0, tokens));
    let context: usize = task.train.iter().map(|e| e.ids.len() - e.targets()).sum();
    let mut made = Vec::new();
    if report.truncated > 0 {
        made.push(tokens("cut from prompts", report.cut.prompt));
        made.push(tokens("cut from answers", report.cut.answer));
    }
    made.push(tokens("context, not learnt", context as u64));
    let supervised = report.supervised + general_learnt;
    made.push(tokens("supervised", supervised).keyed("supervised"));
    let mut raw = vec![tokens("made of them, before any cut", report.whole_tokens)];
    if stretches > 0 {
        let line = Line::new(
            "general text (task.mix)",
            Amount::tokens(stretches, general_tokens),
        );
        raw.push(line);
    }

    let epoch = batches.first_epoch();
    let (first, later) = (epoch.first, epoch.later);
    let steps = counted(epoch.steps, "step", "steps");
    let mut held = vec![
        tokens("padding", epoch.padding),
        tokens(
            "read, what follows not supervised",
            first.inputs - first.supervised,
        ),
        tokens("read, what follows supervised", first.supervised).keyed("supervised"),
    ];
    // What the lengths of the examples say about places is held to the batches themselves.
    let (places, targets) = batches.held(epoch.steps);
    if later.rows > 0 {
        held.push(tokens("of the next epoch, in these steps", later.inputs));
    }
    let both = vec![Unit::Items, Unit::Tokens];
    let rows = report.kept + stretches;
    let whole = Amount::tokens(rows, report.tokens + general_tokens);
    vec![
        task.read.account(&task.name),
        Account {
            title: "training examples".into(),
            units: vec![Unit::Items, Unit::Characters, Unit::Bytes],
            incoming: vec![
                Line::new("the training split", task.read.train)
                    .keyed(format!("train:{}", task.name)),
            ],
            outgoing: chosen,
        },
        Account {
            title: "tokens of the examples in use".into(),
            units: vec![Unit::Tokens],
            incoming: raw,
            outgoing: made,
        },
        Account {
            title: "read in one epoch".into(),
            units: both,
            incoming: vec![Line::new("tokens of the examples in use", whole)],
            outgoing: vec![
                tokens("the last of each, only predicted", rows),
                Line::new("read", Amount::tokens(first.examples, first.inputs)),
            ],
        },
        Account {
            title: format!("places of one epoch, {steps}"),
            units: vec![Unit::Tokens],
            incoming: vec![tokens("rows × columns of the batches", places)],
            outgoing: held,
        },
        Account {
            title: "targets in them".into(),
            units: vec![Unit::Tokens],
            incoming: vec![tokens("in the batches", targets)],
            outgoing: vec![
                tokens("supervised", first.supervised).keyed("supervised"),
                tokens("of the next epoch", later.supervised),
            ],
        },
    ]
}

/// The ledger of a recipe, and what else is asked of its data.
///
/// # Errors
/// When the base model's tokenizer or the data cannot be had, or there is no such example or step.
pub fn inspect(recipe: &Recipe, context: &RunContext, asked: &Asked) -> Result<Inspection> {
    recipe.validate()?;
    asked
        .batch
        .map_or(Ok(()), |step| recipe.train.check_step(step))?;
    let (tokenizer, positions) = base::outline(recipe)?;
    let task = prepare(&recipe.task, positions, &tokenizer, context)?;
    let batches = batches(recipe, &task, &tokenizer, positions)?;
    let mut books = ledger(&task, &batches);
    if let Some(run) = asked.seen {
        let held = batches.seen(run.step);
        let supervised = held.first.supervised + held.later.supervised;
        books.accounts.extend(run.accounts(held.places, supervised));
        books = Ledger::closed(books.accounts, books.warnings);
    }
    let (of_split, renderer) = match asked.split {
        Split::Train => (&task.examples, &task.learnt),
        Split::Validation => (&task.validation, &task.renderer),
        Split::Test => (&task.test, &task.renderer),
    };
    let view = |number: usize| {
        let example = &of_split[number];
        let explained = renderer.explain(example)?;
        ExampleView::new(number as u64 + 1, example, &explained, &tokenizer)
    };
    let (mut examples, mut batch) = (Vec::new(), None);
    match (asked.example, asked.batch) {
        (Some(number), _) => {
            let there = of_split.len() as u64;
            if !(1..=there).contains(&number) {
                let what = format!(
                    "example {number}: the {} split has {there}",
                    asked.split.name()
                );
                return Err(DataError::input(what, format!("give 1 to {there}")).into());
            }
            examples.push(view(number as usize - 1)?);
        }
        (None, Some(step)) => batch = Some(named_batch(&task, &batches, step)?),
        (None, None) => {
            examples = (0..asked.first.min(of_split.len()))
                .map(view)
                .collect::<Result<_>>()?;
        }
    }
    Ok(Inspection {
        ledger: books,
        examples,
        batch,
    })
}

/// The batch of a step as training reads it, each row's examples compared with it and named.
fn named_batch(task: &Task, batches: &FinetuneBatches, step: u64) -> Result<BatchView> {
    let tokenizer = task.renderer.tokenizer();
    let mut view = BatchView::new(step, &batches.finetune_batch(step - 1), tokenizer)?;
    let known: HashMap<(&SourceRef, &str), &TaskExample> = task
        .examples
        .iter()
        .map(|example| ((&example.source, example.id.as_str()), example))
        .collect();
    for (row, examples) in view.rows.iter_mut().zip(batches.finetune_rows(step - 1)) {
        for (segment, rendered) in row.segments.iter_mut().zip(examples) {
            // What is not an example of the task has its tokens shown as they are.
            match known.get(&(&rendered.source, rendered.id.as_str())) {
                Some(example) => {
                    let explained = task.learnt.explain(example)?;
                    segment.name(&explained, example.source.to_string())?;
                }
                None => segment.source = rendered.source.to_string(),
            }
        }
    }
    Ok(view)
}
