//! `etude recipe`: the built-in recipes, to run by name or to copy and edit.

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::error::Exit;
use crate::{output, recipes};

const ABOUT: &str = "\
List and show the built-in recipes.

A recipe says everything about a run: the data, the model's size, the optimizer, the number of steps. \
Run a built-in one by its name, change single settings with --set, or copy one into a file and edit it.";

/// Which of the two.
#[derive(Debug, Args)]
#[command(long_about = ABOUT)]
pub(crate) struct RecipeArgs {
    #[command(subcommand)]
    command: RecipeCommand,
}

#[derive(Debug, Subcommand)]
enum RecipeCommand {
    /// Name the built-in recipes and say what each is for
    #[command(after_long_help = "Example:\n  etude recipe list")]
    List {
        /// Print {"recipes": [{"name", "stage", "description"}]}
        #[arg(long)]
        json: bool,
    },
    /// Print a built-in recipe
    #[command(
        after_long_help = "Example:\n  etude recipe show NAME > mine.toml    to edit and run as `etude pretrain mine.toml`"
    )]
    Show {
        /// Its name
        name: String,
        /// Print {"name", "stage", "description", "text"}
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(args: &RecipeArgs) -> Result<Exit> {
    match &args.command {
        RecipeCommand::List { json } => list(*json)?,
        RecipeCommand::Show { name, json } => show(name, *json)?,
    }
    Ok(Exit::Done)
}

fn list(as_json: bool) -> Result<()> {
    if as_json {
        let describe = |recipe: &recipes::BuiltIn| json!({"name": recipe.name, "stage": recipe.stage().name(), "description": recipe.description()});
        let all: Vec<_> = recipes::BUILT_IN.iter().map(describe).collect();
        return output::json(&json!({"recipes": all}));
    }
    let row =
        |recipe: &recipes::BuiltIn| vec![recipe.name.to_owned(), recipe.description().to_owned()];
    output::text(&output::columns(
        &recipes::BUILT_IN.iter().map(row).collect::<Vec<_>>(),
    ))
}

fn show(name: &str, as_json: bool) -> Result<()> {
    let recipe = recipes::find(name)?;
    if !as_json {
        return output::text(recipe.text);
    }
    output::json(&json!({
        "name": recipe.name,
        "stage": recipe.stage().name(),
        "description": recipe.description(),
        "text": recipe.text,
    }))
}
