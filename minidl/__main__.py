"""`python -m minidl`: in a second, with NumPy alone, the two ideas that everything here rests on.

First the tape: what a loss remembers, and how a gradient walks back through it. Then a ternary gradient: the talk's
own vector, step by step. With arguments, `python -m minidl reproduce ...` is the command `minidl`.
"""

from __future__ import annotations

import sys

import numpy as np


def tape() -> str:
    """A neuron with a squared error: its tape, the walk back, and a check of one derivative."""
    from minidl import Tensor
    from minidl.explain import explain

    def loss_of(w, b):
        x = Tensor([3.0, 2.0])
        y = np.tanh((w * x).sum() + b)
        return (y - 1.0) ** 2, {"x": x, "y": y}

    w, b = Tensor([0.5, -1.0], requires_grad=True), Tensor(0.25, requires_grad=True)
    loss, named = loss_of(w, b)
    walk = explain(loss, w=w, b=b, **named)
    loss.backward()

    h = np.float64(1e-6)
    at = np.asarray(w.data, np.float64)
    up, down = (loss_of(Tensor(at + [step, 0]), Tensor(b.data.astype(np.float64)))[0].item() for step in (h, -h))
    return (
        f"The tape of loss = (tanh(w.x + b) - 1)^2\n\n{walk}\n\n"
        f"dL/dw[0] = {w.grad[0]:.6f}; moving w[0] by 1e-6 both ways gives {(up - down) / (2 * h):.6f}"
    )


def ternary() -> str:
    """The talk's vector [0.30, -1.20, ..., 0.9] made ternary, and the mean of many draws."""
    from minidl.ternary.ternarise import Ternariser

    g = [0.30, -1.20, 0.90]  # the three numbers that the talk writes out
    ternariser = Ternariser(scale="tensor")
    lines = ["A ternary gradient: g~ = s sign(g) b, b = 1 with probability P = |g| / s", ""]
    lines += [f"  {name:5}= {_row(values)}" for name, values in (("g", np.array(g)), *ternariser.steps(g))]
    draws = 4000
    mean = sum(dict(ternariser.steps(g, step=step))["g~"] for step in range(draws)) / draws
    return "\n".join([*lines, f"  mean = {_row(mean)}   of g~ over {draws} draws: what a worker sends is g on average"])


def _row(values) -> str:
    """[0.30, -1.20, ..., 0.90]: as the talk writes its vector."""
    if np.ndim(values) == 0:
        return f"{values:.2f}"
    *first, last = (f"{value:5.2f}" for value in values)
    return f"[{', '.join([*first, '...', last])}]"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        from minidl.cli import main

        sys.exit(main())
    print(f"{tape()}\n\n{ternary()}\n\nNext: minidl reproduce --quick, or open minidl/rules.py and minidl/tensor.py.")
