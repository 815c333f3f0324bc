"""Loading by ORG/NAME: what is asked of the Hub, what the cache answers, and what is said when neither does."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from local_hub.server import Fault
from local_hub.steps import NOBODY, WRITER, load
from safetensors.torch import load_file
from tiny_detector import save, tiny_detector
from tiny_detr import NATIVE_BACKBONE

from transformers_detr import DetrForObjectDetection
from transformers_detr.hub.loading import LoadingError, load_pretrained

NAME = "an-org/detr-tiny"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(
        tiny_detector(backbone=None, backbone_config=NATIVE_BACKBONE), tmp_path_factory.mktemp("loading") / "model"
    )


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def downloads(hub):
    return [request for request in hub.server.requests if request.startswith("GET /large/")]


def test_revisions(hub, folder):
    first = hub.server.add(NAME, folder)
    expected = hub.call(load, str(folder))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_coefficient": 0.4}))
    hub.server.add(NAME, folder, "v2")
    other = hub.call(load, str(folder))
    assert expected != other
    assert hub.call(load, NAME) == expected
    assert hub.call(load, NAME, revision="v2") == other
    assert hub.call(load, NAME, revision=first) == expected
    assert hub.call(load, NAME, revision="v3") == f"{NAME}: the Hub has no revision 'v3' of it"


def test_subfolder(hub, folder):
    hub.server.add(NAME, folder, under="detectors/tiny/")
    assert hub.call(load, NAME, subfolder="detectors/tiny") == hub.call(load, str(folder))
    assert hub.call(load, NAME, subfolder="elsewhere") == f"{NAME}: elsewhere/config.json is missing"


def test_what_is_in_the_cache_is_not_downloaded_again(hub, folder):
    hub.server.add(NAME, folder)
    first = hub.call(load, NAME)
    assert len(downloads(hub)) == 1
    assert hub.call(load, NAME) == first
    assert hub.call(load, NAME, local_files_only=True) == first
    assert len(downloads(hub)) == 1
    assert hub.call(load, NAME, force_download=True) == first
    assert len(downloads(hub)) == 2


def test_offline_mode_uses_the_cache(hub, folder):
    """This process is offline by HF_HUB_OFFLINE, and knows nothing of the server."""
    hub.server.add(NAME, folder)
    hub.call(load, NAME)
    model, _ = load_pretrained(DetrForObjectDetection, NAME, cache_dir=hub.home / "hub")
    stored = load_file(folder / "model.safetensors")
    assert all(torch.equal(model.state_dict()[name], weights) for name, weights in stored.items())
    with pytest.raises(LoadingError, match="cannot be reached and the model is not in the local cache"):
        load_pretrained(DetrForObjectDetection, "an-org/other", cache_dir=hub.home / "hub")


def test_weights_in_pieces(hub, folder):
    expected = hub.call(load, str(folder))
    model = DetrForObjectDetection.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="500KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    hub.server.add(NAME, folder)
    assert hub.call(load, NAME)[0] == expected[0]


def test_weights_of_torch(hub, folder):
    expected = hub.call(load, str(folder))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    hub.server.add(NAME, folder)
    assert hub.call(load, NAME) == expected


@pytest.mark.parametrize("token", [NOBODY, WRITER])
def test_a_missing_repository(hub, token):
    message = hub.call(load, NAME, token=token)
    assert message.startswith(f"{NAME}: no such folder, and no such model on the Hub")


def test_a_private_repository(hub, folder):
    hub.server.add(NAME, folder, private=True)
    assert "if it is private, run `hf auth login`" in hub.call(load, NAME, token=NOBODY)
    assert hub.call(load, NAME, token=WRITER) == hub.call(load, str(folder))
    assert "if it is private, run `hf auth login`" in hub.call(load, NAME, token=NOBODY, force_download=True)


def test_an_old_token(hub, folder):
    """Even a public model is refused then."""
    hub.server.add(NAME, folder)
    assert hub.call(load, NAME, token="hf_old").startswith(f"{NAME}: the Hub does not know this token: run `hf auth")


@pytest.mark.current_stock  # client 1 gives up
def test_an_interrupted_download_goes_on(hub, folder):
    hub.server.add(NAME, folder)
    hub.server.faults.append(Fault("GET", "/large/", "cut"))
    assert hub.call(load, NAME) == hub.call(load, str(folder))
    assert len(downloads(hub)) == 2


@pytest.mark.parametrize(
    ("kind", "message"), [("cut", "the download was interrupted"), (500, "the Hugging Face Hub cannot be reached")]
)
def test_a_download_that_never_ends_well(hub, folder, kind, message):
    hub.server.add(NAME, folder)
    hub.server.faults.append(Fault("GET", "/large/", kind, times=99))
    assert hub.call(load, NAME).startswith(f"{NAME}: {message}")
    hub.server.faults.clear()
    assert hub.call(load, NAME) == hub.call(load, str(folder)), "the broken download left something behind"


def test_a_damaged_file_in_the_cache(hub, folder):
    """Cut short on disk, as a full one leaves it."""
    hub.server.add(NAME, folder)
    hub.call(load, NAME)
    (blob,) = {path.resolve() for path in (hub.home / "hub").rglob("model.safetensors")}
    blob.write_bytes(blob.read_bytes()[:1000])
    message = hub.call(load, NAME)
    assert message.startswith(f"{NAME}: a downloaded file is damaged")
    assert f"hf download {NAME} --force-download" in message
    assert hub.call(load, NAME, force_download=True) == hub.call(load, str(folder))


def test_a_pointer_in_place_of_weights(hub, folder, shared_path):
    """Someone committed the pointer itself as a file."""
    pointer: Path = shared_path("data", "hub_configs", "detrstreamlit_model.safetensors")
    shutil.copy(pointer, folder / "model.safetensors")
    hub.server.add(NAME, folder)
    assert hub.call(load, NAME).startswith(f"{NAME}: a downloaded file is damaged (")


def test_a_page_in_place_of_weights(hub, folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_text("<html>not found</html>")
    hub.server.add(NAME, folder)
    message = hub.call(load, NAME)
    assert message.startswith(f"{NAME}: a downloaded file is damaged (it holds something else than tensors)")
    assert "weights_only" not in message


def test_a_server_that_is_not_there(hub, folder):
    hub.server.faults += [Fault("GET", ".", 503, times=99), Fault("HEAD", ".", 503, times=99)]
    message = hub.call(load, NAME)
    assert message.startswith(f"{NAME}: the Hugging Face Hub cannot be reached")
