"""Every kind of group against its definition, written out by hand; the table, the picture, and what is refused."""

import numpy as np
import pytest

from minidl import Tensor
from minidl.errors import CompactError, InputError
from minidl.layers import Conv2d, Linear, Module, Parameter
from minidl.models import LSTMLanguageModel, lenet_caffe
from minidl.optim import SGD
from minidl.sparsity import Function, GroupLasso, compact, cost, groups, own_groups, units


def lenet():
    return lenet_caffe(np.random.default_rng(0))


def masks(found):
    """For each group, {parameter: which of its weights lie in it}, read off the faces one weight after the other."""
    out = [{} for _ in range(found.count)]
    for f in found.faces:
        p = found.parameters[f.parameter]
        matrix = (len(p.data), p.data[0].size)
        for g in range(found.count):
            mask = np.zeros(matrix, bool)
            for (r, c), _ in np.ndenumerate(mask):
                along, other = (r, c) if f.axis == 0 else (c, r)
                across = 0 if f.across is None else f.across[other]
                mask[r, c] = f.labels[along] >= 0 and across >= 0 and f.labels[along] + across == g
            if mask.any():
                out[g][f.parameter] = out[g].get(f.parameter, False) | mask.reshape(p.shape)
    return out


def check_penalty(found):
    """Norms, sizes and the proximal step by the masks: in the closed form wherever nothing overlaps."""
    rng = np.random.default_rng(1)
    for p in found.parameters.values():
        p.data = rng.standard_normal(p.shape)
    of = masks(found)
    expected = [sum((found.parameters[n].data[m] ** 2).sum() for n, m in group.items()) ** 0.5 for group in of]
    penalty = GroupLasso(found, lam=1.0, gap=1e-12)
    np.testing.assert_allclose(penalty.norms(), expected, rtol=1e-12)
    assert list(found.sizes()) == [sum(int(m.sum()) for m in group.values()) for group in of]
    optimizer = SGD(list(found.parameters.values()), lr=0.5 * float(np.median(expected)))
    for p in found.parameters.values():
        p.grad = np.zeros_like(p.data)
    optimizer.step()
    before = {name: p.data.copy() for name, p in found.parameters.items()}
    penalty.prox_(optimizer)
    return of, before, optimizer.lr


def check_closed_form(found):
    of, before, t = check_penalty(found)
    rest = {name: np.ones(p.shape, bool) for name, p in found.parameters.items()}
    for group in of:
        norm = sum((before[n][m] ** 2).sum() for n, m in group.items()) ** 0.5
        for name, m in group.items():
            expected = before[name][m] * max(0, 1 - t / norm)
            np.testing.assert_allclose(found.parameters[name].data[m], expected, rtol=1e-12, atol=0)
            rest[name] &= ~m
    for name, m in rest.items():
        assert np.array_equal(found.parameters[name].data[m], before[name][m])


def small_conv(n=6, c=2, k=3, **options):
    return Conv2d(c * options.get("groups", 1), n, k, rng=np.random.default_rng(0), **options).astype(np.float64)


