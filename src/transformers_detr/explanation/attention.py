"""Attention maps of one image, as arrays over the cells of the last feature map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from transformers_detr.model.modeling_detr import DetrForObjectDetection, DetrModel
from transformers_detr.model.modeling_segmentation_detr import DetrForSegmentation
from transformers_detr.model.outputs_detr import EncodedImages
from transformers_detr.model.transformer_detr import DetrAttention

Detr = DetrForObjectDetection | DetrForSegmentation


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageAttention:
    """Predictions and attention of all queries for one image. Tensors are float32 on the CPU.

    Attributes:
        logits: `(Q, C + 1)`, as the model returns them, "no object" last.
        pred_boxes: `(Q, 4)`, (cx, cy, w, h) relative to the image.
        decoder_attention: `(Q, h, w)`, cross-attention of each query, the mean over the heads. Each map sums to 1.
    """

    logits: Tensor
    pred_boxes: Tensor
    decoder_attention: Tensor
    _transformer: DetrModel = field(repr=False)
    _encoded: EncodedImages = field(repr=False)

    @torch.inference_mode()
    def encoder_attention(self, points_xy: Sequence[tuple[float, float]], layer: int = -1) -> Tensor:
        """Return the encoder's self-attention of chosen points; see the function `encoder_attention`."""
        return _encoder_attention(self._transformer, self._encoded, points_xy, layer)


def decoder_attention(model: Detr, pixel_values: Tensor, layer: int = -1) -> Tensor:
    """Return the decoder's cross-attention for one image.

    Args:
        model: Detection or segmentation model; any attention implementation, device and dtype.
        pixel_values: One normalized image without padding, `(1, 3, H, W)`.
        layer: Decoder layer; -1 is the last one.

    Returns:
        `(Q, h, w)` float32 on the CPU, the mean over the heads; each query's map sums to 1.

    Raises:
        ValueError: `pixel_values` is not one image, or the layer does not exist.
    """
    return image_attention(model, pixel_values, layer=layer).decoder_attention


@torch.inference_mode()
def encoder_attention(
    model: Detr, pixel_values: Tensor, points_xy: Sequence[tuple[float, float]], layer: int = -1
) -> Tensor:
    """Return the encoder's self-attention of chosen points of one image.

    Args:
        model: As for `decoder_attention`.
        pixel_values: One normalized image without padding, `(1, 3, H, W)`.
        points_xy: P points (x, y) relative to the image, 0 to 1; each selects the cell that contains it.
        layer: Encoder layer; -1 is the last one.

    Returns:
        `(P, h, w)` float32 on the CPU, the mean over the heads; each point's map sums to 1.

    Raises:
        ValueError: `pixel_values` is not one image, a point lies outside, or the layer does not exist.
    """
    transformer = _detector(model).model
    return _encoder_attention(transformer, _encode(transformer, pixel_values), points_xy, layer)


@torch.inference_mode()
def image_attention(model: Detr, pixel_values: Tensor, layer: int = -1) -> ImageAttention:
    """Run the model once on one image for predictions and attention; see the two functions above.

    Args:
        model: As for `decoder_attention`. Its mode is not changed: call `model.eval()` first.
        pixel_values: One normalized image without padding, `(1, 3, H, W)`.
        layer: Decoder layer; -1 is the last one.

    Raises:
        ValueError: `pixel_values` is not one image, or the layer does not exist.
    """
    detector = _detector(model)
    transformer = detector.model
    _check_layer(layer, len(transformer.decoder.layers), "decoder")
    encoded = _encode(transformer, pixel_values)
    decoded = transformer.decode(encoded, output_attentions=True)
    logits, boxes = detector.predict(decoded.last_hidden_state)
    maps = decoded.cross_attentions or ()
    return ImageAttention(
        logits=logits[0].float().cpu(),
        pred_boxes=boxes[0].float().cpu(),
        decoder_attention=_over_cells(maps[layer], encoded),
        _transformer=transformer,
        _encoded=encoded,
    )


def _encode(transformer: DetrModel, pixel_values: Tensor) -> EncodedImages:
    if pixel_values.dim() != 4 or len(pixel_values) != 1:
        raise ValueError(f"pixel_values must be one image, (1, 3, H, W), got {tuple(pixel_values.shape)}")
    return transformer.encode(pixel_values.to(transformer.device), output_hidden_states=True)


def _encoder_attention(
    transformer: DetrModel, encoded: EncodedImages, points_xy: Sequence[tuple[float, float]], layer: int
) -> Tensor:
    """Return the maps `(P, h, w)` of the points.

    Only the points' own rows are computed. All rows of all layers would take gigabytes for a dilated backbone.
    """
    layers = transformer.encoder.layers
    _check_layer(layer, len(layers), "encoder")
    h, w = encoded.pyramid[-1].features.shape[-2:]
    if not points_xy:
        return torch.empty(0, h, w)
    number = range(len(layers))[layer]
    attend: DetrAttention = layers[number].self_attn  # type: ignore[assignment]
    inputs: Tensor = encoded.memory.hidden_states[number]
    located = inputs + encoded.positions  # (1, S, D)
    cells = torch.tensor([_cell(x, y, h, w) for x, y in points_xy], device=located.device)
    _, maps = attend(located[:, cells], located, inputs, None, output_attentions=True)
    return _over_cells(maps, encoded)


def _over_cells(maps: Tensor, encoded: EncodedImages) -> Tensor:
    """Average maps `(1, heads, T, S)` over the heads and reshape them to `(T, h, w)`."""
    shape = encoded.pyramid[-1].features.shape[-2:]
    return maps[0].float().mean(0).unflatten(-1, shape).cpu()


def _cell(x: float, y: float, h: int, w: int) -> int:
    """Return the index of the cell that contains a point."""
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError(f"points_xy must lie in the image, between 0 and 1, got ({x:g}, {y:g})")
    return min(int(y * h), h - 1) * w + min(int(x * w), w - 1)


def _check_layer(layer: int, count: int, stack: str) -> None:
    if not -count <= layer < count:
        raise ValueError(f"layer must be from {-count} to {count - 1}, as the {stack} has {count}, got {layer}")


def _detector(model: Detr) -> DetrForObjectDetection:
    return model.detr if isinstance(model, DetrForSegmentation) else model
