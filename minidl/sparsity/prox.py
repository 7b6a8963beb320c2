"""The proximal step of group Lasso: shrink every group's norm by its threshold t_g, and the small ones to exactly 0.

    prox(v) = argmin_w  1/2 ||w - v||^2 + sum_g t_g ||w_g||

Where no groups overlap this is w_g = max(0, 1 - t_g / ||v_g||) v_g. Where they do, there is no closed form, and
shrinking one group after the other gives another, order-dependent point. Two observations make the exact point cheap:

1. Rows and columns with labels cut a matrix into *blocks* (row label by column label). Within a block every weight lies
   in the same groups, so the block is only scaled: w = f v. What has to be found is one number per block, from the
   block norms m alone (H by H of them for an LSTM's recurrent matrix (4H, H), N by C for filters and channels).
2. The dual problem is a projection. With one part xi_g of the norms for each group, nonzero only on its own blocks,

       maximise 1/2 ||m||^2 - 1/2 ||m - sum_g xi_g||^2     subject to ||xi_g|| <= t_g

   and m - sum xi_g is the result. It is climbed by projected gradient steps (Beck and Teboulle's acceleration, started
   again when it overshoots); the distance to the optimum is bounded by the duality gap at every step. A group whose
   ||xi_g|| stays strictly below t_g is 0 at the optimum (complementary slackness): it is set to 0, not to 1e-9.
"""

from __future__ import annotations

import math

import numpy as np

from minidl.backend import twin


class Blocks:
    """One parameter's matrix cut into blocks: (N, K) -> (rows, columns) of them, with the labels of each face.

    faces given: (axis, one label per row or column), -1 for none, and perhaps numbers across it to be added to the
    label (groups.Face). faces kept: labels over the blocks, (rows, 1), (1, columns) or (rows, columns). again: for each
    face, the blocks that an earlier face gave to the same group, or None: a weight counts once in its group.
    disjoint: no block lies in two groups.
    """

    def __init__(self, shape: tuple[int, int], faces: list[tuple]):
        given: tuple[list, list] = ([], [])
        for axis, *labels in faces:
            for a, numbers in zip((axis, 1 - axis), labels, strict=False):
                given[a].append(numbers)
        splits = [_split(numbers, n) for numbers, n in zip(given, shape, strict=True)]
        self.shape = splits[0][1], splits[1][1]
        self._cut = (*splits[0], *splits[1])  # (outer, n, inner) for the rows, then for the columns
        starts = [inner * np.arange(n) for _, n, inner in splits]
        self.faces = [
            _labels(axis, *(n[starts[a]] for a, n in zip((axis, 1 - axis), labels, strict=False)))
            for axis, *labels in faces
        ]
        spread = [np.broadcast_to(labels, self.shape) for labels in self.faces]
        crossings = [np.any([spread[k] == s for s in spread[:k]] or [False], axis=0) for k in range(len(spread))]
        self.again = [np.nonzero(c) if c.any() else None for c in crossings]
        self.disjoint = bool((np.sum([s >= 0 for s in spread], axis=0) <= 1).all())

    def norms(self, data: np.ndarray) -> np.ndarray:
        """||block|| for each block, in float64."""
        return np.sqrt(block_squares(data.reshape(self._cut)))

    def scale(self, data: np.ndarray, factor: np.ndarray) -> np.ndarray:
        """Every block times its factor: a new array."""
        return scaled_blocks(data.reshape(self._cut), factor).reshape(data.shape)

    def spread(self, values: np.ndarray, like: np.ndarray) -> np.ndarray:
        """One value per block -> one per weight, as an array of the shape and dtype of `like`."""
        i, j = self.shape
        full = np.broadcast_to(values.astype(like.dtype).reshape(1, i, 1, 1, j, 1), self._cut)
        return full.reshape(like.shape)

    def sizes(self) -> np.ndarray:
        """How many weights each block holds."""
        a, _, b, c, _, d = self._cut
        return np.full(self.shape, float(a * b * c * d))


@twin
def block_squares(x: np.ndarray) -> np.ndarray:
    """The sum of squares of every block: x (a, i, b, c, j, d) -> (i, j) in float64."""
    letters = [l for l, n in zip("aibcjd", x.shape, strict=True) if n > 1]
    text, keep = "".join(letters), "".join(l for l in letters if l in "ij")
    cut = x.reshape([n for n in x.shape if n > 1])
    return np.einsum(f"{text},{text}->{keep}", cut, cut).astype(np.float64).reshape(x.shape[1], x.shape[4])


