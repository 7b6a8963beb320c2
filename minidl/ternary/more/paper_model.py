"""The paper's performance model: images a second on 1 to 512 GPUs, with gradients in floats and in trits.

    clusters = {name: fit(name) for name in CLUSTERS}               on the float series alone
    throughput(NETS["AlexNet"], clusters["Ethernet"], 8, ternary=True)       images a second
    errors(clusters)                                                every TernGrad point the paper draws, and ours

A machine has 4 GPUs. A step computes K images on each of N GPUs and sums gradients within, then between i machines:

    T = K / throughput(1) + V a log2(j) + V b(i)          b(1) = 0, b(2), b(4 and more): seconds a byte
    V = 4 P                                               bytes of float gradients of P weights
    V = 4 P (f + (1 - f) / 16)                            2 bits each, but the last layer, a share f, in float

The published form has log2(i) in the place of b; the published points have a cost that no longer grows from 4 machines
on. a, b(2) and b(4) are fitted to the relative errors of the float points; no TernGrad point is looked at. AlexNet's
points fit a batch of 256 a GPU, not the stated 128: with that, its network would be twice as fast as the others'.
Source: Wen et al., TernGrad, NIPS 2017, figure 5 (read off the drawing) and its supplement; Yan et al., KDD 2015.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

GPUS = 2 ** np.arange(10)
IN_A_MACHINE = 4


class Net(NamedTuple):
    """A network as a load: weights, those of its last layer, images in a GPU's batch, images a second of one GPU."""

    params: float
    last: float
    batch: int
    alone: dict[str, float]  # by cluster


class Cluster(NamedTuple):
    """Seconds a byte: within a machine, for each doubling of its GPUs; between two machines; between four or more."""

    within: float
    two: float
    more: float


CLUSTERS = {"Ethernet": "1 Gbit/s Ethernet and PCI, GTX 1080", "InfiniBand": "100 Gbit/s InfiniBand and NVLink, P100"}
SERIES = {  # figure 5: images a second on 1, 2, 4, ... 512 GPUs
    ("Ethernet", "AlexNet", "float"): (394, 758, 1503, 719, 830, 1653, 3236, 6528, 13030, 25699),
    ("Ethernet", "AlexNet", "ternary"): (392, 771, 1541, 2190, 3461, 6868, 13622, 26957, 53171, 99473),
    ("Ethernet", "GoogLeNet", "float"): (174, 348, 692, 850, 1283, 2486, 4903, 9696, 18989, 36534),
    ("Ethernet", "GoogLeNet", "ternary"): (176, 352, 699, 1235, 2330, 4464, 8814, 17170, 33196, 62557),
    ("Ethernet", "VGG-A", "float"): (95, 167, 318, 49, 52, 111, 194, 402, 819, 1653),
    ("Ethernet", "VGG-A", "ternary"): (90, 176, 356, 324, 424, 859, 1660, 3262, 6410, 12592),
    ("InfiniBand", "AlexNet", "float"): (435, 866, 1733, 2786, 5301, 10323, 20377, 40681, 80895, 161521),
    ("InfiniBand", "AlexNet", "ternary"): (427, 853, 1712, 3348, 6633, 13266, 26531, 52927, 105719, 211303),
    ("InfiniBand", "GoogLeNet", "float"): (193, 387, 776, 1500, 2971, 5888, 11801, 23531, 46890, 93906),
    ("InfiniBand", "GoogLeNet", "ternary"): (196, 391, 776, 1540, 3075, 6091, 12318, 24636, 49002, 98003),
    ("InfiniBand", "VGG-A", "float"): (107, 206, 409, 405, 719, 1255, 2635, 5099, 10224, 20278),
    ("InfiniBand", "VGG-A", "ternary"): (95, 196, 391, 717, 1410, 2843, 5550, 11100, 22200, 44264),
}


def _net(name: str, params: float, last: float, batch: int) -> Net:
    return Net(params, last, batch, {cluster: SERIES[cluster, name, "float"][0] for cluster in CLUSTERS})


NETS = {
    "AlexNet": _net("AlexNet", 60.97e6, 4.097e6, 256),
    "GoogLeNet": _net("GoogLeNet", 6.99e6, 1.025e6, 64),
    "VGG-A": _net("VGG-A", 132.86e6, 4.097e6, 32),
}


def volume(net: Net, ternary: bool) -> float:
    """Bytes of one gradient as it travels."""
    share = net.last / net.params
    return 4 * net.params * (share + (1 - share) / 16 if ternary else 1)


def loads(gpus: int) -> tuple[float, float, float]:
    """What multiplies (a, b(2), b(4)): doublings within a machine; whether there are two machines; four or more."""
    machines = max(1, gpus // IN_A_MACHINE)
    return np.log2(min(gpus, IN_A_MACHINE)), float(machines == 2), float(machines >= 4)


def throughput(net: Net, name: str, cluster: Cluster, gpus: int, ternary: bool = False) -> float:
    """Images a second of that many GPUs in a cluster of this name, each with a batch of its own (weak scaling)."""
    step = net.batch / net.alone[name] + volume(net, ternary) * float(np.dot(loads(gpus), cluster))
    return gpus * net.batch / step


def fit(name: str, nets: dict[str, Net] = NETS) -> Cluster:
    """The three constants of a cluster that make the relative errors of its float points' step times least."""
    rows, wanted = [], []
    for of, net in nets.items():
        for gpus, images in zip(GPUS[1:], SERIES[name, of, "float"][1:], strict=True):
            step = gpus * net.batch / images
            rows.append(volume(net, False) * np.array(loads(int(gpus))) / step)
            wanted.append(1 - net.batch / net.alone[name] / step)
    found = np.linalg.lstsq(np.array(rows), np.array(wanted), rcond=None)[0]
    return Cluster(*(float(max(x, 0.0)) for x in found))


class Error(NamedTuple):
    """One point of figure 5 beside the model's."""

    cluster: str
    net: str
    kind: str
    gpus: int
    published: float
    predicted: float

    @property
    def relative(self) -> float:
        return self.predicted / self.published - 1


def errors(clusters: dict[str, Cluster], kind: str = "ternary") -> list[Error]:
    """Every point of that kind behind the first: "ternary" ones were not looked at in fitting, "float" ones were."""
    found = []
    for (name, of, its), series in SERIES.items():
        for gpus, images in zip(GPUS[1:], series[1:], strict=True) if its == kind else ():
            predicted = throughput(NETS[of], name, clusters[name], int(gpus), kind == "ternary")
            found.append(Error(name, of, kind, int(gpus), images, predicted))
    return found


def gain(net: Net, name: str, cluster: Cluster, gpus: int) -> float:
    """How many times as many images a second ternary gradients give."""
    return throughput(net, name, cluster, gpus, True) / throughput(net, name, cluster, gpus)
