import shutil

import pytest
import yaml
from PIL import Image

from transformers_detr.data.check_workflow import check_dataset
from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.data.findings import DatasetError

SIZE = (100, 80)


def write_folder(root, lines, images=("images/train/a.png",), **content):
    """Write images of 100×80 pixels, one label file with these lines, and data.yaml."""
    for name in images:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE, hash(name) % 0xFFFFFF).save(root / name)
    label = root / "labels" / "train" / "a.txt"
    label.parent.mkdir(parents=True, exist_ok=True)
    label.write_bytes(lines if isinstance(lines, bytes) else "\n".join(lines).encode())
    (root / "data.yaml").write_text(yaml.safe_dump({"train": "images/train", "names": ["cat", "dog"], **content}))
    return root


def boxes(root, report=None):
    """Return class names and boxes, rounded to a thousandth of a pixel."""
    dataset = DetectionDataset.load(root) if report is None else DetectionDataset.load(root, report=report)
    return [
        [dataset.class_names[item.label], *(round(value, 3) for value in item.box_xywh_px)]
        for images in dataset.splits.values()
        for image in images
        for item in image.objects
    ]


BOX, KEYPOINTS_2D = "0 0.5 0.5 0.2 0.4", "0.45 0.35 0.55 0.35 0.5 0.9"
CAT = ["cat", 40, 24, 20, 32]


@pytest.mark.parametrize(
    ("lines", "content"),
    [
        ([f"{BOX} {KEYPOINTS_2D}"], {"kpt_shape": [3, 2]}),
        ([f"{BOX} 0.45 0.35 2 0.55 0.35 1"], {"kpt_shape": [2, 3]}),
        ([f"{BOX} 0.45 0.35 2 0.55 0.35 1"], {}),
        ([f"{BOX} 0.45 0.35 2"], {}),
        ([BOX], {"kpt_shape": [3, 2]}),
        ([f"{BOX} 0.93"], {}),
    ],
)
def test_keypoints_are_no_corners(tmp_path, lines, content):
    assert boxes(write_folder(tmp_path, lines, **content)) == [CAT]


@pytest.mark.parametrize(
    ("lines", "content"),
    [
        (["0 0.4 0.3 0.6 0.3 0.6 0.7 0.4 0.7"], {}),
        (["0 0.5 0.3 0.6 0.5 0.5 0.7 0.4 0.5"], {"task": "obb"}),
        (["0 0.4 0.3 0.6 0.3 0.6 0.5 0.6 0.7 0.4 0.7"], {"task": "segment"}),
        (["0 0.4 0.3 0.6 0.3 0.6 0.7 0.4 0.7 0.4 0.3"], {}),
    ],
)
def test_polygons_and_rotated_boxes_are_corners(tmp_path, lines, content):
    assert boxes(write_folder(tmp_path, lines, **content)) == [CAT]


def test_a_fifth_number_of_one_line_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match=r"line 2.*got 5"):
        boxes(write_folder(tmp_path, [BOX, f"{BOX} 0.93"]))


def test_a_frame_of_ones_and_zeros_is_a_polygon(tmp_path):
    assert boxes(write_folder(tmp_path, ["0 0 0 1 0 1 1 0 1 0 0"])) == [["cat", 0, 0, 100, 80]]


@pytest.mark.parametrize("line", ["0 0.9 0.5 1.6 0.4", "0 0.5 0.9 0.2 3", "0 1.7 0.5 1.9 1.9"])
def test_one_large_number_is_not_pixels(tmp_path, line):
    _, x, y, w, h = map(float, line.split())
    large = ["cat", *(round(v, 3) for v in ((x - w / 2) * 100, (y - h / 2) * 80, w * 100, h * 80))]
    assert boxes(write_folder(tmp_path, [line, BOX])) == [large, CAT]


