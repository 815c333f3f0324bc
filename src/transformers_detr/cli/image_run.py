"""One run over pictures, whatever is found in them: `detr detect` and `detr segment` differ in a `Job` only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from transformers_detr import __version__
from transformers_detr.backends.registry import BACKENDS, PRECISIONS, Backend, Precision, titles
from transformers_detr.cli.run_folder import RunFolder, RunFolderError, fill_run_folder, report_failure
from transformers_detr.inference.sources import Source, gather_sources

if TYPE_CHECKING:
    from transformers_detr.inference.predictor import Predictor

ANNOTATED = "annotated"


class Dtype(StrEnum):
    """What the model computes in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Inputs = Annotated[
    list[str],
    typer.Argument(metavar="PHOTO|FOLDER|GLOB|URL...", help="Pictures, folders of pictures, patterns, URLs."),
]
Model = Annotated[
    str, typer.Option("--model", "-m", metavar="NAME|DIR", help="Name on the Hub, or a folder with a saved model.")
]
Output = Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results.")]
BatchSize = Annotated[int, typer.Option("--batch-size", "-b", metavar="N", min=1, help="Pictures at once.")]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Device, such as cpu, cuda or cuda:1; with --backend, a device of the backend.",
        show_default="an accelerator if there is one, cpu with --backend",
    ),
]
DtypeName = Annotated[
    Dtype | None,
    typer.Option(metavar="|".join(Dtype), help="What to compute in.", show_default="as the weights are stored"),
]
BackendName = Annotated[
    Backend | None,
    typer.Option(
        "--backend",
        metavar="|".join(BACKENDS),
        help=f"Run an exported model with this backend: {titles()}.",
        show_default="the weights in PyTorch",
    ),
]
PrecisionName = Annotated[
    Precision | None,
    typer.Option(
        "--precision", metavar="|".join(PRECISIONS), help="Precision of the exported model to run.", show_default="fp32"
    ),
]
Revision = Annotated[str | None, typer.Option(metavar="NAME", help="Branch, tag or commit of the model on the Hub.")]
Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Search folders to the bottom.")]
Pictures = Annotated[bool, typer.Option(help="Whether to write annotated pictures.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run that DIR holds.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the results that DIR holds.")]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is done with each picture.

    Attributes:
        predictor: Returns the class that does it, importing it only then.
        options: Further arguments of its `from_pretrained`.
        found: What it finds, in the plural: the entry of each record that lists them.
        folders: Folders of pictures, in the output folder, that `record` fills.
        record: Turns a result into what is kept of it, having written its pictures to the output folder, or
            nowhere if there is none.
        finish: Writes the files that sum a finished run up.
        show: Shows the record of one picture.
    """

    predictor: Callable[[], type[Predictor[Any]]]
    options: dict[str, Any]
    found: str
    folders: tuple[str, ...]
    record: Callable[[Source, Any, Path | None], dict[str, Any]]
    finish: Callable[[RunFolder], None]
    show: Callable[[dict[str, Any]], None]


def run_job(
    job: Job,
    inputs: list[str],
    output: Path | None,
    *,
    model: str,
    revision: str | None,
    device: str | None,
    dtype: str | None,
    threshold: float | None,
    batch_size: int,
    recursive: bool,
    pictures: bool,
    resume: bool,
    overwrite: bool,
) -> None:
    """Do a job on what the user names, and end the command with its status.

    Raises:
        typer.Exit: Always when a picture failed, or all is done and written.
        typer.BadParameter: The arguments do not go together.
    """
    if resume and overwrite:
        raise typer.BadParameter("--resume and --overwrite exclude each other")
    own_folders = [] if output is None else [output / name for name in (ANNOTATED, *job.folders)]
    try:
        sources = gather_sources(inputs, recursive, leave_out=own_folders)
    except FileNotFoundError as error:
        raise typer.BadParameter(str(error)) from error
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    load = partial(load_predictor, job.predictor, job.options, model, device, dtype, revision, console)
    work = partial(_records, job, sources, threshold=threshold, batch_size=batch_size)
    if output is None:
        if len(sources) > 1:
            raise typer.BadParameter(f"{len(sources)} pictures need a folder for results", param_hint="--output")
        (record,) = work(load(), done=0, output=None, pictures=False)
        if "error" in record:
            report_failure(record, console)
            raise typer.Exit(1)
        job.show(record)
        return
    settings = run_settings(model, revision, dtype, threshold, batch_size, **job.options, pictures=pictures)
    try:
        run = RunFolder(output, settings, [s.location for s in sources], resume=resume, overwrite=overwrite)
    except RunFolderError as error:
        raise typer.BadParameter(str(error), param_hint="--output") from error
    pace = ""
    if run.done < len(sources):
        records = work(load(), done=run.done, output=output, pictures=pictures)
        pace = fill_run_folder(run, records, len(sources), console)
    job.finish(run)
    raise typer.Exit(1 if _conclude(job, run, pace) else 0)


def run_settings(
    model: str, revision: str | None, dtype: str | None, threshold: float | None, batch_size: int, **more: Any
) -> dict[str, Any]:
    """What the records of a run depend on."""
    settings = {"version": __version__, "model": model, "revision": revision, "dtype": dtype}
    return {**settings, "threshold": threshold, "batch_size": batch_size, **more}


def exported_options(backend: Backend | None, precision: Precision | None) -> dict[str, Any]:
    """Arguments of `from_pretrained` for an exported model; none, where PyTorch runs the weights."""
    if backend is None:
        if precision is not None:
            raise typer.BadParameter("goes with --backend; PyTorch has --dtype", param_hint="--precision")
        return {}
    return {"backend": backend, "precision": precision or "fp32"}


def load_predictor(
    predictor: Callable[[], type[Predictor[Any]]],
    options: dict[str, Any],
    model: str,
    device: str | None,
    dtype: str | None,
    revision: str | None,
    console: Console,
) -> Predictor[Any]:
    """Load a predictor, or end the command with a clear message; for the first two arguments see `Job`."""
    if dtype is not None and "backend" in options:
        raise typer.BadParameter("an exported model has its own", param_hint="--dtype")
    with console.status(f"Loading {escape(model)}"):
        import torch
        from huggingface_hub.constants import HF_HUB_DISABLE_PROGRESS_BARS
        from huggingface_hub.utils.tqdm import enable_progress_bars
        from transformers.utils import logging

        from transformers_detr.backends.exported_model import DeviceError
        from transformers_detr.hub.loading import LoadingError

        logging.disable_progress_bar()  # for reading weights, which takes a moment; downloads keep theirs
        if not HF_HUB_DISABLE_PROGRESS_BARS:
            enable_progress_bars()
        if "backend" not in options:  # engines have names of their own
            try:
                torch.empty(0, device=device)
            except (RuntimeError, AssertionError) as error:
                reason = str(error).splitlines()[0]
                raise typer.BadParameter(f"{device!r} cannot be used: {reason}", param_hint="--device") from error
        try:
            return predictor().from_pretrained(model, device=device, dtype=dtype, revision=revision, **options)
        except DeviceError as error:
            raise typer.BadParameter(str(error), param_hint="--device") from error
        except (LoadingError, ValueError) as error:
            console.print(f"[red]The model cannot be loaded.[/] {escape(str(error))}")
            raise typer.Exit(1) from error


def _records(
    job: Job,
    sources: list[Source],
    predictor: Predictor[Any],
    *,
    done: int,
    threshold: float | None,
    batch_size: int,
    output: Path | None,
    pictures: bool,
) -> Iterator[dict[str, Any]]:
    """Yield the record of each source after the first `done`, having saved its pictures under `output`.

    Work begins at a window's start, so that the same pictures share a batch whether or not the run was
    stopped in between, and the numbers are the same to the last digit.
    """
    from transformers_detr.inference.predictor import window_length
    from transformers_detr.prefetch import prefetch_map

    begin = done - done % window_length(batch_size)
    outcomes = predictor.stream_with_errors(
        [source.location for source in sources[begin:]],
        threshold=threshold,
        batch_size=batch_size,
        keep_images=pictures,
    )
    new = islice(zip(sources[begin:], outcomes, strict=True), done - begin, None)
    return prefetch_map(lambda pair: _record(job, *pair, output), new, depth=1, threads=1)


def _record(job: Job, source: Source, outcome: Any, output: Path | None) -> dict[str, Any]:
    record: dict[str, Any] = {"file": source.location, "image_id": source.image_id}
    if isinstance(outcome, Exception):
        return {**record, "error": str(outcome).removeprefix(f"{source.location}: ")}
    if output is not None and outcome.image is not None:
        record["picture"] = save_picture(outcome.draw(), output, f"{ANNOTATED}/{source.picture}")
    record["height"], record["width"] = outcome.image_size
    return {**record, **job.record(source, outcome, output)}


def save_picture(picture: Any, output: Path, name: str) -> str:
    """Write a picture into the output folder; return its name there."""
    path = output / name
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=90)
    return name


def _conclude(job: Job, run: RunFolder, pace: str) -> int:
    """Sum the run up, with the table if it is about one picture; return how many could not be read."""
    pictures = failed = found = 0
    for record in run.records():
        pictures += 1
        failed += "error" in record
        found += len(record.get(job.found, ()))
    if pictures == 1 and not failed:
        job.show(record)
    typer.echo(f"pictures: {pictures}, {job.found}: {found}, failed: {failed}{pace}; results in {run.folder}")
    return failed
