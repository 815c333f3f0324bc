"""Boxes of every query over many images, and their chart."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor
from sure_segmenter import sure_segmenter
from tiny_detector import tiny_detector

from transformers_detr.explanation.query_boxes import draw_queries, query_boxes
from transformers_detr.explanation.query_figure import KINDS


def images():
    rng = np.random.default_rng(0)
    sizes = [(80, 120), (120, 80), (64, 64)]
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def test_boxes_are_those_of_all_queries():
    detector, calls = tiny_detector(), []
    boxes = query_boxes(detector, iter(images()), batch_size=2, progress=lambda: calls.append(1))
    assert boxes.shape == (3, 12, 4)
    assert len(calls) == 3
    for image, mine in zip(images(), boxes, strict=True):
        with torch.inference_mode():
            alone = detector.model(**detector.image_processor(image, return_tensors="pt")).pred_boxes[0]
        np.testing.assert_allclose(mine, alone.numpy(), atol=1e-5)


def test_segmenters_have_queries_too():
    assert query_boxes(sure_segmenter(), images()[:1]).shape == (1, 20, 4)


def test_no_images():
    with pytest.raises(ValueError, match="at least one image"):
        query_boxes(tiny_detector(), [])


def test_chart_has_a_point_of_the_right_color_in_each_square():
    boxes = np.array([[[0.5, 0.5, 0.1, 0.1], [0.5, 0.5, 0.9, 0.3], [0.5, 0.5, 0.3, 0.9]]], dtype=np.float32)
    chart = np.asarray(draw_queries(np.repeat(boxes, 300, axis=0), "name", columns=3)).astype(int)
    third = chart.shape[1] // 3
    middle = chart[: int(chart.shape[0] * 0.8)]  # without the legend
    for column, color in enumerate(KINDS.values()):
        part = middle[:, column * third : (column + 1) * third]
        others = [other for other in KINDS.values() if other != color]
        near = [(np.abs(part - np.array(ImageColor.getrgb(name))).sum(-1) < 60).sum() for name in (color, *others)]
        assert near[0] > 3
        assert near[1:] == [0, 0]


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers_detr.explanation.query_figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        draw_queries(np.zeros((1, 2, 4)))
