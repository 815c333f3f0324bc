"""The backbone: pixels to a pyramid of feature maps, each with its mask of real cells.

Batch norms are frozen, the stem and the first stage are not trained. In the exact-padding mode the padded
area is kept at zero inside the backbone, so an image gives the same features alone and in any batch.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoBackbone
from transformers.configuration_utils import PreTrainedConfig

from .cpu_kernels_detr import run_backbone
from .exact_padding_detr import ClearPadding, ExactPlan
from .frozen_batch_norm_detr import freeze_batch_norms
from .fusing_detr import Replaced, fuse_batch_norms, restore
from .initialization_detr import kaiming


class FeatureMap(NamedTuple):
    """One level of the pyramid.

    Attributes:
        features: `(B, channels, h, w)`.
        mask: True where a cell shows the image, `(B, h, w)`; None if no cell is padding.
    """

    features: Tensor
    mask: Tensor | None


class DetrConvEncoder(nn.Module):
    """A timm or transformers backbone with frozen batch norms.

    Args:
        config: Describes the backbone; see `DetrConfig`.

    Attributes:
        model: The backbone itself, so that parameters bear its own names.
        intermediate_channel_sizes: Channels of each feature map, finest first.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        if config.use_timm_backbone:
            self.model, self.intermediate_channel_sizes = _build_timm_backbone(config)
        else:
            self.model, self.intermediate_channel_sizes = _build_native_backbone(config)
        freeze_batch_norms(self.model)
        self.config = config
        self._replaced: list[Replaced] = []
        self._exact: bool | None = None  # not known yet
        self._plan: ExactPlan | None = None
        self.train_later_stages()

    def initialize(self) -> None:
        """Only for backbones that were built without memory: others keep what their library gave them."""
        for convolution in self.model.modules():
            if isinstance(convolution, nn.Conv2d):
                kaiming(convolution)

    @property
    def is_fused(self) -> bool:
        """Return whether frozen norms are part of their convolutions; see `fuse`."""
        return bool(self._replaced)

    def fuse(self) -> None:
        """Make frozen norms part of their convolutions."""
        if not self.is_fused:
            self._replaced = fuse_batch_norms(self.model, self.config.num_channels)

    def unfuse(self) -> None:
        """Undo `fuse`."""
        restore(self._replaced)
        self._replaced = []

    def train_later_stages(self) -> None:
        """Make trainable what the original trains: all but the stem, the first stage and the norms."""
        first_stage = _first_stage_names(self.model)
        modules = [module for _, module in self.model.named_modules()]
        names = [name.replace(".", "_") + "_" for name, _ in self.model.named_modules()]
        last_frozen = max((i for i, name in enumerate(names) if name.startswith(first_stage)), default=-1)
        for index, module in enumerate(modules):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(index > last_frozen)

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None, exact_padding: bool = False) -> list[FeatureMap]:
        """Extract features.

        Args:
            pixel_values: `(B, 3, H, W)`.
            pixel_mask: Real pixels are True, `(B, H, W)`; None if nothing is padded.
            exact_padding: Keep the padded area at zero before every convolution that sees neighbors, and at the
                lowest number before poolings, and derive the masks by rounding up, so that features of real cells
                do not depend on the padding. Otherwise as in the original.

        Returns:
            The pyramid, finest level first.

        Raises:
            ValueError: `exact_padding` with a backbone whose layers do not allow it.
        """
        if pixel_mask is None:
            return [FeatureMap(features, None) for features in self._run(pixel_values)]
        if not exact_padding:
            return [
                FeatureMap(features, nearest_mask(pixel_mask, features.shape[-2:]))
                for features in self._run(pixel_values)
            ]
        if not self.supports_exact_padding:
            raise ValueError(
                "exact_padding=True: this backbone mixes neighboring pixels such that padding cannot be kept out of "
                "(global pooling, asymmetric 'same' padding, patches …); use exact_padding=False or equal image sizes"
            )
        return self._run_exact(pixel_values, pixel_mask, self._plan)

    def _run(self, pixel_values: Tensor) -> list[Tensor]:
        if pixel_values.device.type == "cpu" or pixel_values.dtype != torch.float32:
            # the layout in which convolutions are fastest there; float32 on a GPU gains nothing
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        features = run_backbone(self.model, pixel_values, self.config.fast_paths)
        if features is None:
            features = self.model(pixel_values)
        maps = list(getattr(features, "feature_maps", features))
        if getattr(self.model, "output_fmt", None) == "NHWC":  # what timm's Swin and its like give
            maps = [level.permute(0, 3, 1, 2) for level in maps]
        return maps

    def _run_exact(self, pixel_values: Tensor, pixel_mask: Tensor, plan: ExactPlan | None) -> list[FeatureMap]:
        clear = ClearPadding(pixel_mask, plan)
        with clear:
            pyramid = self._run(pixel_values)
        levels = [clear.level_of(features) for features in pyramid] if plan is None else plan.outputs
        if plan is None:
            self._plan = ExactPlan(tuple(clear.calls), tuple(levels))
        masks = [clear.masks[level] for level in levels]
        return [FeatureMap(features, mask[:, 0]) for features, mask in zip(pyramid, masks, strict=True)]

    @property
    def supports_exact_padding(self) -> bool:
        """Return whether the exact-padding mode is exact for this backbone; found once, by trying it on noise.

        Look at it before compiling or exporting a model in that mode: a graph cannot hold the trial.
        """
        if self._plan is None and self._exact is None:
            if torch.compiler.is_compiling():
                raise RuntimeError("look at model.supports_exact_padding once before compiling with exact_padding")
            self._plan = plan_exact_padding(self.config)
            self._exact = self._plan is not None
        return bool(self._exact)


