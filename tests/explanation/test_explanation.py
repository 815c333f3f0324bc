"""Explanations of one image: the objects of the detector, the attention of their queries, a sheet at any size."""

import numpy as np
import pytest
import torch
from PIL import Image
from sure_segmenter import sure_segmenter
from tiny_detector import save, tiny_detector

from transformers_detr import Detector, Segmenter, explain
from transformers_detr.backends.exported_model import Engine, ExportedModel
from transformers_detr.explanation.attention_figure import WIDTH, draw_explanation, overlay_attention
from transformers_detr.inference.detections import Detections
from transformers_detr.visualization import annotate


def noise(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def detector():
    return tiny_detector()


def test_objects_are_those_of_the_detector(detector):
    image = noise(120, 80)
    found, explained = detector(image, threshold=0.5), explain(detector, image, threshold=0.5, max_objects=100)
    order = np.argsort(-found.scores, kind="stable")
    assert 3 < len(found) == explained.num_above_threshold
    np.testing.assert_allclose(explained.detections.scores, found.scores[order], atol=1e-6)
    np.testing.assert_allclose(explained.detections.boxes_xyxy_px, found.boxes_xyxy_px[order], atol=1e-3)
    assert explained.detections.labels == [found.labels[index] for index in order]


def test_attention_is_that_of_each_object_s_query(detector):
    image = noise(120, 80)
    explained = explain(detector, image, threshold=0.5, points_xy=[(0.99, 0.01)])
    inputs = detector.image_processor(images=image, return_tensors="pt")
    detector.model.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = detector.model(**inputs, output_attentions=True)
    scores = outputs.logits.softmax(-1)[0, :, :-1].max(-1).values
    np.testing.assert_allclose(explained.detections.scores, scores[explained.queries].numpy(), atol=1e-5)
    maps = outputs.cross_attentions[-1][0].mean(0)[explained.queries]
    np.testing.assert_allclose(explained.decoder_attention.reshape(len(maps), -1), maps.numpy(), atol=1e-5)
    h, w = explained.decoder_attention.shape[1:]
    upper_right = outputs.encoder_attentions[-1][0].mean(0)[w - 1]
    np.testing.assert_allclose(explained.encoder_attention.reshape(1, h * w)[0], upper_right.numpy(), atol=1e-5)


def test_points_are_the_centers_of_the_highest_scores(detector):
    explained = explain(detector, noise(120, 80), threshold=0.5)
    left, top, right, bottom = explained.detections.boxes_xyxy_px[0]
    middle = np.clip(((left + right) / 240, (top + bottom) / 160), 0, 1)
    assert explained.points_xy[0] == pytest.approx(tuple(middle), abs=1e-5)
    h, w = explained.decoder_attention.shape[1:]
    cells = {(int(y * h), int(x * w)) for x, y in explained.points_xy}
    assert len(cells) == len(explained.points_xy) <= 4


def test_top_queries_are_shown_if_no_score_is_above_the_threshold(detector):
    explained = explain(detector, noise(120, 80), threshold=1.0)
    assert explained.num_above_threshold == 0
    assert len(explained.detections) == 3
    assert explained._summary() == "no objects above 1.00; showing the top 3 queries"


@pytest.mark.parametrize("size", [(40, 30), (30, 200), (300, 40)])
def test_figure_of_any_image(detector, size):
    sheet = explain(detector, noise(*size), threshold=0.5).draw("a name in 椅子 and человек")
    assert sheet.width == WIDTH
    assert sheet.mode == "RGB"


def test_marks_hide_no_caption(monkeypatch):
    """A mark in the upper left corner, where the caption of a box of the whole image would lie."""
    chips = []
    place = annotate._place_chip
    monkeypatch.setattr(annotate, "_place_chip", lambda *args: chips.append(place(*args)) or chips[-1])
    image, cells = noise(400, 300), np.ones((1, 3, 4), dtype=np.float32)
    whole = np.array([[0, 0, 400, 300]], dtype=np.float32)
    found = Detections(
        boxes_xyxy_px=whole,
        scores=np.array([0.9], dtype=np.float32),
        class_ids=np.array([1]),
        labels=["cat"],
        image_size=(300, 400),
        image=image,
    )
    draw_explanation(found, np.array([5]), cells, [(0.02, 0.02)], cells, "", "")
    captioned = [chip for chip in chips if chip[2] - chip[0] > 30]
    assert captioned
    assert all(chip[0] > 30 or chip[1] > 30 for chip in captioned)


def test_segmenters_are_explained_too():
    segmenter = sure_segmenter()
    explained = explain(segmenter, noise(96, 96), threshold=0.3)
    alone = Detector(segmenter.model.detr, segmenter.image_processor)
    assert explained.num_above_threshold == len(alone(noise(96, 96), threshold=0.3))


def test_the_brightest_spot_is_where_attention_is():
    attention = np.zeros((3, 5), dtype=np.float32)
    attention[1, 3] = 0.4
    drawn = np.asarray(overlay_attention(Image.new("RGB", (100, 60), (128, 128, 128)), attention, (200, 120)))
    row, column = np.unravel_index(drawn.astype(int).sum(-1).argmax(), drawn.shape[:2])
    assert 40 <= row < 80
    assert 120 <= column < 160
    nothing = np.asarray(overlay_attention(Image.new("RGB", (100, 60)), np.zeros((3, 5), np.float32), (200, 120)))
    assert (nothing == nothing[0, 0]).all()


def test_what_is_refused(detector):
    with pytest.raises(ValueError, match="threshold must be between 0 and 1, got 2"):
        explain(detector, noise(40, 40), threshold=2)
    with pytest.raises(ValueError, match="max_objects must be at least 1, got 0"):
        explain(detector, noise(40, 40), max_objects=0)


def test_exported_graphs_have_no_attention(detector):
    exported = Detector(ExportedModel(detector.model.config, Engine(lambda *_: {})), detector.image_processor)
    with pytest.raises(TypeError, match="exported graphs have no attention maps"):
        explain(exported, noise(40, 40))


def test_a_folder_gives_what_its_detector_gives(detector, tmp_path):
    image = noise(120, 80)
    for folder in (save(detector, tmp_path / "detector"), save(sure_segmenter(), tmp_path / "segmenter")):
        by_name = explain(folder, image, threshold=0.5)
        kind = Segmenter if folder.name == "segmenter" else Detector
        loaded = explain(kind.from_pretrained(folder), image, threshold=0.5)
        np.testing.assert_array_equal(by_name.queries, loaded.queries)
        np.testing.assert_array_equal(by_name.decoder_attention, loaded.decoder_attention)


def test_repr_and_save(detector, tmp_path):
    explained = explain(detector, noise(120, 80), threshold=1.0)
    h, w = explained.decoder_attention.shape[1:]
    text = f"no objects above 1.00; showing the top 3 queries, {len(explained.points_xy)} point(s)"
    assert repr(explained) == f"Explanation({text}, attention maps {h}x{w})"
    explained.save(tmp_path / "new" / "why.png", "a title")
    with Image.open(tmp_path / "new" / "why.png") as saved:
        assert np.array_equal(saved, explained.draw("a title"))
