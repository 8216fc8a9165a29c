"""What previews look like; needs the `readers` extra."""

import io
from typing import Any

import pytest

np = pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")

from nexus_tasks.builder.drawing import preview, sampling  # noqa: E402 after the skip
from nexus_tasks.builder.drawing.preview import SIDE, render  # noqa: E402
from nexus_tasks.builder.drawing.scale_bar import draw_caption  # noqa: E402
from nexus_tasks.builder.readers.layout import Axis, Layout  # noqa: E402
from tests.unit.builder.drawing.preview_examples import EXAMPLES, SHEET, png  # noqa: E402


def picture(data: Any, navigation: int = 0, signal_unit: str | None = None, **hints: Any) -> Any:
    """The preview of `data`, whose first `navigation` axes navigate, as grey or RGB values."""
    axes = tuple(
        Axis(f"a{i}", signal_unit if i >= navigation else None, n, 0.1, 0, None) for i, n in enumerate(data.shape)
    )
    layout = Layout(axes, tuple(range(navigation, data.ndim)), tuple(range(navigation)))
    drawn = render(data, layout, **hints)
    return None if drawn is None else np.asarray(Image.open(io.BytesIO(drawn)))


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The captions of the pictures drawn."""
    captions: list[str] = []

    def noted(picture: Any, caption: str) -> Any:
        captions.append(caption)
        return draw_caption(picture, caption)

    monkeypatch.setattr(preview, "draw_caption", noted)
    return captions


def half_bright(height: int = 100, width: int = 200) -> Any:
    image = np.zeros((height, width))
    image[:, width // 2 :] = 1000
    return image


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_kind_fills_500_pixels_and_comes_out_the_same_twice(name: str) -> None:
    drawn = png(EXAMPLES[name]())

    assert max(Image.open(io.BytesIO(drawn)).size) == SIDE
    assert len(drawn) < 250_000
    assert drawn == png(EXAMPLES[name]())


def test_the_page_in_the_documentation_names_every_kind() -> None:
    page = SHEET.parents[1].joinpath("previews.md").read_text(encoding="utf-8")

    assert [name for name in EXAMPLES if name not in page] == []
    assert SHEET.stat().st_size < 300_000


@pytest.mark.parametrize("shape", [(100, 200), (3000, 6000)])
def test_an_image_is_fitted_into_500_pixels_with_its_contrast(shape: tuple[int, int]) -> None:
    shown = picture(half_bright(*shape))

    assert shown.shape == (SIDE // 2, SIDE)
    assert shown[:, 50].max() == 0
    assert shown[:, 450].min() == 255


def test_an_image_has_the_proportions_of_the_specimen() -> None:
    axes = (Axis("y", "nm", 50, 4.0, 0, None), Axis("x", "nm", 200, 2.0, 0, None))
    drawn = render(half_bright(50, 200), Layout(axes, (0, 1), ()))

    assert drawn is not None
    assert Image.open(io.BytesIO(drawn)).size == (500, 250)


def test_a_calibrated_image_has_a_scale_bar_and_others_have_none() -> None:
    plain, calibrated = picture(half_bright()), picture(half_bright(), signal_unit="nm")

    changed = (plain != calibrated).nonzero()
    assert changed[0].min() > SIDE // 4  # in the lower left corner only
    assert changed[1].max() < SIDE // 2
    assert (calibrated == 255)[:, : SIDE // 4].sum() > 5 * 50


def test_one_hot_pixel_does_not_hide_the_picture() -> None:
    image = half_bright()
    image[3, 3] = 1e9

    assert picture(image)[:, 450].min() == 255


def test_few_bright_points_on_nothing_are_seen() -> None:
    image = np.zeros((500, 500))
    image[250, 250] = 1

    assert picture(image)[250, 250] == 255


@pytest.mark.parametrize("kind", ["b1", "i1", "u2", "i4", "u8", "f2", "f4", "f8", "c8", "c16"])
def test_values_of_every_type_are_shown_alike(kind: str) -> None:
    shown = picture((half_bright() > 0).astype(kind), diffraction=False, signal_unit="s")

    assert (shown[:100, 150].max(), shown[:100, 450].min()) == (0, 255)


@pytest.mark.parametrize("largest", [1e300, 1e-300, 3e38])
def test_very_large_and_very_small_values_are_shown(largest: float) -> None:
    shown = picture(half_bright() / 1000 * largest)

    assert (shown[:, 50].max(), shown[:, 450].min()) == (0, 255)


def test_what_is_no_number_is_dark_and_what_is_infinite_bright() -> None:
    image = half_bright()
    image[:, 120:150], image[:, :30] = np.nan, np.inf

    shown = picture(image)

    assert shown[:, 310:360].max() == 0
    assert (shown[:, 5:70].min(), shown[:, 100:240].max(), shown[:, 400:].min()) == (255, 0, 255)


def test_an_image_of_one_value_says_which(notes: list[str]) -> None:
    assert picture(np.zeros((50, 80))).shape == (312, SIDE)
    assert np.median(picture(np.full((50, 80), 3.5))) == 128
    assert notes == ["all values are 0", "all values are 3.5"]


def test_a_stack_shows_its_middle_frame(notes: list[str]) -> None:
    stack = np.zeros((3, 100, 200))
    stack[1] = half_bright()

    assert picture(stack, navigation=1)[:, 450].min() == 255
    assert notes == ["frame 2 of 3"]


def test_a_diffraction_pattern_is_shown_on_a_logarithmic_scale(notes: list[str]) -> None:
    pattern = np.full((100, 100), 10.0) + np.random.default_rng(1).normal(0, 1, (100, 100))
    pattern[40:60, 40:60], pattern[40:60, 80:90] = 100_000, 500

    linear, logarithmic = picture(pattern), picture(pattern, signal_unit="1/nm")

    assert linear[250, 425] < 3
    assert 80 < logarithmic[250, 425] < 200
    assert logarithmic[250, 250] == 255
    assert notes == ["log scale"]
    assert np.array_equal(picture(pattern, diffraction=True), picture(pattern * 1e-9, diffraction=True))


def test_a_scan_of_patterns_shows_their_mean(notes: list[str]) -> None:
    patterns = np.ones((4, 5, 50, 100))
    patterns[2, 3, :, 50:] = 1000

    shown = picture(patterns, navigation=2)

    assert (shown[100:, 100].max(), shown[100:, 400].min()) == (0, 255)
    assert notes == ["mean of 20 patterns, log scale"]


def test_a_map_of_images_shows_one_of_them(notes: list[str]) -> None:
    images = np.zeros((4, 5, 100, 200))
    images[2, 2] = half_bright()

    assert picture(images, navigation=2, signal_unit="nm")[:200, 450].min() == 255
    assert notes == ["a0 3 of 4, a1 3 of 5"]


def test_a_spectrum_image_shows_the_sum_over_the_energy_and_below_the_sum_of_the_spectra() -> None:
    cube = np.zeros((60, 200, 16))
    cube[:, 100:, 7] = 5

    shown = picture(cube, navigation=2, signal_unit="eV")
    height = 150  # of the map
    spectrum = shown[height + 10 :].astype(int)
    blue = (spectrum[..., 2] > spectrum[..., 0] + 60).nonzero()

    assert shown.shape[1] == SIDE
    assert (shown[50:height, 50].max(), shown[:height, 450].min()) == (0, 255)
    assert abs(blue[1][blue[0].argmin()] - (62 + 7 / 15 * (SIDE - 62 - 16))) < 3


def test_energies_first_or_last_give_the_same_picture() -> None:
    cube = np.random.default_rng(1).integers(0, 9, (30, 40, 50))
    y, x = Axis("y", "nm", 30, 1.0, 0, None), Axis("x", "nm", 40, 1.0, 0, None)
    energy = Axis("Energy", "keV", 50, 0.1, 0, None)

    last = render(cube, Layout((y, x, energy), (2,), (0, 1)))
    first = render(np.moveaxis(cube, 2, 0).copy(), Layout((energy, y, x), (0,), (1, 2)))

    assert last == first


def test_a_spectrum_is_a_line_on_white_with_the_peak_where_it_is() -> None:
    spectrum = np.zeros(4096)
    spectrum[1024] = 100

    shown = picture(spectrum, signal_unit="keV").astype(int)
    blue = (shown[..., 2] > shown[..., 0] + 60).nonzero()
    highest = blue[1][blue[0].argmin()]

    assert shown.shape[1] == SIDE
    assert shown[5, 5].tolist() == [255, 255, 255]
    assert abs(highest - (62 + 0.25 * (SIDE - 62 - 16))) < 4


def test_a_line_scan_runs_the_energy_across_between_its_axes() -> None:
    scan = np.zeros((4, 1000))
    scan[:, 500:] = 1

    shown = picture(scan, navigation=1, signal_unit="eV")

    assert shown.shape == (360, SIDE, 3)
    assert (shown[100:300, 100].max(), shown[100:300, 400].min()) == (0, 255)
    assert shown[100, 40:55].min() > 200  # the margin


@pytest.mark.parametrize("shape", [(1, 7, 100), (7, 1, 100), (1, 1, 7, 100)])
def test_axes_of_one_element_do_not_count(shape: tuple[int, ...]) -> None:
    data = np.random.default_rng(1).normal(size=shape)

    assert picture(data, navigation=len(shape) - 1, signal_unit="eV").shape == (360, SIDE, 3)  # a line scan


def test_an_image_of_one_row_is_drawn_as_a_curve() -> None:
    assert picture(np.arange(50.0).reshape(1, 50)).shape == (360, SIDE, 3)


def test_complex_values_show_their_amplitude_and_transforms_its_logarithm(notes: list[str]) -> None:
    assert picture(half_bright() * 1j, signal_unit="nm")[:150, 450].min() == 255
    assert picture(half_bright() * 1j, signal_unit="1/nm")[:150, 450].min() == 255
    assert notes == ["amplitude", "amplitude, log scale"]


@pytest.mark.parametrize(("kind", "level"), [("u1", 200), ("u2", 200 * 257)])
def test_colours_stay_colours(kind: str, level: int) -> None:
    image = np.zeros((10, 20), dtype=[("R", kind), ("G", kind), ("B", kind), ("A", kind)])
    image["R"] = level

    assert picture(image)[100, 100].tolist() == [200, 0, 0]
    assert picture(np.stack([image] * 3), navigation=1)[100, 100].tolist() == [200, 0, 0]


def test_lazy_and_loaded_arrays_give_the_same_picture() -> None:
    da: Any = pytest.importorskip("dask.array")
    for shape, navigation in (((300, 400), 0), ((5, 60, 80), 1), ((20, 30, 40), 2), ((4, 5, 30, 30), 2), ((700,), 0)):
        data = np.random.default_rng(1).integers(0, 50, shape)
        unit = "eV" if len(shape) - navigation == 1 else None

        assert np.array_equal(
            picture(da.from_array(data, chunks=13), navigation, unit), picture(data, navigation, unit)
        )


def test_the_middle_of_a_scan_too_large_to_decode_says_so(notes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    da: Any = pytest.importorskip("dask.array")
    cube, patterns = da.ones((40, 40, 100), chunks=20), da.ones((40, 40, 10, 10), chunks=10)
    monkeypatch.setattr(sampling, "MOST_BYTES_DECODED", cube.nbytes // 4)

    picture(cube, navigation=2, signal_unit="eV")
    picture(patterns, navigation=2)

    assert notes[0] == "sum over all channels, middle 20 × 20 of 40 × 40 points"
    assert notes[1].startswith("mean of 256 of the middle 400 patterns")


@pytest.mark.parametrize(
    "data",
    [
        np.zeros((0, 5)),
        np.array([["a", "b"]]),
        np.array([[None, 1]], dtype=object),
        np.zeros((5, 5), "M8[s]"),
        np.zeros((5, 5), [("a", "u1"), ("b", "f4")]),
    ],
)
def test_what_cannot_be_drawn_has_no_preview(data: Any) -> None:
    assert picture(data) is None


@pytest.mark.parametrize(
    "data",
    [
        np.zeros((5, 5)),
        np.full((5, 5), np.nan),
        np.full((5, 5), np.inf),
        np.zeros(1),
        np.full(9, np.nan),
        np.ones((1, 9)),
        np.ones((1, 1)),
        np.ones((2, 3000)),
        np.ones((3000, 2)),
        np.full(9, -1e308),
        np.array([0, 1e308]),
    ],
)
@pytest.mark.parametrize("unit", [None, "nm", "1/nm", "eV"])
def test_what_says_nothing_is_drawn_all_the_same(data: Any, unit: str | None) -> None:
    assert max(picture(data, signal_unit=unit).shape[:2]) == SIDE


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (3, 1, 1), (1, 3, 1), (2, 3, 1), (1, 1, 9), (2, 2, 2, 1), (2, 2, 2, 2, 2)]
)
def test_scans_of_any_shape_are_drawn(shape: tuple[int, ...]) -> None:
    for navigation in range(len(shape) + 1):
        assert picture(np.ones(shape), navigation=navigation) is not None
