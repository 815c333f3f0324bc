"""The image processor: the original's numbers, stock's interface, and the same result for every way of asking."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, ResNetConfig, pipeline
from transformers import DetrConfig as StockConfig
from transformers import DetrForObjectDetection as StockDetector
from transformers import DetrForSegmentation as StockSegmenter
from transformers import DetrImageProcessor as StockProcessor
from transformers.image_processing_utils import BatchFeature

from transformers_detr.model import image_processing_detr
from transformers_detr.model.image_processing_detr import DetrImageProcessor
from transformers_detr.model.padding_detr import DetrBatch

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
ONE_STEP = 1 / 255 / STD  # of a color, after normalization


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth colors, as in photographs."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def small(**settings) -> DetrImageProcessor:
    return DetrImageProcessor(**{"size": {"shortest_edge": 32, "longest_edge": 60}, **settings})


def normalized(array: np.ndarray) -> torch.Tensor:
    """By the definition: (rgb / 255 - mean) / std, channels first."""
    return (torch.from_numpy(np.array(array)).permute(2, 0, 1) / 255 - MEAN) / STD


# ---- numbers


def test_pixels_equal_the_original(golden_json, shared_path):
    checked = 0
    for golden in golden_json("coco_data.json"):
        path = shared_path("data", "coco_mini", "val2017", golden["file_name"])
        batch = DetrImageProcessor()(path, return_tensors="pt")
        pixels = batch["pixel_values"][0]
        assert list(pixels.shape) == golden["pixel_values_shape"]
        assert batch["pixel_mask"].all()
        for corner, name in ((pixels[:, :4, :4], "top_left_4x4"), (pixels[:, -4:, -4:], "bottom_right_4x4")):
            assert (corner - torch.tensor(golden[f"pixel_values_{name}"])).abs().max() < 1e-6
        assert torch.allclose(pixels.mean((1, 2)), torch.tensor(golden["pixel_values_mean"]), atol=1e-5)
        assert torch.allclose(pixels.std((1, 2)), torch.tensor(golden["pixel_values_std"]), atol=1e-5)
        checked += 1
    assert checked == 8


def test_inputs_of_the_golden_runs(golden_json, golden_path, golden_tensors):
    tensors = golden_tensors("inputs/inputs.safetensors")
    processor = DetrImageProcessor(do_resize=False)
    batch = processor([golden_path("inputs", f"{name}.png") for name in "AB"])
    assert batch["pixel_values"].shape == (2, 3, 352, 326)
    for index, name in enumerate("AB"):
        corner = next(value for key, value in tensors.items() if key.startswith(name) and value.shape[-2:] == (8, 8))
        assert (batch["pixel_values"][index, :, :8, :8] - corner).abs().max() < 1e-6


def test_resize_is_pillows_and_padding_is_zero():
    images = [photo(40, 60), photo(50, 30, seed=1)]
    batch = small()(images)
    sizes = [(32, 48), (53, 32)]
    assert batch["pixel_values"].shape == (2, 3, 53, 48)
    assert batch["pixel_values"].dtype == torch.float32
    assert batch["pixel_mask"].dtype == torch.int64
    for pixels, mask, image, (height, width) in zip(*batch.values(), images, sizes, strict=True):
        expected = torch.zeros(3, 53, 48)
        expected[:, :height, :width] = normalized(image.resize((width, height), Image.Resampling.BILINEAR))
        assert (pixels - expected).abs().max() < 1e-6
        assert torch.equal(mask.bool(), torch.arange(53)[:, None].lt(height) & torch.arange(48).lt(width))


@pytest.mark.parametrize("size", [(480, 640), (375, 500), (612, 612), (240, 320)])
def test_stock_gives_the_same_pixels(size):
    """Where the sizes agree (stock rounds otherwise for a quarter of them): within one step of color."""
    image = photo(*size)
    ours, stock = (
        DetrImageProcessor()(image)["pixel_values"],
        StockProcessor()(image, return_tensors="pt")["pixel_values"],
    )
    height, width = (min(pair) for pair in zip(ours.shape[2:], stock.shape[2:], strict=True))
    assert max(ours.shape[2] - height, ours.shape[3] - width) == 0
    assert max(stock.shape[2] - height, stock.shape[3] - width) <= 1
    if ours.shape == stock.shape:
        assert ((ours - stock).abs() / ONE_STEP).max() < 1.01


# ---- ways to give an image


def test_every_way_of_giving_an_image_gives_the_same(tmp_path):
    image = photo(40, 60)
    array = np.asarray(image)
    path = tmp_path / "photo.png"
    image.save(path)
    expected = small()(image)["pixel_values"]
    for given in (
        [image],
        [[image]],
        (image,),
        path,
        str(path),
        path.read_bytes(),
        array,
        array[None],
        array.transpose(2, 0, 1),
        torch.tensor(array).permute(2, 0, 1),
        torch.tensor(array).permute(2, 0, 1)[None],
        array.astype(np.int64),
    ):
        assert torch.equal(small()(given)["pixel_values"], expected)
    for floats, settings in ((array.astype(np.float32), {}), (array / 255.0, {"do_rescale": False})):
        # 8-bit colors are rounded after each of the two directions, floats are not
        assert ((small(**settings)(floats)["pixel_values"] - expected).abs() / ONE_STEP).max() < 1.01


def test_floats_are_resized_as_floats():
    """Values that no 8-bit image has: normalized before, negative ones included."""
    ramp = torch.linspace(-2, 2, 8).expand(3, 8, 8)
    processor = DetrImageProcessor(size={"height": 8, "width": 16}, do_rescale=False, do_normalize=False)
    pixels = processor(ramp)["pixel_values"][0, 0, 0]
    centers = torch.linspace(-2, 2, 8)
    position = ((torch.arange(16) + 0.5) / 2 - 0.5).clamp(0, 7)  # of the new pixels' centers among the old ones
    assert torch.allclose(pixels, -2 + position * (centers[1] - centers[0]), atol=1e-6)


def test_mixed_lists_and_names_in_errors(tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0nothing")
    assert len(small()([photo(40, 60), np.asarray(photo(20, 20)), torch.zeros(3, 9, 9)])["pixel_values"]) == 3
    with pytest.raises(ValueError, match=r"^images\[1\] \(.*broken\.jpg\): "):
        small()([photo(40, 60), path])
    with pytest.raises(ValueError, match=r"^images\[1\]: expected 3 channels .* got an array of shape \(9, 9, 5\)"):
        small()([photo(40, 60), np.zeros((9, 9, 5))])
    with pytest.raises(ValueError, match=r"^images\[0\]: is too elongated"):
        small()(Image.new("RGB", (3000, 1)))
    with pytest.raises(TypeError, match=r"^images\[0\] must be .* got dict"):
        small()({"image": 1})
    with pytest.raises(ValueError, match="images is empty"):
        small()([])


# ---- settings


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"do_resize": False}, lambda rgb: normalized(rgb)),
        ({"do_resize": False, "do_normalize": False}, lambda rgb: normalized(rgb) * STD + MEAN),
        (
            {"do_resize": False, "do_normalize": False, "do_rescale": False},
            lambda rgb: torch.tensor(rgb).permute(2, 0, 1),
        ),
        (
            {"do_resize": False, "image_mean": 0.5, "image_std": [0.5] * 3},
            lambda rgb: torch.tensor(rgb).permute(2, 0, 1) / 127.5 - 1,
        ),
        (
            {"do_resize": False, "do_normalize": False, "rescale_factor": 2.0},
            lambda rgb: torch.tensor(rgb).permute(2, 0, 1) * 2.0,
        ),
        (
            {"size": {"height": 9, "width": 7}, "resample": 0},
            lambda rgb: normalized(Image.fromarray(rgb).resize((7, 9), 0)),
        ),
        (
            {"size": (9, 7), "resample": Image.Resampling.LANCZOS},
            lambda rgb: normalized(Image.fromarray(rgb).resize((7, 9), 1)),
        ),
        (
            {"size": {"max_height": 20, "max_width": 60}},
            lambda rgb: normalized(Image.fromarray(rgb).resize((30, 20), 2)),
        ),
        ({"size": 20, "max_size": 25}, lambda rgb: normalized(Image.fromarray(rgb).resize((25, 17), 2))),
        ({"size": 20, "default_to_square": True}, lambda rgb: normalized(Image.fromarray(rgb).resize((20, 20), 2))),
    ],
)
def test_settings_hold_for_the_processor_or_for_a_call(settings, expected):
    image = photo(40, 60)
    expected = expected(np.array(image)).float()
    default = DetrImageProcessor()
    before = default.to_dict()
    for batch in (DetrImageProcessor(**settings)(image), default(image, **settings)):
        assert batch["pixel_values"].shape[1:] == expected.shape
        assert (batch["pixel_values"][0] - expected).abs().max() < 1e-4
    assert default.to_dict() == before


def test_padding():
    images = [photo(32, 40), photo(40, 32)]
    for pad_size in ({"height": 70, "width": 65}, (70, 65)):
        batch = small(pad_size=pad_size)(images)
        assert batch["pixel_values"].shape == (2, 3, 70, 65)
        assert batch["pixel_mask"].sum((1, 2)).tolist() == [32 * 40] * 2
    assert small()(images[0], pad_size=64)["pixel_values"].shape == (1, 3, 64, 64)
    with pytest.raises(ValueError, match=r"images\[1\] is 40×32 .* too large for pad_size 39×65"):
        small()(images, pad_size=(39, 65))
    for switch in ("do_pad", "pad_and_return_pixel_mask"):
        loose = small()(images, **{switch: False})
        assert set(loose) == {"pixel_values"}
        assert [tuple(image.shape) for image in loose["pixel_values"]] == [(3, 32, 40), (3, 40, 32)]
    assert small(do_pad=False)([images[0]] * 2, return_tensors="pt")["pixel_values"].shape == (2, 3, 32, 40)
    with pytest.raises(ValueError, match="do_pad=True"):
        small(do_pad=False)(images, return_tensors="pt")


def test_pad_as_collate_functions_call_it():
    processor = small()
    images = [photo(32, 40), photo(40, 32)]
    annotation = {"image_id": 1, "annotations": []}
    loose = [processor(image, annotation, return_segmentation_masks=True) for image in images]
    together = processor(images)
    for pixels in ([item["pixel_values"][0] for item in loose], [item["pixel_values"][0].numpy() for item in loose]):
        batch = processor.pad(pixels, return_tensors="pt")
        assert torch.equal(batch["pixel_values"], together["pixel_values"])
        assert torch.equal(batch["pixel_mask"], together["pixel_mask"])
    batch = processor.pad(pixels, [item["labels"][0] for item in loose], constant_values=5, return_pixel_mask=False)
    assert batch["labels"][0]["masks"].shape == (0, 40, 40)
    assert (batch["pixel_values"][0, :, 32:] == 5).all()
    assert "pixel_mask" not in batch


def test_kinds_of_result():
    images = [photo(32, 40), photo(40, 32)]
    annotations = [{"image_id": index, "annotations": []} for index in range(2)]
    torch_batch = small()(images, annotations, return_tensors="pt")
    numpy_batch = small()(images, annotations, return_tensors="np")
    assert isinstance(torch_batch, BatchFeature)
    assert isinstance(torch_batch["labels"][0], BatchFeature)
    assert isinstance(numpy_batch["pixel_values"], np.ndarray)
    assert isinstance(numpy_batch["labels"][1]["boxes"], np.ndarray)
    assert np.array_equal(numpy_batch["pixel_values"], torch_batch["pixel_values"].numpy())
    last = small()(images, data_format="channels_last")["pixel_values"]
    assert torch.equal(last, torch_batch["pixel_values"].permute(0, 2, 3, 1))
    assert small()(images, device="meta")["pixel_mask"].device.type == "meta"
    assert torch_batch.to(torch.float16)["pixel_values"].dtype == torch.float16
    with pytest.raises(ValueError, match="return_tensors must be pt or np, got 'tf'"):
        small()(images, return_tensors="tf")


def test_unknown_keywords_name_the_nearest():
    with pytest.raises(TypeError, match=r"no setting 'do_resise'; did you mean 'do_resize'\?"):
        DetrImageProcessor(do_resise=False)
    with pytest.raises(TypeError, match=r"no setting 'pad_sise'; did you mean 'pad_size'\?"):
        small()(photo(32, 32), pad_sise=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_mean": [1, 2]}, "image_mean and image_std must be one number per channel"),
        ({"image_std": [1, 0, 1]}, "image_std .* got"),
        ({"degenerate_boxes": "keep"}, "degenerate_boxes must be one of .* got 'keep'"),
        ({"resample": "wavelet"}, "resample must be one of .* got 'wavelet'"),
        ({"pad_size": {"shortest_edge": 3}}, "pad_size must give height and width"),
        ({"size": {"height": 3}}, "size must be"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        DetrImageProcessor(**settings)(photo(3, 3))


def test_floats_in_0_to_1_that_are_rescaled_again_are_pointed_out(monkeypatch):
    told = []
    monkeypatch.setattr(image_processing_detr.logger, "warning_once", told.append)
    small()(np.full((9, 9, 3), 0.5))
    assert len(told) == 1
    small(do_rescale=False)(np.full((9, 9, 3), 0.5))
    small()(np.full((9, 9, 3), 127.0))
    assert len(told) == 1


# ---- annotations


def test_labels_do_not_know_of_padding():
    """An image's boxes are the same whatever the batch it is in (stock rescales them to the padded canvas)."""
    images = [photo(40, 60), photo(60, 40, seed=1)]
    box = {"bbox": [6, 4, 30, 20], "category_id": 2, "id": 1, "area": 600, "iscrowd": 0}
    annotations = [{"image_id": 5 + index, "annotations": [box]} for index in range(2)]
    labels = small()(images, annotations)["labels"]
    for index, (label, (width, height)) in enumerate(zip(labels, [(60, 40), (40, 60)], strict=True)):
        expected = torch.tensor([[21 / width, 14 / height, 30 / width, 20 / height]])
        assert torch.allclose(label["boxes"], expected)
        assert label["size"].tolist() == [[32, 48], [48, 32]][index]
        assert label["orig_size"].tolist() == [height, width]
        assert label["image_id"].tolist() == [5 + index]
        assert torch.allclose(label["area"], torch.tensor([600 * 0.8**2]))
        alone = small()(images[index], annotations[index])["labels"][0]
        assert all(torch.equal(alone[key], label[key]) for key in alone)
    raw = small(do_convert_annotations=False)(images, annotations)["labels"][0]
    assert torch.allclose(raw["boxes"], torch.tensor([[6, 4, 36, 24]]) * 0.8)


