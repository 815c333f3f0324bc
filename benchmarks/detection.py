"""Detection on the CPU, ours and stock Transformers interleaved: the same random weights, the same images.

    python benchmarks/detection.py
    python benchmarks/detection.py one exact-padding --threads 2 --repeats 7 --output detection.json

Cases:
    one             one PIL image of 640x480 to boxes, with processing before and after
    one-onnx        the same, our detector with the model exported for ONNX Runtime beside stock in PyTorch
    one-openvino    the same with OpenVINO
    mixed           eight images of mixed sizes to boxes: our detector, which forms batches of similar sizes, beside
                    stock's batch, which is padded to the largest
    mixed-singly    the same eight one after the other on both sides, which is the quickest way on a CPU
    processor       eight images of 640x480 to pixel values
    loading         a folder to a model
    training        a training step, two images of 512x512
    exact-padding   ours as in the original beside ours with exact padding, a padded batch of two

Before a ratio is printed the answers are compared; the exit status is 1 where they differ.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
import transformers
from models import BOXES, LOGITS, MIXED_SIZES, Models
from PIL import Image
from report import Disagreement, add_common_arguments, machine, print_rows, write_json
from scipy.optimize import linear_sum_assignment

import transformers_detr
from transformers_detr.backends.registry import Backend
from transformers_detr.export.interleaved_timing import time_interleaved

Sides = dict[str, Callable[[], Any]]
COLUMNS = ("case", "ours, s", "other, s", "other ÷ ours")


def one(models: Models) -> Sides:
    """Return the runs that detect objects in one image."""
    images = [models.image(640, 480)]
    models.same_answers(models.our_processor(images, return_tensors="pt"))
    return {
        "ours": lambda: models.detect(models.ours, models.our_processor, images),
        "stock": lambda: models.detect(models.stock, models.stock_processor, images),
    }


def one_exported(models: Models, backend: Backend) -> Sides:
    """Return the runs that detect objects in one image, ours with an exported model."""
    image = models.image(640, 480)
    detector = transformers_detr.Detector.from_pretrained(models.exported, backend=backend)
    models.same_answers(models.our_processor(image, return_tensors="pt"), detector.model)
    return {
        "ours": lambda: detector(image, threshold=0.0),
        "stock": lambda: models.detect(models.stock, models.stock_processor, [image]),
    }


def mixed(models: Models, singly: bool = False) -> Sides:
    """Return the runs that detect objects in eight images of mixed sizes."""
    images = [models.image(*size) for size in MIXED_SIZES]
    detector = transformers_detr.Detector(models.ours, models.our_processor)
    size = 1 if singly else 8
    for image, found in zip(images, detector(images, threshold=0.0, batch_size=size), strict=True):
        same_detections(models, image, found)
    batches = [[image] for image in images] if singly else [images]
    return {
        "ours": lambda: detector(images, threshold=0.0, batch_size=size),
        "stock": lambda: [models.detect(models.stock, models.stock_processor, batch) for batch in batches],
    }


def same_detections(models: Models, image: Image.Image, found: transformers_detr.Detections) -> None:
    """Compare our detections with those of stock's model for the image alone, from equal pixel values.

    Raises:
        Disagreement: Scores or boxes differ.
    """
    alone = models.detect(models.stock, models.our_processor, [image])[0]
    scores, boxes = torch.as_tensor(found.scores), torch.as_tensor(found.boxes_xyxy_px)
    features = torch.cat([boxes / max(image.size), scores[:, None]], dim=1)
    theirs = torch.cat([alone["boxes"] / max(image.size), alone["scores"][:, None]], dim=1)
    # The detector sorts by score, stock does not: pair each with one of the other's.
    order = torch.from_numpy(linear_sum_assignment(torch.cdist(features, theirs, p=1).numpy())[1])
    alone = {key: values[order] for key, values in alone.items()}
    score = float((scores - alone["scores"]).abs().max())
    box = float((boxes - alone["boxes"]).abs().max()) / max(image.size)
    if not (score <= LOGITS and box <= BOXES):
        raise Disagreement(f"scores differ by {score:.1e}, boxes by {box:.1e} of the image")


def processor(models: Models) -> Sides:
    """Return the runs that preprocess eight images."""
    images = [models.image(640, 480) for _ in range(8)]
    ours = models.our_processor(images, return_tensors="pt")["pixel_values"]
    stock = models.stock_processor(images, return_tensors="pt")["pixel_values"]
    if ours.shape != stock.shape or float((ours - stock).abs().max()) > 2 / 255 / 0.224:
        raise Disagreement("pixel values differ by more than two steps of 8 bits")
    return {
        "ours": lambda: models.our_processor(images, return_tensors="pt"),
        "stock": lambda: models.stock_processor(images, return_tensors="pt"),
    }


def loading(models: Models) -> Sides:
    """Return the runs that load a model folder."""
    models.same_answers({"pixel_values": torch.randn(1, 3, 64, 96)})
    return {
        "ours": lambda: transformers_detr.DetrForObjectDetection.from_pretrained(models.folder),
        "stock": lambda: transformers.DetrForObjectDetection.from_pretrained(models.folder),
    }


def training(models: Models) -> Sides:
    """Return one training step of each side with auxiliary losses; both train the layers that the original trains."""
    pixel_values = torch.randn(2, 3, 512, 512)
    labels = [{"class_labels": torch.randint(91, (10,)), "boxes": torch.rand(10, 4) * 0.4 + 0.2} for _ in range(2)]
    models.train_alike()
    with torch.no_grad():  # without dropout, nor the auxiliary losses for which stock changes its predictions
        ours, stock = (float(model(pixel_values, labels=labels).loss) for model in (models.ours, models.stock))
    if not abs(ours - stock) <= LOGITS * stock:
        raise Disagreement(f"losses are {ours} and {stock}")

    def step(model: Any) -> None:
        model.train()
        model.config.auxiliary_loss = True
        model.zero_grad()
        model(pixel_values=pixel_values, labels=labels).loss.backward()
        model.config.auxiliary_loss = False
        model.eval()

    return {"ours": lambda: step(models.ours), "stock": lambda: step(models.stock)}


def exact_padding(models: Models) -> Sides:
    """Return the runs of a padded batch under exact padding and under the original's padding."""
    images = [models.image(640, 480), models.image(480, 640)]
    inputs = models.our_processor(images, return_tensors="pt")
    alone = models.our_processor(images[:1], return_tensors="pt")

    def run(exact: bool) -> Any:
        with torch.inference_mode():
            return models.ours(**inputs, exact_padding=exact)

    with torch.inference_mode():
        difference = float((run(True).logits[0] - models.ours(**alone).logits[0]).abs().max())
    if difference > LOGITS:
        raise Disagreement(f"logits alone and in the batch differ by {difference:.1e}")
    return {"original": lambda: run(False), "exact": lambda: run(True)}