def test_a_dataset_in_pixels_is_read_as_pixels_with_one_error(tmp_path):
    root = write_folder(tmp_path, ["0 50 40 20 32", "1 10.5 10.5 1 1", "0 20 20 10 10"])
    found = []
    assert boxes(root, found.append) == [CAT, ["dog", 10, 10, 1, 1], ["cat", 15, 15, 10, 10]]
    assert [finding.code for finding in found] == ["box-in-pixels"]
    with pytest.raises(DatasetError, match="plainly in pixels"):
        DetectionDataset.load(root)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_labels_of_any_encoding(tmp_path, encoding):
    assert boxes(write_folder(tmp_path, f"{BOX}\r\n1 .3 .3 .2 .2\r\n".encode(encoding))) == [
        CAT,
        ["dog", 20, 16, 20, 16],
    ]


@pytest.mark.parametrize(
    "line",
    [
        "0",
        "0 nan",
        "0 0.5",
        f"0 {'1' * 400} 0.5",
        "\0",
        "0 0.1 0.1 0.1 0.1 \ud800",
        "1e999 0.5 0.5 0.1 0.1",
        "-1 1 1 1 1",
    ],
)
def test_nothing_in_a_line_stops_the_others(tmp_path, line):
    root = write_folder(tmp_path, f"{line}\n{BOX}\n".encode("utf-8", errors="surrogatepass"))
    found = []
    assert boxes(root, found.append) == [CAT]
    assert [finding.place for finding in found] == ["line 1"]


@pytest.mark.parametrize(
    ("names", "lines"),
    [
        ({1: "cat", 3: "dog"}, ["1 .5 .5 .2 .4", "3 .3 .3 .2 .2"]),
        ({"0": "cat", "1": "dog"}, [BOX, "1 .3 .3 .2 .2"]),
        ({7: "dog", 2: "cat"}, ["2 .5 .5 .2 .4", "7 .3 .3 .2 .2"]),
        ({0: "cat", 1: "dog", 2: "dog"}, [BOX, "2 .3 .3 .2 .2"]),
    ],
)
def test_class_numbers_are_joined_with_their_names(tmp_path, names, lines):
    root = write_folder(tmp_path, lines, names=names)
    assert boxes(root) == [CAT, ["dog", 20, 16, 20, 16]]
    assert set(DetectionDataset.load(root).class_names) == {"cat", "dog"}


@pytest.mark.parametrize(
    "entry",
    ["../train/images", "/home/else/data/train/images", r"C:\data\train\images", "./train/images", "train/images/"],
)
def test_folders_of_another_machine_are_found_by_their_last_parts(tmp_path, entry):
    root = write_folder(tmp_path, [BOX])
    (root / "train").mkdir()
    shutil.move(root / "images" / "train", root / "train" / "images")
    shutil.move(root / "labels" / "train", root / "train" / "labels")
    content = {"path": "/nowhere", "train": entry, "val": entry.replace("train", "valid"), "names": ["cat"]}
    (root / "data.yaml").write_text(yaml.safe_dump(content))
    found = []
    assert boxes(root, found.append) == [CAT]
    assert [finding.code for finding in found] == ["split-missing"]
    assert found[0].message.startswith("val: ")
    with pytest.raises(DatasetError, match="no split 'val'"):
        DetectionDataset.load(root, "val")


def test_an_absent_split_is_never_the_folder_of_all_images(tmp_path):
    root = write_folder(tmp_path, [BOX], val="../val/images")
    assert set(DetectionDataset.load(root).splits) == {"train"}


