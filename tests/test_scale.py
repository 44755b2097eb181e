"""Functions for workers are those of the standard library: what a test defines, they could not import."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from inlier import inspection
from inlier.data.manifest import Manifest, Photo
from inlier.errors import ConfigError, InlierError, MissingExtraError
from inlier.experiments.search import Request, tune
from inlier.inspection import inspect_to_folder
from inlier.model import Model
from inlier.scale import Workers, check_installed, map_function, map_items, reached
from inlier.sharding import fit_in_shards
from inlier.sharing import AHEAD, MAX_TRIES, Desk, versions_here

EVAL = partial(eval, "eval")
"""Makes the function ``eval``: items are expressions."""

KILL = f"__import__('os').kill(__import__('os').getpid(), {signal.SIGKILL:d})"
PID = "__import__('os').getpid()"
NUM_WORKERS = 2


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of a CPU each, on this machine; this process is connected."""
    try:
        check_installed()  # and keeps Ray quiet
    except MissingExtraError as error:
        pytest.skip(str(error))
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(**node)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def places(*, here: bool = True) -> pytest.MarkDecorator:
    """Runs a test here, on processes, and on Ray."""
    on_ray = pytest.param("ray", marks=pytest.mark.slow)
    return pytest.mark.parametrize("on", [*(["here"] if here else []), "processes", on_ray], indirect=True)


@pytest.fixture
def on(request: pytest.FixtureRequest) -> Workers:
    if request.param == "here":
        return Workers()
    if request.param == "ray":
        request.getfixturevalue("cluster")
    return Workers(NUM_WORKERS, ray="auto" if request.param == "ray" else None)


def dies_once(mark: Path, value: int) -> str:
    """An item whose first worker is killed."""
    return f"__import__('os').path.exists({str(mark)!r}) and {value} or (open({str(mark)!r}, 'w').close(), {KILL})"


@places()
@pytest.mark.parametrize("number", (0, 1, 40))
def test_every_item_gets_its_result_in_order(on: Workers, number: int) -> None:
    items = [f"{item} ** 2" for item in range(number)]
    assert list(map_items(EVAL, items, on=on)) == [item**2 for item in range(number)]


@places()
def test_a_plain_function_is_mapped_and_keeps_to_its_threads(on: Workers) -> None:
    squares = map_function(eval, ["3 ** 2", "__import__('torch').get_num_threads()"], on=on)
    assert next(squares) == 9
    assert next(squares) <= (torch.get_num_threads() if on.is_here else on.num_threads)


@places(here=False)
def test_results_wait_for_a_slow_one_only_if_they_are_to_be_in_order(on: Workers, tmp_path: Path) -> None:
    """The first item takes a second longer than another, however late a busy machine begins a second worker."""

    def items(done: Path) -> list[str]:
        waits = (
            f"[__import__('time').sleep(0.05) for _ in iter(lambda: __import__('os').path.exists({str(done)!r}), True)]"
        )
        others = [f"open({str(done)!r}, 'w').close() or {item}" for item in range(1, 12)]
        return [f"len({waits}) * 0 or __import__('time').sleep(1) or 0", *others]

    assert list(map_items(EVAL, items(tmp_path / "one"), on=on)) == list(range(12))
    as_done = list(map_items(EVAL, items(tmp_path / "other"), on=on, in_order=False))
    assert sorted(as_done) == list(range(12)) and as_done[0] != 0


@places(here=False)
@pytest.mark.parametrize("in_order", (True, False))
def test_few_items_are_taken_that_are_not_given_back(on: Workers, in_order: bool) -> None:
    num_taken = 0

    def items() -> Iterator[str]:
        nonlocal num_taken
        for number in count():
            num_taken += 1
            yield "__import__('time').sleep(1)" if number == 0 else str(number)  # others go on meanwhile, but not far

    results = map_items(EVAL, items(), on=on, in_order=in_order)
    most = 0
    for num_given_back, _ in enumerate(islice(results, 30)):
        most = max(most, num_taken - num_given_back)
    assert NUM_WORKERS < most <= NUM_WORKERS * AHEAD if in_order else most <= NUM_WORKERS * AHEAD
    results.close()


