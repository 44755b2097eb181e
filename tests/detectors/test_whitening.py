from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor

from inlier.detectors.whitening import shrunk_whitening, within_classes


def _rows(number: int, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, 6, generator=generator) * torch.arange(1, 7)


def _covariance(whitening: Tensor) -> np.ndarray:
    """The covariance that a whitening belongs to: the inverse of W W'."""
    return np.linalg.inv((whitening @ whitening.T).double().numpy())


def test_each_class_loses_its_own_mean() -> None:
    rows, labels = _rows(9), list("abcabcabc")
    centred = within_classes(rows, labels)
    for place, label in enumerate(labels):
        members = [other for other in range(9) if labels[other] == label]
        assert torch.allclose(centred[place], rows[place] - rows[members].mean(dim=0), atol=1e-6)


def test_photos_that_are_alone_in_their_class_are_one_class() -> None:
    rows = _rows(5)
    centred = within_classes(rows, ["a", "b", "", "c", "c"])
    assert torch.allclose(centred[:3], rows[:3] - rows[:3].mean(dim=0), atol=1e-6)
    assert torch.allclose(centred[3:], rows[3:] - rows[3:].mean(dim=0), atol=1e-6)


def test_without_classes_the_mean_is_that_of_all() -> None:
    rows = _rows(8)
    assert torch.allclose(within_classes(rows, [""] * 8), rows - rows.mean(dim=0), atol=1e-6)


@pytest.mark.parametrize("number", [3, 40, 2000])
def test_the_covariance_is_ledoits_and_wolfs(number: int) -> None:
    rows = _rows(number)
    expected = LedoitWolf().fit(rows.double().numpy()).covariance_
    assert _covariance(shrunk_whitening(rows - rows.mean(dim=0))) == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_a_background_is_mixed_in_at_the_same_trace() -> None:
    rows, others = _rows(40), 100 * _rows(60, seed=1).flip(1) + 7
    own = LedoitWolf().fit(rows.double().numpy()).covariance_
    its = LedoitWolf().fit(others.double().numpy()).covariance_
    expected = 0.75 * own + 0.25 * its * np.trace(own) / np.trace(its)
    whitening = shrunk_whitening(rows - rows.mean(dim=0), others, share=0.25)
    assert _covariance(whitening) == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert torch.equal(shrunk_whitening(rows, others, share=0.0), shrunk_whitening(rows))


def test_where_nothing_varies_it_is_the_background_or_the_identity() -> None:
    single, others = torch.zeros(1, 6), _rows(60, seed=1)
    assert torch.equal(shrunk_whitening(single), torch.eye(6))
    assert torch.equal(shrunk_whitening(torch.zeros(4, 6)), torch.eye(6))
    assert torch.equal(shrunk_whitening(single, torch.ones(3, 6), share=0.5), torch.eye(6))
    expected = LedoitWolf().fit(others.double().numpy()).covariance_
    assert _covariance(shrunk_whitening(single, others, share=0.5)) == pytest.approx(expected, rel=1e-3, abs=1e-3)
    rows = _rows(9)
    unchanged = shrunk_whitening(rows, torch.ones(3, 6), share=0.5)
    assert torch.equal(unchanged, shrunk_whitening(rows))
