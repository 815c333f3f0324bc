import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import transformers_detr.data.synthetic as scenes_module
from transformers_detr.data.synthetic import CLASS_NAMES, MIN_VISIBLE, SIDES, make_scene, write_scenes
from transformers_detr.data.synthetic_shapes import OUTLINES, place, rasterize

RECORDED = (
    (256, 224),
    [
        ("triangle", (130, 146, 179, 201), 1297),
        ("ring", (179, 117, 256, 224), 4590),
        ("moon", (0, 19, 77, 139), 3719),
        ("ring", (85, 115, 147, 176), 1958),
        ("star", (172, 36, 225, 95), 1225),
        ("triangle", (65, 16, 164, 103), 4313),
    ],
)
RECORDED_MEAN = (39.907, 35.770, 43.260)


@pytest.fixture(scope="module")
def many():
    return [make_scene(11, index) for index in range(120)]


def test_same_arguments_same_bits_in_another_process():
    code = (
        "import zlib; from transformers_detr.data.synthetic import make_scene;"
        "print([zlib.crc32(make_scene(3, i).image.tobytes()) for i in range(4)])"
    )
    first, second = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert first == second
    assert len(set(json.loads(first))) == 4


def test_series_are_independent():
    assert make_scene(0, 1).image.tobytes() != make_scene(1, 0).image.tobytes()


def test_recorded_scene():
    """The held-out scenes of the published figures are generated again by each reader and must not change."""
    scene = make_scene(0, 3)
    found = [(CLASS_NAMES[item.label], item.box_xyxy_px, item.area) for item in scene.objects]
    assert (scene.image.size, found) == RECORDED
    assert np.asarray(scene.image).mean(axis=(0, 1)) == pytest.approx(RECORDED_MEAN, abs=0.02)


def test_boxes_are_tight_around_visible_pixels(many):
    for scene in many:
        width, height = scene.image.size
        assert scene.instances.shape == (height, width)
        assert scene.instances.max(initial=0) == len(scene.objects)
        for index, item in enumerate(scene.objects):
            left, top, right, bottom = item.box_xyxy_px
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
            rows, columns = np.nonzero(scene.instances == index + 1)
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == item.box_xyxy_px
            assert item.area == len(rows)


def test_variety(many):
    counts = [len(scene.objects) for scene in many]
    assert counts.count(0) >= 3
    assert max(counts) >= 10
    assert max(counts) <= 17
    assert {item.label for scene in many for item in scene.objects} == set(range(len(CLASS_NAMES)))
    assert any(item.iscrowd for scene in many for item in scene.objects)
    assert {side for scene in many for side in scene.image.size} == set(SIDES)


def test_nothing_is_mostly_hidden(monkeypatch):
    painters = []
    finish = scenes_module._Painter.finish
    monkeypatch.setattr(scenes_module._Painter, "finish", lambda self: (painters.append(self), finish(self))[1])
    for index in range(80):
        make_scene(11, index)
    shares = [
        (painter.instances == index + 1).sum() / whole
        for painter in painters
        for index, whole in enumerate(painter.whole_areas)
    ]
    assert MIN_VISIBLE <= min(shares) < MIN_VISIBLE + 0.1, "some objects are half hidden, none more"


def test_size_is_honored():
    assert make_scene(5, 0, size=(64, 96)).image.size == (96, 64)


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_outlines_fill_the_unit_circle(name):
    radii = np.linalg.norm(OUTLINES[name][0], axis=1)
    assert radii.max() <= 1.01
    assert radii.max() >= 0.9


def test_rasterized_areas_match_geometry():
    areas = {"circle": np.pi, "square": 2.0, "ring": np.pi * (1 - 0.55**2), "triangle": 3 * 3**0.5 / 4}
    for name, unit_area in areas.items():
        coverage, _ = rasterize([place(OUTLINES[name], 40, 1.3, 0.4)])
        assert coverage.sum() == pytest.approx(unit_area * 40**2, rel=0.02), name
        assert set(np.unique(coverage)) - {0, 1}, "edges are smooth"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_written_dataset_is_what_pycocotools_reads(tmp_path):
    coco_module = pytest.importorskip("pycocotools.coco")
    seen = []
    folder = write_scenes(tmp_path / "scenes", 12, seed=11, progress=seen.append)
    assert seen == list(range(1, 13))
    assert [path.name for path in tmp_path.iterdir()] == ["scenes"]
    coco = coco_module.COCO(str(folder / "annotations.json"))
    assert [coco.cats[i]["name"] for i in sorted(coco.cats)] == list(CLASS_NAMES)
    for index in range(12):
        scene = make_scene(11, index)
        info = coco.imgs[index]
        with Image.open(folder / "images" / info["file_name"]) as image:
            assert image.tobytes() == scene.image.tobytes()
        annotations = coco.loadAnns(coco.getAnnIds(index))
        assert len(annotations) == len(scene.objects)
        for number, annotation in enumerate(annotations):
            mask = coco.annToMask(annotation).astype(bool)
            assert (mask == (scene.instances == number + 1)).all()
            x, y, width, height = annotation["bbox"]
            assert (x, y, x + width, y + height) == scene.objects[number].box_xyxy_px


def test_a_failed_run_leaves_nothing_behind(tmp_path):
    def stop(done):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "scenes", 5, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_never_touched(tmp_path):
    with pytest.raises(FileExistsError, match="exists already"):
        write_scenes(tmp_path, 1)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        write_scenes(tmp_path / "new", 0)