CASES: dict[str, Callable[[Models], Sides]] = {
    "one": one,
    "one-onnx": partial(one_exported, backend="onnx"),
    "one-openvino": partial(one_exported, backend="openvino"),
    "mixed": mixed,
    "mixed-singly": partial(mixed, singly=True),
    "processor": processor,
    "loading": loading,
    "training": training,
    "exact-padding": exact_padding,
}
NEEDS = {"one-onnx": ("onnx", "onnxscript", "onnxruntime"), "one-openvino": ("onnx", "onnxscript", "openvino")}


def measure(models: Models, cases: list[str], repeats: int) -> Iterator[tuple[Any, ...]]:
    """Yield a row for each case."""
    for case in cases:
        if missing := [name for name in NEEDS.get(case, ()) if not find_spec(name)]:
            print(f"{case} is left out: {', '.join(missing)} not installed", file=sys.stderr)
            continue
        sides = CASES[case](models)
        ours, other = (statistics.median(seconds) for seconds in time_interleaved(sides, repeats).values())
        yield case, ours, other, other / ours


def main() -> int:
    """Compare, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="default: all")
    add_common_arguments(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    models = Models(arguments.backbone)
    try:
        rows = print_rows(COLUMNS, measure(models, arguments.cases or list(CASES), arguments.repeats))
    except Disagreement as error:
        print(error, file=sys.stderr)
        return 1
    write_json(arguments.output, {"backbone": arguments.backbone, **machine(arguments.threads), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
