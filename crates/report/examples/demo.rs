//! Writes made-up runs and their reports into a folder, to look at the pages while changing them:
//! `cargo run -p etude-report --example demo -- OUT`.

use std::path::PathBuf;

#[path = "../tests/fixture/mod.rs"]
mod fixture;

fn main() -> anyhow::Result<()> {
    let out = PathBuf::from(
        std::env::args()
            .nth(1)
            .unwrap_or_else(|| "target/report-demo".into()),
    );
    let quickstart = out.join("quickstart");
    fixture::quickstart(&quickstart);
    etude_report::write(&quickstart)?;
    let runs = ["base", "task", "scratch"].map(|arm| quickstart.join(arm));
    for run in &runs {
        etude_report::write(run)?;
    }
    let runs: Vec<&std::path::Path> = runs.iter().map(PathBuf::as_path).collect();
    etude_report::write_many(&runs, &out.join("runs.html"))?;
    Ok(())
}
