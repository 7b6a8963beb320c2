"""The penalty, its two rules and the proximal step, against closed forms, brute force and an independent solver."""

import numpy as np
import pytest

from minidl import Tensor
from minidl.errors import InputError
from minidl.layers import Linear, Parameter, cross_entropy
from minidl.models import LSTMLanguageModel, lenet_caffe, mlp
from minidl.optim import SGD
from minidl.sparsity import GroupLasso, groups, own_groups
from minidl.sparsity.prox import Blocks, group_norms, shrink


def lenet():
    return lenet_caffe(np.random.default_rng(0))


def language_model(dtype=np.float64):
    model = LSTMLanguageModel(9, 6, (5, 4), rng=np.random.default_rng(0)).astype(dtype)
    return model, (np.zeros((2, 1), int), model.zero_states(1))


def iss(**options):
    model, x = language_model()
    return model, GroupLasso(groups(model, x, by="unit", layers=["layers.0", "layers.1"]), lam=0.1, **options)


def by_hand(model):
    """The masks of every ISS group, written out: {(layer, k): {name: mask}}."""
    p = {name: t.shape for name, t in model.named_parameters()}
    masks = {}
    for layer, reader in ((0, "layers.1.weight_ih"), (1, "output.weight")):
        width = p[f"layers.{layer}.weight_hh"][1]
        for k in range(width):
            m = {name: np.zeros(shape, bool) for name, shape in p.items()}
            for kind in ("ih", "hh"):
                m[f"layers.{layer}.weight_{kind}"][k::width] = True
            m[f"layers.{layer}.weight_hh"][:, k] = True
            m[reader][:, k] = True
            masks[layer, k] = m
    return masks


# -- which weights -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "by, layers, count, size",
    [
        ("filter", None, 70, {25, 500}),
        ("channel", None, 20, {1250}),  # conv1 has one channel: no choice, no group
        ("column", ["conv1", "conv2"], 25 + 500, {20, 50}),
        ("row+column", ["conv2"], 50 + 500, {500, 50}),
        ("filter+channel", ["conv1", "conv2"], 20 + 50 + 20, {25, 500, 1250}),
        ("neuron", None, 510, {800, 500}),
        ("input", ["ip2"], 500, {10}),
        ("row", ["ip2", "conv1"], 30, {500, 25}),
        ("layer", None, 4, {500, 25_000, 400_000, 5000}),
    ],
)
def test_kinds(by, layers, count, size):
    penalty = GroupLasso(groups(lenet(), by=by, layers=layers), lam=0.1)
    assert penalty.groups.count == count and set(penalty.sizes()) == size
    assert sum(total for _, total in penalty.alive().values()) == count
    assert (GroupLasso(penalty.groups, 0.1, weights="sqrt_size").weights == np.sqrt(penalty.sizes())).all()


def test_norms_are_the_norms():
    model = lenet()
    penalty = GroupLasso(groups(model, by="filter+channel", layers=["conv2"]), lam=0.5)
    w = model.conv2.weight.data.astype(float)
    expected = [*np.sqrt((w**2).sum((1, 2, 3))), *np.sqrt((w**2).sum((0, 2, 3)))]
    np.testing.assert_allclose(penalty.norms(), expected, rtol=1e-6)
    assert penalty.value() == pytest.approx(0.5 * sum(expected), rel=1e-6)


@pytest.mark.parametrize("twice", [False, True])
def test_units_of_an_lstm_count_their_crossings_once_or_as_published_twice(twice):
    model, penalty = iss(rule="published" if twice else "exact")
    data = {name: p.data for name, p in model.named_parameters()}
    expected = []
    for (layer, k), masks in by_hand(model).items():
        total = sum(float((data[name][m] ** 2).sum()) for name, m in masks.items())
        w = data[f"layers.{layer}.weight_hh"]
        expected.append(np.sqrt(total + twice * float((w[k :: w.shape[1], k] ** 2).sum())))
    np.testing.assert_allclose(penalty.norms(), expected, rtol=1e-12)
    assert set(penalty.sizes()) == {4 * 11 + 20 + 16 - 4 * (not twice), 4 * 9 + 16 + 9 - 4 * (not twice)}


