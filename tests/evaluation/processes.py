"""What one of several processes does; a module of its own, since new processes import it."""

from functools import partial
from pathlib import Path

from torch import distributed

from evaluation.scene_model import scene_detector
from transformers_detr.data.detection_dataset import DetectionDataset
from transformers_detr.evaluation.predict import plan_batches, predict, predict_to_file
from transformers_detr.inference.prediction_writer import PredictionWriter


def run_process(rank, processes, folder, scenes):
    """Predict this process's share of what is left of the scenes into the folder."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}.meeting", rank=rank, world_size=processes)
    batches = plan_batches(DetectionDataset.load(scenes).split("train"), batch_size=2)
    writer = PredictionWriter(Path(folder), {"a": 1}, resume=True)
    predict_to_file(writer, {}, batches, partial(predict, *scene_detector()))
    distributed.destroy_process_group()
