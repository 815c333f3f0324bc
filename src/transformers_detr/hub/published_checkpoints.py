"""Published checkpoints as data: addresses, architecture and scores."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from transformers_detr.hub.class_names import (
    COCO_NAMES,
    COCO_PANOPTIC_NAMES,
    COCO_STUFF_IDS,
    NEVER_RELEASED,
    NO_CLASS,
    STRUCTURE_NAMES,
    STUFF_NAMES,
    TABLE_NAMES,
)

ORIGINALS = "https://dl.fbaipublicfiles.com/detr"
"""Folder of the original files; each is a dictionary with the weights under "model"."""


@dataclass(frozen=True)
class Source:
    """Publication that numbers come from."""

    name: str
    url: str


@dataclass(frozen=True)
class Project:
    """Project that trained and published checkpoints.

    Attributes:
        name: What its models are called.
        page: Its repository.
        paper: Address of its paper.
        license: License of its weights, as the Hub abbreviates it.
        model_type: `model_type` of its models in Transformers.
        organization: Owner of its repositories on the Hub; None if they are not there.
        data: What its models were trained and measured on.
    """

    name: str
    page: str
    paper: str
    license: str
    model_type: str
    organization: str | None
    data: str


DETR = Project(
    "DETR",
    "https://github.com/facebookresearch/detr",
    "https://arxiv.org/abs/2005.12872",
    "apache-2.0",
    "detr",
    "facebook",
    "COCO 2017",
)
TABLE_TRANSFORMER = Project(
    "Table Transformer",
    "https://github.com/microsoft/table-transformer",
    "https://arxiv.org/abs/2110.00061",
    "mit",
    "table-transformer",
    "microsoft",
    "PubTables-1M",
)
UP_DETR = Project(
    "UP-DETR",
    "https://github.com/dddzg/up-detr",
    "https://arxiv.org/abs/2011.09094",
    "apache-2.0",
    "table-transformer",
    None,
    "COCO 2017",
)

PAPER = "https://arxiv.org/abs/2005.12872"
TABLE_1 = Source("End-to-End Object Detection with Transformers, table 1", PAPER)
TABLE_5 = Source("End-to-End Object Detection with Transformers, table 5", PAPER)
MODEL_ZOO = Source("Model zoo of the original repository", "https://github.com/facebookresearch/detr#model-zoo")
TABLE_METRICS = Source("Evaluation metrics of the Table Transformer", f"{TABLE_TRANSFORMER.page}#evaluation-metrics")
UP_DETR_ZOO = Source("Model zoo of UP-DETR", f"{UP_DETR.page}#model-zoo")


@dataclass(frozen=True)
class PublishedSpeed:
    """Cost of one image of COCO val2017, as published in `TABLE_1`.

    Attributes:
        gflops: Billions of operations.
        images_per_second: On the authors' GPU.
    """

    gflops: int
    images_per_second: int


@dataclass(frozen=True)
class PublishedScores:
    """Scores in per cent, on COCO val2017 or the project's own test data; None where nothing was published.

    Boxes of DETR's detection checkpoints are from `TABLE_1`, those of the panoptic ones from `MODEL_ZOO`; masks and
    panoptic quality are from `TABLE_5`; those of other projects from `Checkpoint.box_source`.

    Attributes:
        box_ap: AP of boxes, averaged over IoU 0.50 to 0.95.
        box_ap50: At IoU 0.50.
        box_ap75: At IoU 0.75.
        box_ap_small: Of objects below 32² pixels.
        box_ap_medium: Of objects between 32² and 96² pixels.
        box_ap_large: Of objects above 96² pixels.
        mask_ap: AP of instance masks.
        panoptic_quality: PQ.
    """

    box_ap: float | None = None
    box_ap50: float | None = None
    box_ap75: float | None = None
    box_ap_small: float | None = None
    box_ap_medium: float | None = None
    box_ap_large: float | None = None
    mask_ap: float | None = None
    panoptic_quality: float | None = None


@dataclass(frozen=True)
class Checkpoint:
    """One published checkpoint. Where nothing else is said here, it has the architecture of `DetrConfig`'s defaults.

    Attributes:
        name: Its name, as on the Hub.
        file_name: The original file; eight hex digits at the end of its stem begin the file's sha256.
        backbone: Backbone, by its timm name.
        dilation: Whether the last stage of the backbone is dilated (DC5).
        segmentation: Whether it has a mask head, trained on panoptic COCO.
        parameters: Number of weights, without the constants of the frozen batch norms.
        published: What it scores.
        speed: What it costs; None where nothing was published.
        project: Who published it.
        files: Address of the folder of the original file; None if it has no lasting one.
        class_names: Names of the class slots; empty for COCO's.
        num_queries: Object queries.
        size: Size that images are resized to.
        box_source: Publication of the box scores.
    """

    name: str
    file_name: str
    backbone: str
    dilation: bool
    segmentation: bool
    parameters: int
    published: PublishedScores
    speed: PublishedSpeed | None = None
    project: Project = DETR
    files: str | None = ORIGINALS
    class_names: tuple[str, ...] = ()
    num_queries: int = 100
    size: Mapping[str, int] = field(default_factory=lambda: {"shortest_edge": 800, "longest_edge": 1333})
    box_source: Source = TABLE_1

    @property
    def hub_id(self) -> str | None:
        """Repository on the Hugging Face Hub; None if the project has none."""
        return self.project.organization and f"{self.project.organization}/{self.name}"

    @property
    def url(self) -> str | None:
        """Address of the original file; None if it has no lasting one."""
        return self.files and f"{self.files}/{self.file_name}"

    @property
    def sha256_head(self) -> str | None:
        """First eight hex digits of the sha256 of the original file; None if the project does not say it."""
        found = re.search(r"-([0-9a-f]{8})\.pth$", self.file_name)
        return found and found[1]

    @property
    def torch_hub_entry(self) -> str:
        """Name of the model in the original's torch.hub configuration."""
        return self.name.replace("-resnet-", "_resnet").replace("-", "_")

    @property
    def id2label(self) -> dict[int, str]:
        """Name of each class slot; "no object" has none."""
        if self.class_names:
            return dict(enumerate(self.class_names))
        return COCO_PANOPTIC_NAMES if self.segmentation else COCO_NAMES

    @property
    def thing_names(self) -> list[str]:
        """Names of the objects it was trained on."""
        names = self.class_names or COCO_NAMES.values()
        return [name for name in names if name != NO_CLASS and name not in NEVER_RELEASED]

    @property
    def stuff_names(self) -> list[str]:
        """Names of the stuff it was trained on."""
        return list(STUFF_NAMES.values()) if self.segmentation else []

    @property
    def label_ids_to_fuse(self) -> list[int] | None:
        """Ids of stuff, of which an image has one segment per class; None without a mask head."""
        return list(COCO_STUFF_IDS) if self.segmentation else None


