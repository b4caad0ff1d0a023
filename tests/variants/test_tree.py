"""A walk through a tree of drafts tells ancestors apart."""

from __future__ import annotations

import random

from attncc.variants.tree import walk_times


def ancestors(parents, node):
    """The node and everything above it."""
    found = {node}
    while parents[node] >= 0:
        node = parents[node]
        found.add(node)
    return found


def test_a_node_is_entered_between_the_times_of_exactly_its_ancestors():
    draw = random.Random(0)
    for count in range(1, 40):
        parents = [draw.randrange(-1, node) for node in range(count)]
        enter, leave = (times.tolist() for times in walk_times(parents))
        for node in range(count):
            around = {other for other in range(count) if enter[other] <= enter[node] < leave[other]}
            assert around == ancestors(parents, node)


def test_every_node_is_entered_at_a_time_of_its_own():
    enter, leave = walk_times([-1, 0, 0, 1, 1, -1, 5])
    assert sorted(enter.tolist()) == list(range(7))
    assert (leave > enter).all()
