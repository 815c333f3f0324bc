"""Each kind of fault by several members of the kind: COCO files, and what is common to all formats."""

import json

import numpy as np
import pytest
from PIL import Image

from transformers_detr.data.box_frames import Frame
from transformers_detr.data.check_workflow import check_dataset
from transformers_detr.data.containment import ALLOW_OUTSIDE
from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.data.findings import DatasetError
from transformers_detr.model.coco_masks_detr import decode_rle, encode_rle

BOX = [10.0, 20.0, 40.0, 50.0]


def annotation(bbox=BOX, **fields):
    return {"id": 1, "image_id": 1, "category_id": 1, "bbox": bbox} | fields


def write(folder, annotations, *, name="annotations.json", images=None, categories=((1, "cat"),), size=(200, 100)):
    """Write a COCO file with images of noise, (width, height) = `size`, beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    width, height = size
    images = images or [{"id": 1, "file_name": "a.png", "width": width, "height": height}]
    for index, image in enumerate(images):
        path = folder / str(image["file_name"]).replace("\\", "/").lstrip("/")
        if not path.exists() and path.resolve().is_relative_to(folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": id, "name": name} for id, name in categories]
    (folder / name).write_text(json.dumps(content))
    return folder


def objects(dataset, split="train"):
    """(class name, box) of every object of a split."""
    return [
        (dataset.class_names[item.label], [round(side, 6) for side in item.box_xywh_px])
        for image in dataset.split(split)
        for item in image.objects
    ]


def of(report):
    """Codes without those that any small dataset has."""
    return set(report.by_code()) - {"category-rare", "category-unused", "category-not-trained", "objects-tiny"}


# Class identity across files


@pytest.mark.parametrize(
    ("val", "names"),
    [
        ([(1, "dog"), (2, "cat")], ("cat", "dog")),
        ([(2, "dog"), (1, "cat")], ("cat", "dog")),
        ([(1, "bird"), (5, "dog")], ("cat", "bird", "dog")),
        ([("dog-id", "dog"), (7, "cat")], ("cat", "dog")),
    ],
)
def test_category_ids_mean_the_names_of_their_file(tmp_path, val, names):
    write(tmp_path / "train", [annotation()], categories=[(1, "cat"), (2, "dog")], name="_annotations.coco.json")
    dog = next(id for id, name in val if name == "dog")
    write(tmp_path / "valid", [annotation(category_id=dog)], categories=val, name="_annotations.coco.json")
    dataset = DetectionDataset.load(tmp_path)
    assert dataset.class_names == names
    assert objects(dataset) == [("cat", BOX)]
    assert objects(dataset, "val") == [("dog", BOX)]
    fixed = check_dataset(dataset).fix(tmp_path / "fixed")
    assert objects(fixed, "val") == [("dog", BOX)]


def test_ids_that_mean_two_names_cannot_be_kept(tmp_path):
    write(tmp_path / "train", [annotation()], categories=[(1, "cat")], name="_annotations.coco.json")
    write(tmp_path / "valid", [annotation()], categories=[(1, "dog")], name="_annotations.coco.json")
    with pytest.raises(DatasetError, match=r"valid.*category id 1 is 'dog', but 'cat' in another file"):
        DetectionDataset.load(tmp_path, keep_category_ids=True)


@pytest.mark.parametrize("id", [74_000_000, -1, "cat"])
def test_ids_that_are_no_class_ids_cannot_be_kept(tmp_path, id):
    folder = write(tmp_path / "a", [annotation(category_id=id)], categories=[(id, "cat")])
    assert objects(DetectionDataset.load(folder)) == [("cat", BOX)]
    with pytest.raises(DatasetError, match=f"category id {id} cannot be kept"):
        DetectionDataset.load(folder, keep_category_ids=True)


def test_a_category_listed_twice_is_no_fault(tmp_path):
    write(tmp_path, [annotation()], categories=[(1, "cat"), (1, "cat")])
    assert of(check_dataset(tmp_path)) == set()


# Stated size against pixels


def turned(folder, orientation):
    """Give the image an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = folder / "a.png"
    with Image.open(path) as image:
        image.save(path, exif=exif)


