"""DETR: pixels to a set of boxes.

The path of one image: backbone → 1x1 projection → positions → encoder | queries → decoder → two heads. The bar
is where the model has its two named halves, `DetrModel.encode` and `DetrModel.decode`.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput

from .backbone_detr import DetrConvEncoder, FeatureMap, nearest_mask
from .configuration_detr import DetrConfig
from .initialization_detr import torch_default
from .loss_detr import MatchedPredictions, loss_weights, match_predictions, set_loss
from .matcher_detr import MatchingCosts
from .outputs_detr import (
    Detected,
    DetrModelOutput,
    DetrObjectDetectionOutput,
    EncodedImages,
    as_asked,
    hidden_and_attentions,
)
from .position_embedding_detr import DetrLearnedPositionEmbedding, DetrSinePositionEmbedding
from .pretrained_detr import DetrPreTrainedModel
from .recording_detr import is_recorded
from .targets_detr import read_targets
from .transformer_detr import Attended, DetrDecoder, DetrDecoderLayer, DetrEncoder, DetrEncoderLayer

# isort: split
# Early 5.x, loading custom code from a folder, copies only the files that this one names itself.
from .boxes_detr import box_area  # noqa: F401
from .cpu_kernels_detr import run_linear  # noqa: F401
from .exact_padding_detr import ExactPlan  # noqa: F401
from .frozen_batch_norm_detr import freeze_batch_norms  # noqa: F401
from .fusing_detr import fuse_batch_norms  # noqa: F401


class DetrBackbone(nn.Module):
    """Wrapper of the backbone, kept for the names in stored checkpoints.

    Args:
        config: The model's configuration.
    """

    def __init__(self, config: DetrConfig):
        super().__init__()
        self.conv_encoder = DetrConvEncoder(config)

    @property
    def intermediate_channel_sizes(self) -> list[int]:
        """Channels of each feature map, finest first."""
        return self.conv_encoder.intermediate_channel_sizes

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None, exact_padding: bool = False) -> list[FeatureMap]:
        """See `DetrConvEncoder.forward`."""
        pyramid: list[FeatureMap] = self.conv_encoder(pixel_values, pixel_mask, exact_padding)
        return pyramid


class DetrBoxHead(nn.Module):
    """Multilayer perceptron from a decoded query to a box.

    Args:
        width: Width `D`, also of the two hidden layers.
    """

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 4)])

    def initialize(self) -> None:
        """Initialize as torch does."""
        for layer in self.layers:
            torch_default(layer)

    def forward(self, queries: Tensor) -> Tensor:
        """Boxes (cx, cy, w, h) in [0, 1], `(…, 4)`, of queries `(…, D)`."""
        for layer in self.layers[:-1]:
            queries = layer(queries).relu()
        boxes: Tensor = self.layers[-1](queries).sigmoid()
        return boxes


class DetrModel(DetrPreTrainedModel):
    """Backbone and transformer without heads: images in, decoded queries out.

    Args:
        config: The configuration. Its `use_pretrained_backbone=True` downloads backbone weights.
    """

    def __init__(self, config: DetrConfig):
        super().__init__(config)
        common: dict[str, Any] = {
            "dropout": config.dropout,
            "attention_dropout": config.attention_dropout,
            "activation_dropout": config.activation_dropout,
            "activation": config.activation_function,
            "norm_first": config.norm_first,
            "config": config,
        }
        encoder = {"num_heads": config.encoder_attention_heads, "ffn_dim": config.encoder_ffn_dim, **common}
        decoder = {"num_heads": config.decoder_attention_heads, "ffn_dim": config.decoder_ffn_dim, **common}
        width = config.d_model
        self.backbone = DetrBackbone(config)
        learned = config.position_embedding_type == "learned"
        self.position_embedding = DetrLearnedPositionEmbedding(width) if learned else DetrSinePositionEmbedding(width)
        self.input_projection = nn.Conv2d(self.backbone.intermediate_channel_sizes[-1], width, kernel_size=1)
        self.query_position_embeddings = nn.Embedding(config.num_queries, width)
        self.encoder = DetrEncoder(
            [DetrEncoderLayer(width, **encoder) for _ in range(config.encoder_layers)],
            config.encoder_layerdrop,
            final_norm=width if config.norm_first else None,
        )
        self.decoder = DetrDecoder(
            [DetrDecoderLayer(width, **decoder) for _ in range(config.decoder_layers)],
            config.decoder_layerdrop,
            width,
        )
        _keep_backbone_as_built(self.backbone.conv_encoder)
        self.post_init()

    def initialize(self) -> None:
        """Queries from a normal distribution, the projection as torch does."""
        init.normal_(self.query_position_embeddings.weight)
        torch_default(self.input_projection)

    def freeze_backbone(self) -> None:
        """Train nothing of the backbone."""
        self.backbone.conv_encoder.requires_grad_(False)

    def unfreeze_backbone(self) -> None:
        """Train of the backbone what the original trains: all but the stem, the first stage and the norms."""
        self.backbone.conv_encoder.train_later_stages()

    def encode(
        self,
        pixel_values: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple[Tensor, ...] | None = None,
        exact_padding: bool | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> EncodedImages:
        """First half: images to encoded tokens. The arguments are those of `forward`."""
        pyramid: list[FeatureMap] = []
        projected = None
        if pixel_values is not None and inputs_embeds is None:
            pyramid = self._extract(pixel_values, pixel_mask, self.is_exact(exact_padding))
            projected = self.input_projection(pyramid[-1].features)
            tokens = projected.flatten(2).transpose(1, 2)  # (B, S, D)
            shape = (projected.shape[0], projected.shape[2], projected.shape[3])
            cell_mask = pyramid[-1].mask
        elif inputs_embeds is not None and pixel_values is None:
            tokens = inputs_embeds
            shape = _square(tokens)
            cell_mask = None if pixel_mask is None else nearest_mask(pixel_mask, shape[1:])
        else:
            raise ValueError("give either pixel_values or inputs_embeds")

        positions = self.position_embedding(cell_mask, shape, tokens.device)
        positions = positions.flatten(2).transpose(1, 2).to(tokens.dtype)  # (B or 1, S, D)
        mask = None if cell_mask is None else cell_mask.flatten(1)  # (B, S)
        if encoder_outputs is None:
            attention_mask = self._attention_mask(tokens, mask, None, output_attentions)
            encoded = self.encoder(tokens, positions, attention_mask, output_attentions, output_hidden_states)
            memory = BaseModelOutput(encoded.last_hidden_state, encoded.hidden_states, encoded.attentions)
        elif isinstance(encoder_outputs, BaseModelOutput):
            memory = encoder_outputs
        else:
            memory = BaseModelOutput(*encoder_outputs)
        return EncodedImages(memory, positions, mask, pyramid, projected)

    def decode(
        self,
        encoded: EncodedImages,
        decoder_inputs_embeds: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        output_intermediate: bool = False,
    ) -> Attended:
        """Second half: encoded tokens to decoded queries. The arguments are those of `forward`."""
        memory: Tensor = encoded.memory.last_hidden_state
        every = torch.arange(self.query_position_embeddings.weight.shape[0], device=memory.device)
        query_positions = self.query_position_embeddings(every)[None].repeat(memory.shape[0], 1, 1)  # (B, Q, D)
        queries = torch.zeros_like(query_positions) if decoder_inputs_embeds is None else decoder_inputs_embeds
        return self.decoder(
            queries,
            query_positions,
            memory,
            encoded.positions,
            self._attention_mask(queries, decoder_attention_mask, None, output_attentions),
            self._attention_mask(queries, encoded.mask, memory, output_attentions),
            output_attentions,
            output_hidden_states,
            output_intermediate,
        )

    def forward(
        self,
        pixel_values: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple[Tensor, ...] | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        exact_padding: bool | None = None,
        **kwargs: Any,
    ) -> DetrModelOutput | tuple[Any, ...]:
        """Run both halves.

        Args:
            pixel_values: Normalized images, padded at the bottom and right, `(B, 3, H, W)`, in any float dtype.
            pixel_mask: 1 for real pixels, 0 for padding, `(B, H, W)`. None if nothing is padded, which spares all
                work on masks; a mask of ones is detected on the CPU but not on a GPU.
            decoder_attention_mask: 1 for queries that take part, `(B, Q)`.
            encoder_outputs: Used instead of running the encoder.
            inputs_embeds: Tokens of a square feature map, `(B, S, D)`, used instead of backbone and projection.
            decoder_inputs_embeds: What the queries start from instead of zeros, `(B, Q, D)`.
            output_attentions: Whether to return attention maps; they are computed eagerly then.
            output_hidden_states: Whether to return each layer's output.
            return_dict: Whether to return an object instead of a tuple.
            exact_padding: Keep padding from reaching the image, so that predictions do not depend on the batch;
                None takes `config.exact_padding`. False gives the original's numbers.
            **kwargs: Ignored; the framework passes more than DETR needs.

        Returns:
            The output, or a tuple of what it holds.

        Raises:
            ValueError: Arguments contradict each other, or the backbone does not allow `exact_padding`.
        """
        asked = self._asked(output_attentions, output_hidden_states)
        encoded = self.encode(pixel_values, pixel_mask, inputs_embeds, encoder_outputs, exact_padding, *asked)
        decoded = self.decode(
            encoded,
            decoder_inputs_embeds,
            decoder_attention_mask,
            *asked,
            output_intermediate=self.config.auxiliary_loss,
        )
        output = DetrModelOutput(**hidden_and_attentions(encoded, decoded))
        output.intermediate_hidden_states = decoded.intermediate
        return as_asked(output, return_dict, self.config)

    def is_exact(self, exact_padding: bool | None) -> bool:
        """Return whether padding is kept out; the argument of the forward overrules the config."""
        return bool(self.config.exact_padding if exact_padding is None else exact_padding)

    def _asked(self, output_attentions: bool | None, output_hidden_states: bool | None) -> tuple[bool, bool]:
        config = self.config
        return (
            bool(config.output_attentions if output_attentions is None else output_attentions),
            bool(config.output_hidden_states if output_hidden_states is None else output_hidden_states),
        )

    def _extract(self, pixel_values: Tensor, pixel_mask: Tensor | None, exact_padding: bool) -> list[FeatureMap]:
        channels = self.config.num_channels
        if pixel_values.dim() != 4 or pixel_values.shape[1] != channels:
            raise ValueError(f"pixel_values must have the shape (B, {channels}, H, W), got {tuple(pixel_values.shape)}")
        if pixel_mask is not None:
            if pixel_mask.shape != (pixel_values.shape[0], *pixel_values.shape[-2:]):
                raise ValueError(
                    f"pixel_mask must have the shape (B, H, W) = "
                    f"{(pixel_values.shape[0], *pixel_values.shape[-2:])}, got {tuple(pixel_mask.shape)}"
                )
            pixel_mask = _mask_if_padded(pixel_mask, pixel_values.device)
        return self.backbone.conv_encoder(
            pixel_values.to(self.input_projection.weight.dtype), pixel_mask, exact_padding
        )

    def _attention_mask(
        self, queries: Tensor, mask: Tensor | None, memory: Tensor | None, output_attentions: bool
    ) -> Any:
        """The mask `(B, S)` of what may be attended to, in the form that the attention implementation takes."""
        if mask is None:
            return None
        mask = mask.to(torch.bool)
        if output_attentions or self.config._attn_implementation in ("eager", "sdpa"):
            return mask[:, None, None, :]  # (B, 1, 1, S)
        return create_bidirectional_mask(self.config, queries, mask, encoder_hidden_states=memory)


class DetrForObjectDetection(DetrPreTrainedModel):
    """DETR with its two heads: a class and a box for each query.

    Args:
        config: The configuration; `num_labels` classes, one more column for "no object".

    Example:
        ```python
        from PIL import Image
        from transformers_detr import DetrForObjectDetection, DetrImageProcessor

        processor = DetrImageProcessor.from_pretrained("facebook/detr-resnet-50")
        model = DetrForObjectDetection.from_pretrained("facebook/detr-resnet-50")
        image = Image.open("photo.jpg")
        outputs = model(**processor(image, return_tensors="pt"))
        detections = processor.post_process_object_detection(outputs, 0.9, [image.size[::-1]])
        ```
    """

    _base_class: ClassVar[type[DetrModel]] = DetrModel

    def __init__(self, config: DetrConfig):
        super().__init__(config)
        self.model = self._base_class(config)
        self.class_labels_classifier = nn.Linear(config.d_model, config.num_labels + 1)
        self.bbox_predictor = DetrBoxHead(config.d_model)
        self.post_init()

    def initialize(self) -> None:
        """The classifier as torch does."""
        torch_default(self.class_labels_classifier)

    def forward(
        self,
        pixel_values: Tensor | None = None,
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
        **kwargs: Any,
    ) -> DetrObjectDetectionOutput | tuple[Any, ...]:
        """Detect.

        Args:
            pixel_values: See `DetrModel.forward`, also for all arguments not listed here.
            pixel_mask: 1 for real pixels, 0 for padding, `(B, H, W)`; None if nothing is padded.
            decoder_attention_mask: 1 for queries that take part, `(B, Q)`.
            encoder_outputs: Used instead of running the encoder.
            inputs_embeds: Tokens used instead of backbone and projection, `(B, S, D)`.
            decoder_inputs_embeds: What the queries start from, `(B, Q, D)`.
            labels: One dictionary per image with `class_labels` `(N,)` and `boxes` `(N, 4)` as (cx, cy, w, h)
                relative to the unpadded image, as `DetrImageProcessor` returns them. Turns the losses on.
            output_attentions: Whether to return attention maps.
            output_hidden_states: Whether to return each layer's output.
            return_dict: Whether to return an object instead of a tuple.
            exact_padding: See `DetrModel.forward`.
            **kwargs: Ignored; the framework passes more than DETR needs.

        Returns:
            The output, or a tuple of what it holds.

        Raises:
            ValueError: Labels break a rule; the message names image, annotation, rule and value.
        """
        detected = self.detect(
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
        loss, terms = None, None
        if labels is not None:
            loss, terms = self.compute_loss(self.match_labels(detected.logits, detected.boxes, labels))
        output = DetrObjectDetectionOutput(loss=loss, loss_dict=terms, **detected.fields())
        return as_asked(output, return_dict, self.config)

    def detect(
        self,
        pixel_values: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple[Tensor, ...] | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        exact_padding: bool | None = None,
        every_layer: bool = False,
    ) -> Detected:
        """The path that detection and segmentation share: both halves of the model and the two heads.

        The arguments are those of `forward`; with `every_layer` the heads see the output of each decoder layer.
        """
        asked = self.model._asked(output_attentions, output_hidden_states)
        encoded = self.model.encode(pixel_values, pixel_mask, inputs_embeds, encoder_outputs, exact_padding, *asked)
        decoded = self.model.decode(
            encoded, decoder_inputs_embeds, decoder_attention_mask, *asked, output_intermediate=every_layer
        )
        queries = decoded.last_hidden_state[None] if decoded.intermediate is None else decoded.intermediate
        return Detected(encoded, decoded, *self.predict(queries))

    def predict(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """The two heads: logits `(…, C + 1)` and boxes `(…, 4)` of decoded queries `(…, D)`."""
        return self.class_labels_classifier(queries), self.bbox_predictor(queries)

    def match_labels(
        self,
        logits: Tensor,
        pred_boxes: Tensor,
        labels: list[dict[str, Tensor]],
        mask_size: tuple[int, int] | None = None,
    ) -> MatchedPredictions:
        """Match the predictions of layers, `(L, B, Q, C + 1)` and `(L, B, Q, 4)`, with the labels of the batch.

        With masks, `mask_size` is the height and width of the batch's images, for `read_targets`.
        """
        config = self.config
        targets = read_targets(
            labels,
            batch_size=logits.shape[1],
            num_queries=logits.shape[2],
            num_classes=config.num_labels,
            device=logits.device,
            mask_size=mask_size,
        )
        costs = MatchingCosts(class_=config.class_cost, bbox=config.bbox_cost, giou=config.giou_cost)
        return match_predictions(logits, pred_boxes, targets, costs)

    def compute_loss(
        self, matched: MatchedPredictions, mask_logits: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The set loss with the weights of the configuration; see `set_loss`."""
        config = self.config
        return set_loss(
            matched,
            loss_weights(config),
            no_object=config.eos_coefficient,
            class_weights=config.class_weights,
            mask_logits=mask_logits,
        )


def _keep_backbone_as_built(backbone: nn.Module) -> None:
    """Keep the weights that the backbone's library gave it (pretrained ones too) through the initialization."""
    if any(parameter.is_meta for parameter in backbone.parameters()):
        return
    for module in backbone.modules():
        module._is_hf_initialized = True  # type: ignore[assignment]


def _square(tokens: Tensor) -> tuple[int, int, int]:
    """The shape `(B, h, w)` of the square feature map that `inputs_embeds` `(B, S, D)` stands for."""
    side = math.isqrt(tokens.shape[1])
    if side * side != tokens.shape[1]:
        raise ValueError(f"inputs_embeds must hold a square feature map, got {tokens.shape[1]} tokens")
    return tokens.shape[0], side, side


def _mask_if_padded(pixel_mask: Tensor, device: torch.device) -> Tensor | None:
    """The mask as booleans, or None where it is known without waiting for a device that nothing is padded."""
    mask = pixel_mask.to(torch.bool)
    if mask.device.type == "cpu" and not is_recorded() and bool(mask.all()):
        return None
    return mask.to(device)
