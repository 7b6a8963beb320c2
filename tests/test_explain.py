"""explain: the tape as text, read without being changed."""

from __future__ import annotations

import numpy as np
import pytest

from minidl import Tensor, backend
from minidl import layers as L
from minidl.errors import GraphError
from minidl.explain import explain


def example():
    w, b, x = Tensor([0.5, -1.0], requires_grad=True), Tensor(0.1, requires_grad=True), Tensor([3.0, 2.0])
    y = w * x + b
    return w, b, x, y, (y * y).sum()


def test_forward_and_backward_of_a_small_loss():
    w, b, x, y, loss = example()
    text = [" ".join(line.split()) for line in str(explain(loss, w=w, b=b, x=x, y=y)).splitlines()]
    assert text == [
        "forward: every call on the tape, arguments before results",
        "w a leaf (2,) float32 [0.5 -1]",
        "x data (2,) float32 [3 2]",
        "#1 = multiply(w, x) [x * y] (2,) (2,) -> (2,) [1.5 -2]",
        "b a leaf () float32 0.1",
        "y = add(#1, b) [x + y] (2,) () -> (2,) [1.6 -1.9]",
        "#3 = multiply(y, y) [x * y] (2,) (2,) -> (2,) [2.56 3.61]",
        "loss = sum(#3) [sum of x] (2,) -> () 6.17",
        "backward: from the loss to the leaves; each call hands the gradient of its result on to its arguments",
        "sum: dL/dloss = 1 arrives",
        "dL/d#3 = [1 1]",
        "multiply: dL/d#3 = [1 1] arrives",
        "dL/dy = [1.6 -1.9]",
        "dL/dy = [1.6 -1.9] so far + [1.6 -1.9] = [3.2 -3.8]",
        "add: dL/dy = [3.2 -3.8] arrives",
        "dL/d#1 = [3.2 -3.8]",
        "dL/db = -0.6",
        "multiply: dL/d#1 = [3.2 -3.8] arrives",
        "dL/dw = [9.6 -7.6]",
    ]


def test_it_changes_nothing():
    w, b, _, _, loss = example()
    first = str(explain(loss))
    assert w.grad is None and b.grad is None
    assert str(explain(loss)) == first
    loss.backward()
    np.testing.assert_allclose(w.grad, [9.6, -7.6], rtol=1e-6)


def test_leaves_without_a_name_are_numbered():
    text = str(explain(example()[-1]))
    assert "dL/dleaf1 = [9.6 -7.6]" in text and "dL/dleaf2 = -0.6" in text


@pytest.mark.parametrize("form", ["numpy", "composed"])
def test_a_kernel_op_with_several_results(form):
    rng = np.random.default_rng(0)
    lstm, head = L.LSTM(3, 2, rng=rng), L.Linear(2, 4, rng=rng)
    with backend.form(form):
        y, (h, c) = lstm(Tensor(np.ones((2, 1, 3), np.float32)))
        loss = L.cross_entropy(head(y[-1]), [1]) + c.sum()
        result = explain(loss, dict(lstm.named_parameters()))
    loss.backward()
    said = [line for line in result.backward if "dL/dweight_hh = " in line][-1]
    assert f"{lstm.weight_hh.grad.ravel()[0]:.3g} " in said
    if form == "numpy":
        assert any("#2.0, #2.1, #2.2" in line and "h_t = o tanh(c_t)" in line for line in result.forward)
    else:
        assert any("= tanh(" in line for line in result.forward)


def test_an_argument_without_a_derivative_ends_the_walk():
    x = Tensor([1.0, -2.0], requires_grad=True)
    result = explain((np.where(np.exp(x), x.detach(), 0.0) + 0).sum())
    assert not any("dL/dleaf1" in line for line in result.backward)


def test_refusals():
    *_, y, loss = example()
    with pytest.raises(GraphError, match=r"scalar loss; this Tensor has shape \(2,\)"):
        explain(y)
    with pytest.raises(GraphError, match="nothing to explain"):
        explain(Tensor(1.0))
    loss.backward()
    with pytest.raises(GraphError, match="freed this tape"):
        explain(loss)