def test_stock_gives_the_same_labels():
    """For one image, where nothing is padded."""
    objects = [
        {"bbox": [6, 4, 30, 20], "category_id": 2, "id": 1, "area": 600.0, "iscrowd": 0},
        {"bbox": [50, 30, 30, 30], "category_id": 7, "id": 2, "area": 90.0, "iscrowd": 0},
        {"bbox": [1, 1, 9, 9], "category_id": 7, "id": 3, "area": 81.0, "iscrowd": 1},
    ]
    annotation = {"image_id": 3, "annotations": objects}
    settings = {"size": {"shortest_edge": 80, "longest_edge": 200}}
    ours = DetrImageProcessor(**settings)(photo(40, 60), annotation)["labels"][0]
    stock = StockProcessor(**settings)(photo(40, 60), annotation, return_tensors="pt")["labels"][0]
    assert set(ours) == set(stock)
    for key in ours:
        assert ours[key].dtype == stock[key].dtype
        assert torch.allclose(ours[key], stock[key]), key


def test_panoptic_labels(tmp_path):
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:20, 30:45, 1] = 1
    Image.fromarray(image).save(tmp_path / "x.png")
    annotation = {
        "image_id": 3,
        "file_name": "x.png",
        "segments_info": [{"id": 256, "category_id": 4, "iscrowd": 0, "area": 150}],
    }
    processor = small(format="coco_panoptic")
    label = processor(photo(40, 60), annotation, masks_path=tmp_path)["labels"][0]
    assert label["masks"].shape == (1, 32, 48)
    assert label["masks"].sum() == 8 * 12
    assert torch.allclose(label["boxes"], torch.tensor([[37 / 60, 14.5 / 40, 14 / 60, 9 / 40]]))
    bare = processor(photo(40, 60), annotation, return_segmentation_masks=False, masks_path=tmp_path)["labels"][0]
    assert "masks" not in bare
    with pytest.raises(ValueError, match="masks_path"):
        processor(photo(40, 60), annotation)
    with pytest.raises(ValueError, match="coco_nothing"):
        processor(photo(40, 60), annotation, format="coco_nothing")


