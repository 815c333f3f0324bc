"""Reading images: every mode, layout and container, and a named error for anything else."""

from __future__ import annotations

import base64
import http.server
import io
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_detr.model.image_io_detr import (
    ChannelsError,
    TooManyPixels,
    UnknownFormat,
    array_planes,
    load_image,
    load_pixels,
)

UPRIGHT = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def png(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG", **options)
    return file.getvalue()


# How a camera stores an upright image under each EXIF orientation (EXIF 2.3, 4.6.4, tag 0x0112)
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_files_come_out_upright_and_given_images_as_they_are(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](UPRIGHT))
    content = png(stored, exif=exif)
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    for source in (path, str(path), content, bytearray(content), io.BytesIO(content)):
        assert np.array_equal(load_image(source), UPRIGHT)
    assert np.array_equal(load_image(Image.open(path)), stored)


def test_damaged_exif_leaves_the_image_as_it_is():
    assert np.array_equal(load_image(png(UPRIGHT, exif=b"Exif\x00\x00MM\x00*\x00\x00\xff\xff")), UPRIGHT)


GRAY = np.array([[0, 1, 128, 255]], dtype=np.uint8)
GRAY_RGB = np.stack([GRAY] * 3, -1)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(GRAY), GRAY_RGB),
        (Image.fromarray(GRAY > 100), np.where(GRAY_RGB > 100, 255, 0)),
        (Image.fromarray(np.stack([GRAY, GRAY[:, ::-1]], -1), "LA"), GRAY_RGB),
        (Image.fromarray(np.dstack([GRAY_RGB, GRAY[:, ::-1]])), GRAY_RGB),
        (Image.fromarray(GRAY_RGB).quantize(4), GRAY_RGB),
        (Image.fromarray(GRAY_RGB).convert("CMYK"), GRAY_RGB),
        (Image.fromarray(GRAY.astype(np.uint16) * 257), GRAY_RGB),
        (Image.fromarray((GRAY.astype(np.uint16) * 257).astype(">u2")), GRAY_RGB),
        (Image.fromarray(GRAY.astype(np.int32)), GRAY_RGB),
        (Image.fromarray(GRAY.astype(np.int32) * 257), GRAY_RGB),
        (Image.fromarray(GRAY.astype(np.float32)), GRAY_RGB),
        (Image.fromarray(GRAY.astype(np.float32) / 255), GRAY_RGB),
        (Image.fromarray(GRAY.astype(np.float32) * 3 - 200), GRAY_RGB),
        # multiplied by an alpha of ½, red and green at full strength
        (Image.frombytes("RGBa", (1, 1), bytes([128, 128, 0, 128])), [[[255, 255, 0]]]),
        (Image.frombytes("La", (1, 1), bytes([128, 128])), [[[255, 255, 255]]]),
        # CIE Lab: white, and mid gray of L* = 53.4, which is sRGB 127
        (Image.frombytes("LAB", (2, 1), bytes([255, 0, 0, 136, 0, 0])), [[[255] * 3, [127] * 3]]),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_every_mode_becomes_rgb(image, expected):
    result = load_image(image)
    assert result.mode == "RGB"
    tolerance = 1 if image.mode == "LAB" else 0
    assert np.abs(np.asarray(result).astype(int) - np.asarray(expected).astype(int)).max() <= tolerance


def test_an_rgb_image_is_not_copied():
    image = Image.fromarray(UPRIGHT)
    assert load_image(image) is image


RGBA = Image.fromarray(np.dstack([UPRIGHT, UPRIGHT[::-1, :, 0]]))
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


@pytest.mark.parametrize("channels", MODES)
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "1", "P"])
def test_images_have_the_channels_that_are_wanted(mode, channels):
    """As Pillow converts them, but that alpha is not made up."""
    image = (RGBA if "A" in mode else RGBA.convert("RGB")).convert(mode)
    if channels % 2 == 0 and "A" not in mode:
        with pytest.raises(ChannelsError, match=rf"^image 3: has {len(mode) if mode != 'YCbCr' else 3} channels"):
            load_pixels(image, channels, "image 3")
        return
    wanted = image.convert(MODES[channels])
    for source in [image, *([png(np.asarray(image)), np.asarray(image)] if mode in MODES.values() else [])]:
        found = load_pixels(source, channels)
        assert found.mode == MODES[channels]
        assert np.array_equal(found, wanted)


