"""Base of the DETR models: loading, saving, initialization."""

from __future__ import annotations

import re
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import initialization as init
from transformers.integrations import is_deepspeed_zero3_enabled, is_fsdp_enabled
from transformers.modeling_utils import PreTrainedModel

from .backbone_detr import DetrConvEncoder
from .configuration_detr import DetrConfig

LEARNED_POSITIONS = r"backbone\.position_embedding\."
"""Name of learned positions in transformers 4."""

POSITIONS_HERE, POSITIONS_STORED = re.compile(r"(^|\.)position_embedding\."), r"\1backbone.position_embedding."


class DetrPreTrainedModel(PreTrainedModel):
    """Base of the DETR models: loading, saving, initialization.

    Modules bear the names of 2021 (`model.backbone.conv_encoder.model.conv1.weight`, `…fc1`, `…out_proj`), which
    every checkpoint on the Hub and every file that stock transformers writes has. Stock transformers 5 renames
    them in memory; here there is nothing to rename, in either direction and in any version.
    """

    config_class = DetrConfig
    config: DetrConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)  # type: ignore[assignment]  # as in stock
    _no_split_modules = ["DetrConvEncoder", "DetrEncoderLayer", "DetrDecoderLayer"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the loss is a batch's mean: a Trainer has to divide it by accumulated batches
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _supports_flex_attn = True
    _keys_to_ignore_on_load_unexpected = [r"num_batches_tracked$"]  # noqa: RUF012

    def __init__(self, config: DetrConfig, *args: Any, **kwargs: Any):
        expected = self.config_class.model_type
        if getattr(config, "model_type", expected) != expected:
            raise ValueError(
                f"{type(self).__name__} takes a configuration of model_type {expected!r}, not {config.model_type!r}"
            )
        super().__init__(config, *args, **kwargs)

    @property
    def supports_exact_padding(self) -> bool:
        """Return whether this model's backbone allows `exact_padding=True` for images of different sizes."""
        encoder = next(module for module in self.modules() if isinstance(module, DetrConvEncoder))
        return encoder.supports_exact_padding

    def fuse(self) -> Any:
        """Make frozen norms part of the convolutions in front of them, in place: faster inference, the same results.

        The model then has plain convolutions with biases, and no norms in its backbone. It cannot be trained or saved
        until `unfuse` has undone it. `Detector` and the commands call it for models that they load.

        Returns:
            The model.
        """
        for module in self.modules():
            if isinstance(module, DetrConvEncoder):
                module.fuse()
        return self

    def unfuse(self) -> Any:
        """Undo `fuse`: the stored names and exact weights are back.

        Returns:
            The model.
        """
        for module in list(self.modules()):
            if isinstance(module, DetrConvEncoder):
                module.unfuse()
        return self

    @property
    def is_fused(self) -> bool:
        """Return whether `fuse` has been called and not undone."""
        return any(module.is_fused for module in self.modules() if isinstance(module, DetrConvEncoder))

    def train(self, mode: bool = True) -> Any:
        """Set the training mode.

        Raises:
            RuntimeError: The model is fused, and so for inference only.
        """
        if mode and self.is_fused:
            raise RuntimeError("a fused model is for inference only: call model.unfuse() before training")
        return super().train(mode)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load as `PreTrainedModel.from_pretrained` does; also learned positions by their name in transformers 4."""
        kwargs.setdefault("key_mapping", {LEARNED_POSITIONS: "position_embedding."})
        return super().from_pretrained(*args, **kwargs)

    @classmethod
    def get_init_context(cls, *args: Any, **kwargs: Any) -> list[Any]:
        """Contexts for building a model that is then loaded; skips random values that would be replaced."""
        return [*super().get_init_context(*args, **kwargs), init.no_init_weights()]

    @staticmethod
    def _load_pretrained_model(
        model: Any, state_dict: Any, checkpoint_files: Any, load_config: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Put tensors that fit unchanged straight in their places, and leave the others to the base class.

        The names in memory are the stored ones, so this is nearly every tensor; the base class compiles a pattern for
        each of them, which takes it longer than all the rest of loading. It also makes each of them trainable; what
        was built frozen, the stem and the first stage, stays so here.
        """
        frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
        placed: set[str] = set()
        if state_dict is None and _is_plain(model, checkpoint_files, load_config):
            state_dict, placed = _place_what_fits(model, checkpoint_files)
        info, index = PreTrainedModel._load_pretrained_model(
            model, state_dict, checkpoint_files, load_config, *args, **kwargs
        )
        info.missing_keys -= placed
        for name in frozen:
            model.get_parameter(name).requires_grad_(False)
        return info, index

    def set_attn_implementation(self, attn_implementation: str | dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """Choose the attention implementation; a backbone that has no such implementation keeps its own."""
        try:
            super().set_attn_implementation(attn_implementation, *args, **kwargs)
        except ValueError:
            if isinstance(attn_implementation, dict):
                raise
            super().set_attn_implementation({"": attn_implementation}, *args, **kwargs)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save as `PreTrainedModel.save_pretrained` does; the stored config never asks to download a backbone.

        Raises:
            RuntimeError: The model is fused.
        """
        if self.is_fused:
            raise RuntimeError("a fused model cannot be saved: call model.unfuse() first")
        kwargs.setdefault("save_original_format", False)  # the names in memory are the stored ones
        if self.config.norm_first and self.config.position_embedding_type == "learned":
            # Stock's class of this type still has them where transformers 4 had them.
            weights = kwargs.get("state_dict") or self.state_dict()
            kwargs["state_dict"] = {POSITIONS_HERE.sub(POSITIONS_STORED, name): v for name, v in weights.items()}
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
        """Initialize a module that knows how, as the original does; what came from a checkpoint is left alone."""
        initialize = getattr(module, "initialize", None)
        if callable(initialize):
            initialize()
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm) and module.weight is not None:
            init.ones_(module.weight)
            init.zeros_(module.bias)


def _is_plain(model: nn.Module, checkpoint_files: list[str] | None, load_config: Any) -> bool:
    """Return whether weights are wanted with stored names and dtypes, in the memory of this machine."""
    renamed = [pattern for mapping in load_config.weight_mapping or [] for pattern in mapping.source_patterns]
    names = "\n".join(model.state_dict())
    return (
        all(path.endswith(".safetensors") for path in checkpoint_files or [""])
        and not any((load_config.device_map, load_config.hf_quantizer, load_config.dtype_plan))
        and not getattr(load_config, "disable_mmap", False)
        and not any(re.search(pattern, names, re.MULTILINE) for pattern in renamed)
        and not is_deepspeed_zero3_enabled()
        and not is_fsdp_enabled()
    )


def _place_what_fits(model: nn.Module, checkpoint_files: list[str]) -> tuple[dict[str, Tensor], set[str]]:
    """Give a model the tensors that have the name, shape and dtype of one of its own.

    Returns:
        The other tensors, at least one, since the base class shows its progress; the names of those that were placed.
    """
    stored: dict[str, Tensor] = {}
    for path in checkpoint_files:
        with safe_open(path, framework="pt") as file:
            stored |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dictionary
    own = model.state_dict()
    fitting = {
        name: stored.pop(name)
        for name, value in own.items()
        if len(stored) > 1 and name in stored and (stored[name].shape, stored[name].dtype) == (value.shape, value.dtype)
    }
    model.load_state_dict(fitting, strict=False, assign=True)
    for name, value in model.state_dict(keep_vars=True).items():
        if name in fitting:
            value._is_hf_initialized = True
    return stored, set(fitting)
