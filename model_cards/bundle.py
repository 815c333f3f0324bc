r"""Build the bundled model from a chain of finished trainings, measure it, and write its card.

detr scenes --images 500 --seed 3 --output scenes/held
python model_cards/bundle.py runs/scenes runs/scenes-larger runs/scenes-finest --minutes 75 113 17 \
  --held-out scenes/held --machine "one core of an AMD EPYC, beside other work"
python model_cards/bundle.py runs/scenes-longer --go-on --minutes 90 --processes 2 --size 288 384 \
  --held-out scenes/held --machine "two cores of an Intel Xeon, beside other work"

With --go-on the first training began with the bundled model, and the card keeps the stages that led to it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

from bundled_card import bundled_card
from transformers_detr.hub.bundled_model import FOLDER, MEASURED, NAME
from transformers_detr.hub.loading import load_pretrained
from transformers_detr.model.modeling_detr import DetrForObjectDetection

RECIPE = "recipe.yaml"


def store(run: Path, size: list[int] | None) -> int:
    """Save the trained model in half precision for use in float32; return its number of parameters."""
    model, processor = load_pretrained(DetrForObjectDetection, run)
    if size is not None:
        processor.size = dict(zip(("shortest_edge", "longest_edge"), size, strict=True))
    shutil.rmtree(FOLDER, ignore_errors=True)
    model.config.auxiliary_loss = False
    model.half().save_pretrained(FOLDER)
    processor.save_pretrained(FOLDER)
    path = FOLDER / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "dtype": "float32"}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return sum(value.numel() for value in model.parameters())


def score(held_out: Path) -> dict[str, Any]:
    """Return the average precision of the stored model, measured with the command on the card."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "evaluation")
        command = [
            "detr",
            "evaluate",
            "--model",
            NAME,
            "--data",
            str(held_out),
            "--output",
            str(output),
        ]
        subprocess.run(command, check=True)
        metrics: dict[str, Any] = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def course(run: Path, minutes: int, machine: str, processes: int) -> dict[str, Any]:
    """Return the record of a training or of one of its checkpoints, with the given facts about time and machine."""
    state = json.loads((run / "trainer_state.json").read_text(encoding="utf-8"))
    recipe_file = next(path for path in (run / RECIPE, run.parent / RECIPE) if path.is_file())
    recipe = yaml.safe_load(recipe_file.read_text(encoding="utf-8"))
    settings = recipe["training"]
    curve = [
        {"step": entry["step"], "AP": round(entry["eval_AP"], 2), "AP50": round(entry["eval_AP50"], 2)}
        for entry in state["log_history"]
        if "eval_AP" in entry
    ]
    return {
        "recipe": (run if (run / RECIPE).is_file() else run.parent).name,
        "minutes": minutes,
        "machine": machine,
        "shortest_edge": recipe["processor"]["size"]["shortest_edge"],
        "steps": state["global_step"],
        "batch_size": settings["per_device_train_batch_size"] * processes,
        "planned_steps": state["max_steps"],
        "tokens_until": round(settings.get("tokens_first", 0) * state["max_steps"]),
        "curve": curve,
    }


def main() -> None:
    """Store, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        help="folders that `detr train` wrote by recipes of their names, the last one last",
    )
    parser.add_argument("--minutes", type=int, nargs="+", required=True, help="how long each took, for the card")
    parser.add_argument("--held-out", type=Path, required=True, help="scenes that took no part in training")
    parser.add_argument("--machine", required=True, help="what they were trained on, for the card")
    parser.add_argument("--processes", type=int, default=1, help="how many trained together")
    parser.add_argument("--size", type=int, nargs=2, metavar="PIXELS", help="shorter side and limit of the longer one")
    parser.add_argument("--go-on", action="store_true", help="keep the stages of the bundled model")
    parser.add_argument("--train-images", type=int, default=16000)
    arguments = parser.parse_args()
    stages = json.loads(MEASURED.read_text(encoding="utf-8"))["stages"] if arguments.go_on else []
    for run, minutes in zip(arguments.runs, arguments.minutes, strict=True):
        stages.append(course(run, minutes, arguments.machine, arguments.processes))
    parameters = store(arguments.runs[-1], arguments.size)
    metrics = score(arguments.held_out)
    measured = {
        "parameters": parameters,
        "train_images": arguments.train_images,
        "stages": stages,
        "held_out_images": metrics["images"],
        "held_out": {name: metrics["box"][name] for name in ("AP", "AP50", "AP75")},
    }
    MEASURED.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    Path(__file__).with_name(f"{NAME}.md").write_text(bundled_card(), encoding="utf-8")


if __name__ == "__main__":
    main()
