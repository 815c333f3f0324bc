"""Run by tests in a process of its own, where this package and some others cannot be imported.

Arguments: the names that cannot be imported, joined by commas; an image file; a file to write; folders or Hub names of
models. Loads each model with and without `trust_remote_code` and writes down what came out.
"""

import json
import sys
from pathlib import Path


class Without:
    """A finder of modules that does not find some packages."""

    def __init__(self, finder, names):
        self.finder = finder
        self.names = names

    def find_spec(self, name, *arguments):
        return None if name.partition(".")[0] in self.names else self.finder.find_spec(name, *arguments)

    def __getattr__(self, name):
        return getattr(self.finder, name)


def load(folder, auto_class, image, **options):
    import torch
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder, **options)
    model = auto_class.from_pretrained(folder, **options).eval()
    with torch.no_grad():
        outputs = model(**processor(image, return_tensors="pt"))
    names = ("logits", "pred_boxes", "pred_masks")
    return {
        "model": f"{type(model).__module__}.{type(model).__name__}",
        "processor": f"{type(processor).__module__}.{type(processor).__name__}",
        "outputs": {name: outputs[name].flatten().tolist() for name in names if outputs.get(name) is not None},
    }


def run_pipeline(folder, task, image, **options):
    from transformers import pipeline

    answers = pipeline(task, model=folder, **options)(image, threshold=0.3)
    return [
        {**answer, "mask": sum(value > 0 for value in answer["mask"].get_flattened_data())}
        if "mask" in answer
        else answer
        for answer in answers
    ]


def main(blocked, image_file, result, *folders):
    blocked = set(blocked.split(","))
    sys.meta_path[:] = [Without(finder, blocked) for finder in sys.meta_path]
    from PIL import Image
    from transformers import AutoConfig, AutoModelForImageSegmentation, AutoModelForObjectDetection

    image = Image.open(image_file)
    found = {}
    for folder in folders:
        segments = AutoConfig.from_pretrained(folder).architectures == ["DetrForSegmentation"]
        auto_class = AutoModelForImageSegmentation if segments else AutoModelForObjectDetection
        task = "image-segmentation" if segments else "object-detection"
        for way, options in (("custom", {"trust_remote_code": True}), ("stock", {})):
            found[f"{Path(folder).name}/{way}"] = {
                **load(folder, auto_class, image, **options),
                "pipeline": run_pipeline(folder, task, image, **options),
            }
    found["imported"] = sorted(blocked & set(sys.modules))
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