# -- the subgradient ---------------------------------------------------------------------------------------------------
def test_every_group_that_is_not_zero_is_pulled_with_norm_lambda():
    model = lenet()
    model.conv1.weight.data = model.conv1.weight.data * (np.arange(20) % 3 > 0)[:, None, None, None].astype(np.float32)
    penalty = GroupLasso(groups(model, by="filter", layers=["conv1", "conv2"]), lam=0.3, rule="published")
    penalty.add_subgradient_()
    for layer in (model.conv1, model.conv2):
        norm = np.sqrt((layer.weight.grad**2).sum((1, 2, 3)))
        alive = np.sqrt((layer.weight.data**2).sum((1, 2, 3))) > 0
        np.testing.assert_allclose(norm[alive], 0.3, rtol=1e-5)
        assert not norm[~alive].any()
    assert model.ip1.weight.grad is None


def test_overlapping_row_and_column_add():
    w = Parameter(np.array([[3.0, 0.0], [4.0, 0.0]]))
    penalty = GroupLasso(own_groups({"w": w}, {"w": (0, [0, 1])}), lam=1.0, rule="published")
    penalty.add_subgradient_()
    np.testing.assert_allclose(w.grad, [[1, 0], [1, 0]])
    model = Linear(2, 2, rng=np.random.default_rng(0), bias=False).astype(np.float64)
    model.weight.data = w.data
    GroupLasso(groups(model, by="row+column"), lam=1.0, rule="published").add_subgradient_()
    np.testing.assert_allclose(model.weight.grad, [[1 + 0.6, 0], [1 + 0.8, 0]])


def test_published_units_have_the_published_gradient():
    model, penalty = iss(rule="published")
    penalty.add_subgradient_()
    data = {name: p.data for name, p in model.named_parameters()}
    expected = {name: np.zeros_like(a) for name, a in data.items()}
    for (layer, k), masks in by_hand(model).items():
        hh = f"layers.{layer}.weight_hh"
        weight = {name: m.astype(float) for name, m in masks.items()}
        weight[hh][k :: data[hh].shape[1], k] += 1  # the crossings, once more
        norm = np.sqrt(sum((data[n] ** 2 * m).sum() for n, m in weight.items()) + 1e-8)
        for name, m in weight.items():
            expected[name] += 0.1 * data[name] * m / norm
    for name, p in penalty.groups.parameters.items():
        np.testing.assert_allclose(p.grad, expected[name], rtol=1e-9, atol=1e-15)


def test_threshold_zeroes_small_weights_of_the_groups_only():
    model = lenet()
    model.conv1.weight.data = model.conv1.weight.data * np.float32(1e-4)
    bias = model.conv1.bias.data = np.full(20, 5e-5, np.float32)
    penalty = GroupLasso(groups(model, by="filter", layers=["conv1"]), lam=0.3, rule="published")
    penalty.threshold_()
    assert not model.conv1.weight.data.any() and model.conv1.bias.data is bias
    assert penalty.alive() == {"conv1 filter": (0, 20)}


# -- the proximal step -------------------------------------------------------------------------------------------------
def step(penalty, lr=1.0, **options):
    """One proximal step behind an optimizer whose gradient was 0: (threshold, optimizer)."""
    parameters = list(penalty.groups.parameters.values())
    optimizer = SGD(parameters, lr=lr, **options)
    for p in parameters:
        p.grad = np.zeros_like(p.data)
    optimizer.step()
    penalty.prox_(optimizer)
    return optimizer


def test_disjoint_groups_have_the_closed_form_and_exact_zeros():
    model = lenet()
    before = model.conv2.weight.data
    penalty = GroupLasso(groups(model, by="filter", layers=["conv2"]), lam=1.0)
    norm = penalty.norms()
    t = float(np.median(norm))
    step(penalty, lr=t)
    expected = before * np.maximum(0, 1 - t / norm)[:, None, None, None]
    np.testing.assert_allclose(model.conv2.weight.data, expected, atol=1e-6)
    assert penalty.alive()["conv2 filter"][0] == (norm > t).sum() and model.conv2.weight.dtype == np.float32
    assert (before != model.conv2.weight.data).all(), "the old array was written into"


