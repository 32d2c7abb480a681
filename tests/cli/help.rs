//! Help, version, completions: what a newcomer meets first.

use crate::support::{check_wrong, good, run, wrong};

#[test]
fn the_top_of_the_help_shows_both_stages_and_where_to_begin() {
    let help = good(&["--help"]);
    for text in [
        "PRE-TRAIN",
        "FINE-TUNE",
        "etude doctor",
        "etude recipe list",
        "etude quickstart",
        "Exit status",
    ] {
        assert!(help.contains(text), "{text}: {help}");
    }
    assert!(good(&["-h"]).contains("PRE-TRAIN"));
    for line in help.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
}

#[test]
fn the_commands_stand_in_the_order_of_use() {
    let help = good(&["--help"]);
    let list = help
        .split("Commands:\n")
        .nth(1)
        .and_then(|rest| rest.split("\n\n").next())
        .unwrap();
    insta::assert_snapshot!(list, @"
      quickstart     Run the main job from end to end: both stages on real text, and what each bought
      doctor         Say what is installed and what is missing, or check a model folder
      data           List, fetch and look at data sets
      tokenizer      Train a tokenizer, encode and decode with one, look at one
      recipe         List and show the built-in recipes
      plan           Say what a run will take before it is made: time, memory, disk
      pretrain       Pre-train: general text to a base model
      finetune       Fine-tune: a base model and examples of one task to a task model
      transfer       Learn a task with and without pre-training, at several amounts of data
      replay         Make a step of a run again, to see what it learnt from and whether it is the same
      verify-resume  Prove that a run of a recipe may be killed at any moment and ends the same
      eval           Measure a model on a text or on a task
      generate       Continue a prompt
      chat           Converse with a fine-tuned model
      import         Make a published model (GGUF, Hugging Face) into a model folder
      export         Write a model out as a Hugging Face folder or a GGUF file
      report         Write the report of one run, or of several side by side
      bench          Measure how fast this machine trains and multiplies
      completions    Print the completion script for a shell
    ");
}

#[test]
fn every_command_shows_examples() {
    let commands = [
        "quickstart",
        "doctor",
        "plan",
        "pretrain",
        "finetune",
        "replay",
        "verify-resume",
        "eval",
        "generate",
        "chat",
        "import",
        "export",
        "report",
        "completions",
        "bench train",
        "bench matmul",
        "data list",
        "data fetch",
        "data show",
        "recipe list",
        "recipe show",
        "tokenizer train",
        "tokenizer encode",
        "tokenizer decode",
        "tokenizer show",
    ];
    for command in commands {
        let mut arguments: Vec<&str> = command.split(' ').collect();
        arguments.push("--help");
        let help = good(&arguments);
        assert!(
            help.contains("Example") && help.contains(&format!("etude {command}")),
            "{command}: {help}"
        );
    }
}

#[test]
fn without_a_command_the_help_is_shown_as_wrong_use() {
    let done = run(&[]);
    assert_eq!((done.status, done.out.as_str()), (2, ""));
    assert!(done.err.contains("Usage: etude"), "{}", done.err);
}

#[test]
fn a_misspelt_command_or_option_gets_the_nearest() {
    wrong(&["pretrian"], &["pretrian", "'pretrain'"]);
    wrong(
        &["generate", "x", "--temprature", "1"],
        &["--temprature", "'--temperature'"],
    );
    let done = run(&["generate", "x", "--max-tokens", "many"]);
    check_wrong(&done, &["generate"], &["many", "--max-tokens"]);
}

#[test]
fn the_version_is_the_packages() {
    assert_eq!(
        good(&["--version"]),
        format!("etude {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn completions_name_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = good(&["completions", shell]);
        for command in ["pretrain", "tokenizer", "max-tokens"] {
            assert!(script.contains(command), "{shell} lacks {command}");
        }
    }
    wrong(&["completions", "cmd"], &["cmd", "bash"]);
    wrong(&["completions"], &["SHELL"]);
}
