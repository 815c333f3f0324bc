"""Loading: what is wrong is named, with the file and with what to do."""

import json
import re
import shutil

import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tiny_detector import save, tiny_detector

from transformers_detr import DetrConfig, DetrForObjectDetection
from transformers_detr.hub.loading import LoadingError, check_weight_file, load_pretrained
from transformers_detr.model import pretrained_detr


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tiny_detector(), tmp_path_factory.mktemp("saved"))


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def refusal(name, **options):
    """What is said to somebody who loads it."""
    with pytest.raises(LoadingError) as refused:
        load_pretrained(DetrForObjectDetection, name, **options)
    return str(refused.value)


def same_weights(model, other):
    expected = other.state_dict()
    return all(torch.equal(weights, expected[name]) for name, weights in model.state_dict().items())


def test_folder_loads_with_its_processor(folder):
    model, processor = load_pretrained(DetrForObjectDetection, folder)
    assert not model.training
    assert processor.size["shortest_edge"] == 64
    assert same_weights(model, tiny_detector().model)


def test_stored_names_spare_the_frameworks_conversion(folder, monkeypatch):
    """The way of nearly all tensors, and that of the framework alone, give the same model."""
    left = []
    place = pretrained_detr._place_what_fits

    def placed(*args):
        others, names = place(*args)
        left.append(len(others))
        return others, names

    monkeypatch.setattr(pretrained_detr, "_place_what_fits", placed)
    quick, info = DetrForObjectDetection.from_pretrained(folder, output_loading_info=True)
    assert left == [1]
    assert not any(info.values())
    monkeypatch.setattr(pretrained_detr, "_is_plain", lambda *_: False)
    usual = DetrForObjectDetection.from_pretrained(folder)
    assert same_weights(quick, usual)
    built = [parameter.requires_grad for parameter in tiny_detector().model.parameters()]
    assert not all(built)  # the stem is frozen, and stays so
    assert [parameter.requires_grad for parameter in quick.parameters()] == built
    assert [parameter.requires_grad for parameter in usual.parameters()] == built
    assert not any(module.training for module in quick.modules())


@pytest.mark.parametrize("options", [{"dtype": torch.float16}, {"num_labels": 5, "ignore_mismatched_sizes": True}])
def test_other_dtypes_and_shapes_go_through_the_framework(folder, options):
    model = DetrForObjectDetection.from_pretrained(folder, **options)
    assert model.dtype == options.get("dtype", torch.float32)
    assert model.class_labels_classifier.out_features == options.get("num_labels", model.config.num_labels) + 1
    assert torch.isfinite(model.class_labels_classifier.weight).all()
    expected = tiny_detector().model.model.input_projection.weight
    assert torch.allclose(model.model.input_projection.weight.float(), expected, atol=1e-3)


def test_torch_file_and_shards_load(folder):
    model, _ = load_pretrained(DetrForObjectDetection, folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    assert same_weights(load_pretrained(DetrForObjectDetection, folder)[0], model)
    (folder / "pytorch_model.bin").unlink()
    model.save_pretrained(folder, max_shard_size="10MB")
    assert same_weights(load_pretrained(DetrForObjectDetection, folder)[0], model)
    shard = sorted(folder.glob("model-0*.safetensors"))[1]
    shard.rename(folder / "elsewhere")
    assert re.search(f"{shard.name}, which model.safetensors.index.json lists, is missing", refusal(folder))


def test_lfs_pointer_is_named(folder, shared_path):
    pointer = shared_path("data", "hub_configs", "detrstreamlit_model.safetensors")
    shutil.copy(pointer, folder / "model.safetensors")
    assert re.search(r"model\.safetensors: this is a Git LFS pointer.*git lfs pull", refusal(folder))


@pytest.mark.parametrize(
    ("length", "reason"), [(0, "is empty"), (5, "is truncated"), (2000, "is truncated"), (-1, "is truncated")]
)
def test_truncated_safetensors_is_named(folder, length, reason):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    assert re.search(rf"model\.safetensors: the file (is|was)? ?.*{reason}", refusal(folder))


def test_truncated_torch_file_is_named(folder):
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    torch.save({"a": torch.zeros(1000)}, path)
    check_weight_file(path)
    path.write_bytes(path.read_bytes()[:3000])
    assert re.search(r"pytorch_model\.bin: the file is truncated", refusal(folder))


def test_page_saved_as_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_text("<html>not found</html>")
    assert re.search(r"pytorch_model\.bin: this is not a PyTorch file, but perhaps a saved web page", refusal(folder))


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert re.search(f"{name} is missing", refusal(folder))


def test_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    assert re.search("no weights here", refusal(folder))
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"")
    assert re.search("exported model without PyTorch weights.* --backend onnx", refusal(folder))


