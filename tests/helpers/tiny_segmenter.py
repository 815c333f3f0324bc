"""A segmentation model small enough for tests, with random weights that make masks differ from query to query."""

from typing import Any

import torch
from tiny_detr import NATIVE_BACKBONE, randomize_norms, tiny_config

from transformers_detr import DetrForSegmentation


def tiny_segmenter(**changes: Any) -> DetrForSegmentation:
    torch.manual_seed(0)
    usual = {"encoder_attention_heads": 8} | ({} if "backbone" in changes else {"backbone_config": NATIVE_BACKBONE})
    model = DetrForSegmentation(tiny_config(**usual | changes)).eval()
    randomize_norms(model)
    head = model.mask_head
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight", "q_linear.weight", "k_linear.weight")):
                parameter *= 3  # look at different places
        head.lay1.weight[:, model.config.d_model :] *= 30
        for norm in (head.gn1, head.gn2, head.gn3, head.gn4, head.gn5):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_()
    return model
