from __future__ import annotations

import doctest
from itertools import combinations, pairwise

import pytest
import torch
from torch import Tensor

from inlier.detectors import coreset as module
from inlier.detectors.coreset import CoresetStream, greedy_coreset, selection_width


def _plain_loop(rows: Tensor, num_rows: int) -> tuple[list[int], list[float]]:
    """Algorithm 1 of Roth et al., from the row nearest to the mean; and the covering radius after each pick."""
    rows = rows.double()
    picks = [int((rows - rows.mean(dim=0)).square().sum(dim=1).argmin())]
    squared = (rows - rows[picks[0]]).square().sum(dim=1)
    radii = [float(squared.max()) ** 0.5]
    while len(picks) < num_rows:
        picks.append(int(squared.argmax()))
        squared = torch.minimum(squared, (rows - rows[picks[-1]]).square().sum(dim=1))
        radii.append(float(squared.max()) ** 0.5)
    return picks, radii


def _uniform(num_rows: int, width: int) -> Tensor:
    return torch.rand(num_rows, width, generator=torch.Generator().manual_seed(0))


def _clustered(num_rows: int, width: int) -> Tensor:
    """Crowds of different density far from the origin, as features of photos are."""
    generator = torch.Generator().manual_seed(0)
    centres = 5 + 3 * torch.randn(7, width, generator=generator)
    spreads = torch.rand(7, 1, generator=generator) ** 3
    which = torch.randint(7, (num_rows,), generator=generator)
    return centres[which] + spreads[which] * torch.randn(num_rows, width, generator=generator)


def test_the_example_of_the_docstring_runs() -> None:
    assert doctest.testmod(module) == (0, 3)


@pytest.mark.parametrize(("num_rows", "picks", "radius"), [(1, [2], 8), (2, [2, 3], 2), (3, [2, 3, 0], 1)])
def test_picks_by_hand(num_rows: int, picks: list[int], radius: float) -> None:
    coreset = greedy_coreset(torch.tensor([[0.0], [1.0], [2.0], [10.0]]), num_rows)  # the mean is 3.25
    assert coreset.indices.tolist() == picks
    assert coreset.radius == pytest.approx(radius)


@pytest.mark.parametrize("num_candidates", [1, 2, 17, 300, 5000])
@pytest.mark.parametrize("make_rows", [_uniform, _clustered])
def test_picks_are_those_of_the_plain_loop(make_rows: object, num_candidates: int) -> None:
    rows = make_rows(900, 12)  # type: ignore[operator]
    picks, radii = _plain_loop(rows, 200)
    coreset = greedy_coreset(rows, 200, num_candidates=num_candidates)
    assert coreset.indices.tolist() == picks
    assert coreset.radius == pytest.approx(radii[-1], rel=1e-4)


@pytest.mark.parametrize("make_rows", [_uniform, _clustered])
def test_many_rows_are_covered_as_the_plain_loop_covers_them(make_rows: object) -> None:
    rows = make_rows(20_000, 24)  # type: ignore[operator]
    picks, radii = _plain_loop(rows, 400)
    coreset = greedy_coreset(rows, 400)
    assert coreset.radius == pytest.approx(radii[-1], rel=1e-3)
    assert len(set(picks) & set(coreset.indices.tolist())) >= 396  # but for ties in floating point
    apart = torch.cdist(rows.double(), rows[coreset.indices].double()).amin(dim=1)
    assert coreset.radius == pytest.approx(float(apart.max()), rel=1e-3)


def test_fewer_picks_are_the_first_of_more() -> None:
    rows = _clustered(500, 6)
    assert torch.equal(greedy_coreset(rows, 20).indices, greedy_coreset(rows, 60).indices[:20])


def test_all_rows_cover_themselves() -> None:
    coreset = greedy_coreset(_uniform(40, 3), 1000)
    assert sorted(coreset.indices.tolist()) == list(range(40))
    assert coreset.radius == 0.0


def test_copies_are_picked_once() -> None:
    distinct = _uniform(30, 5)
    coreset = greedy_coreset(distinct.repeat(4, 1), 100, num_candidates=16)
    assert sorted((coreset.indices % 30).tolist()) == list(range(30))
    assert coreset.radius == 0.0
    assert greedy_coreset(torch.full((9, 4), 0.1), 5).indices.tolist() == [0]


def test_the_order_of_rows_does_not_matter() -> None:
    rows = _clustered(700, 8)
    order = torch.randperm(700, generator=torch.Generator().manual_seed(1))
    coreset, shuffled = greedy_coreset(rows, 90), greedy_coreset(rows[order], 90)
    assert torch.equal(coreset.indices, order[shuffled.indices])