def test_the_other_disjoint_kinds():
    for by, axes in (("channel", (0, 2, 3)), ("column", 0), ("layer", None)):
        model = lenet()
        w = model.conv2.weight.data.astype(float)
        penalty = GroupLasso(groups(model, by=by, layers=["conv2"]), lam=1.0)
        step(penalty, lr=1.0)
        norm = np.sqrt((w**2).sum(axes, keepdims=True))
        np.testing.assert_allclose(model.conv2.weight.data, w * np.maximum(0, 1 - 1 / norm), atol=1e-6)


def objective(w, v, t, masks):
    return 0.5 * sum(((w[n] - v[n]) ** 2).sum() for n in v) + sum(
        tg * np.sqrt(sum((w[n][m[n]] ** 2).sum() for n in v)) for tg, m in zip(t, masks, strict=True)
    )


def dual_block_ascent(v, t, masks, rounds):
    """The definition, element by element and group after group: w = v - sum xi, each xi_g projected on its ball."""
    xi = [{n: np.zeros_like(a) for n, a in v.items()} for _ in masks]
    for _ in range(rounds):
        for g, m in enumerate(masks):
            part = {n: np.where(m[n], v[n] - sum(x[n] for k, x in enumerate(xi) if k != g), 0) for n in v}
            norm = np.sqrt(sum((a**2).sum() for a in part.values()))
            xi[g] = {n: a * min(1, t[g] / norm) for n, a in part.items()}
    return {n: v[n] - sum(x[n] for x in xi) for n in v}


@pytest.mark.parametrize("t, dead", [(0.05, 0), (0.25, 2), (0.3, 5), (1.0, 9)])
def test_overlapping_units_of_an_lstm_against_brute_force(t, dead):
    a = np.linspace(0.5, 2.0, 9)[[4, 0, 8, 2, 6, 1, 5, 3, 7]]
    model, penalty = iss(gap=1e-13, weights=a)
    penalty.lam = 1.0
    before = {name: p.data for name, p in model.named_parameters()}
    masks = list(by_hand(model).values())
    optimum = dual_block_ascent(before, t * a, masks, 300)
    step(penalty, lr=t)
    after = {name: p.data for name, p in model.named_parameters()}
    for name in before:
        np.testing.assert_allclose(after[name], optimum[name], atol=1e-4)  # it converges slowly
    assert objective(after, before, t * a, masks) <= objective(optimum, before, t * a, masks) + 1e-11
    zero = penalty.norms() == 0
    assert zero.sum() == dead
    assert (np.array([sum((optimum[n][m[n]] ** 2).sum() for n in m) for m in masks])[zero] < 1e-8).all()


def test_overlap_against_an_independent_solver():
    """Rows and columns of a matrix with weights: scipy's SLSQP on the second-order-cone form, from another start."""
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(3)
    v = rng.standard_normal((4, 3))
    model = Linear(3, 4, rng=rng, bias=False).astype(np.float64)
    model.weight.data = v
    a = rng.uniform(0.5, 1.5, 7)
    penalty = GroupLasso(groups(model, by="row+column"), lam=1.0, weights=a, gap=1e-13)
    step(penalty, lr=1.2)

    def f(z):  # w and a bound s_g >= ||w_g|| for each group: smooth
        return 0.5 * ((z[:12] - v.ravel()) ** 2).sum() + 1.2 * a @ z[12:]

    def room(z):
        w = z[:12].reshape(4, 3)
        return z[12:] ** 2 - np.concatenate([(w**2).sum(1), (w**2).sum(0)])

    bounds = [(None, None)] * 12 + [(0, None)] * 7
    start = np.concatenate([rng.standard_normal(12), np.full(7, 5.0)])
    found = optimize.minimize(
        f, start, bounds=bounds, constraints={"type": "ineq", "fun": room}, method="SLSQP",
        options={"maxiter": 2000, "ftol": 1e-15},
    )  # fmt: skip
    np.testing.assert_allclose(model.weight.data.ravel(), found.x[:12], atol=2e-4)
    w = model.weight.data
    value = 0.5 * ((w - v) ** 2).sum() + 1.2 * a @ np.sqrt(np.concatenate([(w**2).sum(1), (w**2).sum(0)]))
    assert value <= found.fun + 1e-6 and (w == 0).all(1).sum() == 1 and (w == 0).all(0).sum() == 1


