"""Recurrent layers over several batches: the state carried, dropout's masks fixed, the last batch shorter."""

import numpy as np
import pytest

from minidl import Tensor, backend
from minidl import layers as L


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("kind", [L.LSTM, L.GRU])
def test_hand_written_equals_composed_over_carried_batches_with_a_shorter_last_one_and_fixed_masks(kind):
    """Loss and every gradient, back through the state into the batches before: two layers, dropout between them."""
    x, found = rng().standard_normal((11, 3, 4)), []
    for form in ("numpy", "composed"):
        layer, state, loss = kind(4, 5, 2, dropout=0.4, rng=rng()).astype(np.float64), None, 0.0
        with backend.form(form):
            for part in (x[:4], x[4:8], x[8:]):
                y, state = layer(Tensor(part), state)
                loss = loss + (y * np.cos(np.arange(y.numel())).reshape(y.shape)).sum()
            loss.backward()
        found.append([loss.data, *(p.grad for p in layer.parameters())])
    for a, b in zip(*found, strict=True):
        assert np.abs(a - b).max() <= 1e-12 * max(1, np.abs(b).max())
    assert all(np.abs(g).max() > 1e-3 for g in found[0])
