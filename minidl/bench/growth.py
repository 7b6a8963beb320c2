"""How time and memory grow with the depth of the graph and with the time steps of an LSTM: both must be linear.

For sizes that double, y = a n^b; b is the slope of log y over log n by least squares: 1 is linear, 2 is quadratic.
"""

from __future__ import annotations

import time
import tracemalloc

import numpy as np

DEPTHS = (2000, 4000, 8000, 16000, 32000)
TIME_STEPS = (40, 80, 160, 320, 640)


def exponent(sizes, values) -> float:
    """b of values = a sizes^b."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def _chain(depth: int):
    from minidl import Tensor

    x = Tensor(np.ones(4, np.float32), requires_grad=True)

    def run():
        y = x
        for _ in range(depth):
            y = y * 1.0
        y.sum().backward()

    return run


def _sequence(steps: int):
    from minidl import Tensor
    from minidl.layers import LSTM

    layer = LSTM(50, 50, rng=np.random.default_rng(0))
    x = Tensor(np.ones((steps, 10, 50), np.float32))

    def run():
        y, _ = layer(x)
        y.sum().backward()

    return run


def _cost(run) -> tuple[float, float]:
    """(seconds of the fastest of three runs, MiB that one run holds at most)."""
    seconds = []
    for _ in range(3):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    tracemalloc.start()
    try:
        run()
        return min(seconds), tracemalloc.get_traced_memory()[1] / (1 << 20)
    finally:
        tracemalloc.stop()


def measure() -> list[dict]:
    """Exponents of time and memory for each kind of growth, with the milliseconds at the largest size."""
    rows = []
    for name, build, sizes in (("growth-depth", _chain, DEPTHS), ("growth-lstm", _sequence, TIME_STEPS)):
        build(sizes[0])()  # loads and compiles
        seconds, memory = zip(*(_cost(build(n)) for n in sizes), strict=True)
        found = {"time": exponent(sizes, seconds), "memory": exponent(sizes, memory)}
        rows.append({"name": name, "size": sizes[-1], "ms": 1e3 * seconds[-1], **found})
    return rows
