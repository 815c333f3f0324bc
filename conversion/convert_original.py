"""Convert published DETR checkpoints from the original's files to folders that Transformers reads, and back.

python conversion/convert_original.py detr-resnet-50 --output detr-resnet-50
python conversion/convert_original.py detr-resnet-50 --output detr-resnet-50 --checkpoint detr-r50-e632da11.pth
python conversion/convert_original.py detr-resnet-50 --output back.pth --checkpoint detr-resnet-50 --reverse
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from key_map import listing, to_original, to_stored
from original_files import ConversionError, fetch, read, write
from transformers_detr.hub.fingerprint import compute_fingerprint, load_for_fingerprint, write_fingerprint
from transformers_detr.hub.loading import LoadingError, load_pretrained
from transformers_detr.hub.published_checkpoints import CHECKPOINTS, Checkpoint
from transformers_detr.hub.push import plan_upload, upload
from transformers_detr.hub.staging import PublishingError
from transformers_detr.model.configuration_detr import DetrConfig
from transformers_detr.model.image_processing_detr import DetrImageProcessor
from transformers_detr.model.modeling_detr import DetrForObjectDetection
from transformers_detr.model.modeling_segmentation_detr import DetrForSegmentation
from transformers_detr.model.pretrained_detr import DetrPreTrainedModel
from verify import verify


def config_of(checkpoint: Checkpoint) -> DetrConfig:
    """The configuration of a published checkpoint, with its class names."""
    return DetrConfig(
        backbone=checkpoint.backbone,
        dilation=checkpoint.dilation,
        id2label=checkpoint.id2label,
        label2id={name: slot for slot, name in reversed(checkpoint.id2label.items())},
        label_ids_to_fuse=checkpoint.label_ids_to_fuse,
    )


def convert(
    weights: dict[str, Tensor], config: DetrConfig, folder: Path, segmentation: bool = False
) -> DetrPreTrainedModel:
    """Write original weights as a folder with weights, model and processor configuration, and verification numbers.

    The folder appears when it is complete and the weights read back from it are the original's, bit for bit.

    Args:
        weights: Original names to tensors.
        config: The architecture they belong to.
        folder: Where to write; must not exist or be empty.
        segmentation: Whether there is a mask head.

    Returns:
        The model, read back from the folder, in evaluation mode.

    Raises:
        ConversionError: If the folder is not empty; if a weight is unknown, missing or of another shape, which the
            message names; if what is read back differs.
    """
    _refuse_existing(folder)
    with torch.device("meta"):
        model = _model_class(segmentation)(config)
    _check(weights, to_original(model.state_dict()))
    model.load_state_dict(to_stored(weights), assign=True)

    temporary = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model.save_pretrained(temporary)
        annotations = "coco_panoptic" if segmentation else "coco_detection"
        DetrImageProcessor(format=annotations).save_pretrained(temporary)
        saved, _ = load_pretrained(_model_class(segmentation), temporary, dtype="auto")
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
    model, _ = load_pretrained(_model_class(segmentation), source, dtype="auto")
    found = model.config.backbone, model.config.dilation
    if backbone is not None and backbone != found:
        shown = [f"{name}, dilated" if dilated else str(name) for name, dilated in (found, backbone)]
        raise ConversionError(f"{source}: the backbone is {shown[0]}, not {shown[1]}")
    try:
        weights = to_original(model.state_dict())
    except ValueError as error:
        raise ConversionError(f"{source}: {error}") from error
    write(weights, path)


def _model_class(segmentation: bool) -> type[DetrPreTrainedModel]:
    return DetrForSegmentation if segmentation else DetrForObjectDetection


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
    parser.add_argument("name", choices=CHECKPOINTS, help="the published checkpoint")
    parser.add_argument("--output", required=True, type=Path, help="folder to write; with --reverse, a .pth file")
    parser.add_argument(
        "--checkpoint",
        help="original .pth file (default: downloaded); with --reverse, a folder or Hub id (default: the published)",
    )
    parser.add_argument(
        "--push-to-hub", metavar="REPOSITORY", help="publish the folder, with its card, as this repository"
    )
    parser.add_argument("--reverse", action="store_true", help="write an original file from a folder")
    parser.add_argument("--verify", action="store_true", help="compare predictions with the original code (network)")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    checkpoint: Checkpoint = CHECKPOINTS[arguments.name]
    output: Path = arguments.output
    _refuse_existing(output)
    if arguments.reverse:
        backbone = checkpoint.backbone, checkpoint.dilation
        reverse(arguments.checkpoint or checkpoint.hub_id, output, checkpoint.segmentation, backbone)
        print(f"{output}: written")
        return
    file = Path(arguments.checkpoint) if arguments.checkpoint else fetch(checkpoint)
    weights = read(file)
    model = convert(weights, config_of(checkpoint), output, checkpoint.segmentation)
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
    disable_progress_bar()
    try:
        _run(arguments)
    except (ConversionError, LoadingError, PublishingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
