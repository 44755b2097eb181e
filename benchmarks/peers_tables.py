"""The tables of ``peers.py``, from the numbers that it writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from footprint import cold_table, ratios, spread
from near_duplicates import table

TITLES = {
    "inlier": "inlier",
    "inlier-bfloat16": "inlier, in bfloat16",
    "anomalib": "anomalib",
    "inspection": "patchcore-inspection",
    "command": "`inlier inspect`",
}
OWN = {"inlier": "", "inlier-bfloat16": ", in bfloat16"}
PEERS = ("anomalib", "inspection")

Record = dict[str, Any]
Records = Sequence[Record]


def to_markdown(results: dict[str, Any]) -> str:
    """What was measured of each row, first how many times faster inlier is."""
    makers = {
        "fit": fit_table,
        "bulk": bulk_table,
        "quality": quality_table,
        "one": one_table,
        "phone": phone_table,
        "distill": distill_table,
        "cold": cold_table,
    }
    parts = [summary_table(results)]
    origins = {row: origin(results[row]) for row in makers if row in results}
    is_one_run = len(set(origins.values())) == 1
    for row, said in origins.items():
        parts += [makers[row](results[row]["records"]), "" if is_one_run else said]
    if is_one_run:
        parts.append(origins.popitem()[1])
    return "\n\n".join(part for part in parts if part)


def origin(result: Record) -> str:
    """By what command, on what, a row was measured."""
    versions = result["versions"]["peers"]
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    given = "".join(f" {name}={value}" for name, value in result["environment"].items())
    return (
        f"`{result['command']}`, {result['num_learned']} photos learned from, {result['num_tested']} inspected, data "
        f"{result['data_fingerprint'][:12]}, {result['machine']}, {listed}{';' if given else ''}{given}."
    )


def summary_table(results: dict[str, Any]) -> str:
    """How many times faster inlier is than each of the others at the fastest of their settings."""
    rows = []
    for ratio in (0.01, 0.1):
        fits = select(results, "fit", ratio=ratio)
        for kind, title in (("fit", "fit"), ("fit_calibrated", "fit, inlier's with calibration")):
            compared = [of for of in fits if of["kind"] == (kind if of["side"] in OWN else "fit")]
            rows.append([f"{title}, bank of {100 * ratio:g} %", *gains(compared, whole)])
    for ratio in (0.01, 0.1):
        of_bulk = select(results, "bulk", ratio=ratio)
        for side, how in OWN.items():
            rows.append([f"inspect in bulk, bank of {100 * ratio:g} %{how}", *gains(of_bulk, fastest(of_bulk), side)])
    for side, how in OWN.items():
        of_one = select(results, "one")
        rows.append([f"inspect one photo at a time, bank of 1 %{how}", *gains(of_one, middle, side)])
    of_phone = select(results, "phone")
    rows.append(["photos of 12 megapixels in bulk", *gains(of_phone, fastest(of_phone))])
    steps = [of for of in select(results, "distill") if of["repeat"] is not None]
    rows.append(["a step of reverse distillation", *gains(steps, step_seconds)])
    return table(("times faster than", *(TITLES[side] for side in PEERS)), [row for row in rows if any(row[1:])])


def select(results: dict[str, Any], row: str, **wanted: Any) -> list[Record]:
    """Records of a row that have these values."""
    records = results.get(row, {}).get("records", [])
    return [of for of in records if all(of.get(key) == value for key, value in wanted.items())]


def gains(records: Records, value: Any, side: str = "inlier") -> list[str]:
    """For each peer how many times a side's seconds it takes, repeat by repeat; empty where it was not measured."""
    own = [value(of) for of in records if of["side"] == side]
    found = []
    for peer in PEERS:
        theirs = [value(of) for of in records if of["side"] == peer]
        found.append(spread(ratios(theirs, own)) if own and theirs else "")
    return found


def whole(record: Record) -> float:
    """Seconds of a fit."""
    return float(record["seconds"]["all"])


def middle(record: Record) -> float:
    """Median seconds of one photo."""
    return float(np.median(record["seconds"]))


def step_seconds(record: Record) -> float:
    """Seconds of a step of training."""
    return float(record["marks"][0]["seconds"] / record["marks"][0]["num_steps"])


def fastest(records: Records) -> Any:
    """What gives a record's seconds, at that of its side's settings which is the fastest over all repeats."""
    best = {}
    for side in {of["side"] for of in records}:
        medians = np.median([[run["seconds"] for run in of["runs"]] for of in records if of["side"] == side], axis=0)
        best[side] = int(np.argmin(medians))
    return lambda record: record["runs"][best[record["side"]]]["seconds"]


def sides_of(records: Records) -> list[str]:
    """The sides that were measured, in their order."""
    return [side for side in TITLES if any(of["side"] == side for of in records)]


