"""Draws how backbones see photos: a map for each on one page, with numbers for how well each keeps labels apart."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inlier.config import Config
from inlier.data.manifest import Manifest, Photo
from inlier.data.remote import Location
from inlier.decision.embedding_map import Field, Panel, write_embedding_map
from inlier.decision.intervals import Interval, mean_interval
from inlier.embedding import MAX_THUMBNAILS, Embedder, embed_all
from inlier.errors import ConfigError, InlierError
from inlier.features.arrangement import FEWEST_PHOTOS, NUM_STEPS, arrange, check_extra, fitting_perplexity, turn_onto
from inlier.features.separation import effective_rank, separate
from inlier.model import Model, package_versions
from inlier.outputs import as_text
from inlier.workflow import Progress, inspect_photos, no_progress

COLORS = ("label", "verdict", "anomalous", "split")
"""What points may be coloured by; a page opens with the first of these that tells photos apart."""

NUM_NEIGHBORS = 5
"""Photos that vote on a label."""

_TITLES = {"label": "Label", "verdict": "Verdict", "anomalous": "Condition", "split": "Split"}


@dataclass(frozen=True, eq=False)
class EmbeddingMap:
    """What was drawn, and what was measured on it.

    Attributes:
        photos: Those on the map.
        places: For each backbone shape (N, 2): where each photo lies.
        metrics: What the command prints as JSON: among others, for each backbone, how well it keeps labels apart.
        unreadable: The photos that could not be read, each with the reason.
        notes: What a reader must not miss.
    """

    photos: tuple[Photo, ...]
    places: tuple[NDArray[np.float64], ...]
    metrics: dict[str, Any]
    unreadable: tuple[tuple[Photo, str], ...]
    notes: tuple[str, ...]


def draw_map(
    config: Mapping[str, Mapping[str, Any]],
    data: Manifest,
    out: Path,
    *,
    backbones: Sequence[tuple[str, Path | None]] = (),
    layers: Sequence[int] | None = None,
    model: Model | None = None,
    color: str | None = None,
    perplexity: float = 30.0,
    max_points: int = 20_000,
    title: str = "Photos",
    device: str = "cpu",
    workers: int = 2,
    progress: Progress = no_progress,
) -> EmbeddingMap:
    """Writes a page on which the photos lie as t-SNE arranges the embeddings of each backbone.

    A photo's embedding is that of ``PhotoNeighbors``, before it is whitened. Labels, splits and verdicts colour the
    points and decide no place. Numbers are measured on the embeddings, not on the flat map, and by photos of other
    groups only.

    Args:
        config: Sections of keywords, of which seed, backbone, input and photo-neighbors matter.
        data: Photos of all splits, normal or not.
        out: The page, an ``.html`` file.
        backbones: Names, and files of weights unless they are embedded; none: the configuration's backbone.
        layers: Their stages; None: those of photo-neighbors.
        model: If given, its verdicts are shown.
        color: What the page opens with, one of ``COLORS``; None: the first of these that tells photos apart.
        perplexity: About how many neighbours each photo keeps close, > 0.
        max_points: Photos drawn at most, >= 1; of more, so many are chosen at random.
        title: Heading of the page.
        device: Where the backbones run.
        workers: Threads that decode.
        progress: Told how far it is.

    Raises:
        ConfigError: An option or the configuration cannot be used.
        InlierError: None of the photos could be read, or the page cannot be written.
        MissingExtraError: openTSNE is not installed.
        WeightsError: The weights of a backbone cannot be found.
    """
    _check_options(data, model, color, perplexity, max_points)
    check_target(out)
    check_extra()
    trunks = [Embedder(sections, layers, device) for sections in _with_backbones(config, backbones)]
    seed = trunks[0].config["fit"]["seed"]
    chosen = _choose(data, max_points, seed)
    photos, thumbnails, unreadable = embed_all(trunks, chosen, workers, progress("Reading photos", len(chosen)))
    if not photos:
        raise InlierError(f"None of the {len(chosen)} photos could be read, the first because: {unreadable[0][1]}.")
    verdicts = _verdicts(model, photos, workers, progress)
    embeddings = [trunk.embeddings() for trunk in trunks]
    places = _arrange(embeddings, perplexity, seed, progress("Arranging", NUM_STEPS * len(trunks)))
    measured = [_measure(photos, of, Manifest(tuple(photos)).groups) for of in embeddings]
    notes = _notes(len(data), len(chosen), len(photos), seed)
    metrics = {
        "num_photos": len(photos),
        "num_unreadable": len(unreadable),
        "data_fingerprint": data.fingerprint(),
        "model": model and model.identity,
        "seed": seed,
        "perplexity": None if len(photos) < FEWEST_PHOTOS else fitting_perplexity(perplexity, len(photos)),
        "num_neighbors": NUM_NEIGHBORS,
        "backbones": [{**trunk.facts(), **of} for trunk, of in zip(trunks, measured, strict=True)],
        "versions": package_versions(),
        "notes": list(notes),
    }
    drawn = EmbeddingMap(tuple(photos), tuple(places), metrics, tuple(unreadable), notes)
    _write(drawn, out, _fields(photos, verdicts), color=color, title=title, thumbnails=thumbnails)
    return drawn


def check_target(out: Path) -> None:
    """Raises InlierError if no page can be written under this name."""
    if out.suffix.lower() not in (".html", ".htm") or out.is_dir():
        raise InlierError(f"A map is an .html file, and {as_text(out)} is none; choose another --out.")
    lowest = next(path for path in out.absolute().parents if path.exists())
    if not (lowest.is_dir() and os.access(lowest, os.W_OK | os.X_OK)):
        raise InlierError(
            f"Nothing can be written to {as_text(out)}: {as_text(lowest)} is no folder that may be written to."
        )


def _with_backbones(
    config: Mapping[str, Mapping[str, Any]], backbones: Sequence[tuple[str, Path | None]]
) -> list[Config]:
    """The configuration once for each backbone."""
    sections = {section: dict(keywords) for section, keywords in config.items()}
    if not backbones:
        return [sections]
    shared = sections.get("backbone", {})
    return [
        {**sections, "backbone": {**shared, "name": name, "weights": None if weights is None else str(weights)}}
        for name, weights in backbones
    ]


def _choose(data: Manifest, max_points: int, seed: int) -> list[Photo]:
    """The photos to draw, by name, so that nothing depends on their order."""
    photos = sorted(data.photos, key=lambda photo: str(photo.path))
    if len(photos) <= max_points:
        return photos
    chosen = np.random.default_rng(seed).choice(len(photos), max_points, replace=False)
    return [photos[place] for place in np.sort(chosen)]


def _verdicts(model: Model | None, photos: Sequence[Photo], workers: int, progress: Progress) -> list[str]:
    if model is None:
        return [""] * len(photos)
    advance = progress("Inspecting", len(photos))
    verdicts = []
    for inspection in inspect_photos(model, photos, workers=workers):
        verdicts.append(str(inspection.verdict.verdict))
        advance(1)
    return verdicts


def _arrange(
    embeddings: Sequence[NDArray[np.float32]], perplexity: float, seed: int, advance: Callable[[int], None]
) -> list[NDArray[np.float64]]:
    """Where each backbone's photos lie; all maps turned like the first."""
    places: list[NDArray[np.float64]] = []
    for of in embeddings:
        arranged = arrange(of, perplexity=perplexity, seed=seed, advance=advance)
        places.append(turn_onto(arranged, places[0]) if places else arranged)
    return places