@pytest.mark.parametrize(
    "line", ["/else/where/images/train/a.png", r"data\images\train\a.png", "a.png", "images/train/A.PNG"]
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lists_of_another_machine(tmp_path, line, mark):
    root = write_folder(tmp_path, [BOX], train="train.txt")
    (root / "train.txt").write_text(f"{mark}{line}\ngone.png\n", encoding="utf-8")
    found = []
    assert boxes(root, found.append) == [CAT]
    assert [(finding.code, finding.place) for finding in found] == [("image-missing", "line 2")]


@pytest.mark.parametrize(
    "content",
    ["name: x\nchannels: !!python/tuple\n- defaults\n", "a: [", "names: [x]\n", "- 1\n", "\0", "a: &a [*a]\n"],
)
@pytest.mark.parametrize("name", ["a.yml", "environment.yaml"])
def test_foreign_yaml_files_are_passed_over(tmp_path, content, name):
    root = write_folder(tmp_path, [BOX])
    (root / name).write_text(content)
    assert boxes(root) == [CAT]


def test_two_dataset_files_that_differ(tmp_path):
    root = write_folder(tmp_path, [BOX])
    shutil.copy(root / "data.yaml", root / "same.yaml")
    assert boxes(root) == [CAT]
    (root / "other.yaml").write_text("train: images/train\nnames: [dog, cat]\n")
    with pytest.raises(DatasetError, match=r"data\.yaml and other\.yaml describe different datasets"):
        DetectionDataset.load(root)


@pytest.mark.parametrize("content", ["names: [" * 5000, "names: {train: *x}", f"names: [a]\ntrain: {'9' * 5000}"])
def test_no_dataset_file_crashes(tmp_path, content):
    root = write_folder(tmp_path, [BOX])
    (root / "data.yaml").write_text(content)
    with pytest.raises(DatasetError, match=r"data\.yaml"):
        DetectionDataset.load(root / "data.yaml")


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/a.png", "labels/a.txt"),
        ("Images/a.png", "Labels/a.txt"),
        ("data/a.png", "labels/a.txt"),
        ("train/a.png", "train/a.txt"),
        ("train/img/a.png", "train/labels/a.txt"),
        ("images_train/a.png", "labels_train/a.txt"),
        ("images/x/a.png", "labels/x/a.txt"),
    ],
)
def test_label_files_of_other_folders(tmp_path, image, label):
    for name in (image, label):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE).save(tmp_path / image)
    (tmp_path / label).write_text(BOX)
    (tmp_path / "classes.txt").write_text("cat\n")
    assert boxes(tmp_path) == [CAT]
    folder = image.rpartition("/")[0]
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"train": folder, "names": ["cat"]}))
    assert boxes(tmp_path) == [CAT]


@pytest.mark.parametrize("suffix", [".jfif", ".mpo", ".JPG"])
def test_image_suffixes_and_linked_folders(tmp_path, suffix):
    root = write_folder(tmp_path / "dataset", [BOX])
    with Image.open(root / "images" / "train" / "a.png") as image:
        image.save(root / "images" / "train" / f"a{suffix}", "JPEG")
    (root / "images" / "train" / "a.png").unlink()
    shutil.move(root / "images" / "train", tmp_path / "elsewhere")
    (root / "images" / "train").symlink_to(tmp_path / "elsewhere")
    assert boxes(root) == [CAT]
    (root / "data.yaml").write_text(yaml.safe_dump({"train": "images", "names": ["cat", "dog"]}))
    assert boxes(root) == [CAT]


def test_warnings_of_a_dataset_are_logged(tmp_path, caplog):
    DetectionDataset.load(write_folder(tmp_path, [BOX], test="../test/images"))
    assert "test: '../test/images' is not there" in caplog.text


def test_pointers_and_empty_files_are_named(tmp_path):
    root = write_folder(tmp_path, [BOX], images=("images/train/a.png", "images/train/b.png", "images/train/c.png"))
    (root / "images" / "train" / "a.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (root / "images" / "train" / "b.png").write_bytes(b"")
    (root / "images" / "train" / "c.png").write_bytes(b"no image at all")
    messages = [finding.message for finding in check_dataset(root).by_code()["image-unreadable"]]
    for message, part in zip(messages, ["git lfs pull", "an empty file", "unknown or damaged format"], strict=True):
        assert part in message
        assert "0x" not in message


def test_loose_images_beside_the_folders_of_splits_are_named(tmp_path):
    root = write_folder(tmp_path, [BOX], images=("images/train/a.png", "images/loose.png", "cover.png"))
    findings = check_dataset(root).by_code()["image-unannotated"]
    assert [(finding.file, finding.message) for finding in findings] == [
        (root, "1 image files without an entry: cover.png"),
        (root / "images", "1 image files without an entry: loose.png"),
    ]
