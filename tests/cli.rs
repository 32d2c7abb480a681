//! The built `etude`, run as a user runs it: what it prints, how it ends, and what it says when something
//! is wrong. What each result is worth is tested where it is computed.

#![allow(clippy::unwrap_used)] // helpers of tests fail as tests do

#[path = "cli/beams.rs"]
mod beams;
#[path = "cli/bench.rs"]
mod bench;
#[path = "cli/benchmarks.rs"]
mod benchmarks;
#[path = "cli/certificate.rs"]
mod certificate;
#[path = "cli/data.rs"]
mod data;
#[path = "cli/errors.rs"]
mod errors;
#[path = "cli/faults.rs"]
mod faults;
#[path = "cli/folders.rs"]
mod folders;
#[path = "cli/generate.rs"]
mod generate;
#[path = "cli/help.rs"]
mod help;
#[path = "cli/import.rs"]
mod import;
#[path = "cli/inspect.rs"]
mod inspect;
#[path = "cli/lora.rs"]
mod lora;
#[path = "cli/model.rs"]
mod model;
#[path = "cli/outputs.rs"]
mod outputs;
#[path = "cli/own_data.rs"]
mod own_data;
#[path = "cli/plan.rs"]
mod plan;
#[path = "cli/replay.rs"]
mod replay;
#[path = "cli/stages.rs"]
mod stages;
#[path = "cli/support.rs"]
mod support;
#[path = "cli/tokenizer.rs"]
mod tokenizer;
#[path = "cli/transfer.rs"]
mod transfer;
#[path = "cli/verify_resume.rs"]
mod verify_resume;
