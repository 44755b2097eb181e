"""Whether intervals hold the truth, and tests err, as often as they say: measured on scores of known distribution.

    python benchmarks/coverage.py --out results [--trials 1000]

Three questions, each with and without groups, with many photos and few:

- How often does the 95 % interval of an AUROC hold the true one? And 0.5, where labels mean nothing?
- How often is one of two equally good models called better, at p <= 0.05: by the test that decides in
  ``inlier compare``, by DeLong's as published, by the bootstrap alone?
- How often does the 95 % interval of a difference hold the true one?

Scores are normal, anomalous ones shifted to the AUROC asked. Half of the variance is what is hard for both models. In
groups of five, half of it is the group's. Tables are written as Markdown and JSON. It needs no data.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from inlier.decision.compare import LEVEL, compare_aurocs
from inlier.decision.intervals import bootstrap
from inlier.decision.metrics import image_auroc
from inlier.model import package_versions

AUROCS = (0.6, 0.7, 0.8, 0.9, 0.95)
GAINS = ((0.8, 0.85), (0.8, 0.95), (0.9, 0.99), (0.95, 0.999))
GROUP_SIZE = 5


@dataclass(frozen=True)
class Photos:
    """How many photos, and how they are grouped: each alone, or by five of one label, or by five of either."""

    num_normal: int
    num_anomalous: int
    grouping: str = "alone"

    def draw(self, rng: np.random.Generator, aurocs: Sequence[float]) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Scores of models of these AUROCs, shape (K, N), which photos are anomalous, and the groups."""
        num_photos = self.num_normal + self.num_anomalous
        is_anomalous = np.arange(num_photos) >= self.num_normal
        part = np.arange(num_photos) // GROUP_SIZE
        if self.grouping == "mixed":
            part = rng.permutation(num_photos) // GROUP_SIZE
        shift = np.sqrt(2) * stats.norm.ppf(np.array(aurocs))[:, None]
        noise = (self._noise(rng, 1, part) + self._noise(rng, len(aurocs), part)) / np.sqrt(2)
        names = [""] * num_photos if self.grouping == "alone" else part.astype(str).tolist()
        return noise + shift * is_anomalous, is_anomalous, names

    def _noise(self, rng: np.random.Generator, num_rows: int, part: np.ndarray) -> np.ndarray:
        of_photos = rng.normal(size=(num_rows, len(part)))
        if self.grouping == "alone":
            return of_photos
        return (of_photos + rng.normal(size=(num_rows, part.max() + 1))[:, part]) / np.sqrt(2)

    def __str__(self) -> str:
        return f"{self.num_normal} + {self.num_anomalous}, {self.grouping}"


CASES = (
    Photos(100, 100),
    Photos(60, 25),
    Photos(20, 20),
    Photos(50, 5),
    Photos(5, 5),
    Photos(100, 100, "grouped"),
    Photos(60, 25, "grouped"),
    Photos(100, 100, "mixed"),
)


