//! General text among the examples of a task, so that the model keeps what pre-training taught it.

use anyhow::{Result, ensure};
use etude_data::{Document, Format, LocalOptions, Progress, RenderedExample, Split, spread};
use etude_tokenizer::Tokenizer;
use etude_train::RunContext;
use serde::{Deserialize, Serialize};

use crate::task::SourceDescription;

/// `[task.mix]`: general text that is learnt beside the examples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixSettings {
    /// A text set by name, or the path of a text.
    pub source: String,
    /// The share of the learnt tokens that are of general text, above 0 and below 1; default 0.25. (A stretch of
    /// it has many more of them than an answer, so it is a smaller share of the rows.)
    #[serde(default = "share")]
    pub share: f64,
    /// How a source that is a path is read.
    #[serde(default)]
    pub local: LocalOptions,
}

fn share() -> f64 {
    0.25
}

impl MixSettings {
    /// Refuses a share that is none.
    ///
    /// # Errors
    /// The key, its value and what it must be.
    pub fn validate(&self) -> Result<()> {
        ensure!(
            self.share > 0.0 && self.share < 1.0,
            "task.mix.share = {}: it must be above 0 and below 1; leave [task.mix] out for no general text",
            self.share
        );
        Ok(())
    }

    /// The tokens of general text that make up the share beside `answers` learnt tokens of answers.
    fn tokens(&self, answers: u64) -> f64 {
        answers as f64 * self.share / (1.0 - self.share)
    }
}

/// General text, ready.
pub(crate) struct General {
    pub(crate) stretches: Vec<RenderedExample>,
    pub(crate) description: SourceDescription,
    /// Of the files and how they are read.
    pub(crate) fingerprint: String,
}

/// Stretches of the source's training split, of at most `context` tokens and one that is only a target, all of
/// whose tokens but the first are learnt; as many as make up the share beside `answers` learnt tokens of
/// answers, spread over the whole source, or all where it has fewer. Documents begin after the token that
/// separated them in pre-training.
pub(crate) fn stretches(
    settings: &MixSettings,
    answers: u64,
    context: usize,
    tokenizer: &Tokenizer,
    run: &RunContext,
) -> Result<General> {
    let manifest = run.catalog.get_with(&settings.source, &settings.local)?;
    let progress = match run.progress {
        true => Progress::Shown,
        false => Progress::Silent,
    };
    let dataset = manifest.fetch(&run.cache, &progress)?;
    // Lines of a text are counted on; a record is one line whatever its text.
    let lines = manifest.read.format == Format::Text;
    let mut stretches = Vec::new();
    for document in dataset.documents(&[Split::Train])? {
        cut(&document?, lines, context, tokenizer, &mut stretches)?;
    }
    ensure!(
        !stretches.is_empty(),
        "task.mix.source = {}: its training split holds no text",
        settings.source
    );
    let all: usize = stretches.iter().map(RenderedExample::targets).sum();
    let share = settings.tokens(answers) / all as f64;
    let count = (share * stretches.len() as f64).ceil() as usize;
    let stretches = spread(stretches, count.max(1));
    let fingerprint = dataset.fingerprint()?;
    let description = SourceDescription {
        name: manifest.name.clone(),
        title: manifest.title.clone(),
        licence: manifest.licence.clone(),
        documents: stretches.len() as u64,
        bytes: stretches.iter().map(|stretch| stretch.target_bytes).sum(),
        sha256: fingerprint.clone(),
    };
    Ok(General {
        stretches,
        description,
        fingerprint,
    })
}

/// Cuts a document. Neighbouring stretches share a token, the last target of one being the first input of the
/// next, so every token is learnt once. With `lines` each is of the line that its first token begins on.
fn cut(
    document: &Document,
    lines: bool,
    context: usize,
    tokenizer: &Tokenizer,
    out: &mut Vec<RenderedExample>,
) -> Result<()> {
    let separator = tokenizer.eos_id();
    let mut ids: Vec<u32> = separator.into_iter().collect();
    ids.extend(tokenizer.encode(&document.text)?);
    ids.extend(separator);
    let mut source = document.source.clone();
    let mut start = 0;
    while start + 1 < ids.len() {
        let end = (start + context + 1).min(ids.len());
        let ids = ids[start..end].to_vec();
        let text = tokenizer.decode(&ids[..ids.len() - 1], true)?;
        let mut supervised = vec![true; ids.len()];
        supervised[0] = false;
        out.push(RenderedExample {
            id: format!("{} from token {start}", document.key),
            target_bytes: tokenizer.decode(&ids[1..], true)?.len() as u64,
            ids,
            supervised,
            source: source.clone(),
            truncated: false,
        });
        if lines {
            source.line += text.matches('\n').count() as u64;
        }
        start = end - 1;
    }
    Ok(())
}
