"""What fitting a configuration will take of memory, told beforehand, and what it took."""

from __future__ import annotations

import ctypes
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from inlier.build import build_detector, parse_bytes
from inlier.config import Config, merge
from inlier.detectors import coreset, moments, neighbors
from inlier.detectors.baselines import Baseline
from inlier.detectors.combined import Combined
from inlier.detectors.patchcore import ROW_BYTES, PatchCore
from inlier.detectors.photo_neighbors import PhotoNeighbors
from inlier.detectors.protocol import Detector
from inlier.detectors.regional import Regional
from inlier.detectors.reverse_distillation import ENOUGH_GROUPS, NUM_TOGETHER, ReverseDistillation
from inlier.detectors.subspace import PatchSubspace, PhotoSubspace
from inlier.errors import ConfigError
from inlier.features.cache import BATCH_SIZE
from inlier.features.regions import PICTURE_SIDE
from inlier.features.student import count_activations

Shapes = Mapping[int, tuple[int, int, int]]
"""Layer -> (C, h, w) of a photo's maps, all those that are read; float32 once they are."""

MIB = 2**20

_CODE = 12 * MIB
"""What torch loads of itself when it first embeds, multiplies and enlarges, and its threads' room for that."""

_TRAINING_CODE = 200 * MIB
"""Likewise for gradients and convolutions, which are compiled for every shape: most of it stays afterwards."""

_SVM_CACHE = 200 * MIB
"""What scikit-learn's support vector machine keeps of its kernel at most."""

_CUT = PICTURE_SIDE**2 // 8 + 200
"""A photo's region as GrabCut keeps it while it is fitted, with the key to it."""

_PRODUCTS = 12 * MIB
"""What MKL keeps for its threads once they have multiplied large matrices."""

_NUM_CANDIDATES = 2048
"""Rows in a round of ``greedy_coreset``."""

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8  # of malloc.h


@dataclass(frozen=True, slots=True)
class _Need:
    """Bytes: while fitting, while a batch of photos is judged, and of what was learned."""

    fitting: int
    judging: int
    learned: int


def predict_peak_bytes(config: Config, *, shapes: Shapes, num_photos: int, num_judged: int) -> int:
    """What fitting and judging add to the process at their peak, beyond what it has when torch is loaded, in bytes.

    A sum of the arrays that are there at once, one formula a detector: it follows the code, and changes with it.
    ``benchmarks/memory.py`` compares it with what is measured. It assumes that freed memory goes back to the system
    (``release_promptly``) and that no other work is under way.

    Args:
        config: Resolved.
        shapes: Of the maps that are read.
        num_photos: Photos to fit on, >= 1.
        num_judged: Photos judged afterwards, >= 0.

    Raises:
        ConfigError: A value is outside its range.
    """
    need = _need(build_detector(config), shapes, num_photos, min(BATCH_SIZE, num_judged))
    # fitted anew, as for each fold, a detector keeps what it knew until it knows better
    return need.learned + max(need.fitting, need.judging)


