//! `etude generate`: a model continues a prompt.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use etude_data::{Rendering, SourceRef, TaskBody, TaskExample, cut_at_word};
use etude_model::{Generation, Prompt, TextGenerator, TextSettings};
use etude_tokenizer::{Message, Role};
use serde_json::{Value, json};

use super::tokenizer::read_text;
use crate::error::{Exit, Misuse};
use crate::generation::{self, BeamArgs, SamplingArgs};
use crate::model::{self, DeviceArgs, Loaded};
use crate::output;
use crate::task::{self, Origin};

const ABOUT: &str = "\
Continue a prompt.

The text appears as it is made. A base model goes on with the text as it stands; with --chat the prompt \
becomes a user's turn in the model's chat template, and with --task it is written the way the model was \
fine-tuned, as its run folder says. Without a prompt the model begins a document of its own.

How to sample is asked of the options first, then of the model's generation_config.json, where its publisher \
may have written what is best; the defaults shown here come last.";

const EXAMPLES: &str = "\
Examples:
  etude generate runs/pretrain-shakespeare --prompt 'ROMEO:'
  etude generate runs/pretrain-shakespeare --prompt 'To be' --temperature 0 --max-tokens 40 --json
  etude generate runs/task --task --prompt 'The Loire is the longest river in France.'
  etude generate runs/translate --task --beams 4 --prompt 'The lost tourist asked for the way.'
  etude generate SmolLM2 --adapter runs/task --chat --prompt 'Who are you?'
  cat start.txt | etude generate runs/pretrain-shakespeare --prompt - --seed 7 --stop '\\n\\n'";

/// From what, and how.
#[derive(Debug, Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub(crate) struct GenerateArgs {
    /// A model folder, run folder, checkpoint or adapter folder
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// The text to continue; `-` reads it from standard input, without its last line break. Given several
    /// times, all are continued at once, each as it would be alone
    #[arg(
        long,
        short,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    prompt: Vec<String>,
    /// Put the prompt into the model's chat template, as a user's turn
    #[arg(long)]
    chat: bool,
    /// Write the prompt the way the model was fine-tuned on its task's prompts
    #[arg(long, conflicts_with = "chat")]
    task: bool,
    /// What the system's turn says before it
    #[arg(long, value_name = "TEXT", requires = "chat", conflicts_with = "task")]
    system: Option<String>,
    /// Begin a document: put the tokenizer's beginning token before the prompt, as is done anyway for tokenizers that
    /// put it before every text (Llama's, Mistral's)
    #[arg(long, conflicts_with_all = ["chat", "task"])]
    bos: bool,
    /// Read special tokens that are spelt in the prompt, such as <|im_start|>, as these tokens and not as text
    #[arg(long, conflicts_with_all = ["chat", "task"])]
    special: bool,
    /// Print the prompt before its continuation
    #[arg(long, conflicts_with = "json")]
    echo: bool,
    /// Print {"text", "ids", "tokens_per_second", "finish_reason"} when it is done; of several prompts a list of
    /// these as {"generations"}
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    beams: BeamArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

pub(crate) fn run(args: &GenerateArgs) -> Result<Exit> {
    args.sampling.check(Some(&args.beams))?;
    let texts = prompt_texts(&args.prompt)?;
    let loaded = args.device.load(&args.model)?;
    let settings = args.sampling.settings(&loaded, Some(&args.beams))?;
    let prompts: Vec<Prompt> = (texts.iter())
        .map(|text| prompt(args, text, &loaded))
        .collect::<Result<_>>()?;
    let generator = generation::generator(&loaded)?;
    let ([text], [prompt]) = (&texts[..], &prompts[..]) else {
        several(args, &generator, &texts, &prompts, &settings)?;
        return Ok(Exit::Done);
    };
    if args.json {
        output::json(&told(&generator.complete(prompt, &settings)?))?;
        return Ok(Exit::Done);
    }
    if args.echo {
        output::text(text)?;
    }
    let made = generation::stream(&generator, prompt, &settings, &|| true)?;
    output::text("\n")?;
    output::note(&format!(
        "[{} tokens, {:.0} a second, ended by {}]",
        made.ids.len(),
        made.tokens_per_second,
        made.finish_reason.name()
    ));
    Ok(Exit::Done)
}

