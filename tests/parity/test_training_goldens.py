"""Training of detr-tiny and its pre-norm sibling against the original: what trains, all gradients, five steps of AdamW.

Parameters go by the original's names here; query, key and value of ours are joined as there. The model runs in
float64, so that what is left of a difference is the golden numbers' own rounding: five steps in float32 part by
1e-4 of the loss for no other reason than the order of sums.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from key_map import to_original, to_stored
from model.loss_cases import golden_labels
from transformers_detr.model.configuration_detr import DetrConfig, TableTransformerConfig
from transformers_detr.model.modeling_detr import DetrForObjectDetection
from transformers_detr.model.modeling_table_transformer_detr import TableTransformerForObjectDetection

CONFIG = {
    "backbone": "resnet18",
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_queries": 10,
    "num_labels": 5,
    "dropout": 0.0,
    "auxiliary_loss": True,
}


@pytest.fixture(scope="module")
def batch(golden_path, golden_json):
    """Images A and B, normalized in float32 as in the golden run, padded, with its labels."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels, mask = torch.zeros(2, 3, 352, 326), torch.zeros(2, 352, 326)
    for index, name in enumerate("AB"):
        with Image.open(golden_path("inputs", f"{name}.png")) as opened:
            image = (torch.from_numpy(np.array(opened)) / 255 - mean) / std  # (H, W, 3)
        pixels[index, :, : image.shape[0], : image.shape[1]] = image.permute(2, 0, 1)
        mask[index, : image.shape[0], : image.shape[1]] = 1
    labels = golden_labels(golden_json("detr-tiny.loss.json")["cases"]["many_and_single"])
    return {"pixel_values": pixels.double(), "pixel_mask": mask, "labels": labels}


@pytest.fixture
def model(golden_state_dict):
    """detr-tiny with the golden weights, in float64 and training mode."""
    model = DetrForObjectDetection(DetrConfig(**CONFIG))
    model.load_state_dict(to_stored(golden_state_dict("detr-tiny")))
    return model.double().train()


def trainable(model):
    return to_original({name: value for name, value in model.named_parameters() if value.requires_grad})


def gradients(model):
    return to_original({name: value.grad for name, value in model.named_parameters() if value.requires_grad})


def test_the_same_parameters_train(model, golden_json):
    assert sorted(trainable(model)) == sorted(golden_json("detr-tiny.train.json")["requires_grad"])


def test_losses_and_gradients_are_the_originals(model, batch, golden_json, golden_tensors):
    golden = golden_json("detr-tiny.train.json")
    output = model(**batch)
    output.loss.backward()
    ours = gradients(model)

    assert output.loss_dict.keys() == golden["losses"].keys()
    for name, value in golden["losses"].items():
        torch.testing.assert_close(output.loss_dict[name], torch.tensor(value), rtol=0, atol=4e-6, msg=name)
    left_out = golden["zero_in_theory"]
    tolerance = 7.5e-5  # the golden gradients are the original's in float32, up to 7.4e-5 from float64
    norms = {name: value.norm().item() for name, value in ours.items() if name not in left_out}
    expected = {name: value for name, value in golden["grad_norm_before_clipping"].items() if name not in left_out}
    assert norms == pytest.approx(expected, rel=tolerance)
    whole = golden_tensors("detr-tiny.train_grads.safetensors")
    assert len(whole) > 10
    for name, gradient in whole.items():
        error = (ours[name] - gradient).norm() / gradient.norm()
        assert error < tolerance, name


def train_five_steps(model, batch, settings):
    """Train; return the losses before each step and after the last, and the gradient norms before clipping."""
    groups = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups["backbone" in name].append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": groups[False]}, {"params": groups[True], "lr": settings["lr_backbone"]}],
        lr=settings["lr"],
        weight_decay=settings["weight_decay"],
    )
    losses, norms = [], []
    for _ in range(5):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), settings["clip_max_norm"]).item())
        optimizer.step()
        losses.append(loss.item())
    losses.append(model(**batch).loss.item())
    return losses, norms


def test_five_steps_are_the_originals(model, batch, golden_json, golden_state_dict):
    golden = golden_json("detr-tiny.optim.json")
    losses, norms = train_five_steps(model, batch, golden["optimizer"])

    # The loss itself is computed in float32.
    assert losses == pytest.approx(golden["loss_f64"], rel=0, abs=4e-6)
    assert norms == pytest.approx(golden["total_grad_norm_f64"], rel=1e-6)
    before, after = golden_state_dict("detr-tiny"), to_original(model.state_dict())
    expected = golden["parameter_change_norm_f64"]
    changes = {name: (after[name] - before[name]).norm().item() for name in expected}
    assert changes == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("run", ["plain", "class_weights"])
def test_pre_norm_trains_as_the_original(run, batch, golden_json, golden_state_dict, golden_tensors):
    """Losses, gradients and five steps; with weights of classes as the Table Transformer's criterion has them."""
    golden = golden_json("detr-tiny-prenorm.train.json")
    expected = golden["runs"][run]
    config = TableTransformerConfig(
        **CONFIG,
        eos_coefficient=expected["eos_coef"],
        class_weights=None if run == "plain" else expected["class_weights"],
    )
    model = TableTransformerForObjectDetection(config)
    model.load_state_dict(to_stored(golden_state_dict("detr-tiny-prenorm")))
    model = model.double().train()

    output = model(**batch)
    assert output.loss_dict.keys() == expected["losses_f64"].keys()
    for name, value in expected["losses_f64"].items():
        torch.testing.assert_close(
            output.loss_dict[name].double(), torch.tensor(value).double(), rtol=0, atol=4e-6, msg=name
        )
    output.loss.backward()
    ours = gradients(model)
    whole = golden_tensors("detr-tiny-prenorm.train_grads.safetensors")
    mine = {name.removeprefix(f"{run}/"): value for name, value in whole.items() if name.startswith(f"{run}/")}
    assert len(mine) > 5
    for name, gradient in mine.items():
        assert (ours[name] - gradient).norm() / gradient.norm() < 1e-4, name

    model.zero_grad()
    losses, norms = train_five_steps(model, batch, golden["optimizer"])
    assert losses == pytest.approx(expected["loss_before_each_step_then_after_the_last_f64"], rel=0, abs=1e-5)
    assert norms == pytest.approx(expected["total_grad_norm_before_clipping_f64"], rel=1e-5)
