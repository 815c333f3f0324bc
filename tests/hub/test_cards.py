"""The cards in model_cards/: facts once, metadata that the Hub takes, snippets that run as they stand."""

import io
import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from local_hub.process import running_hub
from local_hub.steps import run_snippet, validate_card
from PIL import Image
from tiny_detector import tiny_detector
from tiny_detr import randomize_norms, tiny_config

from convert_original import config_of
from published_card import published_card
from transformers_detr import DetrForSegmentation, DetrImageProcessor, TableTransformerForObjectDetection
from transformers_detr.hub import bundled_model
from transformers_detr.hub.architectures import FAMILIES, read_config
from transformers_detr.hub.class_names import COCO_NAMES, NEVER_RELEASED
from transformers_detr.hub.custom_code import add_custom_code
from transformers_detr.hub.model_card import EXAMPLE_IMAGE, model_card
from transformers_detr.hub.published_checkpoints import CHECKPOINTS, DETR, KNOWN_DETECTIONS_39769, PublishedScores

EVERY_CHECKPOINT = pytest.mark.parametrize("checkpoint", CHECKPOINTS.values(), ids=list(CHECKPOINTS))
FIELDS = {  # type in the metadata → field of PublishedScores
    "box_ap": "box_ap",
    "box_ap50": "box_ap50",
    "box_ap75": "box_ap75",
    "box_ap_small": "box_ap_small",
    "box_ap_medium": "box_ap_medium",
    "box_ap_large": "box_ap_large",
    "mask_ap": "mask_ap",
    "pq": "panoptic_quality",
}


@pytest.fixture(scope="module")
def cards(repository):
    return {name: (repository / "model_cards" / f"{name}.md").read_text(encoding="utf-8") for name in CHECKPOINTS}


def metadata(card):
    return yaml.safe_load(card.split("---\n")[1])


def snippets(card):
    return re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)


@EVERY_CHECKPOINT
def test_the_committed_card_is_the_rendered_one(cards, checkpoint):
    assert cards[checkpoint.name] == published_card(checkpoint), "run python model_cards/render.py"


@EVERY_CHECKPOINT
def test_every_number_is_the_published_one(cards, checkpoint):
    card = cards[checkpoint.name]
    if checkpoint.published == PublishedScores():
        assert "published no AP" in card
        assert "model-index" not in metadata(card)
        return
    (index,) = metadata(card)["model-index"]
    found = {metric["type"]: metric["value"] for result in index["results"] for metric in result["metrics"]}
    published = {
        kind: getattr(checkpoint.published, field)
        for kind, field in FIELDS.items()
        if getattr(checkpoint.published, field) is not None
    }
    assert found == published
    table = dict(re.findall(r"^\| ([\w ]+?) \| ([\d.]+) \| \[", card, flags=re.MULTILINE))
    assert {name.lower().replace(" ", "_"): float(value) for name, value in table.items()} == published
    if checkpoint.speed:
        assert f"{checkpoint.speed.gflops} billion operations" in card
        assert f"{checkpoint.speed.images_per_second} images per second" in card
    assert "They were not measured again" in card


@EVERY_CHECKPOINT
def test_every_number_has_its_source(cards, checkpoint):
    (index,) = metadata(cards[checkpoint.name]).get("model-index", [{"results": []}])
    for result in index["results"]:
        assert result["source"]["url"] in ("https://arxiv.org/abs/2005.12872", checkpoint.box_source.url)
        assert result["source"]["name"]


@EVERY_CHECKPOINT
def test_facts_about_the_architecture_are_those_of_the_model(cards, checkpoint):
    family = FAMILIES[checkpoint.project.model_type]
    model_class = family.segmenter if checkpoint.segmentation else family.detector
    config = config_of(checkpoint)
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in model_class(config).parameters())
    assert parameters == checkpoint.parameters
    assert f"{parameters:,} parameters" in cards[checkpoint.name]
    assert f"{config.num_queries} queries" in cards[checkpoint.name] or config.num_queries == 100
    card = metadata(cards[checkpoint.name])
    assert card["pipeline_tag"] == ("image-segmentation" if checkpoint.segmentation else "object-detection")
    assert card["license"] == checkpoint.project.license
    assert card["tags"][0] == checkpoint.project.model_type


def test_classes_that_occur_are_those_of_coco(shared_path):
    import json

    path = shared_path("data", "coco_panoptic_mini", "annotations", "panoptic_val2017.json")
    categories = json.loads(path.read_text())["categories"]
    things = [category["name"] for category in categories if category["isthing"]]
    stuff = [category["name"] for category in categories if not category["isthing"]]
    checkpoint = CHECKPOINTS["detr-resnet-50-panoptic"]
    assert checkpoint.thing_names == things
    assert checkpoint.stuff_names == stuff
    assert set(COCO_NAMES.values()) >= NEVER_RELEASED


def test_known_detections_stand_where_they_belong(cards):
    row = KNOWN_DETECTIONS_39769[0]
    assert f"| {row.name} | {row.score} | 40.16, 70.81, 175.55, 117.98 |" in cards["detr-resnet-50"]
    assert "40.16" not in cards["detr-resnet-101"]


@pytest.mark.current_stock  # client 1 asks the real Hub whatever HF_ENDPOINT says
@EVERY_CHECKPOINT
def test_the_hub_takes_the_metadata(hub, cards, checkpoint):
    hub.call(validate_card, cards[checkpoint.name])
    with pytest.raises(ValueError, match="license"):
        hub.call(validate_card, re.sub("^license: .*$", "license: x-1", cards[checkpoint.name], flags=re.MULTILINE))