@places(here=False)
def test_a_function_is_made_once_in_each_worker(on: Workers, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    make = partial(eval, f"(open({log!r}, 'a').write(str({PID}) + '\\n'), eval)[1]")
    processes = set(map_items(make, [f"(__import__('time').sleep(0.05), {PID})[1]"] * 20, on=on))
    made = Path(log).read_text().split()
    assert sorted(map(int, made)) == sorted(processes) and os.getpid() not in processes
    assert len(processes) <= NUM_WORKERS


@places(here=False)
def test_who_dies_in_the_middle_is_replaced_and_no_item_is_lost_or_done_twice(on: Workers, tmp_path: Path) -> None:
    items = [str(item) for item in range(1, 20)]
    items[5], items[11] = dies_once(tmp_path / "a", 6), dies_once(tmp_path / "b", 12)
    assert list(map_items(EVAL, items, on=on)) == list(range(1, 20))
    assert (tmp_path / "a").exists() and (tmp_path / "b").exists()


@places(here=False)
def test_an_item_that_kills_every_worker_is_named_or_given_up(on: Workers) -> None:
    items = ["1", KILL, "3"]
    with pytest.raises(
        InlierError, match=rf"^{MAX_TRIES} workers died one after another at \"__import__\('os'\)\.kill"
    ):
        list(map_items(EVAL, items, on=on))
    assert list(map_items(EVAL, items, on=on, on_death=len)) == [1, len(KILL), 3]


@places(here=False)
def test_workers_that_die_as_they_begin_are_not_hired_for_ever(on: Workers) -> None:
    with pytest.raises(InlierError, match=r"^Workers die as they begin: "):
        list(map_items(partial(eval, KILL), ["1"], on=on))


@places()
def test_what_a_function_raises_is_raised_as_it_is_and_names_the_item(on: Workers) -> None:
    with pytest.raises(ZeroDivisionError, match=r"^division by zero\n") as raised:
        list(map_items(EVAL, ["1", "1 / 0", *["2"] * 20], on=on))
    assert raised.value.__notes__[0] == "This was about '1 / 0'."
    assert not multiprocessing.active_children()


@places()
def test_what_making_the_function_raises_is_raised_as_it_is(on: Workers) -> None:
    with pytest.raises(ZeroDivisionError, match=r"^division by zero(\n|$)"):
        list(map_items(partial(eval, "1 / 0"), ["1"], on=on))


@places()
def test_sentences_for_users_stay_as_they_are(on: Workers) -> None:
    raises = "(_ for _ in ()).throw(__import__('inlier.errors').errors.InlierError('No.'))"
    with pytest.raises(InlierError, match=r"^No\.$"):
        list(map_items(EVAL, ["1", raises], on=on))


def test_long_items_are_named_by_their_beginning() -> None:
    with pytest.raises(NameError) as raised:
        list(map_items(EVAL, ["x" * 1000], on=Workers()))
    assert raised.value.__notes__ == [f"This was about '{'x' * 199}…."]


@places(here=False)
def test_closing_ends_the_workers_in_the_middle_of_their_items(on: Workers) -> None:
    results = map_items(EVAL, ["1", *["__import__('time').sleep(100)"] * 5], on=on)
    assert next(results) == 1
    begin = time.monotonic()
    results.close()
    assert time.monotonic() - begin < 20
    assert not multiprocessing.active_children()


@places(here=False)
def test_it_is_told_while_it_waits(on: Workers) -> None:
    told: list[float] = []
    list(map_items(EVAL, ["__import__('time').sleep(2.5)"], on=on, on_wait=lambda: told.append(time.monotonic())))
    assert len(told) >= 2


def test_a_single_worker_can_have_a_process_of_its_own() -> None:
    assert list(map_items(EVAL, [PID], on=Workers())) == [os.getpid()]
    assert list(map_items(EVAL, [PID], on=Workers(is_apart=True))) != [os.getpid()]


INTERRUPTED = """
from functools import partial
from inlier.scale import Workers, map_items

if __name__ == "__main__":
    items = ["1", *["__import__('time').sleep(100)"] * 5]
    for result in map_items(partial(eval, "eval"), items, on=Workers(2)):
        print(result, flush=True)
"""


def test_ctrl_c_ends_everything_at_once(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(INTERRUPTED)
    command = [sys.executable, str(tmp_path / "script.py")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        assert run.stdout is not None and run.stderr is not None and run.stdout.readline() == "1\n"
        time.sleep(0.5)
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does
        said = run.stderr.read()
        assert run.wait(timeout=20) == -signal.SIGINT
    assert said.count("KeyboardInterrupt") == 1, said
    end = time.monotonic() + 20
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < end:
            os.killpg(run.pid, 0)
            time.sleep(0.05)


def test_workers_with_other_versions_are_refused() -> None:
    is_good, error = Desk(EVAL, versions_here() | {"torch": "0.1", "timm": "0.2"}).begin()
    assert not is_good and isinstance(error, ConfigError)
    assert "(not 0.1), timm" in str(error) and str(error).endswith("; install the same versions on all nodes.")
    assert Desk(EVAL, versions_here()).begin() == (True, None)


def test_workers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^processes of Workers must be at least 0, got -1\.$"):
        Workers(-1)
    with pytest.raises(ValueError, match=r"^num_gpus of Workers must be at least 0, got -2\.$"):
        Workers(num_gpus=-2)


def test_workers_share_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert [Workers(number).num_threads for number in (1, 2, 3, 20, 0)] == [8, 4, 2, 1, 1]
    assert Workers(2, ray="auto").num_threads == 1


def test_a_missing_ray_is_said_with_the_install_line(
    monkeypatch: pytest.MonkeyPatch, inlier: Callable[..., Any], model_folder: Path, dataset: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"install it with: pip install 'inlier\[scale\]'$"):
        list(map_items(EVAL, ["1"], on=Workers(ray="auto")))
    ran = inlier("inspect", model_folder, dataset, "--out", tmp_path / "out", "--ray", "auto")
    assert ran.status == 2 and "pip install 'inlier[scale]'" in ran.err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("address", "reason"),
    (("127.0.0.1:1", "Connection refused"), ("nowhere", "an address is auto or like HOST:6379")),
)
def test_where_no_cluster_answers_it_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, address: str, reason: str
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # also when other tests have a cluster
    with pytest.raises(ConfigError, match=rf"^No Ray cluster can be used at {address}: .*{reason}"):
        list(map_items(EVAL, ["1"], on=Workers(ray=address)))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_cluster_tells_how_large_it_is_and_needs_room_for_a_worker() -> None:
    with reached(Workers(0, ray="auto")) as size:
        assert size == (2, 2)
    with reached(Workers(5, ray="auto")) as size:
        assert size == (2, 5)
    with (
        pytest.raises(ConfigError, match=r"^The Ray cluster at auto has no GPUs for a worker\.$"),
        reached(Workers(0, ray="auto", num_gpus=1)),
    ):
        pytest.fail("there is no GPU")


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_search_on_several_nodes_needs_a_database_for_all(data: Manifest, tmp_path: Path) -> None:
    request = Request(config={}, data=data, out=tmp_path / "out", on=Workers(ray="auto"))
    with pytest.raises(
        ConfigError, match=r"^The cluster has 2 nodes, and SQLite is for one: give --storage a database"
    ):
        tune(request)


@pytest.fixture
def one_thread(set_num_threads: Callable[[int], None]) -> None:
    """As many as workers on a cluster compute with; sums in other orders differ in their last bits."""
    set_num_threads(1)


@pytest.mark.slow
def test_shards_learned_on_a_cluster_give_the_model_that_they_give_here(
    cluster: Any, data: Manifest, one_thread: None
) -> None:
    sections = {"input": {"size": 64}, "fit": {"detector": "patchcore", "augment": 0}}
    here, _ = fit_in_shards(sections, data, num_shards=2)
    there, _ = fit_in_shards(sections, data, num_shards=2, map_shards=partial(map_function, on=Workers(0, ray="auto")))
    assert there.references == here.references and there.facts == here.facts
    banks = [model.detector.state_dict()["memory_bank_"].numpy() for model in (here, there)]
    np.testing.assert_allclose(*banks, atol=1e-4)
    np.testing.assert_allclose(there.calibration.normal_scores, here.calibration.normal_scores, rtol=1e-4)


@pytest.mark.slow
def test_photos_are_inspected_alike_here_and_on_a_cluster_that_loses_a_node(
    cluster: Any, model_folder: Path, one_thread: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model.load(model_folder)
    monkeypatch.setattr(inspection, "PART_SIZE", 8)
    photos = [Photo(tmp_path / f"{number}.jpg", "test") for number in range(200)]
    for number, photo in enumerate(photos[:-1]):  # the last one is not there
        pixels = np.random.default_rng(number).integers(256, size=(64, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photo.path)
    inspect_to_folder(model, photos, tmp_path / "here", heatmaps="all")
    (node,) = cluster.worker_nodes
    lost: list[int] = []
    num_done = 0

    def advance(steps: int) -> None:
        nonlocal num_done
        num_done += steps
        if num_done >= 100 and not lost:
            lost.append(num_done)
            cluster.remove_node(node, allow_graceful=False)

    try:
        result = inspect_to_folder(
            model,
            photos,
            tmp_path / "cluster",
            heatmaps="all",
            on=Workers(0, ray="auto"),
            progress=lambda task, total: advance,
        )
    finally:
        cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    assert lost and result.num_scored == num_done == 200
    assert [path for path, _ in result.verdicts()] == [str(photo.path) for photo in photos]
    here, there = (sorted(path for path in (tmp_path / of).rglob("*") if path.is_file()) for of in ("here", "cluster"))
    assert [path.relative_to(tmp_path / "here") for path in here] == [
        path.relative_to(tmp_path / "cluster") for path in there
    ]
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(here, there, strict=True))
