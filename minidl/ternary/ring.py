"""The float baseline: our own allreduce over a ring, in segments, in 32 or 16 bits.

The gradient is cut into n chunks, one for each rank. Each goes round the ring twice:

    n - 1 steps    a rank adds its own numbers to the chunk that comes in, and passes the sum on       (reduce-scatter)
    n - 1 steps    the finished chunks go round once more, and every rank keeps a copy of each         (allgather)

so each rank sends 2 (n - 1) / n of the gradient, which no algorithm can undercut. Within a chunk, segments follow each
other: one is added and passed on while the next still travels. A library's own Allreduce is not always this good, and
a baseline that is beaten too easily flatters what is compared with it.

Source: Patarasu and Yuan, "Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations", JPDC 2009.
"""

from __future__ import annotations

import numpy as np

SEGMENT = 65_536
"""Numbers in a segment: 256 KiB in float32, long beside what a message costs and short beside a gradient."""


def ring_allreduce(g: np.ndarray, comm, dtype=np.float32, segment: int = SEGMENT) -> np.ndarray:
    """The mean over ranks, the shape of g, float32; the same bits on all ranks, other bits for another number of ranks.

    dtype: of what travels. With float16 the sums are still made in float32, but rounded before each hop; above 65,504
    they become infinite. Sends 2 (n - 1) / n D numbers.
    """
    rank, ranks = comm.Get_rank(), comm.Get_size()
    total = np.array(g, np.float32).reshape(-1)
    bounds = [total.size * k // ranks for k in range(ranks + 1)]
    chunks = [
        [slice(at, min(at + segment, end)) for at in range(start, end, segment)]
        for start, end in zip(bounds[:-1], bounds[1:], strict=True)
    ]
    going: list = []  # the requests of what was sent in this step, and the bytes, which must live until they have left

    def send(part: slice) -> None:
        numbers = total[part].astype(dtype).view(np.uint8)
        going.append((comm.Isend(numbers, (rank + 1) % ranks), numbers))

    with np.errstate(over="ignore"):
        for part in chunks[rank] if ranks > 1 else ():
            send(part)
        for step in range(2 * (ranks - 1)):
            before, going = going, []
            parts = chunks[(rank - step - 1) % ranks]
            arriving = [np.empty(part.stop - part.start, dtype) for part in parts]
            requests = [comm.Irecv(numbers.view(np.uint8), (rank - 1) % ranks) for numbers in arriving]
            for part, numbers, request in zip(parts, arriving, requests, strict=True):
                request.Wait()
                if step < ranks - 1:
                    total[part] += numbers
                else:
                    total[part] = numbers
                if step == ranks - 2:  # the sum is complete: keep what the others will get
                    total[part] = total[part].astype(dtype)
                if step < 2 * ranks - 3:
                    send(part)
            for request, _ in before:
                request.Wait()
        for request, _ in going:
            request.Wait()
    return (total / np.float32(ranks)).reshape(np.shape(g))
