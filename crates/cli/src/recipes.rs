//! The built-in recipes, compiled in, and finding the one that a user names.

use std::path::Path;

use anyhow::Result;
use etude_data::nearest;
use etude_train::RecipeText;

use crate::error::{Misuse, bad_input};

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        &[$(BuiltIn { name: $name, text: include_str!(concat!("../recipes/", $name, ".toml")) }),*]
    };
}

/// All of `recipes/`, in the order they are listed in. The beginning of a name tells the stage; the first
/// line of a file is a comment that says what it is for.
pub(crate) const BUILT_IN: &[BuiltIn] = built_in![
    "pretrain-quickstart",
    "finetune-quickstart",
    "finetune-quickstart-scratch",
    "pretrain-shakespeare",
    "pretrain-shakespeare-llama",
    "finetune-smollm2-descriptions",
    "finetune-smollm2-descriptions-full",
    "finetune-smollm2-questions",
    "finetune-smollm2-cooking",
    "finetune-smollm2-sentiment",
    "finetune-smollm2-synopses",
    "finetune-smollm2-translation",
    "finetune-smollm2-translation-french",
    "finetune-smollm2-open-questions",
    "finetune-smollm2-conversation",
    "finetune-smollm2-tales",
    "pretrain-tasks",
    "finetune-tasks-descriptions",
    "finetune-tasks-synopses",
    "finetune-tasks-questions",
    "finetune-tasks-sentiment",
    "finetune-tasks-translation",
    "finetune-tasks-translation-french",
    "finetune-tasks-cooking",
    "finetune-tasks-open-questions",
    "finetune-tasks-conversation",
    "finetune-tasks-tales",
    "transfer-descriptions",
    "transfer-lesson",
    "transfer-tasks-synopses",
    "transfer-tasks-questions",
    "transfer-tasks-sentiment",
    "transfer-tasks-translation",
    "transfer-tasks-cooking",
    "transfer-tasks-open-questions",
    "transfer-tasks-conversation",
];

/// A recipe that needs no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BuiltIn {
    /// Its file's stem.
    pub(crate) name: &'static str,
    /// TOML.
    pub(crate) text: &'static str,
}

/// Which command runs a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// General text to a base model.
    Pretrain,
    /// A base model and examples to a task model.
    Finetune,
    /// Both, at several amounts of data.
    Transfer,
}

impl Stage {
    const ALL: [Stage; 3] = [Stage::Pretrain, Stage::Finetune, Stage::Transfer];

    /// The command's name, with which its built-in recipes begin.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Stage::Pretrain => "pretrain",
            Stage::Finetune => "finetune",
            Stage::Transfer => "transfer",
        }
    }

    fn others(self) -> impl Iterator<Item = Stage> {
        Self::ALL.into_iter().filter(move |&other| other != self)
    }

    fn begins(self, name: &str) -> bool {
        name.strip_prefix(self.name())
            .is_some_and(|rest| rest.starts_with('-'))
    }
}

impl BuiltIn {
    /// The stage that its name begins with.
    pub(crate) fn stage(&self) -> Stage {
        let named = Stage::ALL.into_iter().find(|stage| stage.begins(self.name));
        named.unwrap_or(Stage::Pretrain)
    }

    /// What its first line says.
    pub(crate) fn description(&self) -> &'static str {
        self.text
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches('#')
            .trim()
    }
}

/// The built-in recipe of that name, of which the stage's prefix may be left out.
///
/// # Errors
/// There is none: the nearest name is offered. Or there are several.
pub(crate) fn find(name: &str) -> Result<&'static BuiltIn> {
    let full = Stage::ALL.map(|stage| format!("{}-{name}", stage.name()));
    let short: Vec<&BuiltIn> = BUILT_IN
        .iter()
        .filter(|recipe| full.iter().any(|full| full == recipe.name))
        .collect();
    let named = |name: &str| BUILT_IN.iter().find(|recipe| recipe.name == name);
    match (named(name), &short[..]) {
        (Some(found), _) => Ok(found),
        (None, [found]) => Ok(*found),
        (None, []) => {
            let ways = full.iter().map(String::as_str).chain([name]);
            let near = ways.filter_map(|way| {
                let near = nearest(way, BUILT_IN.iter().map(|recipe| recipe.name))?;
                Some((strsim::damerau_levenshtein(way, near), near))
            });
            Err(unknown(name, near.min().map(|(_, near)| near)))
        }
        (None, several) => {
            let names: Vec<String> = several
                .iter()
                .map(|found| format!("`{}`", found.name))
                .collect();
            Err(Misuse::error(
                format!("`{name}` names several recipes"),
                format!("say which: {}", names.join(" or ")),
            ))
        }
    }
}

