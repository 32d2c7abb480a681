//! `etude verify-resume`: the proof that a killed run, taken up again, is the same run.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use etude_experiment::{ResumeProof, ResumeTrial, RunFailed, verify_resume};
use etude_train::interrupt::Interrupt;
use etude_train::progress::Bar;
use etude_train::{TrainSettings, durable, recipe as toml};

use crate::commands::data::CatalogArgs;
use crate::error::{Exit, Misuse, bad_input};
use crate::files;
use crate::output;
use crate::recipes::{self, Stage};

const ABOUT: &str = "\
Prove that a run of this recipe may be killed at any moment. The recipe is run once without interruption. Then it \
is run again while its process is killed with SIGKILL at random moments, every second one inside the writing of a \
checkpoint, and started again until it ends; as many runs as the kills last for. Every weight, every state of the \
optimizer, every logged loss and sample, and the result are compared with the uninterrupted run's, bit for bit.

Each run takes as long as the recipe does, so shorten a long one with --set train.steps=…. Every step's loss is \
logged (train.log_every=1), and a recipe that would save no checkpoint before its end saves five \
(train.checkpoint_every); neither changes what a run computes.

Exit status: 0 when everything is equal, 1 when something differs; what differs is named, and both runs stay.";

const EXAMPLES: &str = "\
Examples:
  etude verify-resume mine.toml
  etude verify-resume shakespeare --set train.steps=30 --set train.checkpoint_every=5 --kills 40
  etude verify-resume smollm2-descriptions --set train.steps=6 --set train.checkpoint_every=2 --kills 5
  etude verify-resume mine.toml --seed 7 --json";

/// Which recipe, and how often.
#[derive(Debug, Args)]
#[command(long_about = ABOUT, after_long_help = EXAMPLES)]
pub(crate) struct VerifyResumeArgs {
    /// A built-in recipe's name, or a recipe file (.toml), of either stage
    #[arg(value_name = "RECIPE")]
    recipe: String,
    /// How often a process is killed
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    kills: u64,
    /// What the moments follow from; another seed gives other moments
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Change one setting, as in train.steps=30; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// A folder for the runs, which is emptied; by default runs/verify-resume/ and the recipe's name
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// Show no bars
    #[arg(long, short)]
    quiet: bool,
    /// Print {"equal", "kills", "runs", "compared", "differences", …} as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    catalog: CatalogArgs,
}

pub(crate) fn run(args: &VerifyResumeArgs) -> Result<Exit> {
    let (stage, source) = recipes::of_any_stage(&args.recipe)?;
    if let Some(folder) = &args.run {
        files::utf8(folder)?;
    }
    args.catalog.catalog()?; // what is wrong with it, the runs should not have to say
    let (train, recipe) = match stage {
        Stage::Pretrain => {
            let mut recipe: etude_pretrain::Recipe =
                source.parse(&args.settings).map_err(bad_input)?;
            watch_closely(&mut recipe.train);
            (recipe.train.clone(), toml::to_toml(&recipe)?)
        }
        Stage::Finetune => {
            let mut recipe: etude_finetune::Recipe =
                source.parse(&args.settings).map_err(bad_input)?;
            watch_closely(&mut recipe.train);
            (recipe.train.clone(), toml::to_toml(&recipe)?)
        }
        Stage::Transfer => return Err(recipes::many_runs(&source.name)),
    };
    let folder = args
        .run
        .clone()
        .unwrap_or_else(|| Path::new("runs/verify-resume").join(&source.name));
    let trial = ResumeTrial {
        folder,
        command: command(stage, &args.catalog)?,
        recipe,
        train,
        kills: args.kills,
        seed: args.seed,
    };
    let bar = match args.quiet {
        true => Bar::hidden(),
        false => Bar::new("kills", args.kills, 0),
    };
    let mut tell = |line: &str, kills: u64| {
        bar.advance(kills);
        if !line.is_empty() {
            bar.say(line);
        }
    };
    let interrupt = Interrupt::listen()?;
    interrupt.work_begins(); // there are processes to end
    let proof = verify_resume(&trial, &interrupt, &mut tell);
    bar.finish();
    let Some(proof) = proof.map_err(explained)? else {
        output::note("stopped; no process is left running, and nothing was proved");
        return Ok(Exit::Interrupted);
    };
    let json = serde_json::to_vec_pretty(&proof).context("a proof is plain data")?;
    durable::write(&trial.folder.join("proof.json"), &json)?;
    if args.json {
        output::json(&proof)?;
    } else {
        output::text(&tell_proof(&proof))?;
    }
    Ok(if proof.equal {
        Exit::Done
    } else {
        Exit::Failed
    })
}