@pytest.mark.current_stock
def test_the_hub_takes_the_metadata_of_the_model_in_the_box(hub, repository):
    text = (repository / "model_cards" / f"{bundled_model.NAME}.md").read_text(encoding="utf-8")
    hub.call(validate_card, text)
    data = ModelCard(text).data
    wanted = {"license": "apache-2.0", "library_name": "transformers", "pipeline_tag": "object-detection"}
    assert wanted.items() <= data.to_dict().items()
    assert {result.metric_type for result in data.eval_results} == {"box_ap", "box_ap50", "box_ap75"}


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """Folders of small models with the class slots of the published ones, by whether they have masks or find tables."""
    folder = tmp_path_factory.mktemp("stand_ins")
    detection = CHECKPOINTS["detr-resnet-50"]
    labels = {"id2label": detection.id2label, "label2id": {name: i for i, name in detection.id2label.items()}}
    detector = tiny_detector(**labels)
    detector.model.class_labels_classifier.bias.data[:-1] += torch.linspace(0, 30, 91)
    panoptic = CHECKPOINTS["detr-resnet-50-panoptic"]
    heads = {"d_model": 128, "encoder_attention_heads": 8, "decoder_attention_heads": 8}
    torch.manual_seed(0)
    config = tiny_config(num_labels=250, id2label=panoptic.id2label, label_ids_to_fuse=[], **heads)
    segmenter = DetrForSegmentation(config).eval()
    randomize_norms(segmenter)
    segmenter.detr.class_labels_classifier.bias.data[17] += 9
    tables = tiny_detector(TableTransformerForObjectDetection, **labels).model
    tables.class_labels_classifier.bias.data[:-1] += torch.linspace(0, 30, 91)
    for name, model in (("detector", detector.model), ("segmenter", segmenter), ("tables", tables)):
        size = {"longest_edge": 160} if name == "tables" else {"shortest_edge": 96, "longest_edge": 160}
        model.save_pretrained(folder / name)
        DetrImageProcessor(size=size).save_pretrained(folder / name)
        add_custom_code(folder / name)
    (folder / "up-detr").mkdir()
    for path in (folder / "tables").iterdir():
        shutil.copy(path, folder / "up-detr")
    DetrImageProcessor(size={"shortest_edge": 96, "longest_edge": 160}).save_pretrained(folder / "up-detr")
    return {
        False: folder / "detector",
        True: folder / "segmenter",
        "tables": folder / "tables",
        "up": folder / "up-detr",
    }


@pytest.fixture
def photo(hub):
    """Whatever is at the photograph's address: the snippets fetch it through the server as their proxy."""
    encoded = io.BytesIO()
    noise = torch.randint(0, 256, (30, 40, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    Image.fromarray(noise.numpy()).resize((640, 480)).save(encoded, "JPEG")
    hub.server.images[EXAMPLE_IMAGE] = encoded.getvalue()


@pytest.fixture(scope="module")
def changed_hub(tmp_path_factory):
    """A server and a process in which `use_for_auto` may be called."""
    with running_hub(tmp_path_factory.mktemp("hf_home")) as process:
        yield process


@pytest.mark.usefixtures("photo")
@EVERY_CHECKPOINT
def test_snippets_run_as_they_stand(hub, changed_hub, stand_ins, cards, checkpoint, tmp_path):
    resizes_in_stock = "shortest_edge" in checkpoint.size
    kind = checkpoint.segmentation
    if checkpoint.project is not DETR:
        kind = "up" if resizes_in_stock else "tables"
    hub = hub if resizes_in_stock else changed_hub
    repository = checkpoint.hub_id or f"an-org/{checkpoint.name}"
    hub.server.add(repository, stand_ins[kind])
    card = cards[checkpoint.name] if checkpoint.hub_id else published_card(checkpoint, repository)
    codes = snippets(card)
    assert len(codes) == 2
    for code in codes:
        assert f'"{repository}"' in code
        if checkpoint.class_names:  # an image of the user's own
            assert '"page.png"' in code
            Image.fromarray(np.full((120, 90, 3), 200, np.uint8)).save(tmp_path / "page.png")
            code = code.replace("page.png", str(tmp_path / "page.png"))
        printed = hub.call(run_snippet, code)
        assert printed.strip(), f"nothing was found by\n{code}"
    if checkpoint.class_names:
        return
    assert f"GET {EXAMPLE_IMAGE[len('http://images.cocodataset.org') :]}" in hub.server.requests


@pytest.mark.usefixtures("photo")
@pytest.mark.parametrize("name", ["detr-resnet-50", "detr-resnet-50-panoptic"])
def test_snippets_of_a_copy_with_custom_code_run(hub, stand_ins, name):
    checkpoint = CHECKPOINTS[name]
    card = published_card(checkpoint, "an-org/copy", custom_code=True)
    hub.server.add("an-org/copy", stand_ins[checkpoint.segmentation])
    codes = snippets(card)
    assert len(codes) == 3
    assert "facebook/" not in "".join(codes)
    assert "trust_remote_code=True" in codes[-1]
    for code in codes:
        assert hub.call(run_snippet, code).strip()


@pytest.mark.usefixtures("photo")
@pytest.mark.parametrize("kind", [False, True, "up", "tables"])
def test_snippets_of_ones_own_card_run(hub, changed_hub, stand_ins, kind):
    folder = stand_ins[kind]
    if kind == "tables":
        changed_hub.server.images |= hub.server.images
        hub = changed_hub
    codes = snippets(model_card(read_config(folder), "an-org/own", custom_code=True, stock_can_resize=kind != "tables"))
    hub.server.add("an-org/own", folder)
    assert len(codes) == 3
    for code in codes:
        assert "an-org/own" in code
        assert hub.call(run_snippet, code).strip()
