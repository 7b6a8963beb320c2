"""Layers and optimizers beside PyTorch: what golden_cases.py does for functions. Stored in golden_layers.npz."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from golden_cases import Case, normal, ties

from minidl import layers as L
from minidl import optim

CASES: dict[str, Case] = {}
FLOAT32 = ("conv1d", "avg_pool2d padding 7 with padding", "adaptive_avg_pool2d (3, 4)", "layer_norm sequence",
           "local_response_norm strong", "local_response_norm within channels", "batch_norm in ghosts",
           "LSTM 2 layers 2 directions", "GRU", "RNN")  # fmt: skip  # these also in float32


def case(name: str, inputs, torch, minidl) -> None:
    CASES[name] = Case(tuple(inputs), torch, minidl)


functional = lambda f: lambda torch, *a, **k: f(torch.nn.functional, *a, **k)

# -- convolutions and pooling ------------------------------------------------------------------------------------------
options = dict(stride=(2, 1), padding=(0, 2), dilation=(1, 2))
case(
    "conv2d pairs", normal((2, 2, 7, 6), (3, 2, 3, 2), (3,)),
    functional(lambda F, *a: F.conv2d(*a, **options)), lambda *a: L.conv2d(*a, **options),
)  # fmt: skip
for name, shapes, how in [
    ("", [(2, 3, 7), (4, 3, 3), (4,)], {}),
    ("stride padding dilation", [(2, 4, 9), (6, 2, 3), (6,)], dict(stride=2, padding=3, dilation=2, groups=2)),
    ("without bias", [(2, 3, 7), (4, 3, 1)], {}),
]:
    case(
        f"conv1d {name}".strip(), normal(*shapes), functional(lambda F, *a, how=how: F.conv1d(*a, **how)),
        lambda *a, how=how: L.conv1d(*a, **how),
    )  # fmt: skip

POOLS = {
    "": dict(kernel_size=2, stride=2),
    "overlap": dict(kernel_size=3, stride=2),
    "padding": dict(kernel_size=3, stride=2, padding=1),
    "up": dict(kernel_size=2, stride=2, ceil_mode=True),
    "up padding": dict(kernel_size=3, stride=2, padding=1, ceil_mode=True),
    "up and dropped": dict(kernel_size=2, stride=3, padding=1, ceil_mode=True),
    "up, the last far out": dict(kernel_size=5, stride=4, padding=2, ceil_mode=True),
}
for name, how in POOLS.items():
    for shape in ((2, 3, 7, 8), (1, 1, 6, 5)):
        if "up" in name:
            case(
                f"max_pool2d {name} {shape[2]}", [x - 3 for x in normal(shape)],
                functional(lambda F, x, how=how: F.max_pool2d(x, **how)), lambda x, how=how: L.MaxPool2d(**how)(x),
            )  # fmt: skip
        for include in (True, False):
            more = how | dict(count_include_pad=include)
            case(
                f"avg_pool2d {name} {shape[2]} {'with' if include else 'without'} padding", normal(shape),
                functional(lambda F, x, more=more: F.avg_pool2d(x, **more)),
                lambda x, more=more: L.AvgPool2d(**more)(x),
            )  # fmt: skip
for size in (1, 2, (3, 4), (5, 8), (7, 1)):
    case(
        f"adaptive_avg_pool2d {size}", normal((2, 3, 6, 8)),
        functional(lambda F, x, size=size: F.adaptive_avg_pool2d(x, size)),
        lambda x, size=size: L.AdaptiveAvgPool2d(size)(x),
    )  # fmt: skip
    case(
        f"adaptive_max_pool2d {size}", ties((2, 3, 6, 8), high=2),
        functional(lambda F, x, size=size: F.adaptive_max_pool2d(x, size)),
        lambda x, size=size: L.AdaptiveMaxPool2d(size)(x),
    )  # fmt: skip

# -- norms -------------------------------------------------------------------------------------------------------------
for name, shape, axes in [("rows", (5, 4), 1), ("sequence", (3, 2, 4), 1), ("two axes", (3, 2, 4), 2)]:
    case(
        f"layer_norm {name}", [3 * normal(shape)[0] + 2, *normal(shape[-axes:], shape[-axes:], seed=1)],
        functional(lambda F, x, w, b: F.layer_norm(x, w.shape, w, b)), L.layer_norm,
    )  # fmt: skip
for name, shape, how in [
    ("", (2, 7, 3, 2), dict(size=5)),
    ("even", (2, 7, 3, 2), dict(size=4, alpha=0.5, beta=0.6, k=2.0)),
    ("strong", (2, 3, 3, 2), dict(size=5, alpha=2.0, beta=0.75, k=0.5)),
]:
    case(
        f"local_response_norm {name}".strip(), normal(shape),
        functional(lambda F, x, how=how: F.local_response_norm(x, **how)),
        lambda x, how=how: L.LocalResponseNorm(**how)(x),
    )  # fmt: skip
case(  # Caffe says: an average pooling of the squares, padded and stride 1, then (1 + alpha mean)^(-beta) x
    "local_response_norm within channels", normal((2, 3, 5, 4)),
    functional(lambda F, x: x * (1 + 0.8 * F.avg_pool2d(x * x, 3, 1, 1)) ** -0.75),
    lambda x: L.LocalResponseNorm(3, 0.8, within=True)(x),
)  # fmt: skip


def torch_ghosts(torch, x, weight, bias, mean, var):
    mean, var = mean.detach().clone(), var.detach().clone()
    parts = x.split(4)
    ys = [torch.nn.functional.batch_norm(p, mean, var, weight, bias, True, momentum=0.3) for p in parts]
    return torch.cat(ys), mean, var


def minidl_ghosts(x, weight, bias, mean, var):
    layer = L.BatchNorm2d(x.shape[1], momentum=0.3, ghost=4)
    layer.weight, layer.bias, layer.running_mean, layer.running_var = weight, bias, mean.data, var.data
    return layer(x), layer.running_mean, layer.running_var


inputs = [*normal((10, 2, 3, 2), (2,), (2,), (2,)), np.array([0.5, 2.0])]
case("batch_norm in ghosts", inputs, torch_ghosts, minidl_ghosts)


# -- recurrent layers: every tensor of every cell an input ------------------------------------------------------------
def recurrent(kind: str, gates: int, layers=1, directions=1, **options) -> None:
    """One case; inputs: x, the state's parts, then four tensors per cell."""
    steps, batch, features, width, cells = 5, 3, 4, 2, layers * directions
    parts = 2 if kind == "LSTM" else 1
    shapes: list = [(steps, batch, features)] + [(cells, batch, width)] * parts
    for cell in range(cells):
        read = features if cell < directions else directions * width
        shapes += [(gates * width, read), (gates * width, width), (gates * width,), (gates * width,)]

    def torch_form(torch, x, *rest):
        module = getattr(torch.nn, kind)(
            features, width, layers, bidirectional=directions == 2, **options, dtype=x.dtype
        )
        names = [name for name, _ in module.named_parameters()]
        state = rest[:parts] if parts == 2 else rest[0]
        y, after = torch.func.functional_call(module, dict(zip(names, rest[parts:], strict=True)), (x, state))
        return (y, *after) if parts == 2 else (y, after)

    def minidl_form(x, *rest):
        rng = np.random.default_rng(0)
        layer = getattr(L, kind)(features, width, layers, bidirectional=directions == 2, rng=rng, **options)
        names = [name for cell in range(cells) for name in layer.names(cell)]
        for name, tensor in zip(names, rest[parts:], strict=True):
            setattr(layer, name, tensor)
        state = tuple(part[0] for part in rest[:parts]) if cells == 1 else rest[:parts]
        y, after = layer(x, state if parts == 2 else state[0])
        after = after if parts == 2 else (after,)
        return y, *(part.unsqueeze(0) if cells == 1 else part for part in after)

    shape = f"{layers} layers {directions} directions" if cells > 1 else ""
    case(" ".join([kind, shape, *map(str, options.values())]).strip(), normal(*shapes), torch_form, minidl_form)


