"""Structured sparsity: learn which parts of a network to remove; remove them, with proof that nothing else changed.

A small vocabulary, one concept a file:

    units.py         what leaves a network together: found on the tape, by the ids of axis indices
    function.py      a plain function of Tensors as a model, for those who have no Module
    groups.py        which weights are to vanish together: rows and columns with labels;  picture.py: their picture
    penalty.py       two rules, and when in a training step each of them acts;  pull.py: how far, behind which optimizer
    group_lasso.py   the penalty on the norms of groups;  prox.py: the step that makes them exactly 0;  metric.py: the
                     same behind Adam;  l1.py: single weights, to compare with
    steer.py         lambda chosen while training, for a wanted sparsity, cost or latency;  latency.py: the
                     compacted network's time, beside the dense one's;  report.py: tables by epoch
    freeze.py        zeros that stay 0 while the rest is fine-tuned
    removable.py     which units do nothing: the ones that nobody reads, and the ones that are constant
    branches.py      which branches are constant and can leave as a whole
    compact.py       the smaller ordinary network;  certificate.py: the table, and the proof that nothing else changed
    columns.py       convolutions that read only the positions some filter uses
    saved.py         a small network from a file;  during.py: compacting every so many epochs
    cost.py          multiply-adds and weights, counted on the tape;  roofline.py: the least time they can take here
    ways.py          what zeros are worth: dense, compressed rows, rows and columns removed, compacted, timed
"""

from minidl.sparsity.certificate import Certificate
from minidl.sparsity.compact import NothingToRemove, compact
from minidl.sparsity.cost import Cost, cost
from minidl.sparsity.during import CompactEvery
from minidl.sparsity.freeze import FrozenZeros, freeze_zeros
from minidl.sparsity.function import Function
from minidl.sparsity.group_lasso import GroupLasso
from minidl.sparsity.groups import Groups, groups, own_groups
from minidl.sparsity.l1 import L1
from minidl.sparsity.latency import Latency
from minidl.sparsity.report import Report, Sparsity, sparsity_of
from minidl.sparsity.roofline import Machine, measured_machine, roofline
from minidl.sparsity.saved import load_compacted
from minidl.sparsity.steer import Steer
from minidl.sparsity.units import Unit, silence_, units

__all__ = [
    "L1", "Certificate", "CompactEvery", "Cost", "FrozenZeros", "Function", "GroupLasso", "Groups", "Latency",
    "Machine", "NothingToRemove", "Report", "Sparsity", "Steer", "Unit", "compact", "cost", "freeze_zeros", "groups",
    "load_compacted", "measured_machine", "own_groups", "roofline", "silence_", "sparsity_of", "units",
]  # fmt: skip
