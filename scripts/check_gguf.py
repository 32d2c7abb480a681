#!/usr/bin/env python3
"""Compares a GGUF file and a model folder, as transformers reads both.

For `etude import FILE FOLDER` with float32 and for `etude export FOLDER FILE --format f32`, every weight
must be the same to the last bit; for the narrower formats of an export (--tolerance), about so. The
tokenizer of the folder must load, know the special tokens that the file names, and render a conversation
with the file's own chat template; what the model answers to it is printed.

Usage: python scripts/check_gguf.py FILE.gguf FOLDER [--tolerance SHARE]
Needs: torch 2.11, transformers 5.23, gguf 0.19.
"""

import argparse
import sys
from pathlib import Path

import gguf
import torch
import transformers

QUESTION = "What is the capital of France?"


def check(good, what, detail=""):
    print(f"  {'ok ' if good else 'NOT'} {what}{': ' if detail else ''}{detail}")
    return bool(good)


def field(reader, key):
    found = reader.fields.get(key)
    return None if found is None else found.contents()


def weights(file, model, tolerance):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name, dtype=torch.float32
    ).state_dict()
    ours = model.state_dict()
    good = check(theirs.keys() == ours.keys(), "the same parameters", f"{len(ours)}")
    worst = 0.0
    for name, tensor in ours.items():
        scale = tensor.abs().max().clamp(min=1e-12)
        worst = max(worst, float((theirs[name] - tensor).abs().max() / scale))
    return check(worst <= tolerance, "the same weights", f"apart by {worst:.1e} at most") and good


def special_tokens(reader, tokenizer):
    good = True
    for name in ["bos", "eos"]:
        wanted = field(reader, f"tokenizer.ggml.{name}_token_id")
        found = getattr(tokenizer, f"{name}_token_id")
        good &= check(wanted is None or wanted == found, f"{name}_token_id", f"{found}")
    return good


@torch.no_grad()
def conversation(reader, tokenizer, model):
    template = field(reader, "tokenizer.chat_template")
    if template is None:
        return check(tokenizer.chat_template is None, "no chat template")
    messages = [{"role": "user", "content": QUESTION}]
    options = dict(add_generation_prompt=True)
    wanted = tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, **options
    )
    found = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    good = check(wanted == found, "the chat template", repr(found))
    ids = tokenizer(found, add_special_tokens=False, return_tensors="pt").input_ids
    made = model.generate(ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :]
    print(f"      {QUESTION} {tokenizer.decode(made, skip_special_tokens=True)!r}")
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tolerance", type=float, default=0.0)
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(f"{args.file} and {args.folder}")
    reader = gguf.GGUFReader(args.file)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.folder).float().eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.folder)
    good = weights(args.file, model, args.tolerance)
    good &= special_tokens(reader, tokenizer)
    good &= conversation(reader, tokenizer, model)
    if not good:
        sys.exit("the file and the folder differ")


if __name__ == "__main__":
    main()