def fit_table(records: Records) -> str:
    """Seconds of fitting, by part; inlier's also with calibration."""
    rows = []
    for ratio in sorted({of["ratio"] for of in records}):
        for side in sides_of(records):
            for kind in ("fit", "fit_calibrated"):
                found = [of for of in records if (of["side"], of["kind"], of["ratio"]) == (side, kind, ratio)]
                if found:
                    rows.append(fit_row(found, ratio))
    titles = ("fit", "bank", "rows", "features, s", "coreset, s", "all, s", "most resident, MiB")
    return table(titles, rows)


def fit_row(records: Records, ratio: float) -> list[str]:
    """The cells of a side at a ratio."""
    first = records[0]
    is_calibrated = first["kind"] == "fit_calibrated"
    parts = ["", ""] if is_calibrated else [spread([of["seconds"][key] for of in records]) for key in PARTS]
    return [
        TITLES[first["side"]] + (f", with calibration ({first['calibration']})" if is_calibrated else ""),
        f"{100 * ratio:g} %",
        f"{first['num_rows']:,}",
        *parts,
        spread([whole(of) for of in records]),
        f"{max(of['peak_bytes'] for of in records) / 2**20:,.0f}",
    ]


PARTS = ("features", "coreset")


def bulk_table(records: Records) -> str:
    """Photos a second at each of a side's settings, and the image AUROC."""
    rows = []
    for ratio in sorted({of["ratio"] for of in records}):
        of_ratio = [of for of in records if of["ratio"] == ratio]
        for side in sides_of(of_ratio):
            found = [of for of in of_ratio if of["side"] == side]
            for number, run in enumerate(found[0]["runs"]):
                speeds = [of["num_photos"] / of["runs"][number]["seconds"] for of in found]
                rows.append([named(side, run), f"{100 * ratio:g} %", spread(speeds), interval(found[0], number)])
    return table(("inspect in bulk", "bank", "photos/s", "image AUROC (95 %)"), rows)


def named(side: str, run: Record) -> str:
    """A side with its settings, where it was told any."""
    if run["batch"] is None:
        return TITLES[side] + (", from its start, with report" if side == "command" else "")
    readers = f", {run['workers']} processes that read" if run["workers"] else ""
    return f"{TITLES[side]}, batch {run['batch']}{readers}"


def interval(record: Record, number: int) -> str:
    """The AUROC, in the first line of a side, since settings change no score."""
    if number or "auroc" not in record:
        return ""
    return shown(record["auroc"], ".3f")


def shown(of: Record, form: str) -> str:
    """A value with its interval."""
    return "{} ({} to {})".format(*(format(of[key], form) for key in ("value", "low", "high")))


def quality_table(records: Records) -> str:
    """The image AUROC of each, and by how much it is ahead of the peers with the same bank."""
    rows = []
    for of in records:
        title = TITLES.get(of["side"], "inlier, its default detector" if of["side"] == "default" else of["side"])
        title = f"{title}, its PatchCore" if of["side"] == "inlier" else title
        ahead = [shown(of["ahead"][peer], "+.3f") if peer in of["ahead"] else "" for peer in PEERS]
        rows.append([title, f"{100 * of['ratio']:g} %", interval(of, 0), *ahead])
    titles = ("told apart", "bank", "image AUROC (95 %)", *(f"ahead of {TITLES[peer]}" for peer in PEERS))
    return table(titles, rows)


def one_table(records: Records) -> str:
    """Milliseconds of a photo."""
    rows = []
    for side in sides_of(records):
        found = [of for of in records if of["side"] == side]
        slow = [float(np.quantile(of["seconds"], 0.95)) for of in found]
        rows.append(
            [TITLES[side], *(spread([1000 * of for of in values]) for values in ([middle(of) for of in found], slow))]
        )
    return table(("one photo at a time, bank of 1 %", "median, ms", "95 % below, ms"), rows)


def phone_table(records: Records) -> str:
    """Photos a second at each of a side's settings, of large photos."""
    rows = []
    for side in sides_of(records):
        found = [of for of in records if of["side"] == side]
        for number, run in enumerate(found[0]["runs"]):
            rows.append([named(side, run), spread([of["num_photos"] / of["runs"][number]["seconds"] for of in found])])
    return table((f"{records[0]['num_photos']} photos of 12 megapixels, bank of 1 %", "photos/s"), rows)


def distill_table(records: Records) -> str:
    """Seconds of a step, and how far trainings of several lengths come."""
    timed = [of for of in records if of["repeat"] is not None]
    steps = [
        [TITLES[side], spread([1000 * step_seconds(of) for of in timed if of["side"] == side])]
        for side in sides_of(timed)
    ]
    reached = []
    trained = {of["side"]: of["marks"] for of in records if of["repeat"] is None}
    for number, mark in enumerate(trained.get("inlier", [])):
        cells = []
        for side in ("inlier", "anomalib"):
            of = trained[side][number]
            cells += [f"{of['seconds']:,.0f}", interval(of, 0)]
        reached.append([str(mark["num_steps"]), *cells])
    titles = (
        "steps",
        *(f"{TITLES[side]}, {what}" for side in ("inlier", "anomalib") for what in ("s", "AUROC (95 %)")),
    )
    return "\n\n".join([table(("reverse distillation, batch of 16", "a step, ms"), steps), table(titles, reached)])
