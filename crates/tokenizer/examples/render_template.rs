//! Renders conversations with the chat template of a model folder, for comparison with another renderer:
//! `scripts/check_templates.py` runs it beside Python's `transformers`.
//!
//! ```sh
//! cargo run -p etude-tokenizer --example render_template -- FOLDER < conversations.json
//! ```
//!
//! Reads a list of `{"messages", "add_generation_prompt", "variables"}`; writes a list, in the same order, of
//! `{"text"}` or `{"error"}`, with `"segments"` or `"refused"` for what training makes of the messages and
//! `"prompt_ids"` for what serving does.
#![allow(clippy::print_stdout, reason = "a program for the command line")]

use std::error::Error;
use std::path::Path;

use etude_tokenizer::{Message, Tokenizer};
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
struct Case {
    messages: Value,
    add_generation_prompt: bool,
    #[serde(default)]
    variables: Map<String, Value>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("give a model folder")?;
    let tokenizer = Tokenizer::load(Path::new(&folder))?;
    let cases: Vec<Case> = serde_json::from_reader(std::io::stdin().lock())?;
    let rendered: Result<Vec<Value>, _> =
        cases.iter().map(|case| render(&tokenizer, case)).collect();
    println!("{}", Value::from(rendered?));
    Ok(())
}

fn render(tokenizer: &Tokenizer, case: &Case) -> Result<Value, Box<dyn Error>> {
    let template = tokenizer
        .chat_template()
        .ok_or("the folder has no chat template")?;
    let made = template.render_json(&case.messages, case.add_generation_prompt, &case.variables);
    let mut told = match made {
        Ok(text) => json!({ "text": text }),
        Err(error) => return Ok(json!({ "error": error.to_string() })),
    };
    // Segments are of plain conversations: roles, contents, and no further fields or variables.
    let messages = serde_json::from_value::<Vec<Message>>(case.messages.clone());
    if let Ok(messages) = messages
        && json!(messages) == case.messages
        && case.variables.is_empty()
    {
        if case.add_generation_prompt {
            let segments = tokenizer.render_prompt(&messages)?;
            told["prompt_ids"] = json!(tokenizer.encode_segments(&segments)?.ids);
        } else {
            match tokenizer.render_conversation(&messages) {
                Ok(segments) => told["segments"] = json!(segments),
                Err(error) => told["refused"] = json!(error.to_string()),
            }
        }
    }
    Ok(told)
}
