import hashlib
import json
import math
import shutil

import numpy as np
import pytest
from PIL import Image, ImageOps

from transformers_detr.data.check_workflow import check_dataset
from transformers_detr.data.checks import judge_box
from transformers_detr.data.cleaning import write_coco
from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.data.findings import KINDS, Severity
from transformers_detr.data.synthetic import CLASS_NAMES


def codes(report):
    return set(report.by_code())


def places(report, code):
    return {(finding.image_id, finding.annotation_id) for finding in report.by_code().get(code, ())}


def tree_digest(folder):
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


class Planter:
    """Plants faults into a COCO dataset of generated scenes and remembers which, as (code, image, annotation)."""

    def __init__(self, folder):
        self.folder = folder
        self.content = {
            split: json.loads((folder / "annotations" / f"instances_{split}2017.json").read_text())
            for split in ("train", "val")
        }
        self.planted = set()
        by_image = {}
        for annotation in self.content["train"]["annotations"]:
            if not annotation["iscrowd"]:
                by_image.setdefault(annotation["image_id"], []).append(annotation)
        self.spare = iter([annotations for annotations in by_image.values() if len(annotations) >= 2])

    def object(self, code, **changes):
        """Change the first object of an image that has no fault yet."""
        annotation = next(self.spare)[0]
        annotation.update(changes)
        self.planted.add((code, annotation["image_id"], annotation["id"]))
        return annotation

    def image(self, code, annotation_id=None):
        """Entry and file of an image that has no fault yet."""
        image_id = next(self.spare)[0]["image_id"]
        self.planted.add((code, image_id, annotation_id))
        entry = next(entry for entry in self.content["train"]["images"] if entry["id"] == image_id)
        return entry, self.folder / "train2017" / entry["file_name"]

    def save(self):
        for split, content in self.content.items():
            (self.folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


def plant_everything(folder):
    p = Planter(folder)
    train = p.content["train"]
    new_id = 100_000

    # objects
    p.object("box-not-finite", bbox=[math.nan, 1, 10, 10])
    p.object("box-negative", bbox=[50, 50, -20, 10])
    p.object("box-empty", bbox=[50, 50, 0, 10])
    p.object("box-below-pixel", bbox=[0.2, 0.3, 0.1, 0.2])
    p.object("box-outside", bbox=[5000, 50, 10, 10])
    p.object("box-beyond-frame", bbox=[-30, 10, 80, 80])["segmentation"] = None
    p.object("area-mismatch", area=-1)
    p.object("segmentation-invalid", segmentation=[[1, 2, 3]])
    x, y, w, h = (wide := p.object("segmentation-outside-box", iscrowd=0))["bbox"]
    wide["segmentation"] = [[x, y, x + w, y, x + w, y + h + 9]]
    p.object("category-unknown", category_id=99)
    p.object("annotation-malformed", bbox=[1, 2, 3])
    lost = p.object("image-unlisted")
    p.planted.discard(("image-unlisted", lost["image_id"], lost["id"]))
    lost["image_id"] = 7777
    p.planted.add(("image-unlisted", 7777, lost["id"]))
    twin = dict(p.object("box-repeated"), id=new_id)
    p.planted = {entry for entry in p.planted if entry[0] != "box-repeated"}
    p.planted.add(("box-repeated", twin["image_id"], twin["id"]))
    train["annotations"].append(twin)
    pair = next(p.spare)
    pair[1]["id"] = pair[0]["id"]
    p.planted.add(("annotation-id-repeated", pair[0]["image_id"], pair[0]["id"]))

    # images
    entry, file = p.image("image-missing")
    file.unlink()
    entry, file = p.image("image-unreadable")
    file.write_bytes(file.read_bytes()[:2000])  # cut off: the header is whole
    entry, _ = p.image("size-mismatch")
    entry["width"], entry["height"] = 2 * entry["width"], 2 * entry["height"]
    drawn = [annotation for annotation in train["annotations"] if annotation["image_id"] == entry["id"]]
    for annotation in drawn:
        annotation.update(bbox=[2 * side for side in annotation["bbox"]], area=4 * annotation["area"])
        annotation["segmentation"] = None
    drawn[0].update(bbox=[entry["width"] - 40, entry["height"] - 30, 40, 30], area=1200)
    entry, file = p.image("exif-unrotated")
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(file) as image:
        tall = image.resize((200, 240))  # not square: a square one cannot show it
    tall.save(file, exif=exif)
    entry["width"], entry["height"] = tall.size
    for annotation in train["annotations"]:
        if annotation.get("image_id") == entry["id"]:
            annotation.update(bbox=[20, 170, 50, 60], segmentation=None, area=3000)  # beyond the upright image
            if annotation["id"] % 100:
                annotation["image_id"] = -1  # keep the first one only
    train["annotations"] = [a for a in train["annotations"] if a.get("image_id") != -1]
    entry, _ = p.image("too-many-objects")
    for number in range(40):
        new_id += 1
        box = [number, number + 1, 20, 21]
        new = {"id": new_id, "image_id": entry["id"], "category_id": 10, "bbox": box, "area": 400, "iscrowd": 0}
        train["annotations"].append(new)
    entry, file = p.image("image-repeated")
    p.planted.discard(("image-repeated", entry["id"], None))
    shutil.copy(file, file.with_name("copy.png"))
    train["images"].append(entry | {"id": 9001, "file_name": "copy.png"})
    p.planted.add(("image-repeated", 9001, None))
    entry, file = p.image("image-in-two-splits")
    train["annotations"] = [a for a in train["annotations"] if a.get("image_id") != entry["id"]]
    with Image.open(file) as image:
        image.save(folder / "val2017" / "leak.bmp")  # another file of the same pixels
    p.content["val"]["images"].append(entry | {"id": 9002, "file_name": "leak.bmp"})
    entry, _ = p.image("image-id-repeated")
    train["images"].append(entry | {"file_name": "scene00.png"})
    (folder / "train2017" / "stray.png").write_bytes(b"")
    p.planted.add(("image-unannotated", None, None))

    # classes
    for content in p.content.values():
        content["categories"] += [
            {"id": 50, "name": "unused"},
            {"id": 51, "name": "rare"},
            {"id": 52, "name": "untrained"},
            {"id": 53, "name": "Circle "},
            {"id": 54, "name": "moon"},
        ]
    train["categories"].append({"id": 50, "name": "another"})
    for split, image_id, category in (("train", 0, 51), ("val", 30, 52)):
        new_id += 1
        new = {"id": new_id, "image_id": image_id, "category_id": category, "bbox": [3, 4, 30, 31], "iscrowd": 0}
        p.content[split]["annotations"].append(new)
    for code in ("unused", "rare", "not-trained", "similar", "twin", "repeated"):
        p.planted.add((f"category-{code}", None, None))

    # a split without objects
    empty = {"images": [p.content["val"]["images"].pop()], "annotations": []}
    (folder / "test2017").mkdir()
    shutil.move(folder / "val2017" / "leak.bmp", folder / "test2017")
    test_file = folder / "annotations" / "instances_test2017.json"
    test_file.write_text(json.dumps(empty | {"categories": train["categories"][:8]}))
    p.planted.add(("split-empty", None, None))
    p.save()
    return p.planted


def test_a_clean_dataset_has_no_findings(larger_coco_folder):
    seen = []
    report = check_dataset(larger_coco_folder, progress=lambda *step: seen.append(step))
    assert [str(finding) for finding in report.findings] == []
    assert seen == [(done, 40) for done in range(1, 41)]


def test_every_planted_fault_is_found(larger_coco_folder):
    planted = plant_everything(larger_coco_folder)
    report = check_dataset(larger_coco_folder, num_queries=40)
    for code, image_id, annotation_id in planted:
        assert (image_id, annotation_id) in places(report, code), code
    assert len({code for code, _, _ in planted}) >= 30
    assert codes(report) == {code for code, _, _ in planted}, "and nothing else"
    for code in ("box-empty", "image-missing", "too-many-objects", "image-in-two-splits", "exif-unrotated"):
        assert len(places(report, code)) == 1, code
    assert len(report.by_code()["category-twin"]) == 1, "though two files have both"
    for finding in report.findings:
        assert str(larger_coco_folder) in str(finding.file)


def test_a_loaded_dataset_gives_the_same_report(larger_coco_folder):
    """With the faults that its reader skipped, which are not in the records any more."""
    plant_everything(larger_coco_folder)
    reported = []
    dataset = DetectionDataset.load(larger_coco_folder, report=reported.append)
    assert {"category-unknown", "annotation-malformed", "image-unlisted"} <= {finding.code for finding in reported}
    assert dataset.findings == tuple(reported)
    report = check_dataset(dataset, num_queries=40)
    assert report.findings == check_dataset(larger_coco_folder, num_queries=40).findings
    assert report.cleaned().findings == ()


def test_warnings_of_a_reader_stay_with_the_dataset(coco_folder):
    """The default lets them pass."""
    file = coco_folder / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    content["categories"].append({"id": 99, "name": content["categories"][0]["name"]})
    file.write_text(json.dumps(content))
    dataset = DetectionDataset.load(file)
    assert [finding.code for finding in dataset.findings] == ["category-twin"]
    assert dataset.with_validation().with_classes(dataset.class_names).findings == dataset.findings
    assert "category-twin" in codes(check_dataset(dataset, quick=True))


@pytest.mark.parametrize("polygon", [[1, 2, 30, 40], [1, 2], [1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, math.nan], 7])
def test_polygons_that_would_be_misread_are_findings(coco_folder, polygon):
    file = coco_folder / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    annotation = content["annotations"][0]
    x, y, w, h = annotation["bbox"]
    annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h], polygon]
    file.write_text(json.dumps(content))
    report = check_dataset(file)
    assert places(report, "segmentation-invalid") == {(annotation["image_id"], annotation["id"])}
    cleaned = next(image for image in report.cleaned().split("train") if image.id == annotation["image_id"])
    assert cleaned.objects[0].segmentation is None