def test_sixteen_bits_palettes_and_transparent_colors():
    gray = Image.fromarray(GRAY.astype(np.uint16) * 257)
    assert np.array_equal(load_pixels(gray, 1), GRAY)
    palette = RGBA.quantize(8)
    assert np.array_equal(load_pixels(palette, 4), palette.convert("RGBA"))
    assert np.asarray(palette.convert("RGBA"))[..., 3].min() < 255


@pytest.mark.parametrize("wanted", [1, 2, 3, 4])
@pytest.mark.parametrize("given", [2, 4])
def test_floats_are_converted_as_bytes_are(given, wanted):
    array = np.asarray(RGBA.convert(MODES[given]))
    exact = array_planes(array.astype(np.float32), wanted)
    assert {plane.dtype for plane in exact} == {np.dtype(np.float32)}
    assert np.abs(np.subtract(exact, array_planes(array, wanted))).max() <= 0.5


def test_arrays_in_files(tmp_path):
    array = np.random.default_rng(0).integers(0, 65536, (9, 7, 6), dtype=np.uint16)
    path = tmp_path / "image.npy"
    np.save(path, array)
    eight_bit = np.rint(array / 257).astype(np.uint8)
    for source in (path, path.read_bytes(), array):
        assert np.array_equal(load_pixels(source, 6), eight_bit)
        assert np.array_equal(load_image(source), eight_bit[..., :3])
    assert np.array_equal(load_pixels(array.transpose(2, 0, 1), 6), eight_bit)
    with pytest.raises(ChannelsError, match=rf"^{path}: expected 5 channels on .* \(9, 7, 6\)"):
        load_pixels(path, 5)
    with pytest.raises(UnknownFormat, match=r"image\.npy"):
        load_pixels(path, 6, formats=("PNG",))
    with pytest.raises(TooManyPixels, match=r"image\.npy: has 7×9 pixels, more than 62"):
        load_pixels(path, 6, most_pixels=62)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"image\.npy: cannot be read as an image"):
        load_pixels(path, 6)
    np.save(path, np.array([{"not": "numbers"}]))
    with pytest.raises(ValueError, match=r"image\.npy: cannot be read as an image: .*allow_pickle"):
        load_pixels(path, 6)
    huge = path.read_bytes().replace(b"(1,)", b"(9" + b"0" * 14 + b",)").replace(b"'|O'", b"'<f8'")
    with pytest.raises(ValueError, match=r"^image: cannot be read as an image"):
        load_pixels(huge, 6)


CHANNELS_FIRST = UPRIGHT.transpose(2, 0, 1)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (UPRIGHT, CHANNELS_FIRST),
        (CHANNELS_FIRST, CHANNELS_FIRST),
        (torch.from_numpy(CHANNELS_FIRST.copy()), CHANNELS_FIRST),
        (torch.from_numpy(UPRIGHT), CHANNELS_FIRST),
        (np.dstack([UPRIGHT, UPRIGHT[..., :1]]), CHANNELS_FIRST),
        (GRAY, [GRAY] * 3),
        (GRAY[..., None], [GRAY] * 3),
        (GRAY > 100, [np.where(GRAY > 100, 255, 0)] * 3),
        (GRAY.astype(np.uint16) * 257, [GRAY] * 3),
        (GRAY.astype(np.int64), [GRAY] * 3),
        (torch.tensor(UPRIGHT / 255.0, dtype=torch.bfloat16, requires_grad=True), None),
        (UPRIGHT.astype(np.float64) / 255, (CHANNELS_FIRST.astype(np.float64) / 255).astype(np.float32)),
        # Where both the first and the last axis may hold channels, the habit of the library decides
        (UPRIGHT[:1, :3], CHANNELS_FIRST[:, :1, :3]),
        (torch.from_numpy(CHANNELS_FIRST[:, :3, :3].copy()), CHANNELS_FIRST[:, :3, :3]),
    ],
)
def test_arrays_split_into_planes(array, expected):
    planes = array_planes(array)
    assert {plane.dtype for plane in planes} <= {np.dtype(np.uint8), np.dtype(np.float32)}
    if expected is None:
        expected = array.detach().float().permute(2, 0, 1).numpy()
    assert np.array_equal(planes, expected)