def _table_checkpoint(
    name: str, file_name: str, repository: str, published: PublishedScores, size: Mapping[str, int]
) -> Checkpoint:
    """Return one of the Table Transformer, with the size that its folder on the Hub or, in v1.1, its own code has."""
    detects_tables = name == "table-transformer-detection"
    return Checkpoint(
        name,
        file_name,
        "resnet18",
        dilation=False,
        segmentation=False,
        parameters=28_799_431 if detects_tables else 28_828_619,
        published=published,
        project=TABLE_TRANSFORMER,
        files=f"https://huggingface.co/bsmock/{repository}/resolve/main",
        class_names=TABLE_NAMES if detects_tables else STRUCTURE_NAMES,
        num_queries=15 if detects_tables else 125,
        size=size,
        box_source=TABLE_METRICS,
    )


_CHECKPOINTS = (
    Checkpoint(
        "detr-resnet-50",
        "detr-r50-e632da11.pth",
        "resnet50",
        dilation=False,
        segmentation=False,
        parameters=41_524_768,
        published=PublishedScores(42.0, 62.4, 44.2, 20.5, 45.8, 61.1),
        speed=PublishedSpeed(gflops=86, images_per_second=28),
    ),
    Checkpoint(
        "detr-resnet-50-dc5",
        "detr-r50-dc5-f0fb7ef5.pth",
        "resnet50",
        dilation=True,
        segmentation=False,
        parameters=41_524_768,
        published=PublishedScores(43.3, 63.1, 45.9, 22.5, 47.3, 61.1),
        speed=PublishedSpeed(gflops=187, images_per_second=12),
    ),
    Checkpoint(
        "detr-resnet-101",
        "detr-r101-2c7b67e5.pth",
        "resnet101",
        dilation=False,
        segmentation=False,
        parameters=60_464_672,
        published=PublishedScores(43.5, 63.8, 46.4, 21.9, 48.0, 61.8),
        speed=PublishedSpeed(gflops=152, images_per_second=20),
    ),
    Checkpoint(
        "detr-resnet-101-dc5",
        "detr-r101-dc5-a2e86def.pth",
        "resnet101",
        dilation=True,
        segmentation=False,
        parameters=60_464_672,
        published=PublishedScores(44.9, 64.7, 47.7, 23.7, 49.5, 62.3),
        speed=PublishedSpeed(gflops=253, images_per_second=10),
    ),
    Checkpoint(
        "detr-resnet-50-panoptic",
        "detr-r50-panoptic-00ce5173.pth",
        "resnet50",
        dilation=False,
        segmentation=True,
        parameters=42_899_288,
        published=PublishedScores(38.8, mask_ap=31.1, panoptic_quality=43.4),
        box_source=MODEL_ZOO,
    ),
    Checkpoint(
        "detr-resnet-50-dc5-panoptic",
        "detr-r50-dc5-panoptic-da08f1b1.pth",
        "resnet50",
        dilation=True,
        segmentation=True,
        parameters=42_899_288,
        published=PublishedScores(40.2, mask_ap=31.9, panoptic_quality=44.6),
        box_source=MODEL_ZOO,
    ),
    Checkpoint(
        "detr-resnet-101-panoptic",
        "detr-r101-panoptic-40021d53.pth",
        "resnet101",
        dilation=False,
        segmentation=True,
        parameters=61_839_192,
        published=PublishedScores(40.1, mask_ap=33.0, panoptic_quality=45.1),
        box_source=MODEL_ZOO,
    ),
    _table_checkpoint(
        "table-transformer-detection",
        "pubtables1m_detection_detr_r18.pth",
        "tatr-pubtables1m-v1.0",
        PublishedScores(97.0, 99.5, 98.9),
        {"shortest_edge": 800, "longest_edge": 800},
    ),
    _table_checkpoint(
        "table-transformer-structure-recognition",
        "pubtables1m_structure_detr_r18.pth",
        "tatr-pubtables1m-v1.0",
        PublishedScores(90.2, 97.0, 94.1),
        {"shortest_edge": 800, "longest_edge": 1000},
    ),
    *(
        _table_checkpoint(
            f"table-transformer-structure-recognition-v1.1-{data.lower()}",
            f"TATR-v1.1-{data}-msft.pth",
            f"TATR-v1.1-{data}",
            PublishedScores(),
            {"longest_edge": 1000},
        )
        for data in ("All", "Pub", "Fin")
    ),
    Checkpoint(
        "up-detr-resnet-50",
        "up-detr-coco-fine-tuned-300ep.pth",
        "resnet50",
        dilation=False,
        segmentation=False,
        parameters=41_525_280,
        published=PublishedScores(43.1, box_ap_small=21.6, box_ap_medium=46.8, box_ap_large=62.4),
        project=UP_DETR,
        files=None,
        box_source=UP_DETR_ZOO,
    ),
)

CHECKPOINTS: dict[str, Checkpoint] = {checkpoint.name: checkpoint for checkpoint in _CHECKPOINTS}
"""The published checkpoints by name: DETR's seven, and those of its pre-norm family."""


@dataclass(frozen=True)
class KnownDetection:
    """Published detection: name, score, box (xyxy in pixels)."""

    name: str
    score: float
    box_xyxy_px: tuple[float, float, float, float]


KNOWN_DETECTIONS_39769: tuple[KnownDetection, ...] = (
    KnownDetection("remote", 0.998, (40.16, 70.81, 175.55, 117.98)),
    KnownDetection("remote", 0.996, (333.24, 72.55, 368.33, 187.66)),
    KnownDetection("couch", 0.995, (-0.02, 1.15, 639.73, 473.76)),
    KnownDetection("cat", 0.999, (13.24, 52.05, 314.02, 470.93)),
    KnownDetection("cat", 0.999, (345.4, 23.85, 640.37, 368.72)),
)
"""Detections of detr-resnet-50 in COCO val2017 image 39769 above a score of 0.9, from its page on the Hub."""
