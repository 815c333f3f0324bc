"""Who may import whom: each part of the package stands on a floor and knows only the floors below."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import transformers_detr

PACKAGE = Path(transformers_detr.__file__).parent
CONVERSION = PACKAGE.parent.parent / "conversion"

# From the lowest floor to the highest. A part is a file of model/ (without its `_detr`), another file, or a folder with
# all that is in it. Parts on one floor do not know each other.
FLOORS = [
    # The Hub set
    "frozen_batch_norm recording",
    "cpu_kernels fusing",
    "boxes coco_masks configuration exact_padding image_io initialization resize targets",
    "annotations backbone padding matcher position_embedding postprocessing mask_head postprocessing_segmentation"
    " processor_arguments transformer",
    "loss image_processing outputs pretrained",
    "modeling",
    "modeling_segmentation modeling_table_transformer",
    # What several parts need
    "atomic_io backends.registry prefetch explanation.attention hub.bundled_model hub.class_names visualization",
    "hub.published_checkpoints",
    "hub.architectures hub.model_files",
    "hub.loading",
    "backends",
    "inference",
    "data",
    "evaluation",
    "explanation export hub serving training",
    "cli",
]
FLOOR = {part: floor for floor, parts in enumerate(FLOORS) for part in parts.split()}

IMAGE_SIDE = {
    "annotations",
    "padding",
    "image_processing",
    "image_io",
    "postprocessing",
    "postprocessing_segmentation",
    "processor_arguments",
}
KNOWS_NOTHING_OF_OURS = {"backends.registry", "hub.bundled_model", "hub.class_names", "prefetch", "atomic_io"}

VAGUE = {"util", "utils", "misc", "helpers", "common", "tools"}
HEAVY = {"torch", "transformers", "timm", "scipy", "huggingface_hub", "numpy", "PIL"}
CARD = {"torch", "timm", "transformers", "safetensors", "huggingface_hub", "PIL", "numpy", "scipy", "accelerate"}
REQUIRED = {"faster_coco_eval", "jinja2"}
"""Required dependencies beyond those of the card, for evaluation and reports."""

OPTIONAL = {
    "cv2",
    "datasets",
    "fastapi",
    "faster_coco_eval",
    "jinja2",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "openvino",
    "pandas",
    "prometheus_client",
    "rich",
    "supervision",
    "typer",
    "uvicorn",
}


def modules():
    """Dotted name of each module, without the package's own, and its file."""
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}


MODULES = modules()


def part_of(module):
    module = module.removesuffix(".__init__")
    first, _, rest = module.partition(".")
    if module in FLOOR:  # a file of a folder that stands on another floor
        return module
    return rest.removesuffix("_detr") if first == "model" and rest else first


def imported(module):
    """Modules of ours that a module imports, wherever in it; `""` is the package itself."""
    path = MODULES[module]
    folder = module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            names = [f"transformers_detr.{folder}.{node.module}"]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "transformers_detr":
                yield _module(name.partition(".")[2])


