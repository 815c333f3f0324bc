"""`detr segment`: its files are what COCO's tools read and say what the segmenter found; stopped runs are resumed."""

import inspect
import json

import numpy as np
import pytest
from PIL import Image
from sure_segmenter import STUFF, sure_segmenter
from typer.testing import CliRunner

from transformers_detr import Segmenter, cli, evaluate
from transformers_detr.cli.segment import segment
from transformers_detr.evaluation.panoptic_quality import count_segments, panoptic_quality
from transformers_detr.evaluation.predictions import read_predictions
from transformers_detr.evaluation.segmentation_predictions import load_map
from transformers_detr.inference.segments import Segments
from transformers_detr.model.coco_masks_detr import rgb_to_ids

ROUGH_SIZES = [(90, 60), (60, 90), (64, 64), (90, 61), (120, 60)]
COUNT, BROKEN = 14, 6
TASKS = ["panoptic", "instance", "semantic"]
IGNORED_WARNING = "ignore:__array__ implementation:DeprecationWarning"  # inside pycocotools


def run(*arguments):
    return CliRunner().invoke(cli.app, ["segment", *map(str, arguments)], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    segmenter, folder = sure_segmenter(), tmp_path_factory.mktemp("model")
    segmenter.model.save_pretrained(folder)
    segmenter.image_processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """COUNT images of different sizes, one of them broken."""
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(COUNT):
        noise = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        noise.resize(ROUGH_SIZES[number % 5], Image.Resampling.BICUBIC).save(folder / f"{number + 100}.png")
    (folder / f"{BROKEN + 100}.png").write_bytes(b"broken")
    return folder


def arguments_for(task, model, photos, output):
    return [photos, "--model", model, "--task", task, "--output", output, "--batch-size", 2]


@pytest.fixture(scope="module")
def finished(model, photos, tmp_path_factory):
    """By task, the output folder of a run that nobody stopped, and what it said."""
    runs = {}
    for task in TASKS:
        output = tmp_path_factory.mktemp(task)
        runs[task] = output, run(*arguments_for(task, model, photos, output))
    return runs


def records_of(output):
    return [json.loads(line) for line in (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines()[1:]]


@pytest.fixture(scope="module")
def expected(model, photos):
    """By task and file, what the segmenter finds in the same batches."""
    files = [str(photos / f"{number + 100}.png") for number in range(COUNT)]
    return {
        task: dict(zip(files, segmenter.stream_with_errors(files, batch_size=2), strict=True))
        for task in TASKS
        for segmenter in [Segmenter.from_pretrained(model, task=task, device="cpu")]
    }


@pytest.mark.parametrize("task", TASKS)
def test_every_image_has_a_record_and_an_overlay(finished, photos, task):
    output, result = finished[task]
    records = records_of(output)
    assert [record["uri"] for record in records] == [str(photos / f"{i + 100}.png") for i in range(COUNT)]
    assert "error" in records[BROKEN]
    assert result.exit_code == 1
    assert "skipped" in result.stderr
    kind = "detections" if task == "instance" else "segments"
    total = sum(len(record.get(kind, ())) for record in records)
    assert total > COUNT
    assert f"images: {COUNT}, {kind}: {total}, failed: 1, " in result.stdout
    for record in records[:BROKEN] + records[BROKEN + 1 :]:
        with Image.open(output / record["annotated"]) as drawn, Image.open(record["uri"]) as image:
            assert drawn.size == image.size == (record["width"], record["height"])
            assert drawn.tobytes() != image.tobytes()


def test_panoptic_files_hold_the_segments(finished, expected):
    output, _ = finished["panoptic"]
    content = json.loads((output / "panoptic.json").read_text())
    records = [record for record in records_of(output) if "error" not in record]
    assert [image["id"] for image in content["images"]] == [record["id"] for record in records]
    isthing = {category["id"]: category["isthing"] for category in content["categories"]}
    assert isthing == {label: int(label not in STUFF) for label in isthing}
    for annotation, record in zip(content["annotations"], records, strict=True):
        truth = expected["panoptic"][record["uri"]]
        found = load_map(record["id"], annotation["file_name"], annotation["segments_info"], output / "panoptic")
        np.testing.assert_array_equal(found.ids, truth.segmentation)
        assert found.category_of == {info["id"]: info["label_id"] for info in truth.segments_info}
        for entry in annotation["segments_info"]:
            rows, columns = np.nonzero(found.ids == entry["id"])
            left, top, width, height = entry["bbox"]
            assert entry["area"] == len(rows)
            assert (columns.min(), rows.min()) == (left, top)
            assert (columns.max() + 1, rows.max() + 1) == (left + width, top + height)


@pytest.mark.filterwarnings(IGNORED_WARNING)
def test_instances_are_coco_results(finished, expected):
    coco_mask = pytest.importorskip("pycocotools.mask")
    output, _ = finished["instance"]
    by_image = {prediction.image_id: prediction for prediction in read_predictions(output / "coco_results.json")}
    for record in records_of(output):
        if "error" in record:
            continue
        truth = expected["instance"][record["uri"]]
        found = by_image.pop(record["id"], None)
        assert (0 if found is None else len(found.scores)) == len(truth)
        for index, info in enumerate(truth.segments_info):
            assert found.category_ids[index] == info["label_id"]
            assert found.scores[index] == info["score"]
            mask = coco_mask.decode(found.masks[index])
            np.testing.assert_array_equal(mask, truth.segmentation == info["id"])
    assert not by_image
    assert not (output / "panoptic").exists()


def test_semantic_images_hold_classes(finished, expected):
    output, _ = finished["semantic"]
    for record in records_of(output):
        if "error" not in record:
            with Image.open(output / "semantic" / record["segmentation"]) as image:
                classes = np.asarray(image)
            assert classes.dtype == np.uint8
            np.testing.assert_array_equal(classes, expected["semantic"][record["uri"]].class_map())
            areas = {segment["category_id"]: segment["area"] for segment in record["segments"]}
            assert areas == {label: (classes == label).sum() for label in np.unique(classes).tolist()}


@pytest.mark.parametrize("task", TASKS)
def test_interrupted_run_resumes_to_the_same_files(finished, model, photos, tmp_path, monkeypatch, task):
    complete, _ = finished[task]
    batches = 0
    whole = Segmenter.predict

    def interrupted(self, *arguments):
        nonlocal batches
        batches += 1
        if batches == 5:
            raise KeyboardInterrupt
        return whole(self, *arguments)

    arguments = arguments_for(task, model, photos, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Segmenter, "predict", interrupted)
        stopped = run(*arguments)
    assert stopped.exit_code == 130
    assert 0 < len(records_of(tmp_path)) < COUNT
    assert run(*arguments, "--resume").exit_code == 1
    files = [path.relative_to(complete) for path in complete.rglob("*") if path.is_file()]
    assert sorted(files) == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    for file in files:
        assert (tmp_path / file).read_bytes() == (complete / file).read_bytes()


def test_a_run_is_resumed_with_its_task_only(finished, model, photos):
    output, _ = finished["panoptic"]
    result = run(*arguments_for("semantic", model, photos, output), "--resume")
    assert result.exit_code == 2
    assert "task was 'panoptic' and is now 'semantic'" in result.stderr


@pytest.mark.parametrize("task", TASKS)
def test_one_image_gives_a_table(model, photos, task):
    """Sorted by area; instances by score."""
    result = run(photos / "100.png", "--model", model, "--task", task)
    assert result.exit_code == 0
    found = Segmenter.from_pretrained(model, task=task, device="cpu")(photos / "100.png")
    areas = {info["id"]: (found.segmentation == info["id"]).mean() for info in found.segments_info}
    rows = [[cell.strip() for cell in line.split("│")] for line in result.stdout.splitlines() if line.startswith("│")]
    if task == "instance":
        infos = sorted(found.segments_info, key=lambda info: -info["score"])
        assert [row[1:3] for row in rows] == [[info["name"], f"{info['score']:.3f}"] for info in infos]
        for row, info in zip(rows, infos, strict=True):
            ys, xs = np.nonzero(found.segmentation == info["id"])
            assert [float(cell) for cell in row[3:7]] == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    else:
        infos = sorted(found.segments_info, key=lambda info: -areas[info["id"]])
        assert [row[1] for row in rows] == [info["name"] for info in infos]
        assert [row[3] for row in rows] == [f"{100 * areas[info['id']]:.1f} %" for info in infos]


def test_own_images_are_not_inputs(model, photos, tmp_path):
    (tmp_path / "100.png").write_bytes((photos / "100.png").read_bytes())
    arguments = (tmp_path, "--recursive", "--model", model, "--output", tmp_path)
    assert run(*arguments).exit_code == 0
    assert run(*arguments, "--resume").exit_code == 0
    assert len(records_of(tmp_path)) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--task", "semantic", "--threshold", "0.5"], "semantic segmentation has no threshold"),
        (["--task", "depth"], "depth"),
        (["--threshold", "2"], "--threshold"),
    ],
)
def test_usage_errors_end_with_status_2(model, photos, options, said):
    result = run(photos / "100.png", "--model", model, *options)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_detector_is_refused_with_one_message(photos, tmp_path):
    segmenter = sure_segmenter()
    segmenter.model.detr.save_pretrained(tmp_path)
    segmenter.image_processor.save_pretrained(tmp_path)
    result = run(photos / "100.png", "--model", tmp_path)
    assert result.exit_code == 1
    assert "this model detects objects; use `detr detect`" in " ".join(result.stderr.split())
    assert "MISSING" not in result.stderr
    assert "Traceback" not in result.output


