#!/usr/bin/env python3
"""Checks that model folders written by Etude work as they stand in `transformers`.

    python check_transformers.py MODEL_DIR ...
    python check_transformers.py MODEL_DIR --etude target/release/etude --text FILE
    python check_transformers.py ~/.cache/etude/models/smollm2 --etude target/release/etude --ten

For each folder: `AutoModelForCausalLM` loads it with no missing, unexpected or misshapen weight,
`AutoTokenizer` loads it and gives text back unchanged, the chat template renders, and greedy
generation runs, the same with and without a KV cache. With `--etude` the two programs are compared:

    ids          `etude tokenizer encode`      equal
    generation   `etude generate`, greedy      the same ids, up to a near tie of two logits; with --ten for
                                               64 tokens after each of ten prompts, as turns of a conversation
                                               and as plain text, where a near tie is shown with its margin
    evaluation   `etude eval --text`           the same tokens scored, mean nats within 1e-4

Evaluation reads windows of C tokens (`--context`) that start every S (`--stride`); a token that an
earlier window scored is context only, and the first token of a window is never scored.

Exit status 1 when a check fails. Needs torch and transformers 5.
"""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

import tokenizers
import torch
import transformers
from torch.nn import functional as F

TOLERANCE = 1e-4
NEAR_TIE = 1e-3
TEN_TOKENS = 64
# (whether it goes through the chat template, text)
TEN = [
    (True, "What is the capital of France?"),
    (True, "Write a short poem about rain on a tin roof."),
    (True, "Explain in two sentences why the sky is blue."),
    (True, "List five things to pack for a week in the mountains."),
    (True, "Translate into German: The ferry leaves at six in the morning."),
    (False, "The history of the bicycle begins"),
    (False, "def fibonacci(n):\n"),
    (False, "Once upon a time, on an island far out at sea, there lived"),
    (False, "Ingredients:\n- 500 g flour\n- 350 g water\n"),
    (False, "In 1905 Albert Einstein published"),
]


class Report:
    """Prints one line a check and remembers whether all passed."""

    def __init__(self):
        self.failed = 0

    def check(self, ok, what, detail=""):
        self.failed += not ok
        print(f"  {'ok  ' if ok else 'FAIL'} {what}{': ' if detail else ''}{detail}")
        return ok


def load_model(folder, report):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    problems = {kind: keys for kind, keys in info.items() if keys}
    count = sum(p.numel() for p in model.parameters())
    detail = f"{model.config.model_type}, {count:,} parameters"
    report.check(not problems, "weights load", str(problems) if problems else detail)
    return model.eval()


def load_tokenizer(folder, model, report):
    """The tokenizer, or None for a folder that has only a model."""
    if not (folder / "tokenizer.json").exists():
        print("  --   no tokenizer.json: the model alone is checked")
        return None
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    fits = len(tokenizer) <= model.config.vocab_size
    report.check(fits, "vocabulary fits", f"{len(tokenizer)} of {model.config.vocab_size}")
    text = "To be, or not to be:\n  naïve — 東京 🎼 <|endoftext|> In 1789, 12345"
    back = tokenizer.decode(encode(tokenizer, text), clean_up_tokenization_spaces=False)
    report.check(back == text, "decode(encode(text)) == text", "" if back == text else repr(back))
    # Transformers has classes of its own for some model types, Qwen2's among them, that cut text in one fixed way.
    written = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    written.encode_special_tokens = True
    same = written.encode(text, add_special_tokens=False).ids == encode(tokenizer, text)
    report.check(same, "AutoTokenizer cuts text as tokenizer.json says")
    if tokenizer.chat_template:
        chat = [{"role": "user", "content": "Hello?"}]
        shown = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        report.check("Hello?" in shown, "chat template renders", repr(shown))
    return tokenizer


