#!/usr/bin/env python3
"""Writes down what Transformers makes of a model, for `etude import` and `etude doctor` to check against.

The reference (JSON, some kilobytes) holds token ids of a few texts, renderings of a few conversations, logits
at some positions of a few prompts (the largest ones and the logarithm of the sum of all exponentials), and
greedy continuations. All of it is computed in float32 on the CPU.

    etude import FOLDER MODEL --reference FILE     checks the import against it and keeps it in MODEL
    etude doctor MODEL                             checks again

A file `reference.json` in FOLDER is used without being named. For a GGUF file Transformers reads the weights
and the tokenizer from that file itself, so the reference owes nothing to Etude.

Usage: python scripts/make_reference.py MODEL OUT        MODEL: a model folder or a .gguf file
Needs: torch 2.11, transformers 5.23; for GGUF also gguf 0.19.
"""

import argparse
import datetime
import json
import sys
from pathlib import Path

import torch
import transformers

SHAPE = [
    "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
    "num_attention_heads", "num_key_value_heads", "n_embd", "n_layer", "n_head", "n_positions",
]  # fmt: skip
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "It's 12,345.67 m, isn't it? We'll SEE...",
    "  two spaces,\ttab\nline\n\n    indented",
    "naïve café · Zürich · Łódź · 東京 · Привет 👋🏽",
    "def f(x):\n    return x ** 2  # squared\n",
]
CONVERSATIONS = [
    [("user", "What is the capital of France?")],
    [("system", "You answer in one word."), ("user", "Which colour is the sky?")],
    [("user", "Hello!"), ("assistant", "Hi. What can I do?"), ("user", "Name three fruits.")],
]
PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a village by the sea, there lived an old woman who",
    "1, 2, 3, 4, 5, 6,",
]
TOP = 5
POSITIONS = 4
NEW_TOKENS = 32


def read(place):
    """Model and tokenizer, and config.json's settings."""
    if place.suffix == ".gguf":
        folder, more = str(place.parent), {"gguf_file": place.name}
    else:
        folder, more = str(place), {}
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **more)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **more)
    return model.eval(), tokenizer


def encoded(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def renderings(tokenizer):
    """What the template makes of each conversation that it accepts, with and without an opened answer."""
    made = []
    if not tokenizer.chat_template:
        return made
    for conversation in CONVERSATIONS:
        messages = [{"role": role, "content": content} for role, content in conversation]
        for opened in [True, False]:
            try:
                text = tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=opened
                )
            except Exception:  # many templates refuse a system turn
                continue
            made.append({
                "messages": messages, "generation_prompt": opened,
                "text": text, "ids": encoded(tokenizer, text),
            })  # fmt: skip
    return made


@torch.no_grad()
def logits(model, ids):
    """The largest logits at some positions, the last among them."""
    values = model(torch.tensor([ids])).logits[0].double()  # (T, V)
    step = max(1, len(ids) // POSITIONS)
    places = list(range(len(ids) - 1, -1, -step))[:POSITIONS][::-1]
    positions = []
    for place in places:
        top = values[place].topk(min(TOP, values.shape[1]))
        positions.append({
            "position": place,
            "logsumexp": round(float(values[place].logsumexp(0)), 6),
            "top": [[int(i), round(float(v), 6)] for i, v in zip(top.indices, top.values)],
        })  # fmt: skip
    return {"ids": ids, "positions": positions}


@torch.no_grad()
def greedy(model, ids, size, ends):
    """The likeliest token again and again, and by how much the closest choice was won."""
    made, closest, cache, given = [], float("inf"), None, ids
    while len(made) < NEW_TOKENS and not (made and made[-1] in ends):
        out = model(torch.tensor([given]), past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        first, second = out.logits[0, -1, :size].double().topk(2).values.tolist()
        made.append(int(out.logits[0, -1, :size].argmax()))
        closest, given = min(closest, first - second), made[-1:]
    return {"prompt": ids, "ids": made, "margin": round(closest, 6)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("out", type=Path, metavar="OUT")
    args = parser.parse_args()
    model, tokenizer = read(args.model)

    config = model.config.to_dict()
    made_on = datetime.datetime.now().isoformat(timespec="seconds")  # some chat templates tell the date
    rendered = renderings(tokenizer)
    chats = [each["ids"] for each in rendered if each["generation_prompt"]]
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    prompts = [bos + encoded(tokenizer, text) for text in PROMPTS]
    long = bos + encoded(tokenizer, " ".join(TEXTS + PROMPTS))
    room = getattr(model.config, "max_position_embeddings", None) or getattr(model.config, "n_positions", 1024)
    keep = [ids for ids in [*prompts, long, *chats] if len(ids) + NEW_TOKENS <= room]
    if not keep:
        sys.exit(f"{args.model}: no prompt and {NEW_TOKENS} tokens after it fit into its context of {room}")
    ends = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
    size = min(len(tokenizer), model.config.vocab_size)

    reference = {
        "format": 1,
        "made_by": f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}, float32",
        "made_from": args.model.name,
        "made_on": made_on,
        "config": {key: config[key] for key in SHAPE if config.get(key) is not None},
        "tolerance": {"logits": 1e-3, "near_tie": 1e-2},
        "tokenizer": [{"text": text, "ids": encoded(tokenizer, text)} for text in TEXTS],
        "template": rendered,
        "logits": [logits(model, ids) for ids in keep],
        "greedy": [greedy(model, ids, size, ends) for ids in keep],
    }
    # A line for each entry: small, and readable as a difference between two versions.
    lines = []
    for key, value in reference.items():
        if isinstance(value, list):
            entries = ",\n".join("  " + json.dumps(entry, ensure_ascii=False) for entry in value)
            lines.append(f' "{key}": [\n{entries}\n ]' if value else f' "{key}": []')
        else:
            lines.append(f' "{key}": {json.dumps(value, ensure_ascii=False)}')
    args.out.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{args.out}: {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
