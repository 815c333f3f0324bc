"""The guides: every command has options that exist, and, in the slow tier, everything runs as it stands, in order."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from guides import PAGES, REPOSITORY, blocks, detr_arguments
from local_hub.server import HubServer
from made_video import make_video
from PIL import Image
from sure_segmenter import sure_segmenter
from tiny_detector import save, tiny_detector
from typer.main import get_command

from transformers_detr.cli import app
from transformers_detr.data.synthetic import make_scene
from transformers_detr.hub.bundled_model import NAME

COMMANDS = [
    pytest.param(arguments, id=f"{page.stem}: {' '.join(arguments)[:60]}")
    for page in PAGES
    for block in blocks(page)
    for command in block.commands
    if (arguments := detr_arguments(command)) is not None
]
NAMES = ("facebook/detr-resnet-50", "facebook/detr-resnet-50-panoptic", NAME)
# What stands between the name of a class or function and its module in the table of the guide
MIGRATED = {
    "transformers_detr": ["DetrForObjectDetection", "DetrForSegmentation", "DetrModel", "DetrConfig", "use_for_auto"],
    "transformers_detr.model.postprocessing_detr": ["post_process_instance_masks"],
    "transformers_detr.model.postprocessing_segmentation_detr": ["post_process_panoptic_paper"],
    "transformers_detr.model.matcher_detr": ["match"],
    "transformers_detr.model.loss_detr": ["set_loss"],
}


def test_there_are_guides():
    assert {page.stem for page in PAGES} >= {"detect", "fine-tune", "evaluate", "export", "serve", "publish", "convert"}
    assert {page.stem for page in PAGES} >= {"scale-out", "migrate", "index", "tables"}
    assert len(COMMANDS) > 20


def test_every_guide_is_in_the_table_of_contents():
    index = (REPOSITORY / "docs" / "index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^guides/([\w-]+)$", index, flags=re.MULTILINE))
    assert listed == {page.stem for page in PAGES} - {"index"}


def test_what_is_not_run_says_why():
    notes = {block.note for page in PAGES for block in blocks(page)}
    assert all(re.fullmatch(r"|in the background|not run: .{8,}", note) for note in notes), notes


@pytest.mark.parametrize("arguments", COMMANDS)
def test_options_exist(arguments):
    """The command line's own parser takes the arguments; nothing is run."""
    verb, *rest = arguments
    command = get_command(app).commands[verb]
    assert command.make_context(verb, rest).info_name == verb


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in MIGRATED.items() for name in names])
def test_what_one_migrates_to_exists(module, name):
    guide = (REPOSITORY / "docs" / "guides" / "migrate.md").read_text(encoding="utf-8")
    assert name in guide
    assert hasattr(importlib.import_module(module), name)


def test_settings_that_one_migrates_to_exist():
    from transformers_detr import DetrConfig
    from transformers_detr.training.arguments import DetrTrainingArguments

    guide = (REPOSITORY / "docs" / "guides" / "migrate.md").read_text(encoding="utf-8")
    settings = set(re.findall(r"--set (\w+)=", guide))
    assert settings
    assert settings <= set(DetrTrainingArguments.__dataclass_fields__)
    fields = set(re.findall(r"`(\w+_(?:cost|coefficient|layers|ffn_dim|type|queries))`", guide))
    assert {"class_cost", "eos_coefficient", "encoder_layers", "num_queries"} <= fields
    assert all(hasattr(DetrConfig(), field) for field in fields)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with what the guides suppose, and an environment whose Hub has small models under the usual names."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "photos").mkdir()
    for number, name in enumerate(("photo.jpg", "photos/one.jpg", "photos/two.png")):
        make_scene(7, number).image.save(folder / name)
    make_video(folder / "clip.mp4")
    server = HubServer()
    server.add(NAMES[0], save(tiny_detector(), folder / ".models" / "detector"))
    server.add(NAMES[1], save(sure_segmenter(), folder / ".models" / "segmenter"))
    yield (
        folder,
        {
            **os.environ,
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(folder / ".home"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "no_proxy": "127.0.0.1,localhost",
        },
    )
    server.close()


def wait_for(command, process):
    """Wait until a service that a command has begun is ready."""
    port = re.search(r"--port (\d+)", command)[1]
    for _ in range(600):
        assert process.poll() is None, "the service ended"
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("the service did not get ready")


@pytest.mark.slow  # minutes, all guides together
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_guide_runs_as_it_stands(page, desk):
    folder, environment = desk
    run = {"cwd": folder, "env": environment, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    services = []
    try:
        for block in blocks(page):
            if not block.is_run:
                continue
            if block.note == "in the background":
                (command,) = block.commands
                services.append(subprocess.Popen(command.split(), cwd=folder, env=environment))
                wait_for(command, services[-1])
                continue
            lines = [[sys.executable, "-c", block.code]] if block.language == "python" else block.commands
            for line in lines:
                done = subprocess.run(line if isinstance(line, list) else line.split(), **run)
                assert done.returncode == 0, f"{line}\n{done.stdout}"
    finally:
        for service in services:
            service.terminate()
            service.wait(30)


@pytest.mark.slow
def test_images_of_the_guides_are_images(desk):
    """After the guides have run: what they promise is there."""
    folder, _ = desk
    for name in ("why.png", "queries.png", "photo-detections.png"):
        with Image.open(folder / name) as image:
            assert min(image.size) > 50
    assert (folder / "runs" / "shapes" / "training.html").exists()