def encode(tokenizer, text):
    """Plain text: nothing added, and a special token's name in it is ordinary text."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def prompt_ids(tokenizer, text):
    """The same as a prompt: after the token that the tokenizer itself puts before a text, if it does."""
    return tokenizer("")["input_ids"][:1] * begins(tokenizer) + encode(tokenizer, text)


def begins(tokenizer):
    """Whether the tokenizer puts a token before a text, and not only behind it."""
    whole, plain = tokenizer("a")["input_ids"], encode(tokenizer, "a")
    return len(whole) > len(plain) and whole[1 : 1 + len(plain)] == plain


@torch.no_grad()
def generate(model, prompt, count):
    """Greedy continuation of one row with a cache, up to an end token, and each choice's margin."""
    end = model.generation_config.eos_token_id
    ends = set(end if isinstance(end, list) else [end])
    fresh, cache, ids, margins = torch.tensor([prompt]), None, [], []
    limit = model.config.max_position_embeddings - len(prompt)
    for _ in range(min(count, limit)):
        out = model(fresh, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        best = out.logits[0, -1].topk(2)
        margins.append(float(best.values[0] - best.values[1]))
        ids.append(int(best.indices[0]))
        if ids[-1] in ends:
            break
        fresh = best.indices[:1][None]
    return ids, margins


@torch.no_grad()
def cache_agrees(model, prompt, ids):
    """Each choice made again from the whole sequence at once."""
    logits = model(torch.tensor([prompt + ids]), use_cache=False).logits[0]
    chosen = logits[len(prompt) - 1 : -1]
    lost = chosen.max(dim=-1).values - chosen.gather(1, torch.tensor(ids)[:, None])[:, 0]
    return float(lost.max()) < NEAR_TIE


@torch.no_grad()
def evaluate(model, ids, context, stride):
    """Sum of nats and number of tokens scored."""
    total, scored, done = 0.0, 0, 0  # every position before `done` was scored or skipped
    for start in range(0, len(ids), stride):
        window = torch.tensor(ids[start : start + context])
        first = max(done - start, 1)
        if len(window) > first:
            logits = model(window[None], use_cache=False).logits[0]
            nats = F.cross_entropy(logits[first - 1 : -1], window[first:], reduction="none")
            total += nats.double().sum().item()
            scored += nats.numel()
        done = start + len(window)
        if done == len(ids):
            break
    return total, scored


def etude(args, *command):
    done = subprocess.run([args.etude, *map(str, command)], capture_output=True, text=True)
    if done.returncode:
        shown = " ".join(map(str, command))
        sys.exit(f"`etude {shown}` failed with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout)


def compare_generation(args, folder, tokenizer, prompt, made, report, options=()):
    """Etude's greedy ids against `made`, ids and margins; `options` say how it reads the prompt."""
    ids, margins = made
    fixed = ["--max-tokens", len(ids), "--temperature", 0, "--json"]
    theirs = etude(args, "generate", folder, "--prompt", prompt, *fixed, *options)["ids"]
    # An end token may or may not be listed; what stands before it must agree.
    end = tokenizer.eos_token_id
    mine, theirs = ([i for i in x if i != end] for x in (ids, theirs))
    pairs = enumerate(zip(mine, theirs))
    differs = next((n for n, (a, b) in pairs if a != b), min(len(mine), len(theirs)))
    detail = f"{differs} ids equal"
    same = mine == theirs
    if not same:
        margin = margins[differs] if differs < len(margins) else math.inf
        same = margin < NEAR_TIE
        detail += f", then logits apart by {margin:.1e}"
        detail += "" if same else f": {mine} and {theirs}"
    report.check(same, "etude generates the same", detail)


def compare_ten(args, folder, model, tokenizer, report):
    for chat, prompt in TEN:
        if chat and not tokenizer.chat_template:
            continue
        if chat:
            turns = [{"role": "user", "content": prompt}]
            ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
        else:
            ids = prompt_ids(tokenizer, prompt)
        print(f"  {prompt!r}")
        made = generate(model, ids, TEN_TOKENS)
        options = ["--chat"] if chat else []
        compare_generation(args, folder, tokenizer, prompt, made, report, options)


def check_text(args, folder, model, tokenizer, report):
    ids = encode(tokenizer, args.text.read_bytes().decode("utf-8"))
    context = args.context or min(model.config.max_position_embeddings, 1024)
    stride = args.stride or context
    total, scored = evaluate(model, ids, context, stride)
    if scored == 0:
        report.check(False, "evaluation", f"{args.text} has fewer than two tokens")
        return
    nll = total / scored
    report.check(math.isfinite(nll), "evaluation", f"{nll:.6f} nats a token over {scored} tokens")
    if not args.etude:
        return
    encoded = etude(args, "tokenizer", "encode", folder, "--file", args.text, "--json")["ids"]
    report.check(encoded == ids, "etude gives the same ids", f"{len(encoded)} and {len(ids)}")
    options = ["--context", context, "--stride", stride, "--json"]
    theirs = etude(args, "eval", folder, "--text", args.text, *options)
    report.check(theirs["tokens"] == scored, "etude scores as many", f"{theirs['tokens']}")
    gap = abs(theirs["nll"] - nll)
    report.check(gap <= TOLERANCE, "etude's nats", f"{theirs['nll']:.6f}, apart by {gap:.1e}")
    gap = abs(theirs["perplexity"] / math.exp(nll) - 1)
    report.check(gap <= TOLERANCE, "etude's perplexity", f"{theirs['perplexity']:.4f}")


def check_folder(args, folder, report):
    print(folder)
    model = load_model(folder, report)
    tokenizer = load_tokenizer(folder, model, report)
    prompt = prompt_ids(tokenizer, args.prompt) if tokenizer else [1, 2, 3]
    ids, margins = generate(model, prompt, args.max_tokens)
    shown = repr(tokenizer.decode(ids)) if tokenizer else str(ids)
    report.check(cache_agrees(model, prompt, ids), "generates", shown)
    if tokenizer and args.etude:
        compare_generation(args, folder, tokenizer, args.prompt, (ids, margins), report)
    if tokenizer and args.ten:
        compare_ten(args, folder, model, tokenizer, report)
    if tokenizer and args.text:
        check_text(args, folder, model, tokenizer, report)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="MODEL_DIR")
    parser.add_argument("--etude", help="the etude binary to compare with")
    parser.add_argument("--ten", action="store_true", help="compare ten prompts of 64 tokens, needs --etude")
    parser.add_argument("--text", type=Path, metavar="FILE", help="text to evaluate on")
    parser.add_argument("--context", type=int, help="window, default the model's, at most 1024")
    parser.add_argument("--stride", type=int, help="default: the window")
    parser.add_argument("--prompt", default="The king said")
    parser.add_argument("--max-tokens", type=int, default=24)
    args = parser.parse_args()
    if args.ten and not args.etude:
        parser.error("--ten compares with Etude: give --etude BINARY")
    return args


def main():
    args = parse()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    report = Report()
    for folder in args.folders:
        check_folder(args, folder, report)
    if report.failed:
        sys.exit(f"{report.failed} checks failed")


if __name__ == "__main__":
    main()
