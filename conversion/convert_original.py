"""Convert DETR checkpoints from the original's files to folders that Transformers reads, and back.

python conversion/convert_original.py detr-resnet-50 --output detr-resnet-50
python conversion/convert_original.py detr-resnet-50 --output detr-resnet-50 --checkpoint detr-r50-e632da11.pth
python conversion/convert_original.py detr-resnet-50 --output back.pth --checkpoint detr-resnet-50 --reverse
python conversion/convert_original.py --output mine --checkpoint mine.pth --class-names names.txt

Without a name, the architecture is read off the weights.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from key_map import SEGMENTATION_PREFIX, listing, to_original, to_stored
from original_files import ConversionError, fetch, read, write
from transformers_detr.hub.architectures import FAMILIES
from transformers_detr.hub.class_names import VOC_NAMES
from transformers_detr.hub.fingerprint import compute_fingerprint, load_for_fingerprint, write_fingerprint
from transformers_detr.hub.loading import LoadingError, holds_segmentation, load_pretrained
from transformers_detr.hub.published_checkpoints import CHECKPOINTS, Checkpoint
from transformers_detr.hub.push import plan_upload, upload
from transformers_detr.hub.staging import PublishingError
from transformers_detr.model.configuration_detr import DetrConfig, TableTransformerConfig
from transformers_detr.model.image_processing_detr import DetrImageProcessor
from transformers_detr.model.modeling_detr import DetrForObjectDetection
from transformers_detr.model.modeling_segmentation_detr import DetrForSegmentation
from transformers_detr.model.pretrained_detr import DetrPreTrainedModel
from verify import verify

RESNETS: dict[tuple[bool, tuple[int, ...]], str] = {
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
    (True, (3, 8, 36, 3)): "resnet152",
}
"""timm's names by whether blocks have a third convolution, and the number of blocks of each stage."""


def config_of(checkpoint: Checkpoint, weights: Mapping[str, Tensor] | None = None) -> DetrConfig:
    """The configuration of a published checkpoint, with its class names.

    Args:
        checkpoint: Which one.
        weights: Its weights; with the class slots of Pascal VOC, the class names are those.
    """
    id2label = checkpoint.id2label
    if weights is not None and len(weights.get("class_embed.bias", ())) == len(VOC_NAMES) + 1:
        id2label = dict(enumerate(VOC_NAMES))
    return FAMILIES[checkpoint.project.model_type].config(
        backbone=checkpoint.backbone,
        dilation=checkpoint.dilation,
        num_queries=checkpoint.num_queries,
        id2label=id2label,
        label2id={name: slot for slot, name in reversed(id2label.items())},
        label_ids_to_fuse=checkpoint.label_ids_to_fuse,
    )


def config_from_weights(
    weights: Mapping[str, Tensor],
    *,
    num_heads: int = 8,
    dilation: bool = False,
    class_names: Sequence[str] | None = None,
) -> DetrConfig:
    """Read the architecture off original weights: backbone, pre-norm, sizes, classes and queries.

    Args:
        weights: Original names to tensors.
        num_heads: Attention heads, which weights do not show.
        dilation: Whether the backbone is dilated (DC5), which weights do not show.
        class_names: Names of the class slots; by default they are numbered.

    Returns:
        The configuration; of a Table Transformer if the encoder ends with a norm, as pre-norm alone has it.

    Raises:
        ConversionError: If this is not a DETR with a ResNet, or the number of names is not that of the slots.
    """
    weights = {name.removeprefix(SEGMENTATION_PREFIX): tensor for name, tensor in weights.items()}
    try:
        slots = len(weights["class_embed.bias"]) - 1
        queries, width = weights["query_embed.weight"].shape
        layers = {part: _count(weights, f"transformer.{part}.layers") for part in ("encoder", "decoder")}
        ffn = {
            part: len(weights[f"transformer.{part}.layers.0.linear1.bias"]) for part, count in layers.items() if count
        }
    except KeyError as error:
        raise ConversionError(f"these are not the weights of a DETR: {error.args[0]} is missing") from error
    if class_names is not None and len(class_names) != slots:
        raise ConversionError(f"the weights have {slots} class slots, but {len(class_names)} names were given")
    names = dict(enumerate(class_names or (f"LABEL_{slot}" for slot in range(slots))))
    learned = "backbone.1.row_embed.weight" in weights
    kind = TableTransformerConfig if "transformer.encoder.norm.weight" in weights else DetrConfig
    return kind(
        backbone=_backbone_of(weights),
        dilation=dilation,
        num_queries=queries,
        d_model=width,
        encoder_layers=layers["encoder"],
        decoder_layers=layers["decoder"],
        encoder_ffn_dim=ffn.get("encoder", 2048),
        decoder_ffn_dim=ffn["decoder"],
        encoder_attention_heads=num_heads,
        decoder_attention_heads=num_heads,
        position_embedding_type="learned" if learned else "sine",
        id2label=names,
        label2id={name: slot for slot, name in reversed(names.items())},
    )


