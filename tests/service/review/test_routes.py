"""Every route of the review pages, without a browser: what it shows, what it writes, and what it refuses."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import httpx2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from inlier.reviewing.decisions import Choice
from inlier.reviewing.ordering import Query
from inlier.service.review.workbench import Workbench

PAGES = (
    "/review",
    "/review/grid",
    "/review/grid?queue=labels&columns=6",
    "/review/grid?queue=all&verdict=accept&component=piston-crown&label=piston-crown&split=train&decided=1&columns=5",
    "/review/photo/3?queue=labels",
    "/review/disagreements",
    "/review/changes",
)
PARTIAL = {"hx-request": "true"}


def form_of(page: str) -> dict[str, str | list[str]]:
    """What the grid's form on a page would send as it stands."""
    found: dict[str, str | list[str]] = {"page": re.search(r'name="page" value="([^"]+)"', page)[1]}  # type: ignore[index]
    found["photo"] = re.findall(r'name="photo" value="(\d+)"', page)
    for name, word in re.findall(r'name="(word-\d+)" value="(\w+)" checked', page):
        found[name] = word
    return found


def shown(page: str) -> list[int]:
    return [int(number) for number in re.findall(r'name="photo" value="(\d+)"', page)]


def sentence(answer: httpx2.Response) -> str:
    return answer.json()["error"]["message"]


@pytest.mark.parametrize("address", PAGES)
def test_pages_are_whole_and_need_no_inline_script_or_style(client: TestClient, address: str) -> None:
    answer = client.get(address)
    assert answer.status_code == 200
    assert answer.text.count("<h1") == answer.text.count("<main") == 1
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", answer.text)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", answer.text))


def test_the_start_leads_to_the_review(client: TestClient) -> None:
    assert client.get("/", follow_redirects=False).headers["location"] == "/review"


def test_the_overview_counts_what_is_left(client: TestClient, bench: Workbench) -> None:
    total = len(bench.review.photos())
    assert f"of {total} photos are decided by you; {total} are left" in client.get("/review").text
    bench.review.decide([Choice(1, False)], reviewer="Ada", page="one-of-Ada")
    assert (
        f"<strong>1</strong> of {total} photos are decided by you; {total - 1} are left" in client.get("/review").text
    )


def test_agreement_is_shown_once_two_decided(client: TestClient, bench: Workbench) -> None:
    assert "kappa" not in client.get("/review").text
    bench.review.decide([Choice(n, n % 2 == 0) for n in range(1, 9)], reviewer="Ada", page="one-of-Ada")
    bench.review.decide([Choice(n, n in (2, 4, 6)) for n in range(1, 9)], reviewer="Zelda", page="one-of-Zelda")
    page = client.get("/review").text
    # 7 of 8 alike; by chance 0.5 * 0.375 + 0.5 * 0.625 = 0.5
    assert "Cohen&#39;s kappa" in page and "<dd>0.75 " in page and "the same on 7 of them" in page


def test_the_model_marks_what_it_is_sure_of_and_asks_for_the_rest(client: TestClient, bench: Workbench) -> None:
    page = client.get("/review/grid?queue=all&columns=6").text
    marked = form_of(page)
    asked = {"reject": "anomalous", "accept": "normal"}
    for number in shown(page):
        assert marked.get(f"word-{number}") == asked.get(bench.review.photo(number).verdict)


def test_a_page_is_taken_once_however_often_it_is_sent(client: TestClient, bench: Workbench) -> None:
    before = client.get("/review/grid").text
    form = form_of(before)
    first, second = form["photo"][0], form["photo"][1]
    form |= {f"word-{first}": "anomalous", f"label-{second}": "piston-crown", f"word-{second}": "normal"}
    answer = client.post("/review/grid", data=form, headers=PARTIAL)
    assert answer.status_code == 200 and "<html" not in answer.text
    assert "16 photos taken." in answer.text
    assert not {*shown(answer.text)} & {*shown(before)}
    again = client.post("/review/grid", data=form, headers=PARTIAL)
    assert "taken already" in again.text and shown(again.text) == shown(answer.text)
    decisions = bench.review.decisions()
    assert len(decisions) == 16 and {of.reviewer for of in decisions} == {"Ada"}
    of = {str(decision.photo): (decision.is_anomalous, decision.label) for decision in decisions}
    assert of[first] == (True, None) and of[second] == (False, "piston-crown")


