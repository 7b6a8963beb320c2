"""What is proved of every public function: a call and its arrays, one or more times. proof.py makes tests of them.

RULES holds the lines of the derivative table, METHODS what Tensor can do under PyTorch's names, FUNCTIONS what
minidl.functional offers. test_proof.py fails for whatever is missing here.
"""

from __future__ import annotations

import numpy as np

from minidl import activations as A
from minidl import functional as F
from minidl import methods as M
from minidl import rules


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def positive(*shape, seed=0):
    return np.abs(normal(*shape, seed=seed)) + 0.3


def unit(*shape, seed=0):
    """Between -0.9 and 0.9."""
    return np.random.default_rng(seed).uniform(-0.9, 0.9, shape)


def distinct(*shape, seed=0):
    """No two elements closer than 0.1, none closer to 0 than 0.05: the largest stays so under a small step."""
    return np.random.default_rng(seed).permutation(np.arange(np.prod(shape)) * 0.1 - 0.45).reshape(shape)


MASK = normal(3, 4, seed=5) > 0
INDEX = np.array([[0, 2, 2], [1, 1, 0]])
EMPTY = ((0, 3), (1, 1))  # an empty axis, and axes of size 1


def each(function, make, call=None):
    """A function of one argument, element by element: three elements, an empty axis, axes of size 1."""
    return {function: [(call or function, make(*shape)) for shape in ((3, 2), *EMPTY)]}


def pairs(function, first=normal, second=normal):
    """A function of two arguments, element by element, with every sort of broadcasting."""
    shapes = [((2, 3), (3,)), ((2, 1), (1, 3)), ((2, 1, 3), (4, 1)), ((0, 3), (3,)), ((1, 1), (1,)), ((), (2,))]
    return {function: [(function, first(*a), second(*b, seed=1)) for a, b in shapes]}


shifted = lambda *shape, seed=0: distinct(*shape, seed=seed) + 0.03  # equal to no element of distinct()

RULES: dict = {}
for _function, _make in [
    (np.negative, normal), (np.positive, normal), (np.exp, normal), (np.exp2, normal), (np.expm1, normal),
    (np.log, positive), (np.log2, positive), (np.log10, positive), (np.log1p, positive), (np.sqrt, positive),
    (np.square, normal), (np.reciprocal, positive), (np.absolute, distinct), (np.sign, distinct),
    (np.floor, distinct), (np.ceil, distinct), (np.trunc, distinct), (np.rint, distinct),
    (np.sin, normal), (np.cos, normal), (np.tan, unit), (np.arcsin, unit), (np.arccos, unit), (np.arctan, normal),
    (np.sinh, normal), (np.cosh, normal), (np.tanh, normal), (np.arcsinh, normal), (np.arctanh, unit),
    (np.arccosh, lambda *shape: positive(*shape) + 1),
    (rules.sigmoid, normal), (rules.relu, distinct), (rules.erf, normal),
]:  # fmt: skip
    RULES |= each(_function, _make)
for _function, _first, _second in [
    (np.add, normal, normal), (np.subtract, normal, normal), (np.multiply, normal, normal),
    (np.divide, normal, positive), (np.maximum, distinct, shifted), (np.minimum, distinct, shifted),
    (np.logaddexp, normal, normal), (np.arctan2, positive, normal), (np.power, positive, normal),
]:  # fmt: skip
    RULES |= pairs(_function, _first, _second)
