"""What is compared with PyTorch: each case has its inputs, PyTorch's way to say it, and minidl's, side by side.

The values are stored (golden.npz), so that the tests need no PyTorch; write_golden.py writes them anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minidl import functional as F
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
case("log1p", positive((3, 4)), *same(lambda x: x.log1p()))
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
        lambda z, y, r=reduction: L.cross_entropy(z, y, reduction=r),
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

# -- what Tensor's methods and functional have beyond the first cases ------------------------------------------------
unit = lambda shape: [np.random.default_rng(3).uniform(-0.9, 0.9, shape)]
for name in ("exp2", "expm1", "tan", "sinh", "cosh", "asinh", "atan", "erf", "neg", "clone", "reciprocal"):
    case(name, normal((3, 4)), *same(lambda x, name=name: getattr(x, name)()))
for name in ("log2", "log10", "rsqrt"):
    case(name, positive((3, 4)), *same(lambda x, name=name: getattr(x, name)()))
for name in ("asin", "acos", "atanh"):
    case(name, unit((3, 4)), *same(lambda x, name=name: getattr(x, name)()))
case("acosh", [positive((3, 4))[0] + 1], *same(lambda x: x.acosh()))
for name in ("floor", "ceil", "trunc", "round"):
    case(name, [x / 2 for x in ties((4, 5))], *same(lambda x, name=name: getattr(x, name)() * x))
for name in ("atan2", "logaddexp", "add", "sub", "mul", "div", "maximum", "minimum"):
    case(f"{name} method", positive((3, 4), (4,)), *same(lambda x, y, name=name: getattr(x, name)(y)))
case("pow method", positive((3, 4)), *same(lambda x: x.pow(3) + x.pow(2) + x.pow(0.5)))
case("matmul method", normal((3, 4), (4, 2)), *same(lambda x, y: x.matmul(y)))
case("positive", normal((3,)), *same(lambda x: +x * x))
case("clamp at its bounds", ties((4, 5)), *same(lambda x: x.clamp(-1, 2) * x + x.clip(max=1)))
case("masked_fill", normal((3, 4)), *same(lambda x: x.masked_fill(x > 0, -1.0) * x))
case("where method", normal((3, 4), (4,)), *same(lambda x, y: x.where(x > 0.1, y)))
case("std", normal((3, 4)), *same(lambda x: x.std() + x.std(1) + x.std(1, keepdim=True, correction=0).sum()))
case("std of equals", [np.ones((2, 3))], *same(lambda x: x.std(1)))
case("norms", ties((3, 4)), *same(lambda x: x.norm() + x.norm(1, 1) + x.norm(2, 1) + x.norm(3, dim=1)))
case("norm of zeros", [np.zeros((2, 3))], *same(lambda x: x.norm(2, 1)))
case("largest norm", ties((3, 4)), *same(lambda x: x.norm(float("inf"), 1)))
case("prod with zeros", ties((4, 3), high=2), *same(lambda x: x.prod(1)))
case("prod of all", normal((2, 3)), *same(lambda x: x.prod()))
case("prod of two zeros", [np.array([[0.0, 0, 2], [0, 3, 4], [1, 2, 3]])], *same(lambda x: x.prod(1, True)))
case("max along a dim", normal((3, 4)), *same(lambda x: x.max(1)[0] * x.min(0, True)[0].sum()))
case("max of all, ties", ties((4, 3), high=1), *same(lambda x: x.max() * x.min()))
case("cumsum", normal((3, 4)), *same(lambda x: x.cumsum(1) * x.cumsum(0)))
case("softmax method", normal((3, 4)), *same(lambda x: x.softmax(0) + x.log_softmax(1)))
case("flip", normal((2, 3, 4)), *same(lambda x: x.flip(0, 2) * x))
case("roll", normal((2, 3)), *same(lambda x: x.roll(1, 1) * x + x.roll((1, -1), (0, 1))))
case("repeat", normal((2, 3)), *same(lambda x: x.repeat(2, 2, 3)))
case("split", normal((2, 5)), *same(lambda x: x.split(2, 1)))
case("split sizes", normal((5, 2)), *same(lambda x: x.split([1, 4])))
case("chunk", normal((2, 7)), *same(lambda x: x.chunk(3, 1)))
case("unbind", normal((3, 2)), *same(lambda x: x.unbind(1)))
case("select and narrow", normal((3, 4)), *same(lambda x: x.select(1, 2) * x.narrow(1, 1, 2).sum(1)))
case("gather", [*normal((3, 4)), np.array([[0, 3, 3], [1, 0, 1]])], *same(lambda x, i: x.gather(1, i)))
case("gather smaller", [*normal((3, 4)), np.array([[0, 2], [1, 0]])], *same(lambda x, i: x.gather(0, i)))
case("index_select", [*normal((3, 4)), np.array([2, 0, 2])], *same(lambda x, i: x.index_select(1, i)))
case("masked_select", normal((3, 4)), *same(lambda x: x.masked_select(x > 0)))
case(
    "scatter_add", [*normal((3, 4), (2, 3)), np.array([[0, 3, 3], [1, 0, 1]])],
    *same(lambda x, y, i: x.scatter_add(1, i, y)),
)  # fmt: skip
case("expand and view as", normal((3, 1), (3, 4)), *same(lambda x, y: x.expand_as(y) * y.view_as(y)))
case("t and contiguous", normal((3, 4)), *same(lambda x: x.t().contiguous() * 2))
case("swapaxes", normal((3, 4)), *same(lambda x: x.swapaxes(0, 1)))
case("abs and double", normal((3, 4)), *same(lambda x: x.abs().double()))
for name, shapes in {
    "ij,jk->ik": [(2, 3), (3, 4)], "bij,bjk->bik": [(2, 2, 3), (2, 3, 2)], "ij->": [(2, 3)], "i,j->ij": [(2,), (3,)],
    "...ij,...jk->...ik": [(2, 1, 2, 3), (4, 3, 2)], "ij,jk": [(2, 3), (3, 2)], "...i,i": [(2, 3), (3,)],
    "ij,k,jl->kil": [(2, 3), (2,), (3, 2)], "ij,ij->j": [(2, 3), (1, 3)],
}.items():  # fmt: skip
    case(
        f"einsum {name}", normal(*shapes),
        lambda torch, *xs, name=name: torch.einsum(name, *xs), lambda *xs, name=name: F.einsum(name, *xs),
    )  # fmt: skip


def both(name, inputs, f):
    """torch.nn.functional and minidl.functional, said alike."""
    case(name, inputs, lambda torch, *a: f(torch.nn.functional, *a), lambda *a: f(F, *a))


def torch_too(name, inputs, f):
    case(name, inputs, lambda torch, *a: f(torch, *a), lambda *a: f(F, *a))


for name in ("relu", "sigmoid", "tanh", "leaky_relu", "elu", "softplus", "silu", "gelu"):
    both(f"F.{name}", [x / 2 for x in ties((4, 5), high=4)], lambda F, x, name=name: getattr(F, name)(x))
both("F.leaky_relu slope", ties((4, 5)), lambda F, x: F.leaky_relu(x, 0.2))
both("F.elu alpha", [10 * x for x in ties((4, 5))], lambda F, x: F.elu(x, 0.5))
both("F.softplus beta", normal((4, 5)), lambda F, x: F.softplus(x, beta=2.0))
both("F.gelu tanh", normal((4, 5)), lambda F, x: F.gelu(x, approximate="tanh"))
both("F.softmax", normal((3, 4)), lambda F, x: F.softmax(x, dim=0) + F.log_softmax(x, dim=-1))
both("F.pad constant", normal((2, 3, 2)), lambda F, x: F.pad(x, (1, 0, 2, 1), value=3.0) * F.pad(x, (1, 0, 2, 1)))
torch_too("F.cat and stack", normal((2, 3), (2, 3)), lambda F, x, y: F.cat([F.stack([x, y], dim=1), x[:, None]], dim=1))
torch_too("F.where", normal((3, 4), (4,)), lambda F, x, y: F.where(x > 0, x, y))
case(
    "one_hot", [*normal((3, 4)), np.array([0, 3, 1])],
    functional(lambda F, x, y: x * F.one_hot(y, 4)), lambda x, y: x * F.one_hot(y, 4),
)  # fmt: skip

labels, some = np.array([0, 3, 1, 1, 2]), np.array([0, -100, 1, -100, 2])
class_weight = np.array([0.5, 1.0, 2.0, 3.0])
weigh = lambda F, like: class_weight if F.__name__.startswith("minidl") else like.new_tensor(class_weight)
for r in ("mean", "sum", "none"):
    for name in ("mse_loss", "l1_loss", "huber_loss", "binary_cross_entropy_with_logits"):
        both(f"F.{name} {r}", ties((4, 5), (4, 5)), lambda F, x, y, name=name, r=r: getattr(F, name)(x, y, reduction=r))
    both(
        f"F.huber_loss delta {r}", ties((4, 5), (4, 5)), lambda F, x, y, r=r: F.huber_loss(x, y, reduction=r, delta=2.5)
    )
    both(
        f"F.cross_entropy smoothing {r}",
        [*normal((5, 4)), labels],
        lambda F, z, y, r=r: F.cross_entropy(z, y, reduction=r, label_smoothing=0.1),
    )
    both(
        f"F.cross_entropy weight {r}",
        [*normal((5, 4)), labels],
        lambda F, z, y, r=r: F.cross_entropy(z, y, weigh(F, z), reduction=r),
    )
    both(
        f"F.cross_entropy everything {r}",
        [*normal((5, 4)), some],
        lambda F, z, y, r=r: F.cross_entropy(z, y, weigh(F, z), reduction=r, label_smoothing=0.2),
    )
    both(
        f"F.cross_entropy ignore a class {r}",
        [*normal((5, 4)), labels],
        lambda F, z, y, r=r: F.cross_entropy(z, y, reduction=r, ignore_index=1),
    )
    both(
        f"F.cross_entropy images {r}",
        [*normal((2, 4, 3)), np.array([[0, 3, -100], [1, 1, 2]])],
        lambda F, z, y, r=r: F.cross_entropy(z, y, weigh(F, z), reduction=r, label_smoothing=0.1),
    )
    both(f"F.nll_loss {r}", [*normal((5, 4)), some], lambda F, x, y, r=r: F.nll_loss(x, y, weigh(F, x), reduction=r))
    both(
        f"F.nll_loss images {r}",
        [*normal((2, 4, 3)), np.array([[0, 3, 1], [1, 1, 2]])],
        lambda F, x, y, r=r: F.nll_loss(x, y, reduction=r),
    )
for r in ("mean", "sum", "none", "batchmean"):
    both(
        f"F.kl_div {r}",
        [normal((3, 4))[0], np.abs(ties((3, 4))[0])],
        lambda F, x, y, r=r: F.kl_div(x, y.detach(), reduction=r),
    )  # PyTorch's derivative by a target of 0 is not a number
both("F.kl_div target", positive((3, 4), (3, 4)), lambda F, x, y: F.kl_div(x, y))
both("F.kl_div log target", normal((3, 4), (3, 4)), lambda F, x, y: F.kl_div(x, y, reduction="sum", log_target=True))
both(
    "F.binary_cross_entropy_with_logits weights",
    [*normal((3, 4)), *positive((3, 4), (4,), (3, 1))],
    lambda F, x, y, w, v: F.binary_cross_entropy_with_logits(x, y, v.detach(), pos_weight=w.detach()),
)
both(
    "F.binary_cross_entropy_with_logits large",
    [1e3 * normal((3, 4))[0], *ties((3, 4))],
    lambda F, x, y: F.binary_cross_entropy_with_logits(x, y),
)
for r in ("mean", "none"):
    case(
        f"F.cross_entropy probabilities {r}", normal((5, 4)),
        functional(lambda F, z, r=r: F.cross_entropy(z, PROBABILITIES(z), reduction=r, label_smoothing=0.1)),
        lambda z, r=r: F.cross_entropy(z, np.full((5, 4), 0.25), reduction=r, label_smoothing=0.1),
    )  # fmt: skip
PROBABILITIES = lambda z: z.detach() * 0 + 0.25

both(
    "F.adaptive_avg_pool2d",
    normal((2, 3, 5, 4)),
    lambda F, x: F.adaptive_avg_pool2d(x, (2, 3)) * F.adaptive_avg_pool2d(x, 1),
)

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