def stated(width, height):
    return [{"id": 1, "file_name": "a.png", "width": width, "height": height}]


@pytest.mark.parametrize(
    ("size", "stated_size", "orientation", "box"),
    [
        ((200, 100), (100, 200), 1, [120, 20, 60, 50]),
        ((200, 100), (200, 100), 6, [20, 120, 60, 70]),
        ((200, 100), (50, 50), 1, [120, 20, 60, 50]),
        ((200, 100), (1000, 50), 1, [120, 20, 60, 75]),
    ],
)
def test_a_wrong_size_is_corrected_where_the_boxes_fit_the_image(tmp_path, size, stated_size, orientation, box):
    write(tmp_path / "a", [annotation(box)], images=stated(*stated_size), size=size)
    turned(tmp_path / "a", orientation)
    report = check_dataset(tmp_path / "a")
    assert of(report) == {"size-misstated"}
    (record,) = report.fix(tmp_path / "fixed").split("train")
    assert (record.width, record.height) == record.load_image().size
    assert [list(item.box_xywh_px) for item in record.objects] == [box]


@pytest.mark.parametrize(
    ("stated_size", "orientation", "box", "expected"),
    [
        ((400, 200), 1, [300, 100, 80, 60], [150, 50, 40, 30]),
        ((200, 100), 6, [150, 10, 40, 30], [60, 150, 30, 40]),
        ((200, 100), 8, [150, 10, 40, 30], [10, 10, 30, 40]),
    ],
)
def test_boxes_are_moved_where_they_fit_the_stated_size(tmp_path, stated_size, orientation, box, expected):
    x, y, w, h = box
    mask = np.zeros(stated_size[::-1], dtype=np.uint8)
    mask[y : y + h, x : x + w] = 1
    entries = [annotation(box, segmentation=encode_rle(mask))]
    write(tmp_path / "a", entries, images=stated(*stated_size))
    turned(tmp_path / "a", orientation)
    report = check_dataset(tmp_path / "a")
    assert of(report) == {"exif-unrotated" if orientation > 1 else "size-mismatch"}
    fixed = report.fix(tmp_path / "fixed")
    assert objects(fixed) == [("cat", expected)]
    rows, columns = np.nonzero(decode_rle(fixed.split("train")[0].objects[0].segmentation))
    x, y, w, h = expected
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x, y, x + w, y + h)


@pytest.mark.parametrize(("stated_size", "orientation"), [((400, 200), 1), ((100, 200), 1), ((200, 100), 6)])
def test_boxes_that_fit_both_sizes_are_a_question(tmp_path, stated_size, orientation):
    write(tmp_path / "a", [annotation([10, 20, 40, 50])], images=stated(*stated_size))
    turned(tmp_path / "a", orientation)
    report = check_dataset(tmp_path / "a")
    assert of(report) == {"size-ambiguous"}
    assert "--boxes-in" in report.by_code()["size-ambiguous"][0].message
    assert objects(report.fix(tmp_path / "asked")) == [("cat", BOX)]
    assert of(check_dataset(tmp_path / "asked")) == {"size-ambiguous"}
    assert objects(report.fix(tmp_path / "image", boxes_in=Frame.IMAGE)) == [("cat", BOX)]
    assert of(check_dataset(tmp_path / "image")) == set()
    if stated_size == (400, 200):
        fixed = report.fix(tmp_path / "stated", boxes_in=Frame.STATED)
        assert objects(fixed) == [("cat", [5, 10, 20, 25])]


def test_other_images_of_the_same_mismatch_decide(tmp_path):
    images = [{"id": id, "file_name": f"{id}.png", "width": 100, "height": 200} for id in (1, 2)]
    entries = [annotation([120, 20, 60, 50]), annotation(BOX, id=2, image_id=2)]
    report = check_dataset(write(tmp_path / "a", entries, images=images))
    assert of(report) == {"size-misstated"}
    assert objects(report.fix(tmp_path / "fixed")) == [("cat", [120, 20, 60, 50]), ("cat", BOX)]