# -- slices of one weight ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "by, banks, count, index",
    [
        ("filter", 1, 6, lambda g: np.s_[g]),
        ("row", 1, 6, lambda g: np.s_[g]),
        ("channel", 1, 2, lambda g: np.s_[:, g]),
        ("column", 1, 18, lambda g: np.s_[:, g // 9, g // 3 % 3, g % 3]),
        ("kernel2d", 1, 12, lambda g: np.s_[g // 2, g % 2]),
        ("layer", 1, 1, lambda g: np.s_[:]),
        ("filter", 3, 6, lambda g: np.s_[g]),
        ("channel", 3, 6, lambda g: np.s_[2 * (g // 2) : 2 * (g // 2) + 2, g % 2]),
        ("column", 3, 54, lambda g: np.s_[2 * (g // 18) : 2 * (g // 18) + 2, g // 9 % 2, g // 3 % 3, g % 3]),
        ("kernel2d", 3, 12, lambda g: np.s_[g // 2, g % 2]),
    ],
)
def test_slices_of_a_convolution(by, banks, count, index):
    """In a grouped convolution every filter bank has columns and channels of its own, as Caffe forms them."""
    model = small_conv(groups=banks)
    found = groups(model, by=by)
    assert found.count == count and list(found.parameters) == ["weight"]  # never the bias
    for g, group in enumerate(masks(found)):
        expected = np.zeros(model.weight.shape, bool)
        expected[index(g)] = True
        assert np.array_equal(group["weight"], expected)
    check_closed_form(found)


@pytest.mark.parametrize("y, x, sizes", [(3, 9, {27}), (10, 5, {30, 18}), (4, 5, {20, 12, 10, 6}), (1, 1, {1})])
def test_blocks_are_tiles_of_the_matrix_and_the_last_are_smaller(y, x, sizes):
    model = small_conv()
    found = groups(model, by=f"blocks({y}, {x})")
    assert set(found.sizes()) == sizes and found.count == -(-6 // y) * -(-18 // x)
    last = np.zeros((6, 18), bool)
    last[(6 - 1) // y * y :, (18 - 1) // x * x :] = True
    assert np.array_equal(masks(found)[-1]["weight"].reshape(6, 18), last)
    check_closed_form(found)


def test_overlapping_kinds_are_shrunk_to_the_minimum():
    """filter + kernel2d: nested, so the exact point is one pass from the kernels to the filters."""
    found = groups(small_conv(), by="filter + kernel2d")
    assert found.count == 6 + 12
    _, before, t = check_penalty(found)
    w = before["weight"]
    for axes in ((2, 3), (1, 2, 3)):
        w = w * np.maximum(0, 1 - t / np.maximum(np.sqrt((w**2).sum(axes, keepdims=True)), 1e-300))
    got = found.parameters["weight"].data
    np.testing.assert_allclose(got, w, atol=1e-5)
    assert (w == 0).any() and w.any()


# -- slices of one's own -----------------------------------------------------------------------------------------------
def test_own_slices():
    model = small_conv()
    own = {"weight": [np.s_[0], np.s_[1:3], np.s_[4, 1], np.s_[3:, 0, ..., 2], np.s_[4, 0, :, [0, 1]]]}
    found = groups(model, by=own)
    assert "own" in repr(found) and list(found.sizes()) == [18, 36, 9, 9, 6]
    for part, group in zip(own["weight"], masks(found), strict=True):
        expected = np.zeros(model.weight.shape, bool)
        expected[part] = True
        assert np.array_equal(group["weight"], expected)
    check_closed_form(found)


def test_own_groups_over_several_parameters_are_the_units_when_written_as_such():
    """Layer 0's Intrinsic Sparse Structures by hand: few faces, the same sizes, norms and proximal step as found."""
    model = LSTMLanguageModel(9, 6, (5, 4), rng=np.random.default_rng(0)).astype(np.float64)
    x = (np.zeros((2, 1), int), model.zero_states(1))
    written = own_groups(
        dict(model.named_parameters()),
        [
            {
                "layers.0.weight_ih": np.s_[k::5],
                "layers.0.weight_hh": [np.s_[k::5], np.s_[:, k]],
                "layers.1.weight_ih": np.s_[:, k],
            }
            for k in range(5)
        ],
    )
    traced = groups(model, x, by="unit", layers=["layers.0"])
    assert len(written.faces) == 4 and list(written.sizes()) == list(traced.sizes()) == [4 * 11 + 20 + 16 - 4] * 5
    assert list(written.sizes(twice=True)) == [4 * 11 + 20 + 16] * 5
    a, b = (GroupLasso(found, lam=1.0) for found in (written, traced))
    np.testing.assert_allclose(a.norms(), b.norms(), rtol=1e-14)


# -- found on the tape -------------------------------------------------------------------------------------------------
class Zeros:
    """A random generator that draws zeros without touching memory, for models of published size."""

    def uniform(self, low, high, shape):
        return np.zeros(shape, np.float32)

    def standard_normal(self, shape, dtype=None):
        return np.zeros(shape, np.float32)


def test_the_published_language_model():
    """methods.md's sizes: 24,000 and 28,000 weights a unit, crossings twice; 16,000 an embedding dimension."""
    model = LSTMLanguageModel(10_000, 1500, (1500, 1500), rng=Zeros())
    x = (np.zeros((1, 1), int), model.zero_states(1))
    found = groups(model, x, by="unit")
    assert [(s.layer, s.stop - s.start) for s in found.sections] == [
        ("embedding", 1500), ("layers.0", 1500), ("layers.1", 1500),
    ]  # fmt: skip
    assert [set(part) for part in np.split(found.sizes(twice=True), 3)] == [{16_000}, {24_000}, {28_000}]
    assert "16,000" in repr(found) and "23,996" in repr(found)
    words = groups(model, x, by="embedding")
    assert words.count == 1500 and set(words.sizes()) == {10_000 + 6_000}
    assert {f.parameter: f.axis for f in words.faces} == {"embedding.weight": 1, "layers.0.weight_ih": 1}
    readers = groups(model, x, by="fan_out")
    assert [set(part) for part in np.split(readers.sizes(), 3)] == [{6_000}, {12_000}, {16_000}]


def test_fan_out_is_what_reads_a_unit_and_zero_there_it_can_go():
    model, x = lenet(), np.random.default_rng(0).random((2, 1, 28, 28), np.float32)
    found = groups(model, x, by="fan_out")
    assert [(s.layer, s.stop - s.start) for s in found.sections] == [("conv1", 20), ("conv2", 50), ("ip1", 500)]
    assert {f.parameter: f.axis for f in found.faces} == {"conv2.weight": 1, "ip1.weight": 1, "ip2.weight": 1}
    assert [set(found.sizes()[s.start : s.stop]) for s in found.sections] == [{1250}, {16 * 500}, {10}]
    only_conv1 = np.repeat([1.0, 0.0], [20, 550])
    penalty, optimizer = GroupLasso(found, lam=1.0, weights=only_conv1), SGD(model.parameters(), lr=1.0)
    for p in model.parameters():
        p.grad = np.zeros_like(p.data)
    optimizer.step()
    optimizer.lr = float(np.median(penalty.norms()[:20]))
    penalty.prox_(optimizer)
    _, proof = compact(model, x)
    alive = np.flatnonzero(penalty.norms()[:20])
    assert 0 < len(alive) < 20 and list(proof.kept["conv1"]) == list(alive)


def test_one_layer_by_its_name():
    assert groups(lenet(), by="filter", layers="conv2").count == 50


# -- without a Module --------------------------------------------------------------------------------------------------
def plain(p, x):
    h = np.maximum(x @ p["w1"] + p["b1"], 0)
    return np.maximum(h @ p["w2"], 0) @ p["out.weight"]


def plain_parameters(rng):
    shapes = {"w1": (4, 7), "b1": (7,), "w2": (7, 5), "out.weight": (5, 2)}
    return {name: Tensor(rng.standard_normal(shape), requires_grad=True) for name, shape in shapes.items()}


def test_a_plain_function_is_a_model():
    rng = np.random.default_rng(0)
    params, x = plain_parameters(rng), rng.standard_normal((6, 4))
    model = Function(plain, params)
    assert np.array_equal(model(Tensor(x)).data, plain(params, Tensor(x)).data)
    assert [(u.layer, u.index) for u in units(model, x)] == [("w1", k) for k in range(7)] + [
        ("w2", k) for k in range(5)
    ]
    found = groups(model, x, by="unit")
    assert list(found.sizes()) == [4 + 5] * 7 + [7 + 2] * 5 and found.parameters["w1"] is params["w1"]
    w2, out = params["w2"].data.copy(), params["out.weight"].data.copy()
    w2[[1, 4]], out[2] = 0, 0
    params["w2"].data, params["out.weight"].data = w2, out
    small, proof = compact(model, x)
    assert {name: p.shape for name, p in small.params.items()} == {
        "w1": (4, 5), "b1": (5,), "w2": (5, 4), "out.weight": (4, 2),
    }  # fmt: skip
    assert params["w1"].shape == (4, 7) and proof.macs_before == cost(model, x).macs == 6 * (28 + 35 + 10)
    np.testing.assert_allclose(plain(small.params, Tensor(x)).data, plain(params, Tensor(x)).data, atol=1e-12)
    again = Function(plain, {name: np.zeros(p.shape) for name, p in small.params.items()})
    again.load_state_dict(small.state_dict())
    assert np.array_equal(again(Tensor(x)).data, small(Tensor(x)).data)


def test_a_plain_function_with_its_sizes_written_in_is_refused():
    rng = np.random.default_rng(0)
    params = plain_parameters(rng)
    params["w2"].data = params["w2"].data * (np.arange(7) > 0)[:, None]
    model = Function(lambda p, x: plain(p, x) * p["w1"].shape[1] / 7, params)
    with pytest.raises(CompactError, match="does something with its units that the tape does not show"):
        compact(model, rng.standard_normal((6, 4)))
    with pytest.raises(InputError, match="w: a weight is an array, or a leaf"):
        Function(plain, {"w": Tensor(np.ones(3))})


# -- in words and colours ----------------------------------------------------------------------------------------------
def test_the_table():
    assert repr(groups(lenet(), by="filter+blocks(10, 5)", layers=["conv1", "conv2"])).splitlines() == [
        "Groups(by='filter+blocks(10, 5)'): 580 groups",
        "layer  kind             groups   weights in each",
        "conv1  filter               20   25",
        "conv2  filter               50   500",
        "conv1  blocks(10, 5)        10   50",
        "conv2  blocks(10, 5)       500   50",
    ]


def colours(figure, panel):
    return figure.axes[panel].images[0].get_array()


def test_the_picture_shows_rows_columns_and_zeros():
    pytest.importorskip("matplotlib")
    model = lenet()
    model.conv2.weight.data = model.conv2.weight.data * (np.arange(50) != 7)[:, None, None, None].astype(np.float32)
    every = groups(model, by="filter", layers=["conv1", "conv2"]).figure()
    first = colours(every, 0)
    assert first.shape == (20, 25, 3) and (first == first[:, :1]).all() and (first[1:, 0] != first[:-1, 0]).any(1).all()
    assert (colours(every, 1)[7] == 1).all() and (colours(every, 1)[6] < 1).any()
    tiles = colours(groups(model, by="kernel2d", layers=["conv2"]).figure(), 0)
    assert (tiles[1:6] != tiles[:5]).any(2).all() and (tiles[:6, 5:] != tiles[:6, :-5]).any(2).all()  # its neighbours
    assert tiles.shape == (50, 100, 3)


def test_the_picture_of_an_lstm_shows_a_unit_in_one_colour_in_all_matrices():
    pytest.importorskip("matplotlib")
    model = LSTMLanguageModel(300, 60, (200, 50), rng=np.random.default_rng(0))
    found = groups(model, (np.zeros((2, 1), int), model.zero_states(1)), by="unit")
    figure = found.figure()
    recurrent = colours(figure, list(found.parameters).index("layers.0.weight_hh"))
    assert max(recurrent.shape) <= 120
    grey = (recurrent == 0.88).all(2)
    rows, columns = (~grey).mean(1) > 0.9, (~grey).mean(0) > 0.9
    assert (rows.sum(), columns.sum()) == (8, 2)  # two units: four gates and one column each
    assert {t.get_text() for t in figure.legends[0].get_texts()} >= {"layers.0 unit 50", "layers.0 unit 150"}


# -- bad input ---------------------------------------------------------------------------------------------------------
class Biases(Module):
    def __init__(self):
        self.bias = Parameter(np.zeros(3))

    def forward(self, x):
        return x + self.bias


class Broken(Module):
    """Goes on with a copy of the numbers: nothing tells that b reads what a computes."""

    def __init__(self, whole):
        rng = np.random.default_rng(0)
        self.a, self.b, self.whole = Linear(3, 4, rng=rng), Linear(4, 2, rng=rng), whole

    def forward(self, x):
        h = self.a(x)
        return self.b(h if self.whole else Tensor(h.data.copy()))


def test_a_tape_that_is_broken_on_the_way_is_told_and_changes_nothing():
    x = np.ones((2, 3), np.float32)
    assert groups(Broken(True), x, by="unit").count == 4
    model = Broken(False)
    before = model.a.weight.data
    with pytest.raises(InputError, match="the tape leads from a.bias, a.weight nowhere"):
        groups(model, x, by="unit")
    assert model.a.weight.data is before and model.training


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: groups(lenet(), by="blocks(0, 5)"), "'blocks(0, 5)' is not one of filter, row"),
        (
            lambda: groups(lenet(), by="filter", layers=["ip1"]),
            "finds no group in ip1: the weights there are ip1.weight (500, 800)",
        ),
        (lambda: groups(Biases(), by="row"), "biases alone"),
        (lambda: groups(Biases(), np.ones((2, 3)), by="unit"), "finds no group in bias"),
        (lambda: groups(lenet(), np.ones((1, 1, 28, 28)), by="embedding"), "finds no group"),
        (lambda: groups(lenet(), by="fan_out"), "give x, one batch"),
        (lambda: groups(lenet(), by={"conv9.weight": [np.s_[0]]}), "no parameter conv9.weight here; there are conv1"),
        (lambda: groups(lenet(), by={"conv1.weight": [np.s_[20]]}), "shape (20, 1, 5, 5), 20 does not fit it"),
        (lambda: groups(lenet(), by={"conv1.weight": [np.s_[20:]]}), "holds no weight"),
        (lambda: groups(lenet(), by={"conv1.weight": [np.s_[[0, 1], :, [0, 1]]]}), "give it in parts"),
        (lambda: groups(lenet(), by={"conv1.weight": (0, [0, 1])}), "2 labels for axis 0 of its matrix, which has 20"),
        (lambda: groups(lenet(), by=[]), "no group of your own"),
    ],
)
def test_bad_input_is_one_clear_sentence(call, words):
    with pytest.raises(InputError) as error:
        call()
    assert words in str(error.value)
