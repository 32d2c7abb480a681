"""Writes crates/data/tests/goldens/split.tsv: the hash, bucket and split of some keys, by hashlib.

Run from the repository's root: python3 scripts/goldens/data_split.py
"""

import hashlib
from pathlib import Path

KEYS = [
    "Mutation", "Leeds", "Hans Christian Andersen", "Sulla", "Sulfur", "War elephant", "Algeria",
    "20th-century classical music", "", " ", "é", "日本語", "a" * 1000, "speeches/1790-Washington-1.txt",
] + [f"key {i}" for i in range(20)]


def main() -> None:
    lines = ["# salt, key, hash, bucket, split with test = 6 and validation = 4; by scripts/goldens/data_split.py"]
    for salt in ("etude-wiki-1", "s"):
        for key in KEYS:
            digest = hashlib.sha256(salt.encode() + b"\0" + key.encode()).digest()
            number = int.from_bytes(digest[:8], "big")
            bucket = number * 100 // 2**64
            split = "test" if bucket < 6 else "validation" if bucket < 10 else "train"
            lines.append(f"{salt}\t{key}\t{number}\t{bucket}\t{split}")
    target = Path("crates/data/tests/goldens/split.tsv")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
