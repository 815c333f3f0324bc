"""`detr push` against a server that speaks the Hub's interface: complete, or a clear error and nothing changed."""

import json
import shutil

import pytest
import torch
from local_hub.server import Fault, card_errors
from local_hub.steps import NOBODY, READER, WRITER, load, push
from safetensors.torch import load_file, save_file
from tiny_detector import save, tiny_detector
from tiny_detr import NATIVE_BACKBONE

from transformers_detr.hub.custom_code import CODE_FILES
from transformers_detr.hub.fingerprint import FINGERPRINT_FILE

NAME = "an-org/detr-tiny"
ONCE = {
    "connection cut while a file goes up": Fault("PUT", "/large/", "cut"),
    "500 for a file": Fault("PUT", "/large/", 500),
    "429 for a file": Fault("PUT", "/large/", 429, headers={"Retry-After": "3"}),
    "answer about a file lost": Fault("PUT", "/large/", "lost"),
    "connection cut before files": Fault("POST", "/preupload/", "cut"),
    "500 before files": Fault("POST", "/preupload/", 500),
    "429 before files": Fault("POST", "/objects/batch", 429, headers={"Retry-After": "3"}),
    "connection cut in the commit": Fault("POST", "/commit/", "cut"),
    "500 for the commit": Fault("POST", "/commit/", 500),
    "429 for the commit": Fault("POST", "/commit/", 429, headers={"Retry-After": "3"}),
    "answer about the commit lost": Fault("POST", "/commit/", "lost"),
    "500 for the new repository": Fault("POST", "/repos/create", 500),
    "500 while comparing": Fault("GET", "/api/models/", 500),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = save(
        tiny_detector(backbone=None, backbone_config=NATIVE_BACKBONE), tmp_path_factory.mktemp("push") / "model"
    )
    (folder / "optimizer.pt").write_bytes(b"state")
    (folder / "checkpoint-1").mkdir()
    (folder / "checkpoint-1" / "model.safetensors").write_bytes(b"older")
    (folder / ".hidden.onnx").write_bytes(b"hidden")
    (folder / "model.onnx").write_bytes(b"\0export")
    (folder / "openvino").mkdir()
    (folder / "openvino" / "openvino_model.xml").write_text("<net/>")
    (folder / "openvino" / "openvino_model.bin").write_bytes(b"\0weights")
    (folder / "export_report.json").write_text("{}")
    (folder / "export_report.md").write_text("# Export")
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "metrics.json").write_text("{}")
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def traveling(folder):
    names = ["config.json", "preprocessor_config.json", "model.safetensors", "model.onnx", "evaluation/metrics.json"]
    names += ["openvino/openvino_model.xml", "openvino/openvino_model.bin", "export_report.json", "export_report.md"]
    return {name: (folder / name).read_bytes() for name in names}


def is_complete(hub, folder, revision="main"):
    content = hub.server.content(NAME, revision)
    assert set(content) == {*traveling(folder), "README.md", FINGERPRINT_FILE}
    return traveling(folder).items() <= content.items()


def changing(hub):
    return [request for request in hub.server.requests if not request.startswith(("GET", "HEAD"))]


def test_round_trip_bit_for_bit(hub, folder):
    pushed = hub.call(push, folder, NAME)
    assert pushed["status"] == 0, pushed
    assert is_complete(hub, folder)
    assert "skipped: .hidden.onnx, checkpoint-1/model.safetensors, optimizer.pt" in pushed["output"]
    assert hub.call(load, NAME) == hub.call(load, str(folder))
    assert sorted(path.name for path in folder.iterdir() if path.suffix in (".md", ".py")) == ["export_report.md"]


