"""Tensor's methods: PyTorch's names, every property of proof.py, both spellings, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from proof import proved
from specs import FUNCTIONS, METHODS

from minidl import Tensor, activations, methods
from minidl.errors import InputError, MinidlError, ShapeError, UnsupportedOp


@proved(METHODS)
def test_method(prove):
    prove()


@proved(FUNCTIONS)
def test_function(prove):
    prove()


a = np.random.default_rng(0).uniform(0.1, 0.9, (2, 3, 4))
t = Tensor(a)

# a method that only names a NumPy function
NAMES = {
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log, "log2": np.log2, "log10": np.log10,
    "log1p": np.log1p, "sqrt": np.sqrt, "square": np.square, "reciprocal": np.reciprocal, "abs": np.abs,
    "neg": np.negative, "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos,
    "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "asinh": np.arcsinh, "atanh": np.arctanh,
    "sign": np.sign, "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "round": np.rint,
}  # fmt: skip
PAIRS = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "pow": np.power, "maximum": np.maximum,
    "minimum": np.minimum, "atan2": np.arctan2, "logaddexp": np.logaddexp, "eq": np.equal, "ne": np.not_equal,
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_method_names_a_numpy_function(name):
    np.testing.assert_array_equal(getattr(t, name)().data, NAMES[name](a))


def test_acosh():
    np.testing.assert_array_equal((t + 1).acosh().data, np.arccosh(a + 1))


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("other", [0.5, a[0, 0], Tensor(a[0])], ids=["number", "array", "Tensor"])
def test_a_method_of_two_names_a_numpy_function(name, other):
    result = getattr(t, name)(other)
    np.testing.assert_array_equal(getattr(result, "data", result), PAIRS[name](a, getattr(other, "data", other)))


@pytest.mark.parametrize("name", ["sum", "mean", "var", "std", "prod", "amax", "amin", "max", "min", "logsumexp"])
def test_both_spellings_mean_the_same(name):
    f = getattr(t, name)
    values = lambda r: getattr(r, "values", r).data
    for numpys in ({"axis": 1, "keepdims": True}, {"axis": 1}):
        np.testing.assert_array_equal(values(f(1, keepdim="keepdims" in numpys)), values(f(**numpys)))
    np.testing.assert_array_equal(values(f(-1)), values(f(dim=-1)))
    if name not in ("max", "min"):
        np.testing.assert_array_equal(f([0, 2]).data, f(dim=[0, 2]).data)


@pytest.mark.parametrize(
    "ours, numpys",
    [
        (lambda t: np.split(t, 2, 2), lambda a: np.split(a, 2, 2)),
        (lambda t: np.split(t, [1, 3], -1), lambda a: np.split(a, [1, 3], -1)),
        (lambda t: np.repeat(t, 2, 1), lambda a: np.repeat(a, 2, 1)),
        (lambda t: np.repeat(t, [1, 0, 2], 1), lambda a: np.repeat(a, [1, 0, 2], 1)),
        (lambda t: np.repeat(t, 3), lambda a: np.repeat(a, 3)),
        (lambda t: np.tile(t, (2, 1)), lambda a: np.tile(a, (2, 1))),
        (lambda t: np.tile(t, (2, 1, 1, 2)), lambda a: np.tile(a, (2, 1, 1, 2))),
        (lambda t: np.moveaxis(t, 0, -1), lambda a: np.moveaxis(a, 0, -1)),
        (lambda t: np.moveaxis(t, (0, 2), (1, 0)), lambda a: np.moveaxis(a, (0, 2), (1, 0))),
        (np.ravel, np.ravel),
        (lambda t: np.prod(t, 1), lambda a: np.prod(a, 1)),
        (lambda t: np.var(t, 1), lambda a: np.var(a, 1)),
        (lambda t: np.std(t, (0, 2), keepdims=True), lambda a: np.std(a, (0, 2), keepdims=True)),
        (lambda t: np.std(t, ddof=1), lambda a: np.std(a, ddof=1)),
        (np.linalg.norm, np.linalg.norm),
        (lambda t: np.linalg.norm(t, axis=(0, 1)), lambda a: np.linalg.norm(a, axis=(0, 1))),
        (lambda t: np.linalg.norm(t, 2, 1), lambda a: np.linalg.norm(a, 2, 1)),
        (lambda t: np.clip(t, 0.2, 0.7), lambda a: np.clip(a, 0.2, 0.7)),
        (lambda t: np.clip(t, a_min=0.2, a_max=None), lambda a: np.clip(a, a_min=0.2, a_max=None)),
        (lambda t: np.clip(t, max=0.2), lambda a: np.clip(a, None, 0.2)),
        (lambda t: np.concatenate([t, t], axis=None), lambda a: np.concatenate([a, a], axis=None)),
        (lambda t: np.vstack([t[0], t[1]]), lambda a: np.vstack([a[0], a[1]])),
        (lambda t: np.hstack([t, t]), lambda a: np.hstack([a, a])),
        (lambda t: np.vstack([t[0, 0], t[0, 1]]), lambda a: np.vstack([a[0, 0], a[0, 1]])),
        (lambda t: np.dot(t, t[0, 0]), lambda a: np.dot(a, a[0, 0])),
        (lambda t: np.dot(t, 2.0), lambda a: np.dot(a, 2.0)),
        (lambda t: np.outer(t[0], t[1]), lambda a: np.outer(a[0], a[1])),
        (lambda t: np.einsum("abc,dbc->ad", t, t), lambda a: np.einsum("abc,dbc->ad", a, a)),
        (lambda t: np.take_along_axis(t, np.argmax(t, 1)[:, None], 1), lambda a: a.max(1, keepdims=True)),
        (lambda t: np.take_along_axis(t, np.array([[[0]]]), 1), lambda a: np.take_along_axis(a, np.array([[[0]]]), 1)),
        (lambda t: np.cumsum(t), np.cumsum),
        (lambda t: np.roll(t, 1, 1), lambda a: np.roll(a, 1, 1)),
        (lambda t: np.flip(t, 1), lambda a: np.flip(a, 1)),
        (np.zeros_like, np.zeros_like),
        (lambda t: np.argmin(t, 1), lambda a: np.argmin(a, 1)),
        (np.shape, np.shape),
    ],
)
def test_a_numpy_function_has_numpys_meaning(ours, numpys):
    said, right = ours(t), numpys(a)
    for x, y in zip(said, right, strict=True) if isinstance(right, list) else [(said, right)]:
        np.testing.assert_allclose(getattr(x, "data", x), y, rtol=1e-13)


@pytest.mark.parametrize("width", [1, (1, 2), ((1, 2), (0, 1), (3, 0)), {-1: (1, 2)}, {0: 2, 2: (0, 1)}], ids=str)
def test_padding_in_all_of_numpys_ways(width):
    try:
        right = np.pad(a, width)
    except TypeError:
        pytest.skip("this NumPy does not know padding by axis")
    x = Tensor(a, requires_grad=True)
    y = np.pad(x, pad_width=width)
    np.testing.assert_array_equal(y.data, right)
    (y * right).sum().backward()
    np.testing.assert_array_equal(x.grad, a)


def test_max_along_a_dim_gives_values_and_positions():
    values, indices = t.max(1)
    np.testing.assert_array_equal(values.data, a.max(1))
    np.testing.assert_array_equal(indices, a.argmax(1))
    assert t.max(1, True).indices.shape == (2, 1, 4) and type(indices) is np.ndarray
    np.testing.assert_array_equal(t.argmax(1), a.argmax(1))
    np.testing.assert_array_equal(t.argmin(1, True), a.argmin(1, keepdims=True))


def test_a_tie_gives_the_gradient_to_one_place_along_a_dim_and_shares_it_without():
    x = Tensor(np.array([[1.0, 1.0, 0.0]]), requires_grad=True)
    x.max(1).values.sum().backward()
    assert x.grad.tolist() == [[1, 0, 0]]
    x.grad = None
    x.max().backward()
    assert x.grad.tolist() == [[0.5, 0.5, 0]]


def test_the_spread_of_equal_values_has_a_derivative_of_zero():
    x = Tensor(np.ones(3), requires_grad=True)
    (x.std() + x.norm() * 0).backward()
    assert x.grad.tolist() == [0, 0, 0]


def test_shapes_and_dtypes():
    assert t.view_as(Tensor(np.ones((6, 4)))).shape == (6, 4)
    assert t[:, :1].expand_as(t).shape == (2, 3, 4)
    assert t.contiguous() is t
    assert (t.float().dtype, t.float().double().dtype, t.long().dtype) == (np.float32, np.float64, np.int64)
    assert t.dim() == 3 and t.size(-1) == 4 and t.numel() == 24 and t[0, 0].tolist() == a[0, 0].tolist()
    assert t.matmul(t.transpose(1, 2)).shape == (2, 3, 3)
    assert [p.shape[0] for p in Tensor(np.ones(5)).chunk(3)] == [2, 2, 1]
    assert methods.one_hot([0, 2], 3).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert Tensor([1.0]).requires_grad_().requires_grad


@pytest.mark.parametrize(
    "call, error, says",
    [
        (lambda: t.repeat(2), ShapeError, "a number for each of the 3 dims, got 1"),
        (lambda: t.split([1, 1], 1), ShapeError, r"the sizes \[1, 1\] add up to 2, dim 1 has 3"),
        (lambda: t.split(0), InputError, "parts of 0 elements"),
        (lambda: np.split(t, 2, 1), ShapeError, "axis 1 has 3 elements, not a multiple of 2"),
        (lambda: t.gather(1, [0]), ShapeError, "the index has 1 dims, the Tensor 3"),
        (
            lambda: t.gather(1, np.zeros((3, 1, 1), int)),
            ShapeError,
            r"index has shape \(3, 1, 1\).*longer beside dim 1",
        ),
        (lambda: t.scatter_add(1, [0], Tensor(np.ones(2))), ShapeError, r"shape \(1,\), src \(2,\)"),
        (lambda: t.pad((1, 2, 3)), InputError, "takes pairs"),
        (lambda: t.pad((-1, 2)), InputError, "would cut"),
        (lambda: methods.pad(t, (1, 1), "reflect"), InputError, "mode 'reflect' is not recorded"),
        (lambda: t.norm("nuc"), InputError, "p is 'nuc'"),
        (lambda: t // 2, UnsupportedOp, "np.floor_divide is not recorded"),
        (lambda: t % 2, UnsupportedOp, "np.remainder is not recorded"),
        (lambda: np.linalg.inv(t), UnsupportedOp, "np.linalg.inv is not recorded"),
        (lambda: t.t(), ShapeError, r"takes a matrix, this Tensor has shape \(2, 3, 4\)"),
        (lambda: t.narrow(1, 2, 2), ShapeError, "2 to 4 does not fit dim 1 of 3"),
        (lambda: np.linalg.norm(t, 1), UnsupportedOp, "ord=1"),
        (lambda: np.dot(t, t), UnsupportedOp, "second argument of 3 axes"),
        (lambda: t.__setitem__(0, 1.0), UnsupportedOp, "not written into"),
        (lambda: methods.one_hot([3], 3), InputError, "from 3 to 3, there are 3 classes"),
        (lambda: activations.gelu(t, "erf"), InputError, "'none' or 'tanh'"),
    ],
)
def test_refusals(call, error, says):
    assert issubclass(error, MinidlError)
    with pytest.raises(error, match=says):
        call()


def test_what_is_not_there_refuses_by_its_own_name():
    with pytest.raises(AttributeError, match="Tensor has no 'svd': it is not recorded"):
        t.svd()
    with pytest.raises(AttributeError, match="Tensor has no 'add_': nothing here works in place"):
        t.add_(1)


def test_pytorchs_other_ways_to_say_it():
    for name in ("var", "std"):
        f, of_numpy = getattr(t, name), getattr(np, name)
        np.testing.assert_allclose(f(1, False).data, of_numpy(a, 1), rtol=1e-13)  # unbiased comes before keepdim
        np.testing.assert_allclose(f(1, unbiased=True, keepdim=True).data, of_numpy(a, 1, ddof=1, keepdims=True))
    np.testing.assert_array_equal(t.max(t.flip(0)).data, np.maximum(a, a[::-1]))
    np.testing.assert_array_equal(t.min(a[0]).data, np.minimum(a, a[0]))
    for flipped in (t.flip(0, 2), t.flip([0, 2]), t.flip(dims=[0, 2])):
        np.testing.assert_array_equal(flipped.data, np.flip(a, (0, 2)))
    np.testing.assert_array_equal(t.roll(shifts=1, dims=1).data, np.roll(a, 1, 1))
    np.testing.assert_array_equal(methods.pad(t, (1, 0), "constant", 2.0).data, t.pad((1, 0), 2.0).data)
    assert methods.one_hot([0, 2]).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert int(t.max() * 0 + 3) == 3


# -- dtypes: PyTorch's, for a Tensor beside what stands first in each line ---------------------------------------------
OTHERS = {
    "int": 2, "float": 2.5, "float64 number": np.float64(2.5), "int64 number": np.int64(2),
    "float64 0-d": np.array(2.5), "int64 0-d": np.array(2), "bool": np.ones((2, 3), bool),
    "int32": np.ones((2, 3), np.int32), "int64": np.full((2, 3), 2), "float32": np.ones((2, 3), np.float32),
    "float64": np.ones((2, 3)), "uint8": np.ones(3, np.uint8),
}  # fmt: skip
PYTORCH = {  # dtype of (x + other, x / other) for a float32, float64 and int64 Tensor x of two axes
    name: [("float32", "float32"), ("float64", "float64"), ("int64", "float32")] for name in OTHERS
}
PYTORCH["float"][2] = PYTORCH["float64 number"][2] = PYTORCH["float32"][2] = ("float32", "float32")
PYTORCH["float64 0-d"][2] = ("float64", "float64")
PYTORCH["float64"] = [("float64", "float64")] * 3


def dtypes(x, other):
    name = lambda r: str(r.dtype).removeprefix("torch.")
    return name(x + other), name(x / other)


@pytest.mark.parametrize("name", OTHERS)
def test_dtypes_are_pytorchs(name):
    other = OTHERS[name]
    for k, (plain, divided) in zip((np.float32, np.float64, np.int64), PYTORCH[name], strict=True):
        x = Tensor(np.ones((2, 3), k))
        assert dtypes(x, other) == (plain, divided)
        assert (other * x).dtype == np.multiply(other, x).dtype == np.dtype(plain)
        if isinstance(other, np.ndarray):
            assert dtypes(x, Tensor(other)) == (plain, divided)
            assert np.where(np.ones((2, 3), bool), other, x).dtype == np.dtype(plain)


@pytest.mark.parametrize("name", OTHERS)
def test_pytorch_agrees_about_its_dtypes(name):
    torch = pytest.importorskip("torch")
    other = torch.tensor(OTHERS[name]) if isinstance(OTHERS[name], np.ndarray) else OTHERS[name]
    tensors = [torch.ones((2, 3), dtype=k) for k in (torch.float32, torch.float64, torch.int64)]
    assert [dtypes(x, other) for x in tensors] == PYTORCH[name]


def test_a_cast_passes_the_gradient_on_in_each_ones_dtype():
    x = Tensor(np.array([1.0, 2.0], np.float32), requires_grad=True)
    scale = Tensor(np.array(3.0), requires_grad=True)  # float64, no axes
    y = x * np.array([2, 3]) * scale
    y.sum().backward()
    assert y.dtype == x.grad.dtype == np.float32 and scale.grad.dtype == np.float64
    assert x.grad.tolist() == [6, 9] and scale.grad.tolist() == 8


@pytest.mark.parametrize("name", ["sum", "mean", "var", "std", "norm", "amax", "amin"])
def test_a_reduction_over_no_dims_is_one_over_all_as_in_pytorch(name):
    t = Tensor(np.arange(6.0).reshape(2, 3))
    assert getattr(t, name)(dim=()).item() == getattr(t, name)().item()
    assert t.squeeze(()).shape == (2, 3) and t.sum(()).shape == ()
