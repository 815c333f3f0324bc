"""Conversion of original checkpoint files to folders and back, on pseudo-random weights."""

from __future__ import annotations

import argparse
import json
from fractions import Fraction

import pytest
import torch

from convert_original import config_from_weights, config_of, convert, main, reverse
from key_map import to_original
from original_files import ConversionError, read, write
from transformers_detr.hub.architectures import FAMILIES
from transformers_detr.hub.published_checkpoints import CHECKPOINTS
from transformers_detr.model.configuration_detr import DetrConfig

TINY = {
    "backbone": "resnet18",
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_queries": 10,
    "num_labels": 5,
}


def made_up_weights(seed=0, model_type="detr", **changes):
    """Original weights of a tiny model, without reference data."""
    family = FAMILIES[model_type]
    torch.manual_seed(seed)
    return to_original(family.detector(family.config(**{**TINY, **changes})).state_dict())


@pytest.fixture(scope="module")
def weights():
    return made_up_weights()


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


@pytest.mark.parametrize("positions", ["sine", "learned"])
def test_there_and_back_is_the_same_file_byte_for_byte(positions, tmp_path):
    weights = made_up_weights(position_embedding_type=positions)
    original, back, folder = tmp_path / "a" / "x.pth", tmp_path / "b" / "x.pth", tmp_path / "folder"
    write(weights, original)
    convert(read(original), DetrConfig(**TINY, position_embedding_type=positions), folder)
    reverse(folder, back)
    assert back.read_bytes() == original.read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "verification.json",
    ]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_golden_predictions_survive_conversion(tmp_path, golden_state_dict, golden_tensors, golden_path):
    """The folder gives the original's predictions, alone and in a padded batch, by the script that --verify uses."""
    import numpy as np
    from PIL import Image

    from verify import compare

    model = convert(golden_state_dict("detr-tiny"), DetrConfig(**TINY), tmp_path / "folder")
    raw = golden_tensors("detr-tiny.outputs.safetensors")
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = []
    for name in "AB":
        with Image.open(golden_path("inputs", f"{name}.png")) as image:
            pixels = torch.from_numpy(np.array(image)).float() / 255
        images.append(((pixels - mean) / std).permute(2, 0, 1))
    batch_of_count = {(1, images[0].shape): "A", (1, images[1].shape): "B", (2, images[0].shape): "AB"}

    def original(batch):
        batch_name = batch_of_count[len(batch), batch[0].shape]
        return {name: raw[f"{batch_name}/{name}"] for name in ("pred_logits", "pred_boxes")}

    differences = compare(original, model, images)
    assert set(differences) == {"logits", "pred_boxes"}
    assert 0 < differences["logits"] < 3e-4

    def wrong(batch):
        return {name: tensor + 2e-3 for name, tensor in original(batch).items()}

    with pytest.raises(ConversionError, match=r"logits differ from the original's by 2.*e-03, 1e-03 is allowed"):
        compare(wrong, model, images)


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("detr-r50", "detr-resnet-50"),
        pytest.param("detr-r50-dc5", "detr-resnet-50-dc5", marks=pytest.mark.slow),
        ("detr-r50-panoptic", "detr-resnet-50-panoptic"),
        pytest.param("detr-r50-panoptic", "detr-resnet-50-dc5-panoptic", marks=pytest.mark.slow),
    ],
)
def test_published_architectures_convert_by_command(variant, name, tmp_path, golden_state_dict, capsys):
    weights = golden_state_dict(variant)
    original, back, folder = tmp_path / "original.pth", tmp_path / "back.pth", tmp_path / name
    torch.save({"model": weights}, original)
    assert main([name, "--checkpoint", str(original), "--output", str(folder)]) == 0
    assert main([name, "--checkpoint", str(folder), "--output", str(back), "--reverse"]) == 0
    assert "weights written and verified" in capsys.readouterr().out

    again = read(back)
    assert list(again) == list(weights)
    assert all(torch.equal(bits(again[key]), bits(tensor)) for key, tensor in weights.items())

    checkpoint = CHECKPOINTS[name]
    config = json.loads((folder / "config.json").read_text())
    kind = "Segmentation" if checkpoint.segmentation else "ObjectDetection"
    assert config["architectures"] == [f"DetrFor{kind}"]
    assert config["model_type"] == "detr"
    assert config["dilation"] == checkpoint.dilation
    assert config["id2label"] == {str(slot): label for slot, label in checkpoint.id2label.items()}
    assert config["label2id"]["cat"] == 17
    assert config.get("label_ids_to_fuse") == checkpoint.label_ids_to_fuse
    annotations = json.loads((folder / "preprocessor_config.json").read_text())["format"]
    assert annotations == ("coco_panoptic" if checkpoint.segmentation else "coco_detection")


