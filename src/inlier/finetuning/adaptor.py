"""An adaptor: a linear map of each layer's cells, learned in closed form; the backbone itself stays as it is.

What a hand-held camera changes between two shots of one part, its light and its place, moves features along some
directions more than along others. Where these are scaled down, distances tell of the part rather than of the shot.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inlier.data.squares import Squares
from inlier.features.backbone import Backbone

Kind = Literal["nuisance", "whitening"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_FLOOR = 1e-6
"""Share of the largest variance below which a direction does not vary, but for rounding."""

_GAMMAS = (0.6, 1.7)
_GAIN = 0.3
_SLOPE = 0.4
_TINT = 0.08
_SHIFT = 1 / 56


class Moments:
    """Mean and shrunk covariance of rows that come photo by photo; memory is that of a few such matrices.

    Cells of one photo resemble each other, so that a thousand of them are no thousand samples. A photo is therefore
    one draw: its mean square R = X'X / n is one observation of the second moment, and shrinkage is by how much these
    differ between photos. With one row a photo this is the rule of Ledoit & Wolf (Journal of Multivariate Analysis,
    2004), of which it keeps the target, a scaled identity, and the absence of a knob.
    """

    def __init__(self, width: int) -> None:
        """Of rows of this width, none yet."""
        self._num = 0
        self._means = torch.zeros(width, dtype=torch.float64)
        self._outer = torch.zeros(width, width, dtype=torch.float64)  # sum of a a', a the mean of a photo's rows
        self._squares = torch.zeros(width, width, dtype=torch.float64)  # sum of R
        self._bent = torch.zeros(width, dtype=torch.float64)  # sum of R a
        self._norms = 0.0  # sum of |R|^2

    def add(self, rows: Tensor) -> None:
        """Takes the rows of one photo, shape (n, C)."""
        rows = rows.double()
        square, mean = rows.T @ rows / len(rows), rows.mean(dim=0)
        self._num += 1
        self._means += mean
        self._outer += torch.outer(mean, mean)
        self._squares += square
        self._bent += square @ mean
        self._norms += float(square.square().sum())

    @property
    def mean(self) -> Tensor:
        """Of all photos, each of the same weight: shape (C,), float64; 0 of none."""
        return self._means / max(1, self._num)

    def scatter(self, *, around: Tensor) -> Tensor:
        """Mean square around a point, as it is: shape (C, C), float64; 0 of none."""
        cross = torch.outer(self._means, around)
        return (self._squares - cross - cross.T + self._num * torch.outer(around, around)) / max(1, self._num)

    def covariance(self, *, around: Tensor) -> Tensor:
        """Shrunk mean square around a point, (1 - a) S + a tr(S) / C I: shape (C, C), float64.

        S is the mean of the photos' squares S_i around that point, d. The spread of the S_i comes from sums alone:
        |S_i|^2 = |R|^2 - 4 d'R a + 2 d'R d + 2 |d|^2 |a|^2 + 2 (d'a)^2 - 4 |d|^2 d'a + |d|^4.
        """
        num, d, total = max(1, self._num), around, self.scatter(around=around)
        length, along = d @ d, self._means @ d
        norms = self._norms - 4 * (d @ self._bent) + 2 * (d @ self._squares @ d)
        norms += 2 * length * self._outer.trace() + 2 * (d @ self._outer @ d) - 4 * length * along
        norms += self._num * length**2
        level = total.trace() / len(d)
        target = level * torch.eye(len(d), dtype=torch.float64)
        noise = (norms / num - total.square().sum()) / num  # of S, as an estimate
        distance = (total - target).square().sum()
        share = float(noise.clamp(torch.zeros_like(distance), distance) / distance) if distance > 0 else 0.0
        return (1 - share) * total + share * target


def fit_adaptors(
    backbone: Backbone,
    batches: Iterable[Tensor],
    *,
    kind: Kind = "nuisance",
    strength: float = 0.5,
    rank: int | None = None,
) -> dict[int, nn.Conv2d]:
    """An adaptor for each layer of a backbone, for its ``adapt``: y = m + c W (x - m) in every cell.

    W = S ** (-strength / 2), of the shrunk covariance S of what shall count less. For ``nuisance`` that is how the same
    cell differs between two views of a photo: within-class covariance normalisation (Hatch et al., Interspeech 2006),
    each cell a class of its own, and the smoothing of S by the rule of Ledoit & Wolf. With a ``rank``, only so many
    directions, those that the views move most, are scaled, down to the level of the rest: a soft nuisance attribute
    projection (Solomonoff et al., ICASSP 2005), which would leave nothing of them. For ``whitening``, S is how cells
    and photos differ at all, and no pair is needed but comes anyway.

    Departures: W is symmetric, so that each channel stays closest to itself, where Hatch takes a Cholesky factor,
    which gives the same distances at strength 1. The mean m of the features stays and c keeps their total variance,
    since pooling and precision mind where zero is; so a strength of 0 leaves all features as they are.

    Args:
        backbone: Without adaptors.
        batches: Two views of each photo that show the same in the same place, shape (2, B, 3, H, W), normalised.
        kind: ``nuisance`` or ``whitening``.
        strength: In [0, 1]: 0 changes nothing, 1 makes all directions count alike, by S.
        rank: Directions that are scaled, >= 1; None: all.

    Returns:
        Layer -> 1 x 1 convolution with bias, its parameters without gradients.

    Raises:
        ValueError: A parameter is outside its range, or there are no photos.
    """
    _check(backbone, kind, strength, rank)
    nuisance = {layer: Moments(width) for layer, width in zip(backbone.layers, backbone.channels, strict=True)}
    total = {layer: Moments(width) for layer, width in zip(backbone.layers, backbone.channels, strict=True)}
    num_photos = 0
    for views in batches:
        num_photos += views.shape[1]
        for layer, maps in backbone.extract(views.flatten(0, 1)).items():
            cells = maps.flatten(2).mT  # (2 * B, h * w, C)
            for one, other in zip(*cells.tensor_split(2), strict=True):
                nuisance[layer].add(one - other)
                total[layer].add(torch.cat([one, other]))
    if not num_photos:
        raise ValueError("batches of fit_adaptors must hold at least one photo, got none.")
    adaptors = {}
    for layer, of_all in total.items():
        mean = of_all.mean
        about = (nuisance[layer], torch.zeros_like(mean)) if kind == "nuisance" else (of_all, mean)
        moved = about[0].covariance(around=about[1])
        adaptors[layer] = _as_convolution(_normaliser(moved, of_all.scatter(around=mean), strength, rank), mean)
    return adaptors


def light_pairs(
    squares: Squares,
    *,
    size: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    batch_size: int = 8,
    seed: int = 0,
) -> Iterator[Tensor]:
    """Each photo twice, in light of its own and a little displaced, as two shots of a steady hand would have it.

    Gamma, brightness, tint and a slope of brightness across the picture are drawn for each view, as is a shift by up
    to a 56th of its side; cells, of a 56th to a 7th, still show the same.

    Args:
        squares: The photos.
        size: Height and width of a view, in pixels.
        mean: Of red, green and blue, on the scale [0, 1]; subtracted.
        std: Likewise; divided by.
        batch_size: Photos at once, >= 1.
        seed: Of light and place; a photo's depend on nothing else but its place among the squares.

    Yields:
        Shape (2, B, 3, size, size), normalised.
    """
    centre, scale = (torch.tensor(values)[:, None, None] for values in (mean, std))
    for start in range(0, len(squares), batch_size):
        pairs = []
        for place in range(start, min(start + batch_size, len(squares))):
            rng, square = np.random.default_rng((seed, place)), squares[place]
            pairs.append(torch.stack([(_shot(square, size, rng) - centre) / scale for _ in range(2)]))
        yield torch.stack(pairs, dim=1)


def _check(backbone: Backbone, kind: Kind, strength: float, rank: int | None) -> None:
    if len(backbone.adaptors):
        raise ValueError(f"backbone of fit_adaptors must have no adaptors yet, got layers {list(backbone.adaptors)}.")
    if kind not in KINDS:
        raise ValueError(f"kind of fit_adaptors must be one of {', '.join(KINDS)}, got {kind!r}.")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength of fit_adaptors must be in [0, 1], got {strength}.")
    if rank is not None and rank < 1:
        raise ValueError(f"rank of fit_adaptors must be at least 1, got {rank}.")


def _normaliser(moved: Tensor, spread: Tensor, strength: float, rank: int | None) -> Tensor:
    """C W of the covariance of what shall count less, c such that the total variance stays; the identity of none."""
    variances, directions = torch.linalg.eigh(moved)  # ascending
    if variances[-1] <= 0:
        return torch.eye(len(moved), dtype=moved.dtype)
    variances = variances.clamp_min(_FLOOR * float(variances[-1]))
    if rank is not None and rank < len(variances):
        variances[:-rank] = variances[:-rank].mean()  # as of one more, spherical, part (Tipping & Bishop 1999)
    scaled = (directions * variances.pow(-strength / 2)) @ directions.T
    left = torch.einsum("ij,jk,ik->", scaled, spread, scaled)  # tr(W S W')
    return scaled * (spread.trace() / left).sqrt() if left > 0 else torch.eye(len(moved), dtype=moved.dtype)


def _as_convolution(matrix: Tensor, mean: Tensor) -> nn.Conv2d:
    """The map x -> m + A (x - m) in each cell."""
    with torch.random.fork_rng(devices=[]):  # what the constructor draws is thrown away
        adaptor = nn.Conv2d(len(mean), len(mean), kernel_size=1).requires_grad_(False)
    adaptor.load_state_dict({"weight": matrix[:, :, None, None], "bias": mean - matrix @ mean})
    return adaptor


def _shot(square: NDArray[np.uint8], size: int, rng: np.random.Generator) -> Tensor:
    """A view of a square, shape (3, size, size), in [0, 1]."""
    pixels = torch.from_numpy(square).permute(2, 0, 1)[None].float() / 255
    top, left = rng.uniform(-_SHIFT, _SHIFT, size=2)
    steps = (2 * torch.arange(size) + 1) / size - 1  # centres of pixels, from -1 to 1
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    grid = torch.stack([columns + 2 * left, rows + 2 * top], dim=2)[None]
    view = nn.functional.interpolate(pixels, (size, size), mode="bilinear", align_corners=False, antialias=True)
    view = nn.functional.grid_sample(view, grid, padding_mode="reflection", align_corners=False)[0].clamp(0, 1)
    gamma = float(np.exp(rng.uniform(*np.log(_GAMMAS))))
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, _SLOPE)
    gain = 1 + rng.uniform(-_GAIN, _GAIN)
    tint = torch.from_numpy(1 + rng.uniform(-_TINT, _TINT, size=3)).float()[:, None, None]
    light = gain * (1 + slope * (np.cos(angle) * columns + np.sin(angle) * rows) / 2)
    lit: Tensor = view.pow(gamma) * light * tint
    return lit.clamp(0, 1)
