"""How often photos are flagged as they are, and after each was spoilt: what the thresholds of quality rest on.

    python benchmarks/photo_quality.py DATA_ROOT [--photos 200]

DATA_ROOT holds data sets, one a folder. Photos are reduced to at most 512 px, as ``inlier ingest`` stores them. All
are measured as they are; some, drawn at random, also out of focus (Gaussian, sigma in pixels of a longest side of 512),
moved (along a line), darkened to a mean luma of 0.05 (by a gain or by a gamma), and exposed four times as long. Of
each set the normal photos and the others count apart. A Markdown table goes to standard output.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from inlier.data.images import read_image
from inlier.data.intake.quality import measure_quality, quality_flags
from inlier.data.manifest import Manifest, Photo

LONGEST_SIDE = 512
DARK_MEAN = 0.05
FLAGS = ("blurred", "dark", "overexposed", "uniform", "tiny")


def main() -> None:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path, metavar="DATA_ROOT")
    parser.add_argument("--photos", type=int, default=200, help="photos of a set to spoil")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    titles = [*(f"{flag} %" for flag in FLAGS), *(f"{name}: {flag} %" for name, (flag, _) in SPOILT.items())]
    print("| photos | number | " + " | ".join(titles) + " |")
    print("| --- " + "| ---: " * (len(titles) + 1) + "|", flush=True)
    for folder in sorted(path for path in arguments.data_root.iterdir() if path.is_dir()):
        photos = Manifest.read(folder).photos
        for name, is_anomalous in (("normal", False), ("anomalous", True)):
            chosen = [photo for photo in photos if (photo.is_anomalous is True) == is_anomalous]
            if chosen:
                drawn = random.Random(arguments.seed).sample(chosen, min(len(chosen), arguments.photos))
                cells = [f"{100 * rate:.1f}" for rate in (*as_they_are(chosen), *when_spoilt(drawn))]
                print(f"| {folder.name}, {name} | {len(chosen)} | " + " | ".join(cells) + " |", flush=True)


def as_they_are(photos: Sequence[Photo]) -> list[float]:
    """The share of photos with each flag."""
    flags = [flags_of(*read(photo)) for photo in photos]
    return [share(flag in of_photo for of_photo in flags) for flag in FLAGS]


def when_spoilt(photos: Sequence[Photo]) -> list[float]:
    """The share of photos that get the flag they should, for each way to spoil them."""
    read_photos = [read(photo) for photo in photos]
    return [
        share(flag in flags_of(spoil(pixels), size) for pixels, size in read_photos) for flag, spoil in SPOILT.values()
    ]


def read(photo: Photo) -> tuple[np.ndarray, tuple[int, int]]:
    """The reduced photo, (H, W, 3), uint8, and the width and height it was taken with."""
    picture = Image.fromarray(read_image(photo.path))
    size = picture.size
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BOX)
    return np.asarray(picture), size


def flags_of(pixels: np.ndarray, size: tuple[int, int]) -> tuple[str, ...]:
    """What the thresholds say."""
    return quality_flags(measure_quality(pixels), width=size[0], height=size[1])


def share(flags: Iterable[bool]) -> float:
    """The share that is true."""
    return float(np.mean(list(flags)))


def defocus(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Out of focus: sigma counts at a longest side of 512 px, so that small photos suffer as much."""
    sigma *= max(pixels.shape) / LONGEST_SIDE
    return to_bytes(ndimage.gaussian_filter(pixels.astype(np.float32), (sigma, sigma, 0)))


def move(pixels: np.ndarray, length: float) -> np.ndarray:
    """Moved sideways while the shutter was open."""
    length = max(1, round(length * max(pixels.shape) / LONGEST_SIDE))
    return to_bytes(ndimage.uniform_filter1d(pixels.astype(np.float32), length, axis=1))


def dim(pixels: np.ndarray) -> np.ndarray:
    """Darkened by a gain."""
    return to_bytes(pixels * min(1, DARK_MEAN / max(pixels.mean() / 255, 1e-6)))


def gamma(pixels: np.ndarray) -> np.ndarray:
    """Darkened by the smallest gamma that is enough: lights stay longest. White is greyed, or it would stay white."""
    powers = (255 * (0.9 * pixels / 255) ** exponent for exponent in 1.25 ** np.arange(20))
    return to_bytes(next(dark for dark in powers if dark.mean() / 255 <= DARK_MEAN))


def expose(pixels: np.ndarray) -> np.ndarray:
    """Exposed four times as long, and clipped."""
    return to_bytes(4.0 * pixels)


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Rounded and clipped to uint8."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


SPOILT: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "sigma 4": ("blurred", lambda pixels: defocus(pixels, 4)),
    "sigma 8": ("blurred", lambda pixels: defocus(pixels, 8)),
    "moved 24 px": ("blurred", lambda pixels: move(pixels, 24)),
    "gain": ("dark", dim),
    "gamma": ("dark", gamma),
    "exposure x 4": ("overexposed", expose),
}
"""How a photo is spoilt, and what it should then be called."""


if __name__ == "__main__":
    main()
