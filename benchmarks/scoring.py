"""Time and peak memory of scoring boxes, against pycocotools, with the numbers compared.

    python benchmarks/scoring.py
    python benchmarks/scoring.py --images 500 --repeats 3 --output scoring.json

Ground truth and detections are generated: per image about seven objects (some of them crowds) and 100 detections, a
third of them near objects. Each side runs in separate processes, interleaved, from detections in memory in its own form
(arrays per image; COCO's list of dictionaries) to the twelve numbers; what is timed includes building either side's
indices. Peak memory is that of the process above what the generated data takes. The exit status is 1 where a number
differs by more than 1e-9.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from transformers_detr.evaluation.average_precision import score_detections
from transformers_detr.evaluation.coco_types import CocoAnnotation, CocoDataset
from transformers_detr.evaluation.predictions import ImagePrediction, to_coco_results

SIDES = ("ours", "pycocotools")
HEIGHT, WIDTH = 480, 640


def generate(images: int, detections: int, classes: int) -> tuple[CocoDataset, list[ImagePrediction]]:
    """Ground truth in COCO's layout and detections that partly fit it; always the same."""
    rng = np.random.default_rng(0)
    annotations: list[CocoAnnotation] = []
    predictions = []
    for image_id in range(1, images + 1):
        count = int(rng.poisson(7))
        sides = np.exp(rng.uniform(np.log(8), np.log(300), (count, 2)))
        corners = rng.uniform(size=(count, 2)) * np.maximum([WIDTH, HEIGHT] - sides, 1)
        objects = np.concatenate([corners, sides], axis=1)
        labels = rng.integers(1, classes + 1, count)
        crowds = rng.random(count) < 0.01
        for box, label, crowd in zip(objects.tolist(), labels.tolist(), crowds.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(crowd),
                }
            )
        predictions.append(_near(rng, image_id, objects, labels, detections, classes))
    dataset: CocoDataset = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH} for i in range(1, images + 1)],
        "categories": [{"id": label, "name": str(label)} for label in range(1, classes + 1)],
        "annotations": annotations,
    }
    return dataset, predictions


def _near(
    rng: np.random.Generator, image_id: int, objects: np.ndarray, labels: np.ndarray, count: int, classes: int
) -> ImagePrediction:
    """Detections of one image: up to a third are moved objects, the rest lie anywhere."""
    boxes = np.concatenate([rng.uniform(0, 300, (count, 2)), rng.uniform(5, 200, (count, 2))], axis=1)
    categories = rng.integers(1, classes + 1, count)
    scores = rng.beta(1, 6, count)
    near = min(count // 3, 3 * len(objects))
    if near:
        source = np.arange(near) % len(objects)
        shift = rng.normal(0, 0.1, (near, 4)) * np.tile(objects[source, 2:], 2)
        boxes[:near] = objects[source] + shift
        boxes[:near, 2:] = np.abs(boxes[:near, 2:]) + 1
        categories[:near] = np.where(rng.random(near) < 0.8, labels[source], categories[:near])
        scores[:near] = rng.beta(4, 2, near)
    return ImagePrediction(image_id, scores.round(4), categories, boxes)


def measure(side: str, images: int, detections: int, classes: int) -> dict[str, Any]:
    """Score once in this process: seconds, megabytes above those of the data, the twelve numbers."""
    dataset, predictions = generate(images, detections, classes)
    if side == "ours":
        before = _peak_megabytes()
        started = time.perf_counter()
        numbers = list(score_detections(dataset, predictions).summary.values())
    else:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        results = list(to_coco_results(predictions))
        before = _peak_megabytes()
        started = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO()
            truth.dataset = dataset
            truth.createIndex()
            evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        numbers = evaluation.stats.tolist()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "megabytes": _peak_megabytes() - before, "numbers": numbers}


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_apart(side: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Score once in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--images", str(arguments.images)]
    command += ["--detections", str(arguments.detections), "--classes", str(arguments.classes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    result: dict[str, Any] = json.loads(finished.stdout)
    return result


def main() -> int:
    """Run the command line; 1 if the numbers differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--output", type=Path, help="write the measurements as JSON")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments.side, arguments.images, arguments.detections, arguments.classes)))
        return 0

    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(arguments.repeats):
        for side in SIDES:
            runs[side].append(measure_apart(side, arguments))
    difference = max(abs(a - b) for a, b in zip(*(runs[side][0]["numbers"] for side in SIDES), strict=True))
    seconds = {side: statistics.median(run["seconds"] for run in runs[side]) for side in SIDES}
    megabytes = {side: max(run["megabytes"] for run in runs[side]) for side in SIDES}
    print(f"{arguments.images} images × {arguments.detections} detections × {arguments.classes} classes")
    for side in SIDES:
        print(f"{side:12} {seconds[side]:8.2f} s  {megabytes[side]:8.0f} MB")
    print(f"ratio        {seconds['pycocotools'] / seconds['ours']:8.2f}    largest difference {difference:.1e}")
    if arguments.output:
        summary = {"seconds": seconds, "megabytes": megabytes, "difference": difference, "runs": runs}
        arguments.output.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return int(difference > 1e-9)


if __name__ == "__main__":
    sys.exit(main())
