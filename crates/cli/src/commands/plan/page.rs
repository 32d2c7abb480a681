//! A forecast as a page: how long, how much memory and disk, and whether it will fit, first.

use std::path::Path;

use etude_train::forecast::{Forecast, Memory};

use crate::output::{columns, count, size};

/// The page.
pub(super) fn page(name: &str, folder: &Path, forecast: &Forecast) -> String {
    let parts = [
        head(name, folder, forecast),
        part("Time", time(forecast)),
        part("Memory", memory(&forecast.memory)),
        part("Disk", disk(forecast)),
        part("Work", work(forecast)),
    ];
    parts.join("\n")
}

fn row(cells: [&str; 3]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn part(title: &str, rows: Vec<Vec<String>>) -> String {
    let text = columns(&rows);
    let lines: String = text.lines().map(|line| format!("  {line}\n")).collect();
    format!("{title}\n{lines}")
}

fn head(name: &str, folder: &Path, forecast: &Forecast) -> String {
    let work = &forecast.work;
    let (rows, cols) = work.largest_batch;
    let memory = &forecast.memory;
    let disk = &forecast.disk;
    let fits = |fits: Option<bool>, free: Option<u64>, lower: &str| match (fits, free) {
        (Some(true), Some(free)) => format!("at most; {} free: it fits", size(free)),
        (Some(false), Some(free)) => {
            format!("at most; {} free: IT DOES NOT FIT. {lower}", size(free))
        }
        _ => "at most; how much is free is not known".to_owned(),
    };
    let mut lines = vec![
        row([
            "time",
            &duration(forecast.seconds.total),
            "from start to end, as measured here just now",
        ]),
        row([
            "memory",
            &size(memory.peak),
            &fits(memory.fits(), memory.available, "Lower train.micro_rows"),
        ]),
        row([
            "disk",
            &size(disk.most),
            &fits(
                disk.fits(),
                disk.free,
                "Lower train.keep, or choose another --run",
            ),
        ]),
    ];
    lines.push(match &forecast.loss {
        Some(loss) => row([
            "loss",
            &format!("{:.2}", loss.value),
            &format!(
                "{:.2} to {:.2} nats a token, from {}: {}",
                loss.low,
                loss.high,
                plural(loss.runs, "earlier run"),
                loss.method
            ),
        ]),
        None => row([
            "loss",
            "unknown",
            &format!("no earlier runs like this one beside {}", folder.display()),
        ]),
    });
    format!(
        "{name}: {} of up to {rows} rows of {cols} tokens\n\n{}",
        plural(work.steps as usize, "step"),
        columns(&lines)
    )
}

fn time(forecast: &Forecast) -> Vec<Vec<String>> {
    let seconds = &forecast.seconds;
    let each = format!("{} each", duration(seconds.per_step));
    let rows = [
        ("set-up", seconds.setup, "start, data, model"),
        ("steps", seconds.steps, each.as_str()),
        ("validation", seconds.validation, ""),
        ("samples", seconds.samples, ""),
        ("checkpoints", seconds.checkpoints, ""),
        ("result", seconds.result, "written, read back and checked"),
        ("answers", seconds.answers, "of the test split, scored"),
    ];
    let asked = seconds.answers > 0.0;
    rows.iter()
        .filter(|(name, ..)| asked || *name != "answers")
        .map(|&(name, seconds, remark)| row([name, &duration(seconds), remark]))
        .collect()
}

fn memory(memory: &Memory) -> Vec<Vec<String>> {
    let rows = [
        ("weights", memory.weights),
        ("gradients", memory.gradients),
        ("optimizer", memory.optimizer),
        ("activations, libraries, data", memory.rest()),
    ];
    rows.iter()
        .map(|&(name, bytes)| vec![name.to_owned(), size(bytes)])
        .collect()
}

fn disk(forecast: &Forecast) -> Vec<Vec<String>> {
    let disk = &forecast.disk;
    vec![
        row(["a checkpoint", &size(disk.checkpoint), ""]),
        row(["the result", &size(disk.result), ""]),
        row([
            "left at the end",
            &size(disk.left),
            "a checkpoint more when an earlier one is the best",
        ]),
        row(["data in the cache", &size(disk.cache), "there already"]),
    ]
}

fn work(forecast: &Forecast) -> Vec<Vec<String>> {
    let work = &forecast.work;
    let trained = match work.trained_parameters == work.parameters {
        true => "all of them trained".to_owned(),
        false => format!(
            "{} more are trained, these frozen",
            count(work.trained_parameters)
        ),
    };
    let supervised = match work.supervised_tokens == work.tokens {
        true => "all of them learnt".to_owned(),
        false => format!("{} of them learnt", count(work.supervised_tokens)),
    };
    let passes = format!("over {} tokens of training data", count(work.epoch_tokens));
    let each = format!("{} a token", operations(work.flops_per_token));
    vec![
        row(["parameters", &count(work.parameters), &trained]),
        row(["tokens", &count(work.tokens), &supervised]),
        row([
            "a parameter",
            &significant(work.tokens_per_parameter),
            "tokens",
        ]),
        row(["epochs", &significant(work.epochs), &passes]),
        row(["operations", &operations(work.flops), &each]),
    ]
}

fn plural(number: usize, one: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {one}{ending}", count(number as u64))
}

/// `0.043 s`, `4.2 s`, `3 min 41 s`, `2 h 05 min`, `3 d 4 h`.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    let (minutes, hours) = (whole / 60, whole / 3600);
    match whole {
        _ if seconds < 0.0995 => format!("{seconds:.3} s"),
        _ if seconds < 9.95 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{minutes} min {:02} s", whole % 60),
        3600..172_800 => format!("{hours} h {:02} min", minutes % 60),
        _ => format!("{} d {} h", hours / 24, hours % 24),
    }
}

/// Floating-point operations: `15.7 MFLOP`.
fn operations(flops: f64) -> String {
    let units = ["", "k", "M", "G", "T", "P", "E", "Z"];
    let (mut value, mut unit) = (flops, 0);
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}FLOP", units[unit])
}

/// Three digits or so: `0.0123`, `1.25`, `318`.
fn significant(value: f64) -> String {
    match value {
        value if value >= 99.5 => count(value.round() as u64),
        value if value >= 9.95 => format!("{value:.1}"),
        value if value >= 0.1 => format!("{value:.2}"),
        value => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        let durations = [0.0431, 4.24, 59.4, 221.0, 7500.0, 273_600.0].map(duration);
        assert_eq!(
            durations,
            [
                "0.043 s",
                "4.2 s",
                "59 s",
                "3 min 41 s",
                "2 h 05 min",
                "3 d 4 h"
            ]
        );
        assert_eq!(
            [15_730_000.0, 3.9e13, 12.0].map(operations),
            ["15.7 MFLOP", "39.0 TFLOP", "12.0 FLOP"]
        );
        assert_eq!(
            [0.01234, 1.254, 31.84, 318.4].map(significant),
            ["0.0123", "1.25", "31.8", "318"]
        );
    }
}
