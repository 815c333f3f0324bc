"""Generated scenes, written in each of the formats that the readers know."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import pytest
import yaml

from transformers_detr.data.synthetic import CLASS_NAMES, make_scene

SPLITS = {"train": range(8), "val": range(8, 12)}


@pytest.fixture(scope="session")
def scenes():
    """Function `(index) -> Scene`."""
    return functools.cache(functools.partial(make_scene, 21))


def _save_image(scene, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    scene.image.save(path, compress_level=1)
    return path


def write_coco(root: Path, scenes, splits=SPLITS) -> Path:
    for split, indices in splits.items():
        content = {
            "images": [],
            "annotations": [],
            # ids with gaps, as COCO has them
            "categories": [{"id": 10 + 3 * label, "name": name} for label, name in enumerate(CLASS_NAMES)],
        }
        for index in indices:
            scene = scenes(index)
            path = _save_image(scene, root / f"{split}2017" / f"scene{index:02d}.png")
            width, height = scene.image.size
            content["images"].append({"id": index, "file_name": path.name, "width": width, "height": height})
            for annotation in scene.coco_annotations(index, 100 * index, segmentation=True):
                annotation["category_id"] = 10 + 3 * annotation["category_id"]
                content["annotations"].append(annotation)
        file = root / "annotations" / f"instances_{split}2017.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content), encoding="utf-8")
    return root


def write_voc(root: Path, scenes) -> Path:
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for split, indices in SPLITS.items():
        names = [f"scene{index:02d}" for index in indices]
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
        for index, name in zip(indices, names, strict=True):
            scene = scenes(index)
            _save_image(scene, root / "JPEGImages" / f"{name}.png")
            width, height = scene.image.size
            objects = "".join(
                f"<object><name>{CLASS_NAMES[item.label]}</name><bndbox>"
                + "".join(
                    f"<{key}>{value}</{key}>"
                    for key, value in zip(("xmin", "ymin", "xmax", "ymax"), item.box_xyxy_px, strict=True)
                )
                + "</bndbox></object>"
                for item in scene.objects
            )
            (root / "Annotations" / f"{name}.xml").write_text(
                f"<annotation><filename>{name}.png</filename><size><width>{width}</width>"
                f"<height>{height}</height><depth>3</depth></size>{objects}</annotation>",
                encoding="utf-8",
            )
    return root


def write_yolo(root: Path, scenes) -> Path:
    for split, indices in SPLITS.items():
        for index in indices:
            scene = scenes(index)
            _save_image(scene, root / "images" / split / f"scene{index:02d}.png")
            width, height = scene.image.size
            lines = [
                f"{item.label} {(x0 + x1) / 2 / width} {(y0 + y1) / 2 / height} "
                f"{(x1 - x0) / width} {(y1 - y0) / height}"
                for item in scene.objects
                for x0, y0, x1, y1 in [item.box_xyxy_px]
            ]
            if lines:  # an image without objects has no file
                labels = root / "labels" / split / f"scene{index:02d}.txt"
                labels.parent.mkdir(parents=True, exist_ok=True)
                labels.write_text("\n".join(lines) + "\n", encoding="utf-8")
    content = {"path": ".", "train": "images/train", "val": "images/val", "names": dict(enumerate(CLASS_NAMES))}
    (root / "data.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return root


def write_saved_dataset(root: Path, scenes) -> Path:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "image_id": datasets.Value("int64"),
            "objects": {
                "bbox": datasets.List(datasets.List(datasets.Value("float64"), length=4)),
                "category": datasets.List(datasets.ClassLabel(names=list(CLASS_NAMES))),
            },
        }
    )
    tables = {}
    for split, indices in SPLITS.items():
        rows = {"image": [scenes(index).image for index in indices], "image_id": list(indices), "objects": []}
        for index in indices:
            annotations = scenes(index).coco_annotations(index)
            rows["objects"].append(
                {
                    "bbox": [annotation["bbox"] for annotation in annotations],
                    "category": [annotation["category_id"] for annotation in annotations],
                }
            )
        tables["validation" if split == "val" else split] = datasets.Dataset.from_dict(rows, features=features)
    datasets.disable_progress_bars()
    datasets.DatasetDict(tables).save_to_disk(str(root))
    return root


WRITERS = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo, "datasets": write_saved_dataset}


@pytest.fixture(scope="session")
def written(tmp_path_factory, scenes):
    """Function `(format) -> folder`, written once; not to be changed."""
    return functools.cache(lambda name: WRITERS[name](tmp_path_factory.mktemp(name) / "dataset", scenes))


@pytest.fixture(params=list(WRITERS))
def format_folder(request, written):
    """(format, folder) for each format in turn; not to be changed."""
    return request.param, written(request.param)


@pytest.fixture
def coco_folder(tmp_path, written):
    """A copy to spoil."""
    return shutil.copytree(written("coco"), tmp_path / "dataset")


@pytest.fixture
def voc_folder(tmp_path, written):
    """A copy to spoil."""
    return shutil.copytree(written("voc"), tmp_path / "dataset")


@pytest.fixture
def yolo_folder(tmp_path, written):
    """A copy to spoil."""
    return shutil.copytree(written("yolo"), tmp_path / "dataset")


@pytest.fixture(scope="session")
def larger_written(tmp_path_factory, scenes):
    folder = tmp_path_factory.mktemp("larger") / "dataset"
    return write_coco(folder, scenes, {"train": range(30), "val": range(30, 40)})


@pytest.fixture
def larger_coco_folder(tmp_path, larger_written):
    """Thirty training and ten validation images, enough for every class; a copy to spoil."""
    return shutil.copytree(larger_written, tmp_path / "dataset")