@twin
def scaled_blocks(x: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """x (a, i, b, c, j, d) times factor (i, j), in x's dtype: a new array."""
    return x * factor.astype(x.dtype).reshape(1, x.shape[1], 1, 1, x.shape[4], 1)


def _split(labels: list[np.ndarray], n: int) -> tuple[int, int, int]:
    """(outer, count, inner) with which labels of n indices repeat: index (o, i, r) has the label of i.

    Gates: (4, H, 1); channels: (1, C, K L); no labels: (1, 1, n). Labels without such a pattern: (1, n, 1).
    """
    if not labels:
        return 1, 1, n
    table = np.stack(labels)
    change = np.flatnonzero((table[:, 1:] != table[:, :-1]).any(0))
    inner = int(change[0]) + 1 if len(change) else n
    if n % inner or (table != np.repeat(table[:, ::inner], inner, axis=1)).any():
        inner = 1
    table = table[:, ::inner]
    again = np.flatnonzero((table[:, 1:] == table[:, :1]).all(0))
    count = int(again[0]) + 1 if len(again) else table.shape[1]
    if table.shape[1] % count or (table != np.tile(table[:, :count], table.shape[1] // count)).any():
        count = table.shape[1]
    return table.shape[1] // count, count, inner


def _labels(axis: int, along: np.ndarray, across: np.ndarray | None = None) -> np.ndarray:
    """One label per row as a column, or one per column as a row; with numbers across it, one per block."""
    along = np.expand_dims(along, 1 - axis)
    if across is None:
        return along
    across = np.expand_dims(across, axis)
    return np.where((along < 0) | (across < 0), -1, along + across)


def group_norms(blocks: list[Blocks], parts: list[list[np.ndarray]], count: int, twice: bool = False) -> np.ndarray:
    """||part_g|| of every group; the last number belongs to label -1, no group.

    parts: for each parameter and each of its faces an array over the blocks.
    """
    total = np.zeros(count + 1)
    for cut, faces in zip(blocks, parts, strict=True):
        for labels, again, part in zip(cut.faces, cut.again, faces, strict=True):
            alike = tuple(k for k, n in enumerate(labels.shape) if n == 1)
            squares = _zeroed(np.square(part), None if twice else again).sum(alike)
            total += np.bincount(labels.ravel() % (count + 1), squares.ravel(), count + 1)
    return np.sqrt(total)


def shrink(blocks, norms, t, *, gap=1e-6, start=None, limit=1000):
    """The factor of every block in prox(v): (factors, the dual solution, the relative duality gap reached).

    norms: ||v|| of every block, for each parameter; t: a threshold for each group; start: the dual solution of a
    similar problem, from which to go on. The gap is relative to the primal value.
    """
    t = np.append(t, 0.0)  # label -1: never shrunk
    if all(cut.disjoint for cut in blocks):
        n = group_norms(blocks, [[m] * len(cut.faces) for cut, m in zip(blocks, norms, strict=True)], len(t) - 1)
        factor = np.maximum(0, 1 - np.divide(t, n, out=np.ones_like(n), where=n > 0))
        factor[-1] = 1
        return [math.prod(factor[labels] for labels in cut.faces) for cut in blocks], None, 0.0
    return _dual_ascent(blocks, norms, t, gap, start, limit)


def _zeroed(part, where):  # part is fresh: nobody else sees it change
    if where is not None:
        part[where] = 0
    return part


def _dual_ascent(blocks, norms, t, tolerance, start, limit):
    count, overlap = len(t) - 1, max(len(cut.faces) for cut in blocks)
    xi = start or [[np.zeros_like(m) for _ in cut.faces] for cut, m in zip(blocks, norms, strict=True)]
    ahead, speed, worst = xi, 1.0, np.inf
    for _ in range(limit):
        rest = [m - sum(faces) for m, faces in zip(norms, ahead, strict=True)]
        moved = [
            [_zeroed(y + r / overlap, again) for y, again in zip(faces, cut.again, strict=True)]
            for cut, faces, r in zip(blocks, ahead, rest, strict=True)
        ]
        length = group_norms(blocks, moved, count)
        inside = length < t
        s = np.where(inside, 1.0, np.divide(t, length, out=np.ones_like(t), where=length > 0))
        new = [
            [z * s[labels] for z, labels in zip(faces, cut.faces, strict=True)]
            for cut, faces in zip(blocks, moved, strict=True)
        ]
        result, gap = _primal(blocks, norms, new, t, ~inside)
        if gap <= tolerance:
            break
        if gap > worst:
            speed, ahead = 1.0, new
        else:
            faster = (1 + np.sqrt(1 + 4 * speed * speed)) / 2
            ahead = [
                [n + (speed - 1) / faster * (n - x) for n, x in zip(a, b, strict=True)]
                for a, b in zip(new, xi, strict=True)
            ]
            speed = faster
        xi, worst = new, gap
    factors = [np.divide(w, m, out=np.zeros_like(m), where=m > 0) for w, m in zip(result, norms, strict=True)]
    return factors, new, gap


def _primal(blocks, norms, xi, t, alive):
    """The point that belongs to a dual one, its dead groups exactly 0, and the relative duality gap between the two."""
    result, distance, dual = [], 0.0, 0.0
    for cut, m, faces in zip(blocks, norms, xi, strict=True):
        pull = sum(faces)
        w = np.maximum(m - pull, 0)
        for labels in cut.faces:
            w *= alive[labels]
        result.append(w)
        distance += np.vdot(m - w, m - w) / 2
        dual += np.vdot(pull, m) - np.vdot(pull, pull) / 2  # 1/2 ||m||^2 - 1/2 ||m - pull||^2
    faces = [[w] * len(cut.faces) for cut, w in zip(blocks, result, strict=True)]
    primal = distance + float(t @ group_norms(blocks, faces, len(t) - 1))
    return result, (primal - dual) / primal if primal > 0 else 0.0
