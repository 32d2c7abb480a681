//! `etude bench`: how fast this machine does a fixed piece of work.

use std::io::BufRead;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use etude_tensor::{Kind, Precision, device, memory, parse_device, peak};
use etude_train::bench::StepBench;
use serde_json::json;

use crate::error::{Exit, Misuse, bad_input};
use crate::output;

const TRAIN_EXAMPLES: &str = "\
Examples:
  etude bench train                                   ten steps of a 12-million-parameter GPT
  etude bench train --preset gpt2-124m --device cuda --precision bfloat16
  scripts/bench/compare_training.py --etude target/release/etude     beside PyTorch, in pairs";

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
    /// Time training steps of a fixed shape
    #[command(after_long_help = TRAIN_EXAMPLES)]
    Train(TrainArgs),
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
    /// auto, float32, bfloat16 or float64
    #[arg(long, default_value = "auto")]
    precision: String,
    /// Threads of an operation; 0 leaves libtorch's choice
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Which steps.
#[derive(Debug, Args)]
struct TrainArgs {
    /// gpt2-12m (6 layers of 384, 8 × 256 tokens) or gpt2-124m (12 of 768, 16 × 1,024)
    #[arg(long, default_value = "gpt2-12m")]
    preset: String,
    /// Steps to time, after three that are not
    #[arg(long, default_value_t = 10)]
    steps: u64,
    /// Make K steps for each line `go K` on standard input, and print a JSON line for each
    #[arg(long)]
    stdin: bool,
    #[command(flatten)]
    on: WhereArgs,
}

pub(crate) fn run(args: &BenchArgs) -> Result<Exit> {
    memory::keep_freed_memory();
    match &args.what {
        What::Train(args) => train(args),
        What::Matmul(args) => matmul(args),
    }
}

fn precision(name: &str) -> Result<Precision> {
    serde_json::from_value(json!(name)).map_err(|_| {
        Misuse::error(
            format!("precision `{name}` is not known"),
            "use auto, float32, bfloat16 or float64",
        )
    })
}

fn matmul(args: &WhereArgs) -> Result<Exit> {
    device::set_threads(args.threads);
    let on = parse_device(&args.device).map_err(|error| bad_input(error.into()))?;
    let precision = precision(&args.precision)?.resolve(on);
    let kind = if precision == Precision::Bfloat16 {
        Kind::BFloat16
    } else {
        precision.kind()
    };
    let flops = peak::matmul_peak(on, kind);
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

fn train(args: &TrainArgs) -> Result<Exit> {
    device::set_threads(args.on.threads);
    let on = parse_device(&args.on.device).map_err(|error| bad_input(error.into()))?;
    let precision = precision(&args.on.precision)?;
    let mut bench = StepBench::new(&args.preset, on, precision).map_err(bad_input)?;
    if args.stdin {
        return serve(&mut bench);
    }
    bench.run(3)?;
    let mut times = bench.run(args.steps.max(1))?.seconds;
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    let kind = if precision.resolve(on) == Precision::Bfloat16 {
        Kind::BFloat16
    } else {
        precision.kind()
    };
    let peak = peak::matmul_peak(on, kind);
    let rate = bench.tokens() as f64 / median;
    let share = bench.flops() / median / peak;
    if args.on.json {
        output::json(&json!({
            "preset": args.preset, "seconds": median, "tokens_per_second": rate, "share_of_matmul_peak": share,
            "matmul_flops_per_second": peak, "peak_rss_mb": peak_rss_mb(), "device": device::device_name(on),
        }))?;
    } else {
        output::line(&format!(
            "{:.4} s a step (median of {}), {rate:.0} tokens/s, {:.0}% of the matrix-product peak ({:.0} GFLOP/s)",
            median,
            times.len(),
            100.0 * share,
            peak / 1e9
        ))?;
    }
    Ok(Exit::Done)
}

/// The protocol of `scripts/bench/compare_training.py`: two programs take turns.
fn serve(bench: &mut StepBench) -> Result<Exit> {
    for line in std::io::stdin().lock().lines() {
        let line = line.context("standard input cannot be read")?;
        let steps = line
            .trim()
            .strip_prefix("go ")
            .and_then(|k| k.trim().parse().ok());
        let Some(steps) = steps else {
            return Err(Misuse::error(
                format!("`{line}` is not understood"),
                "each line is `go K`, K a number of steps",
            ));
        };
        output::json(&bench.run(steps)?)?;
    }
    output::json(&json!({"peak_rss_mb": peak_rss_mb()}))?;
    Ok(Exit::Done)
}

fn peak_rss_mb() -> Option<f64> {
    memory::peak_rss().map(|bytes| bytes as f64 / 1e6)
}
