"""How values are written for people."""

import pytest

pytest.importorskip("minidl.claims")

from minidl.claims.report import value


@pytest.mark.parametrize(
    "measured, unit, said",
    [
        (None, "", "–"),
        (0.123456, "", "0.1235"),
        (21_824_148, "weights", "21,824,148 weights"),
        (51_000_000.0, "", "51,000,000"),
        ([3, 12], "filters", "3, 12 filters"),
        (True, "", "yes"),
        ("nan", "", "nan"),
        ({"float": 0.5, "ternary": 2}, "", "float: 0.5, ternary: 2"),
    ],
)
def test_value(measured, unit, said):
    assert value(measured, unit) == said
