"""The service's own pages, in a browser: what is asked of them at both widths, in light and dark."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from inlier.service.app import create_app
from inlier.service.charts import evidence_chart, histogram_chart, periods_chart
from inlier.service.settings import Settings

JPEG = {"content-type": "image/jpeg"}


def test_the_start_shows_models_and_the_latest_verdicts(
    make_client: Callable[..., TestClient], photos: list[bytes]
) -> None:
    client = make_client()
    assert "None so far." in client.get("/").text
    client.post("/v1/inspect", files={"photo": ("<b>grün</b>.jpg", photos[0])})
    page = client.get("/").text
    assert "b&gt;.jpg" in page and "<b>grün" not in page
    assert "combined on efficientnet_lite0, calibrated on 26 photos; knows bolted-flange, piston-crown" in page


def test_a_photo_can_be_tried(client: TestClient, photos: list[bytes]) -> None:
    page = client.post("/", files={"photo": ("one.jpg", photos[0])})
    assert page.status_code == 200
    (link,) = re.findall(r'src="(/v1/inspections/[0-9a-f]{32}/heatmap.png)"', page.text)
    assert client.get(link).headers["content-type"] == "image/png"
    assert client.post("/", files={"photo": ("one.jpg", b"x")}).text.count("not a picture in a known format") == 1


def test_pages_hold_nothing_that_their_policy_forbids(client: TestClient, photos: list[bytes]) -> None:
    client.post("/v1/inspect", content=photos[0], headers=JPEG)
    for path in ("/", "/drift", "/login"):
        page = client.get(path).text
        assert not re.search(r"<script|style=|<style|onclick|https?://(?!127\.0\.0\.1)", page), path
    assert "--paper" in client.get("/static/service.css").text
    assert client.get("/static/../app.py").status_code == client.get("/static/app.py").status_code == 404


def report(shares: list[float]) -> dict[str, Any]:
    periods = [
        {
            "value": of,
            "low": of / 2,
            "high": min(1.0, 2 * of),
            "p_value": 0.5,
            "num_photos": 20,
            "from": "2027-01-15T08:00",
            "to": "2027-01-15T09:00",
        }
        for of in shares
    ]
    return {"periods": periods, "false_alarm_rate": 0.05, "reject_share": {"nominal": 0.05}}


def test_places_in_the_figures_are_right() -> None:
    chart = periods_chart(report([0.05, 0.2]))
    assert [tick[1] for tick in chart["ticks"]] == ["0 %", "10 %", "20 %", "30 %", "40 %"]
    assert chart["points"][1]["y"] == pytest.approx(100) and chart["nominal"] == pytest.approx(175)
    bins = [
        {"count": 20.0, "mean": 10.0, "low": 4.0, "high": 18.0},
        {"count": 5.0, "mean": 10.0, "low": 4.0, "high": 18.0},
    ]
    bars = histogram_chart({"histogram": bins})["bars"]
    assert [bar["is_out"] for bar in bars] == [True, False] and bars[0]["y"] == pytest.approx(0)
    curve = evidence_chart({"curve": [(1, 0.0), (11, 4.0)], "alarm_evidence": 3.0})
    assert curve["line"] == "0.0,160.0 640.0,0.0" and curve["alarm"] == pytest.approx(40)


@pytest.fixture(scope="module")
def site(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service at a real address."""
    import uvicorn

    record = tmp_path_factory.mktemp("site") / "record.db"
    app = create_app(Settings(models={"parts": model_folder}, record=f"sqlite:///{record}"))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, ws="none", lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 120
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(60)


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_pages_fit_and_complain_of_nothing(
    site: str, browser: Any, photos: list[bytes], tmp_path: Path, width: int, scheme: Any
) -> None:
    (tmp_path / "photo.jpg").write_bytes(photos[-1])
    complaints: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(site)
    page.set_input_files("input[type=file]", tmp_path / "photo.jpg")
    page.click("button.main")
    page.wait_for_selector(".outcome img.heat")
    assert page.evaluate("document.querySelector('img.heat').naturalWidth") > 0
    for path in ("/", "/drift", "/login"):
        page.goto(site + path)
        overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overflow <= 0, path
        assert page.evaluate("document.querySelectorAll('h1').length") == 1
    page.fill("#key", "Ann")
    page.click("button.main")
    page.wait_for_url(site + "/")
    assert "Ann" in page.inner_text(".who")
    page.click("text=Log out")
    page.wait_for_url(site + "/login")
    page.close()
    assert complaints == []