def test_kinds_planted_elsewhere_complete_the_list(larger_coco_folder):
    planted = {code for code, _, _ in plant_everything(larger_coco_folder)}
    elsewhere = {"dataset-unreadable", "annotations-missing", "box-in-pixels", "objects-tiny", "box-relative"}
    elsewhere |= {"size-misstated", "size-ambiguous", "box-convention", "field-unreadable", "image-listed-twice"}
    elsewhere |= {"split-missing", "image-outside", "annotations-unread"}
    assert planted | elsewhere == set(KINDS)


def test_quick_leaves_out_what_needs_pixels(larger_coco_folder):
    plant_everything(larger_coco_folder)
    full = check_dataset(larger_coco_folder, num_queries=40)
    quick = check_dataset(larger_coco_folder, num_queries=40, quick=True)
    assert codes(full) - codes(quick) == {
        "image-unreadable",
        "image-repeated",
        "image-in-two-splits",
        "segmentation-invalid",
        "segmentation-outside-box",
    }


def test_a_cleaned_copy_keeps_nothing_that_can_be_repaired(larger_coco_folder, tmp_path):
    plant_everything(larger_coco_folder)
    before = tree_digest(larger_coco_folder)
    report = check_dataset(larger_coco_folder, num_queries=40)
    report.fix(tmp_path / "clean")
    assert tree_digest(larger_coco_folder) == before
    again = check_dataset(tmp_path / "clean", num_queries=40)
    unrepairable = {code for code, kind in KINDS.items() if kind.repair is None}
    assert codes(again) <= unrepairable
    assert {"too-many-objects", "category-unused", "segmentation-outside-box"} <= codes(again)
    assert again.dataset.class_names == report.dataset.class_names


