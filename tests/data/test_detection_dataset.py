import json
import pickle
import shutil

import pytest
import yaml
from PIL import Image

from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.data.findings import DatasetError
from transformers_detr.data.readers import DATASET_HELP, READERS
from transformers_detr.data.synthetic import CLASS_NAMES, write_scenes
from transformers_detr.inference.sources import gather_sources


def test_every_format_reads_the_same_truth(format_folder, scenes):
    name, folder = format_folder
    dataset = DetectionDataset.load(folder)
    assert dataset.format == name
    # VOC declares no classes: they are those that occur, by name
    assert sorted(dataset.class_names) == sorted(CLASS_NAMES)
    if name != "voc":
        assert dataset.class_names == CLASS_NAMES
    assert {split: len(images) for split, images in dataset.splits.items()} == {"train": 8, "val": 4}
    for offset, split in ((0, "train"), (8, "val")):
        for number, record in enumerate(sorted(dataset.split(split), key=lambda record: record.id)):
            scene = scenes(offset + number)
            assert (record.width, record.height) == scene.image.size
            assert record.load_image().tobytes() == scene.image.tobytes()
            assert pickle.loads(pickle.dumps(record)).encoded() == record.encoded(), "data loader workers pickle"
            assert len(record.objects) == len(scene.objects)
            for item, truth in zip(record.objects, scene.objects, strict=True):
                x, y, width, height = item.box_xywh_px
                assert (x, y, x + width, y + height) == pytest.approx(truth.box_xyxy_px)
                assert dataset.class_names[item.label] == CLASS_NAMES[truth.label]
                if name == "coco":
                    assert (item.area, item.iscrowd) == (truth.area, truth.iscrowd)


def test_one_split_alone(format_folder):
    _, folder = format_folder
    dataset = DetectionDataset.load(folder, "val")
    assert list(dataset.splits) == ["val"]
    assert sorted(dataset.class_names) == sorted(CLASS_NAMES)
    with pytest.raises(DatasetError, match="no split 'test'"):
        DetectionDataset.load(folder, "test")


def test_annotation_ids_are_unique(format_folder):
    _, folder = format_folder
    for images in DetectionDataset.load(folder).splits.values():
        ids = [item.id for image in images for item in image.objects]
        assert len(set(ids)) == len(ids) > 0
        assert len({image.id for image in images}) == len(images)


