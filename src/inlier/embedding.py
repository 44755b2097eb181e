"""Photos -> embeddings of several backbones, with thumbnails, in one pass over the photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inlier.build import build_backbone, build_detector, resolve
from inlier.config import Config, merge
from inlier.data.loader import load_batches
from inlier.data.manifest import Photo
from inlier.data.transforms import Transform
from inlier.decision.heatmap import encode
from inlier.features.backbone import Backbone
from inlier.features.pooling import embed_photos

MAX_THUMBNAILS = 25_000
"""Photos above which there are no thumbnails: a page would hold more than 40 MB of them."""

_MANY_PHOTOS = 4000
_LARGE_PX, _SMALL_PX = 128, 64
_QUALITY = 50


class Embedder:
    """A frozen backbone, what it wants photos to be, and the embeddings that it gave so far.

    An embedding is what ``PhotoNeighbors`` makes of a photo before it whitens: the layers' maps, each pooled by a
    generalised mean over its cells, scaled to unit length, and joined.

    Attributes:
        config: The resolved configuration.
        layers: The backbone's layers that are pooled.
        backbone: The network.
        transform: What it wants photos to be.
    """

    def __init__(self, sections: Config, layers: Sequence[int] | None, device: str) -> None:
        """Builds the backbone.

        Args:
            sections: Of the configuration.
            layers: Stages of the backbone; None: those of photo-neighbors.
            device: Where it runs.

        Raises:
            ConfigError: The configuration cannot be used.
            ModelError: The backbone is named by a folder that holds none, or a damaged one.
            WeightsError: The weights cannot be found.
        """
        self.config = resolve(merge(sections, "fit", detector="photo-neighbors"), device=device, layers=layers)
        detector = build_detector(self.config)
        self.layers = detector.layers
        self.backbone: Backbone = build_backbone(self.config, detector.layers).to(device)
        self.transform = Transform(self.config["input"]["size"], self.backbone.mean, self.backbone.std)
        self._parts: list[NDArray[np.float32]] = []

    def see(self, pixels: Sequence[NDArray[np.uint8]]) -> None:
        """Embeds photos, each of shape (H, W, 3)."""
        maps = self.backbone.extract(torch.stack([self.transform.to_tensor(photo) for photo in pixels]))
        power = self.config["photo-neighbors"]["power"]
        self._parts.append(embed_photos([maps[layer] for layer in self.layers], power=power).numpy())

    def embeddings(self) -> NDArray[np.float32]:
        """Shape (N, D)."""
        return np.concatenate(self._parts)

    def facts(self) -> dict[str, Any]:
        """What tells it from others, as the metrics say: an adapted backbone goes by its folder's name."""
        section = self.config["backbone"]
        if adapted := section.get("adapted"):
            section = {**section, "name": adapted["title"], "network": section["name"]}
        return {**section, "layers": list(self.layers), "size": self.transform.size}


def embed_all(
    embedders: Sequence[Embedder], chosen: Sequence[Photo], workers: int, advance: Callable[[int], None]
) -> tuple[list[Photo], list[bytes], list[tuple[Photo, str]]]:
    """Shows each photo to every backbone; photos are decoded once.

    Args:
        embedders: They keep what they embed.
        chosen: Which photos.
        workers: Threads that decode.
        advance: Told of photos done, readable or not.

    Returns:
        The photos that could be read; a WebP thumbnail of each, or none if they are more than ``MAX_THUMBNAILS``; and
        the photos that could not be read, each with the reason.
    """
    photos: list[Photo] = []
    thumbnails: list[bytes] = []
    unreadable: list[tuple[Photo, str]] = []
    side = _SMALL_PX if len(chosen) > _MANY_PHOTOS else _LARGE_PX
    for batch in load_batches(chosen, max((of.transform for of in embedders), key=lambda of: of.size), workers=workers):
        if batch.photos:
            for embedder in embedders:
                embedder.see(batch.pixels)
            if len(chosen) <= MAX_THUMBNAILS:
                thumbnails += [encode(pixels, longest_side=side, quality=_QUALITY) for pixels in batch.pixels]
        photos += batch.photos
        unreadable += batch.unreadable
        advance(len(batch.photos) + len(batch.unreadable))
    return photos, thumbnails, unreadable
