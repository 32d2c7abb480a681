//! `etude chat`: a conversation with a model, turn by turn.

mod history;
mod keyboard;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use etude_model::{Prompt, TextGenerator, TextSettings};

use self::history::History;
use self::keyboard::{Keyboard, Said};
use crate::error::{Exit, Misuse};
use crate::generation::{self, SamplingArgs};
use crate::model::{self, DeviceArgs, Loaded};
use crate::output;
use crate::task::{self, Origin};

const ABOUT: &str = "\
Converse with a model that was fine-tuned on prompts and answers.

Each line you write is a turn; the answer appears as it is made. Ctrl-C stops an answer; at the prompt it \
leaves, as Ctrl-D does. When the conversation outgrows the model's context, its oldest turns are \
forgotten, and you are told.

How to sample is asked of the options first, then of the model's generation_config.json, where its publisher \
may have written what is best; the defaults shown here come last.";

const HELP: &str = "  /help            this list
  /reset           forget the conversation
  /system TEXT     forget it and begin with this system turn; without TEXT, with none
  /save FILE       add the conversation to FILE as a line of JSON that fine-tuning reads
  /quit            leave";

const EXAMPLES: &str = "\
In the conversation:
  /help  /reset  /system TEXT  /save FILE  /quit

Examples:
  etude chat runs/task
  etude chat runs/task --system 'Answer in one sentence.' --temperature 0.5
  printf 'Hello\\nWho are you?\\n' | etude chat runs/task > answers.txt";

/// With whom, and how.
#[derive(Debug, Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub(crate) struct ChatArgs {
    /// A model folder, run folder, checkpoint or adapter folder
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// What the system's turn says
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

pub(crate) fn run(args: &ChatArgs) -> Result<Exit> {
    args.sampling.check(None)?;
    let loaded = args.device.load(&args.model)?;
    let settings = args.sampling.settings(&loaded, None)?;
    model::demand_template(&loaded)?;
    if let Some(doubt) = doubt(&loaded)? {
        output::note(&format!("note: {doubt}"));
    }
    let generator = generation::generator(&loaded)?;
    let context = usize::try_from(loaded.decoder.config().context).unwrap_or(usize::MAX);
    let keyboard = Keyboard::open()?;
    keyboard.tell("Write a line and press Enter; /help says what else there is.");
    converse(
        &generator,
        settings,
        context,
        History::new(args.system.clone()),
        &keyboard,
    )
}

/// Why this model may not converse, though its tokenizer has a template: Etude's own always have one.
fn doubt(loaded: &Loaded) -> Result<Option<&'static str>> {
    Ok(match task::origin(&loaded.folder)? {
        Origin::Pretrained => Some(
            "this is a base model: it has learnt to go on with text, not to answer; \
             `etude finetune` teaches it that",
        ),
        Origin::Finetuned(task) if task.format == "plain" => Some(
            "this model was fine-tuned on plain prompts, not on conversations; \
             `etude generate --task` asks it properly",
        ),
        Origin::Finetuned(_) | Origin::Unknown => None,
    })
}

fn converse(
    generator: &TextGenerator<'_>,
    mut settings: TextSettings,
    context: usize,
    mut history: History,
    keyboard: &Keyboard,
) -> Result<Exit> {
    loop {
        match keyboard.listen()? {
            Said::Nothing => {}
            Said::Quit => return Ok(Exit::Done),
            Said::Help => output::note(HELP),
            Said::Reset => {
                history.reset();
                output::note("[the conversation is forgotten]");
            }
            Said::System(text) => {
                history = History::new(Some(text).filter(|text| !text.is_empty()));
                output::note("[the conversation begins anew]");
            }
            Said::Save(file) => match save(&history, &file) {
                Ok(()) => output::note(&format!("[saved to {}]", file.display())),
                Err(failure) => output::note(&format!("[not saved: {failure}]")),
            },
            Said::Unknown(command) => output::note(&format!(
                "[there is no {command}; /help lists the commands]"
            )),
            Said::Turn(text) => {
                history.ask(text);
                answer(generator, &settings, context, &mut history, keyboard)?;
                // Another draw for the next turn, the same one for the same conversation.
                settings.sampling.seed = settings.sampling.seed.wrapping_add(1);
            }
        }
    }
}

/// One answer, streamed, and kept for the turns to come.
fn answer(
    generator: &TextGenerator<'_>,
    settings: &TextSettings,
    context: usize,
    history: &mut History,
    keyboard: &Keyboard,
) -> Result<()> {
    // The answer should have room, yet a small context must not forget everything for it.
    let room = settings.max_tokens.min(context / 4).max(1);
    let length = |history: &History| -> Result<usize> {
        Ok(generator
            .encode(&Prompt::Messages(history.messages()))?
            .len())
    };
    // A template may refuse a turn (many a one the system's); the conversation need not end for it.
    if let Err(refused) = length(history)
        && keyboard.is_terminal()
    {
        history.take_back();
        output::note(&format!("[{refused:#}]"));
        return Ok(());
    }
    let mut forgotten = 0;
    let mut shorter = history.clone();
    while length(&shorter)? + room > context && shorter.forget_oldest() {
        forgotten += 1;
    }
    let tokens = length(&shorter)?;
    if tokens > context {
        history.take_back();
        let what = format!("this turn takes {tokens} tokens, and the model's context is {context}");
        if keyboard.is_terminal() {
            output::note(&format!("[{what}; write a shorter one]"));
            return Ok(());
        }
        return Err(Misuse::error(what, "write a shorter one"));
    }
    if forgotten > 0 {
        output::note(&format!(
            "[the context of {context} tokens is full: {forgotten} early turns are forgotten]"
        ));
    }
    *history = shorter;
    let prompt = Prompt::Messages(history.messages());
    let made = keyboard
        .while_answering(|go_on| generation::stream(generator, &prompt, settings, go_on))?;
    output::text("\n")?;
    history.answer(made.text);
    Ok(())
}

fn save(history: &History, file: &Path) -> Result<()> {
    if history.is_empty() {
        return Err(Misuse::error("nothing was said yet", "say something first"));
    }
    etude_files::append(file, &format!("{}\n", history.json())).map_err(|error| {
        let what = format!("{}: cannot be written: {error}", file.display());
        Misuse::error(what, "name another file")
    })
}
