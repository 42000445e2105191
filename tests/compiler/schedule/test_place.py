"""Addresses on the chip."""

from infinisa.compiler.schedule.place import Chunk, Spot, assign


def test_chunks_that_are_alive_together_have_places_of_their_own() -> None:
    spots, taken = assign([Chunk(100, 2, (0, 2)), Chunk(40, 1, (1, 3))])

    assert spots == [Spot(0, 0, 128), Spot(1, 256, 64)]
    assert taken == 2 * 128 + 64


def test_chunks_that_never_meet_share_a_place_of_the_larger_pitch() -> None:
    """The pitch belongs to the place: else slot 1 of one would overlap slot 0 of the other."""
    spots, taken = assign([Chunk(70, 2, (2, 3)), Chunk(200, 2, (0, 2))])

    assert spots == [Spot(0, 0, 256), Spot(0, 0, 256)]
    assert taken == 512


def test_chunks_of_different_slots_never_share() -> None:
    """A hazard is one of (place, slot): the slots of both must turn alike."""
    spots, taken = assign([Chunk(64, 2, (0, 1)), Chunk(64, 1, (1, 2))])

    assert [spot.place for spot in spots] == [0, 1]
    assert taken == 192


def test_an_empty_chunk_has_a_place_too() -> None:
    assert assign([Chunk(0, 1, (0, 1))]) == ([Spot(0, 0, 64)], 64)
