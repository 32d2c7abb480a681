//! The user's own data without a manifest: a text file, a folder, JSONL, JSON, CSV or TSV. Looks at
//! the path and the first record, and writes the manifest that the user would have written.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clean::Clean;
use crate::dataset::named_split;
use crate::error::DataError;
use crate::manifest::{
    Boundary, ChatMap, Filter, Format, Kind, Manifest, Map, Read, Registry, Source, SplitRule,
};
use crate::mapping::not_turns;
use crate::records::read_file;
use crate::split::Split;

/// What a user may say about data of their own; everything has a default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalOptions {
    /// Text or task; by default what the records look like.
    pub kind: Option<Kind>,
    /// For text files: what one document is.
    pub documents: Boundary,
    /// For CSV and TSV: whether double quotes are text, see [`Read::unquoted`].
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unquoted: bool,
    /// Template of a document's text, such as `"{title}\n{body}"`.
    pub text: Option<String>,
    /// Template of an example's prompt.
    pub prompt: Option<String>,
    /// Template of an example's completion.
    pub completion: Option<String>,
    /// Path to a list of right answers, see [`Map::answers`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<String>,
    /// Template of the key that decides the split.
    pub key: Option<String>,
    /// Clean-up steps.
    pub clean: Vec<Clean>,
    /// Percent for validation; by default 5. 0 for none.
    pub validation: Option<u8>,
    /// Percent for the test; by default 10 for a task and none for text.
    pub test: Option<u8>,
}

const TEXT_ENDINGS: [&str; 3] = ["txt", "md", "text"];
const SALT: &str = "etude";

impl Manifest {
    /// The manifest of a file or folder of the user's own.
    ///
    /// Text files are split by their tail: the last `validation` percent of the bytes, cut at a
    /// line's start. Records are split by the hash of their key (with the salt `etude`), and each
    /// split that is asked for gets at least one record. Files in one folder whose names begin with
    /// the words `train`, `validation` (or `val`, `dev`) and `test` are the splits themselves; records
    /// without a file for validation give `validation` percent of the training files' for it.
    ///
    /// # Errors
    /// A path that is not there, an unknown kind of file, records with unknown fields.
    pub fn for_path(path: &Path, options: &LocalOptions) -> Result<Self, DataError> {
        let found = Found::look(path)?;
        let mut read = Read {
            format: found.format,
            documents: options.documents,
            // Said of all sources of a recipe, some of which may be text.
            unquoted: options.unquoted && matches!(found.format, Format::Csv | Format::Tsv),
            clean: options.clean.clone(),
            ..Read::default()
        };
        if found.format == Format::Text
            && !read.clean.contains(&Clean::LineEnds)
            && read.documents != Boundary::Joined
        {
            read.clean.insert(0, Clean::LineEnds);
        }
        let mut map = Map {
            text: options.text.clone(),
            prompt: options.prompt.clone(),
            completion: options.completion.clone(),
            answers: options.answers.clone(),
            key: options.key.clone(),
            ..Map::default()
        };
        let mapped = [&map.text, &map.prompt, &map.completion, &map.answers];
        let guessed = found.format != Format::Text && mapped.iter().all(|one| one.is_none());
        let kind = match found.format {
            Format::Text => text_kind(path, options)?,
            _ => guess(&found.first, &read, options, &mut map)?,
        };
        let validation = options.validation.unwrap_or(5);
        let split = if let Some(named) = &found.named_splits {
            // A text file is a document, and none is shared out.
            let percent = |split, percent| match named.contains(&split) {
                false if found.format != Format::Text => percent,
                _ => 0,
            };
            let validation = percent(Split::Validation, validation);
            let test = percent(Split::Test, options.test.unwrap_or(0));
            let shares = validation > 0 || test > 0;
            SplitRule {
                by_file: true,
                salt: if shares {
                    SALT.to_string()
                } else {
                    String::new()
                },
                validation,
                test,
                ..SplitRule::default()
            }
        } else if found.format == Format::Text {
            if options.test.is_some_and(|test| test > 0) {
                let remedy = "leave `test` out, or give records or a folder with test files";
                return Err(DataError::in_file(
                    path,
                    "text files have no test split",
                    remedy,
                ));
            }
            SplitRule {
                tail_percent: Some(validation).filter(|&percent| percent > 0),
                ..SplitRule::default()
            }
        } else {
            let test = options
                .test
                .unwrap_or(if kind == Kind::Task { 10 } else { 0 });
            SplitRule {
                salt: SALT.to_string(),
                validation,
                test,
                ..SplitRule::default()
            }
        };
        let title = path
            .file_name()
            .unwrap_or(path.as_os_str())
            .to_string_lossy()
            .into_owned();
        let manifest = Self {
            name: plain_name(&title),
            description: format!("{} of yours", path.display()),
            title,
            kind,
            licence: "yours".to_string(),
            notes: String::new(),
            source: Source {
                registry: Registry::Local,
                path: absolute(path)?,
                files: found.patterns,
                ..Source::default()
            },
            read,
            map,
            filter: Filter::default(),
            split,
            counts: None,
            origin: path.to_path_buf(),
            guessed,
        };
        check_held_out(&manifest, options)?;
        manifest.validate()?;
        Ok(manifest)
    }
}

