//! Adapters on the command line: a LoRA run, and every place that its results may be given as a model.

use std::fs;

use crate::support::{good, json, model, run as program, scratch, text, write, wrong};

#[test]
fn an_adapter_is_trained_used_and_merged() {
    let lines: String = (0..60)
        .map(|n| format!("{{\"prompt\": \"Say {n}.\", \"completion\": \"A rose {n}.\"}}\n"))
        .collect();
    let examples = write("lora/examples.jsonl", lines);
    // A base of its own, which is damaged below.
    let base = scratch("lora/base");
    fs::create_dir_all(&base).unwrap();
    for entry in fs::read_dir(model()).unwrap() {
        let file = entry.unwrap();
        fs::copy(file.path(), base.join(file.file_name())).unwrap();
    }
    let recipe = write(
        "lora/task.toml",
        format!(
            "# A test.\n[base]\npath = \"{}\"\nmethod = \"lora\"\n[lora]\nrank = 2\n[task]\nsource = \"{examples}\"\n\
             layout = \"packed\"\n[optimizer]\nlr = 0.05\n\
             [train]\nsteps = 4\nbatch_rows = 2\nthreads = 1\n[eval]\nexamples = 2\nsamples = 1\n",
            text(&base)
        ),
    );
    let run = scratch("lora/run");
    let told = json(&[
        "finetune",
        &recipe,
        "--run",
        text(&run),
        "--json",
        "--quiet",
    ]);
    assert!(told["trained_parameters"].as_u64() < told["parameters"].as_u64());

    let ids = |arguments: &[&str]| {
        let mut all = vec!["generate"];
        all.extend(arguments);
        all.extend([
            "--prompt",
            "A rose",
            "--temperature",
            "0",
            "--max-tokens",
            "8",
            "--json",
        ]);
        json(&all)["ids"].clone()
    };
    let (adapter, checkpoint) = (run.join("adapter"), run.join("checkpoints/step-00000004"));
    let expected = ids(&[text(&run)]);
    assert_ne!(expected, ids(&[model()]), "the run changed the model");
    assert_eq!(expected, ids(&[text(&adapter)]));
    assert_eq!(expected, ids(&[text(&checkpoint)]));
    assert_eq!(expected, ids(&[model(), "--adapter", text(&adapter)]));
    let half = format!("{}:0.5", text(&run));
    assert_eq!(
        expected,
        ids(&[model(), "--adapter", &half, "--adapter", &half])
    );
    // Beside an adapter that is given as the model, others count from the same base.
    let undone = format!("{}:-1", text(&run));
    assert_eq!(
        ids(&[text(&base)]),
        ids(&[text(&adapter), "--adapter", &undone])
    );
    assert!(good(&["doctor", text(&adapter)]).contains("The folder is whole"));
    for given in [&run, &checkpoint] {
        good(&["doctor", text(given)]);
    }
    for folder in ["model", "adapter"] {
        let told = json(&["doctor", text(&run.join(folder)), "--json"]);
        let compared = told["checks"].as_array().unwrap().iter();
        let compared: Vec<_> = compared
            .filter(|check| check["what"] == "transcripts")
            .collect();
        assert!(compared[0]["largest"].is_number(), "{folder}: {compared:?}");
    }
    let score = json(&["eval", text(&adapter), "--text", &examples, "--json"]);
    assert!(score["nll"].as_f64().is_some());

    // Another base under the adapter shows in what the two say together.
    let weights = base.join("model.safetensors");
    let whole = fs::read(&weights).unwrap();
    let mut damaged = whole.clone();
    let half = damaged.len() / 2;
    for number in damaged[half..].rchunks_exact_mut(4) {
        number[3] ^= 0x80; // the sign
    }
    fs::write(&weights, damaged).unwrap();
    let done = program(&["doctor", text(&adapter)]);
    for model in [
        &[text(&adapter)][..],
        &[text(&base), "--adapter", text(&run)],
    ] {
        let told = program(&[&["generate", "--max-tokens", "2"], model].concat());
        assert!(
            told.err.contains("are not those of the model that"),
            "{}",
            told.err
        );
    }
    fs::write(&weights, whole).unwrap();
    assert_eq!(done.status, 1, "{}", done.out);
    assert!(
        done.out.contains("the adapter or its base is another one"),
        "{}",
        done.out
    );

    let merged = scratch("lora/merged");
    good(&["export", text(&adapter), text(&merged)]);
    assert_eq!(expected, ids(&[text(&merged)]));
    assert!(merged.join("tokenizer.json").is_file());

    // It may have a tokenizer with another template, which then goes with it, in what is exported as well.
    let own = scratch("lora/own-template");
    fs::create_dir_all(&own).unwrap();
    for entry in fs::read_dir(&adapter).unwrap() {
        let file = entry.unwrap();
        fs::copy(file.path(), own.join(file.file_name())).unwrap();
    }
    let settings = own.join("tokenizer_config.json");
    let mut changed: serde_json::Value =
        serde_json::from_slice(&fs::read(&settings).unwrap()).unwrap();
    changed["chat_template"] = "Rose: {{ messages[0].content }}{{ eos_token }}".into();
    fs::write(&settings, changed.to_string()).unwrap();
    let exported = scratch("lora/own-exported");
    let beside = [text(&base), "--adapter", text(&own)];
    good(&[&["export"], &beside[..1], &[text(&exported)], &beside[1..]].concat());
    let answers = [
        &[text(&own)][..],
        &beside,
        &[text(&exported)],
        &[text(&base)],
    ]
    .map(|model| ids(&[model, &["--chat"]].concat()));
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0], answers[2]);
    assert_ne!(answers[0], answers[3]);

    // The same base in another folder is the same; without a certificate the folder is told.
    let arguments = [
        "generate",
        model(),
        "--adapter",
        text(&adapter),
        "--max-tokens",
        "2",
    ];
    assert!(!program(&arguments).err.contains("trained on"));
    let certificate = adapter.join("certificate.json");
    let certified = fs::read(&certificate).unwrap();
    fs::remove_file(&certificate).unwrap();
    let done = program(&arguments);
    fs::write(&certificate, certified).unwrap();
    assert!(
        done.err.contains("was trained on the model in"),
        "{}",
        done.err
    );

    let lengths = scratch("lora/lengths");
    let arguments = [
        "finetune",
        &recipe,
        "--run",
        text(&lengths),
        "--quiet",
        "--set",
        "lora.dora=true",
    ];
    good(&arguments);
    let adapter_of = lengths.join("adapter");
    assert_eq!(ids(&[text(&lengths)]), ids(&[text(&adapter_of)]));
    let two = [text(&adapter_of), "--adapter", text(&adapter)];
    wrong(
        &[&["generate"], &two[..]].concat(),
        &["use_dora", "no other adapter"],
    );

    // An adapter that names a base which is not here, as one from elsewhere does, goes with the base that is given.
    let config = adapter.join("adapter_config.json");
    let own = fs::read_to_string(&config).unwrap();
    fs::write(&config, own.replace(text(&base), "someone/their-base")).unwrap();
    assert_eq!(expected, ids(&[model(), "--adapter", text(&adapter)]));
    wrong(
        &["generate", text(&adapter)],
        &["base_model_name_or_path", "someone/their-base"],
    );

    // What is wrong is said by name.
    fs::write(&config, own.replace("LORA", "IA3")).unwrap();
    let given = text(&adapter);
    wrong(
        &["generate", given],
        &["adapter_config.json", "peft_type", "IA3"],
    );
    wrong(
        &["generate", model(), "--adapter", "nowhere"],
        &["nowhere", "adapter_config.json"],
    );
    wrong(
        &[
            "finetune",
            &recipe,
            "--run",
            text(&scratch("lora/other")),
            "--set",
            "lora.targets=[\"c_attn\"]",
        ],
        &["lora.targets", "c_attn", "q_proj"],
    );
}
