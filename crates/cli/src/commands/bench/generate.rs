//! `etude bench generate`: reading a prompt, and continuing it token by token.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use etude_model::{Beams, Decoder, Generator, Request, Sampling, hf};
use etude_tensor::{device, parse_device, peak, step_seed};
use serde::Serialize;
use serde_json::json;

use super::{median, peak_rss_mb, serve};
use crate::error::{Exit, Misuse, bad_input};
use crate::{model, output};

const EXAMPLES: &str = "\
Examples:
  etude bench generate smollm2
  etude bench generate runs/quickstart/task --prompt-tokens 32 --tokens 100
  scripts/bench/compare_published.py --etude target/release/etude    beside Transformers and PEFT";

/// What to read and how much to write.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct GenerateArgs {
    /// A model folder, a run folder, or `smollm2`
    model: PathBuf,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 512)]
    prompt_tokens: usize,
    /// Tokens to make after it
    #[arg(long, default_value_t = 64)]
    tokens: usize,
    /// Times to measure, after one that is not counted
    #[arg(long, default_value_t = 5)]
    times: u64,
    /// Do it K times for each line `go K` on standard input, and print a JSON line for each
    #[arg(long)]
    stdin: bool,
    /// Where to run: auto, cpu, cuda, cuda:N or mps
    #[arg(long, default_value = "auto")]
    device: String,
    /// Threads of an operation; 0 leaves libtorch's choice
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Times {
    /// From the start to the first token, in seconds.
    prefill: Vec<f64>,
    /// Between one token and the next, in seconds: the mean of each time.
    per_token: Vec<f64>,
}

pub(super) fn run(args: &GenerateArgs) -> Result<Exit> {
    device::set_threads(args.threads);
    let on = parse_device(&args.device).map_err(|error| bad_input(error.into()))?;
    let decoder = hf::load_to_ask(&model::folder(&args.model)?, on)?.decoder;
    let context = decoder.config().context as usize;
    let together = args.prompt_tokens.saturating_add(args.tokens);
    if args.tokens < 2 || args.prompt_tokens == 0 || together > context {
        return Err(Misuse::error(
            format!(
                "a prompt of {} tokens and {} after it, in a context of {context}",
                args.prompt_tokens, args.tokens
            ),
            "give at least 1 and 2, and together at most the context",
        ));
    }
    let turn = |times| measure(&decoder, args, times);
    if args.stdin {
        return serve(turn);
    }
    turn(1)?;
    let times = turn(args.times.max(1))?;
    let (prefill, per_token) = (median(times.prefill), median(times.per_token));
    let read = weight_bytes(&decoder);
    let bandwidth = peak::read_bandwidth(on);
    let share = read / per_token / bandwidth;
    if args.json {
        output::json(&json!({
            "model": args.model, "prompt_tokens": args.prompt_tokens, "tokens": args.tokens,
            "prefill_seconds": prefill, "prefill_tokens_per_second": args.prompt_tokens as f64 / prefill,
            "seconds_per_token": per_token, "tokens_per_second": 1.0 / per_token,
            "bytes_read_per_token": read, "read_bytes_per_second": bandwidth, "share_of_read_bandwidth": share,
            "peak_rss_mb": peak_rss_mb(), "device": device::device_name(on),
        }))?;
    } else {
        output::line(&format!(
            "prompt: {:.0} tokens/s; after it: {:.1} tokens/s, {:.0}% of what reading the weights at {:.1} GB/s allows",
            args.prompt_tokens as f64 / prefill,
            1.0 / per_token,
            100.0 * share,
            bandwidth / 1e9
        ))?;
    }
    Ok(Exit::Done)
}

/// A made-up prompt, continued greedily without regard to end tokens.
fn measure(decoder: &Decoder, args: &GenerateArgs, times: u64) -> Result<Times> {
    let vocabulary = decoder.config().vocab_size as u64;
    let id = |place: usize| (step_seed(1, place as u64) % vocabulary) as u32;
    let request = Request {
        ids: (0..args.prompt_tokens).map(id).collect(),
        max_tokens: args.tokens,
        end: Vec::new(),
        sampling: Sampling::greedy(),
        beams: Beams::default(),
    };
    let generator = Generator::new(decoder);
    let mut measured = Times {
        prefill: Vec::new(),
        per_token: Vec::new(),
    };
    for _ in 0..times {
        let start = Instant::now();
        let mut first = None;
        generator.generate(std::slice::from_ref(&request), &mut |_, _| {
            first.get_or_insert_with(|| start.elapsed().as_secs_f64());
            ControlFlow::Continue(())
        })?;
        let first = first.unwrap_or_default();
        let rest = start.elapsed().as_secs_f64() - first;
        measured.prefill.push(first);
        measured.per_token.push(rest / (args.tokens - 1) as f64);
    }
    Ok(measured)
}

/// The bytes that one token needs: of all weights but an embedding that only one row is read of.
fn weight_bytes(decoder: &Decoder) -> f64 {
    let tied = decoder.config().tied;
    let read = |name: &str| match name {
        "embedding.weight" => tied,
        "positions.weight" => false,
        _ => true,
    };
    let bytes = |tensor: &etude_tensor::Tensor| tensor.numel() * tensor.kind().elt_size_in_bytes();
    let params = decoder.params().entries().iter();
    params
        .filter(|param| read(&param.name))
        .map(|param| bytes(&param.tensor) as f64)
        .sum()
}