/// What is at a path.
struct Found {
    format: Format,
    patterns: Vec<String>,
    /// The first file.
    first: PathBuf,
    /// The splits that the files' names speak of, where they speak of training and of another.
    named_splits: Option<BTreeSet<Split>>,
}

impl Found {
    fn look(path: &Path) -> Result<Self, DataError> {
        let metadata = std::fs::metadata(path).map_err(DataError::io("read", path))?;
        if !metadata.is_dir() {
            let Some(format) = format_of(path) else {
                let remedy =
                    "use .txt, .md, .jsonl, .json, .csv or .tsv, or write a manifest (.toml)";
                return Err(DataError::in_file(path, "unknown kind of file", remedy));
            };
            return Ok(Self {
                format,
                patterns: Vec::new(),
                first: path.to_path_buf(),
                named_splits: None,
            });
        }
        let mut files = Vec::new();
        crate::fetch::list_files(path, "", &mut files)?;
        files.sort();
        // A README or a Makefile beside the data has no ending; where nothing has one, they are the data.
        let bare = |name: &String| Path::new(name).extension().is_none();
        let all_bare = files.iter().all(bare);
        let known: Vec<(&String, Format)> = files
            .iter()
            .filter(|name| all_bare || !bare(name))
            .filter_map(|name| Some((name, format_of(Path::new(name))?)))
            .collect();
        let Some(&(first, format)) = known.first() else {
            let remedy = "put text files (.txt, .md) or records (.jsonl, .json, .csv, .tsv) there";
            return Err(DataError::in_file(
                path,
                "the folder has no file to read",
                remedy,
            ));
        };
        if let Some((other, _)) = known.iter().find(|(_, other)| *other != format) {
            let what = format!("the folder mixes formats: `{first}` and `{other}`");
            return Err(DataError::in_file(
                path,
                what,
                "keep one format a folder, or write a manifest",
            ));
        }
        let ending = |name: &str| match Path::new(name).extension() {
            Some(ending) => format!("**.{}", ending.to_string_lossy()),
            None => "**".to_owned(),
        };
        let mut patterns: Vec<String> = known.iter().map(|(name, _)| ending(name)).collect();
        patterns.sort();
        patterns.dedup();
        let splits: BTreeSet<Split> = known
            .iter()
            .filter_map(|(name, _)| named_split(name))
            .collect();
        let named_splits =
            Some(splits).filter(|splits| splits.contains(&Split::Train) && splits.len() > 1);
        Ok(Self {
            format,
            patterns,
            first: path.join(first),
            named_splits,
        })
    }
}

fn format_of(path: &Path) -> Option<Format> {
    let ending = path
        .extension()
        .map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    match ending.as_deref() {
        None => Some(Format::Text),
        Some(ending) if TEXT_ENDINGS.contains(&ending) => Some(Format::Text),
        Some("jsonl" | "ndjson") => Some(Format::Jsonl),
        Some("json") => Some(Format::Json),
        Some("csv") => Some(Format::Csv),
        Some("tsv" | "tab") => Some(Format::Tsv),
        _ => None,
    }
}

fn text_kind(path: &Path, options: &LocalOptions) -> Result<Kind, DataError> {
    let templates = [&options.prompt, &options.completion, &options.answers];
    if options.kind == Some(Kind::Task) || templates.iter().any(|template| template.is_some()) {
        let remedy = "give .jsonl or .csv with prompt and completion, or messages";
        return Err(DataError::in_file(
            path,
            "a text file has no task examples",
            remedy,
        ));
    }
    Ok(Kind::Text)
}

