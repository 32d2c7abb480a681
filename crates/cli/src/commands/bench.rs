//! `etude bench`: how fast this machine does a fixed piece of work.

mod generate;
mod train;

use std::io::BufRead;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use etude_tensor::{Precision, device, memory, parse_device, peak};
use serde_json::json;

use crate::error::{Exit, Misuse, bad_input};
use crate::output;

const MATMUL_EXAMPLES: &str = "\
Examples:
  etude bench matmul
  etude bench matmul --device cuda --precision bfloat16";

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    #[command(about = "Time training steps of a fixed shape")]
    Train(train::TrainArgs),
    #[command(about = "Time reading a prompt and continuing it, token by token")]
    Generate(generate::GenerateArgs),
    /// Time a large matrix product
    #[command(after_long_help = MATMUL_EXAMPLES)]
    Matmul(WhereArgs),
}

/// On what.
#[derive(Debug, Args)]
struct WhereArgs {
    /// auto, cpu, cuda, cuda:N or mps
    #[arg(long, default_value = "auto")]
    device: String,
    /// auto, float32, bfloat16, float64 or fast
    #[arg(long, default_value = "auto")]
    precision: String,
    /// Threads of an operation; 0 leaves libtorch's choice
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &BenchArgs) -> Result<Exit> {
    memory::tune();
    match &args.what {
        What::Train(args) => train::run(args),
        What::Generate(args) => generate::run(args),
        What::Matmul(args) => matmul(args),
    }
}

fn precision(name: &str) -> Result<Precision> {
    serde_json::from_value(json!(name)).map_err(|_| {
        Misuse::error(
            format!("precision `{name}` is not known"),
            "use auto, float32, bfloat16, float64 or fast",
        )
    })
}

fn matmul(args: &WhereArgs) -> Result<Exit> {
    device::set_threads(args.threads);
    let on = parse_device(&args.device).map_err(|error| bad_input(error.into()))?;
    let flops = peak::matmul_peak(on, precision(&args.precision)?.product_kind(on));
    if args.json {
        output::json(
            &json!({"flops_per_second": flops, "device": device::device_name(on), "threads": device::threads()}),
        )?;
    } else {
        output::line(&format!(
            "{:.1} GFLOP/s on {}",
            flops / 1e9,
            device::device_name(on)
        ))?;
    }
    Ok(Exit::Done)
}

/// The protocol of `scripts/bench/`: two programs take turns.
fn serve<T: serde::Serialize>(mut turn: impl FnMut(u64) -> Result<T>) -> Result<Exit> {
    for line in std::io::stdin().lock().lines() {
        let line = line.context("standard input cannot be read")?;
        let times = line
            .trim()
            .strip_prefix("go ")
            .and_then(|k| k.trim().parse().ok());
        let Some(times) = times else {
            return Err(Misuse::error(
                format!("`{line}` is not understood"),
                "each line is `go K`, K a number of times",
            ));
        };
        output::json(&turn(times)?)?;
    }
    output::json(&json!({"peak_rss_mb": peak_rss_mb()}))?;
    Ok(Exit::Done)
}

/// The middle one, or the upper of the two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn peak_rss_mb() -> Option<f64> {
    memory::peak_rss().map(|bytes| bytes as f64 / 1e6)
}
