"""PatchCore: nearest neighbours of patches in a memory bank of normal ones (Roth et al., arXiv:2106.08265)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from inlier.detectors.anomaly_map import POOLINGS, Pooling, pool_map, smooth_map
from inlier.detectors.coreset import CoresetStream, reduced, selection_width
from inlier.detectors.neighbors import FlatIndex, nearest_rows
from inlier.detectors.protocol import check_features, check_is_fitted, kept_numbers, take
from inlier.features.backbone import check_layers
from inlier.features.cache import BATCH_SIZE, FeatureSet
from inlier.features.patches import embed_patches
from inlier.features.regions import REGION, cells_inside
from inlier.records import Box, Evidence, Prediction

Distance = Literal["cosine", "euclidean"]
DISTANCES: tuple[Distance, ...] = get_args(Distance)

PART_BYTES = 32 * 2**20
"""Room for the patches of the photos that are embedded together; a single one may take more."""

ROW_BYTES = 40
"""What the selection of a coreset holds for each row beside its numbers: tags twice, length, bound, picks seen."""

SPARE = 2
"""Rows that are kept on the way to a bank, for each of ``max_bank_rows`` at most: of a part of the photos, and of those
of a stream that has outgrown its room.

A part keeps its share of patches, as far as that goes: parts whose shares add up to the final bank are joined, and
nothing is chosen twice. Where ``max_bank_rows`` cuts the final bank short, it is chosen among the rows that the parts
kept, and the radii of both choices add up in the worst case; in many dimensions they hardly ever point the same way.
"""

NUM_EVIDENCE = 3
"""Places of a photo that explain its score."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a memory budget has room for.

    Attributes:
        together: Photos embedded at once, >= 1.
        capacity: Rows held at most before they are reduced, but for those of these photos.
        num_kept: Rows kept when they are.
    """

    together: int
    capacity: int
    num_kept: int


class PatchCore:
    """Distance of each patch to the nearest normal patch; the photo's score is that of its worst ones.

    Departures from the paper, each an option that can be set back: ``distance="cosine"`` compares directions of
    features and not their lengths, which in hand-held photos follow the light (``"euclidean"`` is the paper's);
    ``pooling="top"`` averages the worst patches, where the paper takes the worst one and re-weights it
    (``is_reweighted=True`` with ``pooling="max"``: eq. 7, the thesis's 3.3).

    Learns ``memory_bank_`` (M, D), ``bank_places_`` (M,), which says of each row whence it came: photo * cells + cell,
    and ``seen_`` (2,), the number of photos and the cells of each; models of earlier versions lack it.

    Parts of the photos merge into a coreset of coresets. Forgetting a photo drops its rows; where these stood for
    patches of other photos too, nothing takes their place, so that such patches look a little odder from then on.

    Example:
        >>> from inlier.features.cache import FeatureCache
        >>> with FeatureCache(dtype=torch.float32) as cache:
        ...     cache.append({3: torch.rand(4, 8, 6, 6)}, groups=list("abcd"))
        ...     detector = PatchCore(layers=(3,)).fit(cache.features())
        >>> detector.predict({3: torch.rand(2, 8, 6, 6)}).score.shape
        torch.Size([2])
    """

    is_trained = False
    forgets_numbers = True
    memory_bank_: Tensor
    bank_places_: Tensor
    seen_: Tensor | None

    def __init__(
        self,
        *,
        layers: Sequence[int] = (2, 3),
        patch_size: int = 3,
        distance: Distance = "cosine",
        embedding_width: int = 0,
        max_cells: int = 0,
        coreset_ratio: float = 0.05,
        max_bank_rows: int = 5_000,
        num_neighbors: int = 9,
        is_reweighted: bool = False,
        pooling: Pooling = "top",
        top_ratio: float = 0.05,
        map_size: int = 224,
        sigma: float = 4.0,
        memory_budget_bytes: int = 2**30,
    ) -> None:
        """Checks the parameters; nothing is learned yet.

        Args:
            layers: Which of the backbone's layers make up a patch's embedding; the finest one has its cells.
            patch_size: Side of the neighbourhood that a patch is averaged over, in cells, odd.
            distance: ``cosine`` or ``euclidean``.
            embedding_width: Numbers that an embedding is averaged down to, which saves memory; 0: all are kept.
            max_cells: Cells of a photo at most; finer maps are averaged to a grid of no more, since the time a photo
                takes grows with their number, and that of a search with its square. 0: as fine as the finest map.
            coreset_ratio: Share of all normal patches kept in the bank, in (0, 1].
            max_bank_rows: Rows the bank has at most, whatever the share.
            num_neighbors: b of eq. 7: bank rows around the nearest one that re-weight the score, >= 1.
            is_reweighted: Whether the largest patch score is re-weighted; only with ``pooling="max"``.
            pooling: ``max``, ``mean`` or ``top``.
            top_ratio: Share of the patches that ``top`` averages, in (0, 1].
            map_size: Height and width of the anomaly map, in pixels.
            sigma: Of the Gaussian over the anomaly map, in its pixels; 0 for none.
            memory_budget_bytes: Room for patches, and for the photos that they are made of, while fitting; beyond it
                they are reduced as they come.

        Raises:
            ValueError: A parameter is outside its range.
        """
        if patch_size < 1 or patch_size % 2 == 0:
            raise ValueError(f"patch_size of PatchCore must be an odd number from 1 on, got {patch_size}.")
        if distance not in DISTANCES:
            raise ValueError(f"distance of PatchCore must be one of {', '.join(DISTANCES)}, got {distance!r}.")
        if pooling not in POOLINGS:
            raise ValueError(f"pooling of PatchCore must be one of {', '.join(POOLINGS)}, got {pooling!r}.")
        for name, ratio in (("coreset_ratio", coreset_ratio), ("top_ratio", top_ratio)):
            if not 0 < ratio <= 1:
                raise ValueError(f"{name} of PatchCore must be in (0, 1], got {ratio}.")
        for name, number in (
            ("max_bank_rows", max_bank_rows),
            ("num_neighbors", num_neighbors),
            ("map_size", map_size),
        ):
            if number < 1:
                raise ValueError(f"{name} of PatchCore must be at least 1, got {number}.")
        for name, number in (("embedding_width", embedding_width), ("max_cells", max_cells)):
            if number < 0:
                raise ValueError(f"{name} of PatchCore must be at least 0, got {number}.")
        if is_reweighted and pooling != "max":
            raise ValueError(f"is_reweighted of PatchCore goes with pooling 'max' only, got {pooling!r}.")
        if not 0 <= sigma < math.inf:
            raise ValueError(f"sigma of PatchCore must be at least 0, got {sigma}.")
        self.layers = check_layers("PatchCore", layers)
        self.patch_size = patch_size
        self.distance = distance
        self.embedding_width = embedding_width
        self.max_cells = max_cells
        self.coreset_ratio = coreset_ratio
        self.max_bank_rows = max_bank_rows
        self.num_neighbors = num_neighbors
        self.is_reweighted = is_reweighted
        self.pooling = pooling
        self.top_ratio = top_ratio
        self.map_size = map_size
        self.sigma = sigma
        self.memory_budget_bytes = memory_budget_bytes
        self._index: FlatIndex | None = None  # of the bank, made when it is first searched

    def fit(self, features: FeatureSet) -> Self:
        """Fills the memory bank with a coreset of the photos' patches; photos are numbered in their order."""
        return self._fill(features, spare=1)

    def fit_part(self, features: FeatureSet) -> Self:
        """Fills the memory bank as ``fit`` does, with up to ``SPARE`` times as many rows for merges to choose from."""
        return self._fill(features, spare=SPARE)

    def merge(self, other: Self, *, num_photos: int) -> Self:
        """Takes the other's rows too, and reduces all if they outgrow the memory budget; see ``Mergeable``."""
        for one in (self, other):
            check_is_fitted(one, "memory_bank_")
        num_others, cells = _seen(other)
        if self.memory_bank_.shape[1] != other.memory_bank_.shape[1] or (
            self.seen_ is not None and self.seen_.tolist() != [num_photos, cells]
        ):
            raise ValueError(
                f"PatchCore can merge banks of the same width and cells only, and this one has learned {num_photos} "
                f"photos; got {_shown(self)} and {_shown(other)}."
            )
        rows = torch.cat([self.memory_bank_, other.memory_bank_])
        places = torch.cat([self.bank_places_, other.bank_places_ + num_photos * cells])
        capacity = max(2, self.memory_budget_bytes // _row_bytes(rows.shape[1]))
        if len(rows) > capacity:
            rows, places = reduced(rows, places, self._num_kept(capacity))
        self.memory_bank_, self.bank_places_ = rows, places
        self.seen_ = torch.tensor([num_photos + num_others, cells])
        return self

    def finish(self) -> Self:
        """Reduces the bank to the share of all patches that it is to have."""
        check_is_fitted(self, "memory_bank_")
        num_rows = self.max_bank_rows if self.seen_ is None else self._num_rows(math.prod(self.seen_.tolist()), spare=1)
        self.memory_bank_, self.bank_places_ = reduced(self.memory_bank_, self.bank_places_, num_rows)
        return self

    def remove(self, photos: Collection[int], features: FeatureSet | None = None) -> Self:
        """Drops the rows that came from these photos; see ``Mergeable``."""
        check_is_fitted(self, "memory_bank_")
        num_photos, cells = _seen(self)
        numbers = kept_numbers(photos, num_photos, owner="PatchCore")
        of_row = numbers[self.bank_places_ // cells]
        is_kept = of_row >= 0
        if not is_kept.any():
            raise ValueError("No patch of the photos that are left is in the bank of PatchCore; fit it on them anew.")
        self.memory_bank_ = self.memory_bank_[is_kept]
        self.bank_places_ = of_row[is_kept] * cells + self.bank_places_[is_kept] % cells
        self.seen_ = torch.tensor([int(numbers.max()) + 1, cells])
        return self

    def predict(self, maps: Mapping[int, Tensor]) -> Prediction:
        """Scores photos: the map in ``map_size`` pixels, the evidence the worst patches apart from each other."""
        check_is_fitted(self, "memory_bank_")
        together = self.num_scored({layer: maps[layer].shape[1:] for layer in self.layers})
        keys = (*self.layers, REGION) if REGION in maps else self.layers
        parts = zip(*(torch.split(maps[key], together) for key in keys), strict=True)
        scored = [self._score(dict(zip(keys, part, strict=True))) for part in parts]
        score, patch_scores, nearest = (torch.cat(of_parts) for of_parts in zip(*scored, strict=True))
        is_inside = cells_inside(maps, *patch_scores.shape[1:])
        anomaly_map = smooth_map(patch_scores, size=self.map_size, sigma=self.sigma, is_inside=is_inside)
        shown = patch_scores if is_inside is None else patch_scores.masked_fill(~is_inside, -1)
        evidence = tuple(self._evidence(shown[photo], nearest[photo]) for photo in range(len(score)))
        return Prediction(score, anomaly_map, evidence)

    def room(self, shapes: Mapping[int, Sequence[int]]) -> Room:
        """How ``fit`` shares out its memory, for maps of these shapes: layer -> (C, h, w)."""
        num_cells, depth = self.cells_and_depth(shapes)
        maps_bytes = 4 * sum(math.prod(shapes[layer]) for layer in self.layers)
        photo_bytes = 2 * (maps_bytes + 4 * num_cells * depth)  # the next maps are read, and patches joined, beside
        together = max(1, min(BATCH_SIZE, PART_BYTES // photo_bytes, self.memory_budget_bytes // (4 * photo_bytes)))
        left = self.memory_budget_bytes - together * photo_bytes
        capacity = max(2, num_cells, left // _row_bytes(depth))  # one photo, if need be beyond
        return Room(together, capacity, self._num_kept(capacity))

    def num_scored(self, shapes: Mapping[int, Sequence[int]]) -> int:
        """Photos whose patches ``predict`` holds at once, for maps of these shapes: layer -> (C, h, w)."""
        num_cells, depth = self.cells_and_depth(shapes)
        return max(1, min(BATCH_SIZE, PART_BYTES // (4 * num_cells * depth)))

    def cells_and_depth(self, shapes: Mapping[int, Sequence[int]]) -> tuple[int, int]:
        """Patches of a photo, and numbers of each, for maps of these shapes: layer -> (C, h, w)."""
        depth = sum(shapes[layer][0] for layer in self.layers)
        return math.prod(self._grid(shapes[self.layers[0]][1:])), min(self.embedding_width or depth, depth)

    def state_dict(self) -> dict[str, Tensor]:
        """``memory_bank_``, ``bank_places_``, and ``seen_`` where it is known."""
        check_is_fitted(self, "memory_bank_")
        state = {"memory_bank_": self.memory_bank_, "bank_places_": self.bank_places_}
        return state if self.seen_ is None else state | {"seen_": self.seen_}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Takes another PatchCore's memory bank."""
        self.memory_bank_, self.bank_places_ = (take(self, state, name) for name in ("memory_bank_", "bank_places_"))
        self.seen_ = state.get("seen_")
        return self

    def _fill(self, features: FeatureSet, *, spare: int) -> Self:
        check_features(self, features)
        features = features.with_layers(self.layers)
        room = self.room({layer: of_photo.shape[1:] for layer, of_photo in features.select([0]).read().items()})
        stream = CoresetStream(capacity=room.capacity, num_kept=room.num_kept)
        num_cells = 0
        for maps in features.batches(room.together):
            patches = self._embed(maps)
            is_inside = cells_inside(maps, *patches.shape[1:3])
            rows = patches.flatten(0, 2)  # (B * h * w, D)
            numbers = torch.arange(num_cells, num_cells + len(rows))
            num_cells += len(rows)
            if is_inside is not None:
                rows, numbers = rows[is_inside.flatten()], numbers[is_inside.flatten()]
            stream.append(rows, numbers)
            del patches, rows  # the stream has it, and lets go of it before it needs room
        self.memory_bank_, self.bank_places_ = stream.finish(self._num_rows(stream.num_seen, spare=spare))
        self.seen_ = torch.tensor([len(features), num_cells // len(features)])
        return self

    def _num_rows(self, num_patches: int, *, spare: int) -> int:
        """Rows of the bank of so many patches."""
        return min(spare * self.max_bank_rows, math.ceil(self.coreset_ratio * num_patches))

    def _num_kept(self, capacity: int) -> int:
        """Rows kept of ``capacity`` or more: enough for several reductions to add up to little."""
        return min(SPARE * self.max_bank_rows, capacity // 2)

    def _embed(self, maps: Mapping[int, Tensor]) -> Tensor:
        rows, columns = self._grid(maps[self.layers[0]].shape[-2:])
        chosen = [
            F.adaptive_avg_pool2d(of, (rows, columns)) if of.shape[-2] > rows or of.shape[-1] > columns else of
            for of in (maps[layer] for layer in self.layers)
        ]
        return embed_patches(
            chosen, patch_size=self.patch_size, is_cosine=self.distance == "cosine", width=self.embedding_width
        )

    def _score(self, maps: Mapping[int, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Of photos the scores, those of their patches, and the nearest rows: shapes (B,), (B, h, w) and (B, h, w)."""
        patches = self._embed(maps)
        if self._index is None or self._index.rows is not self.memory_bank_:
            self._index = FlatIndex(self.memory_bank_)
        distances, rows = self._index.nearest(patches.flatten(0, 2))
        patch_scores, nearest = distances.view(patches.shape[:3]), rows.view(patches.shape[:3])
        is_inside = cells_inside(maps, *patches.shape[1:3])
        if is_inside is not None:
            patch_scores = patch_scores * is_inside
        if self.is_reweighted:
            return self._reweighted(patches, patch_scores, nearest), patch_scores, nearest
        score = pool_map(patch_scores, pooling=self.pooling, top_ratio=self.top_ratio, is_inside=is_inside)
        return score, patch_scores, nearest

    def _grid(self, finest: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of cells, for a finest map of so many."""
        rows, columns = finest
        shrink = math.sqrt(self.max_cells / (rows * columns)) if 0 < self.max_cells < rows * columns else 1.0
        return max(1, int(rows * shrink)), max(1, int(columns * shrink))

    def _reweighted(self, patches: Tensor, patch_scores: Tensor, nearest: Tensor) -> Tensor:
        """Eq. 7: s = (1 - exp s* / sum of exp |m_test - m| over the b rows around the nearest one) s*.

        The rows around the nearest one include it, as in the authors' code, so that the weight is in [0, 1); with
        b = 1, or a bank of one row, it would be 0 for every photo, and s* is returned as it is.
        """
        largest, worst = patch_scores.flatten(1).max(dim=1)  # s*, and the cell of m_test
        if min(self.num_neighbors, len(self.memory_bank_)) == 1:
            return largest
        photos = torch.arange(len(patches))
        worst_patch = patches.flatten(1, 2)[photos, worst]  # (B, D)
        nearest_row = self.memory_bank_[nearest.flatten(1)[photos, worst]]  # m*, (B, D)
        _, around = nearest_rows(nearest_row, self.memory_bank_, num_neighbors=self.num_neighbors)
        distances = (worst_patch[:, None] - self.memory_bank_[around]).norm(dim=2)  # (B, b)
        share = torch.exp(largest - torch.logsumexp(distances, dim=1))
        return (1 - share) * largest

    def _evidence(self, patch_scores: Tensor, nearest: Tensor) -> tuple[Evidence, ...]:
        """The worst patches of one photo, none beside another, each with the normal patch nearest to it."""
        height, width = patch_scores.shape
        remaining = patch_scores.clone()
        found = []
        for _ in range(NUM_EVIDENCE):
            row, column = divmod(int(remaining.argmax()), width)
            if remaining[row, column] < 0:
                break
            photo, cell = divmod(int(self.bank_places_[nearest[row, column]]), height * width)
            found.append(
                Evidence(
                    box=self._box(row, column, height, width),
                    reference=photo,
                    reference_box=self._box(*divmod(cell, width), height, width),
                    distance=float(patch_scores[row, column]),
                )
            )
            reach = self.patch_size
            remaining[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1] = -1
        return tuple(found)

    def _box(self, row: int, column: int, height: int, width: int) -> Box:
        """The neighbourhood of a cell, as shares of the photo."""
        reach = self.patch_size / 2
        return (
            max(0.0, (column + 0.5 - reach) / width),
            max(0.0, (row + 0.5 - reach) / height),
            min(1.0, (column + 0.5 + reach) / width),
            min(1.0, (row + 0.5 + reach) / height),
        )


def _row_bytes(depth: int) -> int:
    """What a row of so many numbers takes while a coreset of all of them is chosen."""
    chosen_by = selection_width(depth)
    narrow = 2 * chosen_by if chosen_by < depth else depth  # projected, and centred
    numbers = max(
        2 * depth, depth + narrow + depth / 2
    )  # rows and their parts; then what they are chosen by, and picks
    return math.ceil(4 * numbers) + ROW_BYTES


def _seen(detector: PatchCore) -> tuple[int, int]:
    """How many photos it has learned, and the cells of each."""
    num_photos, cells = take(detector, {} if detector.seen_ is None else {"seen_": detector.seen_}, "seen_").tolist()
    return num_photos, cells


def _shown(detector: PatchCore) -> str:
    width = f"width {detector.memory_bank_.shape[1]}"
    return width if detector.seen_ is None else "{1} cells of {0} photos, {2}".format(*detector.seen_.tolist(), width)