def test_without_a_script_the_form_leads_to_the_next_page(client: TestClient, bench: Workbench) -> None:
    page = client.get("/review/grid?queue=all&split=train").text
    form = form_of(page) | {"queue": "all", "split": "train"}
    answer = client.post("/review/grid", data=form, follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/review/grid?queue=all&split=train&columns=4"
    assert len(bench.review.decisions()) == 16


def test_undo_shows_the_page_again_as_it_was(client: TestClient, bench: Workbench) -> None:
    form = form_of(client.get("/review/grid").text)
    number = form["photo"][3]
    form[f"word-{number}"] = "anomalous"
    client.post("/review/grid", data=form, headers=PARTIAL)
    answer = client.post("/review/undo", data={"queue": "doubtful"}, headers=PARTIAL)
    assert "16 photos taken back." in answer.text
    back = form_of(answer.text)
    assert back["photo"] == form["photo"] and back["page"] != form["page"]
    assert {k: v for k, v in back.items() if k != "page"} == {k: v for k, v in form.items() if k != "page"}
    assert bench.review.words() == {}
    plain = client.post("/review/undo", data={"queue": "doubtful"}, follow_redirects=False)
    assert plain.headers["location"] == "/review/grid?queue=doubtful&columns=4"
    client.post("/review/grid", data=back, headers=PARTIAL)
    plain = client.post("/review/undo", data={"queue": "doubtful"})
    assert form_of(plain.text)["photo"] == form["photo"]
    assert "nothing to take back" in client.post("/review/undo", data={}, headers=PARTIAL).text


def test_decided_photos_show_what_was_said(client: TestClient, bench: Workbench) -> None:
    bench.review.decide([Choice(2, True, "piston-crown")], reviewer="Ada", page="one-of-Ada")
    page = client.get("/review/grid?queue=all&decided=1&split=train").text
    assert form_of(page)["word-2"] == "anomalous"
    assert '<option value="piston-crown" selected>' in page.partition('id="photo-2"')[2].partition("</fieldset>")[0]


def test_nothing_left_is_said(client: TestClient, bench: Workbench) -> None:
    photos = bench.review.photos()
    bench.review.decide([Choice(photo.number, False) for photo in photos], reviewer="Ada", page="all-of-Ada")
    page = client.get("/review/grid").text
    assert "Nothing is left here" in page and "data-take" not in page


@pytest.mark.parametrize(
    ("address", "status", "reason"),
    [
        ("/review/photo/999999", 404, "no photo number 999999"),
        ("/review/photo/0/thumb", 404, "no photo number 0"),
        ("/review/photo/abc", 422, "number"),
        ("/review/photo/1/thumb?width=wide", 422, "width"),
        ("/review/photo/1/reason/0/elsewhere", 422, "side"),
        ("/review/photo/1/reason/99/here", 404, "no such picture"),
        ("/review/photo/1/reason/-1/here", 422, "place"),
        ("/review/photo/" + "9" * 30, 422, "number"),
        ("/review/reference/999999", 404, "no such picture"),
        ("/review/reference/-1", 422, "number"),
        ("/review/grid?queue=best", 400, "no such queue"),
        ("/review/grid?columns=7", 400, "4, 5, 6 columns"),
        ("/review/grid?again=1&again=x", 400, "numbers of photos"),
        ("/review/grid?again=999999", 404, "no photo number 999999"),
        ("/review/grid?queue=all&queue=labels", 400, "once only"),
        ("/review/grid?" + "&".join(f"again={n}" for n in range(40)), 400, "36 photos at most"),
        ("/review/grid?label=" + "x" * 300, 400, "one line of 200"),
        ("/review/static/../routes.py", 404, "nothing at this address"),
        ("/review/static/routes.py", 404, "nothing at this address"),
    ],
)
def test_what_is_not_there_is_refused(client: TestClient, address: str, status: int, reason: str) -> None:
    answer = client.get(address)
    assert answer.status_code == status
    assert reason in sentence(answer)


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"page": ""}, 400, "no number of its own"),
        ({"page": "../../etc/passwd"}, 400, "no number of its own"),
        ({"photo": ["1", "999999"]}, 404, "no photo number 999999"),
        ({"photo": ["1", "1"]}, 400, "each once"),
        ({"photo": []}, 400, "1 to 36 photos"),
        ({"photo": ["1' or '1"]}, 400, "numbers of photos"),
        ({"photo": ["1"], "word-1": "broken"}, 400, "normal or anomalous"),
        ({"photo": ["1"], "label-1": "no-such-class"}, 400, "none of this review"),
        ({"photo": ["1"], "word-1": ["normal", "anomalous"]}, 400, "once only"),
        ({f"x{n}": "1" for n in range(600)}, 400, "500 fields at most"),
        ({"x": "y" * 300_000}, 400, "256 KiB at most"),
    ],
)
def test_forms_that_make_no_sense_write_nothing(
    client: TestClient, bench: Workbench, changes: dict[str, str | list[str]], status: int, reason: str
) -> None:
    form = form_of(client.get("/review/grid").text) | changes
    answer = client.post("/review/grid", data=form)
    assert answer.status_code == status
    assert reason in sentence(answer)
    assert bench.review.decisions() == []


