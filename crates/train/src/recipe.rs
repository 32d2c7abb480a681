//! Recipes as text: TOML from a file or built in, `--set` on top, and back to TOML as resolved.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use etude_data::{DataError, line_of_key, parse_toml};
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// A kind of recipe, of a stage or of an experiment, that knows what it cannot be.
pub trait Validate: DeserializeOwned {
    /// Refuses settings that no run can have.
    ///
    /// # Errors
    /// The key, its value and what it must be, in a message that begins with the key, such as `train.steps`.
    fn validate(&self) -> Result<()>;
}

/// A recipe's text and where it is from.
#[derive(Debug, Clone)]
pub struct RecipeText {
    /// A built-in recipe's name, or a file's stem.
    pub name: String,
    /// What messages call it: the file, or `built-in recipe NAME`.
    pub origin: PathBuf,
    /// TOML.
    pub text: String,
}

impl RecipeText {
    /// Reads a recipe file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| {
            format!(
                "{}: cannot be read; `etude recipe list` names the built-in recipes",
                path.display()
            )
        })?;
        let name = path
            .file_stem()
            .map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        Ok(Self {
            name,
            origin: path.to_owned(),
            text,
        })
    }

    /// Parses the recipe, then applies `key.path=value` settings, and validates what came of it. Unknown keys are
    /// refused with the nearest known name, in the file and in the settings.
    ///
    /// # Errors
    /// File and line, or the setting; key and remedy.
    pub fn parse<R: Validate>(&self, settings: &[String]) -> Result<R> {
        let recipe: R = self.parse_only(settings)?;
        recipe
            .validate()
            .map_err(|error| self.located(settings, &error))?;
        Ok(recipe)
    }

    fn parse_only<T: DeserializeOwned>(&self, settings: &[String]) -> Result<T> {
        let as_written: T = parse_toml(&self.text, &self.origin)?;
        if settings.is_empty() {
            return Ok(as_written);
        }
        let mut table: Table = parse_toml(&self.text, &self.origin)?;
        for setting in settings {
            apply(&mut table, setting)?;
            // One at a time, so that the message can name the setting that is wrong.
            let text = toml::to_string(&table).context("a table is TOML")?;
            parse_toml::<T>(&text, &self.origin).map_err(|error| explain(setting, error))?;
        }
        let text = toml::to_string(&table).context("a table is TOML")?;
        Ok(parse_toml(&text, &self.origin)?)
    }

    /// A refusal of [`Validate::validate`] with the place where its key was set: the last setting that did, else the
    /// line of the recipe.
    fn located(&self, settings: &[String], refusal: &anyhow::Error) -> anyhow::Error {
        let message = format!("{refusal:#}");
        let ends = |c: char| !(c.is_ascii_alphanumeric() || "._[]".contains(c));
        let key = message.split(ends).next().unwrap_or_default();
        let sets = |setting: &&String| {
            let path = setting.split('=').next().unwrap_or_default().trim();
            key.strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        if let Some(setting) = settings.iter().rev().find(sets) {
            return anyhow!("--set {setting}: {message}");
        }
        let file = self.origin.display();
        match line_of_key(&self.text, key) {
            Some(line) => anyhow!("{file}:{line}: {message}"),
            None => anyhow!("{file}: {message}"),
        }
    }
}

/// A recipe, resolved, as TOML.
///
/// # Errors
/// When the recipe holds what TOML cannot say: a programmer's mistake.
pub fn to_toml(recipe: &impl Serialize) -> Result<String> {
    toml::to_string(recipe).context("a recipe is plain data")
}

fn explain(setting: &str, error: DataError) -> DataError {
    match error {
        // The line is one of the merged text, which nobody wrote.
        DataError::Input { what, remedy, .. } => {
            DataError::input(format!("--set {setting}: {what}"), remedy)
        }
        other => other,
    }
}

