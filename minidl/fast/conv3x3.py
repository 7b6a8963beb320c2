"""3 x 3 convolutions of stride 1, straight from the image: no columns are copied, nine taps are added up at once.

The images of a batch are laid under each other as one tall plane a channel, with zeros between them:

    row      0 0 a a a a a      pitch = W + padding: the zeros left of a row are also those right of the row before
             0 0 a a a a a      height = H + padding: the zeros above an image are also those below the image before
    gap      0 0 0 0 0 0 0
             0 0 b b b b b

Flattened, output pixel i is the sum over taps (k, l) of weight[k, l] * plane[i + k pitch + l]: the same offsets for all
pixels, so that the innermost loop runs along the whole plane. The few results that fall into the gaps are dropped.
A tile of rows is laid out at a time, as many as stay in the cache. What makes it fast:

    four output channels at once: each pixel that is loaded meets 36 weights
    scalars, not small arrays: LLVM keeps them in registers
    no compiled parallelism (4 s to compile): threads take ranges of rows, each in a serial kernel without the lock
"""

from __future__ import annotations

import numpy as np

from minidl.fast import buffers
from minidl.fast.jit import jit
from minidl.fast.pool_of_threads import in_parts

TILE = 64 * 1024  # elements of all planes of a tile: what stays in a second-level cache
LANES = 16  # rows of scratch are whole vectors long


@jit
def _lay_out(x, plane, first, height, pitch, above, left):
    """plane[c, i pitch + left + j] = the pixel in row first + i of the tall plane, column j; zeros elsewhere."""
    n, channels, h, w = x.shape
    rows = plane.shape[1] // pitch + 1
    for c in range(channels):
        line = plane[c]
        line[:] = 0
        for i in range(rows):
            image, row = divmod(first + i, height)
            row -= above
            start = i * pitch + left
            if image < n and 0 <= row < h and start + w <= line.size:
                source, target = x[image, c, row], line[start : start + w]
                for j in range(w):
                    target[j] = source[j]


@jit
def _nine_taps(plane, weight, bias, o, pitch, out):
    """out[r, i] = bias[o + r] + sum_{c,k,l} weight[o + r, c, 3 k + l] plane[c, i + k pitch + l], for r = 0 to 3."""
    size = out.shape[1]
    A, B, C, D = out[0], out[1], out[2], out[3]
    A[:], B[:], C[:], D[:] = bias[o], bias[o + 1], bias[o + 2], bias[o + 3]
    for c in range(plane.shape[0]):
        x0, x3, x6 = plane[c], plane[c, pitch:], plane[c, 2 * pitch :]
        x1, x2, x4, x5, x7, x8 = x0[1:], x0[2:], x3[1:], x3[2:], x6[1:], x6[2:]
        w = weight[o, c]
        a0, a1, a2, a3, a4, a5, a6, a7, a8 = w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8]
        w = weight[o + 1, c]
        b0, b1, b2, b3, b4, b5, b6, b7, b8 = w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8]
        w = weight[o + 2, c]
        c0, c1, c2, c3, c4, c5, c6, c7, c8 = w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8]
        w = weight[o + 3, c]
        d0, d1, d2, d3, d4, d5, d6, d7, d8 = w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8]
        for i in range(size):
            v0, v1, v2, v3, v4, v5, v6, v7, v8 = x0[i], x1[i], x2[i], x3[i], x4[i], x5[i], x6[i], x7[i], x8[i]
            A[i] += a0 * v0 + a1 * v1 + a2 * v2 + a3 * v3 + a4 * v4 + a5 * v5 + a6 * v6 + a7 * v7 + a8 * v8
            B[i] += b0 * v0 + b1 * v1 + b2 * v2 + b3 * v3 + b4 * v4 + b5 * v5 + b6 * v6 + b7 * v7 + b8 * v8
            C[i] += c0 * v0 + c1 * v1 + c2 * v2 + c3 * v3 + c4 * v4 + c5 * v5 + c6 * v6 + c7 * v7 + c8 * v8
            D[i] += d0 * v0 + d1 * v1 + d2 * v2 + d3 * v3 + d4 * v4 + d5 * v5 + d6 * v6 + d7 * v7 + d8 * v8


@jit
def _correlate(x, weight, bias, y, above, left, first, last, plane, out):
    """y over rows first to last of the tall plane, a tile at a time. weight: (O up to a multiple of 4, C, 9)."""
    height, pitch = x.shape[2] + above, x.shape[3] + left
    channels, p, q = y.shape[1:]
    tile = out.shape[1] // pitch
    for top in range(first, last, tile):
        _lay_out(x, plane, top, height, pitch, above, left)
        for o in range(0, channels, 4):
            _nine_taps(plane, weight, bias, o, pitch, out)
            for r in range(min(4, channels - o)):
                for i in range(min(tile, last - top)):
                    image, row = divmod(top + i, height)
                    if row < p:
                        target, source = y[image, o + r, row], out[r, i * pitch : i * pitch + q]
                        for j in range(q):
                            target[j] = source[j]


@jit
def _add(d, a0, a1, a2, a3, a4, a5, a6, a7, a8):
    for i, a in enumerate((a0, a1, a2, a3, a4, a5, a6, a7, a8)):
        d[i] += a