def test_a_looser_gap_is_kept_and_a_warm_start_takes_fewer_steps():
    rng = np.random.default_rng(0)
    cut = [Blocks((30, 20), [(0, np.arange(30)), (1, 30 + np.arange(20))])]
    m = [np.abs(rng.standard_normal((30, 20)))]
    t = np.full(50, 2.5)
    exact = shrink(cut, m, t, gap=1e-13)
    loose = shrink(cut, m, t, gap=1e-3)
    assert exact[2] <= 1e-13 and 1e-13 < loose[2] <= 1e-3
    assert shrink(cut, m, t, gap=1e-13, start=exact[1], limit=1)[2] <= 1e-13

    def value(f):
        w = m[0] * f[0]
        return 0.5 * ((w - m[0]) ** 2).sum() + t @ group_norms(cut, [[w, w]], 50)[:-1]

    assert value(exact[0]) <= value(loose[0]) <= value(exact[0]) * (1 + 1e-3)


@pytest.mark.parametrize("labels", [np.tile([0, 1, 2], 4), np.repeat([2, 0, 1], 4), np.array([0, -1, 1, 1, 2, 0] * 2)])
def test_blocks_of_any_labels_add_up(labels):
    """Tiled, repeated or irregular: the norms of groups, and what scaling does, are those of the definition."""
    w = np.random.default_rng(0).standard_normal((12, 5))
    for axis, matrix in ((0, w), (1, np.ascontiguousarray(w.T))):
        cut = Blocks(matrix.shape, [(axis, labels)])
        norms = group_norms([cut], [[cut.norms(matrix)]], 3)[:-1]
        np.testing.assert_allclose(norms, [np.sqrt((w[labels == g] ** 2).sum()) for g in range(3)])
        (factor,), _, _ = shrink([cut], [cut.norms(matrix)], np.array([0.5, 1e9, 0.0]))
        scaled = cut.scale(matrix, factor)
        scaled = scaled if axis == 0 else scaled.T
        np.testing.assert_allclose(scaled[labels == 0], w[labels == 0] * (1 - 0.5 / norms[0]))
        assert not scaled[labels == 1].any() and np.array_equal(scaled[labels == 2], w[labels == 2])
        assert np.array_equal(scaled[labels == -1], w[labels == -1])


# -- momentum ----------------------------------------------------------------------------------------------------------
FORMS = [
    {}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.8, "dampening": 0.5},
    {"momentum": 0.9, "form": "caffe"}, {"momentum": 0.9, "weight_decay": 0.01},
]  # fmt: skip


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_the_threshold_is_what_a_constant_gradient_would_have_moved(options):
    w, probe = Parameter(np.ones((2, 2))), Parameter(np.zeros(1))
    options = options | {"weight_decay": 0.0}
    penalty = GroupLasso(own_groups({"w": w}, {"w": (0, [0, 1])}), lam=0.25)
    ours, theirs = SGD([w], lr=0.1, **options), SGD([probe], lr=0.1, **options)
    for k in range(40):
        ours.lr = theirs.lr = 0.1 if k < 20 else 0.05
        w.grad, probe.grad, before = np.zeros_like(w.data), np.full(1, 0.25), probe.data
        ours.step()
        theirs.step()
        assert penalty.threshold(ours) == pytest.approx(float((before - probe.data)[0]), rel=1e-12)
        assert penalty.threshold(ours) == penalty.threshold(ours), "asking twice in one step changes nothing"