def test_a_clean_dataset_is_copied_as_it_is(larger_coco_folder, tmp_path):
    report = check_dataset(larger_coco_folder)
    report.fix(tmp_path / "copy")
    copy = DetectionDataset.load(tmp_path / "copy")
    for split, records in report.dataset.splits.items():
        for before, after in zip(records, copy.split(split), strict=True):
            assert after.path.read_bytes() == before.path.read_bytes()
            assert [(item.label, item.box_xywh_px, item.area, item.iscrowd) for item in after.objects] == [
                (item.label, item.box_xywh_px, item.area, item.iscrowd) for item in before.objects
            ]
    with pytest.raises(FileExistsError, match="exists already"):
        write_coco(report.dataset, tmp_path / "copy")


def test_boxes_are_repaired_as_promised(larger_coco_folder):
    plant_everything(larger_coco_folder)
    report = check_dataset(larger_coco_folder, num_queries=40)
    train = {record.id: record for record in report.cleaned().split("train")}
    original = {record.id: record for record in report.dataset.split("train")}

    def only(code):
        ((image_id, annotation_id),) = places(report, code)
        index = next(i for i, item in enumerate(original[image_id].objects) if item.id == annotation_id)
        return original[image_id], train[image_id], index

    _, clean, index = only("box-beyond-frame")
    assert clean.objects[index].box_xywh_px == (0, 10, 50, 80)
    _, clean, index = only("area-mismatch")
    _, _, width, height = clean.objects[index].box_xywh_px
    assert clean.objects[index].area == width * height
    record, clean, _ = only("box-empty")
    assert len(clean.objects) == len(record.objects) - 1
    ((image_id, _),) = places(report, "size-mismatch")
    record, clean = original[image_id], train[image_id]
    assert (clean.height, clean.width) == (record.height / 2, record.width / 2)
    for item, scaled in zip(record.objects, clean.objects, strict=True):
        assert scaled.box_xywh_px == tuple(value / 2 for value in item.box_xywh_px)
        assert scaled.area == pytest.approx(item.area / 4)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_follow_the_exif_rotation(tmp_path, coco_folder, scenes, orientation):
    file = coco_folder / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    entry = next(e for e in content["images"] if e["width"] != e["height"] and scenes(e["id"]).objects)
    scene = scenes(entry["id"])
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h]]
    file.write_text(json.dumps(content))
    exif = Image.Exif()
    exif[0x0112] = orientation
    scene.image.save(coco_folder / "train2017" / entry["file_name"], exif=exif)

    report = check_dataset(file)
    assert places(report, "exif-unrotated") == {(entry["id"], None)}
    report.fix(tmp_path / "clean")
    again = check_dataset(tmp_path / "clean")
    assert not {"exif-unrotated", "size-mismatch", "segmentation-outside-box"} & codes(again)
    record = next(r for r in again.dataset.split("train") if r.path.name == entry["file_name"])

    instances = Image.fromarray(scene.instances)
    instances.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(instances))
    assert upright.shape == (record.height, record.width)
    for index, item in enumerate(record.objects):
        rows, columns = np.nonzero(upright == index + 1)
        box = (columns.min(), rows.min(), columns.max() + 1 - columns.min(), rows.max() + 1 - rows.min())
        assert item.box_xywh_px == box
        assert item.area == scene.objects[index].area


