"""`detr demo`: the whole way without network: paint two pictures, learn them by heart, find their objects again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from transformers_detr.data.records import ImageRecord, LabelledDataset
    from transformers_detr.detections import Detections

PICTURES = 2
SEED = 8
STEPS = 250
EDGE = 128

MODEL: dict[str, Any] = {
    "backbone": "resnet10t",
    "dilation": True,
    "d_model": 64,
    "num_queries": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "dropout": 0.0,
}
TRAINING: dict[str, Any] = {
    "per_device_train_batch_size": PICTURES,
    "learning_rate": 1e-3,
    "trunk_lr_factor": 1.0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "train_whole_trunk": True,
    "train_batch_norm": True,
    "augmentation": "none",
    "edges": [EDGE],
    "longest_edge": 2 * EDGE,
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "logging_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
}


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make; it must not exist.")] = Path(
        "detr-demo"
    ),
) -> None:
    """Show the whole way on generated pictures, without network, in about a minute.

    Paints two pictures, trains a small DETR from random weights until it knows them by heart, saves and loads it,
    and finds their objects again. It shows that everything works; what it learnt is of no use for other pictures.
    """
    from transformers_detr.data.opening import open_dataset
    from transformers_detr.data.scenes import write_scenes
    from transformers_detr.predictor import Detector

    console = Console()
    if output.exists():
        raise typer.BadParameter(f"{output} exists already", param_hint="--output")
    output.mkdir(parents=True)
    write_scenes(output / "scenes", PICTURES, SEED)
    dataset = open_dataset(output / "scenes")
    (records,) = dataset.splits.values()
    console.print(f"Learning {PICTURES} generated pictures by heart ({STEPS} steps) …")
    _learn(dataset, records, output)

    detector = Detector.from_pretrained(output / "model", device="cpu")
    paths = [record.path for record in records]
    found = detector(paths, threshold=0.5, keep_images=True)
    for path, detections in zip(paths, found, strict=True):
        detections.draw().save(output / f"{path.stem}-detections.png")
    answers = {path.name: detections.to_dict() for path, detections in zip(paths, found, strict=True)}
    (output / "detections.json").write_text(json.dumps(answers, indent=2) + "\n", encoding="utf-8")
    for record, detections in zip(records, found, strict=True):
        console.print(_table(record, detections, dataset.class_names))
    console.print(
        f"Pictures with their boxes and detections.json are in [bold]{output}[/].\n"
        "For your own photographs, with the published weights: [bold]detr detect PHOTO --output detections[/]"
    )


def _learn(dataset: LabelledDataset, records: tuple[ImageRecord, ...], output: Path) -> None:
    """Train a fresh model on the pictures and save it with its processor."""
    import tempfile
    from dataclasses import replace

    import torch
    from transformers.utils import logging

    from transformers_detr import DetrConfig, DetrForObjectDetection, DetrImageProcessor
    from transformers_detr.training.arguments import TrainingArguments
    from transformers_detr.training.trainer import Trainer

    logging.disable_progress_bar()  # for reading and writing weights
    torch.manual_seed(0)
    model = DetrForObjectDetection(DetrConfig(**MODEL, auxiliary_loss=True, id2label=dataset.id2label))
    processor = DetrImageProcessor(size={"shortest_edge": EDGE, "longest_edge": 2 * EDGE})
    both = replace(dataset, splits={"train": records, "val": records})
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(model, TrainingArguments(output_dir=scratch, max_steps=STEPS, **TRAINING), both, processor)
        trainer.train()
        trainer.save_model(str(output / "model"))


def _table(record: ImageRecord, detections: Detections, names: tuple[str, ...]) -> Table:
    """Detections of a picture, best first, beside the objects that they overlap most."""
    import torch

    from transformers_detr.model.boxes_detr import box_iou

    boxes_xywh = torch.tensor([item.box_xywh_px for item in record.objects]).reshape(-1, 4)
    truth = torch.cat([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], dim=1)
    overlaps, _ = box_iou(torch.from_numpy(detections.boxes_xyxy_px), truth)
    table = Table(title=record.path.name, title_justify="left")
    for heading in ("found", "score", "truth", "IoU"):
        table.add_column(heading)
    for index in detections.scores.argsort()[::-1]:
        overlap, nearest = overlaps[index].max(0) if len(truth) else (torch.tensor(0.0), None)
        actual = names[record.objects[int(nearest)].label] if nearest is not None else "nothing"
        table.add_row(detections.names[index], f"{detections.scores[index]:.2f}", actual, f"{overlap:.2f}")
    return table
