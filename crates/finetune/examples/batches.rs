//! Prints the batches that a fine-tuning recipe trains on, one JSON object a step, so that another program can
//! train on the same ones: `scripts/bench/peft_run.py` does.
//!
//! ```text
//! cargo run --release -p etude-finetune --example batches -- RECIPE.toml MODEL_FOLDER [key=value …] > batches.jsonl
//! ```
//!
//! Each line has `input_ids` and `targets`, rows of equal length, padding included; a target of -100 is not
//! supervised.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use etude_data::{Cache, Catalog};
use etude_finetune::{Layout, Recipe, batches, prepare};
use etude_model::hf;
use etude_tokenizer::Tokenizer;
use etude_train::{RunContext, recipe::RecipeText};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let mut path = |what| args.next().map(PathBuf::from).context(what);
    let recipe = path("name a recipe file")?;
    let model = path("name the model folder")?;
    let settings: Vec<String> = args.collect();
    let recipe: Recipe = RecipeText::read(&recipe)?.parse(&settings)?;

    let (config, _) = hf::load_config(&model)?;
    let tokenizer = Tokenizer::load(&model)?;
    let run = RunContext::new(
        PathBuf::new(),
        Catalog::load(&[] as &[PathBuf])?,
        Cache::user()?,
        false,
    )?;
    let context = config.context as usize;
    let task = prepare(&recipe.task, context, &tokenizer, &run)?;
    if recipe.task.layout == Layout::Packed {
        bail!("task.layout = \"packed\": documents are not printed; take another layout");
    }
    let batches = batches(&recipe, &task, &tokenizer, context)?;

    let mut out = BufWriter::new(std::io::stdout().lock());
    for step in 0..recipe.train.steps {
        let batch = batches.finetune_batch(step);
        let rows = |flat: &[i64]| {
            flat.chunks(batch.cols)
                .map(<[i64]>::to_vec)
                .collect::<Vec<_>>()
        };
        let line = serde_json::json!({
            "input_ids": rows(&batch.input_ids),
            "targets": rows(&batch.targets),
        });
        writeln!(out, "{line}")?;
    }
    Ok(out.flush()?)
}
