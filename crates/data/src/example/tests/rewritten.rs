//! Answers that are context alone: those that a template writes otherwise once the conversation goes on, those before
//! the first question, and those that the example names.

use super::*;

#[test]
fn an_answer_that_the_template_rewrites_later_is_context() {
    // The last answer begins with an empty thought.
    let thinks = "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' and loop.last %}\
                  <think></think>{% endif %}{{ m.content }}<|end|>{% endfor %}\
                  {% if add_generation_prompt %}<|assistant|>{% endif %}";
    let settings = ExampleSettings {
        format: ExampleFormat::chat(),
        context: 1000,
        answer_tokens: 40,
        truncation: Truncation::Drop,
    };
    let tokenizer = tokenizer().with_chat_template(thinks).expect("it compiles");
    let renderer = Renderer::new(&tokenizer, settings).expect("the settings are good");
    let (examples, report) = renderer.render_all(&[talk()]).expect("it is kept");
    let (learnt, other) = texts(&examples[0]);
    assert_eq!(learnt, "<think></think>Back.<|end|>");
    assert!(other.contains("<|assistant|>At sea.<|end|>"), "{other}");
    assert_eq!(
        examples[0].target_bytes,
        "<think></think>Back.".len() as u64
    );
    assert_eq!(report.answers_as_context, 1);
    assert!(
        report.to_string().contains("rewrites them later: 1"),
        "{report}"
    );
    assert_eq!(report.prompt_differs, 0);
}

fn chat_renderer(template: Option<&str>, context: usize, truncation: Truncation) -> Renderer {
    let settings = ExampleSettings {
        format: ExampleFormat::chat(),
        context,
        answer_tokens: 40,
        truncation,
    };
    let tokenizer = match template {
        Some(template) => tokenizer().with_chat_template(template).expect("compiles"),
        None => tokenizer(),
    };
    Renderer::new(&tokenizer, settings).expect("the settings are good")
}

#[test]
fn an_answer_before_the_first_question_has_its_own_reason() {
    // As some templates do, the conversation begins with the first question.
    let from_question = "{% set begun = namespace(is=false) %}{% for m in messages %}\
        {% if m.role == 'user' %}{% set begun.is = true %}{% endif %}\
        {% if begun.is %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endif %}{% endfor %}\
        {% if add_generation_prompt %}<|assistant|>{% endif %}";
    let greeting = chat(&[
        (Role::Assistant, "Good day."),
        (Role::User, "Where is he?"),
        (Role::Assistant, "At sea."),
    ]);
    let renderer = chat_renderer(Some(from_question), 1000, Truncation::Drop);
    let (examples, report) = renderer
        .render_all(&[greeting.clone(), talk()])
        .expect("both are kept");
    assert_eq!(texts(&examples[0]).0, "At sea.<|end|>");
    assert_eq!((report.answers_as_context, report.answers_unasked), (0, 1));
    let told = report.to_string();
    assert!(told.contains("drops or changes them there: 1"), "{told}");
    assert!(!told.contains("rewrites them later"), "{told}");

    // A template that has a prompt for it teaches it.
    let renderer = chat_renderer(None, 1000, Truncation::Drop);
    let (examples, report) = renderer.render_all(&[greeting]).expect("it is kept");
    assert!(texts(&examples[0]).0.contains("Good day."));
    assert_eq!((report.answers_as_context, report.answers_unasked), (0, 0));
}

