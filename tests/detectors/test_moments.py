from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from inlier.detectors import moments as module
from inlier.detectors.moments import Moments


def _rows(num_rows: int, depth: int, *, seed: int, offset: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(depth, depth, generator=generator, dtype=torch.float64)
    return torch.randn(num_rows, depth, generator=generator, dtype=torch.float64) @ mixing + offset


def _assert_same(moments: Moments, expected: Moments, *, rel: float = 1e-10) -> None:
    assert moments.count == expected.count
    size = float(expected.scatter.abs().max())
    assert moments.mean.numpy() == pytest.approx(expected.mean.numpy(), rel=rel, abs=rel)
    assert moments.scatter.numpy() == pytest.approx(expected.scatter.numpy(), rel=rel, abs=rel * (1 + size))


def test_the_example_of_the_docstring_runs() -> None:
    assert doctest.testmod(module) == (0, 4)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_agreement_with_numpy(offset: float) -> None:
    rows = _rows(50, 4, seed=0, offset=offset)
    moments = Moments.of(rows)
    assert (moments.count, moments.mean.dtype, moments.scatter.dtype) == (50, torch.float64, torch.float64)
    assert moments.mean.numpy() == pytest.approx(np.mean(rows.numpy(), axis=0), rel=1e-12)
    assert moments.covariance().numpy() == pytest.approx(np.cov(rows.numpy(), rowvar=False), rel=1e-8)


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=6),
    seed=st.integers(0, 2**16),
    offset=st.sampled_from([0.0, -300.0]),
    data=st.data(),
)
def test_parts_in_any_order_make_the_whole_and_leave_it_again(
    sizes: list[int], seed: int, offset: float, data: st.DataObject
) -> None:
    parts = list(torch.split(_rows(sum(sizes), 3, seed=seed, offset=offset), sizes))
    order = data.draw(st.permutations(range(len(parts))))
    is_left = data.draw(st.lists(st.booleans(), min_size=len(parts), max_size=len(parts)))
    total = Moments.of(torch.empty(0, 3))
    for place in order:
        total += Moments.of(parts[place])
    _assert_same(total, Moments.of(torch.cat(parts)), rel=1e-9)
    for part, stays in zip(parts, is_left, strict=True):
        total = total if stays else total - Moments.of(part)
    left = [part for part, stays in zip(parts, is_left, strict=True) if stays]
    _assert_same(total, Moments.of(torch.cat([torch.empty(0, 3, dtype=torch.float64), *left])), rel=1e-8)


def test_merging_is_grouped_as_one_likes() -> None:
    first, second, third = (Moments.of(_rows(num_rows, 3, seed=num_rows)) for num_rows in (4, 9, 25))
    _assert_same((first + second) + third, first + (second + third))
    _assert_same(first + second, second + first)


@pytest.mark.parametrize("chunk_bytes", [1, 8 * 3 * 7, 8 * 3 * 100])
def test_chunks_change_nothing(chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _rows(100, 3, seed=0, offset=5.0)
    whole = Moments.of(rows)
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk_bytes)
    _assert_same(Moments.of(rows), whole)


def test_nothing_is_cancelled_far_from_zero() -> None:
    """Sum of squares less squared sum, in float64, would be wrong in every digit here."""
    steps = torch.tensor([[0.0], [1.0], [2.0], [3.0]], dtype=torch.float64) + 2.0**40
    assert (Moments.of(steps[:1]) + Moments.of(steps[1:])).scatter.item() == pytest.approx(5.0, rel=1e-3)


def test_no_rows_change_nothing_and_all_rows_leave_nothing() -> None:
    some, none = Moments.of(_rows(5, 3, seed=0)), Moments.of(torch.empty(0, 3))
    assert (none.count, none.mean.tolist(), none.scatter.count_nonzero().item()) == (0, [0.0] * 3, 0)
    assert some + none is some and none + some is some and some - none is some
    empty = some - some
    assert (empty.count, empty.mean.tolist(), empty.scatter.count_nonzero().item()) == (0, [0.0] * 3, 0)


def test_rows_are_left_as_they_were_and_copies_do_not_scatter() -> None:
    rows = torch.full((7, 2), 0.1)
    copy = rows.clone()
    moments = Moments.of(rows)
    assert torch.equal(rows, copy)
    assert moments.scatter.abs().max() < 1e-30


def test_what_cannot_be_is_refused() -> None:
    few, many = Moments.of(_rows(3, 2, seed=0)), Moments.of(_rows(8, 2, seed=1))
    with pytest.raises(ValueError, match=r"^Moments of 3 rows cannot give away 8\.$"):
        few - many
    sentence = r"^Moments can give away only rows that are among theirs; these scatter more than all do\.$"
    with pytest.raises(ValueError, match=sentence):
        many - Moments.of(100 * _rows(3, 2, seed=2))
    sentence = r"^Moments go together only if their rows have the same width, got 2 and 3\.$"
    for combine in (Moments.__add__, Moments.__sub__):
        with pytest.raises(ValueError, match=sentence):
            combine(few, Moments.of(_rows(2, 3, seed=0)))
    for num_rows in (0, 1):
        with pytest.raises(ValueError, match=rf"^A covariance needs at least two rows, got {num_rows}\.$"):
            Moments.of(_rows(num_rows, 2, seed=0)).covariance()