def test_defaults_are_those_of_the_segmenter():
    options = inspect.signature(segment).parameters
    assert options["threshold"].default is None
    assert options["batch_size"].default == inspect.signature(Segmenter.stream).parameters["batch_size"].default
    assert options["model"].default == Segmenter.default_model
    assert options["task"].default == Segmenter(sure_segmenter().model, sure_segmenter().image_processor).task


class Oracle(Segmenter):
    """Finds the ground truth."""

    def __init__(self, folder):
        self.folder, self.model = folder, sure_segmenter().model
        content = json.loads(folder.with_suffix(".json").read_text())
        self.entries = {entry["image_id"]: entry for entry in content["annotations"]}
        self.categories = {category["id"]: category for category in content["categories"]}

    def segments(self, image_id, keep_images):
        entry = self.entries[image_id]
        with Image.open(self.folder / entry["file_name"]) as image:
            ids = rgb_to_ids(np.asarray(image))
        infos = []
        for info in entry["segments_info"]:
            category = self.categories[info["category_id"]]
            name, is_stuff = category["name"], not category["isthing"]
            infos.append({"id": info["id"], "label_id": category["id"], "name": name, "score": 1, "is_stuff": is_stuff})
        image = Image.new("RGB", ids.shape[::-1]) if keep_images else None
        return Segments(segmentation=ids, segments_info=infos, image=image)

    def stream_with_errors(self, images, *, keep_images, **options):
        for image in images:
            yield self.segments(int(image.rpartition("/")[2].removesuffix(".jpg")), keep_images)