def test_a_penalty_that_starts_late_finds_the_momentum_built_up():
    w = Parameter(np.ones((2, 2)))
    optimizer = SGD([w], lr=0.1, momentum=0.9)
    for _ in range(200):
        w.grad = np.zeros((2, 2))
        optimizer.step()
    penalty = GroupLasso(own_groups({"w": w}, {"w": (0, [0, 1])}), lam=1.0)
    assert penalty.threshold(optimizer) == pytest.approx(0.1 / (1 - 0.9), rel=1e-8)


def regression(rng, dead=4):
    """A convex problem whose optimum has dead and living groups: multi-class logistic regression on 12 inputs."""
    x = rng.standard_normal((200, 12))
    truth = rng.standard_normal((3, 12)) * (np.arange(12) >= dead)
    return x, (x @ truth.T + 0.5 * rng.standard_normal((200, 3))).argmax(1)


def solve(x, y, start, kind, lam, steps=700, **options):
    model = Linear(12, 3, rng=np.random.default_rng(0), bias=False).astype(np.float64)
    model.weight.data = start
    penalty = GroupLasso(groups(model, by=kind), lam=lam, gap=1e-12)
    optimizer = SGD(model.parameters(), lr=0.15 if "momentum" in options else 1.5, **options)

    def data_gradient():
        optimizer.zero_grad()
        loss = cross_entropy(model(Tensor(x)), y)
        loss.backward()
        return loss.item()

    for _ in range(steps):
        data_gradient()
        optimizer.step()
        penalty.prox_(optimizer)
    loss = data_gradient()
    model.weight.grad = model.weight.grad + options.get("weight_decay", 0.0) * model.weight.data
    return model.weight.data, penalty, loss + penalty.value()


@pytest.mark.parametrize("kind", ["input", "row+column"])
@pytest.mark.parametrize("options", FORMS, ids=str)
def test_from_zero_and_from_a_random_start_to_the_same_optimum(options, kind):
    x, y = regression(np.random.default_rng(1))
    lam = 0.06 if kind == "input" else 0.03
    results = []
    for start in (np.zeros((3, 12)), np.random.default_rng(2).standard_normal((3, 12))):
        w, penalty, value = solve(x, y, start, kind, lam, **options)
        assert penalty.kkt_violation() < 1e-6
        results.append((w, value))
    np.testing.assert_allclose(results[0][0], results[1][0], atol=5e-5)
    dead = ~results[0][0].any(0)
    assert 0 < dead.sum() < 12 and (dead == ~results[1][0].any(0)).all()


