"""What the README's table says of stock transformers and of this package, row by row.

A failure on stock's side means that stock has changed: the table is then to be changed too.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tiny_detr import padded_batch, randomize_norms, tiny_config
from transformers.image_transforms import get_size_with_aspect_ratio

from transformers_detr import DetrForObjectDetection, DetrImageProcessor
from transformers_detr.model.resize_detr import resized_size
from transformers_detr.model.targets_detr import read_targets

pytestmark = pytest.mark.current_stock

SIZES = [(96, 128), (50, 70)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Ours and stock's, on the same weights."""
    torch.manual_seed(0)
    ours = DetrForObjectDetection(tiny_config()).eval()
    randomize_norms(ours)
    torch.nn.init.uniform_(ours.model.decoder.layernorm.weight, 0.5, 1.5)  # fresh, a norm behind a norm does nothing
    folder = tmp_path_factory.mktemp("model")
    ours.save_pretrained(folder)
    return ours, transformers.DetrForObjectDetection.from_pretrained(folder).eval()


@pytest.fixture
def processors():
    size = {"shortest_edge": 64, "longest_edge": 128}
    return DetrImageProcessor(size=size), transformers.DetrImageProcessor(size=size)


def labels(class_id=1):
    box = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    return [{"class_labels": torch.tensor([class_id]), "boxes": box} for _ in SIZES]


@torch.no_grad()
def test_predictions_depend_on_the_batch(models):
    pixel_values, pixel_mask = padded_batch(SIZES)
    ours, stock = models
    height, width = SIZES[1]
    alone = pixel_values[1:, :, :height, :width]
    exact = ours(pixel_values, pixel_mask, exact_padding=True).logits[1] - ours(alone).logits[0]
    theirs = stock(pixel_values, pixel_mask).logits[1] - stock(alone).logits[0]
    assert exact.abs().max() < 1e-5
    assert theirs.abs().max() > 1e-3


@torch.no_grad()
def test_auxiliary_loss_changes_predictions(models):
    batch = padded_batch(SIZES)
    changes = []
    for model in models:
        before = model(*batch).logits
        model.config.auxiliary_loss = True
        changes.append((model(*batch).logits - before).abs().max().item())
        model.config.auxiliary_loss = False
    assert changes[0] < 1e-6
    assert changes[1] > 1e-3


def test_which_layers_train(models):
    stem_trains = [
        any(p.requires_grad for n, p in model.named_parameters() if n.endswith(".model.conv1.weight"))
        for model in models
    ]
    assert stem_trains == [False, True]


@torch.no_grad()
def test_attention_maps_under_sdpa(models):
    batch = padded_batch(SIZES)
    maps = []
    for model in models:
        model.set_attn_implementation("sdpa")
        maps.append(model(*batch, output_attentions=True).cross_attentions)
    assert len(maps[0]) == 2
    assert not maps[1]


def test_sizes_after_resizing(golden_json):
    rows = [row for row in golden_json("resize_sizes.json") if row["result_height_width"] and row["max_size"]]
    right = [0, 0]
    for row in rows:
        height, width, size = (
            row["height"],
            row["width"],
            {"shortest_edge": row["size"], "longest_edge": row["max_size"]},
        )
        if max(height, width) * row["size"] / min(height, width) > 6000:  # too large to make: what both would make
            found = [resized_size(height, width, size), get_size_with_aspect_ratio((height, width), *size.values())]
        else:
            image = Image.new("RGB", (width, height))
            classes = (DetrImageProcessor, transformers.DetrImageProcessor)
            batches = [one(size=size, do_normalize=False)(image, return_tensors="pt") for one in classes]
            found = [batch["pixel_values"].shape[-2:] for batch in batches]
        for index, shape in enumerate(found):
            right[index] += list(shape) == row["result_height_width"]
    assert (right, len(rows)) == ([84, 61], 84)


def test_modes_of_images(processors):
    modes = ("L", "LA", "RGBA", "CMYK", "P", "1", "I", "I;16")
    refused = []
    for processor in processors:
        count = 0
        for mode in modes:
            try:
                values = processor(Image.new(mode, (40, 30)), return_tensors="pt")["pixel_values"]
                count += values.shape[1] != 3
            except Exception:  # whatever it fails with
                count += 1
        refused.append(count)
    assert refused[0] == 0
    assert refused[1] >= 5


def test_boxes_of_a_mixed_batch(processors):
    images = [Image.new("RGB", (96, 64)), Image.new("RGB", (64, 96))]
    annotation = {"bbox": [16, 16, 32, 32], "category_id": 1, "area": 1024, "iscrowd": 0}
    annotations = [{"image_id": index, "annotations": [annotation]} for index in range(2)]
    expected = torch.tensor([[32 / 96, 32 / 64, 32 / 96, 32 / 64]])
    ours, stock = (p(images, annotations, return_tensors="pt")["labels"][0]["boxes"] for p in processors)
    assert torch.allclose(ours, expected, atol=1e-6)
    assert not torch.allclose(stock, expected, atol=1e-2)


def test_pipelines_on_mixed_sizes(models, processors):
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in SIZES]
    found = []
    for model, processor in zip(models, processors, strict=True):
        detect = transformers.pipeline("object-detection", model=model, image_processor=processor)
        try:
            found.append(len(detect(images, threshold=0.0, batch_size=2)))
        except RuntimeError:
            found.append(None)
    assert found == [2, None]


def test_predictions_that_are_no_numbers(models):
    ours, stock = models
    pixel_values = torch.full((2, 3, 64, 64), float("nan"))
    loss = ours(pixel_values, labels=labels()).loss
    assert not torch.isfinite(loss)  # the mark by which a trainer skips the step
    with pytest.raises(ValueError, match=r"corner|numeric|finite|infeasible"):
        stock(pixel_values, labels=labels())


def test_losses_in_half_precision(models, tmp_path):
    models[0].save_pretrained(tmp_path)
    pixel_values = torch.zeros(2, 3, 64, 64)
    half = DetrForObjectDetection.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half(pixel_values, labels=labels()).loss.dtype == torch.float32
    half = transformers.DetrForObjectDetection.from_pretrained(tmp_path, dtype=torch.bfloat16)
    half_labels = [{**label, "boxes": label["boxes"].bfloat16()} for label in labels()]
    with pytest.raises((RuntimeError, NotImplementedError)):
        half(pixel_values.bfloat16(), labels=half_labels)


def test_a_class_that_does_not_exist(models):
    ours, stock = models
    pixel_values = torch.zeros(2, 3, 64, 64)
    assert torch.isfinite(stock(pixel_values, labels=labels(class_id=5)).loss)
    with pytest.raises(ValueError, match=r"labels\[0\].*\[0, 5\)"):
        ours(pixel_values, labels=labels(class_id=5))
    with pytest.raises(ValueError, match="class id"):
        read_targets(labels(class_id=5), batch_size=2, num_queries=10, num_classes=5)