def test_masks_are_padded_with_their_image():
    rle = {"size": [40, 60], "counts": [0, 2400]}
    item = {"bbox": [0, 0, 60, 40], "category_id": 2, "id": 1, "segmentation": rle}
    annotations = [{"image_id": 1, "annotations": [item]}, {"image_id": 2, "annotations": []}]
    batch = small()([photo(40, 60), photo(60, 40)], annotations, return_segmentation_masks=True)
    assert [label["masks"].shape for label in batch["labels"]] == [(1, 48, 48), (0, 48, 48)]
    assert torch.equal(batch["labels"][0]["masks"][0], batch["pixel_mask"][0].bool())


def test_annotation_errors(tmp_path):
    for processor in (small(), StockProcessor()):
        with pytest.raises(ValueError, match=r"^Invalid COCO detection annotations.*image_id"):
            processor(photo(9, 9), {"annotations": []}, return_tensors="pt")
    with pytest.raises(ValueError, match=r"^Invalid COCO panoptic annotations: image 4 has no segments_info"):
        small(format="coco_panoptic")(photo(9, 9), {"image_id": 4, "file_name": "x.png"}, masks_path=tmp_path)
    item = {"bbox": [1, 2, math.nan, 4], "category_id": 1, "id": 12}
    with pytest.raises(
        ValueError, match=r"^Invalid COCO detection annotations: image 4, annotation 12: bbox must hold finite numbers"
    ):
        small()(photo(9, 9), {"image_id": 4, "annotations": [item]})
    with pytest.raises(ValueError, match=r"^The number of images \(2\) and annotations \(1\) do not match\.$"):
        small()([photo(9, 9)] * 2, {"image_id": 4, "annotations": []})
    outside = {"bbox": [8, 8, 0, 4], "category_id": 1, "id": 12}
    annotation = {"image_id": 4, "annotations": [outside]}
    assert len(small()(photo(9, 9), annotation)["labels"][0]["boxes"]) == 0
    with pytest.raises(ValueError, match=r"^Invalid COCO detection annotations: image 4, annotation 12"):
        small(degenerate_boxes="refuse")(photo(9, 9), annotation)


