from __future__ import annotations

import pytest

from transformers_detr import DetrConfig, DetrImageProcessor
from transformers_detr.training.arguments import DetrTrainingArguments
from transformers_detr.training.recipes import (
    FOLDER,
    Recipe,
    find_recipe,
    read_recipe,
    recipe_names,
    write_recipe,
)


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_are_valid_and_say_what_they_are_for(name, tmp_path):
    recipe = read_recipe(find_recipe(name))
    if isinstance(recipe.model, dict):
        DetrConfig(**recipe.model)
    DetrImageProcessor(**recipe.processor)
    arguments = DetrTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **recipe.training)
    assert max(arguments.edges) <= arguments.longest_edge
    heading = [line for line in (FOLDER / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    for opening in ("# For:", "# Command:", "# Time:", "# Result:"):
        assert sum(line.startswith(opening) for line in heading) == 1


def test_the_paper_recipe_is_the_papers():
    recipe = read_recipe(find_recipe("paper"))
    training = DetrTrainingArguments(output_dir="unused", use_cpu=True, **recipe.training)
    assert training.learning_rate == 1e-4
    assert training.backbone_lr_factor == pytest.approx(0.1)
    assert training.weight_decay == 1e-4
    assert training.max_grad_norm == 0.1
    assert training.num_train_epochs * training.lr_drop == pytest.approx(200, abs=0.1)
    assert training.edges == list(range(480, 801, 32))
    assert (training.query_groups, training.token_weight, training.ema_decay) == (1, 0, 0)
    config = DetrConfig(**recipe.model)
    assert config.dropout == 0.1
    assert (config.encoder_layers, config.d_model, config.num_queries) == (6, 256, 100)


def test_a_recipe_survives_writing(tmp_path):
    recipe = Recipe("facebook/detr-resnet-50", {"size": {"shortest_edge": 9}}, {"learning_rate": 1e-5})
    write_recipe(recipe, tmp_path / "mine.yaml", "detr train --data ä")
    assert read_recipe(tmp_path / "mine.yaml") == recipe
    assert (tmp_path / "mine.yaml").read_text(encoding="utf-8").startswith("# detr train --data ä\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [("model: [", "not YAML"), ("modell: {}", "a recipe has the sections model, processor, training"), ("7", "got 7")],
)
def test_wrong_recipes_are_refused(tmp_path, content, message):
    (tmp_path / "wrong.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_recipe(find_recipe(str(tmp_path / "wrong.yaml")))


def test_a_missing_recipe_lists_those_that_there_are():
    with pytest.raises(ValueError, match="no such file; recipes of this package are bccd, paper, scenes"):
        read_recipe(find_recipe("mine.yaml"))
    assert find_recipe("facebook/detr-resnet-50") is None
