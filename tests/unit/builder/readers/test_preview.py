"""What previews look like; needs the `readers` extra."""

import io
from typing import Any

import pytest

np = pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")

from nexus_tasks.builder.readers.layout import Layout  # noqa: E402 after the skip
from nexus_tasks.builder.readers.preview import SIDE, render  # noqa: E402


def picture(data: Any, navigation: int = 0, signal_unit: str = "nm") -> Any:
    """The preview of `data`, whose first `navigation` axes navigate, as grey or RGB values."""
    axes = [
        {"name": f"a{i}", "units": "nm" if i < navigation else signal_unit, "scale": 0.1, "navigate": i < navigation}
        for i in range(data.ndim)
    ]
    png = render(data, Layout.from_rosettasciio(axes, data.shape, ""))
    return None if png is None else np.asarray(Image.open(io.BytesIO(png)))


def half_bright(height: int = 100, width: int = 200) -> Any:
    image = np.zeros((height, width))
    image[:, width // 2 :] = 1000
    return image


@pytest.mark.parametrize("shape", [(100, 200), (3000, 6000)])
def test_an_image_is_fitted_into_500_pixels_with_its_contrast(shape: tuple[int, int]) -> None:
    shown = picture(half_bright(*shape))

    assert shown.shape == (SIDE // 2, SIDE)
    assert shown[:, 50].max() == 0
    assert shown[:, 450].min() == 255


def test_one_hot_pixel_does_not_hide_the_picture() -> None:
    image = half_bright()
    image[3, 3] = 1e9

    assert picture(image)[:, 450].min() == 255


def test_what_is_no_number_is_dark() -> None:
    image = half_bright()
    image[:, :50] = np.nan

    assert picture(image)[:, :100].max() == 0


def test_a_stack_shows_its_middle_frame() -> None:
    stack = np.zeros((3, 100, 200))
    stack[1] = half_bright()

    assert picture(stack, navigation=1)[:, 450].min() == 255


def test_a_spectrum_image_shows_the_sum_over_the_energy() -> None:
    cube = np.zeros((100, 200, 16))
    cube[:, 100:, 7] = 5

    shown = picture(cube, navigation=2, signal_unit="eV")

    assert shown.shape == (SIDE // 2, SIDE)
    assert (shown[:, 50].max(), shown[:, 450].min()) == (0, 255)


def test_a_spectrum_is_a_line_on_white_with_the_peak_where_it_is() -> None:
    spectrum = np.zeros(4096)
    spectrum[1024] = 100

    shown = picture(spectrum, signal_unit="keV").astype(int)
    blue = (shown[..., 2] > shown[..., 0] + 60).nonzero()
    highest = blue[1][blue[0].argmin()]

    assert shown.shape[1] == SIDE
    assert shown[5, 5].tolist() == [255, 255, 255]
    assert abs(highest - (64 + 0.25 * (SIDE - 64 - 14))) < 4


def test_a_line_scan_runs_the_energy_across_and_is_high_enough_to_be_seen() -> None:
    scan = np.zeros((4, 1000))
    scan[:, 500:] = 1

    shown = picture(scan, navigation=1, signal_unit="eV")

    assert shown.shape == (SIDE // 4, SIDE)
    assert (shown[:, 100].max(), shown[:, 400].min()) == (0, 255)


def test_complex_values_show_their_magnitude() -> None:
    assert picture(half_bright() * 1j)[:, 450].min() == 255


def test_colours_stay_colours() -> None:
    image = np.zeros((10, 20), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    image["R"] = 200

    assert picture(image)[100, 100].tolist() == [200, 0, 0]


@pytest.mark.parametrize("data", [np.zeros((0, 5)), np.array([["a", "b"]]), np.array([[None, 1]], dtype=object)])
def test_what_cannot_be_drawn_has_no_preview(data: Any) -> None:
    assert picture(data) is None


@pytest.mark.parametrize(
    "data", [np.zeros((5, 5)), np.full((5, 5), np.nan), np.zeros(1), np.full(9, np.nan), np.ones((1, 9))]
)
def test_what_says_nothing_is_drawn_all_the_same(data: Any) -> None:
    assert picture(data) is not None
