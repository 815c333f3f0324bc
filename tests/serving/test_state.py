"""Status routes, and behavior when the queue is full, a model is slow or a model is missing."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.conftest import png, running
from transformers_detr.backends.exported_model import Engine, ExportedModel
from transformers_detr.hub.loading import LoadingError
from transformers_detr.inference.detector import Detector
from transformers_detr.serving import model_registry
from transformers_detr.serving.limits import Limits
from transformers_detr.serving.model_registry import model_loaders
from transformers_detr.serving.runner import ModelRunner


class GatedModel(ModelRunner):
    """Waits, before it runs a batch, until the gate is opened."""

    def __init__(self, predictor):
        super().__init__(predictor)
        self.gate = threading.Event()
        self.ran = []

    def run(self, requests):
        self.gate.wait(30)
        self.ran.append(len(requests))
        return super().run(requests)


@pytest.fixture
def gated(detector):
    model = GatedModel(detector)
    yield model
    model.gate.set()


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def counts(service, name):
    families = text_string_to_metric_families(service.request("/metrics").body.decode())
    return {
        tuple(sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }


def test_it_lives_at_once_and_is_ready_when_its_model_is(detector):
    gate = threading.Event()

    def load():
        gate.wait(30)
        return ModelRunner(detector)

    with running({"tiny": load}) as service:
        try:
            assert service.request("/health").json == {"status": "alive"}
            response = service.request("/ready")
            assert response.status == 503
            assert response.json == {"status": "not ready", "models": [{"name": "tiny", "state": "loading"}]}
        finally:
            gate.set()
        service.wait_until_ready()
        (entry,) = service.request("/models").json
        assert entry == {
            "name": "tiny",
            "state": "ready",
            "task": "object-detection",
            "default_threshold": 0.7,
            "attention": True,
        }


def test_models_are_loaded_when_they_are_first_asked(detector, segmenter, images):
    loaded = []

    def load(name, predictor):
        loaded.append(name)
        return ModelRunner(predictor)

    loaders = {"a": lambda: load("a", detector), "b": lambda: load("b", segmenter)}
    with running(loaders) as service:
        service.wait_until_ready()
        assert loaded == ["a"]
        assert service.request("/models").json[1]["task"] is None
        with ThreadPoolExecutor(4) as clients:
            responses = list(clients.map(lambda _: service.request("/models/b", png(images[0])), range(4)))
        assert [response.status for response in responses] == [200] * 4
        assert loaded == ["a", "b"]


def test_a_model_that_cannot_be_loaded_is_told_of_and_others_work(loaders, images, tmp_path, monkeypatch):
    bad = model_loaders([f"bad={tmp_path}"])
    with running({**bad, **loaders}, preload=True) as service:
        wait_for(lambda: all(model.state in ("ready", "failed") for model in service.models.values()))
        response = service.request("/ready")
        assert response.status == 200
        states = {entry.pop("name"): entry for entry in response.json["models"]}
        assert states["bad"] == {"state": "failed", "reason": f"{tmp_path}: config.json is missing"}
        refused = service.request("/", png(images[0]))
        assert (refused.status, refused.headers["Retry-After"]) == (503, "30")
        assert refused.json == {"error": "the model bad could not be loaded"}
        assert service.request("/models/tiny", png(images[0])).status == 200
        assert service.request("/models/org/parts", png(images[0])).status == 200


def test_a_model_that_failed_is_tried_again(detector, images, monkeypatch):
    tries = []

    def load():
        tries.append(None)
        if len(tries) == 1:
            raise LoadingError("the Hub cannot be reached")
        return ModelRunner(detector)

    with running({"tiny": load}) as service:
        wait_for(lambda: service.models["tiny"].state == "failed")
        assert service.request("/ready").status == 503, "no model requests"
        assert service.request("/", png(images[0])).status == 503
        assert len(tries) == 1, "not at once"
        monkeypatch.setattr(model_registry, "_RETRY_SECONDS", 0.0)
        assert service.request("/", png(images[0])).status == 200


def test_a_full_queue_is_told_at_once_and_nothing_accepted_is_lost(gated, images):
    content = png(images[0])
    with running({"tiny": lambda: gated}, Limits(queue_size=3)) as service, ThreadPoolExecutor(3) as clients:
        service.wait_until_ready()
        accepted = [clients.submit(service.request, "/", content) for _ in range(3)]
        wait_for(lambda: service.models["tiny"].in_flight == 3)
        refused = service.request("/", content)
        assert refused.status == 503
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert refused.json == {"error": "the queue is full; try again later"}
        gated.gate.set()
        assert [future.result().status for future in accepted] == [200] * 3
        assert service.request("/", content).status == 200
        assert counts(service, "detr_requests_total") == {("tiny", "200"): 4.0, ("tiny", "503"): 1.0}


def test_a_response_that_takes_too_long_is_not_waited_for(gated, images):
    with running({"tiny": lambda: gated}, Limits(response_seconds=0.2)) as service:
        service.wait_until_ready()
        response = service.request("/", png(images[0]))
        assert response.status == 504
        assert response.json == {"error": "no response within 0.2 seconds"}


def test_clients_that_go_are_dropped_from_the_batch(gated, images):
    content = png(images[0])
    head = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    with running({"tiny": lambda: gated}) as service, ThreadPoolExecutor(2) as clients:
        service.wait_until_ready()
        first = clients.submit(service.request, "/", content)  # the model is busy with it
        wait_for(lambda: service.models["tiny"]._batcher._queue == [] and service.models["tiny"].in_flight == 1)
        time.sleep(0.1)
        gone = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(3)]
        for connection in gone:
            connection.sendall(head + content)
        second = clients.submit(service.request, "/", content)
        wait_for(lambda: len(service.models["tiny"]._batcher._queue) == 4)
        for connection in gone:
            connection.close()
        wait_for(lambda: service.models["tiny"].in_flight == 2)
        gated.gate.set()
        assert first.result().status == second.result().status == 200
        assert gated.ran == [1, 1]
        assert counts(service, "detr_requests_total") == {("tiny", "200"): 2.0, ("tiny", "499"): 3.0}


def test_a_fault_of_the_model_is_told_without_a_trace(detector, images, caplog):
    class Faulty(ModelRunner):
        def run(self, requests):
            raise RuntimeError(f"an image of {requests[0].prepared.image_size}")

    with running({"tiny": lambda: Faulty(detector)}) as service:
        service.wait_until_ready()
        response = service.request("/", png(images[0]))
    assert response.status == 500
    assert response.json == {"error": "internal server error"}
    assert "RuntimeError at" in caplog.text
    assert "(60, 90)" not in caplog.text


def test_counters_are_of_this_service(loaders, images):
    with running(loaders) as service:
        service.wait_until_ready()
        service.request("/", png(images[0]))
        service.request("/", b"x")
        assert counts(service, "detr_requests_total") == {("tiny", "200"): 1.0, ("tiny", "415"): 1.0}
        assert counts(service, "detr_model_ready") == {("tiny",): 1.0, ("org/parts",): 0.0}
        assert counts(service, "detr_request_bytes_count") == {(): 2.0}
        assert set(counts(service, "detr_stage_seconds_count")) == {
            ("tiny", stage) for stage in ("read", "load", "decode", "queue", "model", "write")
        }


def test_the_interface_is_described(service):
    document = service.request("/openapi.json").json
    assert document["openapi"].startswith("3.")
    assert set(document["paths"]) == {
        "/", "/models", "/models/{name}", "/models/{name}/attention", "/health", "/ready", "/metrics",
    }  # fmt: skip
    asked = document["paths"]["/"]["post"]
    assert set(asked["requestBody"]["content"]) == {"application/json", "application/octet-stream", "image/*"}
    assert {"200", "400", "413", "415", "422", "503", "504"} <= set(asked["responses"])


def test_what_other_engines_run_gives_no_attention(detector, images):
    """A graph that somebody else's engine runs, here the model itself."""

    def run(pixel_values, pixel_mask):
        mask = pixel_mask.expand(len(pixel_values), *pixel_values.shape[-2:])
        outputs = detector.model(pixel_values=pixel_values, pixel_mask=mask, exact_padding=True)
        return {"logits": outputs.logits, "pred_boxes": outputs.pred_boxes}

    exported = Detector(ExportedModel(detector.model.config, Engine(run)), detector.image_processor)
    content = png(images[0])
    with running({"tiny": lambda: ModelRunner(exported)}) as service:
        service.wait_until_ready()
        assert service.request("/models").json[0]["attention"] is False
        refused = service.request("/models/tiny/attention", content)
        assert (refused.status, refused.json["error"]) == (
            409,
            "attention maps need PyTorch weights, not an exported model",
        )
        expected = detector(images[0], threshold=0.3).to_dict(integer_pixels=True)
        assert len(service.request("/?threshold=0.3", content).json) == len(expected) > 0


def test_options_of_loading_come_through(tmp_path):
    (load,) = model_loaders([str(tmp_path)], backend="onnx", precision="int8").values()
    with pytest.raises(LoadingError, match=r"no export for backend .onnx. in int8"):
        load()


def test_names_of_models(tmp_path):
    folder = tmp_path / "cats"
    names = list(model_loaders(["facebook/detr-resnet-50", str(folder), f"dogs={folder}"]))
    assert names == ["facebook/detr-resnet-50", "cats", "dogs"]
    with pytest.raises(ValueError, match="two models are called cats"):
        model_loaders([str(folder), f"cats={tmp_path}"])