RULES[np.multiply].append((lambda x: x * x, normal(3)))
RULES[np.power] += [(lambda x: x**3, normal(4)), (lambda x: 2.0**x, normal(4)), (lambda x: x**-1, positive(4))]
RULES |= {
    rules.astype: [(lambda x: x.astype(x.dtype) ** 2, normal(3)), (lambda x: rules.astype(x, dtype=x.dtype), normal(0)),
                   (lambda x: rules.astype(x, dtype=x.dtype), normal(1))],
    rules.clip: [
        (lambda x: np.clip(x, -0.2, 0.22) * x, distinct(7)),
        (lambda x, low, high: np.clip(x, low, high) * x, distinct(2, 4), distinct(4) * 0 - 0.18, distinct(2, 1) + 0.62),
        (lambda x: np.clip(x, 0.0, None), normal(0, 3)), (lambda x: np.clip(x, None, 1.0), normal(1, 1)),
    ],
    np.where: [
        (lambda x, y: np.where(MASK, x * x, y * y), normal(3, 4), normal(4)),
        (lambda x, y: np.where(MASK[:1, :1], x, y), normal(0, 3), normal(3)),
        (lambda x, y: np.where(MASK[:1, :1], x, y), normal(1, 1), normal(1)),
    ],
    np.matmul: [
        (np.matmul, normal(*a), normal(*b, seed=1))
        for a, b in [
            ((3,), (3,)), ((3,), (3, 2)), ((2, 3), (3,)), ((2, 3), (3, 4)), ((3,), (5, 3, 2)), ((5, 2, 3), (3,)),
            ((5, 2, 3), (5, 3, 2)), ((2, 1, 2, 3), (4, 3, 2)), ((5, 2, 3), (3, 2)), ((2, 3), (5, 3, 2)),
            ((2, 0), (0, 3)), ((0, 2), (2, 3)), ((1, 1), (1, 1)),
        ]
    ],
    rules.einsum: [
        (lambda *xs, t=text: rules.einsum(t, *xs), *(normal(*s, seed=k) for k, s in enumerate(shapes)))
        for text, shapes in [
            ("ij,jk->ik", [(2, 3), (3, 4)]), ("bij,bjk->bik", [(2, 2, 3), (2, 3, 2)]), ("ij,ij->", [(2, 3), (2, 3)]),
            ("i,j->ij", [(2,), (3,)]), ("ij->ji", [(2, 3)]), ("ij->i", [(2, 3)]),
            ("ij,k,jl->kil", [(2, 3), (2,), (3, 2)]),
            ("...ij,...jk->...ik", [(2, 1, 2, 3), (4, 3, 2)]), ("...i,i", [(2, 3), (3,)]), ("...->...", [(2, 3)]),
            ("ij,jk", [(2, 3), (3, 2)]), ("ij,ij->j", [(2, 3), (1, 3)]), ("ab,bc->ac", [(0, 3), (3, 2)]),
            ("ab,bc->ac", [(1, 1), (1, 1)]),
        ]
    ],
    rules.getitem: [
        (lambda x, i=i: x[i] * x[i], normal(4, 3, 2))
        for i in (1, -1, slice(None, None, -2), None, (Ellipsis, 0), (slice(1, 3), [0, 0, 2]), [1, 1, 3], (0, 1, 1),
                  normal(4, seed=3) > 0, ([0, 0], [1, 1]), ([[0, 1], [1, 0]], slice(None), 1), np.int64(2),
                  slice(0, 0), (slice(0, 1), slice(0, 1)), [])
    ] + [(lambda x: x[:, 1:], normal(0, 3)), (lambda x: x[..., None, 0], normal(1, 1))],
    rules.scatter: [
        (lambda g: rules.scatter(g, index=([0, 2, 2],), shape=(4, 3)) ** 2, normal(3, 3)),
        (lambda g: rules.scatter(g, index=(slice(1, 3),), shape=(4, 3)) ** 2, normal(2, 3)),
        (lambda g: rules.scatter(g, index=slice(0, 0), shape=(4, 3)), normal(0, 3)),
        (lambda g: rules.scatter(g, index=slice(0, 1), shape=(2, 1)), normal(1, 1)),
    ],
    rules.gather: [
        (lambda x: rules.gather(x, index=INDEX, axis=1) ** 2, normal(2, 3)),
        (lambda x: rules.gather(x, index=INDEX, axis=-2) ** 2, normal(3, 3)),
        (lambda x: rules.gather(x, index=np.zeros((0, 3), int), axis=0), normal(0, 3)),
        (lambda x: rules.gather(x, index=np.zeros((1, 2), int), axis=1), normal(1, 1)),
    ],
    rules.scatter_along: [
        (lambda g: rules.scatter_along(g, index=INDEX, axis=1, shape=(2, 4)) ** 2, normal(2, 3)),
        (lambda g: rules.scatter_along(g, index=np.zeros((0, 3), int), axis=0, shape=(2, 3)), normal(0, 3)),
        (lambda g: rules.scatter_along(g, index=np.zeros((1, 1), int), axis=0, shape=(2, 1)), normal(1, 1)),
    ],
    np.reshape: [(lambda x: np.reshape(x, (3, -1)) ** 2, normal(2, 6)), (lambda x: x.flatten(1) ** 2, normal(2, 3, 2)),
                 (lambda x: np.reshape(x, (3, 0)), normal(0, 3)), (lambda x: np.reshape(x, ()), normal(1, 1))],
    np.swapaxes: [(lambda x: np.swapaxes(x, 0, -1) ** 2, normal(*s)) for s in ((2, 3, 4), *EMPTY)],
    np.transpose: [(lambda x: x.T ** 2, normal(*s)) for s in ((2, 3), *EMPTY)]
                  + [(lambda x: x.permute(2, 0, -2) ** 2, normal(2, 3, 4))],
    np.expand_dims: [(lambda x: np.expand_dims(x, (0, -1)) ** 2, normal(*s)) for s in ((2, 3), *EMPTY)],
    np.squeeze: [(lambda x: np.squeeze(x) ** 2, normal(1, 3, 1)), (lambda x: np.squeeze(x, 0) ** 2, normal(1, 3, 1)),
                 (lambda x: np.squeeze(x) ** 2, normal(0, 1)), (lambda x: np.squeeze(x) ** 2, normal(1, 1))],
    np.broadcast_to: [(lambda x: np.broadcast_to(x, (4, 2, 3)) ** 2, normal(2, 1)),
                      (lambda x: np.broadcast_to(x, (2, 0, 3)), normal(0, 3)),
                      (lambda x: np.broadcast_to(x, (0, 3)), normal(1, 1))],
    np.pad: [(lambda x: np.pad(x, ((1, 0), (2, 3))) ** 2, normal(2, 3)), (lambda x: np.pad(x, 1) ** 2, normal(2, 3)),
             (lambda x: np.pad(x, 1), normal(0, 3)), (lambda x: np.pad(x, 0), normal(1, 1))],
    np.flip: [(lambda x: np.flip(x) ** 2, normal(2, 3)), (lambda x: np.flip(x, (0, -1)) ** 3, normal(2, 3, 2)),
              (lambda x: np.flip(x, 0), normal(0, 3)), (lambda x: np.flip(x), normal(1, 1))],
    np.roll: [(lambda x: np.roll(x, 2) ** 2, normal(2, 3)), (lambda x: np.roll(x, (1, -1), (0, 1)) ** 2, normal(2, 3)),
              (lambda x: np.roll(x, 1, 1) ** 2, normal(0, 3)), (lambda x: np.roll(x, 1), normal(1, 1))],
    rules.concatenate: [
        (lambda x, y: np.concatenate([x, y, x]) ** 2, normal(2, 3), normal(1, 3)),
        (lambda x, y: np.concatenate([x, y], axis=-1) ** 2, normal(2, 3), normal(2, 1)),
        (lambda x, y: np.concatenate([x, y]), normal(0, 3), normal(1, 3)),
    ],
    rules.stack: [
        (lambda x, y: np.stack([x, y, x]) ** 2, normal(2, 3), normal(2, 3)),
        (lambda x, y: np.stack([x, y], axis=-1) ** 2, normal(2, 3), normal(2, 3)),
        (lambda x, y: np.stack([x, y]), normal(0, 3), normal(0, 3)),
        (lambda x: np.stack([x]), normal(1, 1)),
    ],
    np.sum: [
        (lambda x, o=o: np.sum(x, **o) ** 2, normal(2, 3, 4))
        for o in ({}, {"axis": 1}, {"axis": (0, -1)}, {"axis": -2, "keepdims": True}, {"keepdims": True})
    ] + [(lambda x: np.sum(x, 0), normal(*s)) for s in EMPTY],
    np.mean: [(lambda x: np.mean(x) ** 2, normal(2, 3)), (lambda x: np.mean(x, (0, 2)) ** 2, normal(2, 3, 4)),
              (lambda x: np.mean(x, 1), normal(0, 3)), (lambda x: np.mean(x, 1), normal(1, 1))],
    np.max: [(lambda x: np.max(x) ** 2, distinct(2, 3)), (lambda x: np.max(x, 1, keepdims=True) ** 2, distinct(2, 3)),
             (lambda x: np.max(x, 1), normal(0, 3)), (lambda x: np.max(x, 1), normal(1, 1))],
    np.min: [(lambda x: np.min(x) ** 2, distinct(2, 3)), (lambda x: np.min(x, (0, 2)) ** 2, distinct(2, 3, 2)),
             (lambda x: np.min(x, 1), normal(0, 3)), (lambda x: np.min(x, 1), normal(1, 1))],
    rules.logsumexp: [
        (rules.logsumexp, normal(2, 3)),
        (lambda x: rules.logsumexp(x, axis=0, keepdims=True), normal(2, 3)),
        (lambda x: rules.logsumexp(x, axis=(0, 1)), normal(2, 3)),
        (rules.logsumexp, normal(0, 3)), (rules.logsumexp, normal(1, 1)),
    ],
    np.cumsum: [(lambda x: np.cumsum(x) ** 2, normal(2, 3)), (lambda x: np.cumsum(x, 1) ** 2, normal(2, 3, 2)),
                (lambda x: np.cumsum(x, axis=0), normal(0, 3)), (lambda x: np.cumsum(x, -1) ** 2, normal(1, 1))],
    rules.product: [
        (lambda x, o=o: rules.product(x, **o), x)
        for x, o in [(normal(3, 2), {}), (normal(2, 3), {"axis": -1, "keepdims": True}), (normal(0, 3), {}),
                     (normal(1, 1), {}), (normal(3, 2) * np.array([[1], [0], [1]]), {"axis": 0}),
                     (normal(0, 3), {"axis": 1})]
    ],
    rules.norm: [
        (lambda x, o=o: rules.norm(x, **o), x)
        for x, o in [(normal(2, 3), {}), (normal(2, 3), {"axis": 0}),
                     (normal(2, 3, 2), {"axis": (0, 2), "keepdims": True}),
                     (normal(0, 3), {"axis": 1}), (normal(1, 1), {})]
    ],
}  # fmt: skip


