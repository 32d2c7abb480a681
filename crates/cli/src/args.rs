//! The command line's outline: the commands in the order of use, and the help that stands above them.
//! Each command's own arguments stand in its own file.

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::{
    bench, chat, completions, data, doctor, eval, export, finetune, generate, import, plan,
    pretrain, quickstart, recipe, replay, report, tokenizer, transfer, verify_resume,
};

const ABOUT: &str = "\
Etude teaches a language model in two stages, and shows what each one bought.

  general text ──▶ PRE-TRAIN ──▶ base model ──┐
                                              ▼
  task examples ──────────────────────▶ FINE-TUNE ──▶ task model ──▶ eval · generate · chat

Pre-training teaches the language from any text; fine-tuning teaches one job from examples of it.
Both read a recipe (TOML) and write a run folder, which holds the model, the log and a report.";

const AFTER: &str = "\
Three commands to begin with:
  etude doctor                  what is installed, what is missing and how to get it
  etude quickstart              both stages on real text, in five to ten minutes
  etude recipe list             the recipes that are built in

`etude COMMAND --help` explains each command and shows examples.
Exit status: 0 done, 1 failed, 2 wrong use or bad input, 130 stopped by a signal, all saved.";

/// What the values of options are called that are free text.
const TEXTS: [&str; 2] = ["TEXT", "ANSWERS"];

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "etude",
    version,
    about = ABOUT,
    after_help = AFTER,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub(crate) struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl CommandLine {
    /// What the program was called with. A negative number after an option is its value, to be judged as one, and so
    /// is whatever stands after an option for a text.
    ///
    /// # Errors
    /// What is refused, or the help that was asked for.
    pub(crate) fn read() -> Result<Self, clap::Error> {
        let matches = dashes_may_begin_values(Self::command()).try_get_matches();
        Self::from_arg_matches(&matches.map_err(told)?)
    }
}

fn dashes_may_begin_values(command: clap::Command) -> clap::Command {
    let options = |argument: clap::Arg| {
        if argument.get_long().is_none() || !argument.get_action().takes_values() {
            return argument;
        }
        let names = argument.get_value_names().unwrap_or_default();
        if names.iter().any(|name| TEXTS.contains(&name.as_str())) {
            return argument.allow_hyphen_values(true);
        }
        argument.allow_negative_numbers(true)
    };
    command
        .mut_args(options)
        .mut_subcommands(dashes_may_begin_values)
}

/// Which argument is not UTF-8; the library's own refusal does not say.
fn told(refusal: clap::Error) -> clap::Error {
    if refusal.kind() != ErrorKind::InvalidUtf8 {
        return refusal;
    }
    let arguments = std::env::args_os().skip(1);
    let wrong = arguments
        .filter(|argument| argument.to_str().is_none())
        .map(|argument| argument.to_string_lossy().into_owned());
    clap::Error::raw(
        refusal.kind(),
        format!(
            "{}: is not UTF-8, and names of data, models and recipes and all texts must be\n  \
             try: rename the file, or convert the text to UTF-8\n",
            wrong.collect::<Vec<_>>().join(", ")
        ),
    )
}

/// The commands. Each is named by `about`, since a doc comment here would hide the command's own `long_about`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    #[command(
        about = "Run the main job from end to end: both stages on real text, and what each bought"
    )]
    Quickstart(quickstart::QuickstartArgs),
    #[command(about = "Say what is installed and what is missing, or check a model folder")]
    Doctor(doctor::DoctorArgs),
    #[command(about = "List, fetch and look at data sets")]
    Data(data::DataArgs),
    #[command(about = "Train a tokenizer, encode and decode with one, look at one")]
    Tokenizer(tokenizer::TokenizerArgs),
    #[command(about = "List and show the built-in recipes")]
    Recipe(recipe::RecipeArgs),
    #[command(about = "Say what a run will take before it is made: time, memory, disk")]
    Plan(plan::PlanArgs),
    #[command(about = "Pre-train: general text to a base model")]
    Pretrain(pretrain::PretrainArgs),
    #[command(about = "Fine-tune: a base model and examples of one task to a task model")]
    Finetune(finetune::FinetuneArgs),
    #[command(about = "Learn a task with and without pre-training, at several amounts of data")]
    Transfer(transfer::TransferArgs),
    #[command(
        about = "Make a step of a run again, to see what it learnt from and whether it is the same"
    )]
    Replay(replay::ReplayArgs),
    #[command(about = "Prove that a run of a recipe may be killed at any moment and ends the same")]
    VerifyResume(verify_resume::VerifyResumeArgs),
    #[command(about = "Measure a model on a text or on a task")]
    Eval(eval::EvalArgs),
    #[command(about = "Continue a prompt")]
    Generate(generate::GenerateArgs),
    #[command(about = "Converse with a fine-tuned model")]
    Chat(chat::ChatArgs),
    #[command(about = "Make a published model (GGUF, Hugging Face) into a model folder")]
    Import(import::ImportArgs),
    #[command(about = "Write a model out as a Hugging Face folder or a GGUF file")]
    Export(export::ExportArgs),
    #[command(about = "Write the report of one run, or of several side by side")]
    Report(report::ReportArgs),
    #[command(about = "Measure how fast this machine trains and multiplies")]
    Bench(bench::BenchArgs),
    #[command(about = "Print the completion script for a shell")]
    Completions(completions::CompletionsArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::CommandLine;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn what_a_command_says_of_itself_is_shown() {
        let mut line = CommandLine::command();
        for (name, words) in [
            ("plan", "rehears"),
            ("replay", "nearest whole checkpoint"),
            ("verify-resume", "SIGKILL"),
        ] {
            let command = line.find_subcommand_mut(name).expect("is a command");
            let help = command.render_long_help().to_string();
            assert!(help.contains(words), "{help}");
        }
    }

    #[test]
    fn every_command_explains_itself_with_an_example() {
        fn check(command: &clap::Command, path: &str) {
            if command.has_subcommands() {
                for inner in command.get_subcommands() {
                    check(inner, &format!("{path} {}", inner.get_name()));
                }
                return;
            }
            let help = command
                .get_after_long_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(help.contains(path), "{path} --help shows no example of it");
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{path}: {} has no help",
                    argument.get_id()
                );
            }
        }
        check(&CommandLine::command(), "etude");
    }
}