#[test]
fn an_answer_that_the_example_names_is_context() {
    let renderer = chat_renderer(None, 1000, Truncation::Drop);
    // Two answers of the same words: only the one that is named.
    let mut named = chat(&[
        (Role::User, "Where is he?"),
        (Role::Assistant, "At sea."),
        (Role::User, "And now?"),
        (Role::Assistant, "At sea."),
        (Role::User, "And later?"),
        (Role::Assistant, "Back."),
    ]);
    let whole = renderer.render(&named).unwrap().kept().unwrap();
    named.unlearnt = vec![1];
    let (examples, report) = renderer.render_all(std::slice::from_ref(&named)).unwrap();
    assert_eq!(texts(&examples[0]).0, "At sea.<|end|>Back.<|end|>");
    assert_eq!(examples[0].ids, whole.ids);
    assert!(examples[0].target_bytes < whole.target_bytes);
    let first = examples[0].supervised.iter().position(|&learnt| learnt);
    let before = whole.supervised.iter().filter(|&&learnt| learnt).count() - examples[0].targets();
    let all = whole.supervised.iter().position(|&learnt| learnt);
    assert!(first > all && before > 0);
    assert_eq!((report.answers_as_context, report.answers_unasked), (0, 0));
    named.unlearnt = vec![1, 3];
    let last = renderer.render(&named).unwrap().kept().unwrap();
    assert_eq!(texts(&last).0, "Back.<|end|>");
}

#[test]
fn a_named_answer_is_found_where_exchanges_are_left_out() {
    let question = "Where is the old man, and where is the sea? ".repeat(3);
    let mut talk = chat(&[
        (Role::System, "Be brief."),
        (Role::User, question.as_str()),
        (Role::Assistant, "First."),
        (Role::User, question.as_str()),
        (Role::Assistant, "Second."),
        (Role::User, "So?"),
        (Role::Assistant, "Third."),
    ]);
    talk.unlearnt = vec![2, 4];
    let mut narrower = 0;
    for context in 60..400 {
        let renderer = chat_renderer(None, context, Truncation::TruncatePrompt);
        let Some(kept) = renderer.render(&talk).unwrap().kept() else {
            continue;
        };
        narrower += u32::from(kept.truncated);
        assert_eq!(texts(&kept).0, "Third.<|end|>", "{context}");
    }
    assert!(narrower > 0);
}

#[test]
fn answers_that_a_template_writes_without_a_gap_are_not_told_apart() {
    let close = "{% for m in messages %}{% if m.role == 'user' %}User: {{ m.content }}\n\n\
        {% else %}{{ m.content }}<|end|>{% endif %}{% endfor %}";
    let mut talk = chat(&[
        (Role::User, "Where is he?"),
        (Role::Assistant, "At sea."),
        (Role::Assistant, "Alone."),
        (Role::User, "So?"),
        (Role::Assistant, "Third."),
    ]);
    let renderer = chat_renderer(Some(close), 1000, Truncation::Drop);
    let (examples, report) = renderer.render_all(std::slice::from_ref(&talk)).unwrap();
    assert!(
        texts(&examples[0])
            .0
            .contains("At sea.<|end|>Alone.<|end|>")
    );
    assert_eq!(report.answers_as_context, 0);
    talk.unlearnt = vec![1];
    let told = renderer.render(&talk).unwrap_err().to_string();
    assert!(told.contains("train.jsonl:4"), "{told}");
    let whole = format!("{:#}", renderer.render(&talk).unwrap_err());
    assert!(whole.contains("keep its answers apart"), "{whole}");
    // Both of them is clear.
    talk.unlearnt = vec![1, 2];
    let kept = renderer.render(&talk).unwrap().kept().unwrap();
    assert_eq!(texts(&kept).0, "Third.<|end|>");
}

#[test]
fn turns_that_the_template_refuses_come_with_a_remedy() {
    let renderer = chat_renderer(None, 1000, Truncation::Drop);
    let called = chat(&[
        (Role::User, "How many?"),
        (Role::Tool, "4"),
        (Role::Assistant, "Four."),
    ]);
    let error = renderer.render(&called).unwrap_err();
    let told = error.to_string();
    assert!(
        told.starts_with("train.jsonl:4: chat template")
            && told.contains("not tool")
            && told.ends_with(
                ": leave conversations with tool turns out, or use a model whose chat template has them"
            ),
        "{told}"
    );
    assert!(error.downcast_ref::<crate::DataError>().is_some());
}
