"""A folder that carries our files, in a process where this package is not installed."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_detr import NATIVE_BACKBONE, randomize_norms, tiny_config
from transformers import pipeline
from transformers.dynamic_module_utils import get_imports, get_relative_import_files, get_relative_imports

from transformers_detr import (
    DetrConfig,
    DetrForObjectDetection,
    DetrForSegmentation,
    DetrImageProcessor,
    TableTransformerForObjectDetection,
)
from transformers_detr.hub.custom_code import CODE_FILES, add_custom_code

ENTRIES = (
    "configuration_detr",
    "modeling_detr",
    "modeling_segmentation_detr",
    "modeling_table_transformer_detr",
    "image_processing_detr",
)
REQUIRED = {"numpy", "PIL", "safetensors", "torch", "transformers"}
TOLERANCES = {
    "logits": {"rtol": 1e-5, "atol": 1e-4},
    "pred_boxes": {"rtol": 0, "atol": 1e-5},
    "pred_masks": {"rtol": 1e-5, "atol": 1e-4},
}
SIZE = (64, 96)  # of the image, height and width: the processor leaves it as it is, in stock as well


def make(folder, model_class, **config):
    torch.manual_seed(0)
    model = model_class(tiny_config(model_class.config_class, **config)).eval()
    randomize_norms(model)
    with torch.no_grad():  # predictions that are sure, and differ from query to query
        for name, parameter in model.named_parameters():
            if name.endswith(("class_labels_classifier.weight", "query_position_embeddings.weight")):
                parameter *= 10
            elif name.endswith("class_labels_classifier.bias"):
                parameter[-1] -= 10
    model.save_pretrained(folder)
    DetrImageProcessor(size={"shortest_edge": SIZE[0], "longest_edge": 2 * SIZE[0]}).save_pretrained(folder)
    add_custom_code(folder)
    return folder


@pytest.fixture(scope="module")
def image_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "noise.png"
    pixels = torch.randint(0, 256, (*SIZE, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(path)
    return path


@pytest.fixture(scope="module")
def clean_process(tmp_path_factory, image_file):
    """Function `(blocked names, folders) -> results` of `clean_process.py`."""

    def run(blocked, *folders):
        home = tmp_path_factory.mktemp("home")
        environment = {
            **os.environ,
            "HF_HOME": str(home),
            "HF_MODULES_CACHE": str(home / "modules"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        script = Path(__file__).with_name("clean_process.py")
        command = [sys.executable, script, ",".join(blocked), image_file, home / "result.json", *folders]
        done = subprocess.run(list(map(str, command)), env=environment, cwd=home, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads((home / "result.json").read_text())

    return run


def expected(folder, model_class, image_file):
    """What the package itself makes of the image."""
    model = model_class.from_pretrained(folder).eval()
    processor = DetrImageProcessor.from_pretrained(folder)
    image = Image.open(image_file)
    with torch.no_grad():
        outputs = model(**processor(image, return_tensors="pt"))
    task = "image-segmentation" if model_class is DetrForSegmentation else "object-detection"
    answers = pipeline(task, model=model, image_processor=processor)(image, threshold=0.3)
    for answer in answers:
        if "mask" in answer:
            answer["mask"] = int((torch.tensor(list(answer["mask"].get_flattened_data())) > 0).sum())
    return outputs, answers


@pytest.fixture
def one_thread():
    """As in the clean process, for sums in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def check(found, folder, model_class, image_file):
    outputs, answers = expected(folder, model_class, image_file)
    assert answers, "an image without detections shows nothing"
    custom, stock = found[f"{folder.name}/custom"], found[f"{folder.name}/stock"]
    assert custom["model"].startswith("transformers_modules.")
    assert custom["processor"].startswith("transformers_modules.")
    home = model_class.config_class.model_type.replace("-", "_")
    assert stock["model"].startswith(f"transformers.models.{home}.")
    assert stock["processor"].startswith("transformers.models.detr.")
    for name, values in custom["outputs"].items():
        assert torch.equal(torch.tensor(values), outputs[name].flatten()), name
        torch.testing.assert_close(torch.tensor(stock["outputs"][name]), outputs[name].flatten(), **TOLERANCES[name])
    assert custom["pipeline"] == answers
    assert [a["label"] for a in stock["pipeline"]] == [a["label"] for a in answers]
    for answer, ours in zip(stock["pipeline"], answers, strict=True):
        assert answer["score"] == pytest.approx(ours["score"], abs=1e-5)
        assert answer.get("box") == ours.get("box")


