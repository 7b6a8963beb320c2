"""Optimizers change weights from gradients, and nothing else does. They replace p.data; they never write into it.

optimizer.py   groups, options, state      sgd.py, adam.py, rmsprop.py   one method each: its `update`
schedule.py    step -> learning rate       clip.py                       bounds on gradients, before the step
"""

from minidl.optim.adam import Adam, AdamW
from minidl.optim.clip import clip_grad_norm, clip_grad_norm_each, clip_grad_value
from minidl.optim.optimizer import Optimizer
from minidl.optim.rmsprop import RMSprop
from minidl.optim.schedule import chained, constant, cosine, exponential, inv, multistep, poly, step, warm_up
from minidl.optim.sgd import SGD

__all__ = [
    "SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "chained", "clip_grad_norm", "clip_grad_norm_each",
    "clip_grad_value", "constant", "cosine", "exponential", "inv", "multistep", "poly", "step", "warm_up",
]  # fmt: skip
