"""`predict_to_folder`: the files of the command, from Python."""

import json

import numpy as np
import pytest
from PIL import Image
from tiny_detector import save, tiny_detector
from typer.testing import CliRunner

from transformers_detr import Detector, Segmenter, cli, predict_to_folder
from transformers_detr.inference.predictions import PredictionsError


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for name in ("a.png", "b.png", "more/c.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (64, 80, 3), dtype=np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes(b"broken")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save(tiny_detector(), tmp_path_factory.mktemp("model"))


def test_files_equal_those_of_the_command(photos, model, tmp_path):
    records = []
    detector = Detector.from_pretrained(model, device="cpu")
    run = predict_to_folder(detector, photos, tmp_path / "ours", threshold=0, progress=records.append)
    arguments = ["detect", photos, "--model", model, "--threshold", 0, "--output", tmp_path / "theirs"]
    assert CliRunner().invoke(cli.app, list(map(str, arguments))).exit_code == 1
    for name in ("coco_results.json", "predictions.csv", "annotated/a.png", "annotated/b.png"):
        assert (run.folder / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()
    lines = [
        (folder / "predictions.jsonl").read_text().splitlines()[1:] for folder in (run.folder, tmp_path / "theirs")
    ]
    assert lines[0] == lines[1] == [json.dumps(record, ensure_ascii=False) for record in records]
    assert (run.images, run.failed, run.found) == (3, 1, sum(len(record.get("detections", ())) for record in records))


def test_it_resumes_or_refuses(photos, model, tmp_path):
    detector = Detector.from_pretrained(model, device="cpu")
    predict_to_folder(detector, [photos / "a.png", photos / "b.png"], tmp_path, save_images=False)
    before = (tmp_path / "predictions.jsonl").read_bytes()
    with pytest.raises(PredictionsError, match="already holds predictions"):
        predict_to_folder(detector, photos, tmp_path, save_images=False)
    with pytest.raises(PredictionsError, match=r"threshold was None and is now 0\.2"):
        predict_to_folder(detector, photos, tmp_path, threshold=0.2, resume=True, save_images=False)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        predict_to_folder(detector, tmp_path / "nowhere", tmp_path / "new")
    assert (tmp_path / "predictions.jsonl").read_bytes() == before
    run = predict_to_folder(detector, photos, tmp_path, recursive=True, overwrite=True, save_images=False)
    assert run.images == 4


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_every_task_of_a_segmenter(photos, tmp_path, task):
    from sure_segmenter import sure_segmenter

    segmenter = sure_segmenter()
    segmenter = Segmenter(segmenter.model, segmenter.image_processor, task=task)
    run = predict_to_folder(segmenter, str(photos / "a.png"), tmp_path)
    assert (run.images, run.failed) == (1, 0)
    assert {"panoptic": "panoptic.json", "instance": "coco_results.json", "semantic": "semantic"}[task] in {
        path.name for path in tmp_path.iterdir()
    }
    other = Segmenter(segmenter.model, segmenter.image_processor, task="semantic" if task != "semantic" else "panoptic")
    with pytest.raises(PredictionsError, match=f"task was '{task}'"):
        predict_to_folder(other, str(photos / "a.png"), tmp_path, resume=True)
