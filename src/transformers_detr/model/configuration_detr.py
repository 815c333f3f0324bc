"""DetrConfig: all settings of a DETR model, read from any published `config.json`."""

from __future__ import annotations

import copy
import difflib
import inspect
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import CONFIG_MAPPING, AutoConfig
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig

# Written by old versions of transformers; they never had a meaning for DETR.
LEGACY_FIELDS = frozenset({"max_position_embeddings", "scale_embedding", "classifier_dropout"})

# Accepted by the base class without being attributes of a fresh instance.
BASE_FIELDS = frozenset(
    {
        "attn_implementation",
        "auto_map",
        "custom_pipelines",
        "experts_implementation",
        "model_type",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "output_hidden_states",
        "quantization_config",
        "return_dict",
        "tie_word_embeddings",
        "torch_dtype",
        "use_return_dict",
    }
)


class DetrConfig(PreTrainedConfig):
    """Configuration of DETR; the defaults are those of `facebook/detr-resnet-50` without its class names.

    `config.json` exists in three forms and all are read: a timm backbone by name (`backbone="resnet50"`, the
    form that is also written, since every version of transformers reads it), a `backbone_config` of type
    `timm_backbone` (transformers 5), and a `backbone_config` of a transformers backbone such as `resnet` (the
    `no_timm` revisions). Fields that this class does not know are kept when a file is loaded and refused
    when they are passed to the constructor.

    Args:
        backbone: Name of a timm model; with `use_timm_backbone=False`, folder or Hub name of a transformers backbone,
            whose configuration is read. None selects `backbone_config`.
        backbone_config: Configuration of a transformers backbone, used instead of a timm backbone.
        backbone_kwargs: Further arguments for `timm.create_model`, such as `{"pad_type": "same"}`, or fields of the
            configuration that `backbone` names.
        use_timm_backbone: Whether the backbone is a timm model. None derives it from `backbone_config`.
        use_pretrained_backbone: Whether a model that is built from this configuration downloads pretrained
            backbone weights. Ignored when a checkpoint is loaded, and stored as False next to one.
        dilation: Whether the last stage of the backbone is dilated instead of strided (DC5, stride 16).
        num_channels: Channels of the input images. Where the backbone is described with another number than 3, that
            number holds.
        num_queries: Object queries, the largest number of objects found in an image.
        encoder_layers: Encoder layers.
        encoder_ffn_dim: Width of the encoder's feed-forward layers.
        encoder_attention_heads: Attention heads of the encoder.
        encoder_layerdrop: Probability of skipping an encoder layer in training.
        decoder_layers: Decoder layers.
        decoder_ffn_dim: Width of the decoder's feed-forward layers.
        decoder_attention_heads: Attention heads of the decoder.
        decoder_layerdrop: Probability of skipping a decoder layer in training.
        is_encoder_decoder: Always True for DETR; a field of the base class.
        activation_function: Activation of the feed-forward layers, by its transformers name.
        d_model: Width `D` of the transformer.
        dropout: Dropout on residual branches.
        attention_dropout: Dropout on attention weights.
        activation_dropout: Dropout behind the feed-forward activation.
        init_std: Unused (the original's initialization has no such number); kept for compatibility.
        init_xavier_std: Gain of the mask head's attention projections.
        auxiliary_loss: Whether every decoder layer is trained; never changes predictions.
        position_embedding_type: `"sine"` or `"learned"`.
        exact_padding: Default of the model's argument of this name: keep the padded area at zero inside the
            backbone, so that an image's predictions do not depend on its neighbors in the batch.
        fast_paths: Whether CPU fast paths may be used; False runs every layer's own code. Stored only if False.
        class_cost: Weight of the class probability in the matching.
        bbox_cost: Weight of the L1 distance in the matching.
        giou_cost: Weight of the generalized IoU in the matching.
        mask_loss_coefficient: Weight of the focal mask loss.
        dice_loss_coefficient: Weight of the dice mask loss.
        bbox_loss_coefficient: Weight of the L1 box loss.
        giou_loss_coefficient: Weight of the generalized IoU loss.
        eos_coefficient: Weight of the class "no object" in the classification loss.
        class_weights: Weight of each class in the classification loss; None for 1. Stored only if given.
        label_ids_to_fuse: Class ids of stuff, whose segments are fused in panoptic segmentation.
        **kwargs: Fields of `PreTrainedConfig`, such as `id2label`.

    Raises:
        TypeError: An argument is unknown; the message names the nearest field.
        ValueError: A value is out of range, or the backbone is described twice or not at all.
    """

    model_type = "detr"
    sub_configs: ClassVar[dict[str, type]] = {"backbone_config": AutoConfig}
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
    }
    norm_first: ClassVar[bool] = False
    """Whether the transformer is pre-norm; a model type says so, never a field of a file."""
    if TYPE_CHECKING:  # the base class's own types allow None
        id2label: dict[int, str]
        num_labels: int

    def __init__(
        self,
        backbone: str | None = None,
        backbone_config: dict[str, Any] | PreTrainedConfig | None = None,
        backbone_kwargs: dict[str, Any] | None = None,
        use_timm_backbone: bool | None = None,
        use_pretrained_backbone: bool = False,
        dilation: bool = False,
        num_channels: int = 3,
        num_queries: int = 100,
        encoder_layers: int = 6,
        encoder_ffn_dim: int = 2048,
        encoder_attention_heads: int = 8,
        encoder_layerdrop: float = 0.0,
        decoder_layers: int = 6,
        decoder_ffn_dim: int = 2048,
        decoder_attention_heads: int = 8,
        decoder_layerdrop: float = 0.0,
        is_encoder_decoder: bool = True,
        activation_function: str = "relu",
        d_model: int = 256,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        init_std: float = 0.02,
        init_xavier_std: float = 1.0,
        auxiliary_loss: bool = False,
        position_embedding_type: str = "sine",
        exact_padding: bool = False,
        fast_paths: bool = True,
        class_cost: float = 1,
        bbox_cost: float = 5,
        giou_cost: float = 2,
        mask_loss_coefficient: float = 1,
        dice_loss_coefficient: float = 1,
        bbox_loss_coefficient: float = 5,
        giou_loss_coefficient: float = 2,
        eos_coefficient: float = 0.1,
        class_weights: list[float] | None = None,
        label_ids_to_fuse: list[int] | None = None,
        **kwargs: Any,
    ):
        _refuse_unknown(type(self).__name__, kwargs)
        described = _describe_backbone(backbone, backbone_config, backbone_kwargs, use_timm_backbone, bool(dilation))
        self.backbone: str | None = described["backbone"]
        self.backbone_config: PreTrainedConfig | None = described["backbone_config"]
        self.backbone_kwargs: dict[str, Any] | None = described["backbone_kwargs"]
        self.use_timm_backbone: bool = described["use_timm_backbone"]
        self.use_pretrained_backbone = bool(use_pretrained_backbone)
        self.dilation: bool = described["dilation"]
        self.num_channels = _agreed_channels(num_channels, described["num_channels"])
        self.num_queries = num_queries
        self.encoder_layers = encoder_layers
        self.encoder_ffn_dim = encoder_ffn_dim
        self.encoder_attention_heads = encoder_attention_heads
        self.encoder_layerdrop = encoder_layerdrop
        self.decoder_layers = decoder_layers
        self.decoder_ffn_dim = decoder_ffn_dim
        self.decoder_attention_heads = decoder_attention_heads
        self.decoder_layerdrop = decoder_layerdrop
        self.activation_function = activation_function
        self.d_model = d_model
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.activation_dropout = activation_dropout
        self.init_std = init_std
        self.init_xavier_std = init_xavier_std
        self.auxiliary_loss = auxiliary_loss
        self.position_embedding_type = position_embedding_type
        self.exact_padding = exact_padding
        self.fast_paths = fast_paths
        self.class_cost = class_cost
        self.bbox_cost = bbox_cost
        self.giou_cost = giou_cost
        self.mask_loss_coefficient = mask_loss_coefficient
        self.dice_loss_coefficient = dice_loss_coefficient
        self.bbox_loss_coefficient = bbox_loss_coefficient
        self.giou_loss_coefficient = giou_loss_coefficient
        self.eos_coefficient = eos_coefficient
        self.class_weights = class_weights
        self.label_ids_to_fuse = label_ids_to_fuse
        self._set_backbone_channels()
        self._check_ranges()
        output_attentions = kwargs.pop("output_attentions", False)  # see `validate`
        super().__init__(is_encoder_decoder=is_encoder_decoder, **kwargs)
        self.output_attentions = output_attentions
        _check("num_labels", self.num_labels, "at least 1", self.num_labels >= 1)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build the configuration from the content of a `config.json`.

        Args:
            config_dict: The parsed file. Unknown keys are kept as attributes.
            **kwargs: Fields to override, as in the base class.

        Returns:
            The configuration, or `(configuration, unused arguments)` with `return_unused_kwargs=True`.

        Raises:
            ValueError: The file describes a model of another type, or says that this one is pre-norm.
        """
        _refuse_other_type(cls, config_dict)
        known = _known_fields()
        unknown = {key: value for key, value in config_dict.items() if not _is_known(key, known)}
        result = super().from_dict({k: v for k, v in config_dict.items() if k not in unknown}, **kwargs)
        config = result[0] if isinstance(result, tuple) else result
        for key, value in unknown.items():
            setattr(config, key, value)
        config._set_backbone_channels()
        config._check_ranges()  # overrides in `kwargs` are set after the constructor has run
        return result

    def to_dict(self) -> dict[str, Any]:
        """The content of `config.json`; without an empty `backbone_kwargs`, on which stock transformers 5 fails.

        Nor with `fast_paths` while they are on, or `class_weights` while there are none.
        """
        values: dict[str, Any] = super().to_dict()
        if values.get("backbone_kwargs") is None:
            values.pop("backbone_kwargs", None)
        for name, default in (("fast_paths", True), ("class_weights", None)):
            if values.get(name) is default:
                values.pop(name, None)
        return values

    @property
    def output_attentions(self) -> bool | None:
        """Return attention maps; unlike in the base class, with any attention implementation."""
        wanted: bool | None = self._output_attentions
        return wanted

    @output_attentions.setter
    def output_attentions(self, value: bool | None) -> None:
        self._output_attentions = value

    def validate(self) -> None:
        """Check as the base class does, which refuses `output_attentions` without eager attention."""
        wanted, self._output_attentions = self._output_attentions, False
        try:
            super().validate()  # type: ignore[misc]  # a decorator adds it
        finally:
            self._output_attentions = wanted

    def _set_backbone_channels(self) -> None:
        """Let a native backbone take `num_channels` too; timm's get the number when they are built."""
        backbone: Any = copy.deepcopy(self.backbone_config)  # perhaps the caller's
        channels = getattr(backbone, "num_channels", None)
        self.num_channels = _agreed_channels(self.num_channels, channels)
        if channels not in (None, self.num_channels):
            backbone.num_channels = self.num_channels
            self.backbone_config = backbone

    def _check_ranges(self) -> None:
        for name in (
            "num_channels",
            "num_queries",
            "decoder_layers",
            "encoder_ffn_dim",
            "decoder_ffn_dim",
            "d_model",
        ):
            _check(name, getattr(self, name), "a whole number, at least 1", _is_whole(getattr(self, name), 1))
        _check(
            "encoder_layers",
            self.encoder_layers,
            "a whole number, at least 0",
            _is_whole(self.encoder_layers, 0),
        )
        for name in ("encoder_attention_heads", "decoder_attention_heads"):
            heads = getattr(self, name)
            _check(name, heads, "a whole number, at least 1", _is_whole(heads, 1))
            _check(name, heads, f"a divisor of d_model ({self.d_model})", self.d_model % heads == 0)
        for name in (
            "dropout",
            "attention_dropout",
            "activation_dropout",
            "encoder_layerdrop",
            "decoder_layerdrop",
        ):
            _check(name, getattr(self, name), "between 0 and 1", _is_number(getattr(self, name), 0, 1))
        for name in (
            "class_cost",
            "bbox_cost",
            "giou_cost",
            "mask_loss_coefficient",
            "dice_loss_coefficient",
            "bbox_loss_coefficient",
            "giou_loss_coefficient",
            "eos_coefficient",
        ):
            _check(name, getattr(self, name), "at least 0", _is_number(getattr(self, name), 0))
        if self.class_weights is not None and not all(_is_number(weight, 0) for weight in self.class_weights):
            raise ValueError(f"class_weights must be numbers, at least 0, got {self.class_weights}")
        if self.class_cost == self.bbox_cost == self.giou_cost == 0:
            raise ValueError("class_cost, bbox_cost and giou_cost must not all be 0: nothing is left to match by")
        _check(
            "position_embedding_type",
            self.position_embedding_type,
            "'sine' or 'learned'",
            self.position_embedding_type in ("sine", "learned"),
        )
        divisor = 4 if self.position_embedding_type == "sine" else 2
        _check("d_model", self.d_model, f"a multiple of {divisor}", self.d_model % divisor == 0)
        _check(
            "activation_function",
            self.activation_function,
            "an activation of transformers, such as 'relu' or 'gelu'",
            self.activation_function in ACT2FN,
        )


