#!/usr/bin/env python3
"""Writes crates/eval/tests/goldens: what lm-evaluation-harness finds for the tasks in its folder `harness`.

The model is the tiny random one of crates/model/tests/goldens/reference. The task files and records beside the
result, `harness/expected.json`, are written by hand. Needs lm_eval 0.4.13 with its `hf` extra, and Python 3.11;
deterministic.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from check_lm_eval import theirs  # noqa: E402

OUT = ROOT / "crates/eval/tests/goldens/harness"
MODEL = ROOT / "crates/model/tests/goldens/reference"

found = theirs(MODEL, sorted(OUT.glob("*.toml")))
(OUT / "expected.json").write_text(json.dumps(found, indent=1) + "\n")
for name, task in found.items():
    print(name, task["scores"])
