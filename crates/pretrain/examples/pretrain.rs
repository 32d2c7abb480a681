//! Runs a pre-training recipe: `cargo run -p etude-pretrain --example pretrain RECIPE RUN [key=value]…`.
use etude_data::{Cache, Catalog};
use etude_train::{RecipeText, RunContext};
use std::path::Path;
fn main() -> anyhow::Result<()> {
    etude_tensor::memory::keep_freed_memory();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let recipe: etude_pretrain::Recipe =
        RecipeText::read(Path::new(&args[0]))?.parse(&args[2..])?;
    let context = RunContext::new(
        args[1].clone().into(),
        Catalog::load(&[] as &[&Path])?,
        Cache::user()?,
        true,
    )?;
    let ended = etude_pretrain::run(&recipe, &context)?;
    println!("{}", serde_json::to_string(&ended)?);
    Ok(())
}