def _gather_like(name):
    return lambda x: getattr(x, name)(1, INDEX) ** 2


# What Tensor's methods do beyond one line of the table; a method that only names a NumPy function is compared with it.
METHODS: dict = {
    "rsqrt": [(lambda x: x.rsqrt(), positive(3))],
    "clamp": [(lambda x: x.clamp(-0.2, 0.22) * x, distinct(7)), (lambda x: x.clamp(max=0.22), distinct(7))],
    "masked_fill": [(lambda x: x.masked_fill(MASK, 2.0) ** 2, normal(3, 4))],
    "where": [(lambda x, y: x.where(MASK, y) ** 2, normal(3, 4), normal(4))],
    "var": [
        (lambda x, o=o: x.var(**o), normal(2, 3, 2))
        for o in ({}, {"dim": 1}, {"axis": (0, 2), "keepdims": True}, {"dim": 0, "correction": 0})
    ],
    "std": [(lambda x: x.std(), normal(2, 3)), (lambda x: x.std(1, True, correction=0), normal(2, 3))],
    "norm": [
        (lambda x, a=a: x.norm(*a), distinct(2, 3))
        for a in ((), (2, 1), (1, 0, True), (3, (0, 1)), (float("inf"), 1), ("fro",))
    ],
    "prod": [(lambda x, a=a: x.prod(*a), normal(2, 3, 2)) for a in ((), (1,), ((0, -1), True))],
    "max": [(lambda x: x.max() ** 2, distinct(2, 3)), (lambda x: x.max(1).values ** 2, distinct(2, 3)),
            (lambda x: x.max(0, True)[0] ** 2, distinct(2, 3))],
    "min": [(lambda x: x.min() ** 2, distinct(2, 3)), (lambda x: x.min(-1, keepdim=True).values, distinct(2, 3))],
    "softmax": [(lambda x: x.softmax(0), normal(2, 3)), (lambda x: x.softmax(), normal(1, 1))],
    "log_softmax": [(lambda x: x.log_softmax(), normal(2, 3)), (lambda x: x.log_softmax(0), normal(1, 3))],
    "flatten": [(lambda x: x.flatten(1, 2) ** 2, normal(2, 3, 2, 2)), (lambda x: x.flatten() ** 2, normal(2, 3)),
                (lambda x: x.flatten(1), normal(0, 3, 2)), (lambda x: x.flatten(), normal())],
    "repeat": [(lambda x: x.repeat(2, 3) ** 2, normal(2, 1)), (lambda x: x.repeat((2, 1, 2)) ** 2, normal(2, 3))],
    "split": [(lambda x: x.split(2, 1), normal(2, 5)), (lambda x: x.split([1, 0, 2]), normal(3, 2))],
    "chunk": [(lambda x: x.chunk(2, -1), normal(2, 5))],
    "unbind": [(lambda x: x.unbind(1), normal(2, 3))],
    "select": [(lambda x: x.select(-1, 1) ** 2, normal(2, 3))],
    "narrow": [(lambda x: x.narrow(1, 1, 2) ** 2, normal(2, 3))],
    "pad": [(lambda x: x.pad((1, 2), 3.0) ** 2, normal(2, 3)), (lambda x: x.pad((0, 1, 2, 0)) ** 2, normal(2, 3))],
    "gather": [(_gather_like("gather"), normal(2, 3)), (lambda x: x.gather(0, INDEX[:, :2]) ** 2, normal(3, 4))],
    "index_select": [(lambda x: x.index_select(1, [2, 0, 2]) ** 2, normal(2, 3))],
    "masked_select": [(lambda x: x.masked_select(MASK) ** 2, normal(3, 4))],
    "scatter_add": [(lambda x, y: x.scatter_add(1, INDEX, y) ** 2, normal(2, 4), normal(2, 3))],
    "expand": [(lambda x: x.expand(2, -1, 3) ** 2, normal(2, 1))],
    "clone": [(lambda x: x.clone() ** 2, normal(3))],
    "t": [(lambda x: x.t() ** 2, normal(2, 3))],
}  # fmt: skip