fn unknown(name: &str, near: Option<&str>) -> anyhow::Error {
    let remedy = match near {
        Some(close) => format!("did you mean `{close}`? `etude recipe list` shows all"),
        None => "`etude recipe list` shows the built-in ones; a file of your own ends in .toml"
            .to_owned(),
    };
    Misuse::error(format!("no built-in recipe is called `{name}`"), remedy)
}

/// The recipe that a training command was given: a file, or a built-in one by name, of which the stage's
/// prefix may be left out.
///
/// # Errors
/// No such recipe, a file that cannot be read, or a built-in recipe of the other stage.
pub(crate) fn for_stage(stage: Stage, name_or_path: &str) -> Result<RecipeText> {
    let path = Path::new(name_or_path);
    let ends_in = |endings: &[&str]| {
        let ending = path.extension().and_then(|ending| ending.to_str());
        ending.is_some_and(|ending| endings.contains(&ending.to_ascii_lowercase().as_str()))
    };
    let is_toml = ends_in(&["toml"]);
    if ends_in(&["jsonl", "json", "csv", "tsv", "parquet", "gz"]) && path.is_file() {
        return Err(Misuse::error(
            format!("{name_or_path}: this is data, and a recipe is a TOML file"),
            "give a recipe; it names its data as a source (docs/recipes.md)",
        ));
    }
    let is_path = is_toml || path.components().count() > 1;
    if is_path || path.is_file() {
        return RecipeText::read(path).map_err(bad_input);
    }
    let recipe = pick_for(stage, BUILT_IN, name_or_path)?;
    Ok(RecipeText {
        name: recipe.name.to_owned(),
        origin: format!("built-in recipe {}", recipe.name).into(),
        text: recipe.text.to_owned(),
    })
}

/// The recipe of either stage that `etude plan` was given, and which it is of.
///
/// # Errors
/// No such recipe, a file that cannot be read or is of neither stage, or a short name that both stages know.
pub(crate) fn of_any_stage(name_or_path: &str) -> Result<(Stage, RecipeText)> {
    let found = [Stage::Pretrain, Stage::Finetune].map(|stage| for_stage(stage, name_or_path));
    let [pretrain, finetune] = match found {
        [Ok(one), Ok(other)] if one.name != other.name => {
            return Err(Misuse::error(
                format!("`{name_or_path}` names a recipe of each stage"),
                format!("say which: `{}` or `{}`", one.name, other.name),
            ));
        }
        found => found,
    };
    match (pretrain, finetune) {
        // A file is read for either stage; its tables tell which one it is of.
        (Ok(recipe), Ok(_)) => {
            let tables = recipe.text.parse::<toml::Table>().unwrap_or_default();
            let has = |name: &str| tables.contains_key(name);
            let stage = match (has("data"), has("base") || has("task")) {
                (true, _) => Stage::Pretrain,
                (_, true) => Stage::Finetune,
                _ if has("transfer") => Stage::Transfer,
                // What is wrong with a file that is no TOML, parsing says.
                _ if tables.is_empty() && !recipe.text.trim().is_empty() => Stage::Pretrain,
                _ => {
                    let what = format!(
                        "{}: is a recipe of neither stage: it has no table [data], [base] or [task]",
                        recipe.origin.display()
                    );
                    let remedy = "begin with a built-in one: `etude recipe list`";
                    return Err(Misuse::error(what, remedy));
                }
            };
            Ok((stage, recipe))
        }
        (Ok(recipe), Err(_)) => Ok((Stage::Pretrain, recipe)),
        (Err(_), Ok(recipe)) => Ok((Stage::Finetune, recipe)),
        (Err(failure), Err(_)) => match for_stage(Stage::Transfer, name_or_path) {
            Ok(recipe) => Ok((Stage::Transfer, recipe)),
            Err(_) => Err(failure),
        },
    }
}

/// That a transfer experiment is not one run.
pub(crate) fn many_runs(name: &str) -> anyhow::Error {
    Misuse::error(
        format!("`{name}` is a transfer experiment, which makes many runs"),
        "name the fine-tuning recipe in it",
    )
}