def main() -> None:
    """Simulates, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/coverage"))
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    questions: tuple[Callable[..., list[dict[str, Any]]], ...] = (of_one_auroc, of_equal_models, of_a_gain)
    for question in questions:
        for case in CASES:
            rng = np.random.default_rng([arguments.seed, case.num_normal, case.num_anomalous])
            rows += question(case, rng, arguments.trials, arguments.resamples)
            table = to_markdown(rows, arguments.trials, arguments.seed)
            record = {"arguments": vars(arguments), "versions": package_versions(), "rows": rows}
            (arguments.out / "coverage.json").write_text(json.dumps(record, indent=2, default=str) + "\n")
            (arguments.out / "coverage.md").write_text(table)
    print(table)


def of_one_auroc(case: Photos, rng: np.random.Generator, num_trials: int, num_resamples: int) -> list[dict[str, Any]]:
    """How often the interval of an AUROC holds the true one: 0.5 where labels have nothing to do with scores."""
    rows = []
    for auroc in (0.5, *AUROCS):
        num_held = 0
        for trial in range(num_trials):
            (scores,), flags, groups = case.draw(rng, (auroc,))
            interval = bootstrap(image_auroc, scores, flags, groups, num_resamples=num_resamples, seed=trial)
            num_held += interval.low <= auroc <= interval.high
        name = "AUROC of meaningless labels" if auroc == 0.5 else "AUROC"
        rows.append({"question": name, "photos": str(case), "truth": auroc, "held": num_held / num_trials})
    return rows


def of_equal_models(
    case: Photos, rng: np.random.Generator, num_trials: int, num_resamples: int
) -> list[dict[str, Any]]:
    """How often each test calls two equally good models different."""
    rows = []
    for auroc in AUROCS:
        num_called = {"decides": 0, "delong": 0, "bootstrap": 0}
        for trial in range(num_trials):
            _, (found,) = compare_aurocs(*case.draw(rng, (auroc, auroc)), num_resamples=num_resamples, seed=trial)
            num_called["decides"] += found.is_real
            num_called["delong"] += found.delong_p <= 1 - LEVEL
            num_called["bootstrap"] += found.bootstrap_p <= 1 - LEVEL
        shares = {name: number / num_trials for name, number in num_called.items()}
        rows.append({"question": "equal models", "photos": str(case), "truth": auroc, **shares})
    return rows


def of_a_gain(case: Photos, rng: np.random.Generator, num_trials: int, num_resamples: int) -> list[dict[str, Any]]:
    """How often the interval of a difference holds the true one, and how often the better model is called so."""
    rows = []
    for aurocs in GAINS:
        num_held = num_held_by_bootstrap = num_found = num_wrong = 0
        for trial in range(num_trials):
            _, (found,) = compare_aurocs(*case.draw(rng, aurocs), num_resamples=num_resamples, seed=trial)
            truth = (aurocs[1] - aurocs[0]) * (1 if found.ahead == 1 else -1)
            num_held += found.gain.low <= truth <= found.gain.high
            num_held_by_bootstrap += found.resampled.low <= truth <= found.resampled.high
            num_found += found.is_real and found.ahead == 1
            num_wrong += found.is_real and found.ahead == 0
        rows.append(
            {
                "question": "difference",
                "photos": str(case),
                "truth": f"{aurocs[0]:g} and {aurocs[1]:g}",
                "held": num_held / num_trials,
                "held_by_bootstrap": num_held_by_bootstrap / num_trials,
                "found": num_found / num_trials,
                "wrong_way": num_wrong / num_trials,
            }
        )
    return rows


def to_markdown(rows: Sequence[dict[str, Any]], num_trials: int, seed: int) -> str:
    """A table for each question, in percent."""
    lines: list[str] = []
    titles = {
        "AUROC": "95 % intervals of an AUROC that hold the true one, %",
        "AUROC of meaningless labels": "95 % intervals of an AUROC that hold 0.5 where labels are as if shuffled, %",
        "equal models": "Pairs of equally good models called different at p <= 0.05, %",
        "difference": "95 % intervals of a difference that hold the true one, %",
    }
    for question, title in titles.items():
        chosen = [row for row in rows if row["question"] == question]
        if not chosen:
            continue
        head = list(chosen[0])[1:]
        lines += [f"### {title}", "", "| " + " | ".join(head).replace("_", " ") + " |", "| --- " * len(head) + "|"]
        for row in chosen:
            cells = [row[key] if key in ("photos", "truth") else f"{100 * row[key]:.1f}" for key in head]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
        lines.append("")
    error = 100 * np.sqrt(0.95 * 0.05 / num_trials)
    lines.append(
        f"By `python benchmarks/coverage.py --trials {num_trials} --seed {seed}`, each row from {num_trials} drawn "
        f"sets: a true 95 % is measured with a standard error of {error:.1f} %. *Photos* are normal + anomalous ones; "
        f"*grouped* by {GROUP_SIZE} of one label, *mixed* by {GROUP_SIZE} of either."
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
