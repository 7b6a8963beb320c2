"""Conv2d: every output pixel is a product of the filters with one window of the image.

    x: (N, C, H, W)   weight: (O, C/groups, K, L)   bias: (O,)   y: (N, O, P, Q)
    y[n,o,p,q] = b[o] + sum_{c,k,l} weight[o,c,k,l] * x[n, c, p*stride + k*dilation - padding, q*stride + ...]

stride, padding and dilation are numbers, or pairs where height and width differ.
The hand-written form copies every window into a column (`im2col`); the convolution is then one matrix product

    y = W cols      W: (O, C K L)   cols: (C K L, N P Q)
    dL/dW = g cols^T      dL/dcols = W^T g      dL/dx = col2im(dL/dcols)

and col2im, the transpose of im2col, adds each column back to where it was copied from.
"""

from __future__ import annotations

import numpy as np

from minidl.backend import twin
from minidl.errors import InputError, ShapeError
from minidl.layers.module import Module, Parameter
from minidl.tensor import Op, Tensor


def pair(value) -> tuple[int, int]:
    """(a, a) for a number, (a, b) for a pair: along the height, along the width."""
    return (value, value) if np.ndim(value) == 0 else tuple(value)


def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    """How many windows fit along one axis: (size + 2 padding - dilation (kernel - 1) - 1) // stride + 1."""
    out = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    if out < 1:
        raise ShapeError(
            f"a window of {dilation * (kernel - 1) + 1} does not fit an axis of {size} with padding {padding}"
        )
    return out


def _window(i, count, stride, dilation):
    """The pixels that kernel position i meets, over all `count` output positions."""
    return slice(i * dilation, i * dilation + stride * (count - 1) + 1, stride)


def _around(padding):  # the padding as np.pad takes it
    return (0, 0), (0, 0), (padding[0], padding[0]), (padding[1], padding[1])


@twin
def im2col(x, kernel, stride, padding, dilation):
    """cols[c,k,l,n,p,q] = padded x[n, c, p*stride + k*dilation, q*stride + l*dilation].

    x: (N, C, H, W) -> cols: (C, K, L, N, P, Q), contiguous. kernel, stride, padding, dilation: pairs.
    """
    n, c = x.shape[:2]
    p, q = map(output_size, x.shape[2:], kernel, stride, padding, dilation)
    image = np.pad(x, _around(padding)) if any(padding) else x
    image = image.transpose(1, 0, 2, 3)
    cols = np.empty((c, *kernel, n, p, q), x.dtype)
    for k in range(kernel[0]):
        rows = _window(k, p, stride[0], dilation[0])
        for l in range(kernel[1]):
            cols[:, k, l] = image[:, :, rows, _window(l, q, stride[1], dilation[1])]
    return cols


@twin
def col2im(cols, shape, stride, padding, dilation):
    """The transpose of im2col: add every column to the window it came from.

    cols: (C, K, L, N, P, Q) -> x: shape (N, C, H, W).
    """
    c, kh, kw, n, p, q = cols.shape
    (above, left), (h, w) = padding, shape[2:]
    image = np.zeros((c, n, h + 2 * above, w + 2 * left), cols.dtype)
    for k in range(kh):
        rows = _window(k, p, stride[0], dilation[0])
        for l in range(kw):
            image[:, :, rows, _window(l, q, stride[1], dilation[1])] += cols[:, k, l]
    return image[:, :, above : above + h, left : left + w].transpose(1, 0, 2, 3)


