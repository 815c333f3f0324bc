"""Outputs of the models, and values that their parts pass on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqModelOutput
from transformers.utils import ModelOutput

from .backbone_detr import FeatureMap
from .configuration_detr import DetrConfig
from .transformer_detr import Attended


@dataclass
class DetrModelOutput(Seq2SeqModelOutput):
    """Output of `DetrModel`.

    Attributes:
        intermediate_hidden_states: Each decoder layer's output, normed, `(L, B, Q, D)`, with
            `config.auxiliary_loss`.
    """

    intermediate_hidden_states: Tensor | None = None


@dataclass
class DetrObjectDetectionOutput(ModelOutput):
    """Output of `DetrForObjectDetection`; what was not asked for is None.

    Attributes:
        loss: Weighted sum of the losses, a scalar, when `labels` are given.
        loss_dict: The losses by name, when `labels` are given.
        logits: Class logits, the last column being "no object", `(B, Q, C + 1)`.
        pred_boxes: Boxes as (center x, center y, width, height), relative to the unpadded image, `(B, Q, 4)`.
        auxiliary_outputs: `logits` and `pred_boxes` of all decoder layers but the last, in a dictionary each,
            with `config.auxiliary_loss` and `labels`.
        last_hidden_state: Decoded queries, `(B, Q, D)`.
        decoder_hidden_states: The decoder's input and each layer's output, the last one normed, `(B, Q, D)` each.
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
    auxiliary_outputs: list[dict[str, Tensor]] | None = None
    last_hidden_state: Tensor | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None


class EncodedImages(NamedTuple):
    """Result of the first half of the model, input of the second.

    Attributes:
        memory: Encoded tokens with their hidden states and maps, if asked for.
        positions: Position embedding of each token, `(B, S, D)` or `(1, S, D)`.
        mask: True where a token shows the image, `(B, S)`; None if none is padding.
        pyramid: The backbone's feature maps, finest first; empty if the backbone was bypassed.
        projected: The last feature map at the transformer's width, `(B, D, h, w)`; None if it was bypassed.
    """

    memory: BaseModelOutput
    positions: Tensor
    mask: Tensor | None
    pyramid: list[FeatureMap]
    projected: Tensor | None


class Detected(NamedTuple):
    """Results that detection and segmentation share.

    Attributes:
        encoded: Result of the first half.
        decoded: Result of the second half.
        logits: Class logits `(L, B, Q, C + 1)`, of the last decoder layer alone if `L` is 1.
        boxes: Boxes `(L, B, Q, 4)`.
    """

    encoded: EncodedImages
    decoded: Attended
    logits: Tensor
    boxes: Tensor

    def fields(self) -> dict[str, Any]:
        """The output fields that are known without a loss."""
        before = [
            {"logits": logits, "pred_boxes": boxes}
            for logits, boxes in zip(self.logits[:-1], self.boxes[:-1], strict=True)
        ]
        return {
            "logits": self.logits[-1],
            "pred_boxes": self.boxes[-1],
            "auxiliary_outputs": before if self.decoded.intermediate is not None else None,
            **hidden_and_attentions(self.encoded, self.decoded),
        }


def hidden_and_attentions(encoded: EncodedImages, decoded: Attended) -> dict[str, Any]:
    """The output fields that all models share."""
    return {
        "last_hidden_state": decoded.last_hidden_state,
        "decoder_hidden_states": decoded.hidden_states,
        "decoder_attentions": decoded.attentions,
        "cross_attentions": decoded.cross_attentions,
        "encoder_last_hidden_state": encoded.memory.last_hidden_state,
        "encoder_hidden_states": encoded.memory.hidden_states,
        "encoder_attentions": encoded.memory.attentions,
    }


def as_asked(output: ModelOutput, return_dict: bool | None, config: DetrConfig) -> Any:
    """The output, or the tuple of what it holds where `return_dict` (or else the config) says so."""
    wanted = getattr(config, "return_dict", True) if return_dict is None else return_dict
    return output if wanted else output.to_tuple()