def test_a_careless_box_does_not_scale_the_others(tmp_path):
    entries = [annotation([150, 10, 54, 50]), annotation(BOX, id=2)]
    report = check_dataset(write(tmp_path, entries, images=stated(400, 200)))
    assert "size-ambiguous" in of(report)


# --fix loses no object


def test_entries_of_one_file_become_one_image(tmp_path):
    boxes = [[10, 20, 40, 50], [60, 20, 40, 50], [110, 20, 40, 50]]
    images = [{"id": id, "file_name": "a.png", "width": 200, "height": 100} for id in range(3)]
    images[2] |= {"width": 100, "height": 200}  # one of the entries swaps the sides
    entries = [annotation(box, id=id, image_id=id) for id, box in enumerate(boxes)]
    report = check_dataset(write(tmp_path / "a", entries, images=images))
    assert {"image-listed-twice", "image-repeated"} <= of(report)
    fixed = report.fix(tmp_path / "fixed")
    assert len(fixed.split("train")) == 1
    assert objects(fixed) == [("cat", box) for box in boxes]


@pytest.mark.parametrize("names", [("x/a.png", "y/a.png", "1_a.png", "2_a.png"), ("x/a.png", "y/A.png", "2_A.png")])
def test_names_that_collide_are_kept_apart(tmp_path, names):
    images = [{"id": id, "file_name": name, "width": 200, "height": 100} for id, name in enumerate(names)]
    entries = [annotation([10 + id, 20, 40, 50], id=id, image_id=id) for id in range(len(names))]
    report = check_dataset(write(tmp_path / "a", entries, images=images))
    fixed = report.fix(tmp_path / "fixed")
    assert len({record.path.name.casefold() for record in fixed.split("train")}) == len(names)
    for before, after in zip(report.dataset.split("train"), fixed.split("train"), strict=True):
        assert (before.encoded(), before.objects[0].box_xywh_px) == (after.encoded(), after.objects[0].box_xywh_px)


@pytest.mark.parametrize("other", ["train", "valid"])
@pytest.mark.parametrize(("second", "images"), [(BOX, 1), ([60.0, 20.0, 40.0, 50.0], 2)])
def test_a_copy_of_an_image_is_left_out_only_without_loss(tmp_path, other, second, images):
    write(tmp_path / "a" / "train", [annotation()], name="_annotations.coco.json")
    if other == "train":
        two = [{"id": id, "file_name": f"{name}.png", "width": 200, "height": 100} for id, name in ((1, "a"), (2, "b"))]
        (tmp_path / "a" / "train" / "b.png").write_bytes((tmp_path / "a" / "train" / "a.png").read_bytes())
        entries = [annotation(), annotation(second, id=2, image_id=2)]
        write(tmp_path / "a" / "train", entries, images=two, name="_annotations.coco.json")
    else:
        write(tmp_path / "a" / "valid", [annotation(second)], name="_annotations.coco.json")
    fixed = check_dataset(tmp_path / "a").fix(tmp_path / "fixed")
    assert sum(map(len, fixed.splits.values())) == images
    boxes = [list(item.box_xywh_px) for split in fixed.splits.values() for image in split for item in image.objects]
    assert BOX in boxes
    assert second in boxes


@pytest.mark.parametrize("placeholder", [[0, 0, 1, 1], [0, 0, 0.01, 0.01], [0.5, 0.5, 0.5, 0.5]])
def test_a_placeholder_among_boxes_in_pixels_is_not_relative(tmp_path, placeholder):
    entries = [annotation(), annotation(placeholder, id=2)]
    report = check_dataset(write(tmp_path / "a", entries))
    assert "box-below-pixel" in of(report)
    assert objects(report.fix(tmp_path / "fixed")) == [("cat", BOX)]