def test_upright_annotations_of_a_rotated_photograph_are_right(coco_folder):
    file = coco_folder / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    entry = next(entry for entry in content["images"] if entry["width"] != entry["height"])
    path = coco_folder / "train2017" / entry["file_name"]
    exif = Image.Exif()
    exif[0x0112] = 8
    with Image.open(path) as image:
        image.transpose(Image.Transpose.ROTATE_270).save(path, exif=exif)
    assert not {"exif-unrotated", "size-mismatch"} & codes(check_dataset(file))


def test_the_two_empty_boxes_of_bccd(shared_path):
    report = check_dataset(shared_path("data", "bccd"))
    assert codes(report) == {"box-empty"}
    assert {(finding.file.name, finding.place) for finding in report.findings} == {
        ("BloodImage_00338.xml", "object 13"),
        ("BloodImage_00343.xml", "object 4"),
    }


def test_nothing_in_photographs_of_coco(shared_path):
    assert check_dataset(shared_path("data", "coco_mini")).findings == ()


def test_undecodable_images_are_found_and_unusual_ones_pass(shared_path, tmp_path):
    for kind in ("undecodable", "unusual"):
        files = sorted(shared_path("data", "odd_images", kind).iterdir())
        images = [{"id": i, "file_name": file.name} for i, file in enumerate(files)]
        sized = [image | {"width": 10, "height": 10} for image in images]
        folder = shutil.copytree(shared_path("data", "odd_images", kind), tmp_path / kind / "images")
        content = {"images": sized, "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
        (folder.parent / "annotations.json").write_text(json.dumps(content))
        found = places(check_dataset(folder.parent), "image-unreadable")
        expected = {(image["id"], None) for image in images} if kind == "undecodable" else set()
        assert {files[i].name for i, _ in found ^ expected} == set()


def test_yolo_boxes_in_pixels(yolo_folder, tmp_path):
    label = yolo_folder / "labels" / "train" / "scene00.txt"
    label.write_text("0 50 60 20 10\n")
    report = check_dataset(yolo_folder)
    ((finding,),) = (report.by_code()["box-in-pixels"],)
    assert (finding.file, finding.place, finding.image_id) == (label, "line 1", 0)
    assert report.cleaned().split("train")[0].objects[0].box_xywh_px == (40, 55, 20, 10)


def test_voc_annotations_missing(voc_folder):
    file = voc_folder / "Annotations" / "scene03.xml"
    file.unlink()
    report = check_dataset(voc_folder)
    assert [finding.file for finding in report.by_code()["annotations-missing"]] == [file]
    assert report.splits["train"].images == 7


def test_tiny_objects(larger_coco_folder):
    report = check_dataset(larger_coco_folder, stride=256)
    (finding,) = report.by_code()["objects-tiny"]
    below = sum(report.box_cells[cells] for cells in ("< 0.25", "0.25–0.5", "0.5–1"))
    assert f"{below} of {sum(report.box_cells.values())} objects" in finding.message
    total = sum(
        not item.iscrowd for records in report.dataset.splits.values() for record in records for item in record.objects
    )
    assert sum(report.box_cells.values()) == total


def test_box_sizes_are_counted_in_cells_after_resizing(tmp_path):
    """Image 100×200 → 800×1333 is bound by the longer side: 666×1333, ×6.66; a cell has 32 pixels."""
    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")
    sides = [0.9, 1.2, 3.0, 5.0, 10.0]  # cells: 0.19, 0.25, 0.62, 1.04, 2.08
    boxes = [{"id": i, "image_id": 1, "category_id": 1, "bbox": [40, 9, s, s]} for i, s in enumerate(sides)]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 200, "height": 100}],
        "annotations": boxes,
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    cells = check_dataset(tmp_path).box_cells
    assert [cells[key] for key in ("< 0.25", "0.25–0.5", "0.5–1", "1–2", "2–4")] == [2, 0, 1, 1, 1]


