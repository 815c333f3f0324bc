"""Answers under load belong to their images, and say what they are asked to say."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from serving.conftest import png, running
from transformers_detr.explanation.attention import image_attention
from transformers_detr.serving.limits import Limits
from transformers_detr.visualization.palette import class_color


def assert_same(responses, expected):
    assert [response["label"] for response in responses] == [entry["label"] for entry in expected]
    for response, entry in zip(responses, expected, strict=True):
        assert response["score"] == pytest.approx(entry["score"], abs=1e-5)
        assert all(abs(response["box"][side] - at) <= 1 for side, at in entry["box"].items())


def test_no_response_is_lost_or_crossed_and_images_share_batches(loaders, detector, images):
    """Images and thresholds are mixed; each response must be that of its own image alone."""
    everything = [detector(image, threshold=0).to_dict(integer_pixels=True) for image in images]
    for one, other in combinations(everything, 2):
        assert max(abs(a["score"] - b["score"]) for a, b in zip(one, other, strict=True)) > 1e-3, "crossing would show"
    cases = [(index, threshold) for index in range(len(images)) for threshold in (0.0, 0.5, 0.9)] * 2
    with running(loaders, Limits(batch_size=4)) as service, ThreadPoolExecutor(12) as clients:
        service.wait_until_ready()
        asked = [clients.submit(service.request, f"/?threshold={at}", png(images[index])) for index, at in cases]
        responses = [future.result() for future in asked]
        metrics = service.request("/metrics").body.decode()
    for (index, threshold), response in zip(cases, responses, strict=True):
        assert response.status == 200
        assert_same(response.json, [entry for entry in everything[index] if entry["score"] > threshold])
    batches = float(metrics.split('detr_batch_size_count{model="tiny"} ')[1].split("\n")[0])
    served = float(metrics.split('detr_batch_size_sum{model="tiny"} ')[1].split("\n")[0])
    assert served == len(cases)
    assert batches < served, "some shared a batch"


def test_json_and_bytes_give_the_same(service, images):
    content = png(images[0])
    plain = service.request("/models/tiny?threshold=0.2", content).json
    text = base64.b64encode(content).decode()
    for inputs in (text, f"data:image/png;base64,{text}", "\n".join([text[:70], text[70:]])):
        assert service.request_json({"inputs": inputs, "parameters": {"threshold": 0.2}}).json == plain


def test_details_add_the_color_of_the_class(service, detector, images):
    responses = service.request("/?threshold=0&details=true", png(images[0])).json
    assert [entry["class_id"] for entry in responses] == detector(images[0], threshold=0).class_ids.tolist()
    for entry in responses:
        assert entry["color"] == "#" + bytes(class_color(entry["class_id"])).hex()
    parts = service.request("/models/org/parts?details=true", png(images[0])).json
    assert parts
    assert all(set(part) == {"score", "label", "mask", "class_id", "color"} for part in parts)


def test_photographs_are_turned_upright(service, detector):
    stored = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 80, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    responses = service.request("/?threshold=0", png(stored, exif=exif)).json
    assert_same(
        responses, detector(stored.transpose(Image.Transpose.ROTATE_270), threshold=0).to_dict(integer_pixels=True)
    )


@pytest.mark.parametrize("name", ["tiny", "org/parts"])
def test_attention_is_that_of_each_query(service, detector, segmenter, images, name):
    response = service.request(f"/models/{name}/attention?threshold=0.3", png(images[0])).json
    predictor = detector if name == "tiny" else segmenter
    seen = image_attention(predictor.model, predictor.prepare(images[0]).pixel_values[None])
    assert seen.decoder_attention.shape[1:] == (response["height"], response["width"])
    scores = seen.logits.softmax(-1)[:, :-1].max(-1).values
    kept = (scores > 0.3).nonzero().flatten().tolist()
    assert 0 < len(response["queries"]) == len(kept)
    for entry, query in zip(response["queries"], kept, strict=True):
        assert entry["score"] == pytest.approx(float(scores[query]), abs=1e-5)
        cells = np.frombuffer(base64.b64decode(entry["attention"]), dtype=np.uint8)
        expected = seen.decoder_attention[query].flatten().numpy()
        assert np.abs(cells / 255 - expected / expected.max()).max() < 0.003


def test_times_of_the_stages_come_along(service, images):
    header = service.request("/", png(images[0])).headers["Server-Timing"]
    times = dict(part.split(";dur=") for part in header.split(", ")[:-1])
    assert list(times) == ["read", "load", "decode", "queue", "model", "write", "total"]
    assert sum(map(float, times.values())) - float(times["total"]) <= float(times["total"]) + 1


def test_parameters_that_make_no_sense_are_refused(service, images):
    content = png(images[0])
    for query, part in [
        ("threshold=1.5", "threshold: "),
        ("threshold=nan", "threshold: "),
        ("threshold=x", "threshold: "),
        ("treshold=0.5", "treshold: "),
        ("subtask=all", "subtask: "),
    ]:
        response = service.request(f"/?{query}", content)
        assert response.status == 422
        assert part in response.json["error"]
    assert service.request("/?subtask=panoptic", content).status == 400
    for parameters in ({"threshold": 2}, {"mask_threshold": 0.5}, 3):
        document = {"inputs": base64.b64encode(content).decode(), "parameters": parameters}
        assert service.request_json(document).status == 422
    assert service.request("/models/none", content).json == {"error": "model not found; available: tiny, org/parts"}


def test_an_image_that_cannot_be_resized_is_the_clients_fault(service):
    """A line of one pixel: whatever comes of it, it is no fault of the service."""
    for size in [(1, 3000), (3000, 1), (1, 1)]:
        response = service.request("/?threshold=0", png(Image.new("RGB", size)))
        assert response.status in (200, 400), response.body
        assert json.loads(response.body)