def from_package(module):
    """Names that a module imports from the package itself."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "transformers_detr"]
    return {alias.name for node in found for alias in node.names} - {module.split(".")[0] for module in MODULES}


def _module(name):
    """The module in which an imported name lives: the name itself, or that which holds it."""
    for candidate in (name, name.rpartition(".")[0]):
        if candidate in MODULES:
            return candidate
        if f"{candidate}.__init__" in MODULES:
            return f"{candidate}.__init__"
    return ""


ARROWS = [
    (module, other) for module in sorted(MODULES) if module != "__init__" for other in sorted(set(imported(module)))
]


def test_the_arrows_are_found():
    assert ("hub.loading", "model.configuration_detr") in ARROWS
    assert ("model.loss_detr", "model.boxes_detr") in ARROWS
    assert ("cli.check", "data.check_workflow") in ARROWS  # imported inside a function


@pytest.mark.parametrize("part", sorted({part_of(module) for module in MODULES} - {"__init__", "model"}))
def test_every_part_has_a_floor(part):
    assert part in FLOOR, f"{part} is new: give it a floor in this file, as low as it can stand"


@pytest.mark.parametrize(("module", "other"), ARROWS, ids=lambda module: module or "package")
def test_arrows_point_down(module, other):
    ours, theirs = part_of(module), part_of(other)
    if ours == theirs:
        return
    if theirs in ("", "__init__"):
        assert from_package(module) == {"__version__"}, "only the version is taken from the package itself"
        return
    if theirs == "model":
        assert ours == "hub", "name the file of model/"
        return
    assert FLOOR[theirs] < FLOOR[ours], f"{module} must not know {other}: it stands on the same floor or above"


def test_nothing_goes_in_circles():
    graph = {}
    for module, other in ARROWS:
        graph.setdefault(module, set()).add(other)
    order = list(TopologicalSorter(graph).static_order())  # a CycleError names the circle
    assert all(order.index(other) < order.index(module) for module, other in ARROWS)


def test_the_model_does_not_know_the_image_side():
    for module in ("model.modeling_detr", "model.modeling_segmentation_detr"):
        reached, ahead = set(), [module]
        while ahead:
            ahead += (new := set(imported(ahead.pop())) - reached)
            reached |= new
        assert not IMAGE_SIDE & {part_of(other) for other in reached}, module


def test_these_know_nothing_of_ours():
    assert not [arrow for arrow in ARROWS if part_of(arrow[0]) in KNOWS_NOTHING_OF_OURS]


def test_the_hub_set_does_not_know_the_package_by_name():
    """In a Hub folder there is no package."""
    for module, path in MODULES.items():
        if module.startswith("model.") and not module.endswith("__init__"):
            assert not [node for node in ast.walk(ast.parse(path.read_text())) if names_package(node)], module


def names_package(node):
    if isinstance(node, ast.Import):
        return any(alias.name.startswith("transformers_detr") for alias in node.names)
    return isinstance(node, ast.ImportFrom) and (node.module or "").startswith("transformers_detr")


def test_conversion_is_not_imported():
    scripts = {path.stem for path in CONVERSION.glob("*.py")}
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert node.module.split(".")[0] not in {"conversion", *scripts}, module


def test_the_hub_set_is_flat():
    assert not [path for path in (PACKAGE / "model").rglob("*.py") if path.parent != PACKAGE / "model"]
    assert all(path.stem.endswith("_detr") or path.stem == "__init__" for path in (PACKAGE / "model").glob("*.py"))


def test_no_part_is_a_drawer():
    names = {part for module in MODULES for part in module.split(".")}
    assert not names & VAGUE


@pytest.mark.parametrize("module", sorted(module for module in MODULES if not module.startswith("cli.")))
def test_library_code_neither_exits_nor_asserts(module):
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        assert not isinstance(node, ast.Assert), f"{module}:{node.lineno}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("exit", "quit", "sys.exit", "os._exit"), f"{module}:{node.lineno}"
        if isinstance(node, ast.Raise) and node.exc is not None:
            assert "SystemExit" not in ast.unparse(node.exc), f"{module}:{node.lineno}"


def loaded_by(statement):
    """Top-level names of the modules that a statement brings in, in a fresh process."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_importing_the_package_loads_nothing_else():
    assert not loaded_by("import transformers_detr") & (HEAVY | OPTIONAL)


def test_the_command_line_starts_light():
    assert not loaded_by("import transformers_detr.cli") & {"torch", "transformers", "timm", "scipy", "huggingface_hub"}


def test_public_names_load_nothing_optional():
    """Only required dependencies, and what these load themselves."""
    parts = ("image_processing_utils", "modeling_utils", "trainer")
    modules = [*sorted(CARD | REQUIRED), *(f"transformers.{part}" for part in parts)]
    plain = loaded_by(f"import {', '.join(modules)}")
    assert not loaded_by("from transformers_detr import *") & (OPTIONAL - plain)
