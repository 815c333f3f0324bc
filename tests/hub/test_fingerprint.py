"""Verification numbers: the same everywhere, and different when the model is."""

import math
import zlib

import pytest
import torch
from tiny_detector import save, tiny_detector
from tiny_detr import NATIVE_BACKBONE

from transformers_detr.hub.fingerprint import (
    TOLERANCES,
    FingerprintError,
    architecture_of,
    compare_fingerprints,
    compute_fingerprint,
    load_for_fingerprint,
    read_fingerprint,
    stock_fingerprint,
    synthetic_image,
    write_fingerprint,
)
from transformers_detr.hub.loading import LoadingError

CHECKSUM = 3904295339


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tiny_detector(backbone=None, backbone_config=NATIVE_BACKBONE), tmp_path_factory.mktemp("verification"))


@pytest.fixture(scope="module")
def numbers(folder):
    return compute_fingerprint(*load_for_fingerprint(folder))


def no_processor(images, **options):
    return {}


no_processor.num_channels = 3


def test_the_image_is_the_same_on_every_machine():
    """Against the rule in plain Python, and a checksum that later versions must keep: records depend on it."""
    image = synthetic_image()
    assert image.shape == (192, 256, 3)
    for x, y in ((0, 0), (255, 191), (100, 50)):
        expected = tuple(((3 * (c + 1) * x + 2 * (3 - c) * y) ^ (x * y >> 4)) & 255 for c in range(3))
        assert tuple(image[y, x]) == expected
    assert zlib.crc32(image.tobytes()) == CHECKSUM


def test_numbers_are_a_sample_of_the_outputs(folder, numbers):
    model, processor = load_for_fingerprint(folder)
    inputs = processor(synthetic_image(), do_resize=False, return_tensors="pt")
    assert inputs.pixel_values.shape == (1, 3, 192, 256)
    with torch.inference_mode():
        boxes = model(**inputs).pred_boxes
    assert numbers["pred_boxes"] == {"shape": [1, 12, 4], "values": pytest.approx(boxes.flatten().tolist())}
    assert numbers["logits"]["shape"] == [1, 12, 4]
    assert "pred_masks" not in numbers


def test_long_outputs_are_thinned():
    class Model:
        def __call__(self, **inputs):
            return {"logits": torch.arange(1000.0).view(10, 100)}

    found = compute_fingerprint(Model(), no_processor)
    assert found == {"logits": {"shape": [10, 100], "values": [float(n) for n in range(0, 1000, 4)]}}


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_no_number_is_refused(wrong):
    class Model:
        def __call__(self, **inputs):
            values = torch.zeros(2000)
            values[1] = wrong  # which is not among those that are kept
            return {"logits": values}

    with pytest.raises(FingerprintError, match="logits has non-finite values: weights are NaN"):
        compute_fingerprint(Model(), no_processor)


def test_a_record_is_kept_and_read(tmp_path, numbers):
    assert read_fingerprint(tmp_path) is None
    write_fingerprint(tmp_path, numbers)
    assert read_fingerprint(tmp_path) == numbers


def test_stock_gives_the_same(folder, numbers):
    _, processor = load_for_fingerprint(folder)
    differences = compare_fingerprints(numbers, stock_fingerprint(folder, processor))
    assert set(differences) == {"logits", "pred_boxes"}
    assert max(differences.values()) < 1e-4


def change(values):
    return {"logits": {"shape": [4], "values": values}}


@pytest.mark.parametrize("wrong", [[0, 1, 2, 3 + 2 * TOLERANCES["logits"]], [0, 1, 2, math.nan]])
def test_other_numbers_are_refused(wrong):
    with pytest.raises(FingerprintError, match="logits differ by"):
        compare_fingerprints(change([0, 1, 2, 3]), change(wrong))
    assert compare_fingerprints(change([0, 1, 2, 3]), change([0, 1, 2, 3.0005])) == {"logits": pytest.approx(5e-4)}


@pytest.mark.parametrize("found", [{}, {"logits": {"shape": [2, 2], "values": [0, 1, 2, 3]}}])
def test_missing_or_misshapen_outputs_are_refused(found):
    with pytest.raises(FingerprintError, match=r"logits should be of shape \[4\]"):
        compare_fingerprints(change([0, 1, 2, 3]), found)


def test_a_folder_without_architecture(tmp_path):
    with pytest.raises(LoadingError, match=r"config\.json is missing"):
        load_for_fingerprint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert architecture_of(tmp_path) is None
    with pytest.raises(LoadingError, match="architectures must begin with one of"):
        load_for_fingerprint(tmp_path)
