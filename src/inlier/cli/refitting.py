"""``inlier review`` and ``inlier refit``: people correct what a model says, and it learns from that."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inlier.cli.fitting import DataArgument, ModelArgument
from inlier.cli.options import (
    DeviceOption,
    JsonOption,
    NormalOption,
    QuietOption,
    WorkersOption,
    choose_device,
    normal_labels,
    print_json,
    progress_bars,
    say,
    say_notes,
    say_unreadable,
    show,
)
from inlier.errors import ConfigError, MissingExtraError
from inlier.outputs import number_of

if TYPE_CHECKING:
    from inlier.data.manifest import Manifest
    from inlier.features.store import FeatureStore
    from inlier.reviewing.decisions import Review
    from inlier.reviewing.refitting import Refit

_DONE = (
    ("num_imported", "decision", "imported"),
    ("num_exported", "decided photo", "exported"),
    ("num_masks", "mask", "written"),
)

DecisionsOption = Annotated[
    str | None,
    typer.Option(
        help="Database of the review: a file of SQLite, or a URL such as postgresql://...",
        metavar="DB",
        show_default="MODEL.review.db",
    ),
]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder that keeps features, so that a refit reads no photo twice.",
        metavar="DIR",
        show_default="beside the database, if that is a file",
    ),
]
ReviewerOption = Annotated[
    str | None, typer.Option(help="Who decides, or whose decisions are imported.", metavar="NAME")
]
PortOption = Annotated[int, typer.Option(min=1, max=65535, help="Port of the pages, on this machine only.")]
BrowserOption = Annotated[bool, typer.Option("--browser/--no-browser", help="Open the pages in a browser.")]
ExportOption = Annotated[
    str | None,
    typer.Option(help="Write what was decided, and show no pages: csv, coco or label-studio; or masks of all regions."),
]
ExportOutOption = Annotated[
    Path | None, typer.Option("--out", help="With --export: the file; of masks the folder.", metavar="FILE")
]
ImportOption = Annotated[
    Path | None,
    typer.Option("--import", help="Take over decisions from a .csv, or JSON of COCO or Label Studio; show no pages."),
]
DatabaseOption = Annotated[str, typer.Option("--decisions", help="Database of the review.", metavar="DB")]
DataOption = Annotated[
    Path | None,
    typer.Option(help="The photos, where they lie elsewhere now.", metavar="DATA", show_default="those of the review"),
]
NewModelOption = Annotated[
    Path | None,
    typer.Option("--out", help="Folder of the new model.", metavar="NEW_MODEL", show_default="MODEL-refit"),
]
ReplaceOption = Annotated[bool, typer.Option("--replace", help="Put it in the place of MODEL, after a yes.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Say yes to --replace beforehand.")]


def review(
    model: ModelArgument,
    data: DataArgument,
    decisions: DecisionsOption = None,
    reviewer: ReviewerOption = None,
    port: PortOption = 8001,
    browser: BrowserOption = True,
    export: ExportOption = None,
    out: ExportOutOption = None,
    import_: ImportOption = None,
    cache: CacheOption = None,
    normal: NormalOption = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = 2,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Confirm or correct in a browser what a model says of photos, the most doubtful first; then refit."""
    from inlier.data.manifest import Manifest
    from inlier.databases import as_url
    from inlier.model import Model
    from inlier.reviewing.preparing import prepare

    if (export is None) != (out is None):
        raise ConfigError("--export and --out go together.")
    database = decisions or f"{model.absolute()}.review.db"
    store = _store(database, cache)
    loaded = Model.load(model, device=choose_device(device))
    labels = normal_labels(normal)
    manifest = Manifest.read(data, normal=labels)
    with progress_bars(quiet=quiet) as progress:
        made = prepare(
            loaded,
            manifest,
            as_url(database),
            model_folder=model,
            data_folder=data,
            normal=labels,
            store=store,
            workers=workers,
            progress=progress,
        )
    say_notes(made.facts.notes, quiet=quiet)
    if export is None and import_ is None:
        from inlier.service.review.workbench import Workbench

        bench = Workbench(made, loaded, manifest, folder=model, store=store, reviewer=reviewer or "", workers=workers)
        _show_pages(bench, port=port, browser=browser, quiet=quiet)
        return
    with closing(made):
        done = _exchange(made, manifest, export, out, import_, reviewer)
    if as_json:
        print_json(done)
    else:
        show(
            "\n".join(f"{number_of(done[name], noun)} {verb}." for name, noun, verb in _DONE if name in done),
            quiet=quiet,
        )


