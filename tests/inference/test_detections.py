"""Detections in the forms of others, held against those others."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from transformers_detr.inference.detections import Detections
from transformers_detr.visualization.palette import class_color


def made(boxes=((-0.4, 1.15, 39.73, 27.9), (10.0, 5.5, 20.25, 15.75)), scores=(0.9, 0.99), labels=(2, 0), **more):
    return Detections(
        boxes_xyxy_px=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        scores=np.array(scores, dtype=np.float32),
        class_ids=np.array(labels, dtype=np.int64),
        labels=[f"class {label}" for label in labels],
        image_size=(30, 40),
        **more,
    )


def test_dict_is_what_the_pipeline_answers():
    """The pipeline's own code turns the same tensors into the same answer."""
    import torch
    from transformers import ObjectDetectionPipeline

    found = made()
    answer = [ObjectDetectionPipeline._get_bounding_box(None, box) for box in torch.from_numpy(found.boxes_xyxy_px)]
    assert [entry["box"] for entry in found.to_dict(integer_pixels=True)] == answer
    assert found.to_dict(integer_pixels=True)[0] == {
        "score": pytest.approx(0.9),
        "label": "class 2",
        "box": {"xmin": 0, "ymin": 1, "xmax": 39, "ymax": 27},
    }


def test_dict_keeps_fractions_and_is_plain_json():
    entries = json.loads(json.dumps(made().to_dict()))
    assert list(entries[0]) == ["score", "label", "box"]
    assert entries[1]["box"] == {"xmin": 10.0, "ymin": 5.5, "xmax": 20.25, "ymax": 15.75}


