"""Every kernel op in all its forms: composed from small ops, hand-written NumPy, Numba. They are one function.

In float64 the forms agree to 1e-12 in results and gradients; in float32 to rounding. The hand-written backward is held
to finite differences, the composed form at second order as well.
"""

from __future__ import annotations

import importlib
import pkgutil

import numpy as np
import pytest

import minidl.layers
from minidl import Tensor, backend, grad, no_grad
from minidl.gradcheck import gradcheck
from minidl.tensor import Op

try:
    import numba  # noqa: F401

    import minidl.fast  # noqa: F401

    NUMBA = True
except ImportError:
    NUMBA = False

needs_numba = pytest.mark.skipif(not NUMBA, reason="Numba or minidl/fast is not here")


def every_op() -> dict[str, Op]:
    files = [importlib.import_module(f"minidl.layers.{m.name}") for m in pkgutil.iter_modules(minidl.layers.__path__)]
    return {v.__name__: v for file in files for v in vars(file).values() if isinstance(v, Op)}


def normal(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape) for shape in shapes]


def lstm_shapes(steps, batch, features, width):
    state, gates = (batch, width), 4 * width
    return (steps, batch, features), state, state, (gates, features), (gates, width), (gates,)


def gru_shapes(steps, batch, features, width):
    gates = 3 * width
    return (steps, batch, features), (batch, width), (gates, features), (gates, width), (gates,), (gates,)


def rnn_shapes(steps, batch, features, width):
    return (steps, batch, features), (batch, width), (width, features), (width, width), (width,)


KEPT = np.array([[0, 2, 2], [0, 1, 2], [1, 0, 1]])  # rows c, k, l

