"""Random damage to the text files of YOLO and Pascal VOC datasets: a finding or an error, never a crash."""

import json
import random

import pytest
import yaml
from PIL import Image

from transformers_detr.data.check_workflow import check_dataset

PIECES = (
    *(
        b"\0",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        b"1" * 400,
        b"9" * 5000,
        b"1e999",
        b"nan",
        b"-inf",
        b"null",
    ),
    *(
        b"true",
        b"[" * 3000,
        b"{a: " * 1000,
        b"<a>" * 2000,
        b"x" * 5000,
        b"&a ",
        b"*a",
        b"!!python/tuple",
        b"<<: ",
        b"|",
    ),
    *(
        b"../",
        b"/etc",
        b"C:\\",
        b"%00",
        b"\n",
        b" ",
        b": ",
        b"- ",
        b"2020-99-99",
        b"1:2:3",
        b".inf",
        b"names: ",
        b"test: ",
    ),
    *(b"GBK", b"utf-16", b"hex", b"idna", b"undefined", b"rot13", b"&x;", b'<!DOCTYPE a [<!ENTITY x "y">]>'),
)
VOC = (
    b'<?xml version="1.0" encoding="utf-8"?><annotation><filename>a.png</filename><size><width>64</width><height>48'
    b"</height></size><object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox>"
    b"</object></annotation>"
)
YAML = b"path: .\ntrain: images\nval: val.txt\nnc: 2\nnames: {0: cat, 1: dog}\nkpt_shape: [1, 2]\n"
YOLO = {
    "data.yaml": YAML,
    "val.txt": b"images/a.png\n",
    "labels/a.txt": b"0 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.2 0.2 0.5 0.5\n",
}
CLASS_LIST = {"classes.txt": b"cat\ndog\n", "labels/a.txt": b"0 0.5 0.5 0.2 0.2\n"}
LISTED = {"Annotations/a.xml": VOC, "ImageSets/Main/train.txt": b"a\nb 1\n"}


def damaged(text, chance):
    """Insert, delete, replace and repeat bytes at random."""
    content = bytearray(text)
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(content) + 1)
        end = min(start + chance.randint(0, 20), len(content))
        content[start:end] = chance.choice(
            (b"", bytes([chance.randrange(256)]), content[:start], chance.choice(PIECES))
        )
    return bytes(content)


@pytest.mark.parametrize(
    ("files", "spoiled"),
    [
        (YOLO, "data.yaml"),
        (YOLO, "val.txt"),
        (YOLO, "labels/a.txt"),
        (CLASS_LIST, "classes.txt"),
        (LISTED, "Annotations/a.xml"),
        (LISTED, "ImageSets/Main/train.txt"),
    ],
)
def test_damaged_text_is_reported(tmp_path, files, spoiled):
    for name, text in {"images/a.png": None, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            Image.new("RGB", (64, 48)).save(tmp_path / name)
        else:
            (tmp_path / name).write_bytes(text)
    assert check_dataset(tmp_path, quick=True).dataset is not None
    chance = random.Random(0)
    for _ in range(100):
        (tmp_path / spoiled).write_bytes(damaged(files[spoiled], chance))
        report = check_dataset(tmp_path, quick=True)
        json.dumps(report.to_json())
        assert all("0x" not in finding.message for finding in report.findings)
        if report.dataset is None:
            assert str(tmp_path) in report.by_code()["dataset-unreadable"][0].message


@pytest.mark.parametrize("item", ["[{}]", "{{<<: [{}]}}"])
@pytest.mark.parametrize("key", ["names", "train", "path", "nc", "kpt_shape"])
def test_aliases_that_multiply_are_refused(tmp_path, item, key):
    lines = ["a0: &a0 {x: y}", *(f"a{n}: &a{n} {item.format(', '.join([f'*a{n - 1}'] * 9))}" for n in range(1, 12))]
    content = {"train": "images", "names": "[cat]", key: "*a11"}
    (tmp_path / "data.yaml").write_text("\n".join([*lines, *(f"{name}: {value}" for name, value in content.items())]))
    (finding,) = check_dataset(tmp_path).findings
    assert (finding.code, finding.message) == (
        "dataset-unreadable",
        f"{tmp_path / 'data.yaml'}: more than 20 YAML aliases, which can stand for any amount of data",
    )


def test_names_that_are_no_unicode(tmp_path):
    (tmp_path / "images").mkdir()
    image = b"/images/\xff.png".decode("utf-8", "surrogateescape")
    Image.new("RGB", (64, 48)).save(f"{tmp_path}{image}")
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"train": "images", "names": ["cat"]}))
    report = check_dataset(tmp_path)
    assert len(report.dataset.split("train")) == 1
    report.save(tmp_path / "report.json")