def test_other_kinds_of_bodies_are_refused(client: TestClient, bench: Workbench) -> None:
    assert "urlencoded" in sentence(client.post("/review/grid", json={"page": "12345678", "photo": 1}))
    answer = client.post(
        "/review/grid", content=b"page=\xff\xfe", headers={"content-type": "application/x-www-form-urlencoded"}
    )
    assert answer.status_code == 400 and "cannot be read" in sentence(answer)
    assert bench.review.decisions() == []


def test_pages_of_other_sites_change_nothing(client: TestClient, bench: Workbench) -> None:
    form = form_of(client.get("/review/grid").text)
    answer = client.post("/review/grid", data=form, headers={"origin": "https://elsewhere.example"})
    assert answer.status_code == 403
    assert client.get("/review", headers={"host": "elsewhere.example"}).status_code == 421
    assert bench.review.decisions() == []


def test_a_photo_is_decided_on_its_own_page(client: TestClient, bench: Workbench) -> None:
    page = client.get("/review/photo/5").text
    form = form_of(page) | {"word-5": "anomalous"}
    answer = client.post("/review/photo/5", data=form)
    assert "Saved." in answer.text and "<strong>anomalous</strong>" in answer.text
    assert [of.is_anomalous for of in bench.review.history(5, reviewer="Ada")] == [True]
    assert client.post("/review/photo/6", data=form).status_code == 400
    assert client.post("/review/photo/999999", data=form | {"photo": "999999"}).status_code == 404


def test_a_photo_shows_what_it_is_compared_with(client: TestClient, bench: Workbench) -> None:
    worst = next(photo for photo in bench.review.photos() if photo.verdict == "reject")
    page = client.get(f"/review/photo/{worst.number}").text
    reasons = bench.pictures.inspection(worst.path).evidence
    assert page.count("data-reason=") == len(reasons) > 0
    boxes = {int(of): float(left) for of, left in re.findall(r'data-box="(\d+)"><rect class="under" x="([^"]+)"', page)}
    width = int(re.search(r'data-width="(\d+)"', page)[1])  # type: ignore[index]
    places = {n: of.box for n, of in enumerate(reasons) if of.box != (0.0, 0.0, 1.0, 1.0)}
    assert 0 < len(places) < len(reasons)  # one compares whole photos
    assert boxes == pytest.approx({n: width * box[0] for n, box in places.items()}, abs=0.01)
    for address in re.findall(r'(?:src|href)="(/review/(?:photo/\d+/reason|reference)/[^"]+)"', page):
        answer = client.get(address)
        assert answer.status_code == 200
        assert Image.open(io.BytesIO(answer.content)).format == "WEBP"


