//! `etude report`: the page about a run, or about several side by side.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde_json::json;

use crate::error::{Exit, Misuse, bad_input};
use crate::files;
use crate::output;

const ABOUT: &str = "\
Write the report of one run, or of several side by side.

One HTML file that needs nothing else: curves of the loss, the learning rate and the speed, samples as \
training went on, and scores. Every run folder gets its own when training ends; this command makes it \
again, also for a run that is still going. The folder of a quickstart gives one page about both stages.";

const EXAMPLES: &str = "\
Examples:
  etude report runs/pretrain-shakespeare            writes runs/pretrain-shakespeare/report.html
  etude report runs/a runs/b --out compare.html     compares runs on one page";

/// Which runs.
#[derive(Debug, Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub(crate) struct ReportArgs {
    /// Run folders
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// Where to write the page; for one run by default report.html in its folder
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print {"report": PATH}
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &ReportArgs) -> Result<Exit> {
    if let Some(out) = &args.out {
        files::replace_pages_only(out, "--out")?;
    }
    let runs: Vec<&Path> = args.runs.iter().map(PathBuf::as_path).collect();
    let page = match (&runs[..], &args.out) {
        ([only], None) => etude_report::write(only),
        (runs, Some(out)) => etude_report::write_many(runs, out),
        (_, None) => {
            let remedy = "name a file for it, such as `--out compare.html`";
            return Err(Misuse::error(
                "a page about several runs belongs to none of their folders",
                remedy,
            ));
        }
    };
    let page = page.map_err(blame)?;
    if args.json {
        output::json(&json!({"report": page}))?;
    } else {
        output::line(&page.display().to_string())?;
    }
    Ok(Exit::Done)
}

/// Where the system refused nothing, the folders that were given are at fault.
fn blame(failure: anyhow::Error) -> anyhow::Error {
    if failure.chain().any(|cause| cause.is::<io::Error>()) {
        failure
    } else {
        bad_input(failure)
    }
}