def test_relative_boxes_of_a_file_are_scaled(tmp_path):
    entries = [annotation([0.1, 0.2, 0.5, 0.5]), annotation([0, 0, 1, 1], id=2), annotation([0.6, 0.5, 0.5, 0.2], id=3)]
    report = check_dataset(write(tmp_path / "a", entries))
    assert len(report.by_code()["box-relative"]) == 3
    boxes = [[20, 20, 100, 50], [0, 0, 200, 100], [120, 50, 80, 20]]
    assert objects(report.fix(tmp_path / "fixed")) == [("cat", box) for box in boxes]


def test_objects_of_an_id_of_two_images_are_assigned_to_neither(tmp_path):
    images = [{"id": 1, "file_name": name, "width": 200, "height": 100} for name in ("a.png", "b.png")]
    images.append({"id": 2, "file_name": "c.png", "width": 200, "height": 100})
    report = check_dataset(write(tmp_path / "a", [annotation(), annotation(id=2, image_id=2)], images=images))
    found = report.by_code()["image-id-repeated"]
    assert [(finding.image_id, finding.annotation_id) for finding in found] == [(1, None), (1, 1)]
    assert objects(report.fix(tmp_path / "fixed")) == [("cat", BOX)]


# Values of any kind

DEEP = json.loads("[" * 200 + "]" * 200)


@pytest.mark.parametrize(
    "value", [None, [], [1, 2, 3], [1, 2, None, 4], [1, 2, 10**400, 4], ["1", "x"], {}, DEEP, "\ud800"]
)
@pytest.mark.parametrize("key", ["bbox", "image_id", "category_id"])
def test_values_that_cannot_be_read_are_findings_of_their_entry(tmp_path, key, value):
    folder = write(tmp_path / "a", [annotation(id=7), annotation(id=8) | {key: value}])
    report = check_dataset(folder)
    ((finding,),) = (report.by_code()["annotation-malformed"],)
    assert (finding.place, finding.annotation_id, finding.file) == (
        "annotation entry 2",
        8,
        folder / "annotations.json",
    )
    assert len(str(finding).encode()) < 1000
    assert objects(report.fix(tmp_path / "fixed")) == [("cat", BOX)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("id", value) for value in (None, [], 10**400, 1.5, True, "\ud800", {}, DEEP)),
        *(("file_name", value) for value in (None, [], "", " ", True, "\ud800", {}, DEEP)),
    ],
)
def test_faulty_image_entries_are_findings(tmp_path, key, value):
    folder = write(tmp_path / "a", [annotation()])
    content = json.loads((folder / "annotations.json").read_text())
    content["images"].append(content["images"][0] | {"id": 2, key: value})
    (folder / "annotations.json").write_text(json.dumps(content))
    report = check_dataset(folder)
    assert [finding.place for finding in report.by_code()["annotation-malformed"]] == ["image entry 2"]
    assert objects(report.fix(tmp_path / "fixed")) == [("cat", BOX)]


@pytest.mark.parametrize("change", [{"file_name": "9" * 400}, {"file_name": "a\0b"}, {"width": 1, "height": 10**9}])
def test_names_and_sizes_that_no_file_has_are_findings(tmp_path, change):
    folder = write(tmp_path / "a", [annotation()])
    content = json.loads((folder / "annotations.json").read_text())
    content["images"].append(content["images"][0] | {"id": 2} | change)
    (folder / "annotations.json").write_text(json.dumps(content))
    assert {"image-missing", "size-misstated"} & of(check_dataset(folder))


@pytest.mark.parametrize("name", [None, [], "\ud800", True, " ", DEEP])
def test_faulty_category_names_are_findings(tmp_path, name):
    report = check_dataset(write(tmp_path / "a", [annotation()], categories=[(1, "cat"), (2, name)]))
    assert [finding.place for finding in report.by_code()["annotation-malformed"]] == ["category 2"]