class TableTransformerConfig(DetrConfig):
    """Configuration of DETR with pre-norm layers: the Table Transformer and UP-DETR.

    The arguments are those of `DetrConfig`. The model type is the one in which stock Transformers computes pre-norm.
    """

    model_type = "table-transformer"
    norm_first: ClassVar[bool] = True

    __init__ = DetrConfig.__init__  # or the base class would write one from the fields


def _check(name: str, value: object, rule: str, holds: bool) -> None:
    if not holds:
        raise ValueError(f"{name} must be {rule}, got {value!r}")


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: object, least: float, most: float = float("inf")) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _refuse_other_type(kind: type[DetrConfig], values: dict[str, Any]) -> None:
    stored = values.get("model_type", kind.model_type)
    if stored != kind.model_type:
        raise ValueError(
            f"the configuration is of model_type {stored!r}, and {kind.__name__} reads {kind.model_type!r}"
        )
    for name in ("norm_first", "pre_norm", "normalize_before"):
        if values.get(name, kind.norm_first) != kind.norm_first:
            raise ValueError(
                f"{name} is {values[name]!r}, but models of type {kind.model_type!r} are "
                f"{'pre-norm' if kind.norm_first else 'post-norm; TableTransformerConfig describes pre-norm'}"
            )


def _known_fields() -> set[str]:
    own = set(inspect.signature(DetrConfig.__init__).parameters) - {"self", "kwargs"}
    return own | set(DetrConfig.attribute_map) | set(vars(PreTrainedConfig())) | BASE_FIELDS | LEGACY_FIELDS


