"""`terngrad-throughput`: the paper's performance model, fitted to its float points, and what it says of ternary ones.

Said: the throughput of AlexNet, GoogLeNet and VGG-A on 1 to 512 GPUs (figure 5); 3.04 times as many images a second on
8 GPUs over Ethernet, twice as many with VGG-A on 128 machines with InfiniBand. Ternary gradients gain more with more
workers, less bandwidth, more weights in fully connected layers, and on GPUs rather than CPUs.

Nothing is trained here: what is measured is whether one model explains the published points that it has not seen, and
whether the four statements follow from it. The second figure asks the same of other exchanges and of 10,000 workers.
"""

from __future__ import annotations

import numpy as np

from minidl.claims.claim import OKABE_ITO, Claim, Context
from minidl.ternary.more.cost_model import Machine
from minidl.ternary.more.cost_model import draw as draw_exchanges
from minidl.ternary.more.paper_model import CLUSTERS, GPUS, NETS, SERIES, Net, errors, fit, gain, throughput

CLOSE = 0.05
CPU = 1 / 20
"""How fast a CPU of that time is beside a GPU: the statement holds for any number below 1."""


def lstm() -> Net:
    """The language model of 1500 + 1500 units: 66 million weights, 51 million multiply-adds a word, 20 times 35 words.

    Its words a second come from AlexNet's .72 billion multiply-adds an image: the same arithmetic in the same time.
    """
    words = {cluster: images * 0.72e9 / 51e6 for cluster, images in NETS["AlexNet"].alone.items()}
    return Net(66.0e6, 15.01e6, 700, words)


def run(ctx: Context) -> None:
    clusters = {name: fit(name) for name in CLUSTERS}
    for name, c in clusters.items():
        ctx.row(
            f"fitted to the float points, {CLUSTERS[name]}", unit="ns a byte", scale="computed",
            measured={key: round(1e9 * value, 4) for key, value in c._asdict().items()},
        )  # fmt: skip
    seen, unseen = errors(clusters, "float"), errors(clusters, "ternary")
    off = lambda points: float(np.median([abs(point.relative) for point in points]))
    ctx.row(
        "median error of the 54 float points, which were fitted", measured=100 * off(seen), unit="%", scale="computed"
    )
    floats = [
        point._replace(predicted=throughput(NETS[point.net], point.cluster, clusters[point.cluster], point.gpus))
        for point in unseen
    ]
    ctx.row(
        "median error of the 54 ternary points, which were not", measured=round(100 * off(unseen), 2), unit="%",
        interval=[round(100 * quantile, 1) for quantile in np.quantile([p.relative for p in unseen], (0, 1))],
        criterion=f"at most {CLOSE:.0%}", holds=off(unseen) <= CLOSE, scale="computed",
        control={"what": "ternary gradients as large as floats", "measured": round(100 * off(floats), 1)},
        control_holds=off(floats) <= CLOSE,
    )  # fmt: skip
    for name in CLUSTERS:
        for of in NETS:
            every = {p.gpus: round(100 * p.relative, 1) for p in unseen if (p.cluster, p.net) == (name, of)}
            ctx.row(f"errors by number of GPUs, {of}, {name}", measured=every, unit="%", scale="computed")
    for of, name, gpus, said in (("AlexNet", "Ethernet", 8, 3.04), ("VGG-A", "InfiniBand", 512, 2.18)):
        found = gain(NETS[of], name, clusters[name], gpus)
        ctx.row(
            f"ternary over float throughput, {of}, {gpus} GPUs, {name}", said=said, measured=round(found, 3),
            unit="times", criterion="within 5 %", holds=abs(found / said - 1) <= 0.05, scale="computed",
            control={"what": "ternary gradients as large as floats", "measured": 1.0},
            control_holds=abs(1 / said - 1) <= 0.05,
        )  # fmt: skip
    statements = four_statements(clusters)
    same = four_statements(clusters, lambda *where: 1.0)
    ctx.row(
        "the slide's four statements", said="all", measured=statements, criterion="each holds for every net and number",
        holds=all(statements.values()), scale="computed",
        control={"what": "the same, were a ternary gradient as large as a float one", "measured": same},
        control_holds=all(same.values()),
    )  # fmt: skip
    ctx.note(
        "A step takes K / throughput(1), log2(j) times the bytes over the link within a machine, and the bytes over "
        "the network, more of it from four machines on. AlexNet's batch is 256 a GPU: the stated 128 does not fit. The "
        "LSTM is not in the figure; its words a second are AlexNet's multiply-adds. It is compared with GoogLeNet: "
        "AlexNet, 96 % of whose weights are fully connected, gains more than an LSTM whose output layer, 23 % of it, "
        f"stays in float. A CPU is taken to be {CPU:g} of a GPU."
    )
    ctx.figure(
        lambda figure: draw(figure, clusters),
        alt="Six panels, images a second over 1 to 512 GPUs: lines of the model pass through the published points, "
        "also the ternary ones that were not fitted. Over Ethernet floats fall where the second machine begins.",
        caption="Lines: the model, fitted to the float points (circles) alone. Crosses: the published ternary points.",
    )
    ctx.figure(
        lambda figure: draw_exchanges(figure, 25_600_000, Machine.link(100e6, 0.025)),
        alt="Seconds of one exchange over 2 to 10,000 workers, by scheme: a float ring takes 4 s with two workers and "
        "minutes with 10,000, where every round waits; sums in two dimensions take seconds.",
        caption="ResNet-50's 25.6 million gradients among up to 10,000 workers at 100 Mbit/s, 25 ms a message.",
    )