@pytest.mark.parametrize("fault", ONCE.values(), ids=ONCE)
def test_a_fault_ends_in_all_or_nothing(hub, folder, fault):
    hub.server.faults.append(fault := Fault(**vars(fault)))
    first = hub.call(push, folder, NAME)
    assert fault.times == 0, "the fault did not happen"
    if first["status"] == 0:
        assert is_complete(hub, folder)
    else:
        assert first["status"] == 1
        assert first["error"].startswith(f"Not published. {NAME}: ")
        assert "Run the same command" in first["error"]
        if fault.kind != "lost" and NAME in hub.server.repositories:
            assert hub.server.content(NAME) == {}
    hub.server.requests.clear()
    again = hub.call(push, folder, NAME)
    assert again["status"] == 0, again
    assert is_complete(hub, folder)
    if "/commit/" in fault.path:
        assert not [request for request in hub.server.requests if request.startswith("PUT")], "sent twice"


@pytest.mark.current_stock
def test_it_waits_as_long_as_the_hub_asks(hub, folder):
    hub.server.faults.append(Fault("PUT", "/large/", 429, headers={"Retry-After": "3"}))
    pushed = hub.call(push, folder, NAME)
    assert pushed["waits"] == [4.0]  # Retry-After, and a second that the client adds
    assert is_complete(hub, folder)


def test_a_lasting_fault_is_a_clear_error(hub, folder):
    hub.server.faults.append(Fault("PUT", "/large/", 500, times=99))
    pushed = hub.call(push, folder, NAME)
    assert pushed["status"] == 1
    assert "the upload was interrupted (Server error '500" in pushed["error"]
    assert hub.server.content(NAME) == {}
    assert len(hub.server.repositories[NAME].commits) == 1


def test_a_hub_that_cannot_be_asked_is_said_to_be_so(hub, folder):
    """Nothing has been sent yet, so nothing was interrupted."""
    hub.server.faults.append(Fault("GET", "/api/models/", 500, times=99))
    pushed = hub.call(push, folder, NAME, "--dry-run")
    assert pushed["status"] == 1
    assert "the Hub cannot be asked what is there (Server error '500" in pushed["error"]
    assert "interrupted" not in pushed["error"]


def test_interrupted_between_two_files_the_second_time_sends_the_second(hub, folder):
    hub.server.faults.append(Fault("POST", "/verify", 500, times=99))
    assert hub.call(push, folder, NAME)["status"] == 1
    arrived = set(hub.server.large)
    assert arrived
    hub.server.faults.clear()
    hub.server.requests.clear()
    assert hub.call(push, folder, NAME)["status"] == 0
    sent = {request.rpartition("/")[2] for request in hub.server.requests if request.startswith("PUT")}
    assert not sent & arrived


def test_dry_run_lists_and_compares_but_changes_nothing(hub, folder):
    shown = hub.call(push, folder, NAME, "--dry-run")
    assert shown["status"] == 0
    assert changing(hub) == []
    lines = [line.split() for line in shown["output"].splitlines()]
    assert ["an-org/detr-tiny", "(new)"] in lines
    assert ["new", "7", "bytes", "model.onnx"] in lines
    assert lines[-1] == ["Nothing", "was", "uploaded", "(--dry-run)."]

    hub.call(push, folder, NAME)
    (folder / "model.onnx").write_bytes(b"\0another export")
    hub.server.requests.clear()
    shown = hub.call(push, folder, NAME, "--dry-run")
    assert changing(hub) == []
    changes = {line.split()[-1]: line.split()[0] for line in shown["output"].splitlines()[1:-2]}
    assert changes.pop("model.onnx") == "changed"
    assert set(changes.values()) == {"same"}


def test_only_the_difference_is_sent(hub, folder):
    hub.call(push, folder, NAME)
    same = hub.call(push, folder, NAME)
    assert "Nothing to upload" in same["output"]
    (folder / "evaluation" / "metrics.json").write_text('{"box": 1}')
    hub.server.requests.clear()
    hub.call(push, folder, NAME)
    assert not [request for request in hub.server.requests if request.startswith("PUT")]
    assert is_complete(hub, folder)
    assert len(hub.server.repositories[NAME].commits) == 3


