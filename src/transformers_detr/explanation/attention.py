"""Where DETR looks: attention maps of one picture, as arrays over the cells of its last feature map."""

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
class PictureAttention:
    """What each query found in one picture, and where it looked. Tensors are float32, on the CPU.

    Attributes:
        logits: `(Q, C + 1)`, as the model gives them, "no object" last.
        pred_boxes: `(Q, 4)`, (cx, cy, w, h) relative to the picture.
        decoder: `(Q, h, w)`: each query's attention over the cells of the picture, the mean over the heads; a
            query's sum is 1.
    """

    logits: Tensor
    pred_boxes: Tensor
    decoder: Tensor
    _transformer: DetrModel = field(repr=False)
    _encoded: EncodedImages = field(repr=False)

    @torch.inference_mode()
    def from_points(self, points_xy: Sequence[tuple[float, float]], layer: int = -1) -> Tensor:
        """Return the encoder's self-attention from chosen points; see `encoder_attention`."""
        return _from_points(self._transformer, self._encoded, points_xy, layer)


def decoder_attention(model: Detr, pixel_values: Tensor, layer: int = -1) -> Tensor:
    """Return the decoder's attention over one picture.

    Args:
        model: Of either kind, with any attention implementation, on any device, in any dtype.
        pixel_values: One normalized picture without padding, `(1, 3, H, W)`.
        layer: Decoder layer; -1 is the last one.

    Returns:
        `(Q, h, w)` float32 on the CPU, the mean over the heads; each query's map sums to 1.

    Raises:
        ValueError: It is not one picture, or there is no such layer.
    """
    return picture_attention(model, pixel_values, layer=layer).decoder


@torch.inference_mode()
def encoder_attention(
    model: Detr, pixel_values: Tensor, points_xy: Sequence[tuple[float, float]], layer: int = -1
) -> Tensor:
    """Return the encoder's self-attention from chosen points of one picture.

    Args:
        model: As for `decoder_attention`.
        pixel_values: One normalized picture without padding, `(1, 3, H, W)`.
        points_xy: P points (x, y) relative to the picture, 0 to 1; each stands for the cell that it is in.
        layer: Encoder layer; -1 is the last one.

    Returns:
        `(P, h, w)` float32 on the CPU, the mean over the heads; each point's map sums to 1.

    Raises:
        ValueError: It is not one picture, a point lies outside, or there is no such layer.
    """
    transformer = _detector(model).model
    return _from_points(transformer, _encode(transformer, pixel_values), points_xy, layer)


@torch.inference_mode()
def picture_attention(model: Detr, pixel_values: Tensor, layer: int = -1) -> PictureAttention:
    """Look at one picture once, for predictions and attention; see the two functions above.

    Args:
        model: As for `decoder_attention`; used as it is, so put it into evaluation mode.
        pixel_values: One normalized picture without padding, `(1, 3, H, W)`.
        layer: Decoder layer; -1 is the last one.

    Raises:
        ValueError: It is not one picture, or there is no such layer.
    """
    detector = _detector(model)
    transformer = detector.model
    _check_layer(layer, len(transformer.decoder.layers), "decoder")
    encoded = _encode(transformer, pixel_values)
    decoded = transformer.decode(encoded, output_attentions=True)
    logits, boxes = detector.predict(decoded.last_hidden_state)
    maps = decoded.cross_attentions or ()
    return PictureAttention(
        logits=logits[0].float().cpu(),
        pred_boxes=boxes[0].float().cpu(),
        decoder=_over_cells(maps[layer], encoded),
        _transformer=transformer,
        _encoded=encoded,
    )


def _encode(transformer: DetrModel, pixel_values: Tensor) -> EncodedImages:
    if pixel_values.dim() != 4 or len(pixel_values) != 1:
        raise ValueError(f"pixel_values must be one picture, (1, 3, H, W), got {tuple(pixel_values.shape)}")
    return transformer.encode(pixel_values.to(transformer.device), output_hidden_states=True)


def _from_points(
    transformer: DetrModel, encoded: EncodedImages, points_xy: Sequence[tuple[float, float]], layer: int
) -> Tensor:
    """The maps `(P, h, w)` of the points.

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
    """Maps `(1, heads, T, S)` as `(T, h, w)`."""
    shape = encoded.pyramid[-1].features.shape[-2:]
    return maps[0].float().mean(0).unflatten(-1, shape).cpu()


def _cell(x: float, y: float, h: int, w: int) -> int:
    """The number of the cell that a point is in."""
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError(f"points_xy must lie in the picture, between 0 and 1, got ({x:g}, {y:g})")
    return min(int(y * h), h - 1) * w + min(int(x * w), w - 1)


def _check_layer(layer: int, count: int, stack: str) -> None:
    if not -count <= layer < count:
        raise ValueError(f"layer must be from {-count} to {count - 1}, as the {stack} has {count}, got {layer}")


def _detector(model: Detr) -> DetrForObjectDetection:
    return model.detr if isinstance(model, DetrForSegmentation) else model
