"""What the DETR models share: loading, saving, initialisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel

from .backbone_detr import DetrConvEncoder
from .configuration_detr import DetrConfig


class DetrPreTrainedModel(PreTrainedModel):
    """What the DETR models share: loading, saving, initialisation.

    Modules bear the names of 2021 (`model.backbone.conv_encoder.model.conv1.weight`, `…fc1`, `…out_proj`), which
    every checkpoint on the Hub and every file that stock transformers writes has. Stock transformers 5 renames
    them in memory; here there is nothing to rename, in either direction and in any version.
    """

    config_class = DetrConfig
    config: DetrConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _no_split_modules = ["DetrConvEncoder", "DetrEncoderLayer", "DetrDecoderLayer"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the loss is a batch's mean: a Trainer has to divide it by accumulated batches
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _supports_flex_attn = True
    _keys_to_ignore_on_load_unexpected = [r"num_batches_tracked$"]  # noqa: RUF012

    @property
    def supports_exact_padding(self) -> bool:
        """Whether this model's trunk allows `exact_padding=True` for images of different sizes."""
        encoder = next(module for module in self.modules() if isinstance(module, DetrConvEncoder))
        return encoder.supports_exact_padding

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load as `PreTrainedModel.from_pretrained` does; also learned positions by their name in transformers 4."""
        kwargs.setdefault("key_mapping", {r"backbone\.position_embedding\.": "position_embedding."})
        return super().from_pretrained(*args, **kwargs)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save as `PreTrainedModel.save_pretrained` does; the stored config never asks to download a trunk."""
        kwargs.setdefault("save_original_format", False)  # the names in memory are the stored ones
        wanted, self.config.use_pretrained_backbone = self.config.use_pretrained_backbone, False
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            self.config.use_pretrained_backbone = wanted

    def _initialize_weights(self, module: nn.Module, *_: Any) -> None:
        # Without the argument that marks custom code: for it the base class passes over modules whose parameters all
        # sit in their children, assuming that custom code does not heed what was loaded. This code does.
        super()._initialize_weights(module)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise a module that knows how, as the original does; what came from a checkpoint is left alone."""
        initialise = getattr(module, "initialise", None)
        if callable(initialise):
            initialise()
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm) and module.weight is not None:
            init.ones_(module.weight)
            init.zeros_(module.bias)