def test_weights_in_another_form_are_replaced(hub, folder):
    """Transformers would take the old file before the new pieces."""
    hub.call(push, folder, NAME)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    pieces = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, held in pieces.items():
        save_file({name: weights[name] for name in held}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, held in pieces.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    pushed = hub.call(push, folder, NAME)
    assert pushed["status"] == 0, pushed
    assert "removed" in pushed["output"]
    assert {*pieces, "model.safetensors.index.json"} == {
        name for name in hub.server.content(NAME) if "model-" in name or "model.s" in name
    }
    assert hub.call(load, NAME) == hub.call(load, str(folder))


def test_a_private_repository(hub, folder):
    assert hub.call(push, folder, NAME, "--private")["status"] == 0
    assert hub.server.repositories[NAME].private
    assert "if it is private, run `hf auth login`" in hub.call(load, NAME, token=NOBODY)
    assert hub.call(load, NAME, token=WRITER) == hub.call(load, str(folder))
    assert hub.call(push, folder, "an-org/open")["status"] == 0
    (folder / "model.onnx").unlink()
    refused = hub.call(push, folder, "an-org/open", "--private")
    assert "an-org/open exists and is public" in refused["error"]


def test_a_pull_request_leaves_main_alone(hub, folder):
    pushed = hub.call(push, folder, NAME, "--create-pr")
    assert pushed["status"] == 0
    assert f"Published: {hub.server.url}/{NAME}/discussions/1" in pushed["output"]
    assert hub.server.content(NAME) == {}
    assert is_complete(hub, folder, "refs/pr/1")
    assert hub.call(load, NAME, revision="refs/pr/1") == hub.call(load, str(folder))


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (NOBODY, "not logged in, or the token is not valid: run `hf auth login`"),
        ("hf_invented", "not logged in, or the token is not valid: run `hf auth login`"),
        (READER, "the token may not write there"),
    ],
)
def test_who_may_not_write_is_told_so(hub, folder, token, message):
    refused = hub.call(push, folder, NAME, token=token)
    assert refused["status"] == 1
    assert message in refused["error"]
    assert NAME not in hub.server.repositories


def test_the_token_is_never_shown(hub, folder):
    """Nor sent to where large files lie, which the server refuses."""
    outputs = [hub.call(push, folder, NAME, "--dry-run"), hub.call(push, folder, NAME)]
    hub.server.faults.append(Fault("POST", "/commit/", 500))
    (folder / "model.onnx").unlink()
    (folder / "evaluation" / "metrics.json").write_text("[]")
    outputs += [hub.call(push, folder, NAME), hub.call(push, folder, "facebook/detr", token=READER)]
    assert [output["status"] for output in outputs] == [0, 0, 1, 1]
    assert not any(token in str(output) for output in outputs for token in (WRITER, READER))


def test_someone_else_was_faster(hub, folder):
    hub.call(push, folder, NAME)
    (folder / "model.onnx").write_bytes(b"\0another")
    hub.server.faults.append(Fault("POST", "/commit/", 412))
    assert "someone changed the repository in the meantime" in hub.call(push, folder, NAME)["error"]


def change_weights(folder):
    weights = load_file(folder / "model.safetensors")
    weights["class_labels_classifier.bias"] += 0.01
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def spoil_weights(folder):
    weights = load_file(folder / "model.safetensors")
    weights["class_labels_classifier.bias"][0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def truncate_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100_000])


