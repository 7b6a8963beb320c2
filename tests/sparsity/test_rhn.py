"""A recurrent highway network loses whole units: found on the tape, as large as published, taken out exactly."""

import copy
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from lively import removed, set_zero

from minidl import Tensor, backend, no_grad
from minidl.callbacks import Run
from minidl.errors import CompactError
from minidl.models.rhn import DENSE, ISS, Config, RHNLanguageModel
from minidl.optim import SGD
from minidl.sparsity import GroupLasso, compact, groups, silence_, units

N, V, DEPTH = 6, 11, 3


def network():
    """(model, (ids, states)) with a state that is not 0 and biases of all sizes."""
    rng = np.random.default_rng(0)
    model = RHNLanguageModel(V, Config(width=N, depth=DEPTH, init_scale=0.8), rng=rng)
    return model, (rng.integers(0, V, (5, 4)), [Tensor(rng.standard_normal((4, N)))])


def output(model, x):
    model = copy.deepcopy(model).astype(np.float64).eval()
    with no_grad():
        logits, states = model(*x)
    return logits.data, states[0].data


@pytest.mark.parametrize("form", ["auto", "composed"])
def test_a_unit_is_its_column_of_the_table_and_its_row_and_column_everywhere(form):
    model, x = network()
    shapes = {name: p.shape for name, p in model.named_parameters()}
    with backend.form(form):
        found = units(model, x)
    assert Counter(u.layer for u in found).total() == N
    twice, once = ({u.size(shapes, twice=t) for u in found} for t in (True, False))
    # column of the table; columns k of H_l and T_l (two halves at l = 0) and their rows k
    assert twice == {V + (DEPTH + 1) * 4 * N} and once == {V + (DEPTH + 1) * (4 * N - 2)}
    third = {(m.parameter, m.axis): m.indices.tolist() for m in found[3].members}
    where = {("embedding.weight", 1): [3], ("weight_ih", 0): [3, 9], ("weight_ih", 1): [3]}
    for l in range(DEPTH):
        where |= {(f"layers.{l}.weight", 0): [3, 9], (f"layers.{l}.weight", 1): [3], (f"layers.{l}.bias", 0): [3, 9]}
    assert third == where


class Zeros:
    """A random generator that draws zeros without touching memory, for a model of published size."""

    def uniform(self, low, high, shape):
        return np.zeros(shape, np.float32)

    def standard_normal(self, shape, dtype=None):
        return np.zeros(shape, np.float32)


def test_the_published_group_has_46_520_weights():
    """V + 44 n at width 830: crossings twice under the published rule, once otherwise. A unit of a narrow model has as
    many rows and columns as one of the published width."""
    published = {name: p.shape for name, p in RHNLanguageModel(10_000, DENSE, rng=Zeros()).named_parameters()}
    narrow = RHNLanguageModel(V, replace(DENSE, width=4), rng=Zeros())
    found = units(narrow, (np.zeros((1, 1), int), narrow.zero_states(1)))
    assert {u.size(published, twice=True) for u in found} == {46_520} == {10_000 + 44 * 830}
    assert {u.size(published) for u in found} == {46_520 - 22}


def test_the_published_rule_is_a_sum_of_squares_over_the_published_slices():
    model, x = network()
    penalty = GroupLasso(groups(model, x, by="unit"), lam=0.5, rule="published", per="sum")
    squares = np.square(model.embedding.weight.data.astype(float)).sum(0)
    for w in (model.weight_ih, *(layer.weight for layer in model.layers)):
        for half in np.split(np.square(w.data.astype(float)), 2):  # H_l, T_l
            squares += half.sum(0) + half.sum(1)
    np.testing.assert_allclose(np.square(penalty.norms()), squares, rtol=1e-6)
    assert penalty.value() == pytest.approx(0.5 * np.sqrt(squares + 1e-8).sum(), rel=1e-6)
    penalty.below = ISS.threshold
    model.weight_ih.data[0, :3] = 3.9e-4, 4.1e-4, -1e-4
    optimizer = SGD(model.parameters(), lr=0.0)
    penalty.after_step(Run(model, optimizer))
    np.testing.assert_allclose(model.weight_ih.data[0, :3], [0, 4.1e-4, 0], rtol=1e-6)


@pytest.mark.parametrize("form", ["auto", "composed"])
def test_unread_units_leave_exactly_with_their_biases_and_state(form):
    model, x = network()
    silence_(model, [units(model, x)[k] for k in (1, 4)])
    assert not model.embedding.weight.data[:, [1, 4]].any() and model.layers[1].bias.data[[1, 4, 7, 10]].all()
    with backend.form(form):
        small, certificate = compact(model, x)
    assert sum(removed(certificate).values()) == 2 and small.weight_ih.shape == (8, 4)
    assert certificate.proof.train is not None and certificate.proof.gradients < 1e-12
    assert small.output.weight is small.embedding.weight and small.embedding.weight.shape == (V, 4)
    assert certificate.weights_after == replace(DENSE, width=4, depth=DEPTH).weights(V)
    kept = [0, 2, 3, 5]
    logits, state = output(model, x)
    less, less_state = output(small, (x[0], [Tensor(x[1][0].data[:, kept])]))
    np.testing.assert_allclose(less, logits, rtol=0, atol=1e-12 * max(1, np.abs(logits).max()))
    np.testing.assert_allclose(less_state, state[:, kept], rtol=0, atol=1e-12)


def test_a_unit_that_only_the_output_does_not_read_stays():
    model, x = network()
    set_zero(model.embedding.weight, np.s_[:, 2])
    with pytest.raises(CompactError, match="needed"):
        compact(model, x)


def without_makers(bias):
    """Nothing feeds unit 2: its rows are 0, and its column of the table, which makes x; its readers are not."""
    model, x = network()
    set_zero(model.embedding.weight, np.s_[:, 2])
    set_zero(model.weight_ih, [2, 2 + N])
    for layer in model.layers:
        set_zero(layer.weight, [2, 2 + N])
        layer.bias.data = layer.bias.data.copy()
        layer.bias.data[2] = bias
    return model, (x[0], model.zero_states(4))


def test_a_unit_fed_by_its_biases_alone_is_refused():
    model, x = without_makers(bias=0.3)
    with pytest.raises(CompactError, match="1 only its biases feed it, but a recurrent unit is then"):
        compact(model, x)


def test_a_unit_that_says_0_goes_unless_the_state_brings_something():
    model, x = without_makers(bias=0.0)
    small, certificate = compact(model, x)
    assert sum(removed(certificate).values()) == 1 and small.weight_ih.shape == (10, 5)
    loud = np.zeros((4, N))
    loud[0, 2] = 0.1
    with pytest.raises(CompactError, match="nothing can be removed"):
        compact(model, (x[0], [Tensor(loud)]))


def test_the_proximal_step_empties_units_that_then_leave():
    model, x = network()
    optimizer = SGD(model.parameters(), lr=1.0)
    penalty = GroupLasso(groups(model, x, by="unit"), lam=0.1, per="sum", weights=np.array([0, 0, 1, 0, 1, 0]))
    for p in model.parameters():
        p.grad = np.zeros_like(p.data)
    for _ in range(200):
        optimizer.step()
        penalty.prox_(optimizer, per="sum")
    assert (penalty.norms() == 0).nonzero()[0].tolist() == [2, 4]
    small, certificate, less = compact(model, x, optimizer)
    assert small.weight_ih.shape == (8, 4) and len(less.params) == len(small.parameters())