def test_missing_weights_are_named(folder):
    model, _ = load_pretrained(DetrForObjectDetection, folder)
    weights = {name: value for name, value in model.state_dict().items() if "bbox_predictor" not in name}
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert re.search(r"lacks weights of DetrForObjectDetection: bbox_predictor.*and 3 more", refusal(folder))


def test_weights_of_another_shape_are_refused(folder):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "num_queries": 7}))
    assert re.search(f"{folder}: ", refusal(folder))


def test_other_model_type_is_named(folder):
    (folder / "config.json").write_text('{"model_type": "yolos"}')
    assert re.search("a model of type 'yolos', not a DETR", refusal(folder))


def test_model_of_another_purpose_is_refused(folder):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "architectures": ["DetrForSegmentation"]}))
    assert re.search(f"{folder}: this model segments; use `detr segment` or Segmenter$", refusal(folder))


@pytest.mark.parametrize("content", ["{", '{"model_type": "detr", "num_queries": 0}'])
def test_damaged_config_is_refused(folder, content):
    (folder / "config.json").write_text(content)
    assert re.search(f"{folder}: ", refusal(folder))


@pytest.mark.parametrize("name", ["./missing", "/missing/folder", "a/b/c", "~/missing-folder"])
def test_missing_folder(name):
    assert re.search("no such folder", refusal(name))


def test_original_file_is_sent_to_the_converter(tmp_path):
    path = tmp_path / "detr-r50-e632da11.pth"
    path.touch()
    assert re.search(r"this is a file; .*conversion/convert_original\.py", refusal(path))


def test_unreachable_hub_says_what_to_do(tmp_path):
    assert re.search(
        r"^facebook/detr-resnet-50: the Hugging Face Hub cannot be reached.*hf download.*convert_original.*OFFLINE=1",
        refusal("facebook/detr-resnet-50", local_files_only=True, cache_dir=tmp_path),
    )
    assert re.search("no such folder, and not a valid name on the Hub", refusal("no such name"))


class Answer:
    """What the Hub's errors want to know of an answer."""

    headers: dict[str, str] = {}  # noqa: RUF012
    status_code = 404
    request = None


@pytest.mark.parametrize(
    ("cause", "match"),
    [
        (RepositoryNotFoundError("404", response=Answer()), "no such model on the Hub"),
        (RevisionNotFoundError("404", response=Answer()), "the Hub has no revision 'v9' of it"),
        (GatedRepoError("403", response=Answer()), "ask for it at https://huggingface.co/someone/detr"),
        (LocalEntryNotFoundError("offline"), "cannot be reached"),
        (ConnectionError("no route"), "cannot be reached"),
    ],
)
def test_answers_of_the_hub(monkeypatch, cause, match):
    def fail(*args, **kwargs):
        raise OSError("wrapped by transformers") from cause

    monkeypatch.setattr(DetrConfig, "get_config_dict", fail)
    assert re.search(f"^someone/detr: .*{match}", refusal("someone/detr", revision="v9"))


@pytest.mark.parametrize("names", [{"0": "a", "2": "c"}, {"1": "a", "2": "b", "3": "c"}])
def test_class_ids_with_gaps(folder, names):
    """The framework counts two or three classes; the last id would be that of "no object"."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "id2label": names, "label2id": {}}))
    missing = 1 if "0" in names else 0
    count = len(names)
    with pytest.raises(
        LoadingError, match=rf"{count} names, so their ids must be 0 to {count - 1}; {missing} has none"
    ):
        load_pretrained(DetrForObjectDetection, folder, ignore_mismatched_sizes=True)
    named = dict(enumerate(["x", "y", "z"]))
    model, _ = load_pretrained(DetrForObjectDetection, folder, id2label=named)
    assert model.config.id2label == named
