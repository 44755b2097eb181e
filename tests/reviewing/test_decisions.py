from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import create_engine, text

from inlier.databases import as_url
from inlier.errors import ConfigError, ReviewError
from inlier.reviewing.decisions import Choice, Review, ReviewPhoto, Tally, Word
from inlier.reviewing.ordering import Query, next_photos
from inlier.reviewing.regions import Region

made = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("fabricated.py"))))
photo_of: Callable[[int], ReviewPhoto] = made.photo_of
MakeReview = Callable[..., Review]
TRIANGLE = ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5))


def test_a_review_is_found_again_as_it_was_made(make_review: MakeReview, url: str) -> None:
    made = make_review(5)
    made.close()
    review = Review.open(url)
    assert review.facts == made.facts
    assert (review.facts.labels, review.facts.rates) == (("valve", "pump"), (0.05, 0.2))
    assert [photo.number for photo in review.photos()] == [1, 2, 3, 4, 5]
    assert review.photo(4) == photo_of(4)
    review.close()
    with pytest.raises(ConfigError, match="holds a review already; name another one"):
        make_review(2)
    with create_engine(url).begin() as connection:
        connection.execute(text("UPDATE review SET format_version = 7"))
    with pytest.raises(ConfigError, match="has format version 7, and this inlier reads 1"):
        Review.open(url)


def test_a_database_without_a_review_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is no review in .*none\.db; inlier review MODEL DATA makes one"):
        Review.open(as_url(str(tmp_path / "none.db")))
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "text.db").write_text("no database, but a text that is long enough to be taken for one" * 20)
    with pytest.raises(ConfigError, match=r"The database .*text\.db cannot be used: file is not a database"):
        Review.open(as_url(str(tmp_path / "text.db")))
    with pytest.raises(ConfigError, match="cannot be used"):
        Review.open("nonsense://")


def test_the_most_doubtful_come_first_and_decided_ones_are_not_shown_again(make_review: MakeReview) -> None:
    review = make_review(9)
    everything = Query()
    order = [photo.number for photo in review.page(everything, reviewer="ada")]
    assert order == sorted(range(1, 10), key=lambda number: (photo_of(number).doubt, number))
    assert review.decide([Choice(number, False) for number in order[:4]], reviewer="ada", page="1") == 4
    assert [of.number for of in review.page(everything, reviewer="ada", size=3)] == order[4:7]
    assert [of.number for of in review.page(everything, reviewer="ada", size=3, after=order[6])] == order[7:]
    assert [of.number for of in review.page(everything, reviewer="bob", size=3)] == order[:3]
    assert [of.number for of in review.page(Query(decided=True), reviewer="ada")] == order
    assert review.undo(reviewer="ada") == order[:4]
    assert [of.number for of in review.page(everything, reviewer="ada", size=3)] == order[:3]
    assert review.undo(reviewer="ada") == []


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        (Query("all", verdict="reject"), [3, 6, 9]),
        (Query("all", component="valve"), [2, 4, 6, 8]),
        (Query("all", label="pump", split="dev"), [5]),
        (Query("labels"), [9, 4]),
    ],
)
def test_filters_and_the_queue_of_labels(make_review: MakeReview, query: Query, numbers: list[int]) -> None:
    review = make_review(9)
    assert [photo.number for photo in review.page(query, reviewer="ada")] == numbers
    counts = review.counts(query, reviewer="ada")
    assert (counts.total, counts.decided, counts.left) == (len(numbers), 0, len(numbers))


def test_counts_say_what_is_left(make_review: MakeReview) -> None:
    review = make_review(9)
    review.decide([Choice(3, True), Choice(6, True), Choice(2, False)], reviewer="ada", page="1")
    counts = review.counts(Query(), reviewer="ada")
    assert (counts.total, counts.decided, counts.left) == (9, 3, 6)
    assert counts.by_verdict == {"accept": Tally(6, 1), "reject": Tally(3, 2)}
    assert counts.by_component == {"": Tally(5, 1), "valve": Tally(4, 2)}
    assert counts.seconds_per_photo is None
    time.sleep(0.02)
    review.decide([Choice(1, True), Choice(4, True)], reviewer="ada", page="2")
    seconds = review.counts(Query(), reviewer="ada").seconds_per_photo
    assert seconds is not None and 0.01 <= seconds < 30