def four_statements(clusters, gain=gain) -> dict[str, bool]:
    """Does the gain grow with workers, with less bandwidth, with fully connected weights, with faster arithmetic?"""
    many = [int(gpus) for gpus in GPUS if gpus >= 8]
    nets = {**NETS, "LSTM": lstm()}
    found = {"more workers": True, "less bandwidth": True, "more fully connected weights": True, "GPU, not CPU": True}
    for name, cluster in clusters.items():
        narrow = type(cluster)(*(10 * x for x in cluster))
        for net in nets.values():
            gains = [gain(net, name, cluster, gpus) for gpus in (1, 4, 8, *many[1:])]
            slow = net._replace(alone={key: CPU * value for key, value in net.alone.items()})
            found["more workers"] &= gains == sorted(gains) and gains[0] < gains[1] < gains[2] < gains[3]
            found["less bandwidth"] &= all(gain(net, name, narrow, g) > gain(net, name, cluster, g) for g in many)
            found["GPU, not CPU"] &= all(gain(net, name, cluster, g) > gain(slow, name, cluster, g) for g in many)
        found["more fully connected weights"] &= all(
            gain(nets[more], name, cluster, g) > gain(nets[less], name, cluster, g)
            for more, less in (("VGG-A", "GoogLeNet"), ("AlexNet", "GoogLeNet"), ("LSTM", "GoogLeNet")) for g in many
        )  # fmt: skip
    return found


def draw(figure, clusters) -> None:
    figure.set_size_inches(9, 5)
    panels = figure.subplots(len(CLUSTERS), len(NETS), sharex=True)
    for row, name in zip(panels, CLUSTERS, strict=True):
        for axes, (of, net) in zip(row, NETS.items(), strict=True):
            for kind, colour, marker in (("float", OKABE_ITO[0], "o"), ("ternary", OKABE_ITO[6], "x")):
                model = [throughput(net, name, clusters[name], int(gpus), kind == "ternary") for gpus in GPUS]
                axes.plot(GPUS, model, "-" if kind == "float" else "--", color=colour, label=f"{kind}, model")
                axes.plot(
                    GPUS, SERIES[name, of, kind], marker, color=colour, fillstyle="none", label=f"{kind}, published"
                )
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_title(f"{of}, {name}", fontsize="medium")
    for axes in panels[-1]:
        axes.set_xlabel("GPUs")
    for axes in panels[:, 0]:
        axes.set_ylabel("images a second")
    panels[0, 0].legend(fontsize="x-small")


CLAIM = Claim(
    "terngrad-throughput", chapter="3", title="The paper's model of speed, fitted to floats, predicts ternary ones",
    seconds={"quick": 3, "full": 3}, run=run,
)  # fmt: skip
