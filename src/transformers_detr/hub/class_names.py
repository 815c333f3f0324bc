"""Class names of the published checkpoints, by class id."""

from __future__ import annotations

NO_CLASS = "N/A"
"""Name of an unused class id; the checkpoints keep COCO's ids, which have gaps."""

# COCO's category ids are used as class ids.
# fmt: off
_FIRST_91_NAMES = (
    NO_CLASS, "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "street sign", "stop sign", "parking meter", "bench", "bird", "cat",
    "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "hat", "backpack", "umbrella",
    "shoe", "eye glasses", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball",
    "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle", "plate",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed",
    "mirror", "dining table", "window", "desk", "toilet", "door", "tv", "laptop", "mouse", "remote",
    "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "blender", "book",
    "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)
# fmt: on

STUFF_NAMES = {
    92: "banner",
    93: "blanket",
    95: "bridge",
    100: "cardboard",
    107: "counter",
    109: "curtain",
    112: "door-stuff",
    118: "floor-wood",
    119: "flower",
    122: "fruit",
    125: "gravel",
    128: "house",
    130: "light",
    133: "mirror-stuff",
    138: "net",
    141: "pillow",
    144: "platform",
    145: "playingfield",
    147: "railroad",
    148: "river",
    149: "road",
    151: "roof",
    154: "sand",
    155: "sea",
    156: "shelf",
    159: "snow",
    161: "stairs",
    166: "tent",
    168: "towel",
    171: "wall-brick",
    175: "wall-stone",
    176: "wall-tile",
    177: "wall-wood",
    178: "water-other",
    180: "window-blind",
    181: "window-other",
    184: "tree-merged",
    185: "fence-merged",
    186: "ceiling-merged",
    187: "sky-other-merged",
    188: "cabinet-merged",
    189: "table-merged",
    190: "floor-other-merged",
    191: "pavement-merged",
    192: "mountain-merged",
    193: "grass-merged",
    194: "dirt-merged",
    195: "paper-merged",
    196: "food-other-merged",
    197: "building-other-merged",
    198: "rock-merged",
    199: "wall-other-merged",
    200: "rug-merged",
}

COCO_NAMES: dict[int, str] = dict(enumerate(_FIRST_91_NAMES))
"""Names of the 91 class slots of the detection checkpoints, as published."""

# fmt: off
VOC_NAMES = (
    NO_CLASS, "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
"""Names of the class slots of a checkpoint that was fine-tuned on Pascal VOC with ids from 1."""

COCO_PANOPTIC_NAMES: dict[int, str] = {
    slot: COCO_NAMES.get(slot) or STUFF_NAMES.get(slot, NO_CLASS) for slot in range(250)
}
"""Names of the 250 class slots of the panoptic checkpoints; "N/A" where COCO has no category.

The published configurations say "LABEL_<id>" in place of some of these names.
"""

NEVER_RELEASED = frozenset(
    {"street sign", "hat", "shoe", "eye glasses", "plate", "mirror", "window", "desk", "door", "blender"}
)
"""Objects among `COCO_NAMES` that were collected, but occur in no published annotation."""

COCO_STUFF_IDS = range(91, 250)
"""Class ids of stuff in the panoptic checkpoints; as in the original, they follow the ids of things."""

TABLE_NAMES = ("table", "table rotated")
"""Classes of the Table Transformer that finds tables on pages."""

STRUCTURE_NAMES = (
    "table",
    "table column",
    "table row",
    "table column header",
    "table projected row header",
    "table spanning cell",
)
"""Classes of the Table Transformer that finds the parts of a table."""
