#!/usr/bin/env python3
"""Writes `crates/model/tests/goldens/sampling.json`: what Transformers makes of logits.

    cases   logits of 40 tokens, the tokens seen so far and the settings, with the probabilities
            that Transformers' own chain of processors leaves (0 for what it removes)
    greedy  continuations of golden model folders (see model.py) with a repetition penalty
    beams   their continuations by beam search, with lengths, ends and penalties of many kinds

Usage: python scripts/goldens/sampling.py
Needs: torch 2.11, transformers 5.24, safetensors, and the folders that model.py writes.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GenerationConfig

OUT = Path(__file__).resolve().parents[2] / "crates/model/tests/goldens"
TOKENS = 40
SETTINGS = [
    dict(temperature=1.0),
    dict(temperature=0.7),
    dict(temperature=1.3, top_k=5),
    dict(temperature=1.0, top_k=1),
    dict(temperature=0.9, top_p=0.8),
    dict(temperature=1.0, top_p=0.05),
    dict(temperature=1.5, min_p=0.2),
    dict(temperature=0.8, repetition_penalty=1.4),
    dict(temperature=0.6, repetition_penalty=0.7),
    dict(temperature=1.2, top_k=20, top_p=0.9, min_p=0.05, repetition_penalty=1.2),
    dict(temperature=0.5, top_k=7, top_p=0.5),
    dict(temperature=2.0, top_k=100, top_p=0.95),
]


def cases(model):
    torch.manual_seed(20)
    for settings in SETTINGS:
        # Rounded, so that the text of the file is exact in float32.
        logits = (torch.randn(1, TOKENS) * 2).mul(1024).round().div(1024)
        seen = torch.randint(TOKENS, (1, 12))
        config = GenerationConfig(do_sample=True, **{"top_k": 0, **settings})
        processors = model._get_logits_processor(
            generation_config=config, input_ids_seq_length=12, device="cpu"
        )
        left = processors(seen, logits.clone()).double().softmax(-1)
        yield dict(
            logits=logits[0].tolist(), seen=seen[0].tolist(), settings=settings,
            probabilities=[float(f"{p:.9g}") for p in left[0].tolist()],
        )  # fmt: skip


def greedy():
    for name in ["gpt2", "llama", "qwen2"]:
        model = AutoModelForCausalLM.from_pretrained(OUT / name).eval()
        prompt = load_file(OUT / name / "golden.safetensors")["prompt"].unsqueeze(0)
        for penalty in [1.3, 3.0]:
            ids = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=20,
                repetition_penalty=penalty, pad_token_id=0,
            )  # fmt: skip
            yield dict(
                model=name, prompt=prompt[0].tolist(), repetition_penalty=penalty,
                ids=ids[0, prompt.shape[1] :].tolist(),
            )  # fmt: skip


def beams():
    torch.manual_seed(21)
    settings = [
        dict(num_beams=2),
        dict(num_beams=4),
        dict(num_beams=4, length_penalty=0.0),
        dict(num_beams=3, length_penalty=2.0),
        dict(num_beams=5, length_penalty=-1.0),
        dict(num_beams=4, repetition_penalty=1.5),
        dict(num_beams=9, max_new_tokens=1),
        dict(num_beams=6, max_new_tokens=3),
    ]
    for name in ["gpt2", "llama", "mistral", "qwen3"]:
        model = AutoModelForCausalLM.from_pretrained(OUT / name).eval()
        model.generation_config.eos_token_id = None
        for number, given in enumerate(settings):
            prompt = torch.randint(model.config.vocab_size, (1, 3 + number))
            given = dict(max_new_tokens=14) | given
            mask = dict(attention_mask=torch.ones_like(prompt))
            none = model.generate(prompt, **mask, do_sample=False, pad_token_id=0, eos_token_id=None, **given)
            made = none[0, prompt.shape[1] :].tolist()
            # Ends that a likely text comes to: without ends, with one, with three.
            for ends in [None, [made[len(made) // 2]], sorted({made[-1], made[len(made) // 3], 7})]:
                ids = model.generate(prompt, **mask, do_sample=False, pad_token_id=0, eos_token_id=ends, **given)
                new = ids[0, prompt.shape[1] :].tolist()
                yield dict(model=name, prompt=prompt[0].tolist(), settings=given, ends=ends or [], ids=new)


def main():
    model = AutoModelForCausalLM.from_pretrained(OUT / "llama")
    whole = dict(cases=list(cases(model)), greedy=list(greedy()), beams=list(beams()))
    (OUT / "sampling.json").write_text(json.dumps(whole) + "\n")


if __name__ == "__main__":
    main()
