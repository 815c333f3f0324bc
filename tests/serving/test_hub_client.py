"""The Hub's own client against the running service: what it parses equals what the pipeline responses."""

import numpy as np
import pytest
import transformers
from huggingface_hub import InferenceClient, constants

from serving.conftest import png


@pytest.fixture(autouse=True)
def online(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # the client asks this machine only


@pytest.fixture(scope="module")
def pipeline(detector):
    return transformers.pipeline("object-detection", model=detector.model, image_processor=detector.image_processor)


@pytest.mark.parametrize("threshold", [None, 0.3, 0.95])
def test_objects_are_those_of_the_pipeline(service, pipeline, images, threshold):
    client = InferenceClient(model=service.url)
    count = 0
    for image in images:
        found = client.object_detection(png(image), threshold=threshold)
        expected = pipeline(image, threshold=0.7 if threshold is None else threshold)
        expected.sort(key=lambda entry: -entry["score"])  # a pipeline gives them in the order of the queries
        assert [entry.label for entry in found] == [entry["label"] for entry in expected]
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.score == pytest.approx(theirs["score"], abs=1e-5)
            assert all(abs(ours.box[side] - at) <= 1 for side, at in theirs["box"].items())  # whole pixels
        count += len(found)
    assert count > 0


def test_thresholds_are_honored(service, detector, images):
    client = InferenceClient(model=service.url)
    scores = sorted(detector(images[0], threshold=0).scores.tolist())
    between = (scores[5] + scores[6]) / 2
    assert [len(client.object_detection(png(images[0]), threshold=at)) for at in (0.0, between, 1.0)] == [12, 6, 0]


@pytest.mark.parametrize(
    ("subtask", "threshold"), [(None, None), ("panoptic", 0.9), ("instance", 0.3), ("semantic", None)]
)
def test_segments_are_those_of_the_segmenter(service, segmenter, images, subtask, threshold):
    client = InferenceClient(model=f"{service.url}/models/org/parts")
    total = 0
    for image in images[:4]:
        found = client.image_segmentation(png(image), subtask=subtask, threshold=threshold)
        own = type(segmenter)(segmenter.model, segmenter.image_processor, subtask or "panoptic")
        expected = own(image, threshold=threshold)
        assert [entry.label for entry in found] == [info["name"] for info in expected.segments_info]
        for entry, info in zip(found, expected.segments_info, strict=True):
            assert entry.score == (None if info["score"] is None else pytest.approx(info["score"], abs=1e-5))
            assert entry.mask.mode == "L"
            mask = np.asarray(entry.mask)
            assert set(np.unique(mask)) <= {0, 255}
            assert ((mask == 255) != (expected.segmentation == info["id"])).sum() <= 4
        total += len(found)
    assert total > 0


def test_files_and_images_are_taken_as_the_client_sends_them(service, images, tmp_path):
    path = tmp_path / "photo.jpg"
    images[0].save(path, quality=95)
    client = InferenceClient(model=service.url)
    as_bytes = client.object_detection(path)
    assert as_bytes == client.object_detection(path.read_bytes())
    assert as_bytes == client.object_detection(path, threshold=0.7), "with a threshold, the client sends JSON"


def test_the_token_of_the_client_opens_the_service(loaders, images):
    from huggingface_hub.errors import HfHubHTTPError

    from serving.conftest import running

    with running(loaders, token="secret") as service:
        service.wait_until_ready()
        assert InferenceClient(model=service.url, token="secret").object_detection(png(images[0]), threshold=0)
        with pytest.raises(HfHubHTTPError, match="bearer token"):
            InferenceClient(model=service.url, token="secres").object_detection(png(images[0]))
