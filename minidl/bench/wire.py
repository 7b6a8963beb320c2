"""What a ternary gradient costs on one core, beside copying the gradient once.

All is measured by turns in one process, in CPU time, the best of several: a busy machine slows the copy as it slows
the work. The copy (np.copyto, 4 bytes read and 4 written for each number) is into memory that is already there.
"""

from __future__ import annotations

import time

import numpy as np

SIZE, TURNS = 25_000_000, 9
LIMITS = {"wire-pack": 2.0, "wire-add": 1.0}
"""Copies that the work may take at most."""


def work(size: int) -> dict:
    """What is measured, by name: a function and a note each; "copy" is what the others are compared with."""
    from minidl.ternary.allreduce import mean_of
    from minidl.ternary.pack import ternarise_pack, unpack_add
    from minidl.ternary.ternarise import draw_key, scale_of

    g = np.random.default_rng(0).standard_normal(size, dtype=np.float32)
    copy, sums, key = np.zeros_like(g), np.zeros(size, np.int8), draw_key(0, 0, 0, 0)

    def pack():
        s = np.array([scale_of(g)])
        return ternarise_pack(g, s, key, s, size), s

    code, s = pack()
    return {
        "copy": (lambda: np.copyto(copy, g), ""),
        "wire-pack": (pack, "scale, clip, ternarise and pack in base 3"),
        "wire-add": (lambda: unpack_add(code, sums), "unpack one rank's trits and add them to the sums"),
        "wire-mean": (
            lambda: mean_of(sums, s, 4),
            "sums to a new array of floats: mostly, to get new memory",
        ),
    }


def measure(size: int = SIZE, turns: int = TURNS) -> list[dict]:
    """{name, size, ms, copy_ms, note} for each part of the work."""
    parts = work(size)
    best = dict.fromkeys(parts, np.inf)
    for function, _ in parts.values():
        function()  # loads and compiles
    for _ in range(turns):
        for name, (function, _) in parts.items():
            start = time.process_time()
            function()
            best[name] = min(best[name], 1e3 * (time.process_time() - start))
    copy_ms = best.pop("copy")
    return [
        {"name": name, "size": size, "ms": ms, "copy_ms": copy_ms, "note": parts[name][1]} for name, ms in best.items()
    ]
