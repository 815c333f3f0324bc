"""What is named on the command line becomes a list of images, in order, none twice."""

from pathlib import Path

import pytest

from transformers_detr.inference.sources import gather_sources


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Folder with images, other files and folders in it; the working directory is above it."""
    folder = tmp_path / "photos"
    for name in ["10.jpg", "9.PNG", "b.tif", "notes.txt", ".hidden.jpg", "in/9.jpg", "in/deep/c.bmp", ".git/x.png"]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return Path("photos")


def locations(inputs, recursive=False, leave_out=()):
    return [Path(source.location).as_posix() for source in gather_sources(inputs, recursive, leave_out)]


def test_folder_gives_its_visible_images_in_natural_order(photos):
    assert locations(["photos"]) == ["photos/9.PNG", "photos/10.jpg", "photos/b.tif"]


def test_recursive_goes_to_the_bottom(photos):
    expected = ["photos/9.PNG", "photos/10.jpg", "photos/b.tif", "photos/in/9.jpg", "photos/in/deep/c.bmp"]
    assert locations(["photos"], recursive=True) == expected


def test_left_out_folder_is_not_searched(photos):
    assert "photos/in/9.jpg" not in locations(["photos"], recursive=True, leave_out=[photos / "in"])


def test_file_is_taken_whatever_its_ending(photos):
    assert locations(["photos/notes.txt"]) == ["photos/notes.txt"]


def test_pattern_and_order_and_no_repetition(photos):
    assert locations(["photos/b.tif", "photos/*.jpg", "photos", "./photos/b.tif"]) == [
        "photos/b.tif",
        "photos/10.jpg",
        "photos/9.PNG",
    ]


def test_file_whose_name_looks_like_a_pattern(photos):
    (photos / "a[1].jpg").touch()
    assert locations(["photos/a[1].jpg"]) == ["photos/a[1].jpg"]


def test_urls_are_kept_and_named_by_their_last_part():
    urls = ["https://example.org/a/caf%C3%A9%20x.jpg?size=2", "http://example.org/", "https://example.org/b/.%2e/y"]
    sources = gather_sources(urls, False)
    assert [source.location for source in sources] == urls
    assert [source.output_name for source in sources] == ["café_x.jpg", "image.png", "y.png"]


@pytest.mark.parametrize("entry", ["missing.jpg", "photos/*.xyz", "missing/*"])
def test_nothing_of_this_name(photos, entry):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        gather_sources([entry], False)


def test_folder_without_images_suggests_recursive(photos):
    for name in ["10.jpg", "9.PNG", "b.tif"]:
        (photos / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"no images in photos .*--recursive"):
        gather_sources(["photos"], False)


def test_annotated_names_mirror_the_inputs_and_are_unique(photos):
    for name in ["a.jpg", "in/a.jpg", "a.gif", "a.png", "A.PNG", "a-2.png"]:
        (photos / name).touch()
    inputs = ["photos/a.jpg", "photos/in/a.jpg", "photos/a.gif", "photos/a.png", "photos/A.PNG", "photos/a-2.png"]
    names = [source.output_name for source in gather_sources(inputs, False)]
    assert names == ["a.jpg", "a-2.jpg", "a.png", "a-2.png", "A-3.PNG", "a-2-2.png"]
    assert len({name.casefold() for name in names}) == len(names)
    deep = {source.location: source.output_name for source in gather_sources(["photos"], True)}
    assert deep[str(photos / "in/deep/c.bmp")] == "in/deep/c.png"


def test_image_ids_are_the_numbers_of_the_names_or_the_order(photos):
    for name in ["000000000139.jpg", "000000000285.jpg", "139.png"]:
        (photos / name).touch()
    named = ["photos/000000000285.jpg", "photos/000000000139.jpg"]
    assert [source.image_id for source in gather_sources(named, False)] == [285, 139]
    for other in ["photos/b.tif", "photos/139.png"]:
        assert [source.image_id for source in gather_sources([*named, other], False)] == [1, 2, 3]