def _backbone_of(weights: Mapping[str, Tensor]) -> str:
    """Return timm's name of the ResNet whose blocks are in the weights."""
    body = "backbone.0.body.layer"
    blocks = tuple(_count(weights, f"{body}{stage}") for stage in range(1, 5))
    found = RESNETS.get((f"{body}1.0.conv3.weight" in weights, blocks))
    if found is None:
        raise ConversionError(f"no ResNet has stages of {', '.join(map(str, blocks))} blocks like these")
    return found


def _count(weights: Mapping[str, Tensor], prefix: str) -> int:
    """Return the number of the modules that are numbered behind a prefix."""
    start = len(prefix) + 1
    return len({name[start:].split(".", 1)[0] for name in weights if name.startswith(f"{prefix}.")})


def convert(
    weights: dict[str, Tensor],
    config: DetrConfig,
    folder: Path,
    segmentation: bool = False,
    size: Mapping[str, int] | None = None,
) -> DetrPreTrainedModel:
    """Write original weights as a folder with weights, model and processor configuration, and verification numbers.

    The folder appears when it is complete and the weights read back from it are the original's, bit for bit.

    Args:
        weights: Original names to tensors.
        config: The architecture they belong to.
        folder: Where to write; must not exist or be empty.
        segmentation: Whether there is a mask head.
        size: Size that the image processor resizes to; by default 800 by at most 1333.

    Returns:
        The model, read back from the folder, in evaluation mode.

    Raises:
        ConversionError: If the folder is not empty; if a weight is unknown, missing or of another shape, which the
            message names; if what is read back differs.
    """
    _refuse_existing(folder)
    kind = _model_class(config, segmentation)
    with torch.device("meta"):
        model = kind(config)
    _check(weights, to_original(model.state_dict()))
    model.load_state_dict(to_stored(weights), assign=True)

    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model.save_pretrained(temporary)
        annotations = "coco_panoptic" if segmentation else "coco_detection"
        DetrImageProcessor(format=annotations, size=size).save_pretrained(temporary)
        saved, _ = load_pretrained(kind, temporary, dtype="auto")
        _compare(weights, to_original(saved.state_dict()), folder)
        write_fingerprint(temporary, compute_fingerprint(*load_for_fingerprint(temporary)))
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return saved.eval()


def reverse(
    source: str | Path, path: Path, segmentation: bool = False, backbone: tuple[str, bool] | None = None
) -> None:
    """Write the weights of a folder or Hub repository as an original checkpoint file.

    Args:
        source: Folder or Hub id.
        path: The file to write; must not exist.
        segmentation: Whether there is a mask head.
        backbone: Name and dilation that the source's backbone must have; None allows any.

    Raises:
        ConversionError: If the file exists, the backbone is another, or the original has no such weights, which the
            message names.
        LoadingError: If the source cannot be loaded.
    """
    _refuse_existing(path)
    kind = DetrForSegmentation if segmentation else DetrForObjectDetection
    loaded: tuple[DetrPreTrainedModel, DetrImageProcessor] = load_pretrained(kind, source, dtype="auto")
    model, _ = loaded
    found = model.config.backbone, model.config.dilation
    if backbone is not None and backbone != found:
        shown = [f"{name}, dilated" if dilated else str(name) for name, dilated in (found, backbone)]
        raise ConversionError(f"{source}: the backbone is {shown[0]}, not {shown[1]}")
    try:
        weights = to_original(model.state_dict())
    except ValueError as error:
        raise ConversionError(f"{source}: {error}") from error
    write(weights, path)


def _model_class(config: DetrConfig, segmentation: bool) -> type[DetrPreTrainedModel]:
    family = FAMILIES[config.model_type]
    if segmentation and family.segmenter is None:
        raise ConversionError("the weights have a mask head, which no pre-norm model in Transformers has")
    return family.segmenter if segmentation and family.segmenter else family.detector


def _refuse_existing(path: Path) -> None:
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists():
        raise ConversionError(f"{path}: exists already; remove it or choose another --output")