@pytest.mark.slow
def test_a_converted_panoptic_folder_runs_in_all_three_pipelines(tmp_path, golden_state_dict, golden_path):
    """Half a minute. The weights are sure of little, hence the low thresholds."""
    from PIL import Image
    from transformers import pipeline

    from transformers_detr import DetrForSegmentation, DetrImageProcessor

    original, folder = tmp_path / "original.pth", tmp_path / "folder"
    torch.save({"model": golden_state_dict("detr-r50-panoptic")}, original)
    assert main(["detr-resnet-50-panoptic", "--checkpoint", str(original), "--output", str(folder)]) == 0
    model = DetrForSegmentation.from_pretrained(folder)
    processor = DetrImageProcessor.from_pretrained(folder, size={"shortest_edge": 256, "longest_edge": 400})
    segment = pipeline("image-segmentation", model=model, image_processor=processor, device="cpu")
    with Image.open(golden_path("inputs", "A.png")) as image:
        size = image.size
        for subtask in ("panoptic", "instance", "semantic"):
            answers = segment(image, subtask=subtask, threshold=0.05, mask_threshold=0, overlap_mask_area_threshold=0)
            assert answers
            assert {answer["label"] for answer in answers} <= set(model.config.id2label.values())
            assert all(answer["mask"].size == size for answer in answers)
            if subtask == "panoptic":
                stuff = {model.config.id2label[label] for label in model.config.label_ids_to_fuse}
                assert {"rug-merged", "sky-other-merged"} <= stuff
                assert not {"person", "cat"} & stuff


def test_class_names_map_both_ways():
    config = config_of(CHECKPOINTS["detr-resnet-50-panoptic"])
    assert config.num_labels == 250
    assert config.label2id["N/A"] == 0
    assert config.label2id["rug-merged"] == 200
    assert config.label_ids_to_fuse[:2] == [91, 92]
    assert config_of(CHECKPOINTS["detr-resnet-50"]).label_ids_to_fuse is None


def test_training_state_is_left_out_and_bare_weights_are_taken(weights, tmp_path):
    training = {"model": weights, "optimizer": {"state": {}}, "epoch": 3, "args": argparse.Namespace(lr=1e-4)}
    for index, content in enumerate((training, weights)):
        torch.save(content, tmp_path / f"{index}.pth")
        assert list(read(tmp_path / f"{index}.pth")) == list(weights)


def test_old_file_format_is_read(weights, tmp_path):
    """The published files are older than torch's present format."""
    path = tmp_path / "old.pth"
    torch.save({"model": weights}, path, _use_new_zipfile_serialization=False)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in read(path).items())