# ---- files


def test_attributes_and_file_are_stocks(tmp_path):
    ours, stock = DetrImageProcessor(), StockProcessor()
    for name in ("do_resize", "do_rescale", "rescale_factor", "do_normalize", "do_pad", "resample", "format"):
        assert getattr(ours, name) == getattr(stock, name)
    for name in ("do_convert_annotations", "model_input_names", "pad_size"):
        assert getattr(ours, name) == getattr(stock, name)
    assert list(ours.image_mean) == list(stock.image_mean)
    assert list(ours.image_std) == list(stock.image_std)
    assert ours.size == {"shortest_edge": 800, "longest_edge": 1333}
    assert ours.size["shortest_edge"] == ours.size.shortest_edge == stock.size["shortest_edge"]
    ours.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert content["image_processor_type"] == "DetrImageProcessor"
    assert set(content) <= set(json.loads(stock.to_json_string())) | {"do_convert_annotations"}
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded).__module__.startswith("transformers.models.detr")
    loaded, fresh = json.loads(loaded.to_json_string()), json.loads(stock.to_json_string())
    for name in content.keys() - {"image_processor_type"}:
        assert loaded[name] == fresh[name], name


@pytest.mark.parametrize("switch", ["do_resize", "do_rescale", "do_normalize", "do_pad"])
def test_a_switch_that_is_none_is_off_and_stays_none(switch, tmp_path):
    for cls in (DetrImageProcessor, StockProcessor):
        processor = cls(**{switch: None})
        assert processor.to_dict()[switch] is None
        processor.save_pretrained(tmp_path)
        assert getattr(DetrImageProcessor.from_pretrained(tmp_path), switch) is None
    image = photo(40, 60)
    ours, off = small(**{switch: None})(image), small(**{switch: False})(image)
    assert torch.equal(ours["pixel_values"], off["pixel_values"])
    assert ours.keys() == off.keys()
    assert torch.equal(small()(image, **{switch: None})["pixel_values"], small()(image)["pixel_values"])


