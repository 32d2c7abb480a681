//! `etude bench train`: training steps of a fixed shape.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use etude_model::hf;
use etude_model::lora::{Frozen, LoraConfig, Targets, attach};
use etude_tensor::{Device, Precision, device, parse_device, peak};
use etude_train::bench::{Shape, StepBench};
use serde_json::json;

use super::{WhereArgs, median, peak_rss_mb, precision, serve};
use crate::error::{Exit, bad_input};
use crate::{model, output};

const EXAMPLES: &str = "\
Examples:
  etude bench train                                   ten steps of a 12-million-parameter GPT
  etude bench train --preset gpt2-124m --device cuda --precision bfloat16
  etude bench train --model smollm2 --lora-rank 8 --rows 4 --cols 256 --supervised 32
  scripts/bench/compare_training.py --etude target/release/etude     beside PyTorch, in pairs
  scripts/bench/compare_published.py --etude target/release/etude    beside Transformers and PEFT";

/// Which steps.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct TrainArgs {
    /// gpt2-12m (6 layers of 384, 8 × 256 tokens) or gpt2-124m (12 of 768, 16 × 1,024)
    #[arg(long, default_value = "gpt2-12m")]
    preset: String,
    /// Instead of a preset: a model folder, a run folder, or `smollm2`
    #[arg(long, conflicts_with = "preset")]
    model: Option<PathBuf>,
    /// Train an adapter of this rank on all linear layers, the model frozen
    #[arg(long, requires = "model", value_name = "R")]
    lora_rank: Option<i64>,
    /// Rows of a step
    #[arg(long, requires = "model", default_value_t = 4)]
    rows: usize,
    /// Tokens of a row
    #[arg(long, requires = "model", default_value_t = 256)]
    cols: usize,
    /// The last so many tokens of each row are supervised; all unless given
    #[arg(long, requires = "model", value_name = "N")]
    supervised: Option<usize>,
    /// Steps to time, after three that are not
    #[arg(long, default_value_t = 10)]
    steps: u64,
    /// Make K steps for each line `go K` on standard input, and print a JSON line for each
    #[arg(long)]
    stdin: bool,
    #[command(flatten)]
    on: WhereArgs,
}

pub(super) fn run(args: &TrainArgs) -> Result<Exit> {
    device::set_threads(args.on.threads);
    let on = parse_device(&args.on.device).map_err(|error| bad_input(error.into()))?;
    let precision = precision(&args.on.precision)?;
    let mut bench = match &args.model {
        Some(model) => of_model(args, model, on, precision)?,
        None => StepBench::new(&args.preset, on, precision).map_err(bad_input)?,
    };
    if args.stdin {
        return serve(|steps| bench.run(steps));
    }
    bench.run(3)?;
    let median = median(bench.run(args.steps.max(1))?.seconds);
    let peak = peak::matmul_peak(on, precision.product_kind(on));
    let rate = bench.tokens() as f64 / median;
    let share = bench.flops() / median / peak;
    let ledger = bench.ledger_seconds() / median;
    if args.on.json {
        output::json(&json!({
            "preset": args.model.is_none().then_some(&args.preset), "model": args.model, "seconds": median,
            "tokens_per_second": rate, "share_of_matmul_peak": share, "matmul_flops_per_second": peak,
            "ledger_share": ledger, "peak_rss_mb": peak_rss_mb(), "device": device::device_name(on),
        }))?;
    } else {
        output::line(&format!(
            "{median:.4} s a step (median of {}), {rate:.0} tokens/s, {:.0}% of the matrix-product peak ({:.0} GFLOP/s), {:.5}% of it for the ledger",
            args.steps.max(1),
            100.0 * share,
            peak / 1e9,
            100.0 * ledger
        ))?;
    }
    Ok(Exit::Done)
}

fn of_model(args: &TrainArgs, model: &Path, on: Device, precision: Precision) -> Result<StepBench> {
    let folder = model::folder(model)?;
    let mut decoder = hf::load(&folder, precision.kind(), on)?.decoder;
    if let Some(rank) = args.lora_rank {
        let config = LoraConfig {
            rank,
            alpha: 2.0 * rank as f64,
            rslora: false,
            dora: false,
            dropout: 0.0,
            targets: Targets::AllLinear,
            modules_to_save: Vec::new(),
        };
        let frozen = Frozen {
            base: folder,
            kind: None,
        };
        attach(&mut decoder, config, frozen).map_err(|error| bad_input(error.into()))?;
    }
    let shape = Shape {
        rows: args.rows,
        cols: args.cols,
        supervised: args.supervised.unwrap_or(args.cols),
    };
    StepBench::with_decoder(decoder, shape, precision).map_err(bad_input)
}