def test_pictures_are_made_on_demand_and_known_again(client: TestClient, bench: Workbench) -> None:
    answer = client.get("/review/photo/1/thumb?width=33")
    image = Image.open(io.BytesIO(answer.content))
    assert answer.headers["content-type"] == "image/webp" and max(image.size) <= 160
    same = client.get("/review/photo/1/thumb?width=33", headers={"if-none-match": answer.headers["etag"]})
    assert same.status_code == 304 and not same.content
    assert client.get("/review/photo/1/heatmap").content != client.get("/review/photo/1/image").content
    contour = Image.open(io.BytesIO(client.get("/review/photo/1/contour").content))
    assert contour.mode == "RGBA" and np.asarray(contour)[..., 3].min() == 0


def test_a_photo_that_vanished_has_a_placeholder(client: TestClient, bench: Workbench, tmp_path: Path) -> None:
    import shutil
    from dataclasses import replace

    photo = bench.review.photo(1)
    moved = tmp_path / "moved.jpg"
    shutil.copy(photo.path, moved)
    number = len(bench.review.photos()) + 1
    bench.review.add_photos([replace(photo, number=number, path=str(moved))])
    assert client.get(f"/review/photo/{number}/thumb").headers["content-type"] == "image/webp"
    moved.unlink()
    for kind in ("thumb", "image", "heatmap", "contour"):
        answer = client.get(f"/review/photo/{number}/{kind}")
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("image/svg+xml")
        assert answer.headers["cache-control"] == "no-store"
    assert client.get(f"/review/photo/{number}").status_code == 200
    assert "cannot be read" in client.get(f"/review/photo/{number}/image").text


def test_regions_are_drawn_and_erased(client: TestClient, bench: Workbench) -> None:
    drawn = {"kind": "defect", "region-label": "crack", "polygon": "[[0.1,0.2],[0.5,0.2],[0.5,0.6]]"}
    answer = client.post("/review/photo/4/regions", data=drawn, headers=PARTIAL)
    assert "Region saved." in answer.text and "crack" in answer.text and "<html" not in answer.text
    client.post("/review/photo/4/regions", data=drawn, headers=PARTIAL)  # sent twice
    sides = {"kind": "interest", "left": "0", "top": "10.5", "right": "100", "bottom": "90"}
    plain = client.post("/review/photo/4/regions", data=sides, follow_redirects=False)
    assert plain.status_code == 303
    first, second = bench.review.regions(4, reviewer="Ada")
    assert first.polygon == ((0.1, 0.2), (0.5, 0.2), (0.5, 0.6)) and first.label == "crack"
    assert second.polygon == ((0.0, 0.105), (1.0, 0.105), (1.0, 0.9), (0.0, 0.9))
    client.post("/review/photo/4/regions/erase", data=drawn, headers=PARTIAL)
    assert bench.review.regions(4, reviewer="Ada") == [second]


@pytest.mark.parametrize(
    "form",
    [
        {"kind": "defect", "polygon": "[[0,0],[1,1]]"},
        {"kind": "defect", "polygon": "[[0,0],[1,1],[2,0]]"},
        {"kind": "defect", "polygon": "[[0,0],[1,1],[NaN,0]]"},
        {"kind": "defect", "polygon": "[" * 50_000},
        {"kind": "defect", "polygon": '{"a": 1}'},
        {"kind": "defect", "polygon": "[[0,0],[1,1],[1,null]]"},
        {"kind": "scratch", "polygon": "[[0,0],[1,1],[1,0]]"},
        {"kind": "defect"},
        {"kind": "defect", "left": "50", "right": "40", "top": "0", "bottom": "10"},
    ],
)
def test_regions_that_are_none_are_refused(client: TestClient, bench: Workbench, form: dict[str, str]) -> None:
    answer = client.post("/review/photo/4/regions", data=form)
    assert answer.status_code == 400 and "at least three corners" in sentence(answer)
    assert client.post("/review/photo/999999/regions", data={"kind": "defect", "polygon": "[[0,0],[1,1],[1,0]]"}
                       ).status_code == 404  # fmt: skip
    assert bench.review.regions(4, reviewer=None) == []


