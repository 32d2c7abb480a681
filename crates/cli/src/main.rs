//! `etude`: parses the command line, calls one command, prints its failure.
//!
//! Results go to stdout, progress and errors to stderr. Exit status: 0 done, 1 failed, 2 wrong use or
//! bad input, 130 stopped by Ctrl-C. Nothing is done before the command is known, so that help costs no
//! more than loading libtorch.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod adapter;
mod allocator;
mod args;
mod certificate;
mod commands;
mod error;
mod files;
mod generation;
mod model;
mod output;
mod recipes;
mod stage;
mod target;
mod task;

use std::process::ExitCode;

use etude_tensor::memory;

fn main() -> ExitCode {
    allocator::keep_freed_memory();
    let line = match args::CommandLine::read() {
        Ok(line) => line,
        Err(refusal) if refusal.use_stderr() => refusal.exit(),
        Err(help) => {
            return match output::help(&help) {
                Ok(()) => ExitCode::SUCCESS,
                Err(failure) => error::report(&failure).into(),
            };
        }
    };
    error::say_faults_in_one_line();
    let done = memory::or_out_of_memory(|| commands::run(line.command));
    match done.unwrap_or_else(|failure| Err(failure.into())) {
        Ok(exit) => exit.into(),
        Err(failure) => error::report(&failure).into(),
    }
}
