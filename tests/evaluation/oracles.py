"""What the evaluation tests compare with: pycocotools, and results made from the ground truth by a recipe."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from pycocotools import mask as run_length
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from transformers_detr.model.coco_masks_detr import decode_rle


def quiet_coco(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    # pycocotools writes into the annotations
    coco.dataset = {**dataset, "annotations": [dict(annotation) for annotation in dataset["annotations"]]}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def pycocotools_evaluation(
    dataset: dict[str, Any], results: list[dict[str, Any]], kind: str, max_detections: int = 100
) -> COCOeval:
    truth = quiet_coco(dataset)
    if kind == "segm":  # with a box, pycocotools sorts the masks by the area of the box
        results = [{k: v for k, v in result.items() if k != "bbox"} for result in results]
    with contextlib.redirect_stdout(io.StringIO()):
        found = truth.loadRes([dict(result) for result in results])
        evaluation = COCOeval(truth, found, kind)
        evaluation.params.maxDets = [1, 10, max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
        if max_detections == 100:
            evaluation.summarize()
    return evaluation


def as_coco(values) -> list[float]:
    """Scores as pycocotools writes them: from 0 to 1, and −1 for None or NaN."""
    return [-1.0 if value is None or value != value else value / 100 for value in values]


def random_dataset(seed: int, images: int = 12, classes: int = 4) -> dict[str, Any]:
    """Boxes with crowds, images without objects, and a class without objects."""
    rng = np.random.default_rng(seed)
    annotations = []
    for image_id in range(1, images + 1):
        for _ in range(0 if image_id % 5 == 0 else int(rng.integers(1, 9))):
            x, y = rng.uniform(0, 300, 2).round(2)
            width, height = np.exp(rng.uniform(np.log(6), np.log(240), 2)).round(2)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.integers(1, classes)),
                    "bbox": [float(x), float(y), float(width), float(height)],
                    "area": float(width * height * rng.uniform(0.5, 1)),
                    "iscrowd": int(rng.random() < 0.15),
                }
            )
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 480, "width": 640} for i in range(1, images + 1)],
        "categories": [{"id": c, "name": f"class {c}"} for c in range(1, classes + 1)],
        "annotations": annotations,
    }


def perturbed_results(dataset: dict[str, Any], seed: int, masks: bool = False) -> list[dict[str, Any]]:
    """COCO results made from the ground truth: moved, doubled, missed, of a wrong class, on crowds, on nothing.

    Scores are rounded to two digits, so that many are equal.
    """
    rng = np.random.default_rng(seed)
    categories = [category["id"] for category in dataset["categories"]]
    coco = quiet_coco(dataset) if masks else None
    results = []

    def add(image_id: int, category_id: int, box: np.ndarray, mask: np.ndarray | None) -> None:
        entry = {
            "image_id": image_id,
            "category_id": category_id,
            "bbox": [float(v) for v in box],
            "score": round(float(rng.random()), 2),
        }
        if mask is not None:
            code = run_length.encode(np.asfortranarray(mask))
            entry["segmentation"] = {"size": code["size"], "counts": code["counts"].decode()}
        results.append(entry)

    for annotation in dataset["annotations"]:
        box = np.array(annotation["bbox"])
        mask = decode_rle(coco.annToRLE(annotation)).astype(np.uint8) if coco else None
        for _ in range(int(rng.choice(4, p=[0.15, 0.55, 0.2, 0.1]))):
            shift = rng.normal(0, 0.08, 4) * np.tile(box[2:], 2)
            moved = box + shift
            moved[2:] = np.maximum(moved[2:], 1)
            category = annotation["category_id"] if rng.random() < 0.85 else int(rng.choice(categories))
            rolled = None if mask is None else np.roll(mask, shift[:2].astype(int)[::-1], axis=(0, 1))
            add(annotation["image_id"], category, moved, rolled)
    for image in dataset["images"][::3]:
        noise = np.zeros((image["height"], image["width"]), dtype=np.uint8)
        noise[10:60, 20:90] = 1
        box = np.array([20.0, 10.0, 70.0, 50.0])
        add(image["id"], int(rng.choice(categories)), box, noise if masks else None)
    return results