# op -> (what is special, its array arguments, its options)
CASES: dict[str, list] = {
    "linear": [
        ("plain", normal((5, 4), (3, 4), (3,)), {}),
        ("sequence", normal((2, 3, 4), (3, 4), (3,)), {}),
        ("no bias, one of each", normal((1, 1), (1, 1)), {}),
        ("one vector", normal((4,), (3, 4), (3,)), {}),
    ],
    "conv2d": [
        ("plain", normal((2, 3, 5, 6), (4, 3, 3, 3), (4,)), {}),
        ("no bias, oblong kernel", normal((2, 2, 5, 6), (3, 2, 1, 4)), {}),
        ("stride 2, padding 1", normal((2, 3, 6, 7), (4, 3, 3, 3), (4,)), {"stride": 2, "padding": 1}),
        ("stride 3 leaves a rest", normal((1, 2, 8, 7), (3, 2, 3, 3), (3,)), {"stride": 3}),
        ("dilation 2, padding 3", normal((1, 2, 5, 6), (3, 2, 2, 3), (3,)), {"dilation": 2, "padding": 3}),
        ("2 groups", normal((2, 4, 4, 4), (6, 2, 3, 3), (6,)), {"groups": 2, "padding": 1}),
        ("depthwise", normal((2, 3, 5, 5), (3, 1, 3, 3), (3,)), {"groups": 3, "padding": 2, "stride": 2}),
        (
            "height and width differ",
            normal((2, 2, 7, 6), (3, 2, 3, 2), (3,)),
            {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)},
        ),
        ("one of each", normal((1, 1, 1, 1), (1, 1, 1, 1), (1,)), {}),
        ("a 3 x 3 kernel on one pixel", normal((2, 1, 1, 1), (2, 1, 3, 3), (2,)), {"padding": 1}),
    ],
    "conv2d_kept": [
        ("some positions", [*normal((2, 3, 5, 6), (4, 3)), KEPT, *normal((4,))], {"kernel": 3}),
        (
            "no bias, height and width differ",
            [*normal((1, 3, 7, 6), (2, 3)), KEPT],
            {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)},
        ),
        ("one of each", [*normal((1, 1, 1, 1), (1, 1)), np.zeros((3, 1), int)], {"kernel": 1}),
    ],
    "max_pool2d": [
        ("2 x 2", normal((2, 3, 4, 6)), {"kernel": 2, "stride": 2}),
        ("2 x 2 with a rest", normal((1, 2, 5, 7)), {"kernel": 2, "stride": 2}),
        ("overlap", normal((2, 2, 7, 8)), {"kernel": 3, "stride": 2}),
        ("padding", [-np.abs(normal((2, 2, 5, 6))[0])], {"kernel": 3, "stride": 2, "padding": 1}),
        ("stride 1", normal((1, 2, 4, 4)), {"kernel": 3, "stride": 1, "padding": 1}),
        ("one pixel", normal((2, 3, 1, 1)), {"kernel": 1, "stride": 1}),
        ("2 x 2, rounded up", normal((1, 2, 5, 7)), {"kernel": 2, "stride": 2, "ceil_mode": True}),
        ("padding, rounded up", normal((2, 1, 6, 8)), {"kernel": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
        ("a last window that is dropped", normal((1, 1, 3, 4)), {"kernel": 1, "stride": 3, "ceil_mode": True}),
    ],
    "avg_pool2d": [
        ("2 x 2", normal((2, 3, 4, 6)), {"kernel": 2, "stride": 2}),
        ("overlap", normal((2, 2, 7, 8)), {"kernel": 3, "stride": 2}),
        ("padding", normal((2, 2, 5, 6)), {"kernel": 3, "stride": 2, "padding": 1}),
        ("rounded up", normal((1, 2, 6, 8)), {"kernel": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
        (
            "the image alone counts",
            normal((1, 2, 6, 8)),
            {"kernel": 3, "stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False},
        ),
        ("one pixel", normal((2, 3, 1, 1)), {"kernel": 1, "stride": 1}),
    ],
    "adaptive_max_pool2d": [
        ("divides", normal((2, 3, 4, 6)), {"output_size": (2, 3)}),
        ("overlap", normal((2, 2, 5, 7)), {"output_size": (3, 4)}),
        ("global", normal((2, 2, 3, 3)), {"output_size": 1}),
        ("more than there is", normal((1, 1, 2, 1)), {"output_size": 3}),
    ],
    "layer_norm": [
        ("rows", normal((5, 3), (3,), (3,)), {"eps": 1e-5}),
        ("sequence", normal((2, 3, 4), (4,), (4,)), {"eps": 1e-3}),
        ("two axes", normal((3, 2, 4), (2, 4), (2, 4)), {"eps": 1e-5}),
        ("no batch", normal((4,), (4,), (4,)), {"eps": 1e-5}),
    ],
    "local_response_norm": [
        ("across", normal((2, 6, 3, 2)), {"size": 5, "alpha": 0.7, "beta": 0.75, "k": 2.0}),
        ("across an even number", normal((1, 5, 2, 3)), {"size": 4, "alpha": 0.7, "beta": 0.6}),
        ("wider than the channels", normal((2, 2, 2, 2)), {"size": 7, "alpha": 1.0}),
        ("within", normal((2, 2, 4, 5)), {"size": 3, "alpha": 0.7, "within": True}),
        ("within, wider than the image", normal((1, 1, 2, 3)), {"size": 5, "alpha": 0.7, "beta": 0.5, "within": True}),
        ("one of each", normal((1, 1, 1, 1)), {"size": 1, "alpha": 0.5}),
    ],
    "batch_norm": [
        ("images", normal((3, 2, 3, 2), (2,), (2,)), {"eps": 1e-5}),
        ("rows", normal((5, 3), (3,), (3,)), {"eps": 1e-3}),
        ("one channel", normal((4, 1), (1,), (1,)), {"eps": 1e-5}),
        ("sequences", normal((3, 2, 4), (2,), (2,)), {"eps": 1e-5}),
        ("one image", normal((1, 2, 3, 1), (2,), (2,)), {"eps": 1e-5}),
    ],
    "softmax_cross_entropy": [
        ("plain", [*normal((4, 3)), np.array([0, 2, 2, 1])], {}),
        ("one class", [*normal((2, 1)), np.array([0, 0])], {}),
    ],
    "embedding": [
        ("repeated words", [*normal((6, 3)), np.array([[0, 5, 5], [2, 0, 5]])], {}),
        ("one word", [*normal((2, 1)), np.array([1])], {}),
    ],
    "lstm": [
        ("three steps", normal(*lstm_shapes(3, 2, 4, 3)), {}),
        ("one step, one unit", normal(*lstm_shapes(1, 1, 1, 1)), {}),
    ],
    "gru": [
        ("three steps", normal(*gru_shapes(3, 2, 4, 3)), {}),
        ("one step, one unit", normal(*gru_shapes(1, 1, 1, 1)), {}),
    ],
    "rnn": [
        ("three steps", normal(*rnn_shapes(3, 2, 4, 3)), {}),
        ("relu", normal(*rnn_shapes(3, 2, 4, 3)), {"nonlinearity": "relu"}),
        ("one step, one unit", normal(*rnn_shapes(1, 1, 1, 1)), {}),
    ],
}
EMPTY = {
    "linear": (normal((0, 4), (3, 4), (3,)), {}),
    "conv2d": (normal((0, 3, 5, 6), (4, 3, 3, 3), (4,)), {"padding": 1}),
    "conv2d_kept": ([*normal((0, 3, 5, 6), (4, 3)), KEPT], {"kernel": 3}),
    "max_pool2d": (normal((0, 3, 4, 4)), {"kernel": 2, "stride": 2}),
    "softmax_cross_entropy": ([*normal((0, 3)), np.zeros(0, int)], {}),
    "embedding": ([*normal((4, 3)), np.zeros((2, 0), int)], {}),
    "lstm": (normal(*lstm_shapes(3, 0, 4, 2)), {}),
    "gru": (normal(*gru_shapes(3, 0, 4, 2)), {}),
    "rnn": (normal(*rnn_shapes(3, 0, 4, 2)), {}),
    "avg_pool2d": (normal((0, 3, 4, 4)), {"kernel": 2, "stride": 2}),
    "adaptive_max_pool2d": (normal((0, 3, 4, 4)), {"output_size": 2}),
    "layer_norm": (normal((0, 3), (3,), (3,)), {"eps": 1e-5}),
    "local_response_norm": (normal((0, 3, 2, 2)), {"size": 3}),
}  # an empty batch; batch_norm has no mean there
LINEAR = ("linear", "conv2d", "conv2d_kept", "embedding", "max_pool2d", "avg_pool2d", "adaptive_max_pool2d")
OPS = every_op()
ALL = [pytest.param(op, *case[1:], id=f"{op}: {case[0]}") for op, cases in CASES.items() for case in cases]


def test_every_op_has_cases():
    assert set(CASES) == set(OPS)


def run(op, arrays, options, dtype=np.float64, form="numpy", order=lambda a: a):
    """(results, gradients of a fixed projection of all results) of one form."""
    arguments = [Tensor(order(a.astype(dtype)), requires_grad=True) if a.dtype.kind == "f" else a for a in arrays]
    with backend.form(form):
        outs = OPS[op](*arguments, **options)
        outs = outs if isinstance(outs, tuple) else (outs,)
        rng = np.random.default_rng(3)
        sum((o * rng.standard_normal(o.shape).astype(dtype)).sum() for o in outs).backward()
    return [o.data for o in outs], [t.grad for t in arguments if isinstance(t, Tensor)]


def beside(arrays, tensors):
    """The tensors in the places of the float arrays, and the integers between them."""
    tensors = iter(tensors)
    return [next(tensors) if a.dtype.kind == "f" else a for a in arrays]


def agree(one, other, tolerance):
    for a, b in zip((*one[0], *one[1]), (*other[0], *other[1]), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert np.max(np.abs(a - b), initial=0) <= tolerance * max(1, np.max(np.abs(b), initial=0))


@pytest.mark.parametrize("op, arrays, options", ALL)
def test_hand_written_equals_composed(op, arrays, options):
    agree(run(op, arrays, options, form="numpy"), run(op, arrays, options, form="composed"), 1e-12)


@needs_numba
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 3e-6)], ids=["float64", "float32"])
@pytest.mark.parametrize("form", ["auto", "numba"])
@pytest.mark.parametrize("op, arrays, options", ALL)
def test_numba_equals_numpy(op, arrays, options, form, dtype, tolerance):
    agree(run(op, arrays, options, dtype, form=form), run(op, arrays, options, form="numpy", dtype=dtype), tolerance)


@needs_numba
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("op, kernel", [("conv2d", "conv_forward"), ("conv2d", "conv_backward_data"),
                         ("conv2d", "conv_backward_weight"), ("embedding", "add_rows"),
                         ("max_pool2d", "max_of_windows"), ("max_pool2d", "scatter_to_winners"), ("lstm", "lstm_cell"),
                         ("lstm", "lstm_cell_backward"), ("gru", "gru_cell"), ("gru", "gru_cell_backward"),
                         ("avg_pool2d", "mean_of_windows"), ("avg_pool2d", "spread_to_windows"),
                         ("batch_norm", "channel_statistics"), ("batch_norm", "normalise"),
                         ("batch_norm", "normalise_backward"), ("layer_norm", "normalise_rows"),
                         ("layer_norm", "normalise_rows_backward"), ("local_response_norm", "lrn_forward"),
                         ("local_response_norm", "lrn_backward")])  # fmt: skip
def test_the_counter_shows_that_numba_ran(op, kernel, dtype):
    before = backend.calls[kernel, "numba"]
    run(op, *CASES[op][0][1:], dtype, "numba")
    assert backend.calls[kernel, "numba"] > before


@pytest.mark.parametrize("op, arrays, options", ALL)
def test_float32_is_close_to_the_float64_oracle(op, arrays, options):
    single, double = run(op, arrays, options, np.float32, "auto"), run(op, arrays, options, np.float64, "numpy")
    for a, b in zip((*single[0], *single[1]), (*double[0], *double[1]), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


# The float32 kernels at sizes that are measured, against the float64 oracle: op -> its arrays, its options.
LARGE = {
    "batch_norm": ([3 + 2 * normal((32, 16, 16, 16))[0], *normal((16,), (16,))], {"eps": 1e-5}),
    "layer_norm": ([3 + 2 * normal((100, 512))[0], *normal((512,), (512,))], {"eps": 1e-5}),
    "local_response_norm": (normal((8, 32, 12, 12)), {"size": 5, "alpha": 0.1}),
    "avg_pool2d": (normal((16, 16, 17, 19)), {"kernel": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
    "max_pool2d": (normal((16, 16, 17, 19)), {"kernel": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
    "gru": ([a / 10 for a in normal(*gru_shapes(20, 20, 100, 100))], {}),
    "lstm": ([a / 10 for a in normal(*lstm_shapes(20, 20, 100, 100))], {}),
}


@pytest.mark.parametrize("op", LARGE)
def test_float32_at_measured_sizes_is_close_to_the_float64_oracle(op):
    before = sum(count for (_, form), count in backend.calls.items() if form == "numba")
    arrays, options = LARGE[op]
    rounded = [a.astype(np.float32).astype(np.float64) for a in arrays]
    single, double = run(op, arrays, options, np.float32, "auto"), run(op, rounded, options, np.float64, "numpy")
    for a, b in zip((*single[0], *single[1]), (*double[0], *double[1]), strict=True):
        assert np.max(np.abs(a - b)) <= 2e-5 * max(1, np.max(np.abs(b)))
    if NUMBA:
        assert sum(count for (_, form), count in backend.calls.items() if form == "numba") > before


@pytest.mark.parametrize("form", ["auto", "numpy", "composed"])
@pytest.mark.parametrize("op, arrays, options", ALL)
def test_backward_against_finite_differences(op, arrays, options, form):
    floats = [a for a in arrays if a.dtype.kind == "f"]
    with backend.form(form):
        gradcheck(lambda *t: OPS[op](*beside(arrays, t), **options), *floats, rng=np.random.default_rng(1))


@pytest.mark.parametrize("op, arrays, options", ALL)
def test_second_derivatives_go_through_the_composed_form(op, arrays, options):
    floats = [a for a in arrays if a.dtype.kind == "f"]
    rng, square = np.random.default_rng(1), op in LINEAR

    def function(*tensors):  # linear ops are squared: their own second derivative is nothing, or mixed
        y = OPS[op](*beside(arrays, tensors), **options)
        return y * y if square else y

    gradcheck(function, *floats, rng=rng, directions=1, rtol=1e-5, order=2)


@pytest.mark.parametrize("form", ["auto", "numpy", "composed"])
@pytest.mark.parametrize("op, arrays, options", ALL)
def test_arguments_are_not_changed(op, arrays, options, form):
    before = [a.copy() for a in arrays]
    arguments = [Tensor(a, requires_grad=True) if a.dtype.kind == "f" else a for a in arrays]
    with backend.form(form):
        outs = OPS[op](*arguments, **options)
        outs = outs if isinstance(outs, tuple) else (outs,)
        kept = [o.data.copy() for o in outs]
        seeds = [np.ones(o.shape) for o in outs]
        for out, seed in zip(outs, seeds, strict=True):
            out.backward(seed, retain_graph=True)
            assert (seed == 1).all()
    for a, b in zip([*arrays, *(o.data for o in outs)], [*before, *kept], strict=True):
        np.testing.assert_array_equal(a, b)


def every_second(a):
    return np.stack([a, a], axis=-1)[..., 0]


@pytest.mark.parametrize("order", [np.asfortranarray, every_second, lambda a: a[::-1].copy()[::-1]])
@pytest.mark.parametrize("form", ["auto", "numpy", "composed"])
@pytest.mark.parametrize("op", CASES)
def test_arrays_that_are_not_contiguous(op, form, order):
    _, arrays, options = CASES[op][0]
    agree(run(op, arrays, options, form=form, order=order), run(op, arrays, options), 1e-12)


@pytest.mark.parametrize("form", ["auto", "numpy", "composed"])
@pytest.mark.parametrize("op", EMPTY)
def test_an_empty_batch_has_zero_gradients(op, form):
    outs, grads = run(op, *EMPTY[op], form=form)
    assert all(g is not None and (g == 0).all() for g in grads[1:] or grads)


@pytest.mark.parametrize("op, arrays, options", ALL)
def test_only_what_is_asked_gets_a_gradient(op, arrays, options):
    _, expected = run(op, arrays, options)
    floats = [i for i, a in enumerate(arrays) if a.dtype.kind == "f"]
    for k, of_k in zip(floats, expected, strict=True):
        arguments = [Tensor(a, requires_grad=i == k) if a.dtype.kind == "f" else a for i, a in enumerate(arrays)]
        outs = OPS[op](*arguments, **options)
        outs = outs if isinstance(outs, tuple) else (outs,)
        rng = np.random.default_rng(3)
        (mine,) = grad(sum((o * rng.standard_normal(o.shape)).sum() for o in outs), [arguments[k]])
        np.testing.assert_allclose(mine, of_k, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("op, arrays, options", ALL)
def test_plain_arrays_give_the_same_numbers(op, arrays, options):
    outs = OPS[op](*arrays, **options)
    outs = outs if isinstance(outs, tuple) else (outs,)
    for a, b in zip(outs, run(op, arrays, options, form="auto")[0], strict=True):
        assert not a.requires_grad
        np.testing.assert_array_equal(a.data, b)


@pytest.mark.parametrize("op, arrays, options", ALL)
def test_leaf_gradients_do_not_share_memory(op, arrays, options):
    _, grads = run(op, arrays, options, form="auto")
    for i, a in enumerate(grads):
        assert a.flags.writeable
        assert not any(np.shares_memory(a, b) for b in grads[:i])


def test_the_composed_form_is_counted():
    before = backend.calls["linear", "composed"]
    with backend.form("composed"), no_grad():
        OPS["linear"](*CASES["linear"][0][1])
    assert backend.calls["linear", "composed"] == before + 1