def test_a_page_is_written_once_and_never_in_part(make_review: MakeReview) -> None:
    review = make_review(5)
    choices = [Choice(1, True), Choice(2, None, "valve")]
    assert review.decide(choices, reviewer="ada", page="a") == 2
    assert review.decide(choices, reviewer="ada", page="a") == 0
    assert review.decide(choices, reviewer="bob", page="a") == 2
    for wrong, sentence in (
        ([Choice(3, True), Choice(77, True)], "The review has no photo number 77"),
        ([Choice(3, True), Choice(2**70, True)], "The review has no photo number"),
        ([Choice(3, True), Choice(3, False)], "only once on a page"),
        ([Choice(3, True, "")], "The label must have 1 to 200 characters, got 0"),
    ):
        with pytest.raises(ReviewError, match=sentence):
            review.decide(wrong, reviewer="ada", page="b")
    with pytest.raises(ReviewError, match="The reviewer must have"):
        review.decide(choices, reviewer=" ", page="b")
    assert [(of.photo, of.reviewer, of.is_anomalous, of.label) for of in review.decisions()] == [
        (1, "ada", True, None),
        (2, "ada", None, "valve"),
        (1, "bob", True, None),
        (2, "bob", None, "valve"),
    ]
    with pytest.raises(ReviewError, match="has no photo number 6"):
        review.photo(6)


def test_an_undone_page_stays_in_the_history_and_counts_no_more(make_review: MakeReview) -> None:
    review = make_review(3)
    review.decide([Choice(1, True, "valve")], reviewer="ada", page="1")
    review.decide([Choice(1, False)], reviewer="ada", page="2")
    assert review.words()[1] == {"ada": Word(False, "valve")}  # the second page says nothing about the class
    assert review.undo(reviewer="ada") == [1]
    assert review.words()[1] == {"ada": Word(True, "valve")}
    assert review.decide([Choice(1, False)], reviewer="ada", page="2") == 0  # a repeated one does not come back
    assert [(of.page, of.undone) for of in review.history(1, reviewer="ada")] == [("1", False), ("2", True)]
    assert review.undo(reviewer="ada") == [1]
    assert review.words() == {}
    assert review.reviewers() == []


def test_reviewers_are_blind_to_each_other_and_their_disagreements_are_a_queue(make_review: MakeReview) -> None:
    review = make_review(4)
    review.decide([Choice(1, True), Choice(2, False), Choice(3, None, "valve")], reviewer="ada", page="1")
    review.decide([Choice(1, False), Choice(2, False), Choice(3, None, "pump")], reviewer="bob", page="1")
    assert [of.reviewer for of in review.history(1, reviewer="bob")] == ["bob"]
    assert len(review.history(1, reviewer=None)) == 2
    assert review.reviewers() == ["ada", "bob"]
    assert [(of.photo, of.words["ada"], of.words["bob"]) for of in review.disagreements()] == [
        (1, Word(True, None), Word(False, None)),
        (3, Word(None, "valve"), Word(None, "pump")),
    ]
    queue = Query("disagreements")
    assert [of.number for of in review.page(queue, reviewer="ada")] == [1, 3]
    review.decide([Choice(1, True)], reviewer="ada", page="2")  # she insists, and is not asked again
    assert [of.number for of in review.page(queue, reviewer="ada")] == [3]
    assert [of.number for of in review.page(queue, reviewer="bob")] == [1, 3]
    assert review.counts(queue, reviewer="ada").left == 1
    review.decide([Choice(1, True), Choice(3, None, "valve")], reviewer="bob", page="2")
    assert review.page(queue, reviewer="bob") == review.page(queue, reviewer="ada") == []
    review.decide([Choice(1, False)], reviewer="ada", page="3")  # once agreed on, it is news that they differ again
    assert [of.number for of in review.page(queue, reviewer="bob")] == [1]


def test_regions_are_replaced_by_who_drew_them(make_review: MakeReview) -> None:
    review = make_review(2)
    defect, interest = Region("defect", "crack", TRIANGLE), Region("interest", "", TRIANGLE)
    review.set_regions(1, [defect, interest], reviewer="ada")
    review.set_regions(1, [defect], reviewer="bob")
    review.set_regions(1, [interest], reviewer="ada")
    assert review.regions(1, reviewer="ada") == [interest]
    assert review.regions(1, reviewer=None) == [defect, interest]
    assert review.marked() == [(photo_of(1).path, (defect, interest))]
    with pytest.raises(ReviewError, match="no photo number 3"):
        review.set_regions(3, [defect], reviewer="ada")


