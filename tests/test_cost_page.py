"""The page about costs states the ceilings that the code has."""

import re
from pathlib import Path

from attncc.report.cost import MACHINES

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "cost.md").read_text(encoding="utf-8")


def test_the_ceilings_of_the_page_are_those_of_the_code():
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in re.findall(r"^\| \w+ \| \d.*$", PAGE, re.M)]
    assert rows == [
        [
            m.name,
            f"{m.matrix_flops / 1e12:.1f}",
            f"{m.vector_flops / 1e12:.1f}",
            f"{m.bandwidth / 1e12:.3f}",
            str(m.units),
            f"{m.clock / 1e9:.2f}",
            str(m.on_chip // 1024),
        ]
        for m in MACHINES.values()
    ]