@torch.no_grad()
def plan_exact_padding(config: PreTrainedConfig) -> ExactPlan | None:
    """Try the exact-padding mode: noise of three sizes, alone and in one batch, must give the same features.

    The trial runs in a fresh backbone whose every weight is noise too; the residual branches of fresh backbones end
    in zeros and would hide differences.

    Args:
        config: Describes the backbone.

    Returns:
        The backbone's plan, or None if the mode is not exact for it.
    """
    generator = torch.Generator().manual_seed(0)
    config = copy.deepcopy(config)
    config.use_pretrained_backbone = False
    with torch.random.fork_rng(devices=[]):  # a question must not change what a training draws next
        probe = DetrConvEncoder(config).eval()
    for value in filter(torch.is_floating_point, [*probe.parameters(), *probe.buffers()]):
        if value.dim() > 1:
            value.copy_(torch.randn(value.shape, generator=generator) * value[0].numel() ** -0.5)
        else:  # norms and biases; variances must stay positive
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)

    sizes = [(67, 96), (96, 81), (50, 34)]
    batch = torch.zeros(len(sizes), config.num_channels, 96, 96)
    mask = torch.zeros(len(sizes), 96, 96, dtype=torch.bool)
    for index, (height, width) in enumerate(sizes):
        batch[index, :, :height, :width] = torch.randn(config.num_channels, height, width, generator=generator)
        mask[index, :height, :width] = True
    try:
        together = probe._run_exact(batch, mask, None)
        alone = [probe._run(batch[i : i + 1, :, :h, :w]) for i, (h, w) in enumerate(sizes)]
    except Exception:  # backbones of a fixed input size fail in ways of their own: not supported, whatever the reason
        return None
    exact = all(
        _agree(level.features[index], images[depth][0])
        for index, images in enumerate(alone)
        for depth, level in enumerate(together)
    )
    return probe._plan if exact else None


def _agree(padded: Tensor, alone: Tensor) -> bool:
    inside = padded[:, : alone.shape[-2], : alone.shape[-1]]
    return inside.shape == alone.shape and bool((inside - alone).abs().max() <= 1e-4 * alone.abs().max())


def nearest_mask(pixel_mask: Tensor, size: tuple[int, ...]) -> Tensor:
    """The original's mask of a feature map `(B, h, w)`: each cell takes its nearest pixel's value, `(B, H, W)`."""
    return nn.functional.interpolate(pixel_mask[None].float(), size=tuple(size))[0].to(torch.bool)


def _build_native_backbone(config: PreTrainedConfig) -> tuple[nn.Module, list[int]]:
    """Build a backbone of transformers; one that lacks the requested attention implementation chooses its own."""
    described = config.backbone_config
    try:
        backbone = AutoBackbone.from_config(described)
    except ValueError:
        if described._attn_implementation is None:
            raise
        described._attn_implementation = None
        backbone = AutoBackbone.from_config(described)
    if _wants_pretrained(config):
        name = described._name_or_path
        if not name:
            raise ValueError(
                "use_pretrained_backbone=True: this backbone_config does not name where its weights are; "
                "give backbone=NAME, use_timm_backbone=False instead"
            )
        backbone.load_state_dict(type(backbone).from_pretrained(name, config=described).state_dict())
    return backbone, list(backbone.channels)


def _wants_pretrained(config: PreTrainedConfig) -> bool:
    """A checkpoint is loaded into a model that was built without memory; its backbone is never downloaded."""
    return bool(config.use_pretrained_backbone) and torch.get_default_device().type != "meta"


def _build_timm_backbone(config: PreTrainedConfig) -> tuple[nn.Module, list[int]]:
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"backbone={config.backbone!r} is a timm model: pip install timm") from error

    arguments = {"out_indices": None, **(config.backbone_kwargs or {})}
    if config.dilation:
        arguments["output_stride"] = 16
    if arguments["out_indices"] is None:
        arguments["out_indices"] = (
            -4,
            -3,
            -2,
            -1,
        )  # the four stages, whether or not the stem counts as a level
    try:
        backbone: Any = timm.create_model(
            config.backbone,
            pretrained=_wants_pretrained(config),
            features_only=True,
            in_chans=config.num_channels,
            **arguments,
        )
    except RuntimeError as error:
        if "Unknown model" not in str(error):
            raise
        raise ValueError(f"backbone={config.backbone!r} is not the name of a timm model") from error
    return backbone, list(backbone.feature_info.channels())


def _first_stage_names(backbone: nn.Module) -> tuple[str, ...]:
    """Beginnings of the module names, dots as in `layer1_0_`, of the last stage at a quarter of the resolution.

    timm joins some names with underscores; the stage may be named by a layer without parameters at its end, and that of
    an HRNet is called stage1 where its module is layer1.
    """
    feature_info = getattr(backbone, "feature_info", None)
    if feature_info is None:
        return ("encoder_stages_0_", "encoder_layers_0_", "stages_0_", "layers_0_")
    levels = [level for level in feature_info.info if level["reduction"] <= 4]
    if not levels:
        return ()
    name = levels[-1]["module"].replace(".", "_") + "_"
    return (name, "model_" + name, "layer1_")