def bad_files(folder, weights):
    """Files that are no checkpoints, with what the error must say."""
    whole, old = folder / "whole.pth", folder / "old.pth"
    torch.save({"model": weights}, whole)
    torch.save({"model": weights}, old, _use_new_zipfile_serialization=False)
    contents = {
        "truncated": (whole.read_bytes()[:-1000], "the file is truncated"),
        "truncated-old": (old.read_bytes()[:-1000], "cannot be read"),
        "beginning-only": (whole.read_bytes()[:100], "the file is truncated"),
        "empty": (b"", "empty"),
        "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
        "page": (b"\n<!DOCTYPE html><html></html>", "web page"),
        "text": (b"hello", "this is not a PyTorch file, but perhaps a saved web page"),
    }
    for name, (content, message) in contents.items():
        (folder / f"{name}.pth").write_bytes(content)
        yield folder / f"{name}.pth", message
    objects = {
        "tensor": (torch.zeros(3), "holds a Tensor"),
        "state": ({"optimizer": {}, "epoch": 1}, "training state without weights.*found optimizer, epoch"),
        "other": ({"state_dict": {}, "meta": 1}, "no weights.*found state_dict, meta"),
        "none": ({"model": {}}, "it is empty"),
        "object": ({"model": Fraction(1)}, "cannot be read .*fractions.Fraction"),
    }
    for name, (content, message) in objects.items():
        torch.save(content, folder / f"{name}.pth")
        yield folder / f"{name}.pth", message
    yield folder / "absent.pth", "no such file"
    yield folder, "no such file"