def _is_known(name: str, known: set[str]) -> bool:
    return name in known or name.startswith("_")


def _refuse_unknown(kind: str, kwargs: dict[str, Any]) -> None:
    if not kwargs:
        return
    known = _known_fields()
    for name in kwargs:
        if not _is_known(name, known):
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise TypeError(f"{kind} got an unknown argument {name!r}{hint}")


def _agreed_channels(num_channels: int, of_backbone: int | None) -> int:
    """Choose between the channels of configuration and backbone; 3, the default of both, gives way."""
    if num_channels == 3 or of_backbone in (None, 3, num_channels):
        return num_channels if of_backbone in (None, 3) else of_backbone
    raise ValueError(f"num_channels is {num_channels}, but the backbone is described with {of_backbone}")


def _describe_backbone(
    backbone: str | None,
    backbone_config: dict[str, Any] | PreTrainedConfig | None,
    backbone_kwargs: dict[str, Any] | None,
    use_timm_backbone: bool | None,
    dilation: bool,
) -> dict[str, Any]:
    """Bring the three ways to describe a backbone into one: a timm name with arguments, or a configuration."""
    if isinstance(backbone_config, PreTrainedConfig):
        stored: dict[str, Any] | None = backbone_config.to_dict()
    else:
        stored = dict(backbone_config) if backbone_config else None
    if stored is not None and stored.get("model_type") == "timm_backbone":
        return _from_timm_backbone(backbone, stored, dilation)
    if use_timm_backbone is False or stored is not None:
        if use_timm_backbone or (backbone is not None and stored is not None):
            raise ValueError(
                f"the backbone is described twice: backbone={backbone!r} (timm) and "
                f"backbone_config of type {(stored or {}).get('model_type')!r}; give one of them"
            )
        if dilation:
            raise ValueError("dilation=True needs a timm backbone (backbone='resnet50'); backbone_config was given")
        return {
            "backbone": None,
            "backbone_config": _native_config(backbone or backbone_config, backbone_kwargs or {}),
            "backbone_kwargs": None,
            "use_timm_backbone": False,
            "dilation": False,
            "num_channels": (stored or {}).get("num_channels"),
        }
    extra = backbone_kwargs or {}
    return {
        "backbone": backbone or "resnet50",
        "backbone_config": None,
        "backbone_kwargs": _without_defaults(extra),
        "use_timm_backbone": True,
        "dilation": dilation or extra.get("output_stride") == 16,
        "num_channels": extra.get("in_chans", extra.get("num_channels")),
    }