/// Logs every loss, and saves checkpoints on the way where the recipe would not.
fn watch_closely(train: &mut TrainSettings) {
    train.log_every = 1;
    if train.checkpoint_every == 0 || train.checkpoint_every >= train.steps {
        train.checkpoint_every = (train.steps / 5).max(1);
    }
}

/// This program, as it runs a recipe.
fn command(stage: Stage, catalog: &CatalogArgs) -> Result<Vec<OsString>> {
    let program = std::env::current_exe().context("this program's own file cannot be found")?;
    let mut command = vec![
        program.into_os_string(),
        stage.name().into(),
        "--quiet".into(),
    ];
    command.extend(catalog.arguments());
    Ok(command)
}

/// A run that failed for what the user gave it is the user's to mend here as well.
fn explained(failure: anyhow::Error) -> anyhow::Error {
    match failure.downcast_ref::<RunFailed>() {
        Some(failed) if failed.status == Some(2) => Misuse::error(
            failed.to_string(),
            "mend the recipe; `etude plan` tries it for less",
        ),
        Some(_) => failure.context("the uninterrupted run failed"),
        None => failure,
    }
}

fn tell_proof(proof: &ResumeProof) -> String {
    let row = |key: &str, value: String| vec![key.to_owned(), value];
    let (kills, compared) = (&proof.kills, &proof.compared);
    let count = output::count;
    let mut rows = vec![
        row(
            "uninterrupted",
            format!("{} steps in {:.1} s", count(proof.steps), proof.seconds),
        ),
        row(
            "killed",
            format!(
                "{} times with SIGKILL, seed {}",
                count(kills.total),
                proof.seed
            ),
        ),
    ];
    for (number, place) in [
        (
            kills.writing_checkpoint,
            "while a checkpoint was being written",
        ),
        (
            kills.removing_checkpoint,
            "while an old checkpoint was being removed",
        ),
        (kills.writing_result, "while the result was being written"),
        (kills.before_first_step, "before the first step was logged"),
        (kills.elsewhere, "elsewhere"),
    ] {
        if number > 0 {
            rows.push(row("", format!("{} {place}", count(number))));
        }
    }
    rows.push(row(
        "compared",
        format!(
            "{}, each with {} weights and {} optimizer states ({} numbers) in {} checkpoints and the result,",
            match proof.runs {
                1 => "1 run".to_owned(),
                runs => format!("{} runs", count(runs)),
            },
            count(compared.weights),
            count(compared.optimizer_states),
            count(compared.numbers),
            compared.checkpoints,
        ),
    ));
    rows.push(row(
        "",
        format!(
            "{} training losses, {} validations, {} samples, bit for bit",
            count(compared.losses),
            count(compared.evaluations),
            count(compared.samples),
        ),
    ));
    let mut text = output::columns(&rows);
    if kills.writing_checkpoint == 0 {
        text += "\nNo kill fell into the writing of a checkpoint: take more kills, more steps or more checkpoints.\n";
    }
    if proof.equal {
        text += "\nEqual. After every kill the newest whole checkpoint was still there, each run went on by itself, \
                 and\nended in the same model, to the last bit, as the run that nobody touched.\n";
        return text;
    }
    text += "\nNOT equal:\n";
    for difference in proof.differences.iter().take(20) {
        text += &format!(
            "  {}: {}\n",
            output::plain(&difference.place),
            output::plain(&difference.what.trim_end().replace('\n', " "))
        );
    }
    if proof.differences.len() > 20 {
        let more = proof.differences.len() - 20;
        text += &format!("  and {} more, in proof.json\n", count(more as u64));
    }
    for folder in &proof.folders {
        text += &format!("run  {}\n", folder.display());
    }
    text
}
