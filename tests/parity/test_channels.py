"""Images of one, three, four and five channels, through every part, and as stock Transformers where stock can do it."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_detector import save, tiny_detector
from tiny_detr import NATIVE_BACKBONE
from transformers import DetrConfig as StockConfig
from transformers import DetrForObjectDetection as StockDetector
from transformers import DetrImageProcessor as StockProcessor
from typer.testing import CliRunner

from transformers_detr import (
    DetectionDataset,
    Detector,
    DetrConfig,
    DetrForObjectDetection,
    DetrImageProcessor,
    check_dataset,
    evaluate,
    explain,
    export_model,
    train,
)
from transformers_detr.cli import app
from transformers_detr.data.synthetic import make_scene
from transformers_detr.serving.errors import ServiceError
from transformers_detr.serving.image_decoding import decode_image
from transformers_detr.serving.runner import ModelRunner
from transformers_detr.serving.schemas import RequestParameters
from transformers_detr.training.model_setup import set_up_model
from transformers_detr.training.model_surgery import with_channels

CHANNELS = (1, 3, 4, 5)
SIZE = {"shortest_edge": 64, "longest_edge": 96}


def statistics(channels):
    """Different numbers for each channel."""
    return {
        "image_mean": [0.4 + 0.05 * c for c in range(channels)],
        "image_std": [0.2 + 0.03 * c for c in range(channels)],
    }


def noise(channels, size=(60, 90), seed=0):
    """An array `(H, W, C)` that is smooth, as photos are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, channels), dtype=np.uint8)
    bands = [Image.fromarray(coarse[..., c]).resize(size[::-1], Image.Resampling.BICUBIC) for c in range(channels)]
    return np.stack([np.asarray(band) for band in bands], -1)


def detector(channels, **config):
    found = tiny_detector(num_channels=channels, **config)
    return Detector(found.model, DetrImageProcessor(size=SIZE, **statistics(channels)))


def write_image(path, pixels):
    """Write `(H, W, C)` as an ordinary file if there is a mode for it, else as an array; return the path."""
    if pixels.shape[2] > 4:
        path = path.with_suffix(".npy")
        np.save(path, pixels)
    else:
        Image.fromarray(pixels if pixels.shape[2] > 1 else pixels[..., 0]).save(path)
    return path


@pytest.fixture(scope="module", params=CHANNELS)
def dataset(request, tmp_path_factory):
    """Number of channels, and a COCO dataset whose last channel differs from the others."""
    channels, folder = request.param, tmp_path_factory.mktemp(f"scenes{request.param}")
    for split, count in (("train", 6), ("val", 2)):
        (folder / split).mkdir()
        images, annotations = [], []
        for index in range(count):
            scene = make_scene(31 + count, index, (96, 128))
            pixels = np.array(scene.pixels(channels)).reshape(96, 128, channels)
            if channels > 3:
                pixels[..., -1] = noise(1, (96, 128), index)[..., 0]
            path = write_image(folder / split / f"{index}.png", pixels)
            images.append({"id": index, "file_name": path.name, "height": 96, "width": 128})
            annotations += scene.coco_annotations(index, len(annotations) + 1)
        categories = [{"id": label, "name": f"class {label}"} for label in range(8)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / split / "_annotations.coco.json").write_text(json.dumps(content))
    return channels, folder


# ---- the processor


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_per_call_statistics_and_layout_equal_stock(channels, layout):
    """A processor of three channels, told otherwise in a call."""
    images = [noise(channels, (60, 90)), noise(channels, (40, 30), 1)]
    if layout == "channels_first":
        images = [image.transpose(2, 0, 1) for image in images]
    options = {**statistics(channels), "input_data_format": layout, "do_resize": False, "return_tensors": "pt"}
    ours, stock = DetrImageProcessor()(images, **options), StockProcessor()(images, **options)
    assert ours["pixel_values"].shape == (2, channels, 60, 90)
    assert torch.allclose(ours["pixel_values"], stock["pixel_values"], atol=1e-6)
    assert torch.equal(ours["pixel_mask"], stock["pixel_mask"])


@pytest.mark.parametrize("channels", CHANNELS)
def test_resized_channels_equal_stock_within_rounding(channels):
    image = noise(channels, (120, 180))
    options = {**statistics(channels), "input_data_format": "channels_last", "size": SIZE, "return_tensors": "pt"}
    ours, stock = DetrImageProcessor()(image, **options), StockProcessor()(image, **options)
    steps = 255 * torch.tensor(statistics(channels)["image_std"])[:, None, None]
    difference = ((ours["pixel_values"][0] - stock["pixel_values"][0]) * steps).abs()
    assert difference.max() < 2.01  # Pillow and torch round the two directions differently
    assert (difference > 0.5).float().mean() < 0.02