def test_coco_target_is_what_the_processor_takes(coco_folder):
    content = json.loads((coco_folder / "annotations" / "instances_val2017.json").read_text())
    dataset = DetectionDataset.load(coco_folder)
    for record in dataset.split("val"):
        target = record.coco_target()
        expected = [
            annotation | {"category_id": (annotation["category_id"] - 10) // 3}
            for annotation in content["annotations"]
            if annotation["image_id"] == record.id
        ]
        assert target == {"image_id": record.id, "annotations": expected}


def test_coco_category_ids_can_be_kept(coco_folder):
    dataset = DetectionDataset.load(coco_folder, keep_category_ids=True)
    assert len(dataset.class_names) == 10 + 3 * 7 + 1
    assert dataset.id2label[13] == "square"
    assert dataset.class_names[11] == "N/A"
    assert [entry["id"] for entry in dataset.to_coco("val")["categories"]] == list(range(10, 32, 3))


def test_only_coco_has_category_ids(yolo_folder):
    with pytest.raises(DatasetError, match="not a COCO dataset"):
        DetectionDataset.load(yolo_folder, keep_category_ids=True)


def test_published_layout_of_coco(shared_path):
    dataset = DetectionDataset.load(shared_path("data", "coco_mini"), keep_category_ids=True)
    assert (len(dataset.class_names), dataset.class_names[90]) == (91, "toothbrush")
    records = dataset.split("val")
    assert len(records) == 40
    assert records[0].path.is_file()


def test_bccd(shared_path):
    dataset = DetectionDataset.load(shared_path("data", "bccd"))
    assert dataset.class_names == ("Platelets", "RBC", "WBC")
    assert {split: len(images) for split, images in dataset.splits.items()} == {
        "train": 205,
        "val": 87,
        "test": 72,
    }
    assert sum(len(image.objects) for images in dataset.splits.values() for image in images) == 4888


def test_a_json_file_alone(coco_folder):
    dataset = DetectionDataset.load(coco_folder / "annotations" / "instances_val2017.json")
    assert list(dataset.splits) == ["val"]
    assert all(record.path.is_file() for record in dataset.split("val"))


def test_generated_scenes_are_one_split(tmp_path):
    dataset = DetectionDataset.load(write_scenes(tmp_path / "scenes", 3))
    assert {split: len(images) for split, images in dataset.splits.items()} == {"train": 3}


def test_folders_of_an_annotation_service(coco_folder, tmp_path):
    """train/_annotations.coco.json beside the images, and valid/ for validation."""
    for split, folder in (("train", "train"), ("val", "valid")):
        target = tmp_path / "export" / folder
        shutil.copytree(coco_folder / f"{split}2017", target)
        shutil.copy(coco_folder / "annotations" / f"instances_{split}2017.json", target / "_annotations.coco.json")
    dataset = DetectionDataset.load(tmp_path / "export")
    assert set(dataset.splits) == {"train", "val"}
    assert all(record.path.is_file() for images in dataset.splits.values() for record in images)


def test_other_json_files_of_coco_are_passed_over(coco_folder):
    for name in ("captions_val2017.json", "panoptic_val2017.json"):
        (coco_folder / "annotations" / name).write_text('{"images": [], "annotations": [], "categories": []}')
    assert set(DetectionDataset.load(coco_folder).splits) == {"train", "val"}


def test_two_files_for_a_split(coco_folder):
    annotations = coco_folder / "annotations"
    shutil.copy(annotations / "instances_val2017.json", annotations / "instances_val_small.json")
    with pytest.raises(DatasetError, match="both 'val'"):
        DetectionDataset.load(coco_folder)


def test_voc_beside_the_images(voc_folder, tmp_path):
    target = tmp_path / "export" / "train"
    target.mkdir(parents=True)
    for index in range(4):
        shutil.copy(voc_folder / "Annotations" / f"scene{index:02d}.xml", target)
        shutil.copy(voc_folder / "JPEGImages" / f"scene{index:02d}.png", target)
    dataset = DetectionDataset.load(tmp_path / "export")
    assert dataset.format == "voc"
    assert len(dataset.split("train")) == 4
    assert all(record.path.is_file() for record in dataset.split("train"))


def test_yolo_layouts(yolo_folder):
    """The exports' `../train/images`, a text file of images, and classes.txt instead of data.yaml."""
    truth = DetectionDataset.load(yolo_folder)
    assert DetectionDataset.load(yolo_folder / "data.yaml").splits == truth.splits
    lines = [f"./images/val/scene{index:02d}.png" for index in range(8, 12)]
    (yolo_folder / "val.txt").write_text("\n".join(lines))
    content = {"train": "../images/train", "val": "val.txt", "names": list(CLASS_NAMES), "nc": 8}
    (yolo_folder / "data.yaml").write_text(yaml.safe_dump(content))
    images = DetectionDataset.load(yolo_folder).splits
    assert [len(image.objects) for image in images["val"]] == [len(image.objects) for image in truth.split("val")]
    (yolo_folder / "data.yaml").unlink()
    (yolo_folder / "classes.txt").write_text("\n".join(CLASS_NAMES))
    assert DetectionDataset.load(yolo_folder).splits["train"] == truth.split("train")


@pytest.mark.parametrize("suffix", [".webp", ".tga", ".JPE", ".pgm"])
def test_datasets_and_folders_of_images_know_the_same_files(yolo_folder, suffix):
    for path in (yolo_folder / "images").rglob("*.png"):
        with Image.open(path) as image:
            image.convert("L").save(path.with_suffix(suffix))
        path.unlink()
    loaded = [str(image.path) for split in DetectionDataset.load(yolo_folder).splits.values() for image in split]
    gathered = [source.location for source in gather_sources([str(yolo_folder / "images")], recursive=True)]
    assert sorted(loaded) == sorted(gathered)
    assert len(loaded) == 12


def test_yolo_polygons(yolo_folder):
    label = next((yolo_folder / "labels" / "train").glob("*.txt"))
    label.write_text("2 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n")
    record = next(image for image in DetectionDataset.load(yolo_folder).split("train") if image.source == label)
    (item,) = record.objects
    width, height = record.width, record.height
    assert item.box_xywh_px == (width / 4, height / 4, width / 2, height / 2)
    assert item.area == pytest.approx(width * height / 4)
    assert item.segmentation == [
        [width / 4, height / 4, 0.75 * width, height / 4, 0.75 * width, 0.75 * height, width / 4, 0.75 * height]
    ]


@pytest.mark.parametrize("layout", ["dict of lists", "list of dicts"])
@pytest.mark.parametrize("corners", [False, True])
def test_hub_objects_in_their_usual_shapes(tmp_path, layout, corners):
    datasets = pytest.importorskip("datasets")
    image = Image.new("RGB", (40, 30))
    boxes, names = [[20.0, 10.0, 18.0, 15.0], [1.0, 2.0, 3.0, 4.0]], ["dog", "cat"]
    stored = [[x, y, x + w, y + h] if corners else [x, y, w, h] for x, y, w, h in boxes]
    if layout == "dict of lists":
        objects = {"bbox": stored, "label": names}
    else:
        objects = [{"bbox": box, "label": name} for box, name in zip(stored, names, strict=True)]
    table = datasets.Dataset.from_dict({"image": [image], "objects": [objects]})
    table = table.cast_column("image", datasets.Image())
    datasets.disable_progress_bars()
    table.save_to_disk(str(tmp_path / "saved"))
    dataset = DetectionDataset.load(tmp_path / "saved")
    assert dataset.class_names == ("cat", "dog")
    (record,) = dataset.split("train")
    assert [list(item.box_xywh_px) for item in record.objects] == boxes
    assert [dataset.class_names[item.label] for item in record.objects] == names


def test_images_with_metadata_file(tmp_path, monkeypatch, scenes):
    """The folder layout that `datasets` documents for object detection; its cache stays in the test."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "export" / "validation"
    folder.mkdir(parents=True)
    with (folder / "metadata.jsonl").open("w") as file:
        for index in range(3):
            scenes(index).image.save(folder / f"{index}.png")
            annotations = scenes(index).coco_annotations(index)
            boxes = [annotation["bbox"] for annotation in annotations]
            names = [CLASS_NAMES[annotation["category_id"]] for annotation in annotations]
            line = {"file_name": f"{index}.png", "objects": {"bbox": boxes, "categories": names}}
            file.write(json.dumps(line) + "\n")
    datasets.disable_progress_bars()
    dataset = DetectionDataset.load(tmp_path / "export")
    for index, record in enumerate(dataset.split("val")):
        assert record.load_image().tobytes() == scenes(index).image.tobytes()
        assert [dataset.class_names[item.label] for item in record.objects] == [
            CLASS_NAMES[item.label] for item in scenes(index).objects
        ]


def test_exif_rotation_is_applied(yolo_folder):
    path = next((yolo_folder / "images" / "train").glob("*.png"))
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as image:
        size = image.size
        image.save(path, exif=exif)
    record = next(image for image in DetectionDataset.load(yolo_folder).split("train") if image.path == path)
    assert (record.height, record.width) == size
    assert record.load_image().size == (record.width, record.height)


def test_validation_split_by_seed(tmp_path):
    dataset = DetectionDataset.load(write_scenes(tmp_path / "scenes", 20))
    parted = dataset.with_validation(0.25, seed=1)
    train, val = ({image.id for image in parted.split(name)} for name in ("train", "val"))
    assert (len(train), len(val), train & val) == (15, 5, set())
    assert dataset.with_validation(0.25, seed=1).splits == parted.splits
    assert dataset.with_validation(0.25, seed=2).splits != parted.splits
    assert parted.with_validation(0.5, seed=3) is parted


def test_classes_numbered_as_a_checkpoint_has_them(voc_folder):
    dataset = DetectionDataset.load(voc_folder)
    names = ["something else", *reversed(CLASS_NAMES)]
    renumbered = dataset.with_classes(names)
    for before, after in zip(dataset.split("val"), renumbered.split("val"), strict=True):
        assert [dataset.class_names[item.label] for item in before.objects] == [
            names[item.label] for item in after.objects
        ]
    with pytest.raises(DatasetError, match=r"classes .*'moon'.* are not among"):
        dataset.with_classes(["circle"])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c["annotations"][3].update(category_id=99), r"image 0, annotation 3: category id 99 is not"),
        (lambda c: c["annotations"][3].update(image_id=77), r"annotation 3: image id 77 is not in 'images'"),
        (lambda c: c["annotations"][3].update(bbox=[1, 2, "x", 4]), r"annotation entry 4.*four numbers"),
        (lambda c: c["annotations"][3].update(bbox=None, segmentation=[]), r"annotation entry 4.*'bbox' must be four"),
        (lambda c: c["annotations"].__setitem__(3, None), r"annotation entry 4: must be an object, got None"),
        (lambda c: c["images"][1].update(id=0), r"image 0: 'scene00.png' and 'scene01.png' have the same id"),
        (lambda c: c["images"][1].update(id=1.5), r"image entry 2: 'id' must be an integer or text, got 1.5"),
        (
            lambda c: c["images"][1].update(width=0, file_name="../annotations/instances_train2017.json"),
            r"image 1: no usable 'height' and 'width', and .*\.json cannot be read",
        ),
        (lambda c: c["categories"][1].update(id=10), r"category id 10 is 'circle' and 'square'"),
        (lambda c: c.update(categories=[]), r"no categories"),
        (lambda c: c.pop("images"), r"no list 'images'"),
        (lambda c: [image.update(file_name="gone") for image in c["images"]], r"image 0: no image gone"),
    ],
)
def test_coco_faults_are_named(coco_folder, spoil, message):
    file = coco_folder / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    content["annotations"] = [a | {"id": i, "image_id": 0} for i, a in enumerate(content["annotations"])]
    spoil(content)
    file.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=message) as caught:
        DetectionDataset.load(file)
    assert str(file) in str(caught.value)


def test_coco_size_comes_from_the_image_where_it_is_not_stated(coco_folder):
    file = coco_folder / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    truth = DetectionDataset.load(file)
    for entry in content["images"]:
        entry.pop("height")
    file.write_text(json.dumps(content))
    assert DetectionDataset.load(file).splits == truth.splits


def test_category_ids_of_one_name_become_one_class(coco_folder):
    file = coco_folder / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    content["categories"].insert(0, {"id": 0, "name": "square"})
    file.write_text(json.dumps(content))
    dataset = DetectionDataset.load(file)
    assert sorted(dataset.class_names) == sorted(CLASS_NAMES)
    assert dataset.class_names[0] == "square"


def test_text_that_is_no_json(coco_folder):
    file = coco_folder / "annotations" / "instances_train2017.json"
    file.write_text("{")
    with pytest.raises(DatasetError, match=r"instances_train2017\.json: not JSON: .*line 1"):
        DetectionDataset.load(coco_folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1", r"line 2, image 0, annotation \d+: a line must hold 4 numbers .* got 3"),
        ("a 0.5 0.5 0.1 0.1", r"line 2.*must hold a class number"),
        ("8 0.5 0.5 0.1 0.1", r"line 2.*class 8 is not among the 8 declared"),
        ("0 50 50 10 10", r"line 2.*between 0 and 1, got \[50.0"),
    ],
)
def test_yolo_faults_are_named(yolo_folder, line, message):
    file = yolo_folder / "labels" / "train" / "scene00.txt"
    file.write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(DatasetError, match=message) as caught:
        DetectionDataset.load(yolo_folder)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": "images/train"}, "'names' must list the class names"),
        ({"train": "images/train", "names": ["a"], "nc": 2}, "'nc' is 2, but 'names' has 1"),
        ({"train": "images/train", "names": {"a": "b"}}, "'names' must be numbered, got 'a'"),
        ({"train": "images/train", "names": ["a", True]}, "name of class 1 is True, not text; put it in quotes"),
        ({"train": "images/train", "names": ["a"], "kpt_shape": 3}, r"'kpt_shape' must be \[number of keypoints"),
        ({"train": "images/train", "training": "images/val", "names": ["a"]}, "'training' and another key are both"),
        ({"names": ["a"]}, "none of 'train', 'val', 'test'"),
        ({"train": "elsewhere", "names": ["a"]}, "train: 'elsewhere' is not there, in "),
    ],
)
def test_yolo_configuration_faults(yolo_folder, content, message):
    file = yolo_folder / "data.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(DatasetError, match=message):
        DetectionDataset.load(file)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<xmax>", "<xmax>wide", r"object 1, image 0, annotation 1: <bndbox> must hold the numbers"),
        ("<name>", "<title>", r"not XML: mismatched tag"),
    ],
)
def test_voc_faults_are_named(voc_folder, old, new, message):
    file = voc_folder / "Annotations" / "scene00.xml"
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(DatasetError, match=message) as caught:
        DetectionDataset.load(voc_folder)
    assert str(file) in str(caught.value)


def test_voc_list_without_annotations(voc_folder):
    (voc_folder / "Annotations" / "scene09.xml").unlink()
    with pytest.raises(DatasetError, match=r"scene09\.xml: cannot be read: No such file"):
        DetectionDataset.load(voc_folder)


def test_unreadable_image_names_itself(coco_folder):
    dataset = DetectionDataset.load(coco_folder)
    record = dataset.split("val")[0]
    record.path.write_bytes(b"not an image")
    with pytest.raises(DatasetError, match=r"scene08\.png, image 8: .*cannot be read as"):
        record.load_image()


def test_nothing_there(tmp_path):
    with pytest.raises(DatasetError, match="no such file or folder"):
        DetectionDataset.load(tmp_path / "missing")
    with pytest.raises(
        DatasetError, match=r"no dataset found\. It holds no annotation files or images\. Looked for COCO"
    ):
        DetectionDataset.load(tmp_path)


def test_a_split_knows_its_dataset(coco_folder):
    dataset = DetectionDataset.load(coco_folder)
    split = dataset.split("val")
    assert split == dataset.splits["val"]
    assert (split.dataset, split.name, split.class_names) == (dataset, "val", dataset.class_names)
    assert split.to_coco() == dataset.to_coco("val")
    again = pickle.loads(pickle.dumps(split))
    assert (again, again.name) == (split, "val")


@pytest.mark.parametrize("format_", READERS)
def test_help_and_errors_are_made_from_the_registry(format_, tmp_path):
    assert READERS[format_].label in DATASET_HELP
    with pytest.raises(DatasetError) as caught:
        DetectionDataset.load(tmp_path)
    assert f"{READERS[format_].label}: {READERS[format_].layout}" in str(caught.value)
