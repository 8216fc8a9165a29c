"""One simulated dataset of every kind that has a preview, for the tests and for the page that shows them.

`python -m tests.unit.builder.drawing.preview_examples` draws docs/pictures/previews.png anew.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from nexus_tasks.builder.drawing import lettering
from nexus_tasks.builder.drawing.preview import SIDE, render
from nexus_tasks.builder.readers.layout import Axis, Layout

Array = npt.NDArray[Any]
Example = tuple[Any, Layout, dict[str, Any]]

SHEET = Path(__file__).parents[4] / "docs/pictures/previews.png"
_COLUMNS, _TILE, _TITLE, _GAP = 4, 250, 26, 14  # of the page, px


def axis(name: str, unit: str | None, size: int, scale: float | None = 1.0, offset: float = 0.0) -> Axis:
    """A uniform axis."""
    return Axis(name, unit, size, scale, offset, None)


def example(data: Any, axes: Sequence[Axis], signal: int, **hints: Any) -> Example:
    """Data whose last `signal` axes are the signal's."""
    count = len(axes)
    return data, Layout(tuple(axes), tuple(range(count - signal, count)), tuple(range(count - signal))), hints


def _grid(rows: int, columns: int) -> tuple[Array, Array]:
    """Coordinates from -1 to 1, down and across."""
    down, across = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    return down, across


def _spot(down: Array, across: Array, y: float, x: float, radius: float) -> Array:
    spot: Array = np.exp(-((down - y) ** 2 + (across - x) ** 2) / (2 * radius**2))
    return spot


def _peaks(positions: Array, peaks: Sequence[tuple[float, float]], width: float) -> Array:
    total = np.zeros_like(positions)
    for centre, height in peaks:
        total += height * np.exp(-((positions - centre) ** 2) / (2 * width**2))
    return total


_EDS = ((0.277, 150.0), (0.525, 900.0), (1.74, 2600.0), (6.4, 700.0), (7.06, 110.0), (8.05, 420.0))


def _lattice() -> Array:
    down, across = _grid(1024, 1024)
    x, y = across * 150, down * 150
    atoms = (np.cos(0.9 * x + 0.2 * y) + np.cos(0.27 * x + 0.88 * y) + np.cos(0.63 * x - 0.68 * y) + 1.5) / 4.5
    noise = np.random.default_rng(1).normal(0, 0.03, down.shape)
    counts: Array = ((atoms * (1 + 0.4 * across) + noise) * 4000 + 900).clip(0).astype(np.uint16)
    return counts


def _particles(seed: int, shape: tuple[int, int], count: int) -> Array:
    down, across = _grid(*shape)
    across = across * shape[1] / shape[0]
    random, total = np.random.default_rng(seed), 0.15 + 0.05 * across
    for _ in range(count):
        y, x, radius = random.uniform(-1, 1), random.uniform(-1, 1) * shape[1] / shape[0], random.uniform(0.05, 0.16)
        distance = np.hypot(down - y, across - x)
        total = np.maximum(total, (distance < radius) * (0.45 + 0.5 * distance / radius))
    return total


def image() -> Example:
    """A lattice, calibrated in nanometres."""
    return example(_lattice(), [axis("y", "nm", 1024, 0.0125), axis("x", "nm", 1024, 0.0125)], 2)


def stack() -> Example:
    """A series in time."""
    frames = np.stack([_particles(seed, (384, 512), 14) for seed in (2, 3, 4)])
    return example(frames, [axis("time", "s", 3), axis("y", "µm", 384, 0.02), axis("x", "µm", 512, 0.02)], 2)


def spectrum() -> Example:
    """Characteristic X-rays."""
    energy = np.arange(2048) * 0.005
    values = _peaks(energy, _EDS, 0.05) + 90 * np.exp(-energy / 3) * (energy > 0.1)
    counts = np.random.default_rng(5).poisson(values)
    return example(counts, [axis("Energy", "eV", 2048, 5.0)], 1, quantity="X-rays (counts)")


