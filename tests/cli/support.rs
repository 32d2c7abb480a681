//! Running the program, and a tiny model to run it on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use assert_cmd::Command;
use etude_model::hf::{self, TokenIds};
use etude_model::{Decoder, Family, ModelConfig, Sizes};
use etude_tensor::{Device, Kind, with_seed};
use etude_tokenizer::{Tokenizer, TrainSettings};
use serde_json::Value;

/// What a run of the program gave.
pub(crate) struct Done {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A command that sees nothing of the user's own settings.
pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etude"));
    command
        .args(arguments)
        .env("ETUDE_CACHE", scratch("cache"))
        .env_remove("COLUMNS");
    command
}

/// Starts the program, waits until `begun`, a minute at most, and sends it `signal`; with what status it ended then.
pub(crate) fn signalled(arguments: &[&str], begun: impl Fn() -> bool, signal: &str) -> Option<i32> {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_etude"))
        .args(arguments)
        .env("ETUDE_CACHE", scratch("cache"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let patience = Instant::now() + Duration::from_secs(60);
    while !begun() && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(5));
    }
    let id = child.id().to_string();
    let sent = std::process::Command::new("kill")
        .args([signal, &id])
        .status();
    assert!(sent.unwrap().success());
    child.wait().unwrap().code()
}

/// Runs the program in `folder` with `input` on its standard input.
pub(crate) fn run_in(folder: &Path, arguments: &[&str], input: &[u8]) -> Done {
    let output = command(arguments)
        .current_dir(folder)
        .write_stdin(input)
        .output()
        .unwrap();
    Done {
        status: output.status.code().expect("no signal ended it"),
        out: String::from_utf8(output.stdout).expect("results are UTF-8"),
        err: String::from_utf8(output.stderr).expect("messages are UTF-8"),
    }
}

pub(crate) fn run(arguments: &[&str]) -> Done {
    run_in(&scratch("."), arguments, b"")
}

/// Runs what must succeed; its stdout.
#[track_caller]
pub(crate) fn good(arguments: &[&str]) -> String {
    let done = run(arguments);
    assert_eq!(
        done.status,
        0,
        "etude {}: {}",
        arguments.join(" "),
        done.err
    );
    done.out
}

/// Runs what must succeed and print one JSON object on one line.
#[track_caller]
pub(crate) fn json(arguments: &[&str]) -> Value {
    let out = good(arguments);
    assert_eq!(out.lines().count(), 1, "one line: {out}");
    let value: Value = serde_json::from_str(&out).expect("stdout is JSON");
    assert!(value.is_object(), "{out}");
    value
}

/// Runs what the user did wrong: status 2, nothing on stdout, and `expected` in a message that begins with
/// `error:` and shows no internals.
#[track_caller]
pub(crate) fn wrong(arguments: &[&str], expected: &[&str]) {
    check_wrong(&run(arguments), arguments, expected);
}

#[track_caller]
pub(crate) fn check_wrong(done: &Done, arguments: &[&str], expected: &[&str]) {
    let line = format!("etude {}", arguments.join(" "));
    assert_eq!(done.status, 2, "{line}: {}{}", done.out, done.err);
    assert_eq!(done.out, "", "{line}");
    assert!(done.err.contains("error:"), "{line}: {}", done.err);
    for text in expected {
        assert!(
            done.err.contains(text),
            "{line}: no `{text}` in: {}",
            done.err
        );
    }
    for internal in ["panicked", "RUST_BACKTRACE", "unwrap"] {
        assert!(!done.err.contains(internal), "{line}: {}", done.err);
    }
}

/// The keys of an object, sorted.
pub(crate) fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    keys
}

/// A path under this process's own folder: some test runners start a process for each test, and one that
/// emptied another's folder would pull the ground from under it.
pub(crate) fn scratch(name: &str) -> PathBuf {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    let root = ROOT.get_or_init(|| {
        let own = format!("cli-{}", std::process::id());
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(own);
        if root.exists() {
            fs::remove_dir_all(&root).unwrap();
        }
        fs::create_dir_all(&root).unwrap();
        root.canonicalize().unwrap()
    });
    root.join(name)
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("our own paths are UTF-8")
}

/// Writes a file of the test's own and gives its path.
pub(crate) fn write(name: &str, contents: impl AsRef<[u8]>) -> String {
    let path = scratch(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, contents).unwrap();
    text(&path).to_owned()
}

/// A few hundred words to train on.
pub(crate) fn corpus() -> String {
    let lines = [
        "A rose is a rose is a rose.",
        "To be, or not to be, that is the question.",
        "The quick brown fox jumps over the lazy dog.",
        "It rained all day, and the river rose.",
    ];
    (0..200)
        .map(|index| format!("{} ({index})\n", lines[index % lines.len()]))
        .collect()
}

/// A folder with a tokenizer.
pub(crate) fn tokenizer() -> &'static str {
    static FOLDER: OnceLock<String> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let settings = TrainSettings {
            vocab_size: 320,
            ..TrainSettings::default()
        };
        let (tokenizer, _) = Tokenizer::train([corpus()].into_iter(), &settings).unwrap();
        let folder = scratch("tokenizer");
        tokenizer.save(&folder).unwrap();
        text(&folder).to_owned()
    })
}

/// A model folder: random weights of a fixed seed, and the tokenizer.
pub(crate) fn model() -> &'static str {
    static FOLDER: OnceLock<String> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = scratch("tiny");
        save_model(&folder);
        text(&folder).to_owned()
    })
}

/// Writes that model into a folder.
pub(crate) fn save_model(folder: &Path) {
    let tokenizer = Tokenizer::load(Path::new(tokenizer())).unwrap();
    let sizes = Sizes {
        vocab_size: tokenizer.vocab_size() as i64,
        n_layer: 2,
        n_head: 2,
        n_kv_head: 1,
        n_embd: 16,
        n_inner: 32,
        context: 96,
        tied: false,
    };
    let config = ModelConfig::new(Family::Llama, sizes);
    let decoder = with_seed(1, || Decoder::new(config, Kind::Float, Device::Cpu)).unwrap();
    let ids = TokenIds {
        bos: tokenizer.bos_id(),
        eos: tokenizer.eos_id().into_iter().collect(),
        pad: tokenizer.pad_id(),
    };
    fs::create_dir_all(folder).unwrap();
    hf::save(&decoder, &ids, folder).unwrap();
    tokenizer.save(folder).unwrap();
}