def test_the_radius_is_at_most_twice_the_smallest_possible() -> None:
    rows = _clustered(12, 2)
    distances = torch.cdist(rows, rows)
    smallest = min(float(distances[:, list(centres)].amin(dim=1).max()) for centres in combinations(range(12), 3))
    assert smallest <= greedy_coreset(rows, 3).radius <= 2 * smallest


@pytest.mark.parametrize(("num_rows", "num_wanted"), [(0, 1), (3, 0), (3, -1)])
def test_nothing_to_pick_is_refused(num_rows: int, num_wanted: int) -> None:
    sentence = rf"^greedy_coreset needs rows and num_rows >= 1, got {num_rows} rows and {num_wanted}\.$"
    with pytest.raises(ValueError, match=sentence):
        greedy_coreset(torch.rand(num_rows, 2), num_wanted)


def test_a_stream_with_room_for_all_gives_the_coreset_of_all() -> None:
    rows, tags = _clustered(300, 6), torch.arange(300) * 7
    stream = CoresetStream(capacity=300, num_kept=50)
    for part, tag in zip(rows.split(64), tags.split(64), strict=True):
        stream.append(part, tag)
    kept, kept_tags = stream.finish(40)
    picks = greedy_coreset(rows, 40).indices
    assert stream.num_seen == 300
    assert torch.equal(kept, rows[picks])
    assert torch.equal(kept_tags, tags[picks])


def test_a_stream_never_holds_more_than_its_capacity_and_still_covers_all_rows() -> None:
    rows = _uniform(2000, 3)
    stream = CoresetStream(capacity=250, num_kept=120)
    for part, tag in zip(rows.split(100), torch.arange(2000).split(100), strict=True):
        stream.append(part, tag)
        assert sum(len(held) for held in stream._rows) <= 250
    kept, tags = stream.finish(100)
    assert (len(kept), stream.num_seen) == (100, 2000)
    assert torch.equal(kept, rows[tags])
    radius = float(torch.cdist(rows, kept).amin(dim=1).max())
    assert radius <= 2 * greedy_coreset(rows, 100).radius


def test_a_stream_holds_little_of_what_it_covers_already() -> None:
    rows = _clustered(4000, 6).repeat(3, 1) + 0.01 * _uniform(12_000, 6)
    stream = CoresetStream(capacity=2000, num_kept=500)
    held = []
    for part, tag in zip(rows.split(200), torch.arange(len(rows)).split(200), strict=True):
        stream.append(part, tag)
        held.append(sum(len(rows) for rows in stream._rows))
    num_reductions = sum(later < earlier for earlier, later in pairwise(held))
    assert 1 <= num_reductions <= 3  # eight, if all were held
    assert stream.num_seen == len(rows)
    kept, tags = stream.finish(100)
    assert torch.equal(kept, rows[tags])
    radius = float(torch.cdist(rows, kept).amin(dim=1).max())
    assert radius <= 1.3 * greedy_coreset(rows, 100).radius


def test_a_stream_keeps_all_there_is_if_it_is_less_than_asked_for() -> None:
    stream = CoresetStream(capacity=10, num_kept=5)
    stream.append(torch.rand(4, 2), torch.arange(4))
    rows, tags = stream.finish(100)
    assert (len(rows), tags.tolist()) == (4, [0, 1, 2, 3])


@pytest.mark.parametrize(("capacity", "num_kept"), [(5, 5), (5, 9), (5, 0), (1, 1)])
def test_a_stream_that_would_keep_everything_is_refused(capacity: int, num_kept: int) -> None:
    sentence = rf"^num_kept of CoresetStream must be in 1 to capacity - 1 = {capacity - 1}, got {num_kept}\.$"
    with pytest.raises(ValueError, match=sentence):
        CoresetStream(capacity=capacity, num_kept=num_kept)


def test_wide_rows_are_covered_nearly_as_well_when_compared_by_a_projection() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = 4 * torch.randn(40, 300, generator=generator)
    rows = centres.repeat_interleave(30, dim=0) + 0.1 * torch.randn(1200, 300, generator=generator)
    stream = CoresetStream(capacity=2000, num_kept=100)
    stream.append(rows, torch.arange(len(rows)))
    kept, tags = stream.finish(40)
    assert torch.equal(kept, rows[tags]) and selection_width(300) < 300 == selection_width(256) + 44
    radius = torch.cdist(rows, kept).amin(dim=1).max()
    assert radius <= 1.2 * greedy_coreset(rows, 40).radius
    again = CoresetStream(capacity=2000, num_kept=100)
    again.append(rows, torch.arange(len(rows)))
    assert torch.equal(again.finish(40)[1], tags)
