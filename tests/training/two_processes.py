"""A short training in one of several processes; as a script, for torchrun."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from torch import distributed

from training.conftest import TINY
from transformers_detr import DetrConfig, DetrForObjectDetection, DetrImageProcessor
from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.evaluation.distributed import leave_processes
from transformers_detr.training.arguments import DetrTrainingArguments
from transformers_detr.training.trainer import DetrTrainer


def run(scenes: Path, output: Path, batch_size: int) -> DetrTrainer:
    torch.manual_seed(0)
    model = DetrForObjectDetection(DetrConfig(**{**TINY, "dropout": 0.0}, num_labels=8))
    arguments = DetrTrainingArguments(
        output_dir=str(output),
        use_cpu=True,
        ddp_backend="gloo",
        report_to="none",
        disable_tqdm=True,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=2,
        num_train_epochs=2,
        edges=[64],
        longest_edge=96,
        augmentation="none",
        train_whole_backbone=True,
        token_weight=1.0,
        ema_decay=0.9,
        logging_steps=1,
    )
    processor = DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    trainer = DetrTrainer(model, arguments, DetectionDataset.load(scenes), processor)
    trainer.train()
    return trainer


def run_and_compare(scenes: Path, output: Path) -> None:
    """Train, and write down whether all processes end with the same weights."""
    trainer = run(scenes, output, batch_size=2)
    weights = torch.cat([value.flatten() for value in trainer.model.parameters()])
    everyone = [torch.empty_like(weights) for _ in range(distributed.get_world_size())]
    distributed.all_gather(everyone, weights.detach())
    if distributed.get_rank() == 0:
        result = {
            "equal": all(torch.equal(everyone[0], other) for other in everyone),
            "history": trainer.state.log_history,
            "steps": trainer.state.global_step,
        }
        (output / "result.json").write_text(json.dumps(result))


def group_threads() -> list[str]:
    """Names of this process's threads that exchange tensors; empty where they cannot be listed."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_and_compare(Path(sys.argv[1]), Path(sys.argv[2]))
    before = group_threads()
    leave_processes()
    if group_threads():
        sys.exit(f"threads outlive their group: {group_threads()}")
    (Path(sys.argv[2]) / f"threads{os.environ['RANK']}.json").write_text(json.dumps(before))