def test_round_trip(tmp_path):
    processor = small(
        image_mean=[0.1, 0.2, 0.3],
        pad_size=70,
        do_rescale=False,
        degenerate_boxes="refuse",
        format="coco_panoptic",
        resample=3,
    )
    processor.save_pretrained(tmp_path)
    loaded = DetrImageProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert loaded.degenerate_boxes == "refuse"
    assert loaded.pad_size == {"height": 70, "width": 70}
    assert torch.equal(loaded(photo(9, 9))["pixel_values"], processor(photo(9, 9))["pixel_values"])
    assert DetrImageProcessor.from_json_file(tmp_path / "preprocessor_config.json").to_dict() == processor.to_dict()
    assert DetrImageProcessor(**processor.to_dict()).to_dict() == processor.to_dict()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"size": 480, "max_size": 600}, {"size": {"shortest_edge": 480, "longest_edge": 600}}),
        ({"size": 480}, {"size": {"shortest_edge": 480, "longest_edge": 1333}}),
        ({"max_size": 900}, {"size": {"shortest_edge": 800, "longest_edge": 900}}),
        ({"pad_and_return_pixel_mask": False}, {"do_pad": False}),
        ({"do_normalize": False}, {"do_normalize": False, "do_convert_annotations": False}),
        ({"resample": 3, "pad_size": None, "crop_size": None}, {"resample": 3}),
        ({"feature_extractor_type": "DetrFeatureExtractor", "image_processor_type": "DetrFeatureExtractor"}, {}),
        ({"_valid_processor_keys": ["a"], "reduce_labels": True, "processor_class": "X"}, {}),
    ],
)
def test_files_of_all_ages(content, expected, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    loaded = DetrImageProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == {**DetrImageProcessor().to_dict(), **expected}


def test_files_from_the_hub(shared_path):
    files = sorted(shared_path("data", "hub_configs").glob("*preprocessor_config.json"))
    assert files
    for file in files:
        assert DetrImageProcessor.from_pretrained(file).to_dict() == DetrImageProcessor().to_dict()


def test_keywords_take_precedence_over_the_file(tmp_path):
    small().save_pretrained(tmp_path)
    loaded, unused = DetrImageProcessor.from_pretrained(
        tmp_path, size=42, max_size=84, pad_and_return_pixel_mask=False, foo=1, return_unused_kwargs=True
    )
    assert loaded.size == {"shortest_edge": 42, "longest_edge": 84}
    assert loaded.do_pad is False
    assert unused == {"foo": 1}
    legacy = {"pad_and_return_pixel_mask": False}
    assert DetrImageProcessor.from_dict(legacy, do_pad=True).do_pad is True


def test_custom_code_travels_whole(tmp_path, monkeypatch):
    """The folder holds every file that is needed, each named by the entry file itself, as early 5.x wants."""
    monkeypatch.setattr(DetrImageProcessor, "_auto_class", "AutoImageProcessor")
    small().save_pretrained(tmp_path)
    copied = {path.stem for path in tmp_path.glob("*.py")}
    tree = ast.parse((tmp_path / "image_processing_detr.py").read_text())
    named = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1}
    assert copied == named | {"image_processing_detr"}
    home = Path(image_processing_detr.__file__).parent
    for name in copied:
        needed = ast.parse((home / f"{name}.py").read_text())
        assert {node.module for node in ast.walk(needed) if isinstance(node, ast.ImportFrom) and node.level} <= copied
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path / "cache")
    loaded = AutoImageProcessor.from_pretrained(tmp_path, trust_remote_code=True)
    assert type(loaded).__name__ == "DetrImageProcessor"
    assert type(loaded).__module__.startswith("transformers_modules")
    assert torch.equal(loaded(photo(9, 9))["pixel_values"], small()(photo(9, 9))["pixel_values"])


