"""Small microscope files for a demo without data: pictures with a microscope's metadata, and EDS spectra.

They are made from formulas, so that they are the same everywhere; nothing in them was measured.
"""

import math
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

PICTURES = 3  # per session
SIZE = 256  # pixels
FIRST_SESSION = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
BETWEEN_FILES = timedelta(minutes=4)
FEI_TAG = 34682  # where instruments of that maker keep their metadata in a tif

CHANNELS = 1024
EV_PER_CHANNEL = 10.0
LINES = {"C": (277, 300), "O": (525, 900), "Fe": (6404, 2600), "Cr": (5415, 800), "Ni": (7478, 300)}  # eV, counts


def make(root: Path, count: int) -> None:
    """Write files for `count` sessions, each with an instrument of its own below `root`."""
    for number in range(1, count + 1):
        folder = root / f"Demo-SEM-{number:02d}"
        folder.mkdir(parents=True)
        start = FIRST_SESSION + timedelta(days=number - 1)
        for picture in range(1, PICTURES + 1):
            moment = start + picture * BETWEEN_FILES
            file = folder / f"steel_{picture:03d}.tif"
            if not _write_tif(file, number, picture, moment):
                file = folder / f"steel_{picture:03d}.txt"
                file.write_text("A picture would be here with the extra `readers`.\n", encoding="utf-8")
            _date(file, moment)
        moment = start + (PICTURES + 1) * BETWEEN_FILES
        spectrum = folder / "steel_eds.msa"
        spectrum.write_text(_msa(moment), encoding="ascii")
        _date(spectrum, moment)


def _write_tif(file: Path, session: int, picture: int, moment: datetime) -> bool:
    """A picture of grains with the metadata of a scanning electron microscope; False without the extra `readers`."""
    try:
        import numpy as np
        import tifffile
    except ImportError:
        return False
    random = np.random.default_rng(1000 * session + picture)
    seeds = random.uniform(0, SIZE, (40, 2))
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    distances = np.sqrt((x[..., None] - seeds[:, 0]) ** 2 + (y[..., None] - seeds[:, 1]) ** 2)
    two_nearest = np.sort(distances, axis=-1)[..., :2]
    grain = random.uniform(90, 200, len(seeds))[distances.argmin(axis=-1)]
    boundary = np.clip((two_nearest[..., 1] - two_nearest[..., 0]) / 3, 0, 1)
    pixels = np.clip(grain * (0.35 + 0.65 * boundary) + random.normal(0, 7, grain.shape), 0, 255).astype("uint8")
    text = _fei_metadata(picture, moment).encode("ascii") + b"\0"
    tifffile.imwrite(file, pixels, metadata=None, extratags=[(FEI_TAG, 2, len(text), text, True)])
    return True


def _fei_metadata(picture: int, moment: datetime) -> str:
    field_of_view = 40e-6 / picture  # metres
    return "\r\n".join(
        [
            "[User]",
            f"Date={moment:%m/%d/%Y}",
            f"Time={moment:%I:%M:%S %p}",
            "UserText=",
            "[System]",
            "Type=SEM",
            "Dnumber=D0000",
            "[Beam]",
            "HV=15000",
            "Spot=4",
            "Beam=EBeam",
            "Scan=EScan",
            "[EBeam]",
            "HV=15000",
            "BeamCurrent=4e-10",
            "WD=0.0101",
            "StageX=0.001",
            "StageY=0.002",
            "StageZ=0.0101",
            "[Scan]",
            f"PixelWidth={field_of_view / SIZE}",
            f"PixelHeight={field_of_view / SIZE}",
            f"HorFieldsize={field_of_view}",
            "Dwelltime=3e-06",
            "[Stage]",
            "StageX=0.001",
            "StageY=0.002",
            "StageZ=0.0101",
            "WorkingDistance=0.0101",
            "[Image]",
            f"ResolutionX={SIZE}",
            f"ResolutionY={SIZE}",
            "[Detectors]",
            "Number=1",
            "Name=ETD",
            "",
        ]
    )


def _msa(moment: datetime) -> str:
    """An EDS spectrum of steel in the EMSA/MAS text format (ISO 22029)."""
    counts = [round(_counts(channel * EV_PER_CHANNEL)) for channel in range(CHANNELS)]
    head = [
        "#FORMAT      : EMSA/MAS Spectral Data File",
        "#VERSION     : 1.0",
        "#TITLE       : steel, a made-up spectrum",
        f"#DATE        : {moment:%d-%b-%Y}".upper(),
        f"#TIME        : {moment:%H:%M}",
        "#OWNER       : nexus-tasks demo",
        f"#NPOINTS     : {CHANNELS}.",
        "#NCOLUMNS    : 1.",
        "#XUNITS      : eV",
        "#YUNITS      : counts",
        "#DATATYPE    : Y",
        f"#XPERCHAN    : {EV_PER_CHANNEL}",
        "#OFFSET      : 0.0",
        "#SIGNALTYPE  : EDS",
        "#BEAMKV   -kV: 15.0",
        "#LIVETIME  -s: 60.0",
        "#SPECTRUM    : Spectral Data Starts Here",
    ]
    return "\n".join([*head, *(f"{count}.," for count in counts), "#ENDOFDATA   :", ""])


def _counts(energy: float) -> float:
    background = 120 * math.exp(-energy / 4000) * (1 - math.exp(-energy / 300))
    sigma = 30 + energy / 150
    return background + sum(
        height * math.exp(-((energy - position) ** 2) / (2 * sigma**2)) for position, height in LINES.values()
    )


def _date(file: Path, moment: datetime) -> None:
    os.utime(file, (moment.timestamp(), moment.timestamp()))
