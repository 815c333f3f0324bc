import unicodedata

import pytest

from transformers_detr.data.file_discovery import files_below, read_text
from transformers_detr.data.image_lookup import ImageLookup


@pytest.fixture
def folder(tmp_path):
    """Function `(*paths) -> folder` that makes empty files."""

    def make(*paths):
        for path in paths:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch()
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("there", "name"),
    [
        ("train2017/a.jpg", "a.jpg"),
        ("images/a.jpg", "/home/somebody/project/images/a.jpg"),
        ("images/a.jpg", r"C:\Users\Some Body\images\a.jpg"),
        ("images/sub/a.jpg", r"sub\a.jpg"),
        ("images/my photo.jpg", "my%20photo.jpg"),
        ("images/100%25.jpg", "100%25.jpg"),
        (f"images/{unicodedata.normalize('NFD', 'Café')}.jpg", unicodedata.normalize("NFC", "Café.jpg")),
        (f"images/{unicodedata.normalize('NFC', 'Café')}.jpg", unicodedata.normalize("NFD", "Café.jpg")),
        ("images/A.JPG", "a.jpg"),
        ("images/a.png", "a.jpg"),
        ("images/a.v2.png", "a.v2"),
    ],
)
def test_images_are_found_whatever_way_they_are_written(folder, there, name):
    root = folder(there, "images/other.jpg", "images/a.txt")
    assert ImageLookup(root).find(name, root / "annotations" / "train.json") == root / there


@pytest.mark.parametrize(
    ("name", "source", "split", "expected"),
    [
        ("a.jpg", "annotations/instances_train.json", "train", "train2017/a.jpg"),
        ("a.jpg", "annotations/instances_val.json", "val", "val2017/a.jpg"),
        ("/else/where/val2017/a.jpg", "annotations/all.json", None, "val2017/a.jpg"),
        ("val2017/a.jpg", "annotations/instances_train.json", "train", "val2017/a.jpg"),
        ("a.jpg", "year1/Annotations/a.xml", None, "year1/JPEGImages/a.jpg"),
    ],
)
def test_of_several_images_the_agreeing_one_is_taken(folder, name, source, split, expected):
    root = folder("train2017/a.jpg", "val2017/a.jpg", "year1/JPEGImages/a.jpg", "year2/JPEGImages/a.jpg")
    assert ImageLookup(root).find(name, root / source, split) == root / expected


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("a.jpg", None, r"a\.jpg may be .*year1.a\.jpg or .*year2.a\.jpg"),
        ("b.jpg", "train", r"no image b\.jpg in"),
        ("gone.jpg", None, r"no image gone\.jpg in"),
        ("", None, "no image is named"),
        ("\0.jpg", None, "no image"),
        ("x" * 5000, None, "no image x"),
        ("\ud800.jpg", None, "no image"),
    ],
)
def test_no_image_is_guessed(folder, name, split, message):
    root = folder("year1/a.jpg", "year2/a.jpg", "val/b.jpg")
    with pytest.raises(LookupError, match=message):
        ImageLookup(root).find(name, root / "annotations.json", split)


def test_linked_folders_are_entered_once_and_archive_leftovers_passed_over(folder):
    root = folder("outside/a.jpg", "data/b.jpg", "data/._b.jpg", "data/__MACOSX/b.jpg")
    (root / "data" / "linked").symlink_to(root / "outside")
    (root / "data" / "linked" / "loop").symlink_to(root / "data")
    assert [str(path.relative_to(root)) for path in files_below(root / "data")] == ["data/b.jpg", "data/linked/a.jpg"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1"])
def test_text_of_any_encoding(tmp_path, encoding):
    (tmp_path / "classes.txt").write_bytes("Käse\nchien\n".encode(encoding))
    assert read_text(tmp_path / "classes.txt").split() == ["Käse", "chien"]


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match="git lfs pull"):
        read_text(tmp_path / "a.txt")
