import json
import random
import re
from pathlib import Path

import pytest
from PIL import Image

from transformers_detr.data.check_workflow import check_dataset
from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.data.findings import DatasetError

VOC = (
    "<annotation><size><width>8</width><height>8</height></size><object><name>cat</name><bndbox><xmin>1</xmin>"
    "<ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></object></annotation>"
)
YOLO = "0 0.5 0.5 0.2 0.2\n"
LABELME = json.dumps({"version": "5", "flags": {}, "shapes": [], "imagePath": "a.png", "imageData": "A" * 99})
COCO = json.dumps(
    {
        "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 3], "area": 9, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "cat"}],
    }
)


def write(root, files):
    """Write texts by path; images for None."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            Image.new("RGB", (8, 8)).save(root / name)
        else:
            (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("text", "suffix", "seen"),
    [
        (LABELME, "json", "labelme"),
        ('{"a.png99": {"filename": "a.png", "size": 9, "regions": []}}', "json", "VIA"),
        ('[{"image": "a.png", "annotations": [{"label": "x", "coordinates": {"x": 1}}]}]', "json", "Create ML"),
        ('<?xml version="1.0"?><annotations><version>1.1</version></annotations>', "xml", "CVAT"),
        ("filename,width,height,class,xmin,ymin,xmax,ymax\n", "csv", "CSV"),
        ("ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\n", "csv", "CSV"),
        (YOLO, "txt", "YOLO label"),
        ("\ufeff" + YOLO, "txt", "YOLO label"),
    ],
)
def test_what_is_there_is_named(tmp_path, text, suffix, seen):
    write(tmp_path, {"a.png": None, **{f"sub/{stem}.{suffix}": text for stem in "abcd"}})
    (finding,) = check_dataset(tmp_path).findings
    files = f"(sub/a.{suffix}, sub/b.{suffix}, sub/c.{suffix}, …)"
    assert f"It holds 4 {seen} files {files} and 1 image." in finding.message
    assert ("looks like YOLO, but data.yaml" in finding.message) == (suffix == "txt")
    assert str(finding).count(str(tmp_path)) == 1


@pytest.mark.parametrize("name", ["notes.txt", "captions_val2017.json", "package.json", "pom.xml", "results.csv"])
def test_other_files_are_none(tmp_path, name):
    texts = {"captions_val2017.json": COCO, "package.json": '{"name": "x"}', "pom.xml": "<project/>"}
    write(tmp_path, {"a.png": None, name: texts.get(name, "epoch, loss 1 2 3\n")})
    with pytest.raises(DatasetError, match=r"It holds 1 image\."):
        DetectionDataset.load(tmp_path)


YAML = {"data.yaml": "train: images/train\nnames: [cat]\n"}


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({**YAML, "images/train/a.png": None, "labels/train/a.txt": YOLO, "labels/gone.txt": YOLO}, "labels/gone.txt"),
        ({**YAML, "images/train/a.png": None, "images/b.png": None, "labels/b.txt": YOLO}, "labels/b.txt"),
        ({**YAML, "images/train/a.png": None, "a.json": LABELME}, "a.json"),
        ({"Annotations/a.xml": VOC, "JPEGImages/a.png": None, "Annotations/b.xml": VOC, "JPEGImages/b.png": None,
          "ImageSets/Main/train.txt": "a\n"}, "Annotations/b.xml"),
        ({"train/a.xml": VOC, "train/a.png": None, "extra/b.xml": VOC, "extra/b.png": None}, "extra/b.xml"),
        ({"instances_train.json": COCO, "a.png": None, "more/b.xml": VOC}, "more/b.xml"),
        ({"instances_train.json": COCO, "train.json": COCO, "a.png": None}, "train.json"),
        ({"classes.txt": "cat\n", "images/train/a.png": None, "labels/train/a.txt": YOLO, "images/b.png": None,
          "labels/b.txt": YOLO}, "labels/b.txt"),
    ],
)  # fmt: skip
def test_files_that_are_not_read_are_named(tmp_path, files, named, caplog):
    dataset = DetectionDataset.load(write(tmp_path, files))
    (finding,) = dataset.findings
    assert finding.code == "annotations-unread"
    assert f"({named}) not read" in finding.message
    assert named in caplog.text
    (split,) = dataset.splits
    assert not DetectionDataset.load(tmp_path, split).findings, "one split was asked for"


@pytest.mark.parametrize("around", ["dataset", "a/b/c"])
@pytest.mark.parametrize(
    "files",
    [
        {**YAML, "images/train/a.png": None, "labels/train/a.txt": YOLO},
        {"annotations/instances_train.json": COCO, "images/a.png": None},
        {"Annotations/a.xml": VOC, "JPEGImages/a.png": None},
    ],
)
def test_folders_around_a_dataset(tmp_path, files, around):
    write(tmp_path, {f"{around}/{name}": text for name, text in files.items()} | {"__MACOSX/x.txt": "", "README": ""})
    dataset = DetectionDataset.load(tmp_path)
    assert [len(record.objects) for record in dataset.split("train")] == [1]
    assert not dataset.findings


def test_a_coco_file_of_another_split_beside_instances(tmp_path):
    dataset = DetectionDataset.load(write(tmp_path, {"instances_train.json": COCO, "valid.json": COCO, "a.png": None}))
    assert {split: len(images) for split, images in dataset.splits.items()} == {"train": 1, "val": 1}
    assert not dataset.findings


FOLDERS = (
    *("", "train", "val", "test", "Annotations", "labels", "images", "images/train", "labels/train"),
    *("train/labels", "train/images", "a/Annotations", "a/JPEGImages", "batch1"),
)
KINDS = {"txt": YOLO, "xml": VOC, "json": LABELME, "png": None}


@pytest.mark.parametrize("seed", range(60))
def test_every_annotation_file_is_read_or_named(tmp_path, seed):
    """Files of three formats anywhere: those on disk are those read, plus those that a finding or the error names."""
    chance = random.Random(seed)
    files = {
        str(Path(chance.choice(FOLDERS), f"{chance.choice('xyz')}.{chance.choice(list(KINDS))}")): None
        for _ in range(chance.randint(1, 30))
    }
    write(tmp_path, {name: KINDS[name.rpartition(".")[2]] for name in files})
    write(tmp_path, chance.choice([{}, YAML, {"classes.txt": "cat\n"}]))
    on_disk = {path for path in tmp_path.rglob("?.*") if path.suffix != ".png"}
    found = []
    read, error = set(), ""
    try:
        dataset = DetectionDataset.load(tmp_path, report=found.append)
        read = {record.source for images in dataset.splits.values() for record in images}
    except DatasetError as caught:
        error = str(caught)
    named = {finding.file for finding in found}
    messages = [finding.message for finding in found if finding.code == "annotations-unread"] or [error]
    counts = [
        int(count) for text in messages for count in re.findall(r"(\d+) (?:YOLO label|Pascal VOC|labelme) file", text)
    ]
    if not error or "no dataset found" in error:
        assert len(on_disk & (read | named)) + sum(counts) == len(on_disk)
    else:
        assert str(tmp_path) in error
