"""What is compared with PyTorch: each case has its inputs, PyTorch's way to say it, and minidl's, side by side.

The values are stored (golden.npz), so that the tests need no PyTorch; write_golden.py writes them anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minidl import layers as L
from minidl import rules


class Case(NamedTuple):
    inputs: tuple[np.ndarray, ...]
    torch: Callable  # (torch, *tensors) -> tensor or tuple of tensors
    minidl: Callable  # (*Tensors and integer arrays) -> Tensor or tuple


CASES: dict[str, Case] = {}
FLOAT32 = ("matmul 2-D 2-D", "softmax", "var", "linear", "conv2d stride padding", "max_pool2d", "batch_norm train 4-D",
           "cross_entropy", "embedding", "lstm")  # fmt: skip  # these also in float32


def case(name: str, inputs, torch, minidl) -> None:
    CASES[name] = Case(tuple(inputs), torch, minidl)


def normal(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in shapes]


def positive(*shapes):
    return [np.abs(x) + 0.3 for x in normal(*shapes)]


def ties(*shapes, high=3, seed=0):
    """Small whole numbers, many of them equal, and zeros among them."""
    rng = np.random.default_rng(seed)
    return [rng.integers(-high, high + 1, shape).astype(float) for shape in shapes]


# -- arithmetic and broadcasting -------------------------------------------------------------------------------------
same = lambda f: (lambda torch, *a: f(*a), f)  # both say it with the same operators or methods
case("add", normal((3, 4), (4,)), *same(lambda x, y: x + y))
case("subtract", normal((2, 1, 3), (4, 1)), *same(lambda x, y: x - y))
case("multiply", normal((2, 1, 3), (4, 1)), *same(lambda x, y: x * y))
case("divide", [*normal((3, 1)), *positive((2, 3, 4))], *same(lambda x, y: x / y))
case("scalar on the left", positive((3,)), *same(lambda x: 5 - 2.0 * x + 1.0 / x))
case("negative", normal((3,)), *same(lambda x: -x))
case("power", positive((3, 4), (4,)), *same(lambda x, y: x**y))
case("power of a number", positive((5,)), *same(lambda x: x**3 + x**2 + x**-0.5))
case("number to a power", normal((5,)), *same(lambda x: 2.0**x))
case("power at 0", [np.array([0.0, 0.0, 2.0])], *same(lambda x: x**2.0 + x**3 + x**1))
case("power at 0, both", [np.array([0.0, 0.0, 2.0]), np.array([1.0, 2.0, 0.0])], *same(lambda x, y: x**y))

# -- elementwise -----------------------------------------------------------------------------------------------------
for name in ("exp", "sin", "cos", "tanh", "sigmoid", "square"):
    case(name, normal((3, 4)), *same(lambda x, name=name: getattr(x, name)()))
for name in ("log", "sqrt"):
    case(name, positive((3, 4)), *same(lambda x, name=name: getattr(x, name)()))
case("log1p", positive((3, 4)), lambda torch, x: x.log1p(), np.log1p)
case("abs at 0", ties((4, 5)), *same(abs))
case("sign", ties((4, 5)), lambda torch, x: x.sign() * x, lambda x: np.sign(x) * x)
case("relu at 0", ties((4, 5)), *same(lambda x: x.relu()))
case("maximum of equals", ties((6, 5), (5,)), lambda torch, x, y: torch.maximum(x, y), np.maximum)
case("minimum of equals", ties((6, 5), (5,)), lambda torch, x, y: torch.minimum(x, y), np.minimum)
case(
    "where", normal((3, 4), (4,)), lambda torch, x, y: torch.where(x > 0.1, x, y),
    lambda x, y: np.where(x > 0.1, x, y),
)  # fmt: skip

# -- products --------------------------------------------------------------------------------------------------------
for name, shapes in {
    "1-D 1-D": [(4,), (4,)], "1-D 2-D": [(4,), (4, 3)], "2-D 1-D": [(3, 4), (4,)], "2-D 2-D": [(3, 4), (4, 2)],
    "batched": [(5, 3, 4), (5, 4, 2)], "broadcast": [(2, 1, 3, 4), (5, 4, 2)], "3-D 2-D": [(5, 3, 4), (4, 2)],
    "1-D 3-D": [(4,), (5, 4, 2)], "3-D 1-D": [(5, 3, 4), (4,)], "2-D 3-D": [(3, 4), (5, 4, 2)],
}.items():  # fmt: skip
    case(f"matmul {name}", normal(*shapes), *same(lambda x, y: x @ y))

# -- reductions ------------------------------------------------------------------------------------------------------
case("sum", normal((3, 4, 2)), *same(lambda x: x.sum()))
case("sum over dims", normal((3, 4, 2)), *same(lambda x: x.sum((0, -1))))
case("sum keepdim", normal((3, 4, 2)), *same(lambda x: x * x.sum(1, True)))
case("mean", normal((3, 4, 2)), *same(lambda x: x.mean()))
case("mean over dims", normal((3, 4, 2)), *same(lambda x: x.mean((0, 2), True)))
case("var", normal((3, 4)), *same(lambda x: x.var(1)))
case("var of all", normal((3, 4)), *same(lambda x: x.var()))
case("var without correction", normal((3, 4)), *same(lambda x: x.var(0, correction=0)))
case("amax of equals", ties((6, 5), high=1), *same(lambda x: x.amax(1)))
case("amin of equals", ties((6, 5), high=1), *same(lambda x: x.amin((0, 1), True)))
case("largest of all, equals", ties((6, 5), high=1), lambda torch, x: x.max(), np.max)
case("smallest of all, equals", ties((6, 5), high=1), lambda torch, x: x.min(), np.min)
case("logsumexp", normal((3, 4)), *same(lambda x: x.logsumexp(1)))
case("logsumexp of large numbers", [1e3 * normal((3, 4))[0]], *same(lambda x: x.logsumexp(0, True)))
case("softmax", normal((3, 4)), lambda torch, x: x.softmax(-1), L.softmax)
case("log_softmax", normal((3, 4)), lambda torch, x: x.log_softmax(0), lambda x: L.log_softmax(x, 0))

# -- shapes and indexing ---------------------------------------------------------------------------------------------
case("reshape", normal((3, 4)), *same(lambda x: x.reshape(2, -1).view((6, 2))))
case("flatten", normal((2, 3, 4, 5)), *same(lambda x: x.flatten(1, 2)))
case("transpose", normal((2, 3, 4)), *same(lambda x: x.transpose(0, -1)))
case("permute", normal((2, 3, 4)), *same(lambda x: x.permute(2, 0, 1)))
case("permute negative", normal((2, 3, 4)), *same(lambda x: x.permute(-1, 0, -2)))
case("squeeze", normal((1, 3, 1)), *same(lambda x: x.squeeze(0).unsqueeze(-1).squeeze()))
case("expand", normal((3, 1)), *same(lambda x: x.expand(2, 3, 4)))
case(
    "cat", normal((2, 3), (2, 1)), lambda torch, x, y: torch.cat([x, y, x], 1),
    lambda x, y: np.concatenate([x, y, x], 1),
)  # fmt: skip
case(
    "stack", normal((2, 3), (2, 3)), lambda torch, x, y: torch.stack([x, y, x], -1),
    lambda x, y: np.stack([x, y, x], -1),
)  # fmt: skip
case(
    "pad", normal((2, 3)), lambda torch, x: torch.nn.functional.pad(x, (2, 0, 1, 1)),
    lambda x: np.pad(x, ((1, 1), (2, 0))),
)  # fmt: skip
case("getitem slice", normal((4, 5)), *same(lambda x: x[1:, ::2]))
case("getitem integer and None", normal((4, 5, 2)), *same(lambda x: x[-1, None, ..., 1]))
case("getitem list repeated", normal((4, 3)), *same(lambda x: x[[0, 2, 2, -2, 0]]))
case("getitem pairs repeated", normal((4, 3)), *same(lambda x: x[[0, 2, 2, 0], [1, 1, 1, 1]]))
case("getitem mask", normal((4, 3)), *same(lambda x: x[x > 0]))
case("getitem slice and list", normal((4, 3, 5)), *same(lambda x: x[1:3, :, [4, 4, 0]]))

# -- layers ----------------------------------------------------------------------------------------------------------
functional = lambda f: lambda torch, *a, **k: f(torch.nn.functional, *a, **k)
case("linear", normal((5, 4), (3, 4), (3,)), functional(lambda F, x, w, b: F.linear(x, w, b)), L.linear)
case("linear sequence", normal((2, 5, 4), (3, 4), (3,)), functional(lambda F, *a: F.linear(*a)), L.linear)
case("linear without bias", normal((5, 4), (3, 4)), functional(lambda F, x, w: F.linear(x, w)), L.linear)

for name, shapes, options in [
    ("", [(2, 3, 5, 6), (4, 3, 3, 3), (4,)], {}),
    ("without bias", [(2, 3, 5, 6), (4, 3, 2, 3)], {}),
    ("stride padding", [(2, 3, 6, 7), (4, 3, 3, 3), (4,)], dict(stride=2, padding=1)),
    ("stride that leaves a rest", [(2, 2, 8, 7), (3, 2, 3, 3), (3,)], dict(stride=3)),
    ("dilation", [(2, 2, 7, 8), (3, 2, 3, 2), (3,)], dict(dilation=2, padding=2)),
    ("groups", [(2, 4, 5, 5), (6, 2, 3, 3), (6,)], dict(groups=2, padding=1)),
    ("depthwise", [(2, 4, 5, 5), (4, 1, 3, 3), (4,)], dict(groups=4, stride=2, padding=1)),
    ("1x1", [(2, 3, 4, 4), (5, 3, 1, 1), (5,)], dict(stride=2)),
]:
    case(
        f"conv2d {name}".strip(), normal(*shapes),
        functional(lambda F, *a, options=options: F.conv2d(*a, **options)),
        lambda *a, options=options: L.conv2d(*a, **options),
    )  # fmt: skip

for name, inputs, options in [
    ("", normal((2, 3, 6, 4)), dict(kernel_size=2, stride=2)),
    ("overlap", normal((2, 3, 7, 8)), dict(kernel_size=3, stride=2)),
    ("padding", [-np.abs(x) for x in normal((2, 3, 7, 6))], dict(kernel_size=3, stride=2, padding=1)),
    ("equals", ties((2, 3, 6, 6), high=1), dict(kernel_size=3, stride=1, padding=1)),
    ("rest", normal((1, 2, 5, 7)), dict(kernel_size=2, stride=2)),
]:
    case(
        f"max_pool2d {name}".strip(), inputs,
        functional(lambda F, x, options=options: F.max_pool2d(x, **options)),
        lambda x, options=options: L.MaxPool2d(**options)(x),
    )  # fmt: skip


def torch_batch_norm(training):
    def run(torch, x, weight, bias, mean, var):
        mean, var = mean.detach().clone(), var.detach().clone()
        y = torch.nn.functional.batch_norm(x, mean, var, weight, bias, training, momentum=0.3, eps=1e-3)
        return y, mean, var

    return run


def minidl_batch_norm(training):
    def run(x, weight, bias, mean, var):
        layer = (L.BatchNorm1d if x.ndim == 2 else L.BatchNorm2d)(x.shape[1], momentum=0.3, eps=1e-3).train(training)
        layer.weight, layer.bias, layer.running_mean, layer.running_var = weight, bias, mean.data, var.data
        y = layer(x)
        return y, layer.running_mean, layer.running_var

    return run


for name, shape in {"4-D": (3, 2, 4, 5), "2-D": (6, 3)}.items():
    for mode in ("train", "eval"):
        inputs = [*normal(shape, (shape[1],), (shape[1],), (shape[1],)), *positive((shape[1],))]
        inputs[0] = 3 * inputs[0] + 2
        case(f"batch_norm {mode} {name}", inputs, torch_batch_norm(mode == "train"), minidl_batch_norm(mode == "train"))

for reduction in ("mean", "sum", "none"):
    case(
        "cross_entropy" + f" {reduction}" * (reduction != "mean"), [*normal((5, 4)), np.array([0, 3, 1, 1, 2])],
        functional(lambda F, z, y, r=reduction: F.cross_entropy(z, y, reduction=r)),
        lambda z, y, r=reduction: L.cross_entropy(z, y, r),
    )  # fmt: skip
case(
    "cross_entropy of large logits", [1e3 * normal((5, 4))[0], np.array([0, 3, 1, 1, 2])],
    functional(lambda F, z, y: F.cross_entropy(z, y)), L.cross_entropy,
)  # fmt: skip
case(
    "embedding", [*normal((6, 3)), np.array([[0, 5, 5], [2, 0, 5]])],
    functional(lambda F, w, ids: F.embedding(ids, w)), L.embedding,
)  # fmt: skip


def torch_lstm(torch, x, h, c, *weights):
    module = torch.nn.LSTM(x.shape[2], h.shape[1]).to(x.dtype)
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    y, (h, c) = torch.func.functional_call(module, dict(zip(names, weights, strict=True)), (x, (h[None], c[None])))
    return y, h[0], c[0]


def minidl_lstm(x, h, c, *weights):
    layer = L.LSTM(x.shape[2], h.shape[1], rng=np.random.default_rng(0))
    layer.weight_ih, layer.weight_hh, layer.bias_ih, layer.bias_hh = weights
    y, (h, c) = layer(x, (h, c))
    return y, h, c


case("lstm", normal((5, 3, 4), (3, 2), (3, 2), (8, 4), (8, 2), (8,), (8,)), torch_lstm, minidl_lstm)
case("lstm one step", normal((1, 1, 4), (1, 3), (1, 3), (12, 4), (12, 3), (12,), (12,)), torch_lstm, minidl_lstm)
case(
    "relu of a sum", normal((3, 4), (4,)), lambda torch, x, y: torch.relu(x + y) * torch.sigmoid(x),
    lambda x, y: rules.relu(x + y) * rules.sigmoid(x),
)  # fmt: skip

# -- optimizers: five steps on the same gradients, the rate changed before the fourth --------------------------------
SGD: dict[str, dict] = {
    "plain": {},
    "momentum": dict(momentum=0.9),
    "dampening": dict(momentum=0.9, dampening=0.3),
    "nesterov": dict(momentum=0.8, nesterov=True),
    "weight decay": dict(weight_decay=0.1),
    "all": dict(momentum=0.7, dampening=0.2, weight_decay=0.05),
    "nesterov and decay": dict(momentum=0.7, nesterov=True, weight_decay=0.05),
}
RATES = (0.1, 0.1, 0.1, 0.02, 0.02)
CLIP = (0.5, 100.0)  # limits below and above the norm


def sgd_inputs():
    """(first weights, gradients of every step): two parameters, (3, 2) and (4,)."""
    shapes = ((3, 2), (4,))
    return normal(*shapes, seed=1), [normal(*shapes, seed=10 + k) for k in range(len(RATES))]
