//! The supervision ledger of a pre-training recipe, and its documents and windows as the model sees them.

use anyhow::Result;
use etude_data::ledger::{
    Account, Amount, Asked, BatchView, ExampleView, Inspection, Ledger, Line, TokenView, Unit,
    counted, spelled,
};
use etude_data::{DataError, Split, TokenStream, Windows};
use etude_train::{Origin, RunContext, Validate};

use crate::origins::Origins;
use crate::prepare::{Prepared, prepare};
use crate::recipe::Recipe;
use crate::stage::windows;

/// Tokens of a document that are shown.
const SHOWN: u64 = 2_000;

/// The books of prepared data, from its files to the batches of one epoch.
pub(crate) fn ledger(prepared: &Prepared, windows: &Windows, rows: usize) -> Ledger {
    let mut accounts = Vec::new();
    let mut pass = Vec::new();
    for source in &prepared.sources {
        let name = &source.dataset.manifest().name;
        accounts.push(source.read.account(name));
        let shard = &source.shard;
        let (documents, tokens) = (shard.documents(), shard.tokens());
        let cut = Amount {
            items: documents,
            bytes: shard.text_bytes(),
            ..Amount::default()
        };
        accounts.push(Account {
            title: format!("tokenized of {name}"),
            units: vec![Unit::Items, Unit::Bytes],
            incoming: vec![
                Line::new("the training split", source.read.train).keyed(format!("train:{name}")),
            ],
            outgoing: vec![Line::new("documents in the token shard", cut)],
        });
        let repeat = source.repeat as u64;
        let times = match repeat {
            1 => String::new(),
            _ => format!(", {repeat} times"),
        };
        let separators = Amount::tokens(0, documents).times(repeat);
        pass.push(Line::new(
            format!("tokens of {name}{times}"),
            Amount::tokens(documents, tokens - documents).times(repeat),
        ));
        pass.push(Line::new(
            format!("document ends of {name}{times}"),
            separators,
        ));
    }
    let epoch = windows.first_epoch();
    let tokens = |name: &str, tokens| Line::new(name, Amount::tokens(0, tokens));
    let supervised = epoch.end - epoch.start;
    accounts.push(Account {
        title: "one epoch".into(),
        units: vec![Unit::Tokens],
        incoming: pass,
        outgoing: vec![
            tokens("before the first window, or only its context", epoch.start),
            tokens("supervised", supervised).keyed("supervised"),
            tokens(
                "after the last window",
                windows.stream().tokens() - epoch.end,
            ),
        ],
    });
    let steps = windows.per_epoch().div_ceil(rows as u64);
    let context = supervised / windows.per_epoch();
    let later = steps * rows as u64 - windows.per_epoch();
    let mut held = vec![
        tokens("padding", 0),
        tokens(
            "read, what follows supervised",
            windows.per_epoch() * context,
        )
        .keyed("supervised"),
    ];
    if later > 0 {
        held.push(tokens(
            "of the next epoch, in the last step",
            later * context,
        ));
    }
    accounts.push(Account {
        title: format!("places of one epoch, {}", counted(steps, "step", "steps")),
        units: vec![Unit::Tokens],
        incoming: vec![tokens(
            "rows × columns of the batches",
            steps * rows as u64 * context,
        )],
        outgoing: held,
    });
    Ledger::closed(accounts, prepared.warnings.clone())
}

/// The ledger of a recipe, and what else is asked of its data.
///
/// # Errors
/// When the data cannot be had, or there is no such document or step.
pub fn inspect(recipe: &Recipe, context: &RunContext, asked: &Asked) -> Result<Inspection> {
    recipe.validate()?;
    asked
        .batch
        .map_or(Ok(()), |step| recipe.train.check_step(step))?;
    let prepared = prepare(recipe, context)?;
    let windows = windows(recipe, &prepared)?;
    let rows = recipe.train.batch_rows;
    let mut books = ledger(&prepared, &windows, rows);
    if let Some(run) = asked.seen {
        let places = run.step * rows as u64 * recipe.model.context as u64;
        books.accounts.extend(run.accounts(places, places));
        books = Ledger::closed(books.accounts, books.warnings);
    }
    let stream = match asked.split {
        Split::Train => &prepared.train,
        Split::Validation => &prepared.validation,
        Split::Test => {
            let what = "split test: a pre-training recipe has none";
            return Err(DataError::input(what, "give train or validation").into());
        }
    };
    let place = Place {
        prepared: &prepared,
        stream,
        split: asked.split,
    };
    let (mut examples, mut batch) = (Vec::new(), None);
    if let Some(number) = asked.example {
        let there = stream.documents();
        if !(1..=there).contains(&number) {
            let what = format!(
                "document {number}: the {} split has {there}",
                asked.split.name()
            );
            return Err(DataError::input(what, format!("give 1 to {there}")).into());
        }
        examples.push(place.document(number)?);
    } else if asked.split == Split::Train {
        let step = asked.batch.unwrap_or(1);
        let mut view =
            BatchView::new(step, &windows.pretrain_batch(step - 1), &prepared.tokenizer)?;
        if asked.batch.is_none() {
            view.rows.truncate(asked.first);
        }
        for (row, targets) in view.rows.iter_mut().zip(windows.pretrain_targets(step - 1)) {
            let mut at = targets.start;
            for segment in &mut row.segments {
                segment.source = place.source(at)?;
                at += segment
                    .tokens
                    .iter()
                    .filter(|token| token.supervised)
                    .count() as u64;
            }
        }
        batch = Some(view);
    } else {
        for number in 1..=stream.documents().min(asked.first as u64) {
            examples.push(place.document(number)?);
        }
    }
    Ok(Inspection {
        ledger: books,
        examples,
        batch,
    })
}

/// Finds where tokens of a stream were read.
struct Place<'a> {
    prepared: &'a Prepared,
    stream: &'a TokenStream,
    split: Split,
}

impl Place<'_> {
    /// File and line of a token of the stream.
    fn source(&self, token: u64) -> Result<String> {
        let origins = Origins {
            sources: &self.prepared.sources,
            stream: self.stream,
            split: self.split,
            tokenizer: &self.prepared.tokenizer,
        };
        let found = origins.of(&[token])?;
        Ok(found.iter().map(Origin::to_string).collect())
    }

    /// Document `number`, from 1.
    fn document(&self, number: u64) -> Result<ExampleView> {
        let mut start = 0;
        for _ in 1..number {
            start = self.stream.document_of(start).1.tokens.end;
        }
        let range = self.stream.document_of(start).1.tokens;
        let mut ids = Vec::new();
        let tokenizer = &self.prepared.tokenizer;
        self.stream
            .read(range.start..range.end.min(start + SHOWN), &mut ids);
        let texts = spelled(&ids, tokenizer)?;
        let tokens = ids.iter().zip(texts).enumerate();
        let tokens = tokens.map(|(place, (&id, text))| TokenView {
            text,
            id,
            role: if tokenizer.is_special(id) {
                "template"
            } else {
                "text"
            },
            position: place as u64,
            supervised: start + place as u64 > 0,
        });
        let shown = ids.len() as u64;
        let all = range.end - range.start;
        Ok(ExampleView {
            number,
            id: match all > shown {
                true => format!("the first {shown} of {all} tokens"),
                false => format!("{all} tokens"),
            },
            source: self.source(start)?,
            left_out: None,
            cut: [0, 0],
            also: Vec::new(),
            tokens: tokens.collect(),
        })
    }
}
