"""`conversion/convert_original.py --push-to-hub`, by the same way as `detr push`."""

import json

import torch
from local_hub.steps import convert_and_push
from tiny_detr import tiny_config

from key_map import to_original
from original_files import write
from published_card import published_card
from transformers_detr import DetrForObjectDetection
from transformers_detr.hub.fingerprint import FINGERPRINT_FILE
from transformers_detr.hub.published_checkpoints import CHECKPOINTS

NAME = "an-org/detr-resnet-50"


def test_a_converted_checkpoint_is_published_with_its_card(hub, tmp_path):
    torch.manual_seed(0)
    write(to_original(DetrForObjectDetection(tiny_config()).state_dict()), tmp_path / "original.pth")
    folder = tmp_path / "out"
    arguments = ["detr-resnet-50", "--checkpoint", str(tmp_path / "original.pth"), "--output", str(folder)]
    assert hub.call(convert_and_push, [*arguments, "--push-to-hub", NAME]) == 0
    content = hub.server.content(NAME)
    assert content["README.md"].decode() == published_card(CHECKPOINTS["detr-resnet-50"], NAME)
    names = {"README.md", "config.json", "preprocessor_config.json", "model.safetensors", FINGERPRINT_FILE}
    assert content == {name: (folder / name).read_bytes() for name in names}
    assert set(json.loads(content[FINGERPRINT_FILE])) == {"logits", "pred_boxes"}
