"""Detection on the CPU, ours and stock transformers in turns: the same random weights, the same pictures.

    python benchmarks/detection.py
    python benchmarks/detection.py one exact-padding --threads 2 --repeats 7 --output detection.json

Cases:
    one             one PIL picture of 640x480 to boxes, with processing before and after
    mixed           eight pictures of mixed sizes to boxes, in one batch each (ours with exact padding)
    processor       eight pictures of 640x480 to pixel values
    loading         a folder to a model
    training        a training step, two pictures of 512x512
    exact-padding   ours with exact padding beside ours as in the original, a padded batch of two

Before a ratio is printed the answers are compared; the exit status is 1 where they differ.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from turns import take_turns

import transformers_detr

LOGITS, BOXES = 1e-3, 1e-4  # what counts as the same answer
Sides = dict[str, Callable[[], Any]]


class Disagreement(Exception):
    """Two sides gave different answers."""


class Bench:
    """Both models on the same weights, both processors, and pictures."""

    def __init__(self, backbone: str):
        torch.manual_seed(0)
        config = transformers_detr.DetrConfig(backbone=backbone, num_labels=91)
        self.ours = transformers_detr.DetrForObjectDetection(config).eval()
        self.folder = tempfile.TemporaryDirectory()
        self.ours.save_pretrained(self.folder.name)
        self.stock = transformers.DetrForObjectDetection.from_pretrained(self.folder.name).eval()
        self.our_processor = transformers_detr.DetrImageProcessor()
        self.stock_processor = transformers.DetrImageProcessor()
        self.rng = np.random.default_rng(0)

    def picture(self, width: int, height: int) -> Image.Image:
        """A smooth random picture (noise would be unlike any photograph for the resizer)."""
        small = self.rng.integers(0, 255, (height // 16, width // 16, 3), dtype=np.uint8)
        return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)

    def detect(self, model: Any, processor: Any, pictures: list[Image.Image], **kwargs: Any) -> Any:
        """Pictures to detections, all queries kept."""
        with torch.inference_mode():
            outputs = model(**processor(images=pictures, return_tensors="pt"), **kwargs)
        sizes = [picture.size[::-1] for picture in pictures]
        return processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)

    def same_answers(self, pictures: list[Image.Image]) -> None:
        """Compare both models on the pixel values of one processor.

        Raises:
            Disagreement: Logits or boxes differ.
        """
        inputs = self.our_processor(pictures, return_tensors="pt")
        with torch.inference_mode():
            ours, stock = self.ours(**inputs), self.stock(**inputs)
        logits = float((ours.logits - stock.logits).abs().max())
        boxes = float((ours.pred_boxes - stock.pred_boxes).abs().max())
        if logits > LOGITS or boxes > BOXES:
            raise Disagreement(f"logits differ by {logits:.1e}, boxes by {boxes:.1e}")

    def one(self) -> Sides:
        """One picture to boxes."""
        pictures = [self.picture(640, 480)]
        self.same_answers(pictures)
        return {
            "ours": lambda: self.detect(self.ours, self.our_processor, pictures),
            "stock": lambda: self.detect(self.stock, self.stock_processor, pictures),
        }

    def mixed(self) -> Sides:
        """Eight pictures of mixed sizes to boxes."""
        sizes = [(640, 480), (480, 640), (640, 427), (500, 375), (612, 612), (640, 360), (426, 640), (640, 480)]
        pictures = [self.picture(*size) for size in sizes]
        self.same_answers(pictures[:2])
        return {
            "ours": lambda: self.detect(self.ours, self.our_processor, pictures, exact_padding=True),
            "stock": lambda: self.detect(self.stock, self.stock_processor, pictures),
        }

    def processor(self) -> Sides:
        """Eight pictures to pixel values."""
        pictures = [self.picture(640, 480) for _ in range(8)]
        ours = self.our_processor(pictures, return_tensors="pt")["pixel_values"]
        stock = self.stock_processor(pictures, return_tensors="pt")["pixel_values"]
        if ours.shape != stock.shape or float((ours - stock).abs().max()) > 2 / 255 / 0.224:
            raise Disagreement("pixel values differ by more than two steps of 8 bits")
        return {
            "ours": lambda: self.our_processor(pictures, return_tensors="pt"),
            "stock": lambda: self.stock_processor(pictures, return_tensors="pt"),
        }

    def loading(self) -> Sides:
        """A folder to a model."""
        return {
            "ours": lambda: transformers_detr.DetrForObjectDetection.from_pretrained(self.folder.name),
            "stock": lambda: transformers.DetrForObjectDetection.from_pretrained(self.folder.name),
        }

    def training(self) -> Sides:
        """One forward and backward pass."""
        pixel_values = torch.randn(2, 3, 512, 512)
        labels = [{"class_labels": torch.randint(91, (10,)), "boxes": torch.rand(10, 4) * 0.4 + 0.2} for _ in range(2)]

        def step(model: Any) -> float:
            model.train()
            model.config.auxiliary_loss = True
            model.zero_grad()
            loss = model(pixel_values=pixel_values, labels=labels).loss
            loss.backward()
            model.config.auxiliary_loss = False
            model.eval()
            return float(loss.detach())

        return {"ours": lambda: step(self.ours), "stock": lambda: step(self.stock)}

    def exact_padding(self) -> Sides:
        """A padded batch, with padding kept out of the images and as in the original."""
        pictures = [self.picture(640, 480), self.picture(480, 640)]
        inputs = self.our_processor(pictures, return_tensors="pt")
        alone = self.our_processor(pictures[:1], return_tensors="pt")

        def run(exact: bool) -> Any:
            with torch.inference_mode():
                return self.ours(**inputs, exact_padding=exact)

        with torch.inference_mode():
            difference = float((run(True).logits[0] - self.ours(**alone).logits[0]).abs().max())
        if difference > LOGITS:
            raise Disagreement(f"logits alone and in the batch differ by {difference:.1e}")
        return {"exact": lambda: run(True), "original": lambda: run(False)}


CASES = {
    "one": Bench.one,
    "mixed": Bench.mixed,
    "processor": Bench.processor,
    "loading": Bench.loading,
    "training": Bench.training,
    "exact-padding": Bench.exact_padding,
}


def main() -> int:
    """Compare, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="default: all")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.disable_progress_bar()
    bench = Bench(arguments.backbone)
    report: dict[str, Any] = {
        "backbone": arguments.backbone,
        "threads": arguments.threads,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "seconds": {},
    }
    print(f"| {'case':13} | {'side':8} | median s | ratio |\n|{'-' * 15}|{'-' * 10}|{'-' * 10}|{'-' * 7}|")
    for name in arguments.cases or CASES:
        try:
            sides = CASES[name](bench)
        except Disagreement as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        median = {side: statistics.median(values) for side, values in take_turns(sides, arguments.repeats).items()}
        report["seconds"][name] = {side: round(value, 4) for side, value in median.items()}
        first, second = median
        for side in median:
            ratio = f"{median[second] / median[first]:.2f}x" if side == first else ""
            print(f"| {name:13} | {side:8} | {median[side]:8.3f} | {ratio:5} |", flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
