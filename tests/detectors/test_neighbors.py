from __future__ import annotations

import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from inlier.detectors import neighbors
from inlier.detectors.neighbors import CHUNK_BYTES, FlatIndex, nearest_rows


def test_neighbours_by_hand() -> None:
    bank = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    distances, rows = nearest_rows(torch.tensor([[0.0, 1.0], [6.0, 8.0]]), bank, num_neighbors=2)
    assert rows.tolist() == [[0, 1], [2, 1]]
    assert distances.tolist() == [[1.0, pytest.approx(18**0.5)], [0.0, 5.0]]


@pytest.mark.parametrize("num_neighbors", [1, 5])
@pytest.mark.parametrize(("num_queries", "num_rows"), [(7, 1), (300, 40), (9000, 3000)])
def test_neighbours_agree_with_scikit_learn(num_neighbors: int, num_queries: int, num_rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(num_queries, 6, generator=generator)
    bank = torch.randn(num_rows, 6, generator=generator)
    found = min(num_neighbors, num_rows)
    reference = NearestNeighbors(n_neighbors=found, algorithm="brute").fit(bank.double().numpy())
    expected_distances, expected_rows = reference.kneighbors(queries.double().numpy())
    distances, rows = nearest_rows(queries, bank, num_neighbors=num_neighbors)
    assert (distances.shape, rows.dtype) == ((num_queries, found), torch.int64)
    assert torch.allclose(distances.double(), torch.from_numpy(expected_distances), rtol=1e-5)
    assert (rows.numpy() == expected_rows).mean() > 0.999  # but for ties in floating point
    if num_queries == 9000:
        assert num_queries * num_rows * 4 > 3 * CHUNK_BYTES  # several chunks


def test_small_distances_far_from_the_origin_do_not_cancel() -> None:
    bank = 1000 + torch.tensor([[0.0], [1.0], [2.0]])
    distances, rows = nearest_rows(bank + 2**-10, bank)
    assert rows[:, 0].tolist() == [0, 1, 2]
    assert distances[:, 0].tolist() == [2**-10] * 3


def test_distances_belong_to_their_rows_and_rise_where_rounding_confuses_the_order() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, bank = (300 + torch.rand(size, 3, generator=generator) for size in (50, 400))
    distances, rows = nearest_rows(queries, bank, num_neighbors=6)
    assert torch.equal(distances, (queries[:, None] - bank[rows]).square().sum(dim=2).sqrt())
    assert (distances.diff(dim=1) >= 0).all()


def test_no_queries_have_no_neighbours() -> None:
    distances, rows = nearest_rows(torch.empty(0, 4), torch.rand(5, 4), num_neighbors=3)
    assert distances.shape == rows.shape == (0, 3)


@pytest.mark.parametrize("num_neighbors", [1, 3])
def test_distances_are_the_same_in_chunks_of_any_size(num_neighbors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, bank = torch.randn(100, 6, generator=generator), torch.randn(20, 6, generator=generator)
    whole, rows = nearest_rows(queries, bank, num_neighbors=num_neighbors)
    monkeypatch.setattr(neighbors, "CHUNK_BYTES", 4 * 20 * 7)  # seven queries for the rows, 23 for the distances
    parts, rows_of_parts = nearest_rows(queries, bank, num_neighbors=num_neighbors)
    assert torch.equal(rows, rows_of_parts)
    assert torch.equal(whole, parts)
    assert torch.equal(whole, (queries[:, None] - bank[rows]).square().sum(dim=2).sqrt())


def banks() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Queries and rows: like patches, far from the origin, on a grid with ties, of very different lengths."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    mixing = draw(12, 150)
    unit = torch.nn.functional.normalize
    return {
        "patches": (unit(draw(700, 12) @ mixing + 2, dim=1), unit(draw(3000, 12) @ mixing + 2, dim=1)),
        "noise": (draw(200, 40), draw(999, 40)),
        "far": (1000 + draw(100, 5), 1000 + draw(300, 5)),
        "grid": (draw(100, 3).round(), draw(300, 3).round()),
        "lengths": (draw(100, 8) * 10 ** draw(100, 1), draw(200, 8) * 10 ** draw(200, 1)),
        "one": (draw(5, 8), draw(1, 8)),
        "themselves": (draw(300, 20), torch.empty(0)),
    }


@pytest.mark.parametrize("name", banks())
def test_looking_in_bfloat16_first_changes_nothing(name: str) -> None:
    queries, rows = banks()[name]
    rows = rows if len(rows) else queries
    distances, nearest = FlatIndex(rows, is_reduced=True).nearest(queries)
    reference = (queries.double()[:, None] - rows.double()).square().sum(dim=2).sqrt()
    smallest = reference.amin(dim=1)
    assert nearest.dtype == torch.int64
    assert torch.allclose(reference.gather(1, nearest[:, None])[:, 0], smallest, rtol=1e-6)  # no other row is nearer
    assert torch.allclose(distances.double(), smallest, rtol=1e-6)
    without, _ = FlatIndex(rows, is_reduced=False).nearest(queries)
    assert (distances <= without * (1 + 1e-5)).all()  # which far from the origin is not quite right itself


def test_the_shortlist_is_short() -> None:
    queries, rows = banks()["patches"]
    places, _ = FlatIndex(rows, is_reduced=True)._candidates(queries)
    assert set(places.tolist()) == set(range(len(queries)))
    assert len(places) < 4 * len(queries)


def test_rows_that_bfloat16_cannot_tell_apart_are_all_looked_at() -> None:
    rows = 1 + 1e-6 * torch.arange(500.0)[:, None].expand(-1, 4)
    index = FlatIndex(torch.cat([rows, torch.full((1, 4), 100.0)]), is_reduced=True)
    assert len(index._candidates(rows[:5])[0]) > 32 * 5
    distances, nearest = index.nearest(rows[[400, 3, 77]])
    given, _ = nearest_rows(rows[[400, 3, 77]], index.rows)
    assert torch.equal(distances, given[:, 0])
    assert (nearest < len(rows)).all()


def test_nobody_asks_an_index() -> None:
    distances, rows = FlatIndex(torch.rand(5, 4), is_reduced=True).nearest(torch.empty(0, 4))
    assert distances.shape == rows.shape == (0,)
    assert rows.dtype == torch.int64
