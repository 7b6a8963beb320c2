"""Every optimizer with its proximal step ends at the optimum that skglm found (skglm.npz, by write_skglm.py).

From w = 0 and from a random start: a proximal step that forgets the velocity of dead groups, or lambda's factor
1 / (1 - mu), passes from a random start and fails from 0, or the other way round.
"""

from pathlib import Path

import numpy as np
import pytest

from minidl.layers import Parameter
from minidl.optim import SGD, Adam, AdamW, RMSprop
from minidl.sparsity import L1, GroupLasso, own_groups

STORED = np.load(Path(__file__).with_name("skglm.npz"))
X, Y, LABELS, LAM = STORED["x"], STORED["y"], STORED["labels"], float(STORED["lam"])

OPTIMIZERS = {
    "plain": lambda p: SGD(p, lr=0.3),
    "heavy ball": lambda p: SGD(p, lr=0.05, momentum=0.9),
    "Nesterov": lambda p: SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "dampening": lambda p: SGD(p, lr=0.1, momentum=0.8, dampening=0.5),
    "Caffe": lambda p: SGD(p, lr=0.05, momentum=0.9, form="caffe"),
    "Adam": lambda p: Adam(p, lr=0.01),
    "Adam, slow scale": lambda p: Adam(p, lr=0.02, betas=(0.8, 0.9999)),
}
STARTS = {
    "zero": lambda: np.zeros(len(LABELS)),
    "random": lambda: np.random.default_rng(9).standard_normal(len(LABELS)),
}


def gradient(w):
    return X.T @ (X @ w - Y) / len(Y)


def train(penalty_of, make, start):
    w = Parameter(start)
    penalty, optimizer = penalty_of(w), make([w])
    for _ in range(2500 if isinstance(optimizer, Adam) else 500):
        w.grad = gradient(w.data)
        optimizer.step()
        penalty.prox_(optimizer)
    return w.data, penalty


def lasso(w, lam=LAM):
    return GroupLasso(own_groups({"w": w}, {"w": (0, LABELS)}), lam, weights=STORED["weights"])


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_group_lasso_reaches_the_stored_optimum(name, start):
    w, penalty = train(lasso, OPTIMIZERS[name], STARTS[start]())
    np.testing.assert_allclose(w, STORED["w"], atol=1e-7)
    assert penalty.kkt_violation({"w": gradient(w)}) < 1e-7
    assert np.array_equal(w == 0, STORED["w"] == 0), "dead groups are exactly 0, and they are the same"


def test_a_velocity_that_is_zeroed_while_a_group_is_dead_ends_elsewhere():
    w = Parameter(np.zeros(len(LABELS)))
    penalty, optimizer = lasso(w), SGD([w], lr=0.05, momentum=0.9)
    for _ in range(100):  # so that the penalty finds the momentum built up
        w.grad = np.zeros(len(LABELS))
        optimizer.step()
    for _ in range(500):
        w.grad, dead = gradient(w.data), w.data == 0
        optimizer.step()
        penalty.prox_(optimizer)
        optimizer.state[0]["v"] = np.where(dead & (w.data == 0), 0, optimizer.state[0]["v"])
    assert penalty.kkt_violation({"w": gradient(w.data)}) > 0.1


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", ["Nesterov", "Adam"])
def test_plain_l1_reaches_the_optimum_of_coordinate_descent(name, start):
    best, n = np.zeros(len(LABELS)), len(Y)
    for _ in range(300):
        for i in range(len(best)):
            rest = X[:, i] @ (Y - X @ best + X[:, i] * best[i]) / n
            best[i] = np.sign(rest) * max(abs(rest) - LAM, 0) / (X[:, i] @ X[:, i] / n)
    w, penalty = train(lambda w: L1({"w": w}, LAM), OPTIMIZERS[name], STARTS[start]())
    np.testing.assert_allclose(w, best, atol=1e-7)
    assert penalty.kkt_violation({"w": gradient(w)}) < 1e-7 and 0 < (w == 0).sum() < len(w)
    assert penalty.alive() == {"w": (np.count_nonzero(best), len(best))}
    assert penalty.value() == pytest.approx(LAM * np.abs(best).sum())


