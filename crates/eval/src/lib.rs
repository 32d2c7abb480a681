//! What a model knows and what it can do, in numbers: the loss of held-out text ([`text_loss`],
//! [`windows_loss`]), and the scores of its answers to a task ([`evaluate`]) with intervals, compared
//! between models on the same items ([`compare`]). Standard benchmarks run as in lm-evaluation-harness
//! ([`evaluate_harness`]).
//!
//! Losses are sums of nats, divided once. The metrics themselves are `etude_scores`'; this crate runs
//! the model for them. It prints nothing: it tells a callback how far it is ([`Progress`]).

mod compare;
mod greedy;
mod harness;
mod nats;
mod predictions;
mod progress;
mod task;
mod text;

pub use compare::{Comparison, compare};
pub use harness::{
    Choices, Fewshot, GenerationSpec, HarnessMetric, HarnessResult, HarnessScore, HarnessSettings,
    HarnessTask, Likelihood, NextToken, Outcome, Record, Sample, Sampler, Scored, TaskKind,
    TaskSpec, evaluate_harness, next_tokens, results_json, sample_json,
};
pub use nats::{batch_loss, batch_nats, batch_stream, token_nats, windows_loss};
pub use predictions::{read_predictions, write_predictions};
pub use progress::{Listener, Progress, Stage};
pub use task::{
    TaskItem, TaskMetric, TaskPace, TaskResult, TaskSettings, answers_cut, check_examples, choices,
    evaluate, score_items, task_pace,
};
pub use text::{TextScore, TextWindows, text_loss};