/// Tells text from task by the first record's fields, and fills the templates that were not given.
fn guess(
    first: &Path,
    read: &Read,
    options: &LocalOptions,
    map: &mut Map,
) -> Result<Kind, DataError> {
    let mut fields = None;
    read_file(first, read, &mut |record| {
        fields = Some((record.value, record.line));
        Ok(false)
    })?;
    let Some((value, line)) = fields else {
        return Err(DataError::in_file(
            first,
            "there is no record in it",
            "give it at least one record",
        ));
    };
    let has = |name: &str| value.get(name).is_some();
    if map.text.is_some() && options.kind != Some(Kind::Task) {
        return Ok(Kind::Text);
    }
    let asked = |kind: Kind| options.kind.is_none_or(|asked| asked == kind);
    let mapped = [&map.prompt, &map.completion, &map.answers];
    let holds_turns = |name: &str| value[name][0].get("role").is_some();
    if asked(Kind::Task)
        && mapped.iter().all(|template| template.is_none())
        && holds_turns("prompt")
        && holds_turns("completion")
    {
        // A conversation in two parts, as TRL has it.
        map.chat = Some(ChatMap {
            turns: "prompt".to_string(),
            then: Some("completion".to_string()),
            content: "{content}".to_string(),
            role: Some("role".to_string()),
        });
        return Ok(Kind::Task);
    }
    if asked(Kind::Task)
        && (has("prompt") || map.prompt.is_some())
        && (has("completion")
            || has("answers")
            || map.completion.is_some()
            || map.answers.is_some())
    {
        map.prompt.get_or_insert_with(|| "{prompt}".to_string());
        // Beside a completion they may be anything, the options of a question, say.
        let none = !has("completion") && map.completion.is_none() && map.answers.is_none();
        if none {
            map.answers = Some("answers".to_string());
        } else if has("completion") {
            map.completion
                .get_or_insert_with(|| "{completion}".to_string());
        }
        return Ok(Kind::Task);
    }
    let turns = ["messages", "conversations"]
        .into_iter()
        .find(|name| value.get(*name).is_some_and(Value::is_array));
    if let Some(turns) = turns.filter(|_| asked(Kind::Task)) {
        let names_by_from = value[turns]
            .get(0)
            .is_some_and(|turn| turn.get("from").is_some());
        let (role, content) = if names_by_from {
            ("from", "{value}")
        } else {
            ("role", "{content}")
        };
        map.chat = Some(ChatMap {
            turns: turns.to_string(),
            then: None,
            content: content.to_string(),
            role: Some(role.to_string()),
        });
        return Ok(Kind::Task);
    }
    if asked(Kind::Text) && has("text") {
        map.text = Some("{text}".to_string());
        return Ok(Kind::Text);
    }
    let odd_turns = ["messages", "conversations"]
        .into_iter()
        .find(|name| has(name) && asked(Kind::Task));
    if let Some(name) = odd_turns {
        return Err(not_turns(first, line, name));
    }
    let known: Vec<&str> = value
        .as_object()
        .into_iter()
        .flat_map(|map| map.keys().map(String::as_str))
        .collect();
    let wanted = match options.kind {
        Some(Kind::Text) => "`text`",
        Some(Kind::Task) => "`prompt` and `completion` or `answers`, or `messages`",
        None => "`text`, or `prompt` and `completion` or `answers`, or `messages`",
    };
    Err(DataError::at_line(
        first,
        line,
        format!(
            "the record has the fields `{}`; expected {wanted}",
            known.join("`, `")
        ),
        "rename the fields, or map them: text = \"{field}\", or prompt = \"{field}\" and completion = \"{field}\"",
    ))
}

/// Refuses to hold out everything, by the names of the settings that ask for it.
fn check_held_out(manifest: &Manifest, options: &LocalOptions) -> Result<(), DataError> {
    let SplitRule {
        validation, test, ..
    } = manifest.split;
    let percent = manifest.split.tail_percent.unwrap_or(validation);
    let held_out = u32::from(percent) + u32::from(test);
    if held_out <= 99 {
        return Ok(());
    }
    let table = match manifest.kind {
        Kind::Task => "task.local",
        Kind::Text => "data.local",
    };
    let said = |name: &str, percent: u8, option: Option<u8>| match (percent, option) {
        (0, _) => None,
        (percent, None) => Some(format!(
            "{table}.{name} = {percent} (where nothing is said)"
        )),
        (percent, Some(_)) => Some(format!("{table}.{name} = {percent}")),
    };
    let keys = [
        said("validation", percent, options.validation),
        said("test", test, options.test),
    ];
    let keys: Vec<String> = keys.into_iter().flatten().collect();
    let what = match &keys[..] {
        [one] => format!("{one} leaves nothing to learn from"),
        all => format!(
            "{} hold out {held_out} percent, which leaves nothing to learn from",
            all.join(" and ")
        ),
    };
    let remedy = match keys.len() {
        1 => "give less than 100",
        _ => "give less than 100 together",
    };
    Err(DataError::in_file(&manifest.origin, what, remedy))
}

/// A manifest name out of a file name.
fn plain_name(title: &str) -> String {
    let stem = title.rsplit_once('.').map_or(title, |(stem, _)| stem);
    let name: String = stem
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let name = name.trim_matches('-');
    if name.is_empty() {
        "data".to_string()
    } else {
        name.to_string()
    }
}

fn absolute(path: &Path) -> Result<PathBuf, DataError> {
    std::path::absolute(path).map_err(DataError::io("find", path))
}
