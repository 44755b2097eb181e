"""What a refit would change: started, watched, discarded, and put in the place of the model in use."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from inlier.errors import ConfigError, ReviewError
from inlier.model import Model
from inlier.reviewing.decisions import Choice
from inlier.service.review.loop import Background
from inlier.service.review.workbench import Workbench


def decide(bench: Workbench, number: int = 4) -> list[int]:
    """Says of some photos that the model learned from that they are anomalous."""
    learned = [photo.number for photo in bench.review.photos() if photo.split == "train"][:number]
    bench.review.decide([Choice(photo, True) for photo in learned], reviewer="Ada", page="one-of-Ada")
    return learned


def state(page: str) -> str:
    return re.search(r'data-state="(\w+)"', page)[1]  # type: ignore[index]


def test_a_refit_is_shown_and_replaces_nothing_before_yes(client: TestClient, bench: Workbench) -> None:
    learned, before = decide(bench), bench.model
    assert state(client.get("/review/changes").text) == "idle"
    assert client.post("/review/changes/start", follow_redirects=False).headers["location"] == "/review/changes"
    bench.wait(120)
    page = client.get("/review/changes").text
    assert state(page) == "done"
    assert re.search(r"<dt>Left</dt><dd>4\b", page) and re.search(r"<dt>Joined</dt><dd>0\b", page)
    assert re.search(r"<dt>Learned from</dt><dd>14 <span[^>]*>before 18", page)
    assert all(f'href="/review/photo/{number}"' in page for number in learned)
    assert "AUROC on dev" in page and "95 % interval" in page
    assert bench.folder is not None and Model.load(bench.folder).identity == before.identity

    assert client.post("/review/changes/use").status_code == 200
    after = Model.load(bench.folder)
    assert after.identity != before.identity and after.facts["parent"] == before.identity
    assert len(after.references) == 14 and bench.model.identity == after.identity
    page = client.get("/review/changes").text
    assert state(page) == "idle" and f"The model in use is {after.identity} now" in page
    assert [(of.parent, of.identity, of.reviewer) for of in bench.review.refits()] == [
        (before.identity, after.identity, "Ada")
    ]
    assert client.post("/review/changes/use").status_code == 409
    assert client.get(f"/review/photo/{learned[0]}/heatmap").status_code == 200


def test_a_refit_of_nothing_says_so(client: TestClient, bench: Workbench) -> None:
    client.post("/review/changes/start")
    bench.wait(120)
    page = client.get("/review/changes").text
    assert state(page) == "failed" and "Nothing was decided" in page


def test_a_model_that_was_replaced_meanwhile_stays(client: TestClient, bench: Workbench, model: Model) -> None:
    decide(bench)
    client.post("/review/changes/start")
    bench.wait(120)
    assert bench.folder is not None
    other = replace(model, facts=model.facts | {"seen": "elsewhere"})
    other.save(bench.folder)
    answer = client.post("/review/changes/use")
    assert answer.status_code == 409 and "another model" in answer.json()["error"]["message"]
    assert Model.load(bench.folder).identity == other.identity
    assert bench.status.state == "done"


def test_only_an_admin_says_yes_and_any_reviewer_no(
    signed_in: Callable[[str | None], TestClient], bench: Workbench
) -> None:
    decide(bench)
    ada, root = signed_in("Ada"), signed_in("root")
    ada.post("/review/changes/start")
    bench.wait(120)
    assert "/review/changes/use" not in ada.get("/review/changes").text
    assert "/review/changes/use" in root.get("/review/changes").text
    assert ada.post("/review/changes/use").status_code == 403
    folder, bench.folder = bench.folder, None
    assert "cannot be replaced here" in root.get("/review/changes").text
    with pytest.raises(ReviewError, match="was not saved"):
        bench.use(reviewer="root")
    ada.post("/review/changes/discard")
    assert state(ada.get("/review/changes").text) == "idle"
    assert folder is not None and Model.load(folder).identity == bench.model.identity
    assert bench.review.refits() == []


def test_progress_is_told_step_by_step() -> None:
    work: Background[str] = Background()
    steps, may_go, is_there = threading.Event(), threading.Event(), threading.Event()

    def refit(progress: Callable[[str, int], Callable[[int], None]]) -> str:
        advance = progress("Learning", 8)
        advance(3)
        is_there.set()
        may_go.wait(10)
        steps.set()
        return "fitted"

    assert work.start(refit)
    assert is_there.wait(10)
    status = work.status
    assert (status.state, status.task, status.num_done, status.num_steps) == ("running", "Learning", 3, 8)
    assert not work.start(refit) and work.clear() is None and work.status.state == "running"
    may_go.set()
    work.wait(10)
    assert work.status.state == "done" and not work.start(refit)
    assert work.clear() == "fitted" and work.status.state == "idle"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # its traceback goes on
def test_a_bug_in_a_refit_is_told_from_a_sentence() -> None:
    def refuse(progress: object) -> str:
        raise ConfigError("This detector cannot forget.")

    def break_off(progress: object) -> str:
        raise ZeroDivisionError("a secret of the machine")

    work: Background[str] = Background()
    work.start(refuse)
    work.wait(10)
    assert work.status.error == "This detector cannot forget."
    assert work.start(break_off)  # a failed one is not waited for
    work.wait(10)
    assert work.status.state == "failed" and "secret" not in work.status.error
