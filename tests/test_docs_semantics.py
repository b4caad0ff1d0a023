"""Every example of the page about semantics runs, and every topic has one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "semantics.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
INTRODUCTION, *SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)
EXAMPLES = [(section.partition("\n")[0], code) for section in SECTIONS for code in BLOCK.findall(section)]


@pytest.mark.parametrize(("topic", "code"), EXAMPLES, ids=[f"{topic}-{i}" for i, (topic, _) in enumerate(EXAMPLES)])
def test_the_example_holds(topic: str, code: str, tmp_path: Path):
    (preamble,) = BLOCK.findall(INTRODUCTION)
    path = tmp_path / "example.py"  # a traced function needs its source
    path.write_text(preamble + code, encoding="utf-8")
    torch.manual_seed(0)
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), {"__name__": "example"})
    assert "assert" in code, topic


def test_every_topic_has_an_example():
    assert {topic for topic, _ in EXAMPLES} == {section.partition("\n")[0] for section in SECTIONS}


def test_the_table_links_to_every_topic():
    links = set(re.findall(r"\]\(#([\w-]+)\)", INTRODUCTION))
    anchors = {re.sub(r"[^\w\- ]", "", section.partition("\n")[0].lower()).replace(" ", "-") for section in SECTIONS}
    assert links <= anchors
    assert anchors - links <= {"devices"}
