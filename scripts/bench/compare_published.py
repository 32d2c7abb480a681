#!/usr/bin/env python3
"""A published model in Etude beside Transformers and PEFT: training, reading, writing, the first answer.

    python compare_published.py MODEL --etude target/release/etude --markdown
    python compare_published.py MODEL --only lora generate --pairs 7

MODEL is a model folder that both load (`etude import smollm2 models/smollm2`). The works:

    lora        training an adapter of rank 8 on all linear layers, 4 x 256 tokens, all supervised
    lora-task   the same with the last 32 tokens of each row supervised, as in fine-tuning on short answers
    full        training all weights, 2 x 256 tokens
    generate    reading 512 tokens, then 64 greedy ones
    answer      from process start to the end of a short greedy answer, both programs fresh each time

As in `compare_training.py` both stay up and take turns, and the ratio inside a pair is what counts. For the
answer they are started in turns. Peak memory is that of each process. Float32 on both sides; of a MODEL stored in
bfloat16 Etude keeps the matrices so and computes in float32 all the same, and --peer-dtype bfloat16 is the peer's
way with it, which computes in it. Needs Linux, and torch, transformers 5 and peft in the Python that runs this (or
--python).
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

from compare_training import Contestant

HERE = Path(__file__).resolve().parent
TRAIN = {
    "lora": ["--rows", "4", "--cols", "256", "--lora-rank", "8"],
    "lora-task": ["--rows", "4", "--cols", "256", "--lora-rank", "8", "--supervised", "32"],
    "full": ["--rows", "2", "--cols", "256"],
}
TOKENS = {"lora": 1024, "lora-task": 1024, "full": 512}
PROMPT = "What is the capital of France?"


def ask(contestant, times):
    contestant.process.stdin.write(f"go {times}\n")
    contestant.process.stdin.flush()
    line = contestant.process.stdout.readline()
    return json.loads(line) if line else sys.exit(f"{contestant.name} stopped answering: see its message above")


def in_turns(etude, peer, pairs, times, warmup):
    """For each pair the two answers, Etude's first; who goes first alternates."""
    for contestant in (etude, peer):
        ask(contestant, warmup)
    answers = []
    for pair in range(pairs):
        order = (etude, peer) if pair % 2 == 0 else (peer, etude)
        got = {contestant.name: ask(contestant, times) for contestant in order}
        answers.append((got[etude.name], got[peer.name]))
        print(f"pair {pair + 1}/{pairs}", file=sys.stderr, flush=True)
    return answers


def row(work, unit, ours, theirs, memory, more_is_better):
    ratios = [o / t if more_is_better else t / o for o, t in zip(ours, theirs)]
    return dict(
        work=work, unit=unit, etude=statistics.median(ours), peer=statistics.median(theirs),
        ratio=statistics.median(ratios), lowest=min(ratios), highest=max(ratios), pairs=len(ratios),
        etude_mb=memory and memory[0], peer_mb=memory and memory[1],
    )  # fmt: skip


def two(args, ours, theirs):
    etude = Contestant("Etude", [*args.etude, "bench", *ours, "--stdin", "--json"], args.threads)
    peer = Contestant("peer", [args.python, str(HERE / "published_peer.py"), *theirs], args.threads)
    return etude, peer


def race(args, what):
    """The rows of one kind of work."""
    if what == "answer":
        return [first_answer(args)]
    if what == "generate":
        sizes = ["--prompt-tokens", "512", "--tokens", "64"]
        ours = ["generate", args.model, *sizes]
        etude, peer = two(args, ours, [*ours, "--dtype", args.peer_dtype])
    else:
        etude, peer = two(args, ["train", "--model", args.model, *TRAIN[what]], ["train", args.model, *TRAIN[what]])
    try:
        answers = in_turns(etude, peer, args.pairs, args.times, warmup=2)
        memory = etude.peak_mb(), peer.peak_mb()
    finally:
        for contestant in (etude, peer):
            contestant.process.kill()
    rates = lambda key, tokens: [[tokens / statistics.median(side[key]) for side in pair] for pair in answers]
    if what == "generate":
        read, write = rates("prefill", 512), rates("per_token", 1)
        return [
            row("reading 512 tokens", "tokens/s", *zip(*read), memory, True),
            row("writing greedily after them", "tokens/s", *zip(*write), memory, True),
        ]
    return [row(f"training: {what}", "tokens/s", *zip(*rates("seconds", TOKENS[what])), memory, True)]


def first_answer(args):
    ours = [*args.etude, "generate", args.model, "--chat", "--temperature", "0", "--max-tokens", "64", "--prompt", PROMPT]
    theirs = [args.python, str(HERE / "published_peer.py"), "answer", args.model, "--prompt", PROMPT, "--dtype", args.peer_dtype]
    seconds, memory, texts = ([], []), [0, 0], [None, None]
    for pair in range(args.pairs + 1):
        for side in (0, 1) if pair % 2 == 0 else (1, 0):
            took, peak, texts[side] = run_once((ours, theirs)[side], args.threads)
            memory[side] = max(memory[side], peak)
            if pair > 0:  # the first brings the files into memory
                seconds[side].append(took)
    print(f"answers: {texts[0]!r} and {texts[1]!r}", file=sys.stderr)
    return row("process start to the end of the first answer", "s", *seconds, memory, False)


def run_once(command, threads):
    """Seconds, peak memory in MB, and what was printed."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    text = process.stdout.read().strip()
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - start
    if status:
        sys.exit(f"{shlex.join(command)} failed")
    return took, usage.ru_maxrss / 1024, text


def markdown(rows):
    lines = [
        "| work | Etude | peer | ratio, median of pairs (lowest to highest) | peak memory, Etude | peer | memory ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        lines.append(
            f"| {r['work']} | {r['etude']:.4g} {r['unit']} | {r['peer']:.4g} {r['unit']} | **{r['ratio']:.2f}** "
            f"({r['lowest']:.2f} to {r['highest']:.2f}, {r['pairs']} pairs) | {r['etude_mb']:,.0f} MB "
            f"| {r['peer_mb']:,.0f} MB | {r['etude_mb'] / r['peer_mb']:.2f} |"
        )
    return "\n".join(lines)


def main():
    works = [*TRAIN, "generate", "answer"]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--etude", type=shlex.split, default=["target/release/etude"], help="the etude binary")
    parser.add_argument("--python", default=sys.executable, help="a Python that has torch, transformers and peft")
    parser.add_argument("--only", nargs="+", choices=works, default=works)
    parser.add_argument("--peer-dtype", choices=["float32", "bfloat16"], default="float32", help="for generate and answer")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--times", type=int, default=2, help="steps or prompts in a turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--markdown", action="store_true", help="a table instead of JSON lines")
    args = parser.parse_args()
    if os.getloadavg()[0] > 0.5:
        print(f"warning: the machine is busy (load {os.getloadavg()[0]:.1f}); figures will suffer", file=sys.stderr)
    rows = [row for what in args.only for row in race(args, what)]
    print(markdown(rows) if args.markdown else "\n".join(map(json.dumps, rows)))


if __name__ == "__main__":
    main()