def within_budget(
    config: Config, budget_bytes: int, *, shapes: Shapes, num_photos: int, num_judged: int, base_bytes: int
) -> tuple[Config, int, list[str]]:
    """The configuration, with what bounds its memory lowered until the process stays within a budget.

    Args:
        config: Resolved.
        budget_bytes: What the process may have in all.
        shapes: Of the maps that are read.
        num_photos: Photos to fit on, >= 1.
        num_judged: Photos judged afterwards, >= 0.
        base_bytes: What the process has before it fits (``current_bytes``).

    Returns:
        The configuration; what the process will have at its peak, with ``base_bytes``; and what was lowered, as
        ``section.key=value``, nothing if the configuration fits as it is.

    Raises:
        ConfigError: It does not fit, however small, or a value is outside its range.
    """

    def predict(of: Config) -> int:
        return base_bytes + predict_peak_bytes(of, shapes=shapes, num_photos=num_photos, num_judged=num_judged)

    peak, changed = predict(config), dict[tuple[str, str], str]()
    is_lower = True
    while peak > budget_bytes and is_lower:  # a second round, for what was hidden behind another member's peak
        is_lower = False
        for section, key, values in _bounds(config):
            for value in values:
                smaller = merge(config, section, **{key: value})
                if (smallest := predict(smaller)) <= budget_bytes:
                    break
            else:
                if not values or smallest >= peak:
                    continue  # it is not what takes the room
            config, peak, is_lower = smaller, smallest, True
            changed[section, key] = f'"{value}"' if isinstance(value, str) else str(value)
            if peak <= budget_bytes:
                break
    if peak > budget_bytes:
        raise ConfigError(
            f"{config['fit']['detector']} takes at least {math.ceil(peak / MIB)}MiB with {num_photos} photos and these "
            f"layers, {base_bytes // MIB}MiB of them for the process itself, and may take {budget_bytes // MIB}MiB; "
            "raise the memory budget, or choose coarser layers."
        )
    return config, peak, [f"{section}.{key}={value}" for (section, key), value in changed.items()]


def peak_bytes() -> int:
    """The most resident memory that this process has had since ``reset_peak``, in bytes.

    Where the system does not let it be reset, since the process began.
    """
    if (known := _status("VmHWM")) is not None:
        return known
    import resource  # there is none on Windows

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def current_bytes() -> int:
    """The resident memory of this process, in bytes; its peak where the system does not tell."""
    known = _status("VmRSS")
    return peak_bytes() if known is None else known


def reset_peak() -> None:
    """Lets ``peak_bytes`` begin from what the process has now; without effect where the system has no such thing."""
    try:
        _CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return


def release_promptly() -> None:
    """Has the C library give memory back as soon as it is freed; without effect where it is not glibc.

    By itself it keeps what it expects to need again, and memory so grows with what was tried before. Blocks from
    1 MiB on are then asked of the system each time, which costs time where many are needed for a moment.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    for option, value in ((_MMAP_THRESHOLD, MIB), (_TRIM_THRESHOLD, MIB), (_TOP_PAD, 0), (_ARENA_MAX, 2)):
        mallopt(option, value)


def _status(name: str) -> int | None:
    try:
        text = _STATUS.read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(rf"^{name}:\s*(\d+) kB", text, re.MULTILINE)
    return int(found[1]) << 10 if found else None


def _bounds(config: Config) -> Iterator[tuple[str, str, list[int | str]]]:
    """Section, key and ever lower values of what bounds memory, in the order in which it is given up."""
    name = config["fit"]["detector"]
    for section in config["combined"]["members"] if name == "combined" else [name]:
        if section == "patchcore":
            budget = parse_bytes(config["fit"]["memory_budget"]) // MIB
            yield "fit", "memory_budget", [f"{value}MiB" for value in _lower(budget, least=64, factor=0.75)]
        for key, least in _LEAST.get(section, {}).items():
            yield section, key, list(_lower(config[section][key], least=least, factor=0.5))


_LEAST = {
    "patchcore": {"max_bank_rows": 250},
    "reverse-distillation": {"batch_size": 2, "width": 16},
    "photo-neighbors": {"max_photos": 250},
    "baseline": {"max_photos": 250},
}
"""How far a bound is lowered before a configuration is given up."""


def _lower(value: int, *, least: int, factor: float) -> Iterator[int]:
    while value > least:
        value = max(least, int(value * factor))
        yield value


def _need(detector: Detector, shapes: Shapes, num_photos: int, num_judged: int) -> _Need:
    return _FORMULAS[type(detector)](detector, shapes, num_photos, num_judged)


def _maps(shapes: Shapes, layers: tuple[int, ...]) -> int:
    """Bytes of a photo's maps."""
    return 4 * sum(math.prod(shapes[layer]) for layer in layers)


