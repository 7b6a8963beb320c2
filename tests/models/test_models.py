"""The models of the talk: their counts, shapes and starting points, and what perplexity means."""

from __future__ import annotations

import numpy as np
import pytest

from minidl import Tensor, no_grad
from minidl import layers as L
from minidl.models import LSTMLanguageModel, f1, lenet_caffe, lenet_terngrad, mlp, perplexity
from minidl.models.lstm_lm import detach


def rng(seed=0):
    return np.random.default_rng(seed)


def count(model) -> int:
    return sum(p.numel() for p in model.parameters())


def language_model(vocabulary=11, embedding=5, hidden=(4, 3), **options):
    return LSTMLanguageModel(vocabulary, embedding, hidden, rng=rng(), **options)


def test_lenet_caffe_has_431_080_weights():
    model = lenet_caffe(rng())
    assert count(model) == 431_080
    assert {n: p.shape for n, p in model.named_parameters()} == {
        "conv1.weight": (20, 1, 5, 5), "conv1.bias": (20,), "conv2.weight": (50, 20, 5, 5), "conv2.bias": (50,),
        "ip1.weight": (500, 800), "ip1.bias": (500,), "ip2.weight": (10, 500), "ip2.bias": (10,),
    }  # fmt: skip


def test_lenet_terngrad_keeps_the_image_size_through_its_convolutions():
    model = lenet_terngrad(rng())
    assert model.ip1.weight.shape == (500, 50 * 7 * 7)
    for layer, std in (("conv1", 0.05), ("ip1", 0.048)):
        weight = getattr(model, layer).weight.data
        assert np.abs(weight).max() <= np.float32(2 * std)  # cut at two standard deviations
        assert weight.std() == pytest.approx(0.88 * std, rel=0.1)


@pytest.mark.parametrize(
    "model, inputs",
    [
        (lenet_caffe(rng()), (2, 1, 28, 28)), (lenet_terngrad(rng()), (2, 1, 28, 28)),
        (mlp(rng=rng()), (2, 784)), (f1(hidden=16, layers=2, rng=rng()), (2, 784)),
    ],
    ids=["lenet_caffe", "lenet_terngrad", "mlp", "f1"],
)  # fmt: skip
def test_logits_have_ten_classes_and_every_weight_gets_a_gradient(model, inputs):
    logits = model(Tensor(rng().standard_normal(inputs).astype(np.float32)))
    assert logits.shape == (2, 10) and logits.dtype == np.float32
    L.cross_entropy(logits, [3, 7]).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.shape == p.shape and p.grad.dtype == np.float32, name


def test_mlp_counts():
    assert count(mlp(rng=rng())) == 784 * 500 + 500 + 500 * 300 + 300 + 300 * 10 + 10
    assert count(f1(rng=rng())) == (784 + 1) * 512 + 4 * (512 + 1) * 512 + 5 * 2 * 512 + (512 + 1) * 10


def test_one_seed_one_model():
    for make in (lenet_caffe, lenet_terngrad):
        one, two = make(rng(5)).state_dict(), make(rng(5)).state_dict()
        assert all((one[k] == two[k]).all() for k in one)


@pytest.mark.parametrize("vocabulary, embedding, hidden", [(11, 5, (4, 3)), (10_000, 200, (200, 200))])
def test_language_model_count(vocabulary, embedding, hidden):
    """V E + sum over layers of 4 H (I + H + 1) + V (H + 1): one bias per LSTM layer."""
    inputs = (embedding, *hidden[:-1])
    expected = vocabulary * embedding + vocabulary * (hidden[-1] + 1)
    expected += sum(4 * h * (i + h + 1) for i, h in zip(inputs, hidden, strict=True))
    assert count(language_model(vocabulary, embedding, hidden)) == expected


def test_language_model_shapes_and_initial_range():
    model = language_model(init_scale=0.05)
    logits, states = model(np.zeros((6, 2), int), model.zero_states(2))
    assert logits.shape == (12, 11)
    assert [(h.shape, c.shape) for h, c in states] == [((2, 4), (2, 4)), ((2, 3), (2, 3))]
    assert max(np.abs(p.data).max() for p in model.parameters()) <= 0.05


def test_perplexity_of_a_uniform_model_is_the_size_of_its_vocabulary():
    model = language_model(vocabulary=11)
    for p in (model.output.weight, model.output.bias):
        p.data = np.zeros_like(p.data)
    ids = rng().integers(0, 11, (9, 2))
    assert perplexity(model, [(ids[:-1], ids[1:])]) == pytest.approx(11, rel=1e-6)


def test_state_carried_over_batches_equals_one_long_sequence():
    model = language_model().astype(np.float64)
    ids = rng().integers(0, 11, (13, 3))
    whole = [(ids[:-1], ids[1:])]
    pieces = [(ids[t : t + 4], ids[t + 1 : t + 5]) for t in range(0, 12, 4)]
    assert perplexity(model, pieces) == pytest.approx(perplexity(model, whole), rel=1e-12)
    with no_grad():
        logits, states = model(ids[:-1], model.zero_states(3))
        carried, parts = model.zero_states(3), []
        for x, _ in pieces:
            part, carried = model(x, carried)
            parts.append(part.data)
    np.testing.assert_allclose(np.concatenate(parts), logits.data, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(carried[1][0].data, states[1][0].data, rtol=1e-11)


def test_detach_cuts_the_history_and_keeps_the_numbers():
    model = language_model()
    _, states = model(np.zeros((2, 1), int), model.zero_states(1))
    for (h, c), (h2, c2) in zip(states, detach(states), strict=True):
        assert h.requires_grad and not h2.requires_grad and not c2.requires_grad
        np.testing.assert_array_equal([h.data, c.data], [h2.data, c2.data])


def test_dropout_is_off_in_evaluation_and_perplexity_restores_the_mode():
    model = language_model(keep=0.5)
    ids = rng().integers(0, 11, (5, 2))
    stream = [(ids[:-1], ids[1:])]
    assert perplexity(model, stream) == perplexity(model, stream)
    assert model.training
