//! Chat templates render as Python's `transformers` renders them, and fail where it does.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use etude_tokenizer::{Message, Role, Tokenizer, TokenizerError, TrainSettings};
use serde_json::json;
use support::{golden, load, messages, text};

#[test]
fn templates_render_the_same_text() {
    let goldens = golden("chat.json");
    let config =
        json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": "<pad>"});
    let tokenizer = load(&goldens["tokenizer"], config);
    let (mut texts, mut errors) = (0, 0);
    for entry in goldens["templates"].as_array().unwrap() {
        let tokenizer = tokenizer
            .with_chat_template(text(&entry["template"]))
            .unwrap();
        for case in entry["cases"].as_array().unwrap() {
            let messages = messages(&case["messages"]);
            let prompt = case["add_generation_prompt"].as_bool().unwrap();
            let rendered = tokenizer.chat_template().unwrap().render(&messages, prompt);
            match case["text"].as_str() {
                Some(expected) => {
                    texts += 1;
                    assert_eq!(rendered.unwrap(), expected, "{}", entry["name"]);
                }
                None => {
                    errors += 1;
                    let error = rendered.unwrap_err().to_string();
                    assert!(error.contains(text(&case["error"])), "{error}");
                }
            }
        }
    }
    assert!(texts > 80 && errors > 1, "{texts} texts, {errors} errors");
}

#[test]
fn what_hugging_face_adds_to_jinja_is_there() {
    let goldens = golden("chat.json");
    let config = json!({"bos_token": "<s>", "eos_token": "</s>"});
    let tokenizer = load(&goldens["tokenizer"], config);
    let goldens = &goldens["expressions"];
    let variables = goldens["variables"].as_object().unwrap();
    for case in goldens["cases"].as_array().unwrap() {
        let source = text(&case["template"]);
        let template = tokenizer.with_chat_template(source).unwrap();
        let template = template.chat_template().unwrap();
        let rendered = template.render_json(&goldens["messages"], false, variables);
        match case["text"].as_str() {
            Some(expected) => assert_eq!(rendered.unwrap(), expected, "{source}"),
            None => assert!(rendered.is_err(), "{source} gave {rendered:?}"),
        }
    }
}

fn trained() -> Tokenizer {
    let settings = TrainSettings {
        vocab_size: 262,
        ..TrainSettings::default()
    };
    Tokenizer::train(std::iter::once("some text".to_owned()), &settings)
        .unwrap()
        .0
}

#[test]
fn a_template_that_loops_ends_in_an_error() {
    let hello = [Message::new(Role::User, "hello")];
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = b %}\
                   {% endfor %}{% endfor %}";
    let swelling = "{% set n = namespace(s='ab') %}{% for a in range(99) %}\
                    {% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}";
    for source in [endless, swelling] {
        let tokenizer = trained().with_chat_template(source).unwrap();
        let error = tokenizer.render_prompt(&hello).unwrap_err();
        assert!(error.to_string().contains("does not end"), "{error}");
    }
}

#[test]
fn a_hostile_template_ends_in_an_error() {
    let hello = [Message::new(Role::User, "hello")];
    let deep =
        "{% set n = namespace(x=[]) %}{% for i in range(10000) %}{% set n.x = [n.x] %}{% endfor %}";
    let wide = "{% set n = namespace(x=[1]) %}{% for i in range(40) %}{% set n.x = [n.x, n.x] %}{% endfor %}";
    let own = "{% set n = namespace() %}{% set n.a = n %}{{ n }}";
    let mut sources = vec![
        own.to_owned(),
        "{{ range(1000) | list | tojson(indent=1000000000000) }}".to_owned(),
        "{{ ('x' * 1000000).replace('', 'y' * 1000000) }}".to_owned(),
        "{{ ('y' * 1000000).join(range(1000)) }}".to_owned(),
        "{{ range(1000) | join('y' * 1000000) }}".to_owned(),
    ];
    for print in ["", " | tojson", " | string", " | trim", " | join"] {
        for made in [deep, wide] {
            sources.push(format!("{made}{{{{ n.x{print} }}}}"));
        }
    }
    for source in sources {
        let tokenizer = trained().with_chat_template(&source).unwrap();
        let error = tokenizer.render_prompt(&hello).unwrap_err();
        assert!(matches!(error, TokenizerError::Template { .. }), "{error}");
    }
    // Made and dropped without being printed.
    let tokenizer = trained().with_chat_template(deep).unwrap();
    assert!(tokenizer.render_prompt(&hello).is_ok());
    for nested in ["{{ ", "{{ 1"] {
        let source = format!("{nested}{} }}}}", "not ".repeat(30_000));
        assert!(trained().with_chat_template(&source).is_err());
    }
    let long = "x".repeat(300_000);
    let error = trained().with_chat_template(&long).unwrap_err();
    assert!(error.to_string().contains("300000 bytes"), "{error}");
}

#[test]
fn a_template_that_does_not_compile_names_its_line() {
    let error = trained()
        .with_chat_template("{{ bos_token }}\n{% for %}\n")
        .unwrap_err();
    assert!(
        matches!(error, TokenizerError::Template { line: Some(2), .. }),
        "{error:?}"
    );
}

#[test]
fn a_long_conversation_is_not_taken_for_a_loop() {
    let talk: Vec<Message> = (0..2000)
        .map(|n| {
            Message::new(
                if n % 2 == 0 {
                    Role::User
                } else {
                    Role::Assistant
                },
                "word ".repeat(50),
            )
        })
        .collect();
    assert!(
        trained()
            .chat_template()
            .unwrap()
            .render(&talk, true)
            .unwrap()
            .len()
            > 500_000
    );
}
