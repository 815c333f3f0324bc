"""Detector: the same numbers alone, in a list and in a stream, in order, in bounded memory."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_detector import NAMES, save, tiny_detector

from transformers_detr.inference.detector import Detector
from transformers_detr.inference.predictor import NotFiniteError, window_length
from transformers_detr.model.padding_detr import group_by_shape

SIZES = [(90, 60), (60, 90), (64, 64), (90, 60), (100, 60), (60, 100), (33, 70), (90, 60), (200, 60), (64, 65)]


def image(width, height, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def detector():
    return tiny_detector()


@pytest.fixture(scope="module")
def images():
    return [image(*size, seed) for seed, size in enumerate(SIZES)]


@pytest.fixture
def batches(detector, monkeypatch):
    """List that receives (number of images, whether masked) of every call of the model."""
    seen = []
    forward = detector.model.forward

    def spy(pixel_values, pixel_mask=None, **kwargs):
        seen.append((len(pixel_values), pixel_mask is not None))
        return forward(pixel_values=pixel_values, pixel_mask=pixel_mask, **kwargs)

    monkeypatch.setattr(detector.model, "forward", spy)
    return seen


def assert_same(found, expected, tolerance=1e-5):
    assert found.labels == expected.labels
    np.testing.assert_array_equal(found.class_ids, expected.class_ids)
    np.testing.assert_allclose(found.scores, expected.scores, atol=tolerance)
    np.testing.assert_allclose(found.boxes_xyxy_px, expected.boxes_xyxy_px, atol=tolerance * 100)


def test_one_image_against_the_formulas(detector, images):
    threshold = float(np.median(detector(images[0], threshold=0).scores))
    found = detector(images[0], threshold=threshold)
    inputs = detector.image_processor(images=images[0], return_tensors="pt")
    with torch.no_grad():
        outputs = detector.model(pixel_values=inputs["pixel_values"])
    logits, boxes = outputs.logits[0].double().numpy(), outputs.pred_boxes[0].double().numpy()
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores = (odds / odds.sum(axis=1, keepdims=True))[:, :-1]
    kept = scores.max(axis=1) > threshold
    assert 0 < kept.sum() < len(kept)
    x, y, width, height = boxes[kept].T * np.array([[90], [60], [90], [60]])
    expected = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)
    assert (np.diff(found.scores) <= 0).all()
    order = expected[:, 0].argsort()  # many scores are nearly 1, so their order hangs on the last digit
    found = found[found.boxes_xyxy_px[:, 0].argsort()]
    np.testing.assert_allclose(found.boxes_xyxy_px, expected[order], atol=1e-4)
    np.testing.assert_allclose(found.scores, scores[kept].max(axis=1)[order], atol=1e-6)
    np.testing.assert_array_equal(found.class_ids, scores[kept].argmax(axis=1)[order])
    assert found.labels == [NAMES[label] for label in found.class_ids.tolist()]
    assert found.image_size == (60, 90)
    assert found.image is None


@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_batches_of_mixed_sizes_equal_each_alone(detector, images, batches, batch_size):
    together = detector(images, threshold=0, batch_size=batch_size)
    assert sum(count for count, _ in batches) == len(images)
    assert max(count for count, _ in batches) <= batch_size
    assert any(masked for _, masked in batches) == (batch_size > 1)
    assert [found.image_size for found in together] == [(height, width) for width, height in SIZES]
    for found, alone in zip(together, images, strict=True):
        assert len(found) == 12
        assert_same(found, detector(alone, threshold=0))


def test_backbone_without_exact_padding_gets_equal_sizes_only(detector, images, batches, monkeypatch):
    monkeypatch.setattr(type(detector.model), "supports_exact_padding", False)
    together = detector(images, threshold=0, batch_size=16)
    assert not any(masked for _, masked in batches)
    assert max(count for count, _ in batches) == 3  # those of 90 × 60
    for found, alone in zip(together, images, strict=True):
        assert_same(found, detector(alone, threshold=0))


def test_equal_sizes_need_no_mask(detector, batches):
    detector([image(90, 60, seed) for seed in range(5)], batch_size=4)
    assert batches == [(4, False), (1, False)]


def test_every_kind_of_source_is_read_and_upright(detector, tmp_path):
    upright = image(90, 60)
    exif = Image.Exif()
    exif[0x0112] = 6  # must be turned clockwise to be upright
    path = tmp_path / "turned.png"
    upright.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    expected = detector(upright, threshold=0)
    array = np.asarray(upright)
    sources = [path, str(path), path.read_bytes(), array, torch.from_numpy(array.copy()).permute(2, 0, 1)]
    for found in detector(sources, threshold=0):
        assert found.image_size == (60, 90)
        assert_same(found, expected)
    with Image.open(path) as as_stored:
        assert detector(as_stored).image_size == (90, 60), "a PIL image is taken as it is"


def test_unreadable_image_is_named(detector, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        detector([image(60, 60), broken])
    with pytest.raises(FileNotFoundError, match=r"missing\.jpg"):
        detector(tmp_path / "missing.jpg")
    with pytest.raises(ValueError, match=r"images\[1\].*NaN"):
        detector([image(60, 60), np.full((8, 8, 3), np.nan)])


def test_stream_with_errors_goes_on(detector, images, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.touch()
    mixed = [broken, *images[:4], broken, *images[4:], broken]
    outcomes = list(detector.stream_with_errors(mixed, threshold=0, batch_size=2))
    wrong = [index for index, outcome in enumerate(outcomes) if isinstance(outcome, Exception)]
    assert wrong == [0, 5, len(mixed) - 1]
    assert "broken.jpg" in str(outcomes[5])
    found = [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
    for outcome, expected in zip(found, detector(images, threshold=0), strict=True):
        assert_same(outcome, expected)
    only_errors = list(detector.stream_with_errors([broken] * 9, batch_size=1))
    assert [type(outcome) for outcome in only_errors] == [ValueError] * 9


def test_stream_reads_a_bounded_number_ahead(detector):
    drawn = 0

    def endless():
        nonlocal drawn
        while True:
            drawn += 1
            yield image(60, 60)

    stream = detector.stream(endless(), batch_size=2)
    for count in range(1, 30):
        next(stream)
        assert drawn <= count + window_length(2) + 2 * 2


def test_stream_begun_at_a_window_gives_the_same_bits(detector, images):
    begin = window_length(2)
    whole = list(detector.stream(images, threshold=0, batch_size=2))
    rest = list(detector.stream(images[begin:], threshold=0, batch_size=2))
    for found, expected in zip(rest, whole[begin:], strict=True):
        np.testing.assert_array_equal(found.scores, expected.scores)
        np.testing.assert_array_equal(found.boxes_xyxy_px, expected.boxes_xyxy_px)


@pytest.mark.parametrize(("argument", "value"), [("threshold", -0.1), ("threshold", 1.5), ("batch_size", 0)])
def test_arguments_out_of_range_are_refused_at_once(detector, argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be .* got {value}"):
        detector.stream([], **{argument: value})


def test_nothing_in_nothing_out(detector):
    assert detector([]) == []


def test_model_in_training_mode_detects_all_the_same(detector, images):
    expected = detector(images[0], threshold=0)
    detector.model.train()
    assert_same(detector(images[0], threshold=0), expected, tolerance=0)


def test_kept_images_are_the_upright_images(detector, tmp_path):
    path = tmp_path / "a.png"
    image(90, 60).save(path)
    found = detector(path, threshold=0, keep_images=True)
    assert found.image.tobytes() == image(90, 60).tobytes()
    assert found.draw().size == (90, 60)


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
def test_saved_detector_loads_in_any_dtype(detector, images, tmp_path, dtype):
    loaded = Detector.from_pretrained(save(detector, tmp_path), dtype=dtype, device="cpu")
    assert loaded.model.dtype == (getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    found, expected = loaded(images[0], threshold=0), detector(images[0], threshold=0)
    assert found.scores.dtype == found.boxes_xyxy_px.dtype == np.float32
    np.testing.assert_allclose(found.scores, expected.scores, atol=0.1)
    np.testing.assert_allclose(found.boxes_xyxy_px, expected.boxes_xyxy_px, atol=5)


def test_saved_detector_loads_unchanged_on_a_device_that_is_there(detector, images, tmp_path):
    loaded = Detector.from_pretrained(save(detector, tmp_path))
    assert loaded.model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    loaded.model.to("cpu")
    assert_same(loaded(images[0], threshold=0), detector(images[0], threshold=0), tolerance=0)


def test_grouping_by_shape():
    shapes = {0: (800, 1066), 1: (1066, 800), 2: (800, 1066), 3: (800, 1200), 4: (800, 1066), 5: (1066, 800)}
    assert group_by_shape(shapes, 4, 0.0) == [[0, 2, 4], [1, 5], [3]]
    assert group_by_shape(shapes, 4, 0.25) == [[0, 2, 3, 4], [1, 5]]
    assert group_by_shape(shapes, 1, 0.25) == [[0], [1], [2], [3], [4], [5]]
    assert group_by_shape({}, 4, 0.25) == []


def test_groups_are_full_enough_and_complete():
    generator = np.random.default_rng(1)
    for _ in range(50):
        shapes = {index: tuple(generator.integers(300, 1333, 2).tolist()) for index in range(32)}
        groups = group_by_shape(shapes, 8, 0.25)
        assert sorted(index for group in groups for index in group) == list(range(32))
        assert [group[0] for group in groups] == sorted(min(group) for group in groups)
        for group in groups:
            height, width = (max(shapes[index][axis] for index in group) for axis in (0, 1))
            own = sum(shapes[index][0] * shapes[index][1] for index in group)
            assert len(group) <= 8
            assert len(group) * height * width <= 1.25 * own


def test_results_refer_to_their_source(detector, images, tmp_path):
    path = tmp_path / "a.png"
    images[0].save(path)
    for source in (path, str(path), images[0]):
        found = detector(source, 0)
        assert found.source is source
        assert found.image is None
        assert found.draw().tobytes() == found.draw(images[0]).tobytes()


def test_constructor_loads_a_folder_and_the_bundled_model(detector, images, tmp_path):
    loaded = Detector(save(detector, tmp_path), device="cpu")
    assert_same(loaded(images[0], 0), detector(images[0], threshold=0), tolerance=0)
    assert type(Detector("detr-mobilenetv2-scenes", device="cpu").model).__name__ == "DetrForObjectDetection"


def test_wrong_arguments_name_the_detector(detector, images):
    with pytest.raises(TypeError, match=r"Detector call .*'treshold'; did you mean 'threshold'"):
        detector(images[0], treshold=0.5)
    with pytest.raises(TypeError, match=r"Detector: threshold must be a number .*got 'b\.jpg'; .* as a list"):
        detector("a.jpg", "b.jpg")
    with pytest.raises(TypeError, match="Detector: model must be a Hub id, a folder or a model, got int"):
        Detector(3)
    with pytest.raises(TypeError, match="Detector: a loaded model needs its image_processor"):
        Detector(detector.model)
    with pytest.raises(TypeError, match="Detector: device can be given with a Hub id or folder"):
        Detector(detector.model, detector.image_processor, device="cpu")
    with pytest.raises(TypeError, match="Detector: image_processor must be"):
        Detector(detector.model, "panoptic")
    with pytest.raises(TypeError, match=r"Detector: .*treshold"):
        Detector("detr-mobilenetv2-scenes", treshold=0.5)


@pytest.mark.network
def test_published_checkpoint_finds_the_two_cats(shared_path, monkeypatch):
    from transformers_detr.hub.published_checkpoints import KNOWN_DETECTIONS_39769

    detector = Detector.from_pretrained("facebook/detr-resnet-50", device="cpu")
    found = detector(shared_path("data", "coco_39769", "000000039769.png"), threshold=0.9)
    assert len(found) == len(KNOWN_DETECTIONS_39769)
    for name, score, box, known in zip(
        found.labels, found.scores, found.boxes_xyxy_px, KNOWN_DETECTIONS_39769, strict=True
    ):
        assert name == known.name
        assert score == pytest.approx(known.score, abs=2e-3)
        np.testing.assert_allclose(box, known.box_xyxy_px, atol=1)


def test_an_answer_that_is_no_number_is_an_error_of_its_image(images):
    detector = tiny_detector()
    bright = Image.new("RGB", (64, 64), "white")

    def spoil(module, arguments, keywords, outputs):
        outputs.logits[keywords["pixel_values"].mean((1, 2, 3)) > 1.5] = torch.nan

    detector.model.register_forward_hook(spoil, with_kwargs=True)
    same_size = [images[2], bright, images[2]]
    found = list(detector.stream_with_errors(same_size, threshold=0.0, batch_size=3))
    assert isinstance(found[1], NotFiniteError)
    expected = tiny_detector()(images[2], threshold=0.0)
    assert_same(found[0], expected)
    assert_same(found[2], expected)
    with pytest.raises(ValueError, match="outputs hold NaN or infinity: its weights hold NaN"):
        detector(bright)
