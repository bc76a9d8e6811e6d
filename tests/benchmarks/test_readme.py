"""The README's figures are those of the committed results."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

import readme


@pytest.mark.parametrize("page", readme.PAGES, ids=lambda page: page.parent.name)
def test_the_figures_are_those_of_the_committed_results(page: Path) -> None:
    text = page.read_text()
    assert readme.written(text) == text, "run `python benchmarks/readme.py`"


def test_every_block_stands_on_a_page() -> None:
    text = "".join(page.read_text() for page in readme.PAGES)
    assert all(f"<!-- {name}: benchmarks/readme.py -->" in text for name in readme.BLOCKS)


def test_a_figure_by_hand_would_not_last() -> None:
    text = readme.PAGES[1].read_text()
    assert readme.written(text.replace("| doconv | ", "| doconv | 9")) == text


def test_a_missed_target_is_bold() -> None:
    missed = readme.Finding(name="slow", value=1.2345, at_most=1.1, met=False)
    assert readme._cell(missed) == "**1.23 (<= 1.1)**"