def test_who_may_do_what(signed_in: Callable[[str | None], TestClient], bench: Workbench) -> None:
    stranger = signed_in(None)
    assert stranger.get("/review").status_code == 401
    asked = stranger.get("/review/grid", headers={"accept": "text/html"}, follow_redirects=False)
    assert asked.headers["location"] == "/login?next=/review/grid"
    assert stranger.post("/review/grid", data={}).status_code == 401
    for path in ("/review", "/review/grid", "/review/photo/1", "/review/photo/1/thumb", "/review/changes"):
        assert signed_in("app").get(path).status_code == 403
        assert signed_in("Ada").get(path).status_code == 200
    assert signed_in("app").post("/review/undo", data={}).status_code == 403
    assert signed_in("Ada").post("/review/changes/use").status_code == 403
    assert signed_in("root").post("/review/changes/use").status_code == 409
    form = form_of(signed_in("Zelda").get("/review/grid").text)
    signed_in("Zelda").post("/review/grid", data=form)
    assert {of.reviewer for of in bench.review.decisions()} == {"Zelda"}


def test_reviewers_are_blind_until_they_have_spoken_and_differ(
    signed_in: Callable[[str | None], TestClient], bench: Workbench
) -> None:
    ada, bo, cy = (signed_in(name) for name in ("Ada", "Zelda", "Cy"))
    bench.review.decide([Choice(7, True), Choice(8, True)], reviewer="Ada", page="one-of-Ada")
    assert "<strong>anomalous" not in bo.get("/review/photo/7").text
    bench.review.decide([Choice(7, False), Choice(8, True)], reviewer="Zelda", page="one-of-Zelda")
    for client in (ada, bo):
        page = client.get("/review/disagreements").text
        assert "1 photo is judged differently" in page and 'id="photo-7"' in page and 'id="photo-8"' not in page
        assert "<strong>1</strong> says anomalous" in page and "<strong>1</strong> says normal" in page
    assert "Say your own word first" in cy.get("/review/disagreements").text
    assert "says" not in cy.get("/review/disagreements").text
    assert "another reviewer: <strong>normal" in ada.get("/review/photo/7").text
    assert "Zelda" not in ada.get("/review/photo/7").text
    assert "another reviewer" not in ada.get("/review/photo/8").text


def test_a_disagreement_is_settled(signed_in: Callable[[str | None], TestClient], bench: Workbench) -> None:
    bench.review.decide([Choice(7, True)], reviewer="Ada", page="one-of-Ada")
    bench.review.decide([Choice(7, False)], reviewer="Zelda", page="one-of-Zelda")
    bo = signed_in("Zelda")
    form = form_of(bo.get("/review/disagreements").text) | {"word-7": "normal"}
    bo.post("/review/disagreements", data=form)
    assert [p.number for p in bench.review.page(Query("disagreements"), reviewer="Zelda")] == []
    ada = signed_in("Ada")
    form = form_of(ada.get("/review/disagreements").text) | {"word-7": "normal"}
    assert "agree on every photo" in ada.post("/review/disagreements", data=form).text


def test_the_files_of_the_pages(client: TestClient) -> None:
    page = client.get("/review").text
    for address in re.findall(r'(?:src|href)="(/review/static/[^"]+)"', page):
        answer = client.get(address)
        assert answer.status_code == 200 and "immutable" in answer.headers["cache-control"]
    assert "--paper" in client.get("/review/static/review.css").text