def energy_loss() -> Example:
    """An edge on a falling background."""
    energy = 380 + np.arange(1024) * 0.3
    edge = (energy > 532) * (1 + 2 * np.exp(-(((energy - 540) / 4) ** 2))) * np.exp(-(energy - 532) / 200)
    values = 3e6 * (energy / 380) ** -3 + 5e5 * edge
    return example(values, [axis("Energy loss", "eV", 1024, 0.3, 380.0)], 1, quantity="Electrons (counts)")


def line_scan() -> Example:
    """Spectra along a line over an interface."""
    energy, place = np.arange(512) * 0.02, np.linspace(0, 1, 60)[:, None]
    left, right = 1 / (1 + np.exp((place - 0.5) * 18)), 1 / (1 + np.exp((0.5 - place) * 18))
    values = left * _peaks(energy, _EDS[:3], 0.06) + right * _peaks(energy, _EDS[3:], 0.09) + 30 * np.exp(-energy / 3)
    return example(values, [axis("x", "nm", 60, 2.0), axis("Energy", "keV", 512, 0.02)], 1)


def spectrum_image() -> Example:
    """A map of spectra."""
    energy = np.arange(512) * 0.02
    where = _particles(7, (90, 120), 9)[..., None]
    values = where * _peaks(energy, _EDS[:3], 0.06) + (1 - where) * _peaks(energy, _EDS[3:], 0.08)
    counts = np.random.default_rng(7).poisson(values / 20).astype(np.uint16)
    axes = [axis("y", "nm", 90, 8.0), axis("x", "nm", 120, 8.0), axis("Energy", "keV", 512, 0.02)]
    return example(counts, axes, 1, quantity="X-rays (counts)")


def _pattern(size: int, shift: float = 0.0) -> Array:
    down, across = _grid(size, size)
    total = 2e5 * _spot(down, across, 0, 0, 0.025) + 300 / (1 + 30 * np.hypot(down, across) ** 2)
    for h in range(-4, 5):
        for k in range(-4, 5):
            if h or k:
                y, x = 0.21 * h + 0.05 * k, 0.21 * k - 0.03 * h + shift
                total += 4e4 * np.exp(-(h * h + k * k) / 4) * _spot(down, across, y, x, 0.02)
    return total


def diffraction() -> Example:
    """A pattern of spots over six decades."""
    axes = [axis("ky", "1/nm", 512, 0.05), axis("kx", "1/nm", 512, 0.05)]
    return example(np.random.default_rng(8).poisson(_pattern(512)).astype(np.uint32), axes, 2)


def scanned_diffraction() -> Example:
    """A diffraction pattern for every point of a map (4D-STEM)."""
    patterns = np.stack([_pattern(96, 0.004 * (index % 8)) for index in range(64)]).reshape(8, 8, 96, 96)
    scan = [axis("y", "nm", 8, 1.5), axis("x", "nm", 8, 1.5)]
    return example(patterns, [*scan, axis("ky", "mrad", 96, 0.4), axis("kx", "mrad", 96, 0.4)], 2)


