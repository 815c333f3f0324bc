"""Measuring models: average precision, panoptic quality, and reports that explain the numbers.

Inference and scoring are separate; predictions are their only link:

    batches = plan_batches(images, batch_size=4)
    predictions = [p for batch in predict(model, processor, batches) for p in batch]
    evaluation = evaluate_predictions(ground_truth, predictions)
    print(evaluation.boxes.summary["AP"])
    write_report(folder, evaluation, title="…", settings={})

`images` are records of `transformers_detr.data`, `ground_truth` is what their dataset's `to_coco` gives, and category
ids are class ids of the model throughout.
"""
