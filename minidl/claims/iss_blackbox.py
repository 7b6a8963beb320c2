"""Claim iss-blackbox: a shrunk LSTM is an ordinary smaller LSTM, which any other software runs as it is.

Said (Wen et al. 2018, and the talk): what is left after removing Intrinsic Sparse Structures is a dense LSTM of smaller
sizes, "no software or hardware customization" is needed.

Units are silenced at random in a language model with random biases, and taken out. The arrays that are left go into
torch.nn.Embedding, torch.nn.LSTM (one for each layer, for their sizes differ) and torch.nn.Linear, and both say the
same in float64, with a carried state. The control loads the same arrays with the gates in the order of the authors'
code (i, candidate, f, o), as if it were PyTorch's (i, f, candidate, o).
"""

from __future__ import annotations

import numpy as np

from minidl.claims.claim import Claim, Context
from minidl.models.lstm_lm import LSTMLanguageModel
from minidl.sparsity import compact, silence_, units
from minidl.tensor import no_grad

AUTHORS = (0, 2, 1, 3)  # the authors' gate k is PyTorch's gate AUTHORS[k]


def run(ctx: Context) -> None:
    try:
        import torch
    except ImportError:
        ctx.not_run("a shrunk LSTM in PyTorch", "PyTorch is not installed")
        return
    sizes = (10_000, 200, (200, 200)) if ctx.full else (1_000, 64, (64, 64))
    model, ids = shrunk(ctx, *sizes)
    with ctx.progress(2, "comparing") as bar:
        mine = minidl_says(model, ids)
        allowed = 1e-12 * max(1.0, float(np.abs(mine).max()))
        differences = []
        for order in (range(4), AUTHORS):
            differences.append(float(np.abs(mine - torch_says(torch, model, ids, order)).max()))
            bar.update()
    right, wrong = differences
    ctx.note(
        f"{sizes[2][0]} + {sizes[2][1]} hidden units, {' + '.join(map(str, model.sizes[2]))} left; two pieces of text."
    )
    ctx.row(
        "largest difference of a shrunk language model's outputs in torch.nn.LSTM, float64",
        said="no customization is needed", measured=right, criterion=f"at most {allowed:.1e}", holds=right <= allowed,
        control={"what": "the gates in the order of the authors' code, not converted", "measured": wrong},
        control_holds=wrong <= allowed,
    )  # fmt: skip


def shrunk(ctx: Context, vocabulary: int, embedding: int, hidden: tuple[int, ...]):
    """(a small language model in float64, word numbers (2, T, B)): two thirds of the hidden units are gone."""
    rng = ctx.rng("model")
    model = LSTMLanguageModel(vocabulary, embedding, hidden, init_scale=0.3, rng=rng).astype(np.float64)
    ids = rng.integers(0, vocabulary, (2, 15, 4))
    x = (ids[0], model.zero_states(4))
    own = [u for u in units(model, x) if u.layer.startswith("layers")]
    silence_(model, [own[k] for k in rng.choice(len(own), 2 * len(own) // 3, replace=False)])
    return compact(model, x)[0], ids


def minidl_says(model, ids) -> np.ndarray:
    """The logits (2, T B, V) of both pieces, the state carried from the first to the second."""
    states, said = model.eval().zero_states(ids.shape[2]), []
    with no_grad():
        for piece in ids:
            logits, states = model(piece, states)
            said.append(logits.data)
    return np.stack(said)


def torch_says(torch, model, ids, order) -> np.ndarray:
    """The same from PyTorch's own layers; order: our gate order[k] stands where PyTorch looks for gate k."""
    array = lambda p: torch.from_numpy(np.ascontiguousarray(p.data))
    gates = lambda p: torch.from_numpy(np.concatenate([np.split(p.data, 4)[k] for k in order]))
    layers, said = [], []
    states: list = []  # None, zeros, at first
    for layer in model.layers:
        own = torch.nn.LSTM(layer.weight_ih.shape[1], layer.weight_hh.shape[1]).double()
        bias = gates(layer.bias)
        own.load_state_dict({
            "weight_ih_l0": gates(layer.weight_ih), "weight_hh_l0": gates(layer.weight_hh), "bias_ih_l0": bias,
            "bias_hh_l0": torch.zeros_like(bias),
        })  # fmt: skip
        layers.append(own)
        states.append(None)
    table = torch.nn.Embedding.from_pretrained(array(model.embedding.weight))
    output = torch.nn.Linear(*reversed(model.output.weight.shape)).double()
    output.load_state_dict({"weight": array(model.output.weight), "bias": array(model.output.bias)})
    with torch.no_grad():
        for piece in ids:
            x = table(torch.from_numpy(piece))
            for k, layer in enumerate(layers):
                x, states[k] = layer(x, states[k])
            said.append(output(x.flatten(0, 1)).numpy())
    return np.stack(said)


CLAIM = Claim(
    "iss-blackbox", chapter="2", title="A shrunk LSTM is an ordinary smaller LSTM: PyTorch runs it as it is",
    seconds={"quick": 5, "full": 20}, run=run,
)  # fmt: skip