def colours() -> Example:
    """A map of elements in colours."""
    data = np.zeros((300, 400), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    for seed, name in enumerate("RGB"):
        data[name] = (_particles(20 + seed, (300, 400), 6) * 230).clip(0, 255)
    return example(data, [axis("y", "µm", 300, 0.11), axis("x", "µm", 400, 0.11)], 2)


def fourier_transform() -> Example:
    """The transform of the lattice."""
    transform = np.fft.fftshift(np.fft.fft2(_lattice()[::2, ::2] - 2500.0))
    return example(transform, [axis("ky", "1/nm", 512, 0.078), axis("kx", "1/nm", 512, 0.078)], 2)


def wave() -> Example:
    """A complex image in real space."""
    down, across = _grid(400, 500)
    values = (1 + 0.6 * np.cos(across * 40) * _spot(down, across, 0, 0, 0.4)) * np.exp(1j * down * 10)
    return example(values, [axis("y", "Å", 400, 0.2), axis("x", "Å", 500, 0.2)], 2)


def mask() -> Example:
    """True and false."""
    return example(_particles(11, (200, 260), 12) > 0.4, [axis("y", "nm", 200, 1.0), axis("x", "nm", 260, 1.0)], 2)


def outliers() -> Example:
    """Whole numbers with some pixels a thousand times too bright."""
    values = (_particles(12, (400, 400), 12) * 500).astype(np.int64)
    values[tuple(np.random.default_rng(12).integers(0, 400, (2, 60)))] = 2**31
    return example(values, [axis("y", "mm", 400, 0.001), axis("x", "mm", 400, 0.001)], 2)


def no_numbers() -> Example:
    """Values that are no number or infinite among others."""
    values = _particles(13, (300, 400), 12)
    values[60:110, 40:160], values[180:230, 250:370] = np.nan, np.inf
    return example(values, [axis("y", None, 300), axis("x", None, 400)], 2)


def constant() -> Example:
    """Nothing was recorded."""
    return example(np.zeros((300, 400), np.uint16), [axis("y", "nm", 300, 0.2), axis("x", "nm", 400, 0.2)], 2)


def oblong_pixels() -> Example:
    """A map whose lines lie further apart than its points."""
    values = _particles(14, (300, 400), 12)[::4]
    return example(values, [axis("y", "nm", 75, 4.0), axis("x", "nm", 400, 1.0)], 2)


EXAMPLES: dict[str, Callable[[], Example]] = {
    "image": image,
    "stack of images": stack,
    "diffraction": diffraction,
    "scanned diffraction (4D)": scanned_diffraction,
    "spectrum, X-rays": spectrum,
    "spectrum, energy loss": energy_loss,
    "line scan": line_scan,
    "spectrum image": spectrum_image,
    "colours": colours,
    "Fourier transform": fourier_transform,
    "complex image": wave,
    "true and false": mask,
    "hot pixels": outliers,
    "no numbers, infinite": no_numbers,
    "nothing but zeros": constant,
    "oblong pixels": oblong_pixels,
}


def png(made: Example) -> bytes:
    """The preview of an example."""
    data, layout, hints = made
    drawn = render(data, layout, **hints)
    if drawn is None:
        raise ValueError("an example has no preview")
    return drawn


def draw_sheet(target: Path) -> None:
    """All examples on one page, each under its name."""
    rows = -(-len(EXAMPLES) // _COLUMNS)
    size = (_COLUMNS * (_TILE + _GAP) + _GAP, rows * (_TILE + _TITLE + _GAP) + _GAP)
    sheet = Image.new("RGB", size, "white")
    for index, (name, make) in enumerate(EXAMPLES.items()):
        left = _GAP + index % _COLUMNS * (_TILE + _GAP)
        top = _GAP + index // _COLUMNS * (_TILE + _TITLE + _GAP)
        lettering.write(sheet, name, (left, top + _TITLE / 2), colour="#333333", size=15)
        with Image.open(io.BytesIO(png(make()))) as shown:
            share = _TILE / SIDE
            small = shown.resize((round(shown.width * share), round(shown.height * share)), Image.Resampling.LANCZOS)
        sheet.paste(small, (left, top + _TITLE))
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(palette=_palette(), dither=Image.Dither.NONE).save(target, optimize=True)


def _palette() -> Image.Image:
    """Mostly greys, and shades of the few colours there are: the page stays small, and looks the same."""
    greys = [(level, level, level) for level in np.linspace(0, 255, 86).round().astype(int).tolist()]
    shades = [
        tuple(round(base + (part - base) * share / 42) for part in colour)
        for colour, base in (((255, 30, 30), 40), ((30, 255, 30), 40), ((30, 30, 255), 40), ((31, 95, 168), 255))
        for share in range(1, 43)
    ]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for colour in [*greys, *shades] for part in colour])
    return palette


if __name__ == "__main__":
    draw_sheet(SHEET)