def _measure(photos: Sequence[Photo], embeddings: NDArray[np.float32], groups: Sequence[str]) -> dict[str, Any]:
    """How well one embedding keeps the labels apart; None for what needs labels where there are none to judge."""
    labels = [_label(photo) for photo in photos]
    found = separate(embeddings, labels, groups, num_neighbors=NUM_NEIGHBORS)
    of_judged = np.array(labels)[found.photos]
    kin = [groups[place] for place in found.photos]
    has_any = len(found.photos) > 0
    commonest = max(np.unique(of_judged, return_counts=True)[1]) if has_any else 0
    return {
        "num_judged": len(found.photos),
        "knn_accuracy": mean_interval(found.is_found.astype(np.float64), kin).to_json() if has_any else None,
        "commonest_label_share": float(commonest / len(found.photos)) if has_any else None,
        "silhouette": mean_interval(found.silhouettes, kin, lowest=-1.0).to_json() if has_any else None,
        "effective_rank": effective_rank(embeddings),
        "num_dimensions": min(embeddings.shape),
        "classes": {
            label: {"num_photos": int(mask.sum()), "found_share": float(found.is_found[mask].mean())}
            for label in sorted(set(of_judged.tolist()))
            for mask in [of_judged == label]
        },
    }


def _label(photo: Photo) -> str:
    """What a photo was sorted into: its label, else whether it is normal, else nothing."""
    return as_text(photo.label) or _condition(photo)


def _condition(photo: Photo) -> str:
    return {None: "", False: "normal", True: "anomalous"}[photo.is_anomalous]