def test_coco_results_are_read_by_pycocotools(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    entries = made().to_coco(image_id=139)
    assert entries[1] == {
        "image_id": 139,
        "category_id": 0,
        "bbox": [10.0, 5.5, 10.25, 10.25],
        "score": pytest.approx(0.99),
    }
    truth = coco.COCO()
    truth.dataset = {"images": [{"id": 139}], "annotations": [], "categories": []}
    truth.createIndex()
    path = tmp_path / "results.json"
    path.write_text(json.dumps(entries))
    read = truth.loadRes(str(path))
    assert read.anns[1]["area"] == pytest.approx(40.13 * 26.75, rel=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_supervision_draws_the_same_boxes():
    pytest.importorskip("supervision")
    found = made()
    theirs = found.to_supervision()
    assert len(theirs) == 2
    np.testing.assert_allclose(theirs.box_area, [40.13 * 26.75, 10.25**2], rtol=1e-5)
    assert theirs.data["class_name"].tolist() == found.labels
    assert theirs.confidence.tolist() == found.scores.tolist()
    assert len(made([], [], []).to_supervision()) == 0


def test_without_supervision_the_error_names_the_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        made().to_supervision()


def test_pandas_gives_a_row_per_object():
    table = made().to_pandas()
    assert list(table.columns) == ["label", "class_id", "score", "xmin", "ymin", "xmax", "ymax"]
    rows = [{**entry["box"], "label": entry["label"], "score": entry["score"]} for entry in made().to_dict()]
    found = table.drop(columns="class_id").to_dict("records")
    assert found == [pytest.approx(row) for row in rows]
    assert table.groupby("label")["score"].max().to_dict() == pytest.approx({"class 0": 0.99, "class 2": 0.9})
    assert len(made([], [], []).to_pandas()) == 0


def test_without_pandas_the_error_names_the_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        made().to_pandas()


def test_fiftyone_has_relative_boxes():
    """Left, top, width and height over those of an image of 40 × 30."""
    entries = json.loads(json.dumps(made().to_fiftyone()))
    assert entries[1] == {
        "label": "class 0",
        "bounding_box": pytest.approx([10 / 40, 5.5 / 30, 10.25 / 40, 10.25 / 30]),
        "confidence": pytest.approx(0.99),
    }
    assert list(entries[0]) == ["label", "bounding_box", "confidence"]


def test_nothing_found():
    nothing = made([], [], [])
    assert len(nothing) == 0
    assert nothing.to_dict() == nothing.to_dict(integer_pixels=True) == nothing.to_coco(1) == []
    ground = Image.new("RGB", (40, 30))
    assert nothing.draw(ground).tobytes() == ground.tobytes()


def test_the_highest_score_is_drawn_on_top():
    found = made(boxes=[[5, 20, 35, 28]] * 2)
    drawn = np.asarray(found.draw(Image.new("RGB", (40, 30))))
    assert tuple(drawn[28, 20]) == class_color(0)


def test_drawing_needs_an_image_of_the_right_size():
    with pytest.raises(ValueError, match="keep_images=True"):
        made().draw()
    with pytest.raises(ValueError, match=r"\(30, 40\) .* got \(40, 30\); is it upright"):
        made().draw(Image.new("RGB", (30, 40)))


def three(**more):
    boxes = [[0, 0, 10, 10], [5, 5, 20, 20], [-3, 8, 50, 31]]
    return made(boxes, (0.5, 0.9, 0.7), (2, 0, 2), id2label={0: "class 0", 1: "class 1", 2: "class 2"}, **more)


def test_items_slices_masks_and_index_arrays():
    found = three()
    assert [(item.label, item.class_id) for item in found] == [("class 2", 2), ("class 0", 0), ("class 2", 2)]
    assert found[1].score == pytest.approx(0.9)
    assert found[1].box_xyxy_px == (5, 5, 20, 20)
    assert found[-1] == found[2] == list(found)[2]
    for key in (slice(1, None), [1, 2], [False, True, True], np.array([1, 2]), found.scores > 0.6):
        assert list(found[key]) == [found[1], found[2]]
    assert found[np.array([2, 0])].scores.tolist() == found.scores[[2, 0]].tolist()
    assert list(found[[]]) == []
    for wrong, error in ((3, IndexError), ([True], IndexError), ("score", TypeError), ([0.5], TypeError)):
        with pytest.raises(error):
            found[wrong]


def test_sort_agrees_with_python_and_is_stable():
    found = made([[i, 0, i + 1, 1] for i in range(5)], (0.2, 0.7, 0.2, 0.9, 0.7), (0, 1, 2, 3, 4))
    assert list(found.sort()) == sorted(found, key=lambda item: -item.score)


def test_filter_by_class_and_score():
    found = three()
    assert list(found.filter("class 2")) == list(found.filter([2])) == list(found.filter(2)) == [found[0], found[2]]
    assert list(found.filter(["class 0", 2], min_score=0.6)) == [found[1], found[2]]
    assert list(found.filter(min_score=float(found.scores[2]))) == [found[1], found[2]]
    assert len(found.filter("class 1")) == 0, "a class of the model that is not in the image"
    with pytest.raises(ValueError, match=r"no class 'Clas 2'\. Did you mean 'class 2'"):
        found.filter("Clas 2")
    with pytest.raises(ValueError, match="no class id 7; its ids are 0-2"):
        found.filter(7)
    with pytest.raises(TypeError, match=r"got 1\.5"):
        found.filter([1.5])


def test_counts_and_repr():
    assert list(three().counts().items()) == [("class 2", 2), ("class 0", 1)]
    assert repr(three()) == "Detections(3 objects: 2 class 2, 1 class 0)"
    assert repr(three(source="a/photo.jpg")[:1]) == "Detections(1 object in photo.jpg: 1 class 2)"
    url = "https://example.org/x/my%20photo.jpg?size=3"
    assert repr(made([], [], [], source=url)) == "Detections(0 objects in my photo.jpg)"
    many = made([[0, 0, 1, 1]] * 9, [0.5] * 9, range(9))
    assert repr(many).endswith("1 class 4, 4 more classes)")


def test_clip_leaves_the_part_inside_the_image():
    clipped = three().clip()
    assert clipped[2].box_xyxy_px == (0, 8, 40, 30)
    assert clipped[1] == three()[1]


def test_the_source_is_opened_again(tmp_path):
    ground = Image.effect_noise((40, 30), 50).convert("RGB")
    ground.save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), ground, np.asarray(ground)):
        found = three(source=source)
        assert found.draw().tobytes() == three().draw(ground).tobytes() != ground.tobytes()
        assert Image.open(io.BytesIO(found._repr_png_())).tobytes() == found.draw().tobytes()
    found = three(source=tmp_path / "a.png")
    found.save(tmp_path / "new" / "out.png")
    assert Image.open(tmp_path / "new" / "out.png").tobytes() == found.draw().tobytes()
    found.save(str(tmp_path / "out.JPG"))
    assert (tmp_path / "out.JPG").read_bytes().startswith(b"\xff\xd8")
    with pytest.raises(ValueError, match=r"out\.txt: no image format .* use one of .*\.png"):
        found.save(tmp_path / "out.txt")
    (tmp_path / "a.png").unlink()
    assert found._repr_png_() is None
    with pytest.raises(FileNotFoundError, match=r"a\.png"):
        found.save(tmp_path / "late.png")
    assert not (tmp_path / "late.png").exists()
    assert three()._repr_png_() is None