def test_pages_stay_right_over_many_photos_and_another_process_undoing(make_review: MakeReview, url: str) -> None:
    review = make_review(20_000)
    expected = sorted(range(1, 20_001), key=lambda number: (photo_of(number).doubt, number))
    other = Review.open(url)
    for start in range(0, 12_000, 4000):
        assert [of.number for of in review.page(Query(), reviewer="ada")] == expected[start : start + 16]
        review.decide([Choice(n, False) for n in expected[start : start + 4000]], reviewer="ada", page=str(start))
    assert review.counts(Query(), reviewer="ada").left == 8000
    assert [of.number for of in review.page(Query(), reviewer="ada", size=2)] == expected[12_000:12_002]
    assert len(other.undo(reviewer="ada")) == 4000
    assert [of.number for of in review.page(Query(), reviewer="ada", size=2)] == expected[8000:8002]
    other.close()


def test_a_queue_is_read_by_an_index_not_by_sorting(make_review: MakeReview, url: str) -> None:
    make_review(50)
    for query in (Query(), Query("labels"), Query(verdict="reject"), Query(component="valve"), Query(label="pump")):
        statement = next_photos(query, reviewer="ada", size=16, after=(0.5, 7))
        engine = create_engine(url)
        sql = str(statement.compile(engine, compile_kwargs={"literal_binds": True}))
        with engine.connect() as connection:
            plan = " ".join(str(row) for row in connection.execute(text(f"EXPLAIN QUERY PLAN {sql}")))
        engine.dispose()
        assert "TEMP B-TREE" not in plan and "USING INDEX review_photo_by" in plan, plan


WORKER = """
import sys
from inlier.reviewing.decisions import Choice, Review
review, name = Review.open(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
for page in range(int(sys.argv[3])):
    review.decide([Choice(number, page % 2 == 0) for number in range(1, 17)], reviewer=name, page=f"{name} {page}")
    print(page, flush=True)
"""


def _start(url: str, name: str, num_pages: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, url, name, str(num_pages)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _check_whole(review: Review, answered: dict[str, int]) -> None:
    """Every page is there whole, those that were answered all are, and the words are those of the decisions."""
    sizes: dict[tuple[str, str], int] = {}
    for decision in review.decisions():
        key = decision.reviewer, decision.page
        sizes[key] = sizes.get(key, 0) + 1
    assert set(sizes.values()) == {16}
    for name, last in answered.items():
        pages = sum(reviewer == name for reviewer, _ in sizes)
        assert last + 1 <= pages <= last + 2
        assert {words[name].is_anomalous for words in review.words().values()} == {pages % 2 == 1}


def test_a_killed_process_leaves_no_part_of_a_page(make_review: MakeReview, url: str) -> None:
    review = make_review(20)
    answered = {}
    for number in range(4):
        worker = _start(url, f"w{number}", 100_000)
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        lines = [worker.stdout.readline() for _ in range(3 + 5 * number)]
        time.sleep(0.003 * number)
        os.kill(worker.pid, signal.SIGKILL)
        rest, _ = worker.communicate()
        whole = [line for line in (*lines, *rest.splitlines(keepends=True)) if line.endswith("\n")]
        answered[f"w{number}"] = int(whole[-1])
    _check_whole(review, answered)


def test_two_processes_write_at_once(make_review: MakeReview, url: str) -> None:
    review = make_review(20)
    workers = {name: _start(url, name, 20) for name in ("ada", "bob")}
    for worker in workers.values():
        out, err = worker.communicate(timeout=300)
        assert worker.returncode == 0, err
        assert out.splitlines()[-1] == "19"
    _check_whole(review, {"ada": 19, "bob": 19})


def test_postgresql_keeps_a_review_too(postgres: str) -> None:
    review = made.create(postgres, 300)
    assert [of.number for of in review.page(Query(), reviewer="ada", size=2)] == sorted(
        range(1, 301), key=lambda number: (photo_of(number).doubt, number)
    )[:2]
    workers = [_start(postgres, name, 10) for name in ("ada", "bob")]
    for worker in workers:
        _, err = worker.communicate(timeout=300)
        assert worker.returncode == 0, err
    _check_whole(review, {"ada": 9, "bob": 9})
    review.decide([Choice(1, True), Choice(2, False, "valve")], reviewer="ada", page="last")
    assert review.decide([Choice(1, True)], reviewer="ada", page="last") == 0
    assert [(of.photo, of.words["ada"].is_anomalous) for of in review.disagreements()] == [(1, True)]
    assert [of.number for of in review.page(Query("disagreements"), reviewer="bob")] == [1]
    assert review.counts(Query(), reviewer="ada").decided == 16
    assert review.undo(reviewer="ada") == [1, 2]
    review.set_regions(5, [Region("defect", "crack", TRIANGLE)], reviewer="ada")
    assert review.marked()[0][0] == photo_of(5).path
    review.close()
    again = Review.open(postgres)
    assert again.words()[1] == {"ada": Word(False, None), "bob": Word(False, None)}
    again.close()