def test_l1_first_and_groups_after_it_is_the_sum_of_both():
    w = Parameter(np.random.default_rng(1).standard_normal(len(LABELS)))
    single, group, optimizer = L1({"w": w}, 0.3), lasso(w, 0.1), SGD([w], lr=0.05, momentum=0.9)
    for _ in range(800):
        w.grad = gradient(w.data)
        optimizer.step()
        single.prox_(optimizer)
        group.prox_(optimizer)
    alive = w.data != 0
    soft = np.sign(gradient(w.data)) * np.maximum(np.abs(gradient(w.data)) - 0.3, 0)
    g = np.where(alive, gradient(w.data) + 0.3 * np.sign(w.data), soft)
    dead_group = (np.bincount(LABELS, alive) == 0)[LABELS]
    assert alive.any() and dead_group.any() and (~alive & ~dead_group).any()
    assert np.abs(g + group._direction()[0])[alive].max() < 1e-7
    assert (np.abs(soft)[~alive & ~dead_group] == 0).all()
    norms = np.sqrt(np.bincount(LABELS, soft**2)) / (0.1 * STORED["weights"])
    assert (norms[np.unique(LABELS[dead_group])] <= 1).all()


def test_decoupled_decay_comes_before_the_proximal_step_and_other_methods_are_refused():
    w = Parameter(np.ones(len(LABELS)))
    penalty, optimizer = lasso(w), AdamW([w], lr=0.5, weight_decay=0.1)
    w.grad = np.zeros(len(LABELS))
    optimizer.step()
    assert (w.data == 0.95).all()
    penalty.prox_(optimizer)
    assert not w.data.any(), "D is eps where no gradient ever came: any pull suffices"
    other = RMSprop([w])
    w.grad = np.ones(len(LABELS))
    other.step()
    before = w.data
    with pytest.raises(ValueError, match="no proximal step is known behind RMSprop: take SGD, Adam"):
        penalty.prox_(other)
    assert w.data is before


def test_the_metric_of_adam_is_the_minimum_of_its_own_problem():
    """Against scipy on the same objective, for one group with scales over five decades, and a group it cannot share."""
    from minidl.errors import InputError
    from minidl.sparsity.metric import shrink_in_metric
    from minidl.sparsity.prox import Blocks

    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(0)
    v, d = rng.standard_normal((6, 3)), 10.0 ** rng.uniform(-3, 2, (6, 3))
    labels, t = np.array([0, 0, 1, 1, 2, -1]), np.array([0.5, 0.05, 0.0])
    (w,) = shrink_in_metric([Blocks((6, 3), [(0, labels)])], [v], [d], t)
    assert np.array_equal(w[4:], v[4:]), "threshold 0, or no group: nothing happens"
    for g in (0, 1):
        own, mine, scale = w[labels == g], v[labels == g], d[labels == g]
        length = np.sqrt((own**2).sum())
        np.testing.assert_allclose(scale * (own - mine), -t[g] * own / length, atol=1e-12)

        def cost(z, mine=mine, scale=scale, t=t[g]):
            return 0.5 * (scale.ravel() * (z - mine.ravel()) ** 2).sum() + t * np.sqrt((z**2).sum())

        found = optimize.minimize(cost, mine.ravel(), method="BFGS")
        assert cost(own.ravel()) <= found.fun + 1e-12
    dead = shrink_in_metric([Blocks((6, 3), [(0, labels)])], [v], [d], np.array([1e3, 1e3, 0.0]))[0]
    assert not dead[:4].any()
    with pytest.raises(InputError, match="no exact proximal step behind Adam"):
        shrink_in_metric([Blocks((6, 3), [(0, labels), (1, np.arange(3))])], [v], [d], t)