@twin
def conv_forward(x, weight, bias, stride, padding, dilation, groups):
    """(y, the columns it was made from, which conv_backward_weight takes, or None where they were not kept).

    stride, padding, dilation: pairs. bias: (O,) or None.
    """
    o = weight.shape[0]
    cols = im2col(x, weight.shape[2:], stride, padding, dilation)
    n, p, q = cols.shape[3:]
    y = weight.reshape(groups, o // groups, -1) @ cols.reshape(groups, weight[0].size, n * p * q)
    y = y.reshape(o, n, p, q)
    if bias is not None:
        y += bias[:, None, None, None]
    return np.ascontiguousarray(y.transpose(1, 0, 2, 3)), cols


@twin
def conv_backward_data(g, weight, shape, stride, padding, dilation, groups):
    """dL/dx = col2im(W^T g).  g: (N, O, P, Q) -> shape: (N, C, H, W)."""
    n, o, p, q = g.shape
    dcols = weight.reshape(groups, o // groups, -1).transpose(0, 2, 1) @ _rows(g, groups)
    return col2im(dcols.reshape(shape[1], *weight.shape[2:], n, p, q), shape, stride, padding, dilation)


@twin
def conv_backward_weight(g, x, cols, kernel, stride, padding, dilation, groups):
    """dL/dW = g cols^T, with conv_forward's columns, or copied again where they are None. kernel: (K, L)."""
    if cols is None:
        cols = im2col(x, kernel, stride, padding, dilation)
    per_group = x.shape[1] // groups
    rows = _rows(g, groups)
    dweight = rows @ cols.reshape(groups, per_group * kernel[0] * kernel[1], rows.shape[-1]).transpose(0, 2, 1)
    return dweight.reshape(g.shape[1], per_group, *kernel)


def _rows(g, groups):  # (groups, O / groups, N P Q)
    o = g.shape[1]
    return np.ascontiguousarray(g.transpose(1, 0, 2, 3)).reshape(groups, o // groups, g.size // o)


def _forward(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    if x.ndim != 4 or x.shape[1] != weight.shape[1] * groups:
        raise ShapeError(
            f"conv2d: x has shape {x.shape}, the weight {weight.shape} with groups={groups} takes (N, "
            f"{weight.shape[1] * groups}, H, W); their channels must agree"
        )
    stride, padding, dilation = pair(stride), pair(padding), pair(dilation)
    for size, *window in zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True):
        output_size(size, *window)  # raises where the window does not fit, whichever form runs
    return conv_forward(x, weight, bias, stride, padding, dilation, groups)


def _backward(g, out, cols, needs, x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    options = pair(stride), pair(padding), pair(dilation), groups
    dx = dweight = dbias = None
    if needs[0]:
        dx = conv_backward_data(g, weight, x.shape, *options)
    if needs[1]:
        dweight = conv_backward_weight(g, x, cols, weight.shape[2:], *options)
    if bias is not None and needs[2]:
        dbias = g.sum((0, 2, 3))
    return dx, dweight, dbias


def _composed(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    n, (o, per_group) = x.shape[0], weight.shape[:2]
    kernel, stride, padding, dilation = weight.shape[2:], pair(stride), pair(padding), pair(dilation)
    p, q = map(output_size, x.shape[2:], kernel, stride, padding, dilation)
    image, y = np.pad(x, _around(padding)), 0.0
    for k in range(kernel[0]):
        for l in range(kernel[1]):
            window = image[:, :, _window(k, p, stride[0], dilation[0]), _window(l, q, stride[1], dilation[1])]
            taps = weight[:, :, k, l].reshape(groups, o // groups, per_group)
            y = y + taps @ window.reshape(n, groups, per_group, p * q)
    y = y.reshape(n, o, p, q)
    return y if bias is None else y + bias.reshape(o, 1, 1)


def _axes(u, shape, x, weight, bias=None, *, padding=0, groups=1, **kwargs):
    for ids in (x[1], weight[0]):  # every group keeps as many as the others: the k-th of all groups go together
        first, *others = ids.reshape(groups, -1)
        for other in others:
            u.unite(first, other)
    # a constant channel is constant in the result too, unless zeros surround it
    u.reads(weight, 1, x, 1, fold=None if any(pair(padding)) or groups > 1 else bias)
    if bias is not None:
        u.unite(weight[0], bias[0])
    return (x[0], weight[0], u.pinned(shape[2]), u.pinned(shape[3]))


def _macs(shape, x, weight, bias=None, **kwargs):
    return int(np.prod(shape)) * int(np.prod(weight[1:]))


conv2d = Op(
    "conv2d", "sum of weight * window + b", forward=_forward, backward=_backward, composed=_composed,
    axes=_axes, macs=_macs,
)  # fmt: skip


class Conv2d(Module):
    """2-D convolution (cross-correlation, as everywhere) with PyTorch's default initialisation.

    x: (N, in_channels, H, W) -> y: (N, out_channels, P, Q). kernel_size, stride, padding, dilation: an int for both
    axes, or a pair (height, width). kept: (c, k, l), integers (n,) each: read only these positions of the window, with
    a weight (out_channels, n); see conv_kept.py.
    """

    kept: np.ndarray | None = None

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size, *, rng: np.random.Generator,
        stride=1, padding=0, dilation=1, groups=1, bias=True, kept=None,
    ):  # fmt: skip
        if in_channels % groups or out_channels % groups:
            raise ShapeError(f"{in_channels} and {out_channels} channels do not divide into {groups} groups")
        kernel = pair(kernel_size)
        bound = (in_channels // groups * kernel[0] * kernel[1]) ** -0.5
        shape = (out_channels, in_channels // groups, *kernel)
        self.weight = Parameter(rng.uniform(-bound, bound, shape).astype(np.float32))
        self.bias = Parameter(rng.uniform(-bound, bound, out_channels).astype(np.float32)) if bias else None
        self.options = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
        if kept is not None:
            self.keep(kept)

    def keep(self, kept) -> None:
        """Read only these positions (c, k, l) of the window from now on."""
        _, c, *kernel = self.weight.shape
        kept = np.array(kept, np.int64)
        limits = (c, *kernel)
        if (
            self.options["groups"] > 1
            or kept.shape[:1] != (3,)
            or not all(0 <= row.min() and row.max() < n for row, n in zip(kept, limits, strict=True))
        ):
            raise InputError(
                f"kept must be three rows of places (c, k, l) below {limits}, of a convolution in one group; got shape "
                f"{kept.shape} with groups={self.options['groups']}"
            )
        self.weight.data, self.weight.grad = np.ascontiguousarray(self.weight.data[:, *kept]), None
        self.kept, self.buffers = kept, ("kept",)
        self.options = {k: v for k, v in self.options.items() if k != "groups"} | {"kernel": tuple(kernel)}

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is not None:
            from minidl.layers.conv_kept import conv2d_kept

            bias = () if self.bias is None else (self.bias,)
            return conv2d_kept(x, self.weight, self.kept, *bias, **self.options)
        args = (self.weight,) if self.bias is None else (self.weight, self.bias)
        return conv2d(x, *args, **self.options)

    def steps(self, x, n=0, o=0, p=0, q=0):
        """(name, array) of everything that makes y[n, o, p, q], in the chosen form; see conv_steps.py."""
        from minidl.layers.conv_steps import conv_steps

        if self.kept is not None:
            raise InputError(f"steps shows whole windows; this convolution reads {len(self.kept[0])} positions of one")
        return conv_steps(x, self.weight, self.bias, n=n, o=o, p=p, q=q, **self.options)

    def extra_repr(self) -> str:
        changed = {k: v for k, v in self.options.items() if v != (0 if k == "padding" else 1)}
        if self.kept is None:
            o, c, k, l = self.weight.shape
            size = f"{c * self.options['groups']}, {o}, {k}x{l}"
        else:
            size = f"{len(self.weight)}, {len(self.kept[0])} positions kept"
        return size + "".join(f", {k}={v}" for k, v in changed.items())
