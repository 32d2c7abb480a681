#!/usr/bin/env python3
"""Runs the experiments of docs/lesson.md and writes their numbers into it.

    python3 scripts/lesson.py [--etude target/release/etude] [--runs runs]

The quickstart comes first, where `RUNS/quickstart` is not finished; then the lesson's own experiments, below
`RUNS/lesson`. What is finished there is not run again: remove the folders to begin anew. Ten to twenty minutes on
two cores.

Every number of the lesson stands between two comments, `<!-- key -->0.221<!-- -->`. This script writes them all
to docs/lesson.json, with the hashes of the recipes that they come from, and puts them into the text with as many
decimals as stood there. A test of the repository holds the text to the file and the file to the recipes.
Needs nothing but Python's own library.
"""

import argparse
import hashlib
import json
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LESSON = ROOT / "docs" / "lesson.md"
NUMBERS = ROOT / "docs" / "lesson.json"
RECIPES = ["pretrain-quickstart", "finetune-quickstart", "finetune-quickstart-scratch", "transfer-lesson"]
MARK = re.compile(r"<!-- ([a-z0-9_.]+) -->(.*?)<!-- -->", re.DOTALL)


def read(path):
    return json.loads(path.read_text())


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def spread(numbers, key, score):
    """A score with its interval as three numbers."""
    for part in ("value", "low", "high"):
        numbers[f"{key}.{part}"] = score[part]


def from_quickstart(runs, numbers):
    folder = runs / "quickstart"
    task = read(folder / "summary.json")["task"]
    numbers["test.n"] = task["n"]
    for arm in ("base", "finetuned", "scratch"):
        spread(numbers, f"{arm}.rouge_l", task[arm]["rouge_l"])
    spread(numbers, "gain_over_scratch", task["gain_over_scratch"])
    for name in ("base", "task"):
        summary, data = read(folder / name / "summary.json"), read(folder / name / "data.json")
        losses = [line for line in lines(folder / name / "metrics.jsonl") if line["kind"] == "train"]
        numbers[f"{name}.steps"] = summary["steps"]
        numbers[f"{name}.tokens"] = summary["tokens"]
        numbers[f"{name}.learnt_share"] = 100 * summary["supervised_tokens"] / summary["tokens"]
        numbers[f"{name}.first_loss"] = losses[0]["loss"]
        numbers[f"{name}.last_loss"] = summary["final"]["validation_loss"]
        numbers[f"{name}.bits_per_byte"] = summary["final"]["bits_per_byte"]
        numbers[f"{name}.parameters"] = summary["parameters"] / 1e6
        numbers[f"{name}.megabytes"] = sum(source["bytes"] for source in data["sources"]) / 1e6
    numbers["task.examples"] = read(folder / "task" / "data.json")["examples"]["train"]
    numbers["tokens_ratio"] = numbers["base.tokens"] / numbers["task.tokens"]


def from_transfer(folder, numbers):
    found = read(folder / "transfer.json")
    for name, point in zip(("tenth", "all"), found["points"]):
        numbers[f"{name}.examples"] = point["examples"]
        for arm in ("pretrained", "scratch"):
            spread(numbers, f"{name}.{arm}", point[arm]["scores"]["rouge_l"])
        spread(numbers, f"{name}.difference", point["differences"]["rouge_l"])
    spread(numbers, "data_ratio", found["data_ratio"])
    numbers["general.before"] = found["general_before"]
    for key, variant in zip(("plain", "mixed"), found["variants"]):
        numbers[f"general.{key}"] = variant["general"]
        numbers[f"{key}.rouge_l"] = variant["scores"]["rouge_l"]["value"]
    compute = found["compute"]
    numbers["compute.ratio"] = compute["pretraining"]["flops"] / compute["finetuning"]["flops"]


def from_longer(lesson, numbers):
    for arm in ("scratch", "tuned"):
        folder = lesson / f"longer-{arm}"
        numbers["longer.steps"] = read(folder / "summary.json")["steps"]
        after = read(folder / "scores.json")["after"]
        spread(numbers, f"longer.{arm}", after["rouge_l"])
        numbers[f"longer.{arm}.bits_per_byte"] = after["bits_per_byte"]["value"]


def written(value, old):
    """The value as the lesson writes it: with the decimals and the sign that stood there."""
    decimals = len(old.split(".")[1]) if "." in old else 0
    return f"{value:{'+' if old.startswith('+') else ''},.{decimals}f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--etude", type=Path, default=ROOT / "target" / "release" / "etude")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    args = parser.parse_args()
    etude = [str(args.etude.resolve())]

    def run(*command):
        print("etude", *command, flush=True)
        subprocess.run([*etude, *map(str, command)], check=True)

    lesson = args.runs / "lesson"
    base = args.runs / "quickstart" / "base"
    if not (args.runs / "quickstart" / "summary.json").is_file():
        run("quickstart", "--run", args.runs / "quickstart", "--quiet")
    run("transfer", "lesson", "--run", lesson / "transfer", "--quiet", "--set-finetune", f"base.path={base}")
    for arm, recipe in (("scratch", "quickstart-scratch"), ("tuned", "quickstart")):
        run(
            "finetune", recipe, "--run", lesson / f"longer-{arm}", "--quiet", "--set", f"base.path={base}",
            "--set", "train.steps=500", "--set", 'eval.metrics=["rouge_l", "bits_per_byte"]', "--set", "eval.test=0",
        )
    numbers = {}
    from_quickstart(args.runs, numbers)
    from_transfer(lesson / "transfer", numbers)
    from_longer(lesson, numbers)
    hashes = {
        name: hashlib.sha256((ROOT / "crates/cli/recipes" / f"{name}.toml").read_bytes()).hexdigest()
        for name in RECIPES
    }
    NUMBERS.write_text(json.dumps({"recipes": hashes, "numbers": numbers}, indent=1) + "\n")
    text = LESSON.read_text()
    unknown = {key for key, _ in MARK.findall(text)} - set(numbers)
    if unknown:
        raise SystemExit(f"docs/lesson.md: no experiment gives {', '.join(sorted(unknown))}")
    LESSON.write_text(MARK.sub(lambda mark: f"<!-- {mark[1]} -->{written(numbers[mark[1]], mark[2])}<!-- -->", text))
    print(f"{NUMBERS} and {LESSON} are written")


if __name__ == "__main__":
    main()
