"""3 x 3 convolutions of stride 1 over many channels by Winograd's minimal filtering: 16 products in the stead of 36.

The output is cut into tiles of 2 x 2; each is made from the 4 x 4 pixels d around it and the 3 x 3 filter w:

    y = A^T [(G w G^T) * (B^T d B)] A        * element by element

            1  0 -1  0             1   0   0              1  1  1  0
    B^T =   0  1  1  0       G =   .5  .5  .5       A^T = 0  1 -1 -1
            0 -1  1  0             .5 -.5  .5
            0  1  0 -1             0   0   1

The sum over channels can be taken before A^T: each of the 16 elements is a matrix product, (O, C) times (C, tiles).
Images lie under each other in tall planes as in conv3x3.py, but of four kinds: even and odd rows, even and odd columns;
so that a tile is an index, d's pixels are 16 offsets from it, and every loop runs along a plane.
A pixel that is NaN or infinite makes all pixels of the tiles that see it NaN, not only those whose window holds it.
(Lavin and Gray 2016)
"""

from __future__ import annotations

import numpy as np

from minidl.fast import buffers
from minidl.fast.jit import jit
from minidl.fast.pool_of_threads import in_parts

LEAST = 32  # channels in and out from which the products saved are worth the transformations
TILES = 1 << 14  # tiles times channels, in and out, at a time: their 16 elements stay in a second-level cache

_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


@jit
def _lay_out(x, planes, first, last, height, pitch, above, left):
    """planes[2 (row % 2) + column % 2, c, tile row * pitch + tile column] = pixels of images first to last."""
    planes[:] = 0
    for c in range(x.shape[1]):
        for image in range(first, last):
            for r in range(x.shape[2]):
                row = r + above
                start = ((image - first) * height + row // 2) * pitch
                for j in range(2):  # the first pixel of an even column, of an odd one
                    kind, source = planes[2 * (row % 2) + j, c], x[image, c, r, (j + left) % 2 :]
                    target = kind[start + (left + (j + left) % 2) // 2 :]
                    for k in range((source.size + 1) // 2):
                        target[k] = source[2 * k]


@jit
def _filter(a, b, c, d, to_a, to_b, to_c, to_d):
    """B^T along one axis."""
    for i in range(to_a.size):
        p, q, r, s = a[i], b[i], c[i], d[i]
        to_a[i] = p - r
        to_b[i] = q + r
        to_c[i] = r - q
        to_d[i] = q - s


@jit
def _forwards(planes, half, to, pitch):
    """to[4 r + s, c] = element (r, s) of B^T d B for every tile; half: scratch for B^T d."""
    for c in range(to.shape[1]):
        for s in range(4):
            even, odd = planes[s % 2, c, s // 2 :], planes[2 + s % 2, c, s // 2 :]
            _filter(even, odd, even[pitch:], odd[pitch:], half[s], half[4 + s], half[8 + s], half[12 + s])
        for r in range(4):
            k = 4 * r
            _filter(half[k], half[k + 1], half[k + 2], half[k + 3], to[k, c], to[k + 1, c], to[k + 2, c], to[k + 3, c])


@jit
def _gather(a, b, c, d, first, second):
    """A^T along one axis."""
    for i in range(first.size):
        q, r = b[i], c[i]
        first[i] = a[i] + q + r
        second[i] = q - r - d[i]


@jit
def _backwards(m, half, y, first, last, height, pitch, bias):
    """y = A^T m A + bias for the tiles of images first to last."""
    p, q = y.shape[2:]
    for o in range(y.shape[1]):
        for s in range(4):
            _gather(m[s, o], m[4 + s, o], m[8 + s, o], m[12 + s, o], half[s], half[4 + s])
        for a in range(2):
            _gather(half[4 * a], half[4 * a + 1], half[4 * a + 2], half[4 * a + 3], half[8 + 2 * a], half[9 + 2 * a])
        for image in range(first, last):
            for row in range(p):
                start = ((image - first) * height + row // 2) * pitch
                for j in range(2):
                    target, source = y[image, o, row, j:], half[8 + 2 * (row % 2) + j, start:]
                    for k in range((target.size + 1) // 2):
                        target[2 * k] = source[k] + bias[o]


def _images_at_a_time(outputs: int, inputs: int, p: int, q: int) -> int:
    return TILES // (outputs + inputs) // ((p + 3) // 2 * ((q + 3) // 2))


def handles(outputs: int, inputs: int, p: int, q: int) -> bool:
    """Whether this way is the fastest for so many channels, and results of p x q pixels."""
    return min(outputs, inputs) >= LEAST and _images_at_a_time(outputs, inputs, p, q) > 0


def correlate(x, weight, bias, padding):
    """y[n,o,p,q] = bias[o] + sum_{c,k,l} weight[o,c,k,l] * x[n, c, p + k - padding, q + l - padding]."""
    n, c, h, w = x.shape
    o, (above, left) = len(weight), padding
    y = buffers.empty((n, o, h + 2 * above - 2, w + 2 * left - 2), x.dtype)
    height, pitch = (y.shape[2] + 3) // 2, (y.shape[3] + 3) // 2  # tiles, and one more: d is two tiles wide
    g = _G.astype(x.dtype)
    filters = np.ascontiguousarray((g @ weight @ g.T).transpose(2, 3, 0, 1)).reshape(16, o, c)
    b = np.zeros(o, x.dtype) if bias is None else bias
    images = max(1, _images_at_a_time(o, c, *y.shape[2:]))
    size = -(-images * height * pitch // 16) * 16
    x = np.ascontiguousarray(x)

    def part(_, begin, end):
        planes = buffers.empty((4, c, size + pitch + 16), x.dtype)
        half, to, m = (buffers.empty((16, *rest), x.dtype) for rest in ((size,), (c, size), (o, size)))
        for first in range(begin, end, images):
            last = min(first + images, end)
            _lay_out(x, planes, first, last, height, pitch, above, left)
            _forwards(planes, half, to, pitch)
            np.matmul(filters, to, out=m)
            _backwards(m, half, y, first, last, height, pitch, b)

    in_parts(n, part, y.size * c * 9, blas=True)
    return y