@pytest.mark.parametrize("channels", CHANNELS)
def test_files_arrays_and_tensors_give_the_same_pixels(channels, tmp_path):
    processor, pixels = DetrImageProcessor(size=SIZE, **statistics(channels)), noise(channels)
    path = write_image(tmp_path / "image.png", pixels)
    sources = [pixels, pixels.transpose(2, 0, 1), torch.from_numpy(pixels.transpose(2, 0, 1).copy()), path]
    sources += [path.read_bytes(), pixels.astype(np.float32)]
    first, *others = (processor(source)["pixel_values"] for source in sources)
    assert first.shape == (1, channels, 64, 96)
    assert all(torch.equal(first, other) for other in others[:-1])
    assert torch.allclose(first, others[-1], atol=1.01 / 255 / 0.2)  # floats are not rounded to 8 bit
    # the last channel alone, as a gray image: no channel is weighted by another
    last = {name: values[-1:] for name, values in statistics(channels).items()}
    alone = DetrImageProcessor(size=SIZE, **last)(pixels[..., -1])["pixel_values"]
    assert torch.equal(first[:, -1:], alone)


@pytest.mark.parametrize("channels", CHANNELS)
def test_a_processor_is_saved_and_loaded(channels, tmp_path):
    processor = DetrImageProcessor(size=SIZE, **statistics(channels))
    processor.save_pretrained(tmp_path)
    loaded = DetrImageProcessor.from_pretrained(tmp_path)
    assert loaded.num_channels == channels
    assert loaded.to_dict() == processor.to_dict()
    assert StockProcessor.from_pretrained(tmp_path).image_mean == pytest.approx(statistics(channels)["image_mean"])


def test_numbers_for_all_channels_keep_their_number():
    assert DetrImageProcessor(image_mean=0.5, image_std=0.5).num_channels == 3
    four = DetrImageProcessor(**statistics(4))
    image = noise(4)
    told = four(image, image_mean=0.5, image_std=0.25, do_resize=False)["pixel_values"][0]
    assert torch.allclose(told, (torch.from_numpy(image).permute(2, 0, 1) / 255 - 0.5) / 0.25, atol=1e-6)
    assert four(image, do_normalize=False, do_resize=False)["pixel_values"].shape[1] == 4
    assert four.num_channels == 4
    assert DetrImageProcessor()(image, image_mean=0, image_std=[1] * 4)["pixel_values"].shape[1] == 4
    for mean, std in (([0.5] * 4, None), ([], 1), ([1] * 4, [1])):
        with pytest.raises(ValueError, match="image_mean and image_std must be one number per channel"):
            DetrImageProcessor(image_mean=mean, image_std=std)


@pytest.mark.parametrize(
    ("channels", "image", "message"),
    [
        (4, Image.new("RGB", (9, 9)), r"has 3 channels \(mode RGB\), expected 4 \(RGBA\): it has no alpha"),
        (4, Image.new("CMYK", (9, 9)), r"has 4 channels \(mode CMYK\), expected 4 \(RGBA\): it has no alpha"),
        (2, Image.new("L", (9, 9)), r"has 1 channels \(mode L\), expected 2 \(LA\)"),
        (4, np.zeros((9, 9, 3), np.uint8), r"has 3 channels, expected 4 \(RGBA\): it has no alpha"),
        (4, np.zeros((9, 9), np.uint8), r"has 1 channels, expected 4"),
        (4, np.zeros((9, 9, 5), np.uint8), r"expected 4 channels .* got an array of shape \(9, 9, 5\)"),
        (3, np.zeros((9, 9, 5), np.uint8), r"expected 3 channels .* got an array of shape \(9, 9, 5\)"),
        (5, np.zeros((9, 9, 4), np.uint8), r"expected 5 channels on the first or the last axis, .* \(9, 9, 4\)"),
        (5, np.zeros((9, 9), np.uint8), r"expected 5 channels, got an array of shape \(9, 9\)"),
        (5, Image.new("RGBA", (9, 9)), r"has 4 channels \(mode RGBA\), expected 5: give an array, a tensor or a .npy"),
    ],
)
def test_other_channels_are_refused_by_name(channels, image, message):
    with pytest.raises(ValueError, match=rf"^images\[1\]: {message}"):
        DetrImageProcessor(**statistics(channels))([np.zeros((9, 9, channels), np.uint8), image])