# ---- pipelines


@pytest.fixture(scope="module")
def stock_model():
    torch.manual_seed(0)
    backbone = ResNetConfig(embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, out_features=["stage4"])
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "d_model": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 5, "num_labels": 4}
    config = StockConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        **sizes,
        **heads,
    )
    return StockDetector(config).eval()


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_pipelines_form_batches_of_mixed_sizes(stock_model, batch_size):
    processor = small()
    images = [photo(40, 60), photo(60, 40, seed=1), photo(33, 90, seed=2)]
    detector = pipeline("object-detection", model=stock_model, image_processor=processor, device="cpu")
    found = detector(images, batch_size=batch_size, threshold=0.0)
    for first in range(0, len(images), batch_size):
        group = images[first : first + batch_size]
        with torch.no_grad():
            outputs = stock_model(**processor(group))
        expected = processor.post_process_object_detection(outputs, 0.0, [(im.height, im.width) for im in group])
        for result, want in zip(found[first : first + batch_size], expected, strict=True):
            assert [item["score"] for item in result] == pytest.approx(want["scores"].tolist(), abs=1e-6)
            assert [list(item["box"].values()) for item in result] == want["boxes"].int().tolist()


@pytest.fixture(scope="module")
def stock_segmenter():
    torch.manual_seed(0)
    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, out_features=[f"stage{i}" for i in range(1, 5)]
    )
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "d_model": 128}
    config = StockConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        num_queries=5,
        num_labels=4,
        **sizes,
    )
    model = StockSegmenter(config).eval()
    with torch.no_grad():
        model.detr.class_labels_classifier.bias[-1] -= 10  # never "no object"
    return model