def _native_config(
    backbone_config: str | dict[str, Any] | PreTrainedConfig | None, backbone_kwargs: dict[str, Any]
) -> PreTrainedConfig:
    """The configuration of a transformers backbone; a folder or a name on the Hub is read, with the arguments."""
    if isinstance(backbone_config, str):
        return AutoConfig.from_pretrained(backbone_config, **backbone_kwargs)
    if isinstance(backbone_config, PreTrainedConfig):
        return backbone_config
    values: dict[str, Any] = dict(backbone_config) if backbone_config else {"model_type": "resnet"}
    model_type = values.pop("model_type", None)
    if model_type is None:
        raise ValueError("backbone_config must name its model_type, for example {'model_type': 'resnet'}")
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"backbone_config: transformers has no model_type {model_type!r}")
    if "out_features" not in values and "out_indices" not in values and model_type == "resnet":
        values["out_features"] = ["stage4"]
    return AutoConfig.for_model(model_type, **values)


def _from_timm_backbone(backbone: str | None, stored: dict[str, Any], dilation: bool) -> dict[str, Any]:
    name = stored.get("backbone") or backbone
    if not name:
        raise ValueError("backbone_config of type 'timm_backbone' must name its backbone")
    extra = dict(stored.get("model_args") or {})
    for key in ("out_indices", "output_stride"):
        if stored.get(key) is not None:
            extra[key] = stored[key]
    return {
        "backbone": name,
        "backbone_config": None,
        "backbone_kwargs": _without_defaults(extra),
        "use_timm_backbone": True,
        "dilation": dilation or extra.get("output_stride") == 16,
        "num_channels": stored.get("num_channels"),
    }


def _without_defaults(backbone_kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """Drop what `dilation`, `num_channels` and the backbone itself already say.

    Without this, stock transformers 5 would mistake a stored `backbone_kwargs` for a transformers backbone.
    """
    extra = {k: v for k, v in backbone_kwargs.items() if k not in ("in_chans", "num_channels", "features_only")}
    if list(extra.get("out_indices") or [1, 2, 3, 4]) == [1, 2, 3, 4]:
        extra.pop("out_indices", None)
    if extra.get("output_stride") in (16, 32):
        extra.pop("output_stride")
    return extra or None