@jit
def _products(g, x, dweight, above, left, first, last, plane, gradient):
    """dweight[o, c, 3 k + l] += sum_i g[o, i] plane[c, i + k pitch + l], over rows first to last, two o at once."""
    height, pitch = x.shape[2] + above, x.shape[3] + left
    size, zero = gradient.shape[1], dweight.dtype.type(0)
    tile = size // pitch
    for top in range(first, last, tile):
        _lay_out(x, plane, top, height, pitch, above, left)
        rows = min(tile, last - top)
        _lay_out(g, gradient[:, : rows * pitch], top, height, pitch, 0, 0)
        gradient[:, rows * pitch :] = 0
        for c in range(plane.shape[0]):
            x0, x3, x6 = plane[c], plane[c, pitch:], plane[c, 2 * pitch :]
            x1, x2, x4, x5, x7, x8 = x0[1:], x0[2:], x3[1:], x3[2:], x6[1:], x6[2:]
            for o in range(0, gradient.shape[0], 2):
                g0, g1 = gradient[o], gradient[o + 1]
                a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = a8 = zero
                b0 = b1 = b2 = b3 = b4 = b5 = b6 = b7 = b8 = zero
                # fmt: off
                for i in range(size):
                    s, t = g0[i], g1[i]
                    v = x0[i]; a0 += s * v; b0 += t * v
                    v = x1[i]; a1 += s * v; b1 += t * v
                    v = x2[i]; a2 += s * v; b2 += t * v
                    v = x3[i]; a3 += s * v; b3 += t * v
                    v = x4[i]; a4 += s * v; b4 += t * v
                    v = x5[i]; a5 += s * v; b5 += t * v
                    v = x6[i]; a6 += s * v; b6 += t * v
                    v = x7[i]; a7 += s * v; b7 += t * v
                    v = x8[i]; a8 += s * v; b8 += t * v
                # fmt: on
                _add(dweight[o, c], a0, a1, a2, a3, a4, a5, a6, a7, a8)
                _add(dweight[o + 1, c], b0, b1, b2, b3, b4, b5, b6, b7, b8)


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _scratch(rows: int, size: int, dtype) -> np.ndarray:
    """(rows, size) that start at a cache line: loads and stores that cross lines cost a tenth of the time."""
    raw = np.zeros(rows * size * dtype.itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + rows * size * dtype.itemsize].view(dtype).reshape(rows, size)


def _tile(channels: int, height: int, pitch: int) -> tuple[int, int]:
    """(elements of a tile of output, of the two rows more that it reads), whole vectors long."""
    rows = max(4, min(height, TILE // (channels * pitch)))
    size = _up(rows * pitch, LANES)
    return size, _up(size + 2 * pitch + 2, LANES)


def handles(kernel, stride, padding, dilation, groups, *arrays) -> bool:
    """Whether the kernels of this file compute this convolution of these arrays."""
    return (
        tuple(kernel) == (3, 3)
        and stride == dilation == (1, 1)
        and groups == 1
        and max(padding) <= 2  # else there are pixels that only zeros reach, and they have no place in the plane
        and len({a.dtype for a in arrays}) == 1
        and arrays[0].dtype.char in "fd"
    )


def correlate(x, weight, bias, padding):
    """y[n,o,p,q] = bias[o] + sum_{c,k,l} weight[o,c,k,l] * x[n, c, p + k - padding, q + l - padding]."""
    n, c, h, w = x.shape
    o, (above, left) = len(weight), padding
    taps, b = np.zeros((_up(o, 4), c, 9), x.dtype), np.zeros(_up(o, 4), x.dtype)
    taps[:o] = weight.reshape(o, c, 9)
    b[:o] = 0 if bias is None else bias
    y = buffers.empty((n, o, h + 2 * above - 2, w + 2 * left - 2), x.dtype)
    x, height, pitch = np.ascontiguousarray(x), h + above, w + left

    def part(_, first, last):
        size, read = _tile(c + 4, last - first, pitch)
        scratch = _scratch(c, read, x.dtype), _scratch(4, size, x.dtype)
        _correlate(x, taps, b, y, above, left, first, last, *scratch)

    in_parts(n * height, part, y.size * c * 9)
    return y


def backward_weight(g, x, padding):
    """dL/dweight[o,c,k,l]: the product of plane o of the gradient with plane c of the image, moved by (k, l)."""
    n, c, h, w = x.shape
    o, (above, left) = g.shape[1], padding
    height, pitch = h + above, w + left
    x, g = np.ascontiguousarray(x), np.ascontiguousarray(g)
    sums: dict[int, np.ndarray] = {}

    def part(number, first, last):
        size, read = _tile(c + o, last - first, pitch)
        sums[number] = np.zeros((_up(o, 2), c, 9), x.dtype)
        scratch = _scratch(c, read, x.dtype), _scratch(_up(o, 2), size, x.dtype)
        _products(g, x, sums[number], above, left, first, last, *scratch)

    parts = in_parts(n * height, part, g.size * c * 9)
    return sum(sums[k] for k in range(parts))[:o].reshape(o, c, 3, 3)