recurrent("GRU", 3)
recurrent("RNN", 1)
recurrent("RNN", 1, nonlinearity="relu")
for kind, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
    recurrent(kind, gates, layers=2)
    recurrent(kind, gates, layers=2, directions=2)

# -- optimizers: five steps on the same gradients, two groups, the rates changed before the fourth ---------------------
OPTIMIZERS: dict[str, tuple[str, dict, dict]] = {  # what -> (class, options, other options of the second group)
    "SGD": ("SGD", dict(momentum=0.9, weight_decay=0.05), dict(momentum=0.5, weight_decay=0.0)),
    "SGD nesterov and not": ("SGD", dict(momentum=0.8, nesterov=True), dict(nesterov=False, dampening=0.3)),
    "Adam": ("Adam", {}, dict(betas=(0.5, 0.9))),
    "Adam weight decay": ("Adam", dict(weight_decay=0.1), dict(weight_decay=0.01, eps=1e-3)),
    "AdamW": ("AdamW", {}, dict(weight_decay=0.2)),
    "RMSprop": ("RMSprop", {}, dict(alpha=0.9)),
    "RMSprop momentum": ("RMSprop", dict(momentum=0.9, weight_decay=0.1), dict(eps=1e-2)),
    "RMSprop centered": ("RMSprop", dict(centered=True), dict(momentum=0.5)),
}
SECOND = 0.5  # the second group's rate, as a part of the first's

# -- schedules: the rates of the first LONG steps ----------------------------------------------------------------------
LONG = 12
SCHEDULES: dict[str, tuple[Callable, Callable]] = {  # what -> (PyTorch's way to say it, minidl's)
    "constant": (lambda s, o: s.LambdaLR(o, lambda t: 1.0), optim.constant(0.8)),
    "step": (lambda s, o: s.StepLR(o, 3, 0.1), optim.step(0.8, 0.1, 3)),
    "multistep": (lambda s, o: s.MultiStepLR(o, [7, 2, 7], 0.5), optim.multistep(0.8, 0.5, [7, 2, 7])),
    "exponential": (lambda s, o: s.ExponentialLR(o, 0.9), optim.exponential(0.8, 0.9)),
    "poly": (lambda s, o: s.PolynomialLR(o, 9, power=0.5), optim.poly(0.8, 0.5, 9)),
    "cosine": (lambda s, o: s.CosineAnnealingLR(o, 11, eta_min=0.1), optim.cosine(0.8, 11, 0.1)),
    "warm-up": (lambda s, o: s.LinearLR(o, 0.25, 1.0, 4), optim.warm_up(optim.constant(0.8), 4, 0.25)),
    "warm-up of a falling rate": (
        lambda s, o: s.ChainedScheduler([s.LinearLR(o, 0.25, 1.0, 4), s.ExponentialLR(o, 0.9)]),
        optim.warm_up(optim.exponential(0.8, 0.9), 4, 0.25),
    ),
    "chained": (
        lambda s, o: s.SequentialLR(o, [s.LinearLR(o, 0.25, 1.0, 4), s.CosineAnnealingLR(o, 8)], [4]),
        optim.chained((0, optim.warm_up(optim.constant(0.8), 4, 0.25)), (4, optim.cosine(0.8, 8))),
    ),
}