def _fields(photos: Sequence[Photo], verdicts: Sequence[str]) -> list[Field]:
    """What is known of the photos; a field without a single value is left out."""
    values = {
        "label": [_label(photo) for photo in photos],
        "verdict": verdicts,
        "anomalous": [_condition(photo) for photo in photos],
        "split": [photo.split for photo in photos],
    }
    return [Field(key, _TITLES[key], values[key]) for key in COLORS if any(values[key])]


def _notes(num_all: int, num_chosen: int, num_drawn: int, seed: int) -> tuple[str, ...]:
    notes = []
    if num_chosen < num_all:
        notes.append(
            f"{num_chosen} of {num_all} photos are drawn, chosen at random with seed {seed}; --max-points draws more."
        )
    if num_chosen > MAX_THUMBNAILS:
        notes.append(f"The page has no thumbnails, since it draws more than {MAX_THUMBNAILS} photos.")
    if num_drawn < FEWEST_PHOTOS:
        notes.append(
            f"So few photos ({num_drawn}) lie by their two principal components; t-SNE needs at least {FEWEST_PHOTOS}."
        )
    return tuple(notes)


def _check_options(data: Manifest, model: Model | None, color: str | None, perplexity: float, max_points: int) -> None:
    """Raises ConfigError for what cannot be drawn, before the work that it costs."""
    if not 0 < perplexity < np.inf:
        raise ConfigError(f"The perplexity of a map must be greater than 0, got {perplexity:g}.")
    if max_points < 1:
        raise ConfigError(f"The points of a map must be at least 1, got {max_points}.")
    if color is None:
        return
    if color not in COLORS:
        raise ConfigError(f"The points of a map are coloured by one of {', '.join(COLORS)}, got {color}.")
    if color == "verdict" and model is None:
        raise ConfigError("Points can be coloured by verdict only with a model; give one with --model.")
    if color in ("label", "anomalous") and not any(map(_label if color == "label" else _condition, data.photos)):
        raise ConfigError(f"Points cannot be coloured by {color}, for the data say nothing of it; take --color split.")


def _names(paths: Sequence[Location]) -> tuple[str, list[str]]:
    """The folder that holds all photos, and the name of each below it; whole URLs, if there is one."""
    local = [os.path.abspath(path) for path in paths if isinstance(path, Path)]
    if len(local) < len(paths):
        return "", [as_text(path) for path in paths]
    folder = os.path.commonpath([os.path.dirname(path) for path in local])
    return as_text(os.path.join(folder, "")), [as_text(os.path.relpath(path, folder)) for path in local]


def _write(
    drawn: EmbeddingMap, out: Path, fields: Sequence[Field], *, color: str | None, title: str, thumbnails: list[bytes]
) -> None:
    metrics = drawn.metrics
    root, names = _names([photo.path for photo in drawn.photos])
    telling = next((field.key for field in fields if len(set(field.values)) > 1), None)
    perplexity = metrics["perplexity"]
    facts = {
        "Arranged by": "principal components" if perplexity is None else f"t-SNE, perplexity {perplexity:.3g}",
        "Seed": str(metrics["seed"]),
        **({"Model": metrics["model"]} if metrics["model"] else {}),
        "Data": metrics["data_fingerprint"][:12],
        "Versions": ", ".join(f"{name} {version}" for name, version in metrics["versions"].items()),
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_embedding_map(
            out,
            title=as_text(title),
            panels=[_panel(of, places) for of, places in zip(metrics["backbones"], drawn.places, strict=True)],
            fields=fields,
            root=root,
            names=names,
            thumbnails=thumbnails,
            color=color or telling,
            num_neighbors=NUM_NEIGHBORS,
            guess=metrics["backbones"][0]["commonest_label_share"],
            facts=facts,
            notes=drawn.notes,
            unreadable=[(as_text(photo.path), as_text(reason)) for photo, reason in drawn.unreadable],
        )
    except OSError as error:
        raise InlierError(f"Nothing can be written to {as_text(out)}: {error.strerror or error}.") from error


def _panel(of: Mapping[str, Any], places: NDArray[np.float64]) -> Panel:
    layers = ", ".join(map(str, of["layers"]))
    weights = f", {of.get('network') or as_text(Path(of['weights']).name)}" if of["weights"] else ""
    return Panel(
        name=of["name"],
        detail=f"layers {layers}, {of['size']} px{weights}",
        places=places,
        knn_accuracy=Interval(**of["knn_accuracy"]) if of["knn_accuracy"] else None,
        silhouette=Interval(**of["silhouette"]) if of["silhouette"] else None,
        effective_rank=of["effective_rank"],
        num_dimensions=of["num_dimensions"],
        found={label: share["found_share"] for label, share in of["classes"].items()},
    )