def test_input_data_format_decides():
    array = UPRIGHT[:3, :4, :3]
    assert np.array_equal(array_planes(array, input_data_format="channels_first"), array)
    assert np.array_equal(
        array_planes(torch.from_numpy(array), input_data_format="channels_last"), array.transpose(2, 0, 1)
    )


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (np.zeros((0, 5, 3), np.uint8), "has no pixels"),
        (np.zeros((5,), np.uint8), "2 or 3 axes"),
        (np.zeros((2, 5, 5, 3), np.uint8), "2 or 3 axes"),
        (np.full((5, 5), 256, np.int32), "0…255"),
        (np.full((5, 5), -1, np.int16), "0…255"),
        (np.full((5, 5), "x"), "expected numbers"),
        (np.full((5, 5, 3), np.nan), "NaN"),
        (torch.full((3, 5, 5), torch.inf), "infinity"),
        (np.zeros((5, 5), np.float32), "1 or 255"),
        (Image.new("RGB", (0, 4)), "has no pixels"),
        (Image.fromarray(np.full((2, 2), np.nan, np.float32)), "NaN"),
        (b"", "is empty"),
        (b"hello", "unknown format"),
        (png(UPRIGHT)[:60], "cannot be read"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "Git LFS"),
    ],
)
def test_what_is_no_image_is_refused_by_name(source, reason):
    with pytest.raises(ValueError, match=rf"(?s)^item 7: .*{reason}"):
        load_image(source, name="item 7")


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(UPRIGHT))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15)
    with pytest.raises(ValueError, match=r"bomb\.png: .*decompression bomb"):
        load_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # above it, below its double: Pillow warns, we read
    assert load_image(path).size == (7, 5)


def test_formats_and_pixels_can_be_limited(monkeypatch):
    content = png(UPRIGHT)
    assert load_image(content, formats=("PNG",), most_pixels=35).size == (7, 5)
    with pytest.raises(UnknownFormat, match="image: cannot be read as an image: unknown format"):
        load_image(content, formats=("JPEG",))
    monkeypatch.setattr(Image.Image, "load", None)  # nothing is decoded
    with pytest.raises(TooManyPixels, match="image: has 7×5 pixels, more than 34"):
        load_image(content, most_pixels=34)


def test_missing_files_and_other_types_keep_their_own_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.png"):
        load_image(tmp_path / "nothing.png")
    with pytest.raises(TypeError, match=r"image must be a path, .* got int"):
        load_image(3)


def test_data_url():
    text = base64.b64encode(png(UPRIGHT)).decode()
    assert np.array_equal(load_image(f"data:image/png;base64,{text}"), UPRIGHT)
    with pytest.raises(ValueError, match=r"^data:image/png;base64,AAAA"):
        load_image("data:image/png;base64,AAAA")


class _Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/slow":
            time.sleep(0.5)
            return
        content = b"<html>" if self.path == "/page" else png(UPRIGHT)
        self.send_response(404 if self.path == "/missing" else 200)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_url(server):
    assert np.array_equal(load_image(f"{server}/photo"), UPRIGHT)
    with pytest.raises(ValueError, match=f"^{server}/page: .*unknown format"):
        load_image(f"{server}/page")
    with pytest.raises(ConnectionError, match=f"^{server}/missing: cannot be fetched"):
        load_image(f"{server}/missing")
    with pytest.raises(ConnectionError, match=f"^{server}/slow: .*timed out"):
        load_image(f"{server}/slow", timeout=0.1)
    with pytest.raises(ConnectionError, match=r"^http://127\.0\.0\.1:1/x: "):
        load_image("http://127.0.0.1:1/x")


def test_warnings_of_pillow_stay_inside_also_with_threads():
    """A palette with transparency makes Pillow warn, and warnings are errors here."""
    image = Image.fromarray(UPRIGHT).quantize(8)
    image.info["transparency"] = bytes(range(8))
    with pytest.warns(UserWarning, match="Transparency"):
        image.convert("RGB")
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(load_image, [image] * 200))) == 200
    assert warnings.filters == before


def test_odd_files(shared_path):
    for path in sorted(shared_path("data", "odd_images", "undecodable").iterdir()):
        with pytest.raises(ValueError, match=f"{path.name}: "):
            load_image(path)
    for path in sorted(shared_path("data", "odd_images", "unusual").iterdir()):
        image = load_image(path)
        assert image.mode == "RGB"
        if path.name.startswith("exif_Landscape"):
            assert image.size == (480, 320)
