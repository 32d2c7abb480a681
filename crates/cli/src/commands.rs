//! The commands, a file each: arguments, checks, one call into a library, and what it prints.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod data;
pub(crate) mod doctor;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod finetune;
pub(crate) mod generate;
pub(crate) mod import;
pub(crate) mod plan;
pub(crate) mod pretrain;
pub(crate) mod quickstart;
pub(crate) mod recipe;
pub(crate) mod replay;
pub(crate) mod report;
pub(crate) mod tokenizer;
pub(crate) mod transfer;
pub(crate) mod verify_resume;

use anyhow::Result;

use crate::args::Command;
use crate::error::Exit;

/// Runs one command.
pub(crate) fn run(command: Command) -> Result<Exit> {
    match command {
        Command::Quickstart(args) => quickstart::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Data(args) => data::run(&args),
        Command::Tokenizer(args) => tokenizer::run(&args),
        Command::Transfer(args) => transfer::run(&args),
        Command::Recipe(args) => recipe::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Pretrain(args) => pretrain::run(&args),
        Command::Finetune(args) => finetune::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::VerifyResume(args) => verify_resume::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Completions(args) => completions::run(&args),
    }
}
