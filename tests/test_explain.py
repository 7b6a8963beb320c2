"""explain: the tape as text, read without being changed."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from minidl import Tensor, backend
from minidl import layers as L
from minidl.errors import GraphError
from minidl.explain import explain
from minidl.explain_html import rows_of


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


# -- the page ----------------------------------------------------------------------------------------------------------
def test_the_page_is_well_formed_and_holds_every_call_and_gradient():
    *_, loss = example()
    result = explain(loss)
    picture = ElementTree.fromstring(result.svg())
    space = {"s": "http://www.w3.org/2000/svg"}
    assert len(picture.findall("s:g", space)) == len(result.boxes)
    assert len(picture.findall("s:path", space)) == sum(len(b.parents) for b in result.boxes)
    text = " ".join(picture.itertext())
    assert all(box.label in text and box.title in text for box in result.boxes if box.parents)
    ElementTree.fromstring(result.html())
    assert result._repr_html_() == result.html()


def test_a_box_holds_the_whole_gradient_and_stands_below_its_arguments():
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    result = explain((x * x + x).sum(), x=x)
    (box,) = [b for b in result.boxes if b.label == "x"]
    assert box.gradient == "gradient [3 5]" and box.parents == ()
    rows = rows_of(result.boxes)
    row = {k: y for y, row in enumerate(rows) for k in row}
    assert all(row[p] < row[k] for k, b in enumerate(result.boxes) for p in b.parents)
    assert sorted(k for r in rows for k in r) == list(range(len(result.boxes)))


def test_names_are_escaped_and_boxes_do_not_overlap():
    x = Tensor(np.ones(2), requires_grad=True)
    picture = ElementTree.fromstring(explain((x * 2).sum() + np.exp(x).sum(), {"<w & b>": x}).svg())
    space = {"s": "http://www.w3.org/2000/svg"}
    corners = [(float(r.get("x")), float(r.get("y"))) for r in picture.findall(".//s:rect", space)]
    assert len(set(corners)) == len(corners)
    assert "<w & b>" in " ".join(picture.itertext())


def test_a_tape_too_long_for_a_picture_says_so():
    x = Tensor(1.0, requires_grad=True)
    y = x
    for _ in range(500):
        y = y * 1.01
    assert "too many for a picture" in explain(y).svg()