def test_files_that_are_no_checkpoints_are_refused_in_one_line(weights, tmp_path, capsys):
    files = list(bad_files(tmp_path, weights))
    assert len(files) == 14
    for path, message in files:
        assert main(["detr-resnet-50", "--checkpoint", str(path), "--output", str(tmp_path / "out")]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: {path}: ")
        assert error.count(str(path)) == 1
        assert error.count("\n") == 1
        with pytest.raises(ConversionError, match=message):
            read(path)
        assert not (tmp_path / "out").exists()


def test_wrong_weights_are_refused_by_name(weights, tmp_path):
    config = DetrConfig(**TINY)
    cases = {
        "unknown weights: class_embed.wait": {"class_embed.wait": torch.zeros(1)},
        "unknown weights: backbone.0.body.layer4.2.conv1.weight": {
            "backbone.0.body.layer4.2.conv1.weight": torch.ones(1)
        },
        r"another shape: class_embed.bias \(4,\) instead of \(6,\)": {"class_embed.bias": torch.zeros(4)},
        r"another shape: .*in_proj_bias \(97,\) instead of \(96,\)": {
            "transformer.encoder.layers.0.self_attn.in_proj_bias": torch.zeros(97)
        },
    }
    for message, change in cases.items():
        with pytest.raises(ConversionError, match=message):
            convert(weights | change, config, tmp_path / "out")
    missing = {name: tensor for name, tensor in weights.items() if name != "query_embed.weight"}
    with pytest.raises(ConversionError, match=r"missing weights: query_embed\.weight$"):
        convert(missing, config, tmp_path / "out")
    spoilt = weights | {"class_embed.bias": torch.full((6,), torch.nan)}
    with pytest.raises(ConversionError, match=r"holds NaN or infinity in class_embed\.bias$"):
        convert(spoilt, config, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_another_architecture_is_refused_in_one_line(weights, tmp_path, capsys):
    write(weights, tmp_path / "tiny.pth")
    assert main(["detr-resnet-50", "--checkpoint", str(tmp_path / "tiny.pth"), "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "does not fit the architecture" in error
    assert "missing weights: transformer.encoder.layers.2" in error
    assert error.count("\n") == 1


def test_existing_output_is_left_alone(weights, tmp_path, capsys):
    write(weights, tmp_path / "x.pth")
    (tmp_path / "folder").mkdir()
    convert(weights, DetrConfig(**TINY), tmp_path / "folder")  # an empty folder may be filled
    before = (tmp_path / "folder" / "config.json").read_bytes()
    arguments = ["detr-resnet-50", "--checkpoint", str(tmp_path / "x.pth"), "--output"]
    assert main([*arguments, str(tmp_path / "folder")]) == 1
    assert "exists already" in capsys.readouterr().err
    assert (
        main(
            [
                "detr-resnet-50",
                "--checkpoint",
                str(tmp_path / "folder"),
                "--output",
                str(tmp_path / "x.pth"),
                "--reverse",
            ]
        )
        == 1
    )
    assert (tmp_path / "folder" / "config.json").read_bytes() == before


def test_reverse_refuses_what_the_original_does_not_have(tmp_path):
    """A folder with another backbone converts to nothing that the original could load."""
    from transformers_detr.model.image_processing_detr import DetrImageProcessor
    from transformers_detr.model.modeling_detr import DetrForObjectDetection

    config = DetrConfig(**{**TINY, "backbone": "mobilenetv3_small_050"})
    DetrForObjectDetection(config).save_pretrained(tmp_path / "folder")
    DetrImageProcessor().save_pretrained(tmp_path / "folder")
    with pytest.raises(ConversionError, match=r"names that a stored DETR checkpoint does not have: model\.backbone"):
        reverse(tmp_path / "folder", tmp_path / "back.pth")
    assert not (tmp_path / "back.pth").exists()


def test_reverse_refuses_another_backbone_than_the_checkpoints(weights, tmp_path, capsys):
    folder, path = tmp_path / "folder", tmp_path / "x.pth"
    convert(weights, DetrConfig(**TINY), folder)
    assert main(["detr-resnet-50-dc5", "--checkpoint", str(folder), "--output", str(path), "--reverse"]) == 1
    assert capsys.readouterr().err == f"error: {folder}: the backbone is resnet18, not resnet50, dilated\n"
    assert not path.exists()


def test_reverse_of_a_folder_that_cannot_be_loaded_is_one_line(tmp_path, capsys):
    assert (
        main(["detr-resnet-50", "--checkpoint", str(tmp_path / "no"), "--output", str(tmp_path / "x"), "--reverse"])
        == 1
    )
    assert capsys.readouterr().err.startswith("error: ")


def test_nothing_is_left_behind_when_writing_fails(weights, tmp_path, monkeypatch):
    monkeypatch.setattr("convert_original.load_pretrained", lambda *_, **__: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        convert(weights, DetrConfig(**TINY), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_are_refused(capsys):
    for arguments in (
        ["detr-resnet-51", "--output", "x"],
        ["detr-resnet-50", "--output", "x", "--reverse", "--verify"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
    capsys.readouterr()


@pytest.mark.network
@pytest.mark.parametrize("name", list(CHECKPOINTS))
def test_published_checkpoints_convert_and_agree_with_the_originals_code(name, tmp_path):
    assert main([name, "--output", str(tmp_path / name), "--verify"]) == 0


PRE_NORM = {
    "tiny": {},
    "another backbone, fewer classes": {"backbone": "resnet34", "num_labels": 3},
    "deep, uneven, learned": {
        "backbone": "resnet50",
        "encoder_layers": 3,
        "decoder_layers": 1,
        "decoder_ffn_dim": 48,
        "num_queries": 7,
        "num_labels": 9,
        "position_embedding_type": "learned",
    },
}


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("case", PRE_NORM)
def test_checkpoints_without_a_published_name_convert_and_come_back(model_type, case, tmp_path, capsys):
    """The architecture is read off the weights, whatever backbone, classes and sizes they have."""
    changes = PRE_NORM[case]
    weights = made_up_weights(model_type=model_type, **changes)
    original, back, folder = tmp_path / "a" / "x.pth", tmp_path / "b" / "x.pth", tmp_path / "folder"
    write(weights, original)
    names = [f"class {slot}" for slot in range(changes.get("num_labels", 5))]
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n")
    arguments = ["--checkpoint", str(original), "--output", str(folder), "--heads", "4"]
    assert main([*arguments, "--class-names", str(tmp_path / "names.txt")]) == 0
    assert model_type in capsys.readouterr().out
    assert main(["--checkpoint", str(folder), "--output", str(back), "--reverse"]) == 0
    assert back.read_bytes() == original.read_bytes()
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == model_type
    assert config["architectures"] == [FAMILIES[model_type].detector.__name__]
    assert list(config["id2label"].values()) == names
    found = config_from_weights(weights, num_heads=4)
    for name, value in (TINY | changes).items():
        assert getattr(found, name) == value, name


@pytest.mark.parametrize("variant", ["detr-tiny-prenorm", "tatr-detection"])
def test_golden_predictions_of_pre_norm_survive_conversion(
    variant, tmp_path, golden_state_dict, golden_tensors, golden_path
):
    """By command, with the architecture read off the weights."""
    from PIL import Image

    from transformers_detr import DetrImageProcessor, TableTransformerForObjectDetection

    torch.save({"model": golden_state_dict(variant)}, tmp_path / "x.pth")
    heads = "4" if "tiny" in variant else "8"
    arguments = ["--checkpoint", str(tmp_path / "x.pth"), "--output", str(tmp_path / "folder"), "--heads", heads]
    assert main(arguments) == 0
    model = TableTransformerForObjectDetection.from_pretrained(tmp_path / "folder").eval()
    golden = golden_tensors(f"{variant}.outputs.safetensors")
    images = [Image.open(golden_path("inputs", f"{name}.png")) for name in "AB"]
    inputs = DetrImageProcessor(do_resize=False)(images, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    assert (outputs.logits - golden["AB/pred_logits"]).abs().max() < 1e-3
    assert (outputs.pred_boxes - golden["AB/pred_boxes"]).abs().max() < 5e-5


def test_the_published_table_transformer_converts_by_name(tmp_path, golden_state_dict):
    torch.save({"model": golden_state_dict("tatr-detection")}, tmp_path / "x.pth")
    folder, back = tmp_path / "folder", tmp_path / "back.pth"
    name = "table-transformer-detection"
    assert main([name, "--checkpoint", str(tmp_path / "x.pth"), "--output", str(folder)]) == 0
    assert main([name, "--checkpoint", str(folder), "--output", str(back), "--reverse"]) == 0
    again = read(back)
    assert all(
        torch.equal(bits(again[key]), bits(tensor)) for key, tensor in golden_state_dict("tatr-detection").items()
    )
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "table", "1": "table rotated"}
    assert config["num_queries"] == 15
    assert json.loads((folder / "preprocessor_config.json").read_text())["size"] == {
        "shortest_edge": 800,
        "longest_edge": 800,
    }


def test_class_slots_of_pascal_voc_get_its_names():
    checkpoint = CHECKPOINTS["up-detr-resnet-50"]
    assert config_of(checkpoint, {"class_embed.bias": torch.zeros(92)}).id2label[1] == "person"
    voc = config_of(checkpoint, {"class_embed.bias": torch.zeros(22)})
    assert (voc.num_labels, voc.id2label[1], voc.id2label[20]) == (21, "aeroplane", "tvmonitor")
    assert voc.model_type == "table-transformer"


def test_what_cannot_be_read_off_weights_is_refused(weights, tmp_path, capsys):
    write(weights, tmp_path / "x.pth")
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    arguments = ["--checkpoint", str(tmp_path / "x.pth"), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--class-names", str(tmp_path / "names.txt")]) == 1
    assert "the weights have 5 class slots, but 2 names were given" in capsys.readouterr().err
    with pytest.raises(ConversionError, match=r"query_embed\.weight is missing"):
        config_from_weights({"class_embed.bias": torch.zeros(3)})
    odd = weights | {"backbone.0.body.layer1.5.conv1.weight": torch.zeros(1)}
    with pytest.raises(ConversionError, match="no ResNet has stages of 3, 2, 2, 2 blocks"):
        config_from_weights(odd)
    for wrong in (["--output", "x"], ["--output", "x", "--checkpoint", "y", "--verify"]):
        with pytest.raises(SystemExit):
            main(wrong)
    with pytest.raises(SystemExit):
        main(["detr-resnet-50", "--output", "x", "--dilation"])
    assert main(["up-detr-resnet-50", "--output", str(tmp_path / "out")]) == 1
    assert "up-detr-coco-fine-tuned-300ep.pth" in capsys.readouterr().err
    assert main(["up-detr-resnet-50", "--output", str(tmp_path / "out.pth"), "--reverse"]) == 1
    assert "--checkpoint" in capsys.readouterr().err
