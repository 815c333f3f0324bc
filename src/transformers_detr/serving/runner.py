"""A loaded model as the service uses it: pictures prepared one by one, run in batches, answered in the Hub's forms."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

from PIL import Image
from torch import nn

from transformers_detr.explanation.attention import image_attention
from transformers_detr.inference.detector import THRESHOLDS, Detector, Segmenter
from transformers_detr.inference.predictor import Predictor, Prepared
from transformers_detr.serving.errors import Refusal
from transformers_detr.serving.request_parameters import Parameters
from transformers_detr.serving.responses import above, attention_answer, detections_answer, segments_answer

_WARM_UP_SIZE = (64, 48)

Kind = Literal["find", "attend"]


@dataclass(frozen=True)
class Work:
    """What is to be done with one picture.

    Attributes:
        kind: Find what is in it, or say where the queries looked.
        threshold: What is found must score above it.
        subtask: What a segmentation model divides it into.
        details: Whether the answer says more than the Hub's.
        prepared: The picture.
    """

    kind: Kind
    threshold: float
    subtask: str | None
    details: bool
    prepared: Prepared


class ServedModel:
    """A detector or segmenter behind the service.

    Args:
        predictor: Used in one thread at a time for `run`, in any number for the rest.
    """

    def __init__(self, predictor: Detector | Segmenter):
        self._predictor: Predictor[Any] = predictor
        self._model: Any = predictor.model
        self._segments = isinstance(predictor, Segmenter)
        self.task = "image-segmentation" if self._segments else "object-detection"
        self.default_threshold = float(predictor.default_threshold)
        self.gives_attention = isinstance(predictor.model, nn.Module)

    def prepare(self, kind: Kind, parameters: Parameters, picture: Image.Image) -> Work:
        """Turn a picture and what is asked about it into work.

        Raises:
            Refusal: The model cannot do what is asked, or its processor cannot resize the picture.
        """
        subtask = self._subtask(parameters.subtask)
        if kind == "attend" and not self.gives_attention:
            raise Refusal(HTTPStatus.CONFLICT, "attention maps need the torch backend")
        threshold = parameters.threshold
        if threshold is None:
            threshold = self.default_threshold if subtask is None else THRESHOLDS[subtask]
        try:
            prepared = self._predictor.prepare(picture)
        except ValueError as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"the picture cannot be resized: {error}") from None
        return Work(kind, threshold, subtask, parameters.details, prepared)

    def warm_up(self) -> None:
        """Do once what is slow the first time, with a gray picture."""
        work = self.prepare("find", Parameters(), Image.new("RGB", _WARM_UP_SIZE, "gray"))
        self.group([work], batch_size=1)
        self.answer(work, self.run([work])[0])

    def group(self, works: Sequence[Work], batch_size: int) -> list[int]:
        """Choose which of the works, by index, are run together with the first one."""
        alike = {index: work.prepared.shape for index, work in enumerate(works) if _alike(work, works[0])}
        return self._predictor.batches(alike, batch_size)[0]

    def run(self, works: Sequence[Work]) -> list[Any]:
        """Run a group through the model; the results are `answer`'s to read."""
        batch, first = [work.prepared for work in works], works[0]
        if first.kind == "attend":
            return [image_attention(self._model, item.pixel_values[None]) for item in batch]
        predictor = self._predictor
        if isinstance(predictor, Segmenter):
            predictor = Segmenter(self._model, predictor.image_processor, first.subtask)  # type: ignore[arg-type]
        return predictor.predict(batch, min(work.threshold for work in works))

    def answer(self, work: Work, result: Any) -> Any:
        """Return the answer to a work, ready for JSON."""
        if work.kind == "attend":
            names = self._model.config.id2label
            return attention_answer(result, work.prepared.image_size, names, work.threshold)
        if self._segments:
            return segments_answer(result, work.details)
        return detections_answer(above(result, work.threshold), work.details)

    def _subtask(self, asked: str | None) -> str | None:
        if self._segments:
            return asked or "panoptic"
        if asked is not None:
            raise Refusal(HTTPStatus.BAD_REQUEST, "this model detects objects; it has no subtask")
        return None


def _alike(one: Work, other: Work) -> bool:
    return _batch_key(one) == _batch_key(other)


def _batch_key(work: Work) -> Hashable:
    """Detections can be filtered afterwards; segments compete for pixels, so theirs must share a threshold."""
    return work.kind, work.subtask, None if work.subtask is None else work.threshold
