"""The paper's performance model: its constants come from float points alone, and its volumes from the networks."""

import numpy as np
import pytest

from minidl.ternary.more import paper_model
from minidl.ternary.more.paper_model import CLUSTERS, GPUS, NETS, SERIES, Net, errors, fit, gain, throughput, volume


@pytest.fixture(scope="module")
def clusters():
    return {name: fit(name) for name in CLUSTERS}


def test_the_fit_looks_at_no_ternary_point(clusters, monkeypatch):
    changed = {key: tuple(np.array(series) * 7) if "ternary" in key else series for key, series in SERIES.items()}
    monkeypatch.setattr(paper_model, "SERIES", changed)
    assert {name: fit(name) for name in CLUSTERS} == clusters


def test_the_fit_finds_constants_that_made_the_points(monkeypatch):
    true = paper_model.Cluster(5e-11, 7e-9, 2e-8)
    made = {
        key: tuple(throughput(NETS[key[1]], key[0], true, int(gpus)) for gpus in GPUS) if "float" in key else series
        for key, series in SERIES.items()
    }
    monkeypatch.setattr(paper_model, "SERIES", made)
    for name in CLUSTERS:
        assert fit(name) == pytest.approx(true, rel=1e-9)


def test_every_unseen_point_is_near(clusters):
    unseen = errors(clusters)
    assert len(unseen) == 54 and {p.kind for p in unseen} == {"ternary"}
    relative = np.abs([p.relative for p in unseen])
    assert np.median(relative) < 0.03 and relative.max() < 0.13
    worst = max(unseen, key=lambda p: abs(p.relative))
    assert (worst.cluster, worst.net, worst.gpus) == ("Ethernet", "GoogLeNet", 512)
    assert np.median(np.abs([p.relative for p in errors(clusters, "float")])) < 0.03


def test_the_papers_two_speed_ups(clusters):
    assert gain(NETS["AlexNet"], "Ethernet", clusters["Ethernet"], 8) == pytest.approx(3.04, rel=0.03)
    assert gain(NETS["VGG-A"], "InfiniBand", clusters["InfiniBand"], 512) == pytest.approx(2.18, rel=0.05)


def test_the_stated_batch_does_not_fit():
    """With 128 images a GPU AlexNet's network would be twice as fast as the one the other two have."""
    alexnet = lambda batch: {"AlexNet": NETS["AlexNet"]._replace(batch=batch)}
    others = {name: net for name, net in NETS.items() if name != "AlexNet"}
    assert fit("Ethernet", alexnet(256)).more == pytest.approx(fit("Ethernet", others).more, rel=0.05)
    assert fit("Ethernet", alexnet(128)).more == pytest.approx(fit("Ethernet", others).more / 2, rel=0.05)


def test_volumes():
    net = Net(16.0, 4.0, 1, {})
    assert volume(net, False) == 64 and volume(net, True) == 4 * 4 + 12 / 4
    ratios = {name: volume(net, False) / volume(net, True) for name, net in NETS.items()}
    assert ratios == pytest.approx({"AlexNet": 7.97, "GoogLeNet": 5.0, "VGG-A": 10.9}, rel=0.01)


def test_one_gpu_computes_alone(clusters):
    for name in CLUSTERS:
        for net in NETS.values():
            for ternary in (False, True):
                assert throughput(net, name, clusters[name], 1, ternary) == pytest.approx(net.alone[name])
