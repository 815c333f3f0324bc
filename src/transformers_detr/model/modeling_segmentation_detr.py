"""DETR with masks: detection, and from its decoded queries and feature pyramid a mask for each query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput

from .backbone_detr import FeatureMap
from .configuration_detr import DetrConfig
from .loss_detr import MatchedPredictions
from .mask_head_detr import NO_MASK, DetrAttentionMaps, DetrMaskHead, confident_queries
from .modeling_detr import DetrForObjectDetection
from .outputs_detr import Detected, EncodedImages, as_asked
from .pretrained_detr import DetrPreTrainedModel

# isort: split
# Early 5.x, loading custom code from a folder, copies only the files that this one names itself.
from .boxes_detr import box_area  # noqa: F401
from .cpu_kernels_detr import run_linear  # noqa: F401
from .exact_padding_detr import ExactPlan  # noqa: F401
from .frozen_batch_norm_detr import freeze_batch_norms  # noqa: F401
from .fusing_detr import fuse_batch_norms  # noqa: F401
from .initialization_detr import xavier  # noqa: F401
from .matcher_detr import match  # noqa: F401
from .position_embedding_detr import sine_position_embedding  # noqa: F401
from .recording_detr import is_recorded  # noqa: F401
from .resize_detr import image_sizes  # noqa: F401
from .targets_detr import read_targets  # noqa: F401
from .transformer_detr import Attended  # noqa: F401


@dataclass
class DetrSegmentationOutput(ModelOutput):
    """Output of `DetrForSegmentation`; what was not asked for is None.

    Attributes:
        loss: Weighted sum of the losses, a scalar, when `labels` are given.
        loss_dict: The losses by name, when `labels` are given.
        logits: Class logits, the last column being "no object", `(B, Q, C + 1)`.
        pred_boxes: Boxes as (center x, center y, width, height), relative to the unpadded image, `(B, Q, 4)`.
        pred_masks: Mask logits on the padded canvas at the resolution of the backbone's finest feature map, which for
            most is `(B, Q, H / 4, W / 4)`; -10000 for queries that were not run and, with `exact_padding`, behind the
            image.
        auxiliary_outputs: As in `DetrObjectDetectionOutput`, also the following ones.
        last_hidden_state: Decoded queries, `(B, Q, D)`.
        decoder_hidden_states: The decoder's input and each layer's output, `(B, Q, D)` each.
        decoder_attentions: Attention among queries by layer, `(B, heads, Q, Q)` each.
        cross_attentions: Attention over the memory by layer, `(B, heads, Q, S)` each.
        encoder_last_hidden_state: Encoded tokens, `(B, S, D)`.
        encoder_hidden_states: The encoder's input and each layer's output, `(B, S, D)` each.
        encoder_attentions: Attention among tokens by layer, `(B, heads, S, S)` each.
    """

    loss: Tensor | None = None
    loss_dict: dict[str, Tensor] | None = None
    logits: Tensor | None = None
    pred_boxes: Tensor | None = None
    pred_masks: Tensor | None = None
    auxiliary_outputs: list[dict[str, Tensor]] | None = None
    last_hidden_state: Tensor | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None


class DetrForSegmentation(DetrPreTrainedModel):
    """DETR with a mask for each query, for panoptic, instance and semantic segmentation.

    Args:
        config: The configuration; its backbone must give three or more feature maps, of which the mask head takes the
            three finest.

    Raises:
        ValueError: The mask head cannot be built with this width or backbone.

    Example:
        ```python
        from PIL import Image
        from transformers_detr import DetrForSegmentation, DetrImageProcessor

        processor = DetrImageProcessor.from_pretrained("facebook/detr-resnet-50-panoptic")
        model = DetrForSegmentation.from_pretrained("facebook/detr-resnet-50-panoptic")
        image = Image.open("photo.jpg")
        outputs = model(**processor(image, return_tensors="pt"), mask_queries="confident")
        segments = processor.post_process_panoptic_segmentation(outputs, target_sizes=[image.size[::-1]])
        ```
    """

    _no_split_modules = [*DetrPreTrainedModel._no_split_modules, "DetrMaskHead"]  # noqa: RUF012

    def __init__(self, config: DetrConfig):
        super().__init__(config)
        self.detr = DetrForObjectDetection(config)
        channels = self.detr.model.backbone.intermediate_channel_sizes
        if len(channels) < 3:
            raise ValueError(f"segmentation needs a backbone with three feature maps, this one has {len(channels)}")
        heads = config.encoder_attention_heads
        self.bbox_attention = DetrAttentionMaps(config.d_model, heads, config.init_xavier_std)
        self.mask_head = DetrMaskHead(config.d_model, heads, channels[2::-1], config.activation_function)
        self.post_init()

    @classmethod
    def from_detector(cls, detector: DetrForObjectDetection) -> DetrForSegmentation:
        """Add a fresh mask head to a trained detector, which is shared, not copied, and frozen.

        The original trains masks like this: first detection, then 25 epochs of the mask head alone.
        """
        with torch.device("meta"):
            model = cls(detector.config)
        model.detr = detector
        for part in (model.bbox_attention, model.mask_head):
            part.to_empty(device=detector.device).to(detector.dtype)
            for module in part.modules():
                model._init_weights(module)
        model.freeze_detector()
        return model

    def freeze_detector(self) -> None:
        """Freeze all but the mask head."""
        self.detr.requires_grad_(False)

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple[Tensor, ...] | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: list[dict[str, Tensor]] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        exact_padding: bool | None = None,
        mask_queries: str | Tensor = "all",
        masks_at_once: int | None = None,
        **kwargs: Any,
    ) -> DetrSegmentationOutput | tuple[Any, ...]:
        """Detect and segment.

        Args:
            pixel_values: See `DetrModel.forward`, also for all arguments not listed here.
            pixel_mask: 1 for real pixels, 0 for padding, `(B, H, W)`; None if nothing is padded.
            decoder_attention_mask: 1 for queries that take part, `(B, Q)`.
            encoder_outputs: Used instead of running the encoder.
            inputs_embeds: Refused: masks need the feature maps of the backbone.
            decoder_inputs_embeds: What the queries start from, `(B, Q, D)`.
            labels: As in `DetrForObjectDetection.forward`, and `masks` `(N, h, w)`, non-zero on the object, of the size
                of the image without padding or of the batch. In training only the masks of matched queries are run.
            output_attentions: Whether to return attention maps.
            output_hidden_states: Whether to return each layer's output.
            return_dict: Whether to return an object instead of a tuple.
            exact_padding: See `DetrModel.forward`; holds for masks too.
            mask_queries: Which queries get a mask. "all"; "confident", those whose best class other than "no object"
                scores above 0.5 (a hair less): instance, panoptic and paper's post-processing give the same
                segments with any threshold of 0.5 or above, while the semantic one needs all; or a tensor: `(B, Q)` of
                booleans, or indices `(K,)` for every image or `(B, K)`.
            masks_at_once: Queries whose masks are computed together, which bounds the memory; None takes as many as
                fit into 2 GB, at most half of a GPU's free memory, or into 128 MB on a CPU. Masks do not depend on it.
            **kwargs: Ignored; the framework passes more than DETR needs.

        Returns:
            The output, or a tuple of what it holds.

        Raises:
            ValueError: Labels break a rule, or `inputs_embeds` or an unknown `mask_queries` is given.
        """
        detected = self.detr.detect(
            pixel_values,
            pixel_mask,
            decoder_attention_mask,
            encoder_outputs,
            inputs_embeds,
            decoder_inputs_embeds,
            output_attentions,
            output_hidden_states,
            exact_padding,
            every_layer=labels is not None and self.config.auxiliary_loss,
        )
        levels = _mask_head_levels(detected.encoded)
        logits = detected.logits[-1]
        matched = None
        if labels is not None:
            canvas = (pixel_values.shape[2], pixel_values.shape[3])
            matched = self.detr.match_labels(detected.logits, detected.boxes, labels, canvas)
        image, query = self._queries_to_run(mask_queries, logits, matched)
        exact = self.detr.model.is_exact(exact_padding)
        masks = self._masks(detected, levels, image, query, exact, masks_at_once)  # (M, h', w')
        pred_masks = logits.new_full((*logits.shape[:2], *masks.shape[1:]), NO_MASK)  # (B, Q, h', w')
        pred_masks[image, query] = masks.to(pred_masks.dtype)
        loss, terms = None, None
        if matched is not None:
            pairs = matched.matching
            mask_logits = masks if self.training else pred_masks[pairs.image[-1], pairs.query[-1]]
            loss, terms = self.detr.compute_loss(matched, mask_logits)
        output = DetrSegmentationOutput(loss=loss, loss_dict=terms, pred_masks=pred_masks, **detected.fields())
        return as_asked(output, return_dict, self.config)

    def _queries_to_run(
        self, mask_queries: str | Tensor, logits: Tensor, matched: MatchedPredictions | None
    ) -> tuple[Tensor, Tensor]:
        """Image and number, `(M,)` each, of the queries whose masks are computed.

        Without labels the requested ones; in training the matched ones, in their order; in evaluation with labels both.
        """
        if matched is None:
            return _pairs(mask_queries, logits)
        pairs = matched.matching.image[-1], matched.matching.query[-1]
        if self.training:
            return pairs
        chosen = torch.zeros(logits.shape[:2], dtype=torch.bool, device=logits.device)
        chosen[pairs] = True
        chosen[_pairs(mask_queries, logits)] = True
        image, query = chosen.nonzero(as_tuple=True)
        return image, query

    def _masks(
        self,
        detected: Detected,
        levels: list[FeatureMap],
        image: Tensor,
        query: Tensor,
        exact: bool,
        at_once: int | None,
    ) -> Tensor:
        """Mask logits `(M, h', w')` of queries given by image and number, `(M,)` each."""
        features, real = zip(*levels, strict=True)  # the masks are (B, h, w) each, or None
        memory = detected.encoded.memory.last_hidden_state.transpose(1, 2).unflatten(2, features[0].shape[2:])
        maps = self.bbox_attention(detected.decoded.last_hidden_state, memory, real[0])  # (B, Q, heads, h, w)
        kept_out = real if exact and real[0] is not None else None
        masks: Tensor = self.mask_head(maps[image, query], image, *features, real=kept_out, at_once=at_once)
        return masks


def _mask_head_levels(encoded: EncodedImages) -> list[FeatureMap]:
    """The feature maps that the mask head takes: the projected one, then the backbone's three finest, coarsest first.

    Of three, as stock takes them, the coarsest comes twice: projected and as it is.
    """
    if encoded.projected is None:
        raise ValueError("inputs_embeds cannot be segmented: masks need the feature maps of the backbone")
    return [FeatureMap(encoded.projected, encoded.pyramid[-1].mask), *encoded.pyramid[2::-1]]


def _pairs(mask_queries: str | Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Image and number, `(M,)` each, of the queries that `mask_queries` means; `logits` are `(B, Q, C + 1)`."""
    size = logits.shape[:2]
    if isinstance(mask_queries, str):
        if mask_queries == "all":
            every = torch.arange(size[0] * size[1], device=logits.device)
            return every.div(size[1], rounding_mode="floor"), every % size[1]
        if mask_queries == "confident":
            image, query = confident_queries(logits).nonzero(as_tuple=True)
            return image, query
        raise ValueError(f"mask_queries must be 'all', 'confident' or a tensor, got {mask_queries!r}")
    wanted = mask_queries.to(logits.device)
    if wanted.dtype == torch.bool:
        fits = wanted.shape == size
    else:
        fits = not wanted.is_floating_point() and wanted.shape[:-1] in ((), size[:1])
        fits = fits and bool(((wanted >= 0) & (wanted < size[1])).all())
    if not fits:
        raise ValueError(
            f"mask_queries must be booleans of shape {tuple(size)} or indices in [0, {size[1]}) of shape (K,) or "
            f"({size[0]}, K), got {wanted.dtype} of shape {tuple(wanted.shape)}: {wanted.tolist()}"
        )
    if wanted.dtype != torch.bool:
        wanted = torch.zeros(size, dtype=torch.bool, device=logits.device).scatter(1, wanted.expand(size[0], -1), True)
    image, query = wanted.nonzero(as_tuple=True)
    return image, query