# ---- the configuration and the model


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("backbone", ["timm", "native"])
def test_a_saved_model_equals_stock(channels, backbone, tmp_path):
    native = {"backbone": None, "backbone_config": NATIVE_BACKBONE | {"num_channels": channels}}
    found = detector(channels, **(native if backbone == "native" else {}))
    assert found.model.config.num_channels == channels
    save(found, tmp_path)
    image = Image.fromarray(noise(channels)[..., 0]) if channels == 1 else noise(channels)
    inputs = found.image_processor(image, return_tensors="pt")
    loaded = Detector(tmp_path)
    assert loaded.num_channels == channels
    stock = StockDetector.from_pretrained(tmp_path)
    with torch.no_grad():
        ours, theirs, again = (model.eval()(**inputs) for model in (found.model, stock, loaded.model))
    assert torch.equal(ours.logits, again.logits)
    assert torch.allclose(ours.logits, theirs.logits, atol=1e-4)
    assert torch.allclose(ours.pred_boxes, theirs.pred_boxes, atol=1e-5)


def test_configuration_and_backbone_agree_on_the_channels():
    five = {"model_type": "timm_backbone", "backbone": "resnet18", "num_channels": 5}
    assert DetrConfig(backbone_config=five).num_channels == 5
    assert DetrConfig(backbone="resnet18", backbone_kwargs={"in_chans": 5}).num_channels == 5
    assert DetrConfig(backbone_config=NATIVE_BACKBONE | {"num_channels": 4}).num_channels == 4
    asked = DetrConfig(backbone_config=NATIVE_BACKBONE, num_channels=4)
    assert (asked.num_channels, asked.backbone_config.num_channels) == (4, 4)
    stored = DetrConfig.from_dict(DetrConfig(backbone_config=NATIVE_BACKBONE).to_dict(), num_channels=1)
    assert (stored.num_channels, stored.backbone_config.num_channels) == (1, 1)
    with pytest.raises(ValueError, match="num_channels is 4, but the backbone is described with 5"):
        DetrConfig(backbone_config=five, num_channels=4)


def test_stock_reads_the_channels_of_a_timm_backbone_in_the_same_way():
    """The forms of version 5: stock's own class writes them, ours reads them."""
    stock = StockConfig(backbone_config={"model_type": "timm_backbone", "backbone": "resnet18", "num_channels": 4})
    assert DetrConfig.from_dict(stock.to_dict()).num_channels == 4


def test_a_replaced_first_convolution_is_saved_and_loaded(tmp_path):
    """What people do to a trained detector: a convolution of four channels, and the configuration."""
    found = tiny_detector()
    encoder = found.model.model.backbone.conv_encoder.model
    replaced = torch.nn.Conv2d(4, 64, 7, stride=2, padding=3, bias=False)
    encoder.conv1 = replaced
    found.model.config.num_channels = 4
    found.model.save_pretrained(tmp_path)
    pixels = torch.randn(1, 4, 96, 96)
    with torch.no_grad():
        expected = found.model.eval()(pixels)
        loaded = DetrForObjectDetection.from_pretrained(tmp_path).eval()(pixels)
    assert torch.allclose(expected.logits, loaded.logits, atol=1e-3)


def test_model_and_processor_of_different_channels_are_refused():
    with pytest.raises(ValueError, match="the model takes 4 channels and its image processor gives 3"):
        Detector(tiny_detector(num_channels=4).model, DetrImageProcessor())


FIELDS = {
    "backbone": "test_resnet",
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_queries": 12,
}


@pytest.mark.parametrize("channels", [1, 4, 5])
@pytest.mark.parametrize("backbone", ["timm", "native"])
def test_adapted_weights_answer_as_before_where_channels_repeat(channels, backbone):
    """A gray image in each channel gives the same features with 1, 3 and 6 channels; timm's rule keeps the sum."""
    native = {"backbone": None, "backbone_config": NATIVE_BACKBONE}
    model = tiny_detector(**(native if backbone == "native" else {})).model.eval()
    changed = with_channels(model, channels).eval()
    assert changed.config.num_channels == channels
    gray = torch.randn(1, 1, 96, 96)
    with torch.no_grad():
        before = model(gray.expand(1, 3, 96, 96)).logits
        after = changed(gray.expand(1, channels, 96, 96)).logits
    if channels == 1:
        assert torch.allclose(before, after, atol=1e-4)
    first, second = (
        next(m for m in one.modules() if isinstance(m, torch.nn.Conv2d)).weight for one in (model, changed)
    )
    expected = first.sum(1, keepdim=True) if channels == 1 else first[:, [0, 1, 2, 0, 1][:channels]] * (3 / channels)
    assert torch.allclose(second, expected)


# ---- the whole way