@pytest.fixture
def oracle(shared_path, monkeypatch):
    found = Oracle(shared_path("data", "coco_panoptic_mini", "annotations", "panoptic_val2017"))
    monkeypatch.setattr(Segmenter, "from_pretrained", lambda *args, **options: found)
    return found


def test_ground_truth_written_as_predictions_is_perfect(oracle, shared_path, tmp_path):
    """Through the panoptic files and back: panoptic quality 100, the same ids, areas and boxes."""
    photos = shared_path("data", "coco_panoptic_mini", "val2017")
    assert run(photos, "--output", tmp_path, "--no-images").exit_code == 0
    content = json.loads((tmp_path / "panoptic.json").read_text())
    assert {entry["image_id"] for entry in content["annotations"]} == set(oracle.entries)
    categories = list(oracle.categories.values())
    counts = 0
    for entry in content["annotations"]:
        true = oracle.entries[entry["image_id"]]
        fields = ("id", "category_id", "area", "bbox")
        assert [[s[f] for f in fields] for s in entry["segments_info"]] == [
            [s[f] for f in fields] for s in true["segments_info"]
        ]
        truth = load_map(entry["image_id"], true["file_name"], true["segments_info"], oracle.folder)
        found = load_map(entry["image_id"], entry["file_name"], entry["segments_info"], tmp_path / "panoptic")
        np.testing.assert_array_equal(found.ids, truth.ids)
        counts = counts + count_segments(truth, found, categories)
    quality = panoptic_quality(counts, categories)
    assert (quality.all.pq, quality.things.pq, quality.stuff.pq) == (100, 100, 100)
    assert quality.all.classes > 50


@pytest.mark.filterwarnings(IGNORED_WARNING)
def test_ground_truth_written_as_instances_is_read_by_pycocotools(oracle, shared_path, tmp_path):
    coco_mask = pytest.importorskip("pycocotools.mask")
    photos = shared_path("data", "coco_panoptic_mini", "val2017")
    assert run(photos, "--task", "instance", "--output", tmp_path, "--no-images").exit_code == 0
    for prediction in read_predictions(tmp_path / "coco_results.json"):
        true = oracle.segments(prediction.image_id, keep_images=False)
        assert prediction.category_ids.tolist() == [info["label_id"] for info in true.segments_info]
        for info, code in zip(true.segments_info, prediction.masks, strict=True):
            np.testing.assert_array_equal(coco_mask.decode(code), true.segmentation == info["id"])


@pytest.mark.filterwarnings(IGNORED_WARNING)
def test_instances_can_be_scored(finished, tmp_path):
    """Against their own masks as the ground truth, of which pycocotools would say 100 too."""
    output, _ = finished["instance"]
    records = [record for record in records_of(output) if "error" not in record]
    names = sorted({entry["label"] for record in records for entry in record["detections"]})
    annotations = [
        {
            "id": number,
            "image_id": record["id"],
            "category_id": names.index(entry["label"]) + 1,
            "bbox": [entry["xmin"], entry["ymin"], entry["xmax"] - entry["xmin"], entry["ymax"] - entry["ymin"]],
            "segmentation": entry["mask"],
            "area": (entry["xmax"] - entry["xmin"]) * (entry["ymax"] - entry["ymin"]),
            "iscrowd": 0,
        }
        for number, (record, entry) in enumerate(
            ((record, entry) for record in records for entry in record["detections"]), start=1
        )
    ]
    images = [
        {"id": record["id"], "file_name": record["uri"], "height": record["height"], "width": record["width"]}
        for record in records
    ]
    truth = tmp_path / "truth.json"
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    truth.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    result = evaluate(data=str(truth), predictions=output / "predictions.jsonl")
    assert result.masks["AP"] == pytest.approx(100)
    assert result.summary["AP"] == pytest.approx(100)