@pytest.mark.parametrize("subtask", ["panoptic", "instance"])
def test_segmentation_pipelines_cut_the_padding_off(stock_segmenter, subtask):
    processor = small()
    images = [photo(40, 60), photo(60, 40, seed=1)]
    thresholds = {"threshold": 0.0, "mask_threshold": 0.0, "overlap_mask_area_threshold": 0.0}
    segmenter = pipeline("image-segmentation", model=stock_segmenter, image_processor=processor, device="cpu")
    found = segmenter(images, batch_size=2, subtask=subtask, **thresholds)
    with torch.no_grad():
        outputs = stock_segmenter(**processor(images))
    results = getattr(processor, f"post_process_{subtask}_segmentation")(
        outputs, target_sizes=[(40, 60), (60, 40)], processed_sizes=[(32, 48), (48, 32)], **thresholds
    )
    for items, result in zip(found, results, strict=True):
        ids = [info["id"] for info in result["segments_info"]]
        assert ids
        assert len(items) == len(ids)
        for item, identifier in zip(items, ids, strict=True):
            assert np.array_equal(np.asarray(item["mask"]) > 0, (result["segmentation"] == identifier).numpy())


def test_semantic_maps_of_pipelines_cut_the_padding_off():
    torch.manual_seed(0)
    outputs = SimpleNamespace(logits=torch.randn(1, 6, 5) * 5, pred_masks=torch.randn(1, 6, 12, 12) * 5)
    batch = DetrBatch({"pixel_values": torch.zeros(1, 3, 32, 48)})
    batch["target_size"] = [(40, 60)]
    method = small().post_process_semantic_segmentation
    (found,) = method(outputs, target_sizes=batch["target_size"])
    (expected,) = method(outputs, target_sizes=[(40, 60)], processed_sizes=[(32, 48)])
    (uncut,) = method(outputs, target_sizes=[(40, 60)])
    assert torch.equal(found, expected)
    assert not torch.equal(found, uncut)
    assert tuple(batch["target_size"][0]) == (40, 60)
