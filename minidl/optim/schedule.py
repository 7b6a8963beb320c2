"""Schedules: the learning rate as a function of the step. Each is an ordinary function, step -> rate.

optimizer.lr = schedule(step)        before each step; `fit(schedule=...)` does it
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable

from minidl.errors import InputError

Schedule = Callable[[int], float]


def constant(lr: float) -> Schedule:
    """lr at every step."""
    return lambda step: lr


def step(lr: float, gamma: float, every: int) -> Schedule:
    """lr gamma^(step // every)."""
    return lambda t: lr * gamma ** (t // every)


def multistep(lr: float, gamma: float, at) -> Schedule:
    """lr gamma^k, k the number of listed steps that have been reached."""
    at = sorted(at)
    return lambda t: lr * gamma ** bisect_right(at, t)


def exponential(lr: float, gamma: float) -> Schedule:
    """lr gamma^step."""
    return lambda t: lr * gamma**t


def inv(lr: float, gamma: float, power: float) -> Schedule:
    """Caffe's policy: lr (1 + gamma step)^(-power)."""
    return lambda t: lr * (1 + gamma * t) ** -power


def poly(lr: float, power: float, total: int) -> Schedule:
    """lr (1 - step / total)^power: down to 0 at step `total`, and 0 after it."""
    return lambda t: lr * max(0.0, 1 - t / total) ** power


def cosine(lr: float, total: int, lowest: float = 0.0) -> Schedule:
    """Half a cosine from lr down to `lowest` at step `total`. (Loshchilov and Hutter 2017)"""
    return lambda t: lowest + (lr - lowest) * (1 + math.cos(math.pi * min(t, total) / total)) / 2


def warm_up(schedule: Schedule, steps: int, start: float = 0.0) -> Schedule:
    """Rise linearly from start * rate to the rate of `schedule` over the first `steps` steps."""
    return lambda t: schedule(t) * (start + (1 - start) * min(1.0, t / steps))


def chained(*parts: tuple[int, Schedule]) -> Schedule:
    """One schedule after another: (first step, schedule) pairs; each counts its steps from its own first."""
    firsts = [first for first, _ in parts]
    if not parts or firsts[0] != 0 or firsts != sorted(set(firsts)):
        raise InputError(f"chained: the first steps {firsts} must start at 0 and rise")

    def rate(t: int) -> float:
        first, schedule = parts[bisect_right(firsts, t) - 1]
        return schedule(t - first)

    return rate