def _going_through(shapes: Shapes, num_photos: int, working: int) -> int:
    """A batch of maps, and either what is done with it or the next one, its widest layer also as it is on disk."""
    maps = num_photos * _maps(shapes, tuple(shapes))
    return maps + max(working, maps + 2 * num_photos * max(map(math.prod, shapes.values())))


def _smoothing(size: int, num_photos: int) -> int:
    """Maps of a batch, those of the batch before, and a chunk as convolutions lay it out, 16 channels for one."""
    return 2 * 4 * num_photos * size**2


def _selecting(num_rows: int, num_picks: int, depth: int) -> int:
    """What ``greedy_coreset`` holds beside the rows: centred ones, bounds, a round of candidates, picks, products."""
    candidates = min(_NUM_CANDIDATES, num_rows) * depth * 4
    return num_rows * (4 * depth + ROW_BYTES) + candidates + num_picks * 4 * (depth + coreset.CHUNK)


def _comparing(num_queries: int, num_rows: int, depth: int) -> int:
    """What ``nearest_rows`` holds: a chunk of distances and of differences, and squares of the bank before these."""
    chunk = min(neighbors.CHUNK_BYTES, 4 * num_queries * num_rows)
    return max(chunk, min(neighbors.CHUNK_BYTES, 4 * num_queries * depth), 4 * num_rows * depth)


def _patchcore(detector: PatchCore, shapes: Shapes, num_photos: int, num_judged: int) -> _Need:
    num_cells, depth = detector.cells_and_depth(shapes)
    width = coreset.selection_width(depth)
    room = detector.room(shapes)
    in_batch = min(room.together, num_photos) * num_cells
    num_all = num_photos * num_cells
    num_rows = min(num_all, room.capacity + in_batch)
    num_picks = min(detector.max_bank_rows, math.ceil(detector.coreset_ratio * num_all), num_rows)
    most_picks = num_picks if num_all <= room.capacity else max(num_picks, room.num_kept)
    maps = min(room.together, num_photos) * _maps(shapes, detector.layers)
    joining = 4 * num_rows * depth  # the parts, while they become one
    projected = 4 * num_rows * width * (width < depth)
    picked = 4 * most_picks * depth * (width < depth)
    selecting = (
        projected + picked + _selecting(num_rows, most_picks, width) + 4 * in_batch * depth * (num_all > room.capacity)
    )
    covering = 4 * room.num_kept * width * (num_all > room.capacity)  # gone before a selection, but not to the system
    code = _CODE + min(_PRODUCTS, 4096 * most_picks)
    fitting = code + maps + num_rows * (4 * depth + 8) + max(joining, selecting) + covering
    learned = num_picks * (4 * depth + 8)
    together = min(detector.num_scored(shapes), num_judged)
    patches = together * num_cells * (4 * depth + 4)
    scoring = patches + _comparing(together * num_cells, num_picks, depth)
    judging = _going_through(shapes, num_judged, max(scoring, _smoothing(detector.map_size, num_judged)))
    return _Need(fitting, code + judging, learned)


def _patch_subspace(detector: PatchSubspace, shapes: Shapes, num_photos: int, num_judged: int) -> _Need:
    depth, batch = sum(shapes[layer][0] for layer in detector.layers), min(BATCH_SIZE, num_photos)
    patches = 4 * math.prod(shapes[detector.layers[0]][1:]) * depth  # of a photo
    chunk = min(moments.CHUNK_BYTES, 2 * patches * batch)  # of float64
    squares = 8 * depth**2  # the scatter: summed, added, and the eigenvectors with their working room
    fitting = _going_through(shapes, batch, batch * patches + 2 * chunk + 7 * squares)
    scoring = 5 * num_judged * patches  # the rows, centred, in the subspace and back, and what is left of them
    judging = _going_through(shapes, num_judged, max(scoring, _smoothing(detector.map_size, num_judged)))
    return _Need(_CODE + fitting, _CODE + judging, 2 * squares)