@pytest.mark.parametrize(
    "text", ["{", "[" * 100_000, '{"images": ' + "9" * 5000 + "}", "", "null", "\x00", '{"images": 1}', "\ufeff{}"]
)
def test_files_that_are_no_coco_are_named(tmp_path, text):
    file = tmp_path / "annotations.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DatasetError, match=r"annotations\.json: not"):
        DetectionDataset.load(file)


@pytest.mark.parametrize(
    "mask",
    [
        {"size": [10**6, 10**6], "counts": [10**12]},
        {"size": [100, 200], "counts": [10**400]},
        {"size": [100, 200], "counts": [-5, 20005]},
        {"size": [100, 200], "counts": None},
        {"size": None, "counts": "0"},
        {"size": [100, 200], "counts": "o" * 10**6},
        {"size": [100]},
        {"counts": "0"},
        [[1, 2, 3]],
        [10**400],
        "mask",
        7,
        DEEP,
    ],
)
def test_masks_that_cannot_be_read_are_left_out(tmp_path, mask):
    report = check_dataset(write(tmp_path / "a", [annotation(segmentation=mask)]))
    assert of(report) == {"segmentation-invalid"}
    (item,) = report.fix(tmp_path / "fixed").split("train")[0].objects
    assert (list(item.box_xywh_px), item.segmentation) == (BOX, None)
    without_box = check_dataset(write(tmp_path / "b", [annotation(None, segmentation=mask)]))
    assert "annotation-malformed" in of(without_box)


# Paths that leave the dataset


@pytest.mark.parametrize("name", ["../secret.png", "{parent}/secret.png", "linked.png", "..\\secret.png"])
def test_images_outside_are_an_error_unless_allowed(tmp_path, monkeypatch, name):
    Image.new("RGB", (200, 100)).save(tmp_path / "secret.png")
    folder = write(tmp_path / "a", [annotation()])
    (folder / "linked.png").symlink_to(tmp_path / "secret.png")
    file = name.format(parent=tmp_path)
    images = [{"id": 1, "file_name": "a.png", "width": 200, "height": 100}]
    images.append({"id": 2, "file_name": file, "width": 200, "height": 100})
    write(folder, [annotation()], images=images)
    report = check_dataset(folder)
    assert [finding.image_id for finding in report.by_code()["image-outside"]] == [2]
    assert len(report.fix(tmp_path / "fixed").split("train")) == 1
    monkeypatch.setenv(ALLOW_OUTSIDE, "1")
    assert "image-outside" not in of(check_dataset(folder))


def test_linked_folders_and_the_cache_of_the_hub_belong_to_the_dataset(tmp_path):
    snapshot = write(tmp_path / "cache" / "snapshots" / "0", [annotation()])
    (tmp_path / "cache" / "blobs").mkdir()
    (snapshot / "a.png").rename(tmp_path / "cache" / "blobs" / "1")
    (snapshot / "a.png").symlink_to("../../blobs/1")
    assert of(check_dataset(snapshot)) == set()
    linked = write(tmp_path / "a", [annotation()])
    (tmp_path / "elsewhere").mkdir()
    (linked / "a.png").rename(tmp_path / "elsewhere" / "a.png")
    (linked / "images").symlink_to(tmp_path / "elsewhere")
    assert of(check_dataset(linked)) == set()


# False alarms, and fields that do not matter


@pytest.mark.parametrize("mask", [[], None, {}, "", [[]]])
def test_no_mask_may_be_written_in_several_ways(tmp_path, mask):
    report = check_dataset(write(tmp_path / "a", [annotation(segmentation=mask)]))
    assert of(report) == set()
    assert report.dataset.split("train")[0].objects[0].segmentation is None


