//! A tokenizer from the command line: train one on text files, turn a file into ids and ids into
//! text. `scripts/goldens/tokenizer_parity.py` compares its output with Python's.
//!
//! ```sh
//! cargo run --release -p etude-tokenizer --example tokenize -- train MODEL 2048 words FILE…
//! cargo run --release -p etude-tokenizer --example tokenize -- encode MODEL FILE > ids.json
//! cargo run --release -p etude-tokenizer --example tokenize -- decode MODEL ids.json
//! ```
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for the command line"
)]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use etude_tokenizer::{Split, Tokenizer, TrainSettings};

const USAGE: &str =
    "give: train MODEL VOCAB_SIZE words|digits FILE…, encode MODEL FILE, or decode MODEL IDS";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["train", model, vocab_size, split, files @ ..] if !files.is_empty() => {
            train(Path::new(model), vocab_size.parse()?, split, files)
        }
        ["encode", model, file] => encode(Path::new(model), file),
        ["decode", model, file] => decode(Path::new(model), file),
        _ => Err(USAGE.into()),
    }
}

fn train(
    model: &Path,
    vocab_size: usize,
    split: &str,
    files: &[&str],
) -> Result<(), Box<dyn Error>> {
    let split = match split {
        "words" => Split::Words,
        "digits" => Split::Digits,
        _ => return Err(USAGE.into()),
    };
    let settings = TrainSettings {
        vocab_size,
        split,
        ..TrainSettings::default()
    };
    let documents: Vec<String> = files
        .iter()
        .map(std::fs::read_to_string)
        .collect::<Result<_, _>>()?;
    let (tokenizer, report) = Tokenizer::train(documents.into_iter(), &settings)?;
    tokenizer.save(model)?;
    eprintln!("{report}");
    Ok(())
}

fn encode(model: &Path, file: &str) -> Result<(), Box<dyn Error>> {
    let start = Instant::now();
    let tokenizer = Tokenizer::load(model)?;
    let loaded = start.elapsed();
    let text = std::fs::read_to_string(file)?;
    let start = Instant::now();
    let ids = tokenizer.encode(&text)?;
    let seconds = start.elapsed().as_secs_f64();
    eprintln!(
        "loaded in {:.1} ms; {} bytes to {} ids in {seconds:.3} s ({:.1} MB/s)",
        loaded.as_secs_f64() * 1e3,
        text.len(),
        ids.len(),
        text.len() as f64 / 1e6 / seconds
    );
    println!("{}", serde_json::to_string(&ids)?);
    Ok(())
}

fn decode(model: &Path, file: &str) -> Result<(), Box<dyn Error>> {
    let tokenizer = Tokenizer::load(model)?;
    let ids: Vec<u32> = serde_json::from_str(&std::fs::read_to_string(file)?)?;
    let mut decoder = tokenizer.decoder(false);
    for id in ids {
        if let Some(text) = decoder.push(id)? {
            print!("{text}");
        }
    }
    print!("{}", decoder.finish());
    Ok(())
}
