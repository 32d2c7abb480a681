#!/usr/bin/env python3
"""Golden numbers for the order of data (crates/data/src/order.rs), by an independent implementation.

    python3 scripts/goldens/order.py > crates/data/tests/goldens/order.json

The order is part of the format of a run: if these numbers change, resumed runs read other data.
Needs nothing but Python.
"""

import json

BITS = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
ROUNDS = 8


def finalize(value):
    z = (value + GOLDEN) & BITS
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & BITS
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & BITS
    return z ^ (z >> 31)


def mix(seed, number):
    return finalize(finalize(seed) ^ ((number + 1) * GOLDEN & BITS))


def item(n, seed, index):
    """The item at place `index` of the endless stream of epochs over n items."""
    epoch, value = divmod(index, n)
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    key = mix(seed, epoch)
    while True:
        left, right = value >> half, value & (2**half - 1)
        for number in range(ROUNDS):
            left, right = right, left ^ (mix((key + number) & BITS, right) >> (64 - half))
        value = left << half | right
        if value < n:
            return value


CASES = [
    (1, 5, 0),
    (2, 0, 0),
    (3, 1, 9),
    (10, 0, 0),
    (10, 42, 30),
    (1000, 1337, 123_456),
    (1_000_000_007, 1337, 123_456_789_012),
    (2**40, 2**64 - 1, 5),
    (2**63 + 1, 7, 2**63 - 3),
]

print(
    json.dumps(
        [
            {"n": n, "seed": seed, "first": first, "items": [item(n, seed, first + i) for i in range(6)]}
            for n, seed, first in CASES
        ],
        indent=1,
    )
)