def test_many_objects_are_no_error(tmp_path):
    boxes = [[x, 10, 30, 30] for x in range(101)]
    report = check_dataset(write(tmp_path / "a", [annotation(box, id=id) for id, box in enumerate(boxes)]))
    assert "too-many-objects" in of(report)
    assert report.errors == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"area": None},
        {"iscrowd": None},
        {"iscrowd": "0"},
        {"id": None},
        {"id": "uuid"},
        {"id": 7.0},
        {"image_id": "1"},
        {"image_id": 1.0, "category_id": "1"},
        {"area": "2000", "bbox": ["10", "20", "40.0", "50"]},
        {"bbox": None, "segmentation": [[10, 20, 50, 20, 50, 70, 10, 70]]},
        {"bbox": [], "segmentation": [[10, 20, 50, 20, 50, 70, 10, 70]]},
    ],
)
def test_fields_have_one_safe_reading(tmp_path, fields):
    report = check_dataset(write(tmp_path / "a", [annotation() | fields]))
    assert of(report) == set()
    (item,) = report.dataset.split("train")[0].objects
    assert (list(item.box_xywh_px), item.area, item.iscrowd) == (BOX, 2000, False)
    assert isinstance(item.id, int)


def test_ids_of_any_type_join(tmp_path):
    images = [{"id": id, "file_name": f"{id}.png", "width": "200", "height": 100.0} for id in ("b", "1", 2.0)]
    entries = [annotation(id=None, image_id=id, category_id="c") for id in ("b", 1, "2")]
    report = check_dataset(write(tmp_path / "a", entries, images=images, categories=[("c", "cat")]))
    records = report.dataset.split("train")
    assert of(report) == set()
    assert [(record.path.name, len(record.objects)) for record in records] == [
        ("b.png", 1),
        ("1.png", 1),
        ("2.0.png", 1),
    ]
    assert len({record.id for record in records}) == 3
    assert len({record.objects[0].id for record in records}) == 3


@pytest.mark.parametrize("fields", [{"area": "big"}, {"iscrowd": "maybe"}, {"area": []}])
def test_unreadable_fields_with_a_default_lose_no_object(tmp_path, fields):
    report = check_dataset(write(tmp_path / "a", [annotation() | fields]))
    assert of(report) == {"field-unreadable"}
    assert objects(report.fix(tmp_path / "fixed")) == [("cat", BOX)]


# Boxes in another convention

CORRECT = [[40.0, 60.0, 130.0, 30.0], [10.0, 5.0, 20.0, 20.0], [120.0, 10.0, 60.0, 80.0], [90.0, 50.0, 100.0, 40.0]]


def _corners(box):
    x, y, w, h = box
    return [x, y, x + w, y + h]


def _coco(folder, boxes):
    return write(folder, [annotation(box, id=id, area=None) for id, box in enumerate(boxes)])


def _table(folder, boxes):
    datasets = pytest.importorskip("datasets")
    objects = {"bbox": boxes, "category": ["cat"] * len(boxes)}
    table = datasets.Dataset.from_dict({"image": [Image.new("RGB", (200, 100))], "objects": [objects]})
    datasets.disable_progress_bars()
    table.cast_column("image", datasets.Image()).save_to_disk(str(folder))
    return folder


def _yolo(folder, boxes):
    (folder / "images" / "train").mkdir(parents=True)
    (folder / "labels" / "train").mkdir(parents=True)
    Image.new("RGB", (200, 100)).save(folder / "images" / "train" / "a.png")
    lines = [f"0 {a / 200} {b / 100} {c / 200} {d / 100}" for a, b, c, d in boxes]
    (folder / "labels" / "train" / "a.txt").write_text("\n".join(lines))
    (folder / "data.yaml").write_text("train: images/train\nnames: [cat]\n")
    return folder


def _voc(folder, boxes):
    (folder / "Annotations").mkdir(parents=True)
    (folder / "JPEGImages").mkdir()
    Image.new("RGB", (200, 100)).save(folder / "JPEGImages" / "a.png")
    names = ("xmin", "ymin", "xmax", "ymax")
    items = "".join(
        "<object><name>cat</name><bndbox>"
        + "".join(f"<{name}>{value}</{name}>" for name, value in zip(names, box, strict=True))
        + "</bndbox></object>"
        for box in boxes
    )
    size = "<size><width>200</width><height>100</height></size>"
    (folder / "Annotations" / "a.xml").write_text(f"<annotation><filename>a.png</filename>{size}{items}</annotation>")
    return folder