/// Continues all prompts in one batch and prints them in order, with an empty line between.
fn several(
    args: &GenerateArgs,
    generator: &TextGenerator<'_>,
    texts: &[String],
    prompts: &[Prompt],
    settings: &TextSettings,
) -> Result<()> {
    let requests: Vec<_> = prompts.iter().map(|prompt| (prompt, settings)).collect();
    let made = generator.generate(&requests, &mut |_, _| ControlFlow::Continue(()))?;
    if args.json {
        let told: Vec<Value> = made.iter().map(told).collect();
        return output::json(&json!({ "generations": told }));
    }
    for (place, (text, made)) in texts.iter().zip(&made).enumerate() {
        let before = if place > 0 { "\n" } else { "" };
        let prompt = if args.echo { text } else { "" };
        output::text(&format!("{before}{prompt}{}\n", made.text))?;
    }
    Ok(())
}

/// The prompt as the model is to read it.
fn prompt(args: &GenerateArgs, text: &str, loaded: &Loaded) -> Result<Prompt> {
    if args.chat {
        model::demand_template(loaded)?;
        let system = args
            .system
            .iter()
            .map(|system| Message::new(Role::System, system));
        return Ok(Prompt::Messages(
            system.chain([Message::new(Role::User, text)]).collect(),
        ));
    }
    if args.task {
        return task_prompt(text, loaded);
    }
    let begins = args.bos || text.is_empty() || loaded.tokenizer.begins_texts().is_some();
    Ok(match (args.special, begins) {
        (true, _) => {
            let ids = loaded.tokenizer.encode_with_special(text)?;
            let bos = loaded.tokenizer.bos_id().filter(|_| begins);
            let bos = bos.filter(|bos| ids.first() != Some(bos)); // it may be spelt
            Prompt::Ids(bos.into_iter().chain(ids).collect())
        }
        (false, true) => Prompt::Document(text.to_owned()),
        (false, false) => Prompt::Text(text.to_owned()),
    })
}

/// The tokens that an example with this prompt would begin with in fine-tuning.
fn task_prompt(text: &str, loaded: &Loaded) -> Result<Prompt> {
    let Origin::Finetuned(settings) = task::origin(&loaded.folder)? else {
        return Err(Misuse::error(
            format!(
                "{}: is not in the folder of a fine-tuning run",
                loaded.folder.display()
            ),
            "leave out --task, or give the run folder that `etude finetune` wrote",
        ));
    };
    let context = usize::try_from(loaded.decoder.config().context).unwrap_or(usize::MAX);
    let renderer = etude_finetune::renderer(&settings, &loaded.tokenizer, context)?;
    let text = match settings.prompt_chars {
        0 => text,
        chars => cut_at_word(text, chars),
    };
    let body = TaskBody::Completion {
        prompt: text.to_owned(),
        completion: String::new(),
    };
    let source = SourceRef {
        file: "--prompt".into(),
        line: 1,
    };
    let example = TaskExample::new("prompt", body, source);
    match renderer.render_prompt(&example)? {
        Rendering::Kept(prompt) => Ok(Prompt::Ids(prompt.ids)),
        Rendering::Dropped(reason) => Err(Misuse::error(
            format!("the prompt does not fit the model's context of {context} tokens ({reason})"),
            "shorten it",
        )),
    }
}

fn prompt_texts(prompts: &[String]) -> Result<Vec<String>> {
    if prompts.iter().filter(|prompt| *prompt == "-").count() > 1 {
        return Err(Misuse::error(
            "--prompt - is given twice, and standard input can be read once",
            "give the other prompts as text",
        ));
    }
    prompts.iter().map(|prompt| prompt_text(prompt)).collect()
}

fn prompt_text(prompt: &str) -> Result<String> {
    if prompt != "-" {
        return Ok(prompt.to_owned());
    }
    let mut text = read_text(Path::new("-"))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

fn told(made: &Generation) -> Value {
    json!({
        "text": made.text,
        "ids": made.ids,
        "tokens_per_second": made.tokens_per_second,
        "finish_reason": made.finish_reason,
    })
}
