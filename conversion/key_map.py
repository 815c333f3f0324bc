"""Names of DETR's weights: the original's and the stored ones, in one table that is read both ways.

"Stored" are the names of 2021, which every checkpoint on the Hub bears and which our modules bear in memory.
A row of the table is `(original name, stored names)`; `*` stands for a number. The stored side has one name,
or three where the original keeps query, key and value in one tensor. Blocks and rows stand in the order in
which the original writes its weights, so a file can be written back in that order too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Row = tuple[str, tuple[str, ...]]

SEGMENTATION_PREFIX = "detr."
"""Prefix of the detector's names in a checkpoint with masks, in the original and as stored."""


def _affine(original: str, stored: str) -> list[Row]:
    """Rows of a module with weight and bias."""
    return [(f"{original}.{part}", (f"{stored}.{part}",)) for part in ("weight", "bias")]


def _attention(original: str, stored: str) -> list[Row]:
    """Rows of an attention module: one input projection in the original, three as stored."""
    inputs: list[Row] = [
        (f"{original}.in_proj_{part}", tuple(f"{stored}.{name}_proj.{part}" for name in "qkv"))
        for part in ("weight", "bias")
    ]
    return inputs + _affine(f"{original}.out_proj", f"{stored}.out_proj")


def _convolution_and_norm(convolution: str, norm: str) -> list[Row]:
    """Rows of a backbone's convolution and the frozen batch norm behind it; torchvision and timm agree."""
    names = [f"{convolution}.weight"]
    names += [f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
    return [(f"backbone.0.body.{name}", (f"model.backbone.conv_encoder.model.{name}",)) for name in names]


def _encoder_layer() -> list[Row]:
    original, stored = "transformer.encoder.layers.*", "model.encoder.layers.*"
    return [
        *_attention(f"{original}.self_attn", f"{stored}.self_attn"),
        *_affine(f"{original}.linear1", f"{stored}.fc1"),
        *_affine(f"{original}.linear2", f"{stored}.fc2"),
        *_affine(f"{original}.norm1", f"{stored}.self_attn_layer_norm"),
        *_affine(f"{original}.norm2", f"{stored}.final_layer_norm"),
    ]


def _decoder_layer() -> list[Row]:
    original, stored = "transformer.decoder.layers.*", "model.decoder.layers.*"
    return [
        *_attention(f"{original}.self_attn", f"{stored}.self_attn"),
        *_attention(f"{original}.multihead_attn", f"{stored}.encoder_attn"),
        *_affine(f"{original}.linear1", f"{stored}.fc1"),
        *_affine(f"{original}.linear2", f"{stored}.fc2"),
        *_affine(f"{original}.norm1", f"{stored}.self_attn_layer_norm"),
        *_affine(f"{original}.norm2", f"{stored}.encoder_attn_layer_norm"),
        *_affine(f"{original}.norm3", f"{stored}.final_layer_norm"),
    ]


def _backbone_block() -> list[Row]:
    rows = [row for i in (1, 2, 3) for row in _convolution_and_norm(f"layer*.*.conv{i}", f"layer*.*.bn{i}")]
    return rows + _convolution_and_norm("layer*.*.downsample.0", "layer*.*.downsample.1")


def _mask_head() -> list[Row]:
    layers = [name for i in range(1, 6) for name in (f"lay{i}", f"gn{i}")]
    names = [*layers, "out_lay", "adapter1", "adapter2", "adapter3"]
    return [row for name in names for row in _affine(f"mask_head.{name}", f"mask_head.{name}")]


DETECTION_BLOCKS: tuple[list[Row], ...] = (
    _encoder_layer(),
    _decoder_layer(),
    _affine("transformer.encoder.norm", "model.encoder.layernorm"),  # pre-norm only
    _affine("transformer.decoder.norm", "model.decoder.layernorm"),
    _affine("class_embed", "class_labels_classifier"),
    _affine("bbox_embed.layers.*", "bbox_predictor.layers.*"),
    [("query_embed.weight", ("model.query_position_embeddings.weight",))],
    _affine("input_proj", "model.input_projection"),
    _convolution_and_norm("conv1", "bn1"),
    _backbone_block(),
    [("backbone.1.row_embed.weight", ("model.position_embedding.row_embeddings.weight",))],
    [("backbone.1.col_embed.weight", ("model.position_embedding.column_embeddings.weight",))],
)

SEGMENTATION_BLOCKS: tuple[list[Row], ...] = (
    _affine("bbox_attention.q_linear", "bbox_attention.q_linear")
    + _affine("bbox_attention.k_linear", "bbox_attention.k_linear"),
    _mask_head(),
)


class _Entry(NamedTuple):
    """One row of the table with its place in the original's order."""

    block: int
    row: int
    original: str
    stored: tuple[str, ...]


_ENTRIES = [
    _Entry(block, row, original, stored)
    for block, rows in enumerate(DETECTION_BLOCKS + SEGMENTATION_BLOCKS)
    for row, (original, stored) in enumerate(rows)
]
_BY_ORIGINAL = {entry.original: entry for entry in _ENTRIES}
_BY_STORED = {name: entry for entry in _ENTRIES for name in entry.stored}
_SEGMENTATION_STARTS = ("bbox_attention.", "mask_head.")
_NUMBER = re.compile(r"(?<=\blayers\.)\d+|(?<=\.layer)\d+|(?<=\.layer\d\.)\d+")


def to_stored(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of an original checkpoint under the stored names.

    Args:
        weights: Original names to tensors, with or without masks.

    Returns:
        Stored names to tensors, in the order given; input projections are cut into query, key and value.
        No tensor shares memory with the argument's where it had to be cut.

    Raises:
        ValueError: If a name is not the original's, or an input projection cannot be cut into three.
    """
    result: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in weights.items():
        template, numbers, prefix = _parse(name)
        entry = _BY_ORIGINAL.get(template)
        if entry is None:
            unknown.append(name)
            continue
        parts = len(entry.stored)
        if tensor.ndim == 0 or tensor.shape[0] % parts:
            raise ValueError(f"{name} of shape {tuple(tensor.shape)} cannot be cut into {parts} equal parts")
        pieces = [tensor] if parts == 1 else [piece.clone() for piece in tensor.chunk(parts)]
        for stored, piece in zip(entry.stored, pieces, strict=True):
            result[prefix + _fill(stored, numbers)] = piece
    _refuse(unknown, "the original DETR")
    return result


def to_original(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return stored weights under the original's names, in the original's order.

    Args:
        weights: Stored names to tensors, with or without masks. Entries `num_batches_tracked`, which some
            files on the Hub carry and DETR never had, are left out.

    Returns:
        Original names to tensors; query, key and value are joined into one input projection.

    Raises:
        ValueError: If a name is not a stored one, or one of query, key and value is missing.
    """
    names: dict[tuple[int, tuple[int, ...], int], tuple[str, list[str]]] = {}
    unknown = []
    for name in weights:
        if name.endswith(".num_batches_tracked"):
            continue
        template, numbers, prefix = _parse(name)
        entry = _BY_STORED.get(template)
        if entry is None:
            unknown.append(name)
            continue
        place = (entry.block, numbers, entry.row)
        names[place] = (
            prefix + _fill(entry.original, numbers),
            [prefix + _fill(stored, numbers) for stored in entry.stored],
        )
    _refuse(unknown, "a stored DETR")
    missing = [part for _, parts in names.values() for part in parts if part not in weights]
    if missing:
        raise ValueError(f"missing weights: {listing(missing)}")
    ordered = (names[place] for place in sorted(names))
    return {
        original: weights[parts[0]] if len(parts) == 1 else torch.cat([weights[part] for part in parts])
        for original, parts in ordered
    }


def listing(names: Iterable[str], limit: int = 10) -> str:
    """Return the first few of `names` and the number of the others."""
    names = list(names)
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest


def _parse(name: str) -> tuple[str, tuple[int, ...], str]:
    """Split a name into its template, the numbers in it and the prefix of a checkpoint with masks."""
    prefix = SEGMENTATION_PREFIX if name.startswith(SEGMENTATION_PREFIX) else ""
    bare = name.removeprefix(prefix)
    if prefix and bare.startswith(_SEGMENTATION_STARTS):
        return name, (), ""  # the mask head never stands inside the detector: such a name is unknown
    return _NUMBER.sub("*", bare), tuple(int(number) for number in _NUMBER.findall(bare)), prefix


def _fill(template: str, numbers: tuple[int, ...]) -> str:
    for number in numbers:
        template = template.replace("*", str(number), 1)
    return template


def _refuse(unknown: list[str], kind: str) -> None:
    if unknown:
        raise ValueError(f"names that {kind} checkpoint does not have: {listing(unknown)}")