def _check(weights: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Refuse unexpected or non-finite weights; both sides have the original's names."""
    wrong = {
        "unknown weights": [name for name in weights if name not in expected],
        "missing weights": [name for name in expected if name not in weights],
        "weights of another shape": [
            f"{name} {tuple(tensor.shape)} instead of {tuple(expected[name].shape)}"
            for name, tensor in weights.items()
            if name in expected and tensor.shape != expected[name].shape
        ],
    }
    faults = [f"{fault}: {listing(names, 3)}" for fault, names in wrong.items() if names]
    if faults:
        raise ConversionError(f"the checkpoint does not fit the architecture; {'; '.join(faults)}")
    spoilt = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if spoilt:
        raise ConversionError(f"the checkpoint holds NaN or infinity in {listing(spoilt, 3)}")


def _compare(weights: dict[str, Tensor], saved: dict[str, Tensor], folder: Path) -> None:
    """Refuse a folder whose weights, read back, differ from the written ones."""
    changed = [name for name, tensor in weights.items() if not torch.equal(tensor, saved[name])]
    if changed:
        raise ConversionError(f"{folder}: the written weights differ when read back: {listing(changed, 3)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Convert an original DETR checkpoint, or convert one back.")
    parser.add_argument("name", nargs="?", choices=CHECKPOINTS, help="the published checkpoint, if it is one")
    parser.add_argument("--output", required=True, type=Path, help="folder to write; with --reverse, a .pth file")
    parser.add_argument(
        "--checkpoint",
        help="original .pth file (default: downloaded); with --reverse, a folder or Hub id (default: the published)",
    )
    parser.add_argument(
        "--push-to-hub", metavar="REPOSITORY", help="publish the folder, with its card, as this repository"
    )
    parser.add_argument("--heads", type=int, default=8, help="attention heads, without a name (default: 8)")
    parser.add_argument("--dilation", action="store_true", help="dilated backbone (DC5), without a name")
    parser.add_argument("--class-names", type=Path, metavar="FILE", help="a name per line, without a published name")
    parser.add_argument("--reverse", action="store_true", help="write an original file from a folder")
    parser.add_argument("--verify", action="store_true", help="compare predictions with the original code (network)")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    checkpoint: Checkpoint | None = CHECKPOINTS.get(arguments.name)
    output: Path = arguments.output
    _refuse_existing(output)
    source: str | None = arguments.checkpoint
    if arguments.reverse:
        if source is None and checkpoint is not None:
            source = checkpoint.hub_id
        if source is None:
            raise ConversionError("give the folder or Hub id with --checkpoint")
        backbone = None if checkpoint is None else (checkpoint.backbone, checkpoint.dilation)
        segmentation = holds_segmentation(source) if checkpoint is None else checkpoint.segmentation
        reverse(source, output, segmentation, backbone)
        print(f"{output}: written")
        return
    if checkpoint is None:
        weights = read(Path(str(source)))
        names = _read_names(arguments.class_names) if arguments.class_names else None
        config = config_from_weights(weights, num_heads=arguments.heads, dilation=arguments.dilation, class_names=names)
        convert(weights, config, output, any(name.startswith(SEGMENTATION_PREFIX) for name in weights))
        print(f"{output}: {len(weights)} weights written and verified ({config.model_type}, {config.backbone})")
        return
    weights = read(Path(source) if source else fetch(checkpoint))
    config = config_of(checkpoint, weights)
    model = convert(weights, config, output, checkpoint.segmentation, checkpoint.size)
    print(f"{output}: {len(weights)} weights written and verified")
    if arguments.verify:
        print(verify(checkpoint, weights, model))
    if arguments.push_to_hub:
        sys.path.append(str(Path(__file__).parents[1] / "model_cards"))
        from published_card import published_card

        (output / "README.md").write_text(published_card(checkpoint, arguments.push_to_hub), encoding="utf-8")
        with plan_upload(output, arguments.push_to_hub) as plan:
            commit = upload(plan)
        print(commit.commit_url if commit else f"{arguments.push_to_hub}: is up to date, nothing was uploaded")


def _read_names(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments; those of the process if not given.

    Returns:
        Exit status: 0, or 1 after an error, which is then one line on stderr. (2 is for wrong arguments.)
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.reverse and (arguments.verify or arguments.push_to_hub):
        parser.error("--reverse goes with neither --verify nor --push-to-hub")
    if arguments.name is None and (arguments.verify or arguments.push_to_hub or not arguments.checkpoint):
        parser.error("without the name of a published checkpoint: --checkpoint, and neither --verify nor --push-to-hub")
    if arguments.name and (arguments.class_names or arguments.dilation):
        parser.error("--class-names and --dilation are for checkpoints without a published name")
    disable_progress_bar()
    try:
        _run(arguments)
    except (ConversionError, LoadingError, PublishingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
