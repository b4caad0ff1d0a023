"""The generated parts of docs/tour.md are what the compiler prints now."""

import importlib.util

import pytest

from tests.golden_files import UPDATE


@pytest.fixture(scope="module")
def tour(repository):
    spec = importlib.util.spec_from_file_location("make_tour", repository / "docs" / "make_tour.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parts(module, page):
    return {found[2]: found[0] for found in module.PLACE.finditer(page)}


def test_the_page_shows_every_part_once(tour):
    names = [found[2] for found in tour.PLACE.finditer(tour.PAGE.read_text(encoding="utf-8"))]
    assert names == list(tour.PARTS)


def test_the_generated_parts_are_up_to_date(tour, request):
    page = tour.PAGE.read_text(encoding="utf-8")
    fresh = tour.render(page)
    if request.config.getoption(UPDATE):
        tour.PAGE.write_text(fresh, encoding="utf-8")
    stale = [name for name, part in parts(tour, page).items() if parts(tour, fresh)[name] != part]
    assert request.config.getoption(UPDATE) or not stale, f"run `python docs/make_tour.py`: {', '.join(stale)}"


def test_what_the_tour_says_is_true(tour):
    assert tour.same().count("True") == 2
    assert tour.result().count("agrees: True") == 5
