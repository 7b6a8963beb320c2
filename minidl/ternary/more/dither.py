"""Stratified dither: workers whose draws keep out of each other's way, so that their errors cancel. No byte more.

A trit is t = (q + U) >> 24. Independent workers draw U anywhere in 0 .. 2^24, and by chance many draw high at the same
place. Here worker i of n draws in its own n-th of that range (a stratum), so that among the n draws of one element some
are low and some high: whatever one rounds up, another rounds down. Of independent gradients the sum then has 1 / 1.6 of
the variance with two workers and half of it with eight; where all workers have the same one, nearly an n-th of it.

    U = (place 2^24 + V) // n        place: the worker's stratum, 0 .. n - 1; V: its own draw, 0 .. 2^24 - 1

place 2^24 + V is uniform over n 2^24 integers, and each U has n of them: by itself every U is as uniform as an ordinary
draw, and the mean of a trit is exactly q. Places change from element to element, the same way on all workers: all of it
comes from keys, nothing is sent. Source: Owen, "Monte Carlo theory, methods and examples", chapter 8 (strata).
"""

from __future__ import annotations

import math

import numpy as np

from minidl.errors import InputError
from minidl.ternary.ternarise import GOLDEN, Ternariser, _in_units, draw_key, draws, mix, trits_of

SHARED = 2**32 - 1
"""The worker whose key is everybody's: no real worker has this number."""


def places(shared: np.uint64, worker: int, workers: int, first: int, count: int) -> np.ndarray:
    """The stratum of one worker at elements first .. first + count: (count,) int64; each worker has another.

    (stride worker + shift) mod n, where shift is any number and stride one that has no divisor in common with n.
    """
    element = np.arange(first, first + count, dtype=np.uint64)
    bits = mix(element * np.uint64(GOLDEN) + shared)
    strides = np.array([k for k in range(1, workers + 1) if math.gcd(k, workers) == 1], np.int64)
    stride = strides[(bits & np.uint64(0xFFFF)).astype(np.int64) % strides.size]
    return (stride * worker + (bits >> np.uint64(24)).astype(np.int64)) % workers


def stratified_draws(
    shared: np.uint64, own: np.uint64, worker: int, workers: int, first: int, count: int
) -> np.ndarray:
    """U of elements first .. first + count for one of the workers: (count,) int32, uniform in [0, 2^24).

    shared, own: keys, the same on all workers and this one's. With the same key as both, all V are the same: a lattice.
    """
    v = draws(own, first, count).astype(np.int64)
    return (((places(shared, worker, workers, first, count) << 24) + v) // workers).astype(np.int32)


class StratifiedTernariser(Ternariser):
    """A Ternariser for `workers` workers, 0 .. workers - 1, who draw from strata. In the place of a DataParallel's own:

        parallel.ternariser = StratifiedTernariser(parallel.workers, seed=seed)

    It has no fused or compiled form, and takes some ten times as long as the plain one. Other arguments: Ternariser's.
    """

    def __init__(self, workers: int, scale="tensor", clip=2.5, seed: int = 0, rule: str = "exact"):
        super().__init__(scale, clip, seed, rule)
        if workers < 1:
            raise InputError(f"{workers} workers: at least 1")
        self.workers = workers

    def trits(self, g, s=None, *, step: int = 0, worker: int = 0, tensor: int = 0, own=None) -> np.ndarray:
        """As `Ternariser.trits`. InputError for a worker that is not one of them."""
        if not 0 <= worker < self.workers:
            raise InputError(f"worker {worker} of {self.workers}: strata are there for 0 to {self.workers - 1}")
        g = np.ascontiguousarray(g).reshape(-1)
        own = self.scales(g) if own is None else own
        s = own if s is None else s
        y, limit = _in_units(g, s, s if self.rule == "published" else own, self.block(g.size))
        q = np.rint(np.clip(y, -limit, limit)).astype(np.int32)
        shared, mine = (draw_key(self.seed, step, who, tensor) for who in (SHARED, worker))
        return trits_of(q, stratified_draws(shared, mine, worker, self.workers, 0, g.size))
