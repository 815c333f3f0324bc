"""DetrConfig reads every form of config.json and writes one that stock transformers reads."""

from __future__ import annotations

import json

import pytest
import transformers

from transformers_detr import DetrConfig


def saved(config, folder):
    config.save_pretrained(folder)
    return json.loads((folder / "config.json").read_text())


@pytest.mark.current_stock
def test_defaults_are_those_of_the_published_detr_resnet_50():
    config = DetrConfig()
    stock = transformers.DetrConfig()
    ours = config.to_dict()
    for name, value in stock.to_dict().items():
        if name not in ("backbone_config", "transformers_version"):
            assert ours[name] == value, name
    assert (config.backbone, config.dilation, config.hidden_size) == ("resnet50", False, 256)


@pytest.mark.current_stock
@pytest.mark.parametrize("name", ["detrstreamlit_config.json", "walrusblob_detr-resnet-50_config.json"])
def test_reads_files_from_the_hub(name, shared_path, tmp_path):
    file = shared_path("data", "hub_configs", name)
    config = DetrConfig.from_dict(json.loads(file.read_text()))
    stored = json.loads(file.read_text())
    assert config.backbone == "resnet50"
    assert config.use_timm_backbone
    assert config.num_labels == len(stored["id2label"])
    assert config.id2label[1] == stored["id2label"]["1"]
    assert config.max_position_embeddings == 1024  # a legacy field is kept

    config.save_pretrained(tmp_path)
    again = DetrConfig.from_pretrained(tmp_path)
    left, right = again.to_dict(), config.to_dict()
    assert left | {"_name_or_path": ""} == right | {"_name_or_path": ""}
    assert transformers.DetrConfig.from_pretrained(tmp_path).backbone_config.backbone == "resnet50"


@pytest.mark.current_stock
@pytest.mark.parametrize("dilation", [False, True])
def test_reads_the_form_of_transformers_5_and_writes_one_it_reads(dilation, tmp_path):
    stock = transformers.DetrConfig(backbone="resnet18", dilation=dilation, num_labels=7)
    stock.save_pretrained(tmp_path / "stock")
    config = DetrConfig.from_pretrained(tmp_path / "stock")
    assert (config.backbone, config.dilation, config.num_labels) == ("resnet18", dilation, 7)
    assert config.backbone_config is None

    stored = saved(config, tmp_path / "ours")
    assert stored["backbone"] == "resnet18"
    assert "backbone_kwargs" not in stored  # null here makes stock 5 fail, a value makes it take a ResNet of its own
    again = transformers.DetrConfig.from_pretrained(tmp_path / "ours")
    assert again.backbone_config.backbone == "resnet18"
    assert (getattr(again.backbone_config, "output_stride", None) == 16) is dilation


def test_timm_arguments_are_kept_and_redundant_ones_dropped():
    redundant = {"in_chans": 3, "out_indices": [1, 2, 3, 4], "output_stride": 16}
    config = DetrConfig(backbone="resnet50", backbone_kwargs=redundant)
    assert config.backbone_kwargs is None
    assert config.dilation
    assert DetrConfig(backbone="mobilenetv2_100", backbone_kwargs={"pad_type": "same"}).backbone_kwargs == {
        "pad_type": "same"
    }


def test_native_backbone_round_trips(tmp_path):
    config = DetrConfig(backbone_config={"model_type": "resnet", "depths": [1, 1, 1, 1]})
    assert (config.backbone, config.use_timm_backbone) == (None, False)
    assert config.backbone_config.depths == [1, 1, 1, 1]
    config.save_pretrained(tmp_path)
    assert DetrConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    assert transformers.DetrConfig.from_pretrained(tmp_path).backbone_config.depths == [1, 1, 1, 1]


def test_unknown_arguments_name_the_nearest_field():
    with pytest.raises(TypeError, match=r"'num_querys'; did you mean 'num_queries'\?"):
        DetrConfig(num_querys=50)
    with pytest.raises(TypeError, match=r"'flavour'$"):
        DetrConfig(flavour="vanilla")


def test_unknown_fields_of_a_file_are_kept(tmp_path):
    config = DetrConfig.from_dict({"model_type": "detr", "num_queries": 7, "flavour": "vanilla"})
    assert (config.num_queries, config.flavour) == (7, "vanilla")
    assert saved(config, tmp_path)["flavour"] == "vanilla"


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("num_queries", 0, "at least 1"),
        ("num_queries", 2.5, "whole number"),
        ("num_labels", 0, "num_labels must be at least 1"),
        ("id2label", {}, "num_labels must be at least 1"),
        ("backbone_config", {"model_type": "restnet"}, "no model_type 'restnet'$"),
        ("decoder_layers", 0, "at least 1"),
        ("encoder_layers", -1, "at least 0"),
        ("encoder_attention_heads", 7, r"divisor of d_model \(256\)"),
        ("d_model", 30, "divisor"),
        ("dropout", 1.5, "between 0 and 1"),
        ("decoder_layerdrop", -0.1, "between 0 and 1"),
        ("eos_coefficient", -1, "at least 0"),
        ("position_embedding_type", "cosine", "'sine' or 'learned'"),
        ("activation_function", "rely", "an activation"),
    ],
)
def test_ranges_are_checked(field, value, rule):
    with pytest.raises(ValueError, match=rule):
        DetrConfig(**{field: value})
    with pytest.raises(ValueError, match=rule):
        DetrConfig.from_dict({field: value})


def test_overrides_of_a_file_are_checked_too(tmp_path):
    DetrConfig().save_pretrained(tmp_path)
    assert DetrConfig.from_pretrained(tmp_path, num_queries=5).num_queries == 5
    with pytest.raises(ValueError, match="num_queries must be"):
        DetrConfig.from_pretrained(tmp_path, num_queries=0)


def test_matching_by_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing is left to match by"):
        DetrConfig(class_cost=0, bbox_cost=0, giou_cost=0)


def test_a_backbone_described_twice_is_refused():
    with pytest.raises(ValueError, match="described twice"):
        DetrConfig(backbone="resnet18", backbone_config={"model_type": "resnet"})
    with pytest.raises(ValueError, match="dilation=True needs a timm backbone"):
        DetrConfig(backbone_config={"model_type": "resnet"}, dilation=True)


def test_pretrained_backbone_is_remembered_until_weights_are_saved(tmp_path):
    assert saved(DetrConfig(use_pretrained_backbone=True), tmp_path)["use_pretrained_backbone"] is True
    assert DetrConfig.from_pretrained(tmp_path).use_pretrained_backbone
