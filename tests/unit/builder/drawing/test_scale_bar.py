"""How long scale bars are, what they say, and that they can be read; needs the `readers` extra."""

import pytest

pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")

from nexus_tasks.builder.drawing.scale_bar import (  # noqa: E402 after the skip
    ScaleBar,
    draw_caption,
    draw_scale_bar,
    nice_below,
    scale_bar,
)


@pytest.mark.parametrize(("number", "nice"), [(9.9, 5), (10, 10), (1.0, 1), (0.3, 0.2), (2e6, 2e6), (0.000049, 2e-5)])
def test_nice_numbers_are_one_two_or_five_times_a_power_of_ten(number: float, nice: float) -> None:
    assert nice_below(number) == pytest.approx(nice, rel=1e-12)


@pytest.mark.parametrize(
    ("per_pixel", "unit", "label"),
    [
        (0.02, "nm", "2 nm"),
        (1.0, "nm", "100 nm"),
        (3.0, "nm", "500 nm"),
        (20.0, "nm", "2 µm"),
        (20e-9, "m", "2 µm"),
        (0.2, "um", "20 µm"),
        (0.2, "\N{GREEK SMALL LETTER MU}m", "20 µm"),
        (0.001, "mm", "100 µm"),
        (0.2, "Å", "2 nm"),
        (0.2, "angstrom", "2 nm"),
        (0.002, "nm", "0.2 nm"),
        (0.0002, "nm", "20 pm"),
        (0.05, "1/nm", "5 nm⁻¹"),
        (0.05, "nm^-1", "5 nm⁻¹"),
        (0.05, "nm⁻¹", "5 nm⁻¹"),
        (0.005, "1/Å", "5 nm⁻¹"),
        (5e7, "1/m", "5 nm⁻¹"),
        (5e-5, "1/nm", "5 µm⁻¹"),
        (0.1, "mrad", "10 mrad"),
        (1e-4, "rad", "10 mrad"),
        (0.1, "deg", "10 °"),
        (0.5, "s", "50 s"),
        (-0.02, "nm", "2 nm"),
    ],
)
def test_a_bar_says_its_length_in_the_unit_that_people_use(per_pixel: float, unit: str, label: str) -> None:
    bar = scale_bar(per_pixel, unit, 500)

    assert bar is not None
    assert " ".join(bar.label.split()) == label


@pytest.mark.parametrize("per_pixel", [0.013, 0.4, 1.0, 7.7, 33333.0])
def test_a_bar_is_as_long_as_it_says_and_neither_short_nor_long(per_pixel: float) -> None:
    bar = scale_bar(per_pixel, "s", 500)

    assert bar is not None
    assert bar.length * per_pixel == pytest.approx(float(bar.label.split()[0]))
    assert 0.13 < bar.length / 500 < 0.35


@pytest.mark.parametrize("per_pixel", [0.0, float("nan"), float("inf"), 1e300, 1e-300])
def test_a_scale_that_says_nothing_gives_no_bar(per_pixel: float) -> None:
    assert scale_bar(per_pixel, "nm", 500) is None


@pytest.mark.parametrize("ground", [0, 128, 255])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_bar_and_number_stand_out_from_black_grey_and_white(ground: int, mode: str) -> None:
    plain = Image.new("RGB", (500, 400), (ground,) * 3).convert(mode)

    shown = draw_scale_bar(plain, ScaleBar(100, "20 nm")).convert("L")
    plate = shown.crop((10, 350, 120, 390))

    assert plate.getextrema()[1] == 255
    assert max(shown.crop((12, 352, 15, 388)).tobytes()) <= 100  # the plate around
    assert sum(plate.crop((0, 27, 110, 32)).histogram()[255:]) == 5 * 100  # the bar's pixels
    assert shown.crop((0, 0, 500, 300)).getextrema() == (ground, ground)


def test_what_has_no_room_is_left_out() -> None:
    small = Image.new("L", (40, 400), 7)

    assert draw_scale_bar(small, ScaleBar(15, "20 nm")).tobytes() == small.tobytes()
    assert draw_caption(Image.new("L", (100, 100), 7), "mean of 256 of 1024 patterns").getextrema() == (7, 7)