@pytest.mark.usefixtures("one_thread")
def test_loads_where_this_package_is_not_installed(clean_process, tmp_path, image_file):
    """Nor are the packages that only training or other backbones need."""
    detector = make(tmp_path / "detector", DetrForObjectDetection)
    heads = {"encoder_attention_heads": 8, "decoder_attention_heads": 8}
    segmenter = make(tmp_path / "segmenter", DetrForSegmentation, d_model=128, **heads)
    found = clean_process(["transformers_detr", "scipy", "faster_coco_eval", "requests"], detector, segmenter)
    assert found["imported"] == []
    check(found, detector, DetrForObjectDetection, image_file)
    check(found, segmenter, DetrForSegmentation, image_file)


@pytest.mark.usefixtures("one_thread")
def test_a_native_backbone_needs_no_timm(clean_process, tmp_path, image_file):
    native = make(tmp_path / "native", DetrForObjectDetection, backbone_config=NATIVE_BACKBONE)
    tables = make(tmp_path / "tables", TableTransformerForObjectDetection, backbone_config=NATIVE_BACKBONE)
    found = clean_process(["transformers_detr", "timm", "scipy"], native, tables)
    assert found["imported"] == []
    check(found, native, DetrForObjectDetection, image_file)
    check(found, tables, TableTransformerForObjectDetection, image_file)


def test_registering_classes_writes_the_same(tmp_path, monkeypatch):
    for model_class in (DetrConfig, DetrForObjectDetection, DetrImageProcessor):
        monkeypatch.setattr(model_class, "_auto_class", None)
    DetrConfig.register_for_auto_class()
    DetrForObjectDetection.register_for_auto_class("AutoModelForObjectDetection")
    DetrImageProcessor.register_for_auto_class()
    model, processor = DetrForObjectDetection(tiny_config()), DetrImageProcessor()
    model.save_pretrained(tmp_path / "registered")
    processor.save_pretrained(tmp_path / "registered")
    monkeypatch.undo()
    shutil.copytree(tmp_path / "registered", tmp_path / "added", ignore=shutil.ignore_patterns("*.py"))
    add_custom_code(tmp_path / "added")
    for path in (tmp_path / "registered").iterdir():
        ours = tmp_path / "added" / path.name
        if path.name == "config.json":
            maps = [json.loads(p.read_text())["auto_map"] for p in (path, ours)]
            assert maps[0].items() <= maps[1].items()
        elif path.name == "preprocessor_config.json":
            assert json.loads(path.read_text()) == json.loads(ours.read_text())
        else:
            assert path.read_bytes() == ours.read_bytes()


@pytest.mark.parametrize("content", [None, {"architectures": ["YolosForObjectDetection"]}, {}])
def test_other_folders_are_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=str(tmp_path)):
        add_custom_code(tmp_path)


@pytest.mark.parametrize("entry", ENTRIES)
def test_entry_names_every_file_it_needs(entry):
    """Early 5.x, loading from a folder, copies only the files that the entry itself imports."""
    path = next(path for path in CODE_FILES if path.stem == entry)
    needed = {Path(needed).stem for needed in get_relative_import_files(path)}
    assert set(get_relative_imports(path)) == needed


@pytest.mark.parametrize("path", CODE_FILES, ids=lambda path: path.stem)
def test_the_loader_sees_what_python_sees(path):
    """The loader finds relative imports by a pattern, and takes all imports outside `try` as required."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom) and node.level]
    assert {node.level for node in nodes} <= {1}
    assert set(get_relative_imports(path)) == {node.module for node in nodes}
    assert all((path.parent / f"{node.module}.py").is_file() for node in nodes)
    assert set(get_imports(path)) <= REQUIRED | set(sys.stdlib_module_names)
