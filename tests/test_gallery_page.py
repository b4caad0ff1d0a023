"""docs/gallery.md and its pictures are what docs/make_gallery.py makes of the code now."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from matplotlib.image import imread

from attncc.frontend.parse import parse
from attncc.variants.gallery import gallery

DOCS = Path(__file__).resolve().parent.parent / "docs"
REMEDY = "run: python docs/make_gallery.py"
MAX_BYTES = 30_000

pytestmark = pytest.mark.slow


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_gallery", DOCS / "make_gallery.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    return _load()


def test_page_is_what_the_code_says(maker: ModuleType) -> None:
    assert (DOCS / "gallery.md").read_text(encoding="utf-8") == maker.page(), REMEDY


def test_every_variant_has_a_picture_and_every_picture_a_variant() -> None:
    assert {path.stem for path in (DOCS / "gallery").glob("*.png")} == set(gallery()), REMEDY


@pytest.mark.parametrize("name", list(gallery()))
def test_picture_is_what_the_code_draws(maker: ModuleType, name: str) -> None:
    path = DOCS / "gallery" / f"{name}.png"
    assert path.stat().st_size < MAX_BYTES
    entry = gallery()[name]
    kept, drawn = imread(path), imread(io.BytesIO(maker.picture(entry)))
    assert kept.shape == drawn.shape, REMEDY
    # Tiles are drawn without rounding; a map's colours and a curve's letters may differ a little between machines.
    allowed = 0.0 if entry.score is None else 0.02
    assert np.abs(kept - drawn).mean() <= allowed, REMEDY


@pytest.mark.parametrize("name", ["causal", "packed_window_alibi", "t5_bias"])
def test_draft_of_a_text_means_what_the_text_means(maker: ModuleType, name: str) -> None:
    draft = maker.draft(gallery()[name])
    written = (maker.EXAMPLES / f"{name}.attn").read_text(encoding="utf-8")
    assert draft.splitlines()[2:4] == written.splitlines()[2:4]
    assert parse(draft) == parse(written)
