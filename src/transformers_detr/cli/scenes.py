"""`detr scenes`: write synthetic scenes as a COCO dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress


def scenes(
    images: Annotated[int, typer.Option(metavar="N", min=1, help="Number of images.")],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder to make; it must not exist.")],
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed: the same seed gives the same images.")] = 0,
) -> None:
    """Generate images of shapes with exact boxes and masks, as a COCO dataset."""
    from transformers_detr.data.synthetic import write_scenes

    console = Console()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("Generating", total=images)
        try:
            write_scenes(output, images, seed, lambda done: progress.update(task, completed=done))
        except FileExistsError as error:
            raise typer.BadParameter(str(error), param_hint="--output") from error
    console.print(f"{images} scenes written to {output}: images/ and annotations.json (COCO)")