fn apply(table: &mut Table, setting: &str) -> Result<()> {
    let Some((path, value)) = setting.split_once('=') else {
        bail!("--set {setting}: give it as key.path=value, for example train.steps=200");
    };
    let mut keys: Vec<&str> = path.trim().split('.').collect();
    let last = keys.pop().filter(|key| !key.is_empty());
    let Some(last) = last else {
        bail!("--set {setting}: the key is empty")
    };
    let mut here = table;
    for key in keys {
        let next = here
            .entry(key)
            .or_insert_with(|| Value::Table(Table::new()));
        here = next
            .as_table_mut()
            .with_context(|| format!("--set {setting}: `{key}` is not a table"))?;
    }
    let value = parse_value(value.trim());
    // An empty table takes out all that was there, as it says.
    if let (Some(Value::Table(old)), Value::Table(new)) = (here.get(last), &value)
        && !new.is_empty()
        && let Some(lost) = old.keys().find(|&key| !new.contains_key(key))
    {
        let path = path.trim();
        let key = new.keys().next().map_or("KEY", String::as_str);
        bail!(
            "--set {setting}: the recipe's {path}.{lost} would be lost; set one key at a time, as {path}.{key}=…"
        );
    }
    here.insert(last.to_owned(), value);
    Ok(())
}

/// TOML where it is TOML, text otherwise: `--set train.device=cpu` needs no quotes.
fn parse_value(text: &str) -> Value {
    let parsed: Option<Table> = toml::from_str(&format!("value = {text}")).ok();
    parsed
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::TrainSettings;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Recipe {
        #[serde(default)]
        train: TrainSettings,
    }

    impl Validate for Recipe {
        fn validate(&self) -> Result<()> {
            self.train.validate()
        }
    }

    fn recipe(text: &str, settings: &[&str]) -> Result<Recipe> {
        let source = RecipeText {
            name: "r".to_owned(),
            origin: "r.toml".into(),
            text: text.to_owned(),
        };
        source.parse(&settings.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn settings_go_on_top() {
        let made = recipe(
            "[train]\nsteps = 5\nseed = 2\n",
            &["train.steps=7", "train.device=cpu"],
        )
        .expect("parses");
        assert_eq!(
            (
                made.train.steps,
                made.train.seed,
                made.train.device.as_str()
            ),
            (7, 2, "cpu")
        );
    }

    #[test]
    fn misspelt_keys_are_named_with_the_nearest() {
        let error = recipe("[train]\n\nstesp = 5\n", &[])
            .expect_err("refused")
            .to_string();
        assert!(
            error.contains("r.toml:3") && error.contains("did you mean `steps`"),
            "{error}"
        );
        let error = recipe("", &["train.stesp=7"])
            .expect_err("refused")
            .to_string();
        assert!(
            error.contains("--set train.stesp=7") && error.contains("did you mean `steps`"),
            "{error}"
        );
        let error = recipe("", &["train.steps=many"])
            .expect_err("refused")
            .to_string();
        assert!(error.contains("--set train.steps=many"), "{error}");
        assert!(recipe("", &["train.steps"]).is_err());
    }

    #[test]
    fn a_refused_value_is_told_with_where_it_was_set() {
        let file = "# A recipe.\n[train]\nseed = 2\nbatch_rows = 4\nmicro_rows = 8\n";
        for (text, settings, place) in [
            (file, &[][..], "r.toml:5: train.micro_rows = 8"),
            (
                file,
                &["train.micro_rows=9"],
                "--set train.micro_rows=9: train.micro_rows = 9",
            ),
            // What is wrong is the file's value, beside which the setting was fine.
            (file, &["train.seed=1"], "r.toml:5: train.micro_rows = 8"),
            (
                "",
                &["train={micro_rows=99}"],
                "--set train={micro_rows=99}: train.micro_rows = 99",
            ),
            // The one that the message names, also where the other one was changed.
            (
                "[train]\nmicro_rows = 5\n",
                &["train.batch_rows=3"],
                "r.toml:2: train.micro_rows = 5",
            ),
        ] {
            let told = recipe(text, settings).expect_err("refused").to_string();
            assert!(told.starts_with(place), "{told}");
        }
    }

    #[test]
    fn a_table_does_not_make_other_keys_lost() {
        let written = "[train]\nsteps = 5\nseed = 2\n";
        let error = recipe(written, &["train={steps=3}"]).expect_err("refused");
        let told = error.to_string();
        assert!(
            told.contains("train.seed would be lost") && told.contains("as train.steps="),
            "{told}"
        );
        for (written, setting) in [
            ("", "train={steps=3}"),
            (written, "train={steps=3, seed=4}"),
        ] {
            let made = recipe(written, &[setting]).expect("nothing is lost");
            assert_eq!(made.train.steps, 3);
        }
    }
}
