"""The claim on the paper's performance model: computed, so it can be run whole; and its statements can fail."""

import pytest

claim = pytest.importorskip("minidl.claims.claim", reason="minidl/claims is not there")
terngrad_throughput = pytest.importorskip("minidl.claims.terngrad_throughput", reason="minidl/claims is not there")
paper_model = pytest.importorskip("minidl.ternary.more.paper_model")


@pytest.fixture(scope="module")
def clusters():
    return {name: paper_model.fit(name) for name in paper_model.CLUSTERS}


def test_the_claim(monkeypatch):
    ctx = claim.Context(terngrad_throughput.CLAIM)
    monkeypatch.setattr(ctx, "figure", lambda *args, **kwargs: None)  # pictures take longer than numbers
    terngrad_throughput.run(ctx)
    judged = {row["quantity"]: row for row in ctx.rows if row["criterion"]}
    assert {row["outcome"] for row in judged.values()} == {"supported"} and len(judged) == 4
    assert {row["control"]["outcome"] for row in judged.values()} == {"not shown"}
    assert claim.why_broken(ctx.rows) is None
    printed = [row["measured"] for row in ctx.rows if row["quantity"].startswith("errors by number of GPUs")]
    assert sum(map(len, printed)) == 54, "every error is printed"


def test_each_statement_follows_from_the_model(clusters):
    assert terngrad_throughput.four_statements(clusters) == dict.fromkeys(
        ("more workers", "less bandwidth", "more fully connected weights", "GPU, not CPU"), True
    )


@pytest.mark.parametrize(
    "statement, gain",
    [
        ("more workers", lambda net, name, cluster, gpus: 10 - gpus),
        ("less bandwidth", lambda net, name, cluster, gpus: -cluster.more),
        ("more fully connected weights", lambda net, name, cluster, gpus: -net.params),
        ("GPU, not CPU", lambda net, name, cluster, gpus: -net.alone[name]),
    ],
)
def test_each_statement_can_fail(clusters, statement, gain):
    assert not terngrad_throughput.four_statements(clusters, gain)[statement]


@pytest.mark.slow
def test_the_pictures_are_drawn(clusters):
    pytest.importorskip("matplotlib")
    ctx = claim.Context(terngrad_throughput.CLAIM)
    terngrad_throughput.run(ctx)
    assert len(ctx.figures) == 2 and all(len(figure["png"]) > 10_000 for figure in ctx.figures)