def name_other_code(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "other.Config"}}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_weights, r"the outputs of the model differ from verification.json (logits differ by 1.0e-02"),
        (spoil_weights, "logits has non-finite values: weights are NaN"),
        (truncate_weights, "model.safetensors: the file is truncated or damaged"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights to verify it with"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "preprocessor_config.json is missing"),
        (
            lambda folder: (folder / "config.json").write_text('{"model_type": "yolos"}'),
            "architectures must begin with",
        ),
        (name_other_code, "refers to custom code (auto_map): add --with-custom-code"),
        (shutil.rmtree, "no such folder"),
    ],
)
def test_what_does_not_prove_itself_is_not_uploaded(hub, folder, damage, message):
    hub.call(push, folder, NAME)
    record = hub.server.content(NAME)[FINGERPRINT_FILE]
    (folder / FINGERPRINT_FILE).write_bytes(record)
    damage(folder)
    hub.server.requests.clear()
    refused = hub.call(push, folder, NAME, "--create-pr")
    assert refused["status"] == 1
    assert message in refused["error"]
    assert changing(hub) == []


def test_a_name_that_cannot_be_one(hub, folder):
    assert "not a valid name on the Hub" in hub.call(push, folder, "an-org/a/b")["error"]


def test_a_model_that_stock_gets_wrong_needs_its_code(hub, tmp_path):
    """Stock loses the activations of a backbone that fuses them with its norms."""
    with torch.random.fork_rng():
        folder = save(tiny_detector(backbone="mobilenetv2_035"), tmp_path / "model")
    refused = hub.call(push, folder, NAME)
    assert "stock Transformers computes other outputs for this model" in refused["error"]
    assert "add --with-custom-code" in refused["error"]
    pushed = hub.call(push, folder, NAME, "--with-custom-code")
    assert pushed["status"] == 0, pushed
    assert "note: loads correctly only with trust_remote_code=True" in pushed["output"]


def test_custom_code_goes_along(hub, folder):
    pushed = hub.call(push, folder, NAME, "--with-custom-code")
    assert pushed["status"] == 0, pushed
    content = hub.server.content(NAME)
    for path in CODE_FILES:
        assert content[path.name] == path.read_bytes()
    assert json.loads(content["config.json"])["auto_map"]["AutoConfig"] == "configuration_detr.DetrConfig"
    assert "trust_remote_code=True" in content["README.md"].decode()
    assert not list(folder.glob("*.py")), "the source was changed"


RESULT = {
    "task": {"type": "object-detection", "name": "Object detection"},
    "dataset": {"name": "Bees", "type": "bees", "split": "val"},
    "metrics": [{"type": "box_ap", "value": 12.5, "name": "box AP"}],
}


def test_a_card_is_made_and_holds_what_was_measured(hub, folder):
    index = [{"name": "model", "results": [RESULT]}]
    (folder / "evaluation" / "model_index.json").write_text(json.dumps(index))
    pushed = hub.call(push, folder, NAME)
    assert pushed["status"] == 0, pushed
    card = hub.server.content(NAME)["README.md"].decode()
    assert card_errors(card) == []
    assert "value: 12.5" in card
    assert "# detr-tiny" in card
    assert "of 3 classes: cat, Möwe, 椅子" in card
    assert "license" not in card

    RESULT_NOW = {**RESULT, "metrics": [{"type": "box_ap", "value": 13.5, "name": "box AP"}]}
    (folder / "evaluation" / "model_index.json").write_text(json.dumps([{"name": "model", "results": [RESULT_NOW]}]))
    assert hub.call(push, folder, NAME)["status"] == 0
    card = hub.server.content(NAME)["README.md"].decode()
    assert "value: 13.5" in card
    assert "value: 12.5" not in card


def test_a_card_of_ones_own_stays(hub, folder):
    own = "---\nlicense: mit\n---\n\n# Mine\n"
    (folder / "README.md").write_text(own)
    assert hub.call(push, folder, NAME)["status"] == 0
    (folder / "README.md").unlink()
    assert "Nothing to upload" in hub.call(push, folder, NAME)["output"]
    assert hub.server.content(NAME)["README.md"].decode() == own


def test_a_card_that_the_hub_refuses(hub, folder):
    (folder / "README.md").write_text("---\nlicense: mine\n---\n")
    refused = hub.call(push, folder, NAME)
    assert "Invalid metadata in README.md" in refused["error"]
    assert hub.server.content(NAME) == {}
