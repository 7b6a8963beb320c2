"""The example that compresses another framework's gradients: three values are left of them, and it learns."""

import runpy
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[2] / "mpi_examples" / "pytorch_gradients.py"


@pytest.mark.slow
def test_pytorchs_gradients_are_ternary_and_its_loss_falls(capsys):
    pytest.importorskip("torch")
    ran = runpy.run_path(str(EXAMPLE))
    for p in ran["model"].parameters():
        assert np.unique(p.grad.numpy()).size <= 3, "-s, 0 and s on one rank"
    said = capsys.readouterr().out
    losses = [float(line.split("loss ")[1].split(";")[0]) for line in said.splitlines() if "loss" in line]
    assert len(losses) == 4 and losses[-1] < 0.8 * losses[0]
    assert ran["sent"] * 10 < 4 * ran["numbers"]


def test_what_stands_between_backward_and_step_is_short():
    lines = EXAMPLE.read_text("utf-8").split('"""')[2].splitlines()
    between = lines[lines.index("    loss.backward()") + 1 : lines.index("    optimizer.step()")]
    assert len(between) <= 15
