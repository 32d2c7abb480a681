#!/usr/bin/env python3
"""Checks that LoRA runs of Etude work as they stand in PEFT.

    python check_peft.py RUN_DIR ...

For each run folder: PEFT loads `adapter/` onto the base that it names, with no key missing or left over;
the logits are those of `model/`, which Etude merged, within 1e-4, or where an adapter moves them so far that
rounding alone is more, within twice of what PEFT's own merge is off; and that merge gives ours within 1e-4.
The folder must be one that the adapter's base can be found from (a relative path counts from here).

Exit status 1 when a check fails. Needs torch, transformers 5 and peft.
"""

import sys
import warnings
from pathlib import Path

import peft
import torch
import transformers
from safetensors import safe_open

TOLERANCE = 1e-4


def logits(model, ids):
    with torch.no_grad():
        return model.eval()(ids, use_cache=False).logits


def keys(folder):
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        return set(file.keys())


def check(run):
    adapter = run / "adapter"
    config = peft.PeftConfig.from_pretrained(adapter)
    base = transformers.AutoModelForCausalLM.from_pretrained(config.base_model_name_or_path, dtype=torch.float32)
    ids = torch.randint(base.config.vocab_size, (2, 24), generator=torch.Generator().manual_seed(1))
    plain = logits(base, ids)
    model = peft.PeftModel.from_pretrained(base, adapter)
    ours, theirs = keys(adapter), set(peft.get_peft_model_state_dict(model, save_embedding_layers=False))
    merged = transformers.AutoModelForCausalLM.from_pretrained(run / "model", dtype=torch.float32)
    expected = logits(merged, ids)
    apart_logits = logits(model, ids)
    apart = (apart_logits - expected).abs().max().item()
    peft_merged = logits(model.merge_and_unload(), ids)
    by_peft = (peft_merged - expected).abs().max().item()
    rounding = (peft_merged - apart_logits).abs().max().item()
    moved = (plain - expected).abs().max().item()
    ok = ours == theirs and apart < max(TOLERANCE, 2 * rounding) and by_peft < TOLERANCE and moved > 0
    print(
        f"{'ok  ' if ok else 'FAIL'} {run}: {len(ours)} tensors, {len(ours ^ theirs)} keys differ; logits off by "
        f"{apart:.1e} apart (PEFT's own merge: {rounding:.1e}), {by_peft:.1e} merged; the adapter moves them by {moved:.2g}"
    )
    return ok


def main():
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    results = [check(Path(run)) for run in sys.argv[1:]]
    sys.exit(0 if results and all(results) else 1)


if __name__ == "__main__":
    main()