def test_unreadable_dataset_is_a_finding(tmp_path):
    (tmp_path / "annotations.json").write_text("{")
    report = check_dataset(tmp_path)
    assert [finding.code for finding in report.findings] == ["dataset-unreadable"]
    assert "not JSON" in report.findings[0].message
    assert report.to_json()["counts"] == {"error": 1, "warning": 0, "note": 0}


def test_statistics(larger_coco_folder, scenes):
    report = check_dataset(larger_coco_folder, quick=True)
    val = [scenes(index) for index in range(30, 40)]
    statistics = report.splits["val"]
    assert statistics.images == 10
    assert statistics.objects == sum(len(scene.objects) for scene in val)
    assert statistics.empty_images == sum(not scene.objects for scene in val)
    for label in range(len(CLASS_NAMES)):
        assert statistics.class_counts[label] == sum(item.label == label for scene in val for item in scene.objects)


def test_json_report_holds_every_finding(larger_coco_folder):
    planted = plant_everything(larger_coco_folder)
    report = check_dataset(larger_coco_folder, num_queries=40)
    content = json.loads(json.dumps(report.to_json()))
    listed = {(f["code"], f["image_id"], f["annotation_id"]) for f in content["findings"]}
    assert planted <= listed
    severities = [f["severity"] for f in content["findings"]]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert content["counts"]["error"] == report.count(Severity.ERROR) > 0


@pytest.mark.parametrize(
    ("box", "code"),
    [
        ((0, 0, 100, 50), None),
        ((-1, -1, 102, 52), None),
        ((-1.5, 0, 20, 20), "box-beyond-frame"),
        ((90, 0, 11.5, 20), "box-beyond-frame"),
        ((100, 0, 5, 5), "box-outside"),
        ((-5, 0, 5, 5), "box-outside"),
        ((0, 0, 1, 1), "box-below-pixel"),
        ((0.5, 1, 1, 1), None),
        ((5, 5, 0, 3), "box-empty"),
        ((5, 5, 3, -1), "box-negative"),
        ((5, math.inf, 3, 1), "box-not-finite"),
    ],
)
def test_judging_a_box(box, code):
    verdict = judge_box(box, height=50, width=100, relative=False)
    assert (verdict[0] if verdict else None) == code
