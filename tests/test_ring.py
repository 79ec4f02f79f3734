"""The ring against values written by hand, and against the definition told a second way."""

import json
from pathlib import Path

import pytest

from edgesink.errors import EdgesinkError
from edgesink.ring import Ring

GOLDEN = json.loads((Path(__file__).parent / "golden" / "ring.json").read_text())


def ring_of(case: dict) -> Ring:
    return Ring(case["sinks"], case["capacity"], case["chunk"])


@pytest.mark.parametrize("case", GOLDEN["rings"], ids=lambda case: f"{case['sinks']}+{case['capacity']}")
def test_the_ring_gives_the_values_written_by_hand(case):
    ring = ring_of(case)
    assert (ring.window, ring.slots, ring.rows) == (case["window"], case["slots"], case["rows"])
    for name in ("slot", "frame", "query_position", "visible", "evicted"):
        for argument, expected in case[name]:
            assert getattr(ring, name)(argument) == expected, f"{name}({argument})"
    for position, expected in case["held"]:
        assert [ring.held(slot, position) for slot in range(ring.rows)] == expected
    for length, expected in case["chunks"]:
        assert list(ring.chunks(length)) == expected


@pytest.mark.parametrize("case", GOLDEN["refused"], ids=str)
def test_a_ring_that_cannot_hold_a_chunk_is_refused(case):
    with pytest.raises(EdgesinkError):
        ring_of(case)


@pytest.mark.parametrize(("sinks", "capacity", "chunk"), [(0, 1, 1), (0, 7, 3), (1, 8, 7), (3, 9, 4)])
def test_every_visible_token_is_still_held_when_its_chunk_is_written(sinks, capacity, chunk):
    ring = Ring(sinks, capacity, chunk)
    for start in range(5 * ring.rows):
        position = start + chunk  # the whole chunk is written before any of it attends
        for token in range(start, position):
            for seen in ring.visible(token):
                assert ring.held(ring.slot(seen), position) == seen


def test_the_frame_keeps_slots_and_never_grows():
    ring = Ring(3, 11, 4)
    for token in range(1000):
        frame = ring.frame(token)
        assert ring.slot(frame) == ring.slot(token)
        assert frame < ring.sinks + 2 * ring.slots
        assert ring.query_position(frame) == ring.query_position(token)
