"""Measuring models: average precision, panoptic quality, and reports that explain the numbers.

`evaluate` in `evaluation_workflow` does it all. Inference and scoring are separate; predictions are their only link:

    batches = plan_batches(images, batch_size=4)
    predictions = [p for batch in predict(model, processor, batches) for p in batch]
    evaluation = evaluate_predictions(ground_truth, predictions)
    print(evaluation.boxes.summary["AP"])

`images` are records of `transformers_detr.data`, `ground_truth` comes from `to_coco` of their dataset, and category ids
are class ids of the model throughout.
"""

from typing import Literal

Padding = Literal["exact", "original"]
"""Padding of a batch: "exact" has no effect on the images, "original" is that of the original implementation."""
