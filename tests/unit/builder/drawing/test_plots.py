"""Axes of spectra and line scans; needs the `readers` extra."""

from typing import Any

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("PIL.Image")

from PIL import Image  # noqa: E402 after the skip

from nexus_tasks.builder.drawing import lettering, plots  # noqa: E402
from nexus_tasks.builder.readers.layout import Axis  # noqa: E402

SIZE = (500, 360)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written, in order."""
    texts: list[str] = []
    write = lettering.write

    def noted(picture: Any, text: str, *args: Any, **kwargs: Any) -> None:
        texts.append(text)
        write(picture, text, *args, **kwargs)

    monkeypatch.setattr(lettering, "write", noted)
    return texts


def energy(unit: str, scale: float, offset: float = 0.0, size: int = 1000, name: str = "Energy") -> Axis:
    return Axis(name, unit, size, scale, offset, None)


@pytest.mark.parametrize(
    ("first", "last", "numbers"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (-3, 3, [-2, 0, 2]),
        (5, 0, [0, 1, 2, 3, 4, 5]),
        (0.11, 0.19, [0.12, 0.14, 0.16, 0.18]),
    ],
)
def test_ticks_are_at_distances_of_one_two_or_five(first: float, last: float, numbers: list[float]) -> None:
    assert plots.ticks(first, last, 6) == pytest.approx(numbers)


def test_labels_have_as_many_decimals_as_they_need() -> None:
    assert plots.tick_labels([0, 0.5, 1.0]) == ["0.0", "0.5", "1.0"]
    assert plots.tick_labels([0, 2000, 4000]) == ["0", "2000", "4000"]
    assert plots.tick_labels([-0.2, -0.0, 0.2]) == ["-0.2", "0.0", "0.2"]


@pytest.mark.parametrize(
    ("axis", "title"),
    [
        (energy("eV", 20.0), "Energy (keV)"),
        (energy("eV", 0.5, 400), "Energy (eV)"),
        (energy("keV", 0.02), "Energy (keV)"),
        (energy("keV", 0.0005, 0.4), "Energy (eV)"),
        (energy("eV", 0.5, name="Energy_loss"), "Energy loss (eV)"),
        (energy("eV", 20.0, name="E"), "Energy (keV)"),
        (energy("Da", 0.1, name="mass"), "Mass (Da)"),
        (Axis("", None, 1000, None, 0.0, None), "Channel"),
        (Axis("Wavelength", "nm", 3, None, 0.0, (400.0, 500.0, 650.0)), "Wavelength (nm)"),
    ],
)
def test_the_axis_of_a_spectrum_has_its_name_and_unit(written: list[str], axis: Axis, title: str) -> None:
    plots.curve(np.ones(axis.size), axis, SIZE)

    assert written[-2] == title


@pytest.mark.parametrize(
    ("highest", "quantity", "title"),
    [
        (900, "", "Intensity"),
        (900, "X-rays (Counts)", "X-rays (Counts)"),
        (3e6, "X-rays (Counts)", "X-rays (10⁶ Counts)"),
        (3e6, "", "Intensity (10⁶)"),
        (3e-5, "", "Intensity (10⁻⁶)"),
        (0, "", "Intensity"),
    ],
)
def test_intensities_have_short_numbers_and_say_by_what_to_multiply(
    written: list[str], highest: float, quantity: str, title: str
) -> None:
    plots.curve(np.linspace(0, highest, 100), energy("eV", 1.0, size=100), SIZE, quantity=quantity)

    assert written[-1] == title
    assert max(map(len, written[:-2])) <= 6


def test_a_spectrum_whose_axis_falls_is_drawn_with_the_axis_rising(written: list[str]) -> None:
    values = np.arange(100.0)

    falling = plots.curve(values, energy("eV", -1.0, 99, size=100), SIZE)

    assert written[:3] == ["0", "20", "40"]
    assert falling.tobytes() == plots.curve(values[::-1], energy("eV", 1.0, size=100), SIZE).tobytes()


def test_a_line_scan_has_its_place_downwards_and_its_energy_across(written: list[str]) -> None:
    along = Axis("x", "nm", 50, 2.0, 0.0, None)

    plots.line_scan(Image.new("L", (1000, 50)), along, energy("keV", 0.01), SIZE)

    assert written[-2:] == ["Energy (keV)", "x (nm)"]
    assert {"0", "2", "4", "6", "8"} <= set(written)
    assert {"0", "20", "40", "60", "80"} <= set(written)
