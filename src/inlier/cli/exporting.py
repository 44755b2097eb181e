"""``inlier export``: a model as one file that needs no PyTorch, and a page for phones."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from inlier.cli.fitting import FalseAlarmOption, ModelArgument, UncertainOption
from inlier.cli.options import (
    JsonOption,
    NormalOption,
    QuietOption,
    normal_labels,
    print_json,
    progress_bars,
    say_notes,
    show,
)
from inlier.errors import ConfigError

FileOption = Annotated[Path, typer.Option("--out", help="File to write.", metavar="FILE.onnx")]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="Photos to compare file and model on.", metavar="DATA", show_default="generated ones"),
]
Int8Option = Annotated[bool, typer.Option("--int8", help="Eight-bit convolutions: a smaller file; needs --data.")]
WebOption = Annotated[
    Path | None, typer.Option("--web", help="Folder for a page that runs the model on a phone.", metavar="DIR")
]
RuntimeOption = Annotated[
    Path | None,
    typer.Option(
        "--onnxruntime-web",
        help="Folder of that npm package, unpacked.",
        metavar="FOLDER",
        show_default="npm fetches it",
    ),
]


def export(
    model: ModelArgument,
    out: FileOption,
    data: DataOption = None,
    int8: Int8Option = False,
    web: WebOption = None,
    onnxruntime_web: RuntimeOption = None,
    false_alarm_rate: FalseAlarmOption = None,
    uncertain_rate: UncertainOption = None,
    normal: NormalOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a model as one ONNX file, preprocessing inside, checked against the original."""
    from inlier.data.manifest import Manifest
    from inlier.exporting.export import check_target
    from inlier.exporting.export import export as export_model
    from inlier.exporting.graph import check_installed
    from inlier.exporting.web import check_can_fetch, check_page_target, write_page
    from inlier.model import Model

    check_installed()
    check_target(out)
    if onnxruntime_web is not None and web is None:
        raise ConfigError("--onnxruntime-web goes with --web.")
    if web is not None:
        check_page_target(web, runtime=onnxruntime_web)
        check_can_fetch(onnxruntime_web)
    manifest = None if data is None else Manifest.read(data, normal=normal_labels(normal))
    loaded = Model.load(model).with_rates(false_alarm_rate=false_alarm_rate, uncertain_rate=uncertain_rate)
    with progress_bars(quiet=quiet) as progress:
        written = export_model(loaded, out, data=manifest, is_int8=int8, progress=progress)
    page_bytes = None if web is None else write_page(out, web, runtime=onnxruntime_web)
    parity = written.parity
    if as_json:
        print_json(
            {
                "file": str(out),
                "bytes": written.num_bytes,
                "page": None if web is None else {"directory": str(web), "bytes": page_bytes},
                "parity": asdict(parity),
                "notes": written.notes,
            }
        )
    else:
        lines = [f"{out}: {written.num_bytes / 1e6:.1f} MB"]
        lines += [f"Compared with the model on {parity.num_photos} photos {parity.source}: {_found(parity.auroc)}"]
        lines += [] if web is None or page_bytes is None else [f"Page: {web}, {page_bytes / 1e6:.1f} MB"]
        show("\n".join(lines), quiet=quiet)
    say_notes(written.notes, quiet=quiet)


def _found(auroc: tuple[float, float] | None) -> str:
    if auroc is None:
        return "scores, verdicts and maps agree."
    return f"AUROC {auroc[1]:.4f}, and the model's {auroc[0]:.4f}."
