#!/usr/bin/env python3
"""Checks what `etude plan` forecasts against what the run comes to, for the built-in recipes.

    python check_plan.py --etude target/release/etude [--work DIR] [RECIPE ...]

For each recipe: `etude plan`, then the run with the same settings, both in DIR (a temporary folder unless
given). Long recipes are run for fewer steps, the plan and the run alike; the table says how many. Time is from
the start of the command to its end, memory the most that the process held. A fine-tuning recipe that starts from a
base model of another recipe gets one: that recipe runs first.

Prints a table (Markdown). Exit status 1 when a forecast is off by more than 15 percent in time or 10 percent in
memory. Only a quiet machine can pass: what else runs is in one of the two times and not in the other.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TIME_LIMIT, MEMORY_LIMIT = 0.15, 0.10

TASKS = (
    "questions", "sentiment", "synopses", "translation", "translation-french", "cooking", "open-questions", "conversation",
)

# Recipe, command, settings that shorten it.
RECIPES = [
    ("pretrain-quickstart", "pretrain", []),
    ("finetune-quickstart", "finetune", []),
    ("finetune-quickstart-scratch", "finetune", []),
    ("pretrain-shakespeare", "pretrain", []),
    ("pretrain-shakespeare-llama", "pretrain", []),
    ("finetune-smollm2-descriptions", "finetune", ["train.steps=40", "train.eval_every=20"]),
    ("finetune-smollm2-descriptions-full", "finetune", ["train.steps=30", "train.eval_every=15"]),
    *(
        (f"finetune-smollm2-{task}", "finetune", ["train.steps=30", "train.eval_every=15", "eval.test=32"])
        for task in (*TASKS, "tales")
    ),
    ("pretrain-tasks", "pretrain", []),
    *(
        (f"finetune-tasks-{task}", "finetune", [])
        for task in ("descriptions", *TASKS, "tales")
    ),
]

# Where the recipes that fine-tune them look for base models.
BASES = {"pretrain-quickstart": "runs/quickstart/base", "pretrain-tasks": "runs/tasks/base"}


def run(etude, work, *arguments):
    """Runs the program and returns its JSON and the seconds it took."""
    start = time.monotonic()
    done = subprocess.run([etude, *arguments, "--json", "--quiet"], cwd=work, stdout=subprocess.PIPE)
    if done.returncode != 0:
        sys.exit(f"etude {' '.join(arguments)} ended with {done.returncode}")
    return json.loads(done.stdout), time.monotonic() - start


def folder(recipe):
    return BASES.get(recipe, f"runs/{recipe}")


def check(etude, work, recipe, command, settings):
    """Plans and runs one recipe. Returns its row, and whether it is within the limits."""
    options = [part for setting in settings for part in ("--set", setting)]
    options += ["--run", folder(recipe)]
    plan, measuring = run(etude, work, "plan", recipe, *options)
    done, seconds = run(etude, work, command, recipe, *options)
    off = [
        seconds / plan["seconds"]["total"] - 1,
        done["peak_memory"] / plan["memory"]["peak"] - 1,
        done["forecast"]["disk"]["fact"] / plan["disk"]["left"] - 1,
    ]
    row = [
        recipe,
        str(plan["work"]["steps"]),
        f"{measuring:.0f} s",
        f"{plan['seconds']['total']:.1f} s",
        f"{seconds:.1f} s",
        f"{off[0]:+.1%}",
        f"{plan['memory']['peak'] / 1e6:,.0f} MB",
        f"{done['peak_memory'] / 1e6:,.0f} MB",
        f"{off[1]:+.1%}",
        f"{off[2]:+.1%}",
    ]
    return row, abs(off[0]) <= TIME_LIMIT and abs(off[1]) <= MEMORY_LIMIT


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--etude", default="target/release/etude", type=Path)
    parser.add_argument("--work", type=Path, help="a folder for the runs, which is kept")
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="all unless given")
    options = parser.parse_args()
    unknown = set(options.recipes) - {recipe for recipe, _, _ in RECIPES}
    if unknown:
        sys.exit(f"not among the recipes that are checked: {', '.join(sorted(unknown))}")
    if not options.etude.is_file():
        sys.exit(f"{options.etude}: is not there; build it, or name another with --etude")
    etude = options.etude.resolve()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        head = ["recipe", "steps", "planning took", "time, forecast", "fact", "off"]
        head += ["memory, forecast", "fact", "off", "disk off"]
        print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)
        fine = True
        chosen = [entry for entry in RECIPES if not options.recipes or entry[0] in options.recipes]
        for base, stem in (("pretrain-quickstart", "finetune-quickstart"), ("pretrain-tasks", "finetune-tasks")):
            needed = any(entry[0].startswith(stem) for entry in chosen)
            made = any(entry[0] == base for entry in chosen) or (work / folder(base) / "summary.json").is_file()
            if needed and not made:
                run(etude, work, "pretrain", base, "--run", folder(base))
        for entry in chosen:
            if (work / folder(entry[0]) / "summary.json").is_file():
                sys.exit(f"{work / folder(entry[0])}: holds a run already; remove it, or choose another --work")
            row, within = check(etude, work, *entry)
            fine &= within
            print(f"| {' | '.join(row)} |{'' if within else ' beyond the limits'}", flush=True)
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
