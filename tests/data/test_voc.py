import pytest
from PIL import Image

from transformers_detr.data.check_workflow import check_dataset
from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.data.findings import DatasetError

SIZE = (64, 48)
BOX = ["cat", 5, 6, 25, 34]


def document(name="cat", filename="", size=SIZE, root="annotation"):
    corners = "".join(
        f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), (5, 6, 30, 40), strict=True)
    )
    return (
        f"<{root}><filename>{filename}</filename><size><width>{size[0]}</width><height>{size[1]}</height></size>"
        f"<object><name>{name}</name><bndbox>{corners}</bndbox></object></{root}>"
    )


def write_files(root, *names, text=None):
    """Write images of 64×48 pixels, and text or else an annotation of one box into the other files."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".png", ".jpg"):
            Image.new("RGB", SIZE, hash(name) % 0xFFFFFF).save(path)
        else:
            path.write_text(document() if text is None else text, encoding="utf-8")
    return root


def images(root, report=None):
    """Return the images of each split with their boxes, checked to be there."""
    dataset = DetectionDataset.load(root) if report is None else DetectionDataset.load(root, report=report)
    found = {}
    for split, records in dataset.splits.items():
        for record in records:
            assert record.path.is_file()
            assert [[dataset.class_names[item.label], *item.box_xywh_px] for item in record.objects] == [BOX], (
                record.path
            )
        found[split] = sorted(str(record.path.relative_to(root)) for record in records)
    return found


@pytest.mark.parametrize(
    ("annotations", "folder"),
    [
        ("annotations", "images"),
        ("Annotations", "Images"),
        ("annotations/xmls", "images"),
        ("labels", "data"),
        ("Annotations", "JPEGImages"),
        ("xml", "img"),
        (".", "."),
        ("images", "images"),
        ("a/b/c/Annotations", "a/b/c/JPEGImages"),
    ],
)
def test_folders_of_other_names(tmp_path, annotations, folder):
    names = [f"{folder}/{stem}.png" for stem in ("a", "b")]
    write_files(tmp_path, *names, *(f"{annotations}/{stem}.xml" for stem in ("a", "b")))
    assert images(tmp_path) == {"train": sorted(str(tmp_path.joinpath(n).relative_to(tmp_path)) for n in names)}


@pytest.mark.parametrize(
    ("annotations", "folder"),
    [
        ("{}/Annotations", "{}/JPEGImages"),
        ("Annotations/{}", "JPEGImages/{}"),
        ("annotations/{}", "images/{}"),
        ("annotations/xmls/{}", "images/{}"),
        ("{}", "{}"),
        ("{}/annotations/xmls", "{}/images"),
        ("{}_annotations", "{}_images"),
    ],
)
def test_splits_by_folders_with_the_same_names_in_each(tmp_path, annotations, folder):
    expected = {}
    for split, word in (("train", "train"), ("val", "valid"), ("test", "test2007")):
        expected[split] = [f"{folder.format(word)}/{stem}.png" for stem in ("a", "b")]
        write_files(tmp_path, *expected[split], *(f"{annotations.format(word)}/{stem}.xml" for stem in ("a", "b")))
    assert images(tmp_path) == expected


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ({"train": "a b", "val": "c d"}, {"train": "ab", "val": "cd"}),
        ({"trainval": "a b c d"}, {"train": "abcd"}),
        ({"trainval": "a b c d", "val": "c"}, {"train": "abd", "val": "c"}),
        ({"trainval": "a b c d", "train": "a b c"}, {"train": "abc", "val": "d"}),
        (
            {"train": "a.png b.xml", "val": "JPEGImages/c.png", "test": r"x\d.jpg"},
            {"train": "ab", "val": "c", "test": "d"},
        ),
        ({"train": ["a  1", "b -1"]}, {"train": "ab"}),
        ({"train": "x y z"}, {"train": "abcd"}),
    ],
)
@pytest.mark.parametrize("place", ["ImageSets/Main", "ImageSets"])
def test_lists(tmp_path, lists, expected, place):
    write_files(
        tmp_path,
        *(
            f"{folder}/{stem}.{end}"
            for stem in "abcd"
            for folder, end in (("Annotations", "xml"), ("JPEGImages", "png"))
        ),
    )
    for name, lines in lists.items():
        text = "\ufeff" + "\n".join(lines.split() if isinstance(lines, str) else lines)
        write_files(tmp_path, f"{place}/{name}.txt", text=text)
    assert images(tmp_path) == {
        split: [f"JPEGImages/{stem}.png" for stem in stems] for split, stems in expected.items()
    }


def test_splits_by_the_folders_of_the_images_alone(tmp_path):
    write_files(tmp_path, *(f"annotations/{stem}.xml" for stem in "abc"))
    write_files(tmp_path, "images/train/a.png", "images/val/b.png", "images/c.png")
    assert images(tmp_path) == {"train": ["images/c.png", "images/train/a.png"], "val": ["images/val/b.png"]}


def test_names_with_spaces_in_lists(tmp_path):
    write_files(
        tmp_path, "Annotations/my photo.xml", "Annotations/my.xml", "JPEGImages/my photo.png", "JPEGImages/my.png"
    )
    write_files(tmp_path, "ImageSets/Main/train.txt", text="my photo\n")
    assert images(tmp_path) == {"train": ["JPEGImages/my photo.png"]}


def test_years_of_a_devkit_are_joined(tmp_path):
    for year in ("VOC2007", "VOC2012"):
        write_files(
            tmp_path,
            *(
                f"kit/{year}/{name}"
                for name in ("Annotations/a.xml", "Annotations/b.xml", "JPEGImages/a.jpg", "JPEGImages/b.jpg")
            ),
        )
        write_files(tmp_path, f"kit/{year}/ImageSets/Main/trainval.txt", text="a\n")
        write_files(tmp_path, f"kit/{year}/ImageSets/Main/test.txt", text="b\n")
        write_files(tmp_path, f"kit/{year}/SegmentationClass/a.png", f"kit/{year}/SegmentationObject/a.png")
    assert images(tmp_path) == {
        split: [f"kit/{year}/JPEGImages/{stem}.jpg" for year in ("VOC2007", "VOC2012")]
        for split, stem in (("train", "a"), ("test", "b"))
    }


def test_unnamed_folders_are_all_read(tmp_path):
    parts = ("batch1", "batch2", "more/batch3")
    write_files(tmp_path, *(f"{part}/{name}" for part in parts for name in ("a.xml", "a.png")))
    assert images(tmp_path) == {"train": [f"{part}/a.png" for part in parts]}


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [
        ("gbk", "GBK"), ("gb18030", "gb18030"), ("shift_jis", "Shift_JIS"), ("big5", "big5"), ("euc-jp", "EUC-JP"),
        ("utf-8", "utf-8"), ("utf-8-sig", "utf-8"), ("utf-16", "utf-16"), ("utf-8", None), ("utf-16", None),
        ("utf-8", "ascii"), ("utf-8", "nonsense"),
    ],
)  # fmt: skip
def test_encodings_of_xml(tmp_path, encoding, declared):
    head = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    write_files(tmp_path, "a.png", "a.xml", text="")
    (tmp_path / "a.xml").write_bytes((head + document("日本")).encode(encoding))
    assert DetectionDataset.load(tmp_path).class_names == ("日本",)


@pytest.mark.parametrize("declared", ["latin-1", "utf-8", "windows-1252", None])
def test_latin_1_text(tmp_path, declared):
    head = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    write_files(tmp_path, "a.png", "a.xml")
    (tmp_path / "a.xml").write_bytes((head + document("Käse")).encode("latin-1"))
    assert DetectionDataset.load(tmp_path).class_names == ("Käse",)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0",
        "<annotation>",
        "<annotation><a>" * 3,
        "<annotation>" + "<a>" * 20_000,
        "<annotation>&x;</annotation>",
        "<!DOCTYPE a ["
        + "".join(f'<!ENTITY {a} "{b * 999}">' for a, b in (("b", "x"), ("c", "&b;"), ("d", "&c;"), ("e", "&d;")))
        + "]><annotation>&e;</annotation>",
    ],
)
def test_damaged_files_are_named_and_the_others_read(tmp_path, text):
    write_files(tmp_path, "a.png", "a.xml", "b.png")
    write_files(tmp_path, "b.xml", text=text)
    found = []
    assert images(tmp_path, found.append) == {"train": ["a.png"]}
    assert [(finding.code, finding.file.name) for finding in found] == [("annotation-malformed", "b.xml")]
    with pytest.raises(DatasetError, match=r"b\.xml: not XML"):
        DetectionDataset.load(tmp_path)


@pytest.mark.parametrize("number", ["", "x", "nan", "inf", "-5", "1" * 400, "1e999"])
def test_sizes_that_are_none_come_from_the_image(tmp_path, number):
    write_files(tmp_path, "a.png")
    write_files(tmp_path, "a.xml", text=document(size=(number, 48)))
    if number != "1" * 400:
        (record,) = DetectionDataset.load(tmp_path).split("train")
        assert (record.width, record.height) == SIZE
    assert check_dataset(tmp_path).dataset is not None


@pytest.mark.parametrize(
    "foreign", ["environment.yml", "classes.txt", "notes.txt", "a/project.xml", "._a.xml", "__MACOSX/a.xml"]
)
def test_foreign_files_are_passed_over(tmp_path, foreign):
    text = "name: x\nchannels: !!python/tuple\n- defaults\n" if foreign.endswith("yml") else "<project/>"
    write_files(tmp_path, "a.png", "a.xml")
    write_files(tmp_path, foreign, text=text)
    assert images(tmp_path) == {"train": ["a.png"]}


@pytest.mark.parametrize(
    ("there", "xml", "filename"),
    [
        ("images/a.png", "annotations/a.xml", "gone.jpg"),
        ("images/a.png", "annotations/1.xml", r"C:\data\images\a.png"),
        ("images/a.png", "annotations/1.xml", "/home/else/a.png"),
        ("images/a b.png", "annotations/1.xml", "a%20b.png"),
        ("images/A.png", "annotations/a.xml", ""),
    ],
)
def test_images_by_stem_or_by_the_name_in_the_file(tmp_path, there, xml, filename):
    write_files(tmp_path, there)
    write_files(tmp_path, xml, text=document(filename=filename))
    assert images(tmp_path) == {"train": [there]}


def test_missing_images_are_named(tmp_path):
    write_files(tmp_path, "a.png", "a.xml")
    write_files(tmp_path, "b.xml", text=document(filename="gone.png"))
    found = []
    assert images(tmp_path, found.append) == {"train": ["a.png"]}
    assert [(finding.code, finding.file.name) for finding in found] == [("image-missing", "b.xml")]
    assert "gone.png" in found[0].message
