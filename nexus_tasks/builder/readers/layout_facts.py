"""What the axes of a signal tell: its type, and facts about size and calibration; used by the readers with data."""

from nexus_tasks.builder.readers.base import DatasetType, Fact
from nexus_tasks.builder.readers.layout import Axis, Layout
from nexus_tasks.builder.readers.vocabulary import fact

ROUNDING = 1.0001  # the most that the sizes of a square pixel differ by


def signal_type(layout: Layout) -> DatasetType:
    """The type of a dataset with these axes, whatever its file is called."""
    if len(layout.signal) == 1:
        return "SpectrumImage" if len(layout.navigation) >= 2 else "Spectrum"
    if len(layout.signal) == 2:
        reciprocal = any(layout.axes[index].reciprocal for index in layout.signal)
        return "Diffraction" if reciprocal else "Image"
    return "Misc"


def layout_facts(layout: Layout, value_type: str) -> list[Fact]:
    """Dimensions, data type and calibrations."""
    # Width first, as people name the size of a picture; arrays have it last. Channels or frames' pixels come after.
    order = (*reversed(layout.navigation), *reversed(layout.signal))
    found = [
        Fact("Data Dimensions", " × ".join(str(layout.axes[index].size) for index in order)),
        Fact("Data Type", value_type),
    ]
    signal, navigation = (
        [axis for axis in (layout.axes[index] for index in indices) if axis.calibrated]
        for indices in (layout.signal, layout.navigation)
    )
    # A map of spectra has pixels; the places where pictures were taken are not those of the pictures.
    places = "Scan Step" if len(layout.signal) > 1 else "Pixel Size"
    found += _scales("Pixel Size", [axis for axis in signal if not axis.spectral])
    found += _scales(places, [axis for axis in navigation if not axis.spectral])
    found += _scales("Channel Width", [axis for axis in (*navigation, *signal) if axis.spectral])
    return found


def _scales(name: str, axes: list[Axis]) -> list[Fact]:
    """One fact where all axes agree but for rounding, else one for each."""
    made = [(axis.name, one) for axis in axes if (one := fact(name, abs(axis.scale or 0.0), axis.unit)) is not None]
    if not made:
        return []
    values = [float(one.value) for _, one in made]
    if len({one.unit for _, one in made}) == 1 and max(values) <= min(values) * ROUNDING:
        return [made[-1][1]]
    return [Fact(f"{name} {axis or index}", one.value, one.unit) for index, (axis, one) in enumerate(made)]
