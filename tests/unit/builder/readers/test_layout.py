"""What the axes of a signal mean."""

from typing import Any

import pytest

from nexus_tasks.builder.readers.layout import Axis, Layout


def axis(name: str = "x", unit: object = "nm", *, navigate: bool = False, **more: Any) -> dict[str, Any]:
    return {"name": name, "units": unit, "scale": 0.5, "offset": 1.0, "navigate": navigate, **more}


def test_axes_are_the_signals_unless_they_navigate() -> None:
    layout = Layout.from_rosettasciio(
        [axis("y", navigate=True), axis("x", navigate=True), axis("E", "eV")], (2, 3, 4), ""
    )

    assert (layout.navigation, layout.signal) == ((0, 1), (2,))


def test_a_spectrum_image_stored_as_a_stack_of_maps_is_known_by_its_kind() -> None:
    axes = [axis("z", "keV", navigate=True), axis("y"), axis("x")]

    assert Layout.from_rosettasciio(axes, (8, 2, 3), "EDS_TEM").signal == (0,)
    assert Layout.from_rosettasciio(axes, (8, 2, 3), "").signal == (1, 2)


def test_axes_that_do_not_fit_the_array_are_refused() -> None:
    with pytest.raises(ValueError, match="1 axes describe an array of 2 dimensions"):
        Layout.from_rosettasciio([axis()], (2, 3), "")


@pytest.mark.parametrize(
    ("given", "unit"),
    [
        ("nm", "nm"),
        ("", None),
        (None, None),
        ("<undefined>", None),
        ("px", None),
        ("Energy (EV)", "eV"),
        (object(), None),
    ],
)
def test_a_unit_is_text_or_nothing(given: object, unit: str | None) -> None:
    assert Axis.from_rosettasciio(axis(unit=given), 3).unit == unit


def test_positions_come_from_scale_and_offset_or_from_the_axis_itself() -> None:
    uniform = Axis.from_rosettasciio(axis(), 3)
    assert (uniform.offset, uniform.scale, uniform.values) == (1.0, 0.5, None)
    listed = Axis.from_rosettasciio(axis(axis=[1, 4, 9]), 3)
    assert (listed.scale, listed.values) == (None, (1.0, 4.0, 9.0))


@pytest.mark.parametrize("unit", ["1/nm", "nm^-1", "nm⁻¹", "mrad"])
def test_reciprocal_units_are_seen(unit: str) -> None:
    assert Axis.from_rosettasciio(axis(unit=unit), 3).reciprocal
    assert not Axis.from_rosettasciio(axis(), 3).reciprocal
