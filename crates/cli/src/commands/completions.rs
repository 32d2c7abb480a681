//! `etude completions`: the script with which a shell completes commands and options.

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::args::CommandLine;
use crate::error::Exit;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  etude completions bash > ~/.local/share/bash-completion/completions/etude
  etude completions zsh > ~/.zfunc/_etude        (a folder in your fpath)
  etude completions fish > ~/.config/fish/completions/etude.fish";

/// Which shell.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut CommandLine::command(),
        "etude",
        &mut script,
    );
    output::bytes(&script)?;
    Ok(Exit::Done)
}