FUNCTIONS: dict = {}
for _function in (A.relu, A.sigmoid, A.tanh, A.leaky_relu, A.elu, A.softplus, A.silu, A.gelu):
    FUNCTIONS |= each(_function, distinct)
FUNCTIONS[A.leaky_relu].append((lambda x: A.leaky_relu(x, 0.2), distinct(5)))
FUNCTIONS[A.elu].append((lambda x: A.elu(x, 0.5) ** 2, 5 * distinct(5)))
FUNCTIONS[A.softplus].append((lambda x: A.softplus(x, 3.0), 9 * distinct(5)))
FUNCTIONS[A.gelu].append((lambda x: A.gelu(x, "tanh"), normal(5)))
FUNCTIONS |= {
    A.softmax: [(A.softmax, normal(2, 3)), (lambda x: A.softmax(x, 0), normal(0, 3)[:, :0].reshape(1, 0))],
    A.log_softmax: [(A.log_softmax, normal(2, 3)), (A.log_softmax, normal(1, 1)), (A.log_softmax, normal(0, 2))],
    M.cat: [(lambda x, y: M.cat([x, y, x], 1) ** 2, normal(2, 3), normal(2, 1))],
    M.stack: [(lambda x, y: M.stack([x, y], -1) ** 2, normal(2, 3), normal(2, 3))],
    M.where: [(lambda x, y: M.where(MASK, x, y) ** 2, normal(3, 4), normal(4))],
    M.pad: [(lambda x: M.pad(x, (1, 0)) ** 2, normal(2, 3))],
}

