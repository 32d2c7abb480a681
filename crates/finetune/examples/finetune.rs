//! Runs a fine-tuning recipe: `cargo run -p etude-finetune --example finetune RECIPE RUN [key=value]…`.

use std::path::Path;

use etude_data::{Cache, Catalog};
use etude_train::{RecipeText, RunContext};

fn main() -> anyhow::Result<()> {
    etude_tensor::memory::keep_freed_memory();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let recipe: etude_finetune::Recipe =
        RecipeText::read(Path::new(&args[0]))?.parse(&args[2..])?;
    let context = RunContext::new(
        args[1].clone().into(),
        Catalog::load(&[] as &[&Path])?,
        Cache::user()?,
        true,
    )?;
    println!(
        "{}",
        serde_json::to_string(&etude_finetune::run(&recipe, &context)?)?
    );
    Ok(())
}