/// Refuses a file of the other stage, whose every key would be unknown.
pub(crate) fn check_stage(stage: Stage, recipe: &RecipeText) -> Result<()> {
    let Ok(tables) = recipe.text.parse::<toml::Table>() else {
        return Ok(()); // what is wrong with it, parsing says
    };
    let of = |stage: Stage| match stage {
        Stage::Pretrain => tables.contains_key("data"),
        Stage::Finetune => tables.contains_key("base") || tables.contains_key("task"),
        Stage::Transfer => tables.contains_key("transfer"),
    };
    let Some(other) = stage.others().find(|&other| of(other) && !of(stage)) else {
        return Ok(());
    };
    let (verb, file) = (other.name(), recipe.origin.display());
    Err(Misuse::error(
        format!(
            "{file}: is a recipe for `etude {verb}`, not for `etude {}`",
            stage.name()
        ),
        format!("run `etude {verb} {file}`"),
    ))
}

fn pick_for<'a>(stage: Stage, recipes: &'a [BuiltIn], name: &str) -> Result<&'a BuiltIn> {
    let with_prefix = |stage: Stage| format!("{}-{name}", stage.name());
    let named = |name: &str| recipes.iter().find(|recipe| recipe.name == name);
    if let Some(found) = named(name)
        .or_else(|| named(&with_prefix(stage)))
        .filter(|found| found.stage() == stage)
    {
        return Ok(found);
    }
    let elsewhere = || stage.others().find_map(|other| named(&with_prefix(other)));
    if let Some(found) = named(name).or_else(elsewhere) {
        let verb = found.stage().name();
        let what = format!(
            "`{}` is a recipe for `etude {verb}`, not for `etude {}`",
            found.name,
            stage.name()
        );
        return Err(Misuse::error(
            what,
            format!("run `etude {verb} {}`", found.name),
        ));
    }
    // The nearest one of this stage, whichever way its name was written.
    let own: Vec<BuiltIn> = recipes
        .iter()
        .filter(|recipe| recipe.stage() == stage)
        .copied()
        .collect();
    let full = if stage.begins(name) {
        name.to_owned()
    } else {
        with_prefix(stage)
    };
    let near = nearest(&full, own.iter().map(|recipe| recipe.name));
    let near = near.or_else(|| nearest(name, recipes.iter().map(|recipe| recipe.name)));
    Err(unknown(name, near))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: &[BuiltIn] = &[
        BuiltIn {
            name: "pretrain-plays",
            text: "# Plays.\n[train]\n",
        },
        BuiltIn {
            name: "finetune-leads",
            text: "# Leads.\n",
        },
    ];

    #[test]
    fn the_list_is_the_folder() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
        let files = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut files: Vec<String> = files.filter(|name| name.ends_with(".toml")).collect();
        files.sort();
        let mut names: Vec<String> = BUILT_IN
            .iter()
            .map(|recipe| format!("{}.toml", recipe.name))
            .collect();
        names.sort();
        assert_eq!(
            files, names,
            "BUILT_IN in recipes.rs lists the files of crates/cli/recipes/"
        );
    }

    #[test]
    fn every_recipe_tells_its_stage_and_what_it_is_for() {
        for recipe in BUILT_IN {
            let known = Stage::ALL
                .into_iter()
                .any(|stage| stage.begins(recipe.name));
            assert!(known, "{}", recipe.name);
            assert!(
                recipe.text.starts_with("# ") && recipe.description().len() > 10,
                "{}",
                recipe.name
            );
        }
    }

    #[test]
    fn a_stage_finds_its_own_recipes_with_or_without_the_prefix() {
        for name in ["plays", "pretrain-plays"] {
            assert_eq!(
                pick_for(Stage::Pretrain, SOME, name).unwrap().name,
                "pretrain-plays"
            );
        }
    }

    #[test]
    fn the_other_stage_and_the_nearest_name_are_offered() {
        let told = |stage, name| crate::error::rendered(&pick_for(stage, SOME, name).unwrap_err());
        for name in ["leads", "finetune-leads"] {
            let message = told(Stage::Pretrain, name);
            assert!(
                message.contains("run `etude finetune finetune-leads`"),
                "{message}"
            );
        }
        for name in ["pays", "pretrain-play", "plais"] {
            let message = told(Stage::Pretrain, name);
            assert!(
                message.contains("did you mean `pretrain-plays`"),
                "{message}"
            );
        }
        let message = told(Stage::Pretrain, "something-else-entirely");
        assert!(message.contains("etude recipe list"), "{message}");
    }
}
