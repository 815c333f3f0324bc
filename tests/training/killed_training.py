"""A short training that writes a checkpoint after each step; as a script, to be killed."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers.trainer_utils import get_last_checkpoint

from training.conftest import TINY
from transformers_detr import DetrConfig, DetrForObjectDetection, DetrImageProcessor
from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.training.arguments import DetrTrainingArguments
from transformers_detr.training.trainer import DetrTrainer


def run(scenes: Path, output: Path) -> None:
    torch.manual_seed(0)
    model = DetrForObjectDetection(DetrConfig(**TINY, num_labels=8))
    arguments = DetrTrainingArguments(
        output_dir=str(output),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        per_device_train_batch_size=2,
        per_device_eval_batch_size=4,
        num_train_epochs=3,
        learning_rate=1e-3,
        edges=[48, 64],
        longest_edge=96,
        train_whole_backbone=True,
        train_batch_norm=True,
        query_groups=2,
        token_weight=1.0,
        ema_decay=0.9,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=None,
        load_best_model_at_end=False,
        logging_steps=1,
    )
    processor = DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    trainer = DetrTrainer(model, arguments, DetectionDataset.load(scenes), processor)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(output)) if output.is_dir() else None)
    trainer.save_model()
    trainer.save_state()


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]), Path(sys.argv[2]))