def refit(
    model: ModelArgument,
    decisions: DatabaseOption,
    data: DataOption = None,
    out: NewModelOption = None,
    replace: ReplaceOption = False,
    yes: YesOption = False,
    cache: CacheOption = None,
    normal: NormalOption = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = 2,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fit a model anew on what reviewers corrected, beside the old one, and tell what that changes."""
    from inlier.data.manifest import Manifest
    from inlier.databases import as_url
    from inlier.model import Model, check_target
    from inlier.reviewing.decisions import Review
    from inlier.reviewing.effects import summary
    from inlier.reviewing.refitting import refit as refit_loaded

    if replace and not (yes or sys.stdin.isatty()):
        raise ConfigError("--replace asks before it replaces the model, and nobody is there to answer; add --yes.")
    target = out or model.absolute().with_name(f"{model.absolute().name}-refit")
    check_target(target)
    with closing(Review.open(as_url(decisions))) as opened:
        folder = data or Path(opened.facts.data)
        if not str(folder) or folder == Path():
            raise ConfigError("The review does not say where its photos lie; name them with --data.")
        loaded = Model.load(model, device=choose_device(device))
        manifest = Manifest.read(folder, normal=normal_labels(normal) if normal else opened.facts.normal)
        store = _store(decisions, cache)
        with progress_bars(quiet=quiet) as progress:
            found = refit_loaded(loaded, manifest, opened, store=store, workers=workers, progress=progress)
        _write(found, target)
        if not as_json:
            show(f"{summary(found.report)}\nModel: {target}\nReport: {target / 'report.html'}", quiet=quiet)
        is_replaced = replace and (yes or typer.confirm(f"Replace {model} by it?", err=True))
        if is_replaced:
            _write(found, model)
            _note(opened, found, model)
    if as_json:
        print_json({"model": str(target), "is_replaced": is_replaced, **found.report})
    elif is_replaced:
        show(f"Replaced: {model}", quiet=quiet)
    say_notes(found.report["notes"], quiet=quiet)
    say_unreadable(found.unreadable, quiet=quiet)
    raise typer.Exit(1 if found.unreadable else 0)


def _write(found: Refit, folder: Path) -> None:
    """The new model whole, and beside its files what a refit changed."""
    from inlier.outputs import write_whole
    from inlier.reviewing.refitting import write_refit_report

    found.model.save(folder)
    write_whole(folder / "refit.json", json.dumps(found.report, indent=2) + "\n")
    write_refit_report(found, folder / "report.html")


def _note(opened: Review, found: Refit, model: Path) -> None:
    report = found.report
    opened.add_refit(
        reviewer=", ".join(report["decisions"]["reviewers"]),
        parent=report["parent"],
        identity=report["identity"],
        decisions=report["decisions"]["digest"],
        model=str(model.absolute()),
    )


def _exchange(
    made: Review,
    data: Manifest,
    export: str | None,
    out: Path | None,
    import_: Path | None,
    reviewer: str | None,
) -> dict[str, int]:
    """Imports, then exports; how many of what."""
    from inlier.reviewing.effective import corrected
    from inlier.reviewing.exchange import FORMS, export_review, form_of, import_decisions
    from inlier.reviewing.regions import write_masks

    if export is not None and export not in (*FORMS, "masks"):
        raise ConfigError(f"--export must be one of {', '.join((*FORMS, 'masks'))}, got {export}.")
    done = {}
    if import_ is not None:
        done["num_imported"] = import_decisions(made, import_, form=form_of(import_), reviewer=reviewer)
    if export == "masks" and out is not None:
        done["num_masks"] = write_masks(made, out, data=corrected(data, made)[0])
    elif export is not None and out is not None:
        done["num_exported"] = export_review(made, out, form=export)  # type: ignore[arg-type]  # checked above
    return done


def _show_pages(bench: Any, *, port: int, browser: bool, quiet: bool) -> None:
    """Shows the pages until the user ends it."""
    try:
        import uvicorn

        from inlier.service.review.standalone import create_review_app
    except ImportError as error:
        raise MissingExtraError(
            f"The pages need {error.name}, which is not installed; install it with: pip install 'inlier[service]'"
        ) from error
    address = f"http://127.0.0.1:{port}/review"
    say(f"Review at {address}; Ctrl-C ends it, and what was decided is kept.", quiet=quiet)
    if browser:
        import threading
        import webbrowser

        threading.Timer(1.0, webbrowser.open, [address]).start()
    uvicorn.run(create_review_app(bench), host="127.0.0.1", port=port, log_level="warning", server_header=False)


def _store(database: str, cache: Path | None) -> FeatureStore | None:
    """Where features are kept: the folder named, else beside the database's file; nowhere if that is on a server."""
    from inlier.features.store import FeatureStore

    if cache is None and "://" in database:
        return None
    return FeatureStore(cache or Path(f"{database}.features"))
