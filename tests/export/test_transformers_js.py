"""The exported folder in transformers.js, in node and without network, beside PyTorch."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from transformers_detr.data.synthetic import make_scene

NOT_THERE = 3
SCRIPT = Path(__file__).with_name("transformers_js.mjs")
# Which both leave as they are: transformers.js enlarges images until their longer side is the longest edge.
SIZES = [(64, 128), (128, 64)]
# From here on both rules agree: transformers.js leaves out queries that are more likely no object than any class.
THRESHOLD = 0.5


def run(*arguments):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    done = subprocess.run([node, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    if done.returncode == NOT_THERE:
        pytest.skip("no @huggingface/transformers; npm install it anywhere and set TRANSFORMERS_JS to that folder")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-3), ("fp16", 0.1), ("q8", None)])
def test_the_same_boxes_in_transformers_js(dtype, tolerance, fully_exported, detector, tmp_path):
    images = [make_scene(9, index, size).image for index, size in enumerate(SIZES)]
    files = [tmp_path / f"{index}.png" for index in range(len(images))]
    for image, file in zip(images, files, strict=True):
        image.save(file)
    for image, size, found in zip(images, SIZES, run(fully_exported, dtype, THRESHOLD, *files), strict=True):
        assert found["processed"] == [1, 3, *size]
        inputs = detector.image_processor(image, return_tensors="pt")
        outputs = detector.model(**inputs)
        logits = np.reshape(found["logits"], outputs.logits.shape)
        boxes = np.reshape(found["boxes"], outputs.pred_boxes.shape)
        if tolerance is None:  # 8 bits, on another engine: only that it runs and finds numbers
            assert np.isfinite(logits).all()
            continue
        np.testing.assert_allclose(logits, outputs.logits.detach(), atol=tolerance * 10, rtol=0)
        np.testing.assert_allclose(boxes, outputs.pred_boxes.detach(), atol=tolerance, rtol=0)
        expected = detector(image, threshold=THRESHOLD)
        assert len(expected) > 2
        if dtype == "fp32":
            detections = sorted(found["detections"], key=lambda detection: -detection["score"])
            assert len(detections) == len(expected)
            sides = [[d["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")] for d in detections]
            np.testing.assert_allclose(sides, expected.boxes_xyxy_px, atol=1.01)  # cut to whole pixels there
            assert [d["label"] for d in detections] == expected.labels
