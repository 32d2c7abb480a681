//! A self-contained HTML report of a run folder.
//!
//! [`fn@write`] reads what a run left behind (`metrics.jsonl`, `samples.jsonl`, `data.json`,
//! `summary.json`, `recipe.toml`, `environment.json`) and writes one `report.html` that needs
//! nothing else: charts are inline SVG, styles are inline, and a content security policy in the
//! page forbids it to load anything. A quickstart folder (`base/`, `task/`, `scratch/`) becomes one
//! page in reading order, so does the folder of a transfer experiment (`transfer.json`), and [`write_many`] puts several runs side by side.
//!
//! A run in progress, a killed run and damaged lines give a report of what there is, with a note
//! that names file and line. The same input gives the same bytes.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let page = etude_report::write(std::path::Path::new("runs/quickstart"))?;
//! # let _ = page;
//! # Ok(())
//! # }
//! ```

mod read;
mod run;

mod canvas;
mod chart;
mod format;
mod metric;
mod series;
mod ticks;

mod compare;
mod figures;
mod mechanics;

mod data;
mod facts;
mod forecast;
mod ledger;
mod scores;
mod sections;

mod quickstart;
mod transfer;

mod inspect;
mod page;
mod probes;
mod write;

pub use format::p as shown_p;
pub use inspect::write_inspection;
pub use write::{write, write_many};
