"""`detr push`: publish a model's folder on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape

if TYPE_CHECKING:
    from transformers_detr.hub.push import Plan

COLORS = {"new": "green", "changed": "yellow", "same": "dim", "removed": "red"}
MAX_SKIPPED = 5


def push(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder with weights and configurations, such as a training run.")
    ],
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Repository on the Hub; created if missing.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open a pull request instead of changing the main branch.")
    ] = False,
    with_custom_code: Annotated[
        bool,
        typer.Option("--with-custom-code", help="Upload this package's code too, for trust_remote_code=True."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Verify, compare and list, but upload nothing.")] = False,
) -> None:
    """Publish a model on the Hugging Face Hub.

    Uploads weights, configurations, a model card, exports and the results of detr evaluate in FOLDER/evaluation. First,
    the model must reproduce the outputs in verification.json, with this package and with stock Transformers. The upload
    is one commit; after an interruption, the same command uploads the remaining files.
    Log in with `hf auth login`.
    """
    from transformers.utils import logging

    from transformers_detr.hub.loading import LoadingError
    from transformers_detr.hub.push import plan_upload, upload
    from transformers_detr.hub.staging import PublishingError

    logging.disable_progress_bar()  # for reading weights; uploads keep theirs
    console = Console(soft_wrap=True, highlight=False)
    try:
        with plan_upload(folder, repository, with_custom_code) as plan:
            show_plan(plan, console)
            if dry_run:
                console.print("Nothing was uploaded (--dry-run).")
                return
            commit = upload(plan, private, create_pr)
    except (PublishingError, LoadingError) as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"[red]Not published.[/] {escape(str(error))}")
        raise typer.Exit(1) from error
    if commit is None:
        console.print("Nothing to upload: the repository is up to date.")
    else:
        console.print(f"[green]Published:[/] {commit.pr_url or commit.commit_url}")


def show_plan(plan: Plan, console: Console) -> None:
    """List the change of each file and the skipped files."""
    state = ("private" if plan.is_private else "public") if plan.exists else "new"
    console.print(f"[bold]{escape(plan.repository)}[/bold] ({state})")
    for file in plan.files:
        console.print(f"  [{COLORS[file.change]}]{file.change:8}[/] {decimal(file.size):>9}  {escape(file.path)}")
    left_out = plan.staged.left_out
    if left_out:
        more = f" and {len(left_out) - MAX_SKIPPED} more" if len(left_out) > MAX_SKIPPED else ""
        console.print(f"  skipped: {escape(', '.join(left_out[:MAX_SKIPPED]))}{more}")
    for note in plan.staged.notes:
        console.print(f"  [yellow]note:[/] {escape(note)}")
