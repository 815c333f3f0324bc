"""What is the Table Transformer's alone: its folders on the Hub, and that no folder lies about its type."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tiny_detr import NATIVE_BACKBONE, padded_batch, tiny_config

import parity.test_stock_detection
from transformers_detr import (
    DetrConfig,
    DetrForObjectDetection,
    DetrForSegmentation,
    DetrImageProcessor,
    TableTransformerConfig,
    TableTransformerForObjectDetection,
    TableTransformerModel,
)

pytestmark = pytest.mark.current_stock

seeded = partial(parity.test_stock_detection.seeded, TableTransformerForObjectDetection)


@torch.no_grad()
def test_without_heads_too(tmp_path):
    model = seeded()
    model.model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["TableTransformerModel"]
    stock = transformers.TableTransformerModel.from_pretrained(tmp_path).eval()
    ours = TableTransformerModel.from_pretrained(tmp_path).eval()
    batch = padded_batch([(96, 128), (50, 70)])
    assert (ours(*batch).last_hidden_state - stock(*batch).last_hidden_state).abs().max() < 1e-5


# As on the Hub; v1.0 by transformers 4.26, v1.1 by transformers 4.35.
PROCESSORS = {
    "v1.0 detection": {"feature_extractor_type": "DetrFeatureExtractor", "size": 800, "max_size": 800},
    "v1.0 structure": {"feature_extractor_type": "DetrFeatureExtractor", "size": 800, "max_size": 1000},
    "v1.0 structure, later": {"image_processor_type": "DetrImageProcessor", "size": 800, "max_size": 1333},
    "v1.1": {"image_processor_type": "DetrImageProcessor", "size": {"longest_edge": 800}},
    "v1.1 structure": {"image_processor_type": "DetrImageProcessor", "size": {"longest_edge": 1000}},
}
EXPECTED = {  # of a page of 1100 × 850 pixels
    "v1.0 detection": (799, 618),
    "v1.0 structure": (1000, 773),
    "v1.0 structure, later": (1035, 800),
    "v1.1": (800, 618),
    "v1.1 structure": (1000, 773),
}
MEAN_AND_STD = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_folders_in_the_forms_on_the_hub_load(kind, tmp_path):
    model = seeded(**({"backbone_config": NATIVE_BACKBONE} if kind == "v1.1" else {}))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    if kind.startswith("v1.1"):
        config |= {"dilation": None, "position_embedding_type": "sine"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    settings = {"do_resize": True, "do_normalize": True, **MEAN_AND_STD, **PROCESSORS[kind]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))

    again = TableTransformerForObjectDetection.from_pretrained(tmp_path).eval()
    processor = DetrImageProcessor.from_pretrained(tmp_path)
    page = Image.fromarray(np.full((1100, 850, 3), 200, np.uint8))
    inputs = processor(page, return_tensors="pt")
    assert tuple(inputs["pixel_values"].shape[2:]) == EXPECTED[kind]
    processor.save_pretrained(tmp_path / "again")
    assert DetrImageProcessor.from_pretrained(tmp_path / "again").size == processor.size
    if kind == "v1.1 structure":
        return
    with torch.no_grad():
        stock = transformers.TableTransformerForObjectDetection.from_pretrained(tmp_path).eval()
        assert (again(**inputs).logits - stock(**inputs).logits).abs().max() < 1e-5


def test_the_auto_classes_and_the_pipeline_use_ours(tmp_path):
    """In a process of its own, since the registration stays."""
    import subprocess
    import sys

    seeded().save_pretrained(tmp_path)
    DetrImageProcessor(size={"longest_edge": 96}).save_pretrained(tmp_path)
    code = f"""
import numpy, transformers, transformers_detr
from PIL import Image
transformers_detr.use_for_auto()
model = transformers.AutoModelForObjectDetection.from_pretrained({str(tmp_path)!r})
base = transformers.AutoModel.from_pretrained({str(tmp_path)!r})
detect = transformers.pipeline("object-detection", model={str(tmp_path)!r})
found = detect(Image.fromarray(numpy.zeros((60, 80, 3), "uint8")), threshold=0)
print(type(model).__module__, type(base).__name__, type(detect.model).__module__, len(found))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = "transformers_detr.model.modeling_table_transformer_detr"
    assert done.stdout.split() == [ours, "TableTransformerModel", ours, "10"]


def test_no_folder_lies_about_its_type(tmp_path):
    """Pre-norm weights never bear the type in which stock computes post-norm, nor the other way round."""
    seeded().save_pretrained(tmp_path / "pre")
    torch.manual_seed(0)
    DetrForObjectDetection(tiny_config()).save_pretrained(tmp_path / "post")
    assert json.loads((tmp_path / "pre" / "config.json").read_text())["model_type"] == "table-transformer"
    for kind in (DetrForObjectDetection, DetrForSegmentation):
        with pytest.raises(ValueError, match="model_type 'table-transformer'"):
            kind.from_pretrained(tmp_path / "pre")
        with pytest.raises(ValueError, match="model_type 'detr', not 'table-transformer'"):
            kind(tiny_config(TableTransformerConfig))
    with pytest.raises(ValueError, match="model_type 'detr'"):
        TableTransformerForObjectDetection.from_pretrained(tmp_path / "post")
    for name in ("pre_norm", "norm_first", "normalize_before"):
        with pytest.raises(TypeError, match="unknown argument"):
            DetrConfig(**{name: True})
        with pytest.raises(ValueError, match=f"{name} is True.*TableTransformerConfig"):
            DetrConfig.from_dict({"model_type": "detr", name: True})
        with pytest.raises(ValueError, match=f"{name} is False.*pre-norm"):
            TableTransformerConfig.from_dict({"model_type": "table-transformer", name: False})
