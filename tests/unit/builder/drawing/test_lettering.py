"""Text in previews beyond what Pillow's own font can write; needs the `readers` extra."""

from typing import Any

import pytest

np = pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")

from nexus_tasks.builder.drawing.lettering import Side, width, write  # noqa: E402 after the skip


def ink(text: str, *, upwards: bool = False, side: Side = "left") -> Any:
    picture = Image.new("L", (200, 200))
    write(picture, text, (100, 100), colour=255, size=16, upwards=upwards, side=side)
    return np.asarray(picture)


def test_a_micro_is_a_u_whose_left_stem_goes_below_the_line() -> None:
    u, micro = ink("u"), ink("µ")
    below = micro.astype(int) - u

    rows, columns = below.nonzero()
    assert rows.min() >= u.any(axis=1).nonzero()[0].max() - 2  # nothing above the line but the corner of the u
    assert rows.max() - u.any(axis=1).nonzero()[0].max() in {3, 4}
    assert columns.max() - columns.min() <= 3
    assert columns.min() - u.any(axis=0).nonzero()[0].min() <= 1


def test_exponents_are_small_and_raised() -> None:
    plain, raised = ink("1"), ink("¹")

    assert raised.any(axis=1).sum() < plain.any(axis=1).sum()
    assert raised.any(axis=1).nonzero()[0].max() < plain.any(axis=1).nonzero()[0].max() - 3


@pytest.mark.parametrize(
    ("text", "same"), [("\N{GREEK SMALL LETTER MU}m", "µm"), ("Énergie", "Energie"), ("θ", "theta"), ("Δ", "Delta")]
)
def test_letters_that_the_font_lacks_become_those_that_it_has(text: str, same: str) -> None:
    assert np.array_equal(ink(text), ink(same))


def test_what_cannot_be_written_leaves_no_boxes() -> None:
    assert not ink("能量").any()
    assert np.array_equal(ink("能E"), ink("E"))


def test_text_keeps_to_its_side_and_is_centred_on_its_capitals() -> None:
    rows = ink("H").any(axis=1).nonzero()[0]

    assert abs(rows.mean() - 100) <= 0.5
    assert ink("nm", side="right")[:, 101:].any() == np.False_
    assert ink("nm", side="left")[:, :100].any() == np.False_
    columns = ink("nm", side="middle").any(axis=0).nonzero()[0]
    assert abs(columns.mean() - 100) <= 1


def test_text_that_runs_upwards_is_the_same_text_turned() -> None:
    assert abs(int(ink("Energy", upwards=True).any(axis=1).sum()) - int(ink("Energy").any(axis=0).sum())) <= 1
    assert width("Energy", 16) > ink("Energy").any(axis=0).sum()
