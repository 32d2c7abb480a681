//! Templates that write an answer otherwise once the conversation goes on.

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