def test_the_optimum_is_that_of_an_independent_solver():
    """Group-penalised logistic regression by plain proximal gradient, written here, with a closed-form prox."""
    x, y = regression(np.random.default_rng(1))
    w, penalty, value = solve(x, y, np.zeros((3, 12)), "input", 0.06, momentum=0.9)
    z = np.zeros((3, 12))
    onehot = np.eye(3)[y]
    for _ in range(4000):
        p = np.exp(x @ z.T - (x @ z.T).max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        z = z - 0.3 * (p - onehot).T @ x / len(x)
        z = z * np.maximum(0, 1 - 0.3 * 0.06 / np.maximum(np.sqrt((z**2).sum(0)), 1e-300))
    np.testing.assert_allclose(w, z, atol=1e-6)


def test_kkt_violation_sees_a_wrong_point():
    x, y = regression(np.random.default_rng(1))
    w, penalty, _ = solve(x, y, np.zeros((3, 12)), "input", 0.06)
    parameter = penalty.groups.parameters["weight"]
    parameter.data = w * 1.1
    grads = {"weight": parameter.grad}
    assert penalty.kkt_violation(grads) < 1e-6, "with the same data gradient, only directions count"
    alive = int(np.argmax(w.any(0)))
    parameter.data = w * (np.arange(12) != alive)
    assert penalty.kkt_violation(grads) < 1e-6
    assert penalty.kkt_violation({"weight": grads["weight"] * 2}) == pytest.approx(0.06, rel=1e-3)


# -- refusals ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("lam", [0, -1e-3, float("nan"), float("inf")])
def test_lambda_has_to_be_above_zero(lam):
    with pytest.raises(InputError, match="must be above 0"):
        GroupLasso(groups(lenet(), by="filter"), lam=lam)


def test_rules_are_not_mixed_and_conventions_do_not_clash():
    model = lenet()
    exact = GroupLasso(groups(model, by="filter"), lam=0.1)
    published = GroupLasso(groups(model, by="filter"), lam=0.1, rule="published", per="sum")
    for act in (exact.add_subgradient_, exact.threshold_, lambda: published.prox_(SGD(model.parameters(), 0.1))):
        with pytest.raises(InputError, match="twice"):
            act()
    with pytest.raises(InputError, match="lambda / T"):
        published.add_subgradient_(per="mean")
    with pytest.raises(InputError, match="after optimizer.step"):
        exact.prox_(SGD(model.parameters(), 0.1))
    assert "lambda 0.1" in repr(exact) and "weights none" in repr(exact)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m: groups(m, by="fliter"), "'fliter' is not one of filter, row"),
        (lambda m: groups(m, by="filter", layers=["conv9"]), "no layer conv9 here; there are conv1, conv2, ip1, ip2"),
        (lambda m: groups(m, by="filter", layers=["ip1"]), "finds no group in ip1"),
        (lambda m: groups(m, by="unit"), "give x"),
        (lambda m: GroupLasso(groups(m, by="filter"), 0.1, weights=[1, 2]), "give 70 numbers"),
        (lambda m: GroupLasso(groups(m, by="filter"), 0.1, weights="size"), "'sqrt_size' or an array of 70"),
        (lambda m: GroupLasso(groups(m, by="filter"), 0.1, rule="adam"), "neither 'exact' nor 'published'"),
        (lambda m: GroupLasso(groups(m, by="filter"), 0.1, per="word"), "neither 'mean' nor 'sum'"),
    ],
)
def test_bad_input_gets_one_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call(lenet())


# -- step by step, with the talk's own example -------------------------------------------------------------------------
def test_steps_with_the_groups_of_the_talk():
    """(w1, w2, w3) and (w4, w5): one group of norm 3, one of norm 5."""
    w = Parameter(np.array([1.0, 2.0, 2.0, 3.0, 4.0]))
    penalty = GroupLasso(own_groups({"w": w}, {"w": (0, [0, 0, 0, 1, 1])}), lam=0.3)
    optimizer = SGD([w], lr=1.0)
    w.grad = np.zeros(5)
    optimizer.step()
    seen = dict(penalty.steps(E_D=2.0, optimizer=optimizer))
    np.testing.assert_allclose(seen["||w_g||"], [3, 5])
    assert seen["R_g"] == pytest.approx(8) and seen["E = E_D + lambda R_g"] == pytest.approx(2 + 0.3 * 8)
    np.testing.assert_allclose(seen["lambda w/||w||"]["w"], [0.1, 0.2, 0.2, 0.18, 0.24])
    np.testing.assert_allclose(seen["t"], [0.3, 0.3])
    np.testing.assert_allclose(seen["max(0, 1 - t/||w||) w"]["w"], [0.9, 1.8, 1.8, 2.82, 3.76])
    before = w.data
    penalty.prox_(optimizer)
    np.testing.assert_allclose(w.data, [0.9, 1.8, 1.8, 2.82, 3.76])
    assert before[0] == 1.0
    w.grad = np.zeros(5)
    optimizer.lr = 3.0
    optimizer.step()
    penalty.lam = 1.0
    penalty.prox_(optimizer)
    assert not w.data[:3].any() and w.data[3:].all() and penalty.alive() == {"w own": (1, 2)}


def test_a_zero_group_gets_no_subgradient_and_no_nan():
    model = mlp((4, 5, 3), rng=np.random.default_rng(0))
    model[0].weight.data = np.zeros_like(model[0].weight.data)
    penalty = GroupLasso(groups(model, by="neuron"), lam=1.0, rule="published")
    penalty.add_subgradient_()
    assert not model[0].weight.grad.any() and np.isfinite(penalty.value())