@pytest.mark.parametrize(
    ("write_format", "correct", "mistaken"),
    [
        (_coco, list, _corners),
        (_table, list, _corners),
        (_yolo, lambda box: [box[0] + box[2] / 2, box[1] + box[3] / 2, box[2], box[3]], _corners),
        (_voc, _corners, list),
    ],
)
def test_another_convention_of_a_whole_file_is_recognized(tmp_path, write_format, correct, mistaken):
    expected = [("cat", box) for box in CORRECT]
    right = check_dataset(write_format(tmp_path / "right", list(map(correct, CORRECT))))
    assert objects(right.dataset) == expected
    assert "box-convention" not in of(right)
    report = check_dataset(write_format(tmp_path / "wrong", list(map(mistaken, CORRECT))))
    assert "box-convention" in of(report)
    assert "corners" in str(report.by_code()["box-convention"][0])
    assert objects(report.dataset) == expected
    mixed = check_dataset(
        write_format(tmp_path / "mixed", [*map(mistaken, CORRECT), correct([100.0, 50.0, 60.0, 30.0])])
    )
    assert "box-convention" not in of(mixed), "not a whole file"


# Tables of the library datasets


def test_class_labels_of_each_table_mean_its_names(tmp_path):
    datasets = pytest.importorskip("datasets")
    tables = {}
    for split, names in (("train", ["cat", "dog"]), ("validation", ["dog", "cat"])):
        feature = datasets.List(datasets.ClassLabel(names=names))
        features = datasets.Features(
            {
                "image": datasets.Image(),
                "objects": {"bbox": datasets.List(datasets.List(datasets.Value("float32"))), "category": feature},
            }
        )
        row = {"image": [Image.new("RGB", (200, 100))], "objects": [{"bbox": [BOX], "category": [names.index("dog")]}]}
        tables[split] = datasets.Dataset.from_dict(row, features=features)
    datasets.disable_progress_bars()
    datasets.DatasetDict(tables).save_to_disk(str(tmp_path / "a"))
    dataset = DetectionDataset.load(tmp_path / "a")
    assert objects(dataset) == objects(dataset, "val") == [("dog", BOX)]


@pytest.mark.parametrize(
    ("rows", "place"),
    [
        ({"bbox": [BOX, None], "category": ["cat", "cat"]}, "object 2"),
        ({"bbox": [BOX, [1.0, 2.0, None, 4.0]], "category": ["cat", "cat"]}, "object 2"),
        ({"bbox": [BOX, [1.0, 2.0]], "category": ["cat", "cat"]}, "object 2"),
        ({"bbox": [BOX, BOX], "category": ["cat", None]}, "object 2"),
    ],
)
def test_nulls_in_tables_are_findings_of_their_object(tmp_path, rows, place):
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"image": [Image.new("RGB", (200, 100))] * 2, "objects": [rows, None]})
    datasets.disable_progress_bars()
    table.cast_column("image", datasets.Image()).save_to_disk(str(tmp_path / "a"))
    report = check_dataset(tmp_path / "a")
    assert [finding.place for finding in report.by_code()["annotation-malformed"]] == [place]
    assert objects(report.dataset) == [("cat", BOX)]


def test_two_tables_of_one_split_are_an_error(tmp_path):
    datasets = pytest.importorskip("datasets")
    row = {"image": [Image.new("RGB", (200, 100))], "objects": [{"bbox": [BOX], "category": ["cat"]}]}
    table = datasets.Dataset.from_dict(row).cast_column("image", datasets.Image())
    datasets.disable_progress_bars()
    datasets.DatasetDict({"train": table, "trainval": table}).save_to_disk(str(tmp_path / "a"))
    with pytest.raises(DatasetError, match="the splits 'train' and 'trainval' are both 'train'"):
        DetectionDataset.load(tmp_path / "a")