LABELS = np.array([0, 3, 1, 1, 2])
WEIGHT = np.array([0.5, 1.0, 2.0, 3.0])
TARGET = distinct(3, 4, seed=1) + 0.53
PROBABILITY = np.exp(normal(3, 4)) / np.exp(normal(3, 4)).sum(1, keepdims=True)


def losses(function, target=TARGET, **options):
    """With every reduction, on an empty batch and on one element; and by the target as well."""
    reductions = [
        (lambda x, r=r: function(x, target, reduction=r, **options), normal(3, 4)) for r in ("mean", "sum", "none")
    ]
    small = [(lambda x, n=n: function(x, target[:n, :1], reduction="sum", **options), normal(n, 1)) for n in (0, 1)]
    return {function: [*reductions, *small, (lambda x, y: function(x, y, **options), normal(3, 4), target)]}


FUNCTIONS |= losses(F.mse_loss) | losses(F.l1_loss) | losses(F.huber_loss, delta=0.5)
FUNCTIONS |= losses(F.binary_cross_entropy_with_logits) | losses(F.kl_div, PROBABILITY)
FUNCTIONS[F.kl_div].append(
    (lambda x, y: F.kl_div(x, y, "batchmean", log_target=True), normal(3, 4), normal(3, 4, seed=1))
)
FUNCTIONS[F.binary_cross_entropy_with_logits].append(
    (lambda x: F.binary_cross_entropy_with_logits(x, TARGET, TARGET, pos_weight=WEIGHT), normal(3, 4))
)
SOME = np.array([0, -100, 1, -100, 2])
FUNCTIONS |= {
    F.cross_entropy: [
        (lambda z, y=y, o=o: F.cross_entropy(z, y, **o), normal(5, 4))
        for y, o in [
            (LABELS, {}), (LABELS, {"reduction": "none"}), (LABELS, {"weight": WEIGHT}),
            (SOME, {"label_smoothing": 0.1}),
            (SOME, {"weight": WEIGHT, "label_smoothing": 0.3, "reduction": "sum"}), (LABELS, {"ignore_index": 1}),
        ]
    ] + [
        (lambda z: F.cross_entropy(z, LABELS[:0], reduction="sum"), normal(0, 4)),
        (lambda z: F.cross_entropy(z, LABELS[:1]), normal(1, 1)),
        (lambda z: F.cross_entropy(z, np.array([[0, 1, 2]]), WEIGHT), normal(1, 4, 3)),
        (lambda z: F.cross_entropy(z, PROBABILITY, WEIGHT, label_smoothing=0.1), normal(3, 4)),
    ],
    F.nll_loss: [
        (lambda x, o=o: F.nll_loss(x, SOME, **o), normal(5, 4))
        for o in ({}, {"weight": WEIGHT}, {"reduction": "none"}, {"reduction": "sum"})
    ] + [(lambda x: F.nll_loss(x, np.array([[0, 1, 2]])), normal(1, 4, 3)),
         (lambda x: F.nll_loss(x, LABELS[:0], reduction="sum"), normal(0, 4))],
    F.one_hot: [(lambda x: x * F.one_hot(LABELS, 4).astype(bool), normal(5, 4))],
}  # fmt: skip

FUNCTIONS |= {
    F.conv1d: [
        (lambda x, w, b: F.conv1d(x, w, b, stride=2, padding=1), normal(2, 3, 5), normal(2, 3, 3), normal(2)),
        (lambda x, w: F.conv1d(x, w), normal(0, 1, 3), normal(1, 1, 2)),
    ],
    F.adaptive_avg_pool2d: [
        (lambda x: F.adaptive_avg_pool2d(x, (2, 3)), normal(2, 1, 5, 4)),
        (lambda x: F.adaptive_avg_pool2d(x, 1), normal(0, 1, 3, 2)),
    ],
}