def test_predictions_drawing_and_commands(dataset, tmp_path):
    channels, data = dataset
    found = detector(channels)
    paths = sorted((data / "val").glob("*.[np][pn][yg]"))
    results = found(paths, threshold=0.0, keep_images=True)
    arrays = [np.asarray(image) for image in paths_as_arrays(paths)]
    for result, again in zip(results, found(arrays, threshold=0.0), strict=True):
        assert np.array_equal(result.boxes_xyxy_px, again.boxes_xyxy_px)
        assert result.image.mode == "RGB"
        assert result.image.size == result.draw().size == again.draw().size == (128, 96)
    assert explain(found, paths[0], threshold=0.0).draw().mode == "RGB"
    folder = save(found, tmp_path / "model")
    arguments = [
        "detect",
        *map(str, paths),
        "--model",
        str(folder),
        "--output",
        str(tmp_path / "out"),
        "--threshold",
        "0",
    ]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 0, outcome.output
    assert len(list((tmp_path / "out" / "annotated").iterdir())) == 2


def paths_as_arrays(paths):
    return [np.load(path) if path.suffix == ".npy" else Image.open(path) for path in paths]


def test_a_wrong_image_has_an_error_of_its_own(tmp_path):
    """In a run over many, the others are predicted."""
    good, wrong = write_image(tmp_path / "good.png", noise(4)), write_image(tmp_path / "wrong.png", noise(3))
    first, second = detector(4).stream_with_errors([good, wrong])
    assert len(first) >= 0
    assert str(second) == f"{wrong}: has 3 channels (mode RGB), expected 4 (RGBA): it has no alpha"


@pytest.mark.parametrize(
    "dataset",
    [pytest.param(channels, marks=pytest.mark.slow) for channels in (1, 4, 5)],
    indirect=True,
)  # three: the tests of training and export
def test_train_evaluate_and_export(dataset, tmp_path):
    channels, data = dataset
    assert not [finding for finding in check_dataset(data).findings if finding.code.startswith("image")]
    torch.manual_seed(0)
    DetrForObjectDetection(DetrConfig(**FIELDS)).save_pretrained(tmp_path / "start")
    DetrImageProcessor(size=SIZE).save_pretrained(tmp_path / "start")
    settings = {"use_cpu": True, "report_to": "none", "augmentation": "small-data", "max_steps": 2}
    run = train(
        data,
        output_dir=tmp_path / "run",
        model=tmp_path / "start",
        channels=channels,
        workers=0,
        settings=settings,
    )
    assert any(note.startswith(f"Channels: 3 → {channels}") for note in run.notes)
    again = set_up_model(str(run.output_dir / "recipe.yaml"), DetectionDataset.load(data))
    assert again.model.config.num_channels == again.processor.num_channels == channels
    trained = Detector(run.model)
    assert trained.num_channels == trained.image_processor.num_channels == channels
    before = with_channels(DetrForObjectDetection.from_pretrained(tmp_path / "start"), channels).state_dict()
    moved = [
        name for name, value in trained.model.state_dict().items() if not torch.equal(value, before.get(name, value))
    ]
    assert "model.input_projection.weight" in moved
    assert set(evaluate(run.model, data, split="val").summary) >= {"AP", "AP50"}
    labeled = {} if channels == 4 else {"data": data, "split": "val"}  # otherwise generated scenes
    exported = export_model(run.model, tmp_path / "exported", formats=["onnx"], **labeled)
    assert exported.passed, exported.violations
    onnx = Detector(tmp_path / "exported", backend="onnx")
    path = next(iter(sorted((data / "val").glob("0.*"))))
    expected, found = trained(path, threshold=0.0), onnx(path, threshold=0.0)
    assert np.abs(expected.scores - found.scores).max() < 1e-3


def test_recipes_of_fresh_models(dataset, tmp_path):
    channels, data = dataset
    loaded = DetectionDataset.load(data)
    (tmp_path / "fresh.yaml").write_text(json.dumps({"model": {**FIELDS, "num_channels": channels}}))
    (tmp_path / "given.yaml").write_text(json.dumps({"model": FIELDS, "processor": statistics(channels)}))
    for name, mean in (("fresh", None), ("given", statistics(channels)["image_mean"])):
        setup = set_up_model(str(tmp_path / f"{name}.yaml"), loaded)
        assert setup.model.config.num_channels == setup.processor.num_channels == channels
        if mean is not None:
            assert list(setup.processor.image_mean) == mean
        elif channels != 1:
            assert setup.processor.image_mean == (0.485, 0.456, 0.406, 0.485, 0.456)[:channels]


def test_the_service_decodes_for_its_model(dataset, tmp_path):
    channels, data = dataset
    runner = ModelRunner(detector(channels))
    runner.warm_up()
    path = next(iter(sorted((data / "val").glob("0.*"))))
    image = decode_image(path.read_bytes(), 10**6, channels)
    assert runner.prepare("predict", RequestParameters(), image).prepared.pixel_values.shape[0] == channels
    content = io.BytesIO()
    np.save(content, noise(channels + 4))
    with pytest.raises(ServiceError, match=f"expected {channels} channels"):
        decode_image(content.getvalue(), 10**6, channels)