def _of_photos(
    detector: PhotoNeighbors | PhotoSubspace | Baseline, shapes: Shapes, num_photos: int, num_judged: int
) -> _Need:
    """Detectors over one embedding a photo: what takes room is to pool maps, and matrices of float64."""
    depth, batch = sum(shapes[layer][0] for layer in detector.layers), min(BATCH_SIZE, num_photos)
    copies = 0 if detector.power == 1 else 4  # of a layer: its positive part, that over the largest, and the power
    pooling = copies * 4 * max(math.prod(shapes[layer]) for layer in detector.layers)
    rows, squares = 4 * num_photos * depth, 8 * depth**2
    if isinstance(detector, Baseline) and detector.method != "mahalanobis":
        squares = 0  # no covariance, nor its eigenvectors
    learned, working = 2 * squares, 7 * squares
    if not isinstance(detector, PhotoSubspace):  # which keeps only sums of products
        num_kept = min(num_photos, detector.max_photos)
        learned, working = learned + 4 * num_kept * depth, working + 4 * rows
        if isinstance(detector, Baseline) and detector.method == "one-class-svm":
            working += min(_SVM_CACHE, 4 * num_kept**2)
    fitting = max(_going_through(shapes, batch, batch * pooling) + rows, working)
    return _Need(_CODE + fitting, _CODE + _going_through(shapes, num_judged, num_judged * pooling), learned)


def _combined(detector: Combined, shapes: Shapes, num_photos: int, num_judged: int) -> _Need:
    """One member after the other, those before fitted already."""
    needs = [_need(member, shapes, num_photos, num_judged) for member in detector.members]
    most = max(max(need.fitting, need.judging) for need in needs)  # members judge while they are fitted, for the scale
    return _Need(most, most, sum(need.learned for need in needs))


def _regional(detector: Regional, shapes: Shapes, num_photos: int, num_judged: int) -> _Need:
    """The detector, and before it the scatter of the features that tell the part, with its eigenvectors."""
    inner = _need(detector.detector, shapes, num_photos, num_judged)
    depth = max(shapes[layer][0] for layer in detector.layers)
    rows = BATCH_SIZE * max(math.prod(shapes[layer]) for layer in detector.layers)
    kept = 0
    if detector.kind == "grabcut":  # pictures, what the map says of each pixel, and the cuts, which are kept
        rows, kept = rows + BATCH_SIZE * 8 * PICTURE_SIDE**2, _CUT * num_photos
    working = _going_through(shapes, min(BATCH_SIZE, num_photos), 8 * rows) + 7 * 8 * depth**2
    fitting = max(inner.fitting, _CODE + working) + kept
    return _Need(fitting, inner.judging + 8 * rows, inner.learned + 8 * num_photos)


def _reverse_distillation(detector: ReverseDistillation, shapes: Shapes, num_photos: int, num_judged: int) -> _Need:
    maps = _maps(shapes, detector.layers)
    kept, widest, num_weights = count_activations([shapes[layer] for layer in detector.layers], width=detector.width)
    weights = (5 if num_photos >= ENOUGH_GROUPS else 4) * 4 * num_weights  # gradients, Adam's two, the best so far
    training = detector.batch_size * (2 * maps + 4 * kept)  # what is kept goes as its gradients come
    enlarged = 2 * (len(detector.layers) + 1) * 4 * detector.map_size**2
    judged = NUM_TOGETHER * (4 * maps + 3 * 4 * widest + enlarged)
    checking = _going_through(shapes, min(BATCH_SIZE, num_photos), judged)
    judging = _going_through(shapes, num_judged, max(judged, _smoothing(detector.map_size, num_judged)))
    fitting = _TRAINING_CODE + weights + max(training, checking)
    return _Need(fitting, _TRAINING_CODE + judging, 4 * num_weights)


_FORMULAS: dict[type, Callable[..., _Need]] = {
    PatchCore: _patchcore,
    PatchSubspace: _patch_subspace,
    ReverseDistillation: _reverse_distillation,
    **dict.fromkeys((PhotoNeighbors, PhotoSubspace, Baseline), _of_photos),
    Combined: _combined,
    Regional: _regional,
}
