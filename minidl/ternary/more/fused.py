"""All tensors of a step in one exchange: fewer messages, for networks of many small tensors and slow starts.

    parallel = Fused(model.named_parameters(), comm, mode="gather")          in all else a DataParallel

A message takes its time however small it is, and every tensor's exchange has several of them: biases cost as much as
matrices. Put one behind the other, they all travel in one. Every tensor keeps scales of its own, so the means have the
same bits; only the float ring, whose parts begin elsewhere, adds in another order. The ledger no longer tells tensors
apart. With `Overlap` each bucket is one exchange, so that some can leave early.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minidl.ternary.allreduce import share_scales
from minidl.ternary.data_parallel import DataParallel, bytes_per_step


class Fused(DataParallel):
    """DataParallel with one exchange for all ternary tensors, and one for all that stay in float."""

    def means(self, floats: list[int], ternary: list[int], grads, step: int, comm) -> Iterator[tuple[int, np.ndarray]]:
        if floats:
            rows = [np.concatenate([np.reshape(g[k], -1) for k in floats]) for g in grads.values()]
            with comm.ledger.about("all", "float"):
                mean = self._mean_in_float(rows, comm)
            yield from self._apart(floats, mean)
        if not ternary:
            return
        own, parts = self._own_scales(ternary, grads)
        with comm.ledger.about("all", "scales"):
            shared = share_scales(np.max(list(own.values()), axis=0), comm)
        sums, lengths = [], []
        for k in ternary:
            part = parts[k]
            sums.append(self._sum_of_trits(k, grads, shared[part], {w: own[w][part] for w in own}, step))
            block = self.ternariser.block(size := sums[-1].size)
            lengths += [max(0, min(block, size - block * b)) for b in range(part.stop - part.start)]
        s = np.concatenate([shared[parts[k]] for k in ternary])  # a layer's scale once for each of its tensors
        count = {"workers": self.workers, "own": len(grads), "step": step}
        with comm.ledger.about("all", "sum"):
            mean = self.exchange(np.concatenate(sums), s, comm, np.array(lengths), **count)
        yield from self._apart(ternary, mean)

    def _apart(self, ks: list[int], mean: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        ends = np.cumsum([self.params[k][1].data.size for k in ks])
        return zip(ks, np.split(mean, ends[:-1]), strict=True)

    def _expected(self, ternary: list[int], floats: list[int], **options) -> int:
        return bytes_per_step(ternary=[sum(ternary)], floats=[sum(floats)], **options)
