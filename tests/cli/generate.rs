//! The commands that make text: generate and chat.

use std::fs;
use std::path::Path;

use etude_model::{Prompt, TextGenerator, TextSettings, hf};
use etude_tensor::{Device, Kind};
use etude_tokenizer::{Message, Role, Tokenizer};

use crate::support::{
    check_wrong, good, json, keys, model, run_in, save_model, scratch, text, wrong,
};

#[test]
fn generate_prints_what_the_library_makes() {
    let told = json(&[
        "generate",
        model(),
        "--prompt",
        "A rose",
        "--max-tokens",
        "12",
        "--temperature",
        "0",
        "--json",
    ]);
    assert_eq!(
        keys(&told),
        ["finish_reason", "ids", "text", "tokens_per_second"]
    );
    let loaded = hf::load(Path::new(model()), Kind::Float, Device::Cpu).unwrap();
    let words = Tokenizer::load(Path::new(model())).unwrap();
    let settings = TextSettings {
        max_tokens: 12,
        ..TextSettings::default()
    };
    let generator = TextGenerator::new(&loaded.decoder, &words).unwrap();
    let made = generator
        .complete(&Prompt::Text("A rose".into()), &settings)
        .unwrap();
    assert_eq!(told["text"], made.text);
    assert_eq!(told["ids"], serde_json::to_value(&made.ids).unwrap());
    assert_eq!(told["finish_reason"], made.finish_reason.name());
    assert!(told["tokens_per_second"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_tokenizer_that_begins_texts_does_so_here() {
    let folder = scratch("begins-texts");
    save_model(&folder);
    let ids = |more: &[&str]| {
        let own = [
            "generate",
            text(&folder),
            "--prompt",
            "A rose",
            "--temperature",
            "0",
        ];
        json(&[&own[..], &["--max-tokens", "12", "--json"], more].concat())["ids"].clone()
    };
    let (plain, begun) = (ids(&[]), ids(&["--bos"]));
    assert_ne!(plain, begun);
    // As Llama's has it.
    let words = Tokenizer::load(&folder).unwrap();
    let bos = words.bos_id().unwrap();
    let name = words.id_to_token(bos).unwrap();
    let path = folder.join("tokenizer.json");
    let mut parts: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let sequence = |letter: &str| serde_json::json!({"Sequence": {"id": letter, "type_id": 0}});
    let special = serde_json::json!({"SpecialToken": {"id": name, "type_id": 0}});
    parts["post_processor"] = serde_json::json!({
        "type": "TemplateProcessing",
        "single": [special, sequence("A")],
        "pair": [special, sequence("A"), sequence("B")],
        "special_tokens": {&name: {"id": name, "ids": [bos], "tokens": [name]}},
    });
    fs::write(&path, parts.to_string()).unwrap();
    assert_eq!(ids(&[]), begun);
}

#[test]
fn a_special_token_that_is_spelt_may_be_meant() {
    let ids = |more: &[&str]| {
        let own = [
            "generate",
            model(),
            "--temperature",
            "0",
            "--max-tokens",
            "12",
            "--json",
        ];
        json(&[&own[..], more].concat())["ids"].clone()
    };
    let spelt = "<|endoftext|>A rose";
    let begun = ids(&["--prompt", "A rose", "--bos"]);
    assert_eq!(ids(&["--prompt", spelt, "--special"]), begun);
    assert_eq!(ids(&["--prompt", spelt, "--special", "--bos"]), begun);
    assert_ne!(ids(&["--prompt", spelt]), begun);
}

#[test]
fn text_streams_to_stdout_and_figures_to_stderr() {
    let arguments = [
        "generate",
        model(),
        "--prompt",
        "-",
        "--max-tokens",
        "9",
        "--seed",
        "3",
    ];
    let done = run_in(&scratch("."), &arguments, b"A rose\n");
    assert_eq!(done.status, 0, "{}", done.err);
    assert!(done.err.contains("9 tokens"), "{}", done.err);
    let told = json(&[
        "generate",
        model(),
        "--prompt",
        "A rose",
        "--max-tokens",
        "9",
        "--seed",
        "3",
        "--json",
    ]);
    assert_eq!(done.out, format!("{}\n", told["text"].as_str().unwrap()));
    let other = json(&[
        "generate",
        model(),
        "--prompt",
        "A rose",
        "--max-tokens",
        "9",
        "--seed",
        "4",
        "--json",
    ]);
    assert_ne!(other["ids"], told["ids"]);
    let echoed = good(&[
        "generate",
        model(),
        "--prompt",
        "A rose",
        "--max-tokens",
        "9",
        "--seed",
        "3",
        "--echo",
    ]);
    assert_eq!(echoed, format!("A rose{}", done.out));
}

#[test]
fn a_chat_prompt_goes_through_the_template() {
    let prompt = ["generate", model(), "--prompt", "Hi", "--max-tokens", "5"];
    let prompt = [&prompt[..], &["--temperature", "0", "--json"]].concat();
    let loaded = hf::load(Path::new(model()), Kind::Float, Device::Cpu).unwrap();
    let words = Tokenizer::load(Path::new(model())).unwrap();
    let generator = TextGenerator::new(&loaded.decoder, &words).unwrap();
    let settings = TextSettings {
        max_tokens: 5,
        ..TextSettings::default()
    };
    let made = |messages: Vec<Message>| {
        let made = generator
            .complete(&Prompt::Messages(messages), &settings)
            .unwrap();
        serde_json::to_value(made.ids).unwrap()
    };
    let user = Message::new(Role::User, "Hi");
    let told = json(&[&prompt[..], &["--chat"]].concat());
    assert_eq!(told["ids"], made(vec![user.clone()]));
    let told = json(&[&prompt[..], &["--chat", "--system", "Be brief."]].concat());
    assert_eq!(
        told["ids"],
        made(vec![Message::new(Role::System, "Be brief."), user])
    );

    wrong(&[&prompt[..], &["--system", "x"]].concat(), &["--chat"]);
    wrong(
        &[&prompt[..], &["--task"]].concat(),
        &["not in the folder of a fine-tuning run"],
    );
}

#[test]
fn sampling_settings_that_mean_nothing_are_refused_before_loading() {
    let with = |option: &str, value: &str, expected: &[&str]| {
        let option = format!("{option}={value}");
        wrong(
            &[
                "generate",
                "no-model-is-looked-for",
                "--prompt",
                "x",
                &option,
            ],
            expected,
        );
    };
    with("--temperature", "-1", &["temperature", "-1"]);
    with("--top-p", "1.5", &["top_p", "1.5"]);
    with("--repetition-penalty", "0", &["repetition_penalty"]);
    with("--max-tokens", "0", &["max_tokens"]);
    with("--stop", "", &["stop"]);
}

#[test]
fn a_folder_says_how_it_is_sampled_and_options_win() {
    let folder = scratch("recommended");
    save_model(&folder);
    let path = folder.join("generation_config.json");
    let before: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let ids = |extra: serde_json::Value, options: &[&str]| {
        let mut config = before.clone();
        let config_fields = config.as_object_mut().unwrap();
        config_fields.extend(extra.as_object().unwrap().clone());
        fs::write(&path, config.to_string()).unwrap();
        let arguments = ["generate", text(&folder), "--prompt", "A rose", "--json"];
        json(&[&arguments[..], options].concat())["ids"].clone()
    };
    let short = ["--max-tokens", "12"];
    let with = |options: &[&'static str]| [&short[..], options].concat();
    let nothing = || serde_json::json!({});
    let greedy = ids(nothing(), &with(&["--temperature", "0"]));
    let usual = ids(nothing(), &short);
    assert_eq!(
        usual,
        ids(
            nothing(),
            &with(&["--temperature", "0.7", "--top-p", "0.9"])
        )
    );
    let deterministic = serde_json::json!({"do_sample": false});
    assert_eq!(ids(deterministic.clone(), &short), greedy);
    let warm = ids(
        deterministic,
        &with(&["--temperature", "0.7", "--top-p", "0.9"]),
    );
    assert_eq!(warm, usual);
    let hot = serde_json::json!({"do_sample": true, "temperature": 1.8, "max_new_tokens": 7});
    let made = ids(hot.clone(), &[]);
    assert_eq!(made.as_array().unwrap().len(), 7);
    let same = [
        "--max-tokens",
        "7",
        "--temperature",
        "1.8",
        "--top-k",
        "50",
        "--top-p",
        "1",
    ];
    assert_eq!(made, ids(nothing(), &same));

    // It travels with the model.
    ids(hot, &[]);
    let copy = scratch("recommended-copy");
    good(&["import", text(&folder), text(&copy)]);
    let copied: serde_json::Value =
        serde_json::from_slice(&fs::read(copy.join("generation_config.json")).unwrap()).unwrap();
    assert_eq!(copied["temperature"], 1.8);
    assert_eq!(copied["eos_token_id"], before["eos_token_id"]);

    fs::write(&path, r#"{"top_p": 3}"#).unwrap();
    let broken = ["generate", text(&folder), "--prompt", "A rose"];
    wrong(&broken, &["generation_config.json", "top_p"]);
}

#[test]
fn several_prompts_are_continued_as_each_is_alone() {
    let prompts = ["A rose", "", "The river and the sea, the sea"];
    let options = ["--max-tokens", "9", "--seed", "3"];
    let alone: Vec<serde_json::Value> = prompts
        .iter()
        .map(|prompt| {
            let one = ["generate", model(), "--json", "--prompt", prompt];
            json(&[&one[..], &options].concat())
        })
        .collect();
    let all: Vec<&str> = prompts
        .iter()
        .flat_map(|prompt| ["--prompt", prompt])
        .collect();
    let command = [&["generate", model()], &all[..], &options].concat();
    let told = json(&[&command[..], &["--json"]].concat());
    let made = told["generations"].as_array().unwrap();
    assert_eq!(made.len(), alone.len());
    for (made, alone) in made.iter().zip(&alone) {
        for key in ["text", "ids", "finish_reason"] {
            assert_eq!(made[key], alone[key]);
        }
    }
    let texts: Vec<String> = (prompts.iter().zip(&alone))
        .map(|(prompt, made)| format!("{prompt}{}\n", made["text"].as_str().unwrap()))
        .collect();
    let echoed = good(&[&command[..], &["--echo"]].concat());
    assert_eq!(echoed, texts.join("\n"));
    wrong(
        &["generate", model(), "--prompt", "-", "--prompt", "-"],
        &["standard input", "once"],
    );
}

#[test]
fn a_conversation_goes_turn_by_turn() {
    let save = scratch("talk.jsonl");
    let input = format!(
        "Hello\n/nonsense\n/save {}\n/reset\n/help\nAgain\n/quit\nnever read\n",
        text(&save)
    );
    let arguments = ["chat", model(), "--max-tokens", "6", "--temperature", "0"];
    let done = run_in(&scratch("."), &arguments, input.as_bytes());
    assert_eq!(done.status, 0, "{}", done.err);
    for told in [
        "there is no /nonsense",
        "saved to",
        "forgotten",
        "/system TEXT",
    ] {
        assert!(done.err.contains(told), "{told}: {}", done.err);
    }
    assert!(
        done.out.ends_with('\n') && done.out.lines().count() >= 2,
        "{:?}",
        done.out
    );
    let saved = fs::read_to_string(&save).unwrap();
    let saved: serde_json::Value = serde_json::from_str(&saved).unwrap();
    assert_eq!(saved["messages"][0]["content"], "Hello");
    assert_eq!(saved["messages"][1]["role"], "assistant");
}

#[test]
fn a_conversation_that_outgrows_the_context_forgets_its_beginning() {
    let input = "Tell me of the river and the rose.\n".repeat(8);
    let done = run_in(
        &scratch("."),
        &["chat", model(), "--max-tokens", "10"],
        input.as_bytes(),
    );
    assert_eq!(done.status, 0, "{}", done.err);
    assert!(
        done.err.contains("early turns are forgotten"),
        "{}",
        done.err
    );
    let arguments = ["chat", model()];
    let done = run_in(
        &scratch("."),
        &arguments,
        "very long ".repeat(200).as_bytes(),
    );
    check_wrong(&done, &arguments, &["context is 96", "shorter"]);
    let done = run_in(&scratch("."), &arguments, b"\xff\n");
    check_wrong(&done, &arguments, &["UTF-8"]);
}

#[test]
fn a_model_without_a_template_does_not_chat() {
    let folder = scratch("no-template");
    save_model(&folder);
    let path = folder.join("tokenizer_config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config
        .as_object_mut()
        .unwrap()
        .remove("chat_template")
        .expect("it had one");
    fs::write(&path, config.to_string()).unwrap();
    for arguments in [
        &["chat", text(&folder)][..],
        &["generate", text(&folder), "--chat", "--prompt", "x"],
    ] {
        wrong(arguments, &["without a chat template", "fine-tune"]);
    }
}
