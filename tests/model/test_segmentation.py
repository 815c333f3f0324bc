"""Attention maps, mask head and DetrForSegmentation."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_detr import NATIVE_BACKBONE, padded_batch, randomize_norms, tiny_config
from tiny_segmenter import tiny_segmenter
from torch import nn
from torch.nn import functional
from transformers.loss.loss_for_object_detection import dice_loss, sigmoid_focal_loss

from transformers_detr import DetrForObjectDetection, DetrForSegmentation
from transformers_detr.model import mask_head_detr
from transformers_detr.model.mask_head_detr import (
    NO_MASK,
    DetrAttentionMaps,
    DetrMaskHead,
    convolve_enlarged,
    group_norm,
    only_where_real,
)
from transformers_detr.model.postprocessing_detr import post_process_instance_masks
from transformers_detr.model.postprocessing_segmentation_detr import (
    post_process_instance_segmentation,
    post_process_panoptic_paper,
    post_process_panoptic_segmentation,
)

SIZES = [(65, 99), (34, 70)]
BACKBONES = {
    "native": {},
    "dc5": {"backbone": "resnet26", "dilation": True},
    "three maps": {"backbone": "resnet18", "backbone_kwargs": {"out_indices": [2, 3, 4]}},
}


@pytest.fixture(scope="module")
def batch():
    return padded_batch(SIZES)


@pytest.fixture(scope="module")
def model(batch):
    """About half of its queries are sure of their class and mask."""
    model = tiny_segmenter()
    classifier = model.detr.class_labels_classifier
    with torch.no_grad():
        model.mask_head.out_lay.weight *= 20
        classifier.weight *= 15
        logits = model.detr(*batch).logits
        classifier.bias[-1] += (logits[..., :-1].amax(-1) - logits[..., -1]).median()
    return model


def square_labels(counts, size=SIZES[0]):
    """Labels with the given number of square objects per image, and their masks on the batch's canvas."""
    labels = []
    for image, count in enumerate(counts):
        masks = torch.zeros(count, *size, dtype=torch.bool)
        for index in range(count):
            masks[index, 8 * index : 8 * index + 24, 10 * image : 10 * image + 30] = True
        boxes = torch.tensor([[0.3, 0.2 + 0.1 * index, 0.3, 0.3] for index in range(count)]).reshape(-1, 4)
        labels.append({"class_labels": torch.arange(count) % 5, "boxes": boxes, "masks": masks})
    return labels


# Attention maps


@pytest.mark.parametrize("padded", [False, True])
def test_attention_maps_follow_their_formula(padded):
    torch.manual_seed(0)
    maps_of = DetrAttentionMaps(width=12, num_heads=3)
    queries, memory = torch.randn(2, 4, 12), torch.randn(2, 12, 3, 5)
    mask = torch.ones(2, 3, 5, dtype=torch.bool)
    if padded:
        mask[1, 2:], mask[1, :, 3:] = False, False
    maps = maps_of(queries, memory, mask if padded else None)
    for image in range(2):
        for query in range(4):
            asked = maps_of.q_linear(queries[image, query]).view(3, 4)
            scores = torch.full((3, 3, 5), float("-inf"))
            for row, column in mask[image].nonzero().tolist():
                scores[:, row, column] = (asked * maps_of.k_linear(memory[image, :, row, column]).view(3, 4)).sum(1) / 2
            expected = scores.exp() / scores.exp().sum()  # over heads and cells together
            assert torch.allclose(maps[image, query], expected, atol=1e-6)


# Mask head


def plain_masks(head, maps, features):
    """The mask head as it was first written: every query with a copy of everything."""
    count = maps.shape[1]
    projected, *finer = (level.repeat_interleave(count, 0) for level in features)
    hidden = torch.cat([projected, maps.flatten(0, 1)], 1)
    hidden = head.activation(head.gn1(head.lay1(hidden)))
    hidden = head.activation(head.gn2(head.lay2(hidden)))
    layers = (head.lay3, head.lay4, head.lay5)
    for i, (level, layer) in enumerate(zip(finer, layers, strict=True), start=1):
        level = getattr(head, f"adapter{i}")(level)
        hidden = layer(level + functional.interpolate(hidden, size=level.shape[-2:], mode="nearest"))
        hidden = head.activation(getattr(head, f"gn{i + 2}")(hidden))
    return head.out_lay(hidden)[:, 0]


HEAD_SIZES = {
    "even": [(3, 4), (6, 8), (12, 16), (24, 32)],
    "odd": [(3, 4), (5, 7), (9, 14), (17, 27)],
    "one cell": [(1, 1), (1, 2), (2, 3), (3, 5)],
    "dilated": [(5, 4), (5, 4), (9, 8), (18, 15)],
    "other strides": [(3, 4), (7, 8), (20, 25), (21, 26)],
}


def random_head(sizes, activation="relu", images=2, queries=5):
    torch.manual_seed(0)
    head = DetrMaskHead(32, 8, [24, 16, 8], activation)
    for norm in (head.gn1, head.gn2, head.gn3, head.gn4, head.gn5):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
    maps = torch.rand(images, queries, 8, *sizes[0])
    features = [torch.randn(images, c, *size) for c, size in zip((32, 24, 16, 8), sizes, strict=True)]
    return head, maps, features, torch.arange(images).repeat_interleave(queries)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("sizes", HEAD_SIZES.values(), ids=HEAD_SIZES)
def test_sharing_changes_no_mask(sizes, activation):
    head, maps, features, image = random_head(sizes, activation)
    expected = plain_masks(head, maps, features)
    assert expected.std() > 0.05
    assert (expected.unflatten(0, (2, 5)).std(1) > 1e-3).any()
    for at_once in (None, 1, 3, 100):
        masks = head(maps.flatten(0, 1), image, *features, at_once=at_once)
        assert torch.allclose(masks, expected, atol=1e-5)
    backwards = head(maps.flatten(0, 1).flip(0), image.flip(0), *features)  # queries in any order
    assert torch.allclose(backwards.flip(0), expected, atol=1e-5)


@pytest.mark.parametrize("sizes", HEAD_SIZES.values(), ids=HEAD_SIZES)
def test_sharing_changes_no_gradient(sizes):
    head, maps, features, image = random_head(sizes)
    head, maps, features = head.double(), maps.double(), [level.double() for level in features]
    inputs = [maps.requires_grad_(), *(level.requires_grad_() for level in features), *head.parameters()]
    pull = torch.randn(10, *sizes[3], dtype=torch.float64)
    found = torch.autograd.grad((head(maps.flatten(0, 1), image, *features) * pull).sum(), inputs)
    expected = torch.autograd.grad((plain_masks(head, maps, features) * pull).sum(), inputs)
    for ours, plain in zip(found, expected, strict=True):
        assert torch.allclose(ours, plain, atol=1e-9)


def test_no_queries_give_no_masks_and_no_gradient():
    head, maps, features, image = random_head(HEAD_SIZES["odd"])
    masks = head(maps.flatten(0, 1)[:0], image[:0], *features)
    assert masks.shape == (0, 17, 27)
    masks.sum().backward()
    assert all(torch.equal(weight.grad, torch.zeros_like(weight)) for weight in head.parameters())


@pytest.mark.parametrize("new", [(6, 8), (5, 8), (6, 7), (5, 7), (3, 4), (9, 9), (2, 3), (4, 12)])
def test_convolution_of_what_was_enlarged(new):
    torch.manual_seed(0)
    features, weight = torch.randn(2, 3, 3, 4), torch.randn(5, 3, 3, 3)
    expected = functional.conv2d(functional.interpolate(features, size=new), weight, padding=1)
    assert torch.allclose(convolve_enlarged(features, weight, new), expected, atol=1e-5)
    real = torch.rand(2, 1, *new) > 0.3
    expected = functional.conv2d(functional.interpolate(features, size=new) * real, weight, padding=1)
    assert torch.allclose(convolve_enlarged(features, weight, new, real), expected, atol=1e-5)


def test_norm_of_real_cells_is_the_norm_of_the_crop():
    torch.manual_seed(0)
    norm = nn.GroupNorm(4, 8)
    nn.init.uniform_(norm.weight)
    nn.init.normal_(norm.bias)
    features = torch.randn(2, 8, 6, 7) + 3
    real = torch.zeros(2, 1, 6, 7, dtype=torch.bool)
    real[0, :, :4, :5], real[1] = True, True
    normed = group_norm(features, norm, real)
    assert torch.allclose(normed[:1, :, :4, :5], norm(features[:1, :, :4, :5]), atol=1e-5)
    assert torch.allclose(normed[1:], norm(features[1:]), atol=1e-5)


@pytest.mark.parametrize("at_once", [1, 3, 9])
def test_rounding_stays_small_on_large_maps(at_once):
    """Torch's group norm, channels last on a CPU, is ten times as far off here."""
    torch.manual_seed(0)
    head = DetrMaskHead(64, 8, [32, 16, 8]).eval()
    with torch.no_grad():
        head.lay1.weight[:, 64:] *= 30
        sizes = [(25, 34), (50, 67), (100, 134), (200, 267)]
        features = [torch.randn(1, c, *size) for c, size in zip((64, 32, 16, 8), sizes, strict=True)]
        maps = torch.rand(9, 8, *sizes[0]).mul(8).exp().flatten(1).softmax(1).unflatten(1, (8, *sizes[0]))
        image = torch.zeros(9, dtype=torch.int64)
        masks = head(maps, image, *features, at_once=at_once)
        exact = head.double()(maps.double(), image, *(level.double() for level in features))
    assert exact.std() > 0.1
    assert (masks - exact).abs().max() < 2e-6 * exact.abs().max()


def test_norm_of_real_cells_in_half_precision():
    features = torch.randn(1, 8, 200, 200) * 20
    real = torch.ones(1, 1, 200, 200, dtype=torch.bool)
    norm = nn.GroupNorm(2, 8)
    expected = norm(features)
    half = group_norm(features.half(), norm.half(), real)
    assert half.dtype == torch.float16
    assert torch.allclose(half.float(), expected, atol=1e-2)


def test_masks_end_where_the_image_ends_and_enlarge_as_alone():
    torch.manual_seed(0)
    masks = torch.randn(2, 1, 6, 7)
    real = torch.zeros(2, 1, 6, 7, dtype=torch.bool)
    real[0, :, :3, :4], real[1, :, :6, :6] = True, True
    ended = only_where_real(masks, real)
    assert torch.equal(ended[real], masks[real])
    assert (ended[0, 0, 4:] == NO_MASK).all()
    assert (ended[0, 0, :, 5:] == NO_MASK).all()
    large = functional.interpolate(ended, scale_factor=4, mode="bilinear")
    for index, (height, width) in enumerate([(3, 4), (6, 6)]):
        alone = functional.interpolate(masks[index, None, :, :height, :width], scale_factor=4, mode="bilinear")[0]
        assert torch.allclose(large[index, :, : 4 * height, : 4 * width], alone, atol=1e-5)


def test_padding_is_kept_out_by_cutting_and_by_masking(monkeypatch):
    head, maps, _, image = random_head(HEAD_SIZES["odd"])
    head, maps = head.double(), maps.double()
    sizes = [[(3, 4), (5, 7), (9, 14), (17, 27)], [(2, 3), (4, 5), (8, 10), (15, 19)]]
    real, features = [], []
    for level, channels in enumerate((32, 24, 16, 8)):
        real.append(torch.zeros(2, *sizes[0][level], dtype=torch.bool))
        for index in range(2):
            real[-1][index, : sizes[index][level][0], : sizes[index][level][1]] = True
        features.append(torch.randn(2, channels, *sizes[0][level], dtype=torch.float64))
    maps = maps * real[0][:, None, None]
    cut = head(maps.flatten(0, 1), image, *features, real=real)
    for index in range(2):
        (height, width), *_, (rows, columns) = sizes[index]
        alone = [level[index, None, :, :h, :w] for level, (h, w) in zip(features, sizes[index], strict=True)]
        expected = plain_masks(head, maps[index, None, :, :, :height, :width], alone)
        assert torch.allclose(cut[image == index][:, :rows, :columns], expected)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.allclose(head(maps.flatten(0, 1), image, *features, real=real), cut)


def test_memory_bounds_the_queries_at_once(monkeypatch):
    head, maps, features, image = random_head(HEAD_SIZES["even"])
    seen = []
    run = DetrMaskHead._masks
    monkeypatch.setattr(DetrMaskHead, "_masks", lambda self, *args: seen.append(len(args[0])) or run(self, *args))
    largest = 40 * 3 * 4 * 4  # bytes of one query's result in layer 1; layers 3, 4 and 5 have 8 * 48, 4 * 192, 2 * 768
    largest = max(largest, 2 * 768 * 4)
    for budget, chunks in ((1, [1] * 10), (4 * mask_head_detr.LIVE_COPIES * largest, [4, 4, 2]), (1e9, [10])):
        seen.clear()
        monkeypatch.setattr(mask_head_detr, "CPU_BYTES", int(budget))
        head(maps.flatten(0, 1), image, *features)
        assert seen == chunks


@pytest.mark.parametrize(("width", "heads"), [(24, 8), (48, 8), (32, 4), (96, 8), (16, 7)])
def test_widths_that_no_head_can_have_are_refused(width, heads):
    with pytest.raises(ValueError, match=f"got d_model {width} with {heads} heads"):
        DetrMaskHead(width, heads, [8, 8, 8])


# The model


def test_names_are_the_stored_ones(model):
    detector = DetrForObjectDetection(model.config)
    layers = [f"{name}{number}" for name in ("lay", "gn") for number in range(1, 6)]
    layers += ["out_lay", "adapter1", "adapter2", "adapter3"]
    expected = {f"detr.{name}" for name in detector.state_dict()}
    for part in ("weight", "bias"):
        expected |= {f"mask_head.{layer}.{part}" for layer in layers}
        expected |= {f"bbox_attention.{name}_linear.{part}" for name in "qk"}
    assert set(model.state_dict()) == expected


@torch.no_grad()
def test_initialization_is_the_originals():
    torch.manual_seed(0)
    fields = {"d_model": 128, "encoder_attention_heads": 8, "backbone_config": NATIVE_BACKBONE}
    model = DetrForSegmentation(tiny_config(**fields, init_xavier_std=2.0))
    for linear in (model.bbox_attention.q_linear, model.bbox_attention.k_linear):
        assert not linear.bias.any()
        assert linear.weight.abs().max() == pytest.approx(2 * (6 / 256) ** 0.5, rel=0.01)
    for layer in model.mask_head.modules():
        if isinstance(layer, nn.Conv2d):
            assert not layer.bias.any()
            bound = (3 / layer.weight[0].numel()) ** 0.5  # kaiming uniform with a = 1
            assert 0.9 * bound < layer.weight.abs().max() <= bound
            assert layer.weight.std() == pytest.approx(bound / 3**0.5, rel=0.15)
        elif isinstance(layer, nn.GroupNorm):
            assert (layer.weight == 1).all()
            assert not layer.bias.any()


@torch.no_grad()
def test_detection_is_the_detectors(model, batch):
    asked = {"output_attentions": True, "output_hidden_states": True}
    output, detection = model(*batch, **asked), model.detr(*batch, **asked)
    assert output.pred_masks.shape == (2, 10, 17, 25)
    for name, value in detection.items():
        for ours, expected in zip(*((v if isinstance(v, tuple) else (v,)) for v in (output[name], value)), strict=True):
            assert torch.equal(ours, expected), name
    assert set(output) - set(detection) == {"pred_masks"}


@torch.no_grad()
def test_tuples_begin_with_the_loss(model, batch):
    labels = square_labels([2, 1])
    named = model(*batch, labels=labels)
    plain = model(*batch, labels=labels, return_dict=False)
    assert list(named)[:5] == ["loss", "loss_dict", "logits", "pred_boxes", "pred_masks"]
    assert torch.equal(plain[0], named.loss)
    assert list(model.detr(*batch, labels=labels))[:4] == ["loss", "loss_dict", "logits", "pred_boxes"]


@pytest.mark.parametrize("changes", BACKBONES.values(), ids=BACKBONES)
@torch.no_grad()
def test_exact_padding_gives_each_image_its_masks_alone(changes):
    model = tiny_segmenter(**changes).double()
    sizes = [*SIZES, (33, 96)]
    pixels, mask = padded_batch(sizes)
    exact = model(pixels, mask, exact_padding=True).pred_masks
    original = model(pixels, mask).pred_masks
    assert exact[0].std() > 0.1
    for index, (height, width) in enumerate(sizes):
        alone = model(pixels[index : index + 1, :, :height, :width]).pred_masks[0]
        rows, columns = alone.shape[1:]
        assert torch.allclose(exact[index, :, :rows, :columns], alone, atol=1e-8)
        assert (exact[index, :, rows + 1 :] == NO_MASK).all()
        assert (exact[index, :, :, columns + 1 :] == NO_MASK).all()
        leaks = (original[index, :, :rows, :columns] - alone).abs().max() > 0.01
        assert leaks == (index > 0)  # the first image fills the batch
    model.config.exact_padding = True
    assert torch.equal(model(pixels, mask).pred_masks, exact)


POST_PROCESSINGS = {
    "panoptic": lambda outputs, sizes: post_process_panoptic_segmentation(outputs, target_sizes=sizes),
    "fused": lambda outputs, sizes: post_process_panoptic_segmentation(outputs, label_ids_to_fuse=[0, 1, 2, 3, 4]),
    "padding cut off": lambda outputs, sizes: post_process_panoptic_segmentation(outputs, processed_sizes=sizes),
    "instance": lambda outputs, sizes: post_process_instance_segmentation(outputs, target_sizes=sizes),
    "paper": lambda outputs, sizes: post_process_panoptic_paper(outputs, sizes),
    "instance masks": lambda outputs, sizes: post_process_instance_masks(outputs, sizes, sizes),
}


@pytest.mark.parametrize("name", POST_PROCESSINGS)
@pytest.mark.parametrize("exact", [False, True])
@torch.no_grad()
def test_confident_queries_give_the_same_segments(model, batch, name, exact):
    everything = model(*batch, exact_padding=exact)
    confident = model(*batch, exact_padding=exact, mask_queries="confident")
    scores = everything.logits.softmax(-1)[..., :-1].amax(-1)
    run = scores > 0.499
    assert run.any()
    assert not run.all()
    assert torch.equal(confident.logits, everything.logits)
    assert torch.allclose(confident.pred_masks[run], everything.pred_masks[run], atol=1e-5)
    assert (confident.pred_masks[~run] == NO_MASK).all()
    expected = POST_PROCESSINGS[name](everything, SIZES)
    found = POST_PROCESSINGS[name](confident, SIZES)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(
            torch.equal(ours[key], theirs[key]) if torch.is_tensor(ours[key]) else ours[key] == theirs[key]
            for key in ours
        )
    assert any(len(result.get("segments_info", result.get("scores", []))) for result in expected)


@torch.no_grad()
def test_no_confident_query_needs_no_mask_head(model, batch):
    shy = copy.deepcopy(model)
    shy.detr.class_labels_classifier.bias[-1] += 100
    output = shy(*batch, mask_queries="confident")
    assert (output.pred_masks == NO_MASK).all()
    assert [len(result["segments_info"]) for result in post_process_panoptic_segmentation(output)] == [0, 0]


@torch.no_grad()
def test_queries_by_tensor(model, batch):
    everything = model(*batch).pred_masks
    wanted = torch.zeros(2, 10, dtype=torch.bool)
    wanted[0, [2, 7]], wanted[1, [2, 5]] = True, True
    by_image, alike = wanted, wanted.clone()
    alike[1] = alike[0]
    for given, expected in (
        (by_image, by_image),
        (torch.tensor([[7, 2], [5, 2]]), by_image),
        (torch.tensor([2, 7]), alike),
        (torch.tensor([], dtype=torch.int64), torch.zeros(2, 10, dtype=torch.bool)),
    ):
        masks = model(*batch, mask_queries=given).pred_masks
        assert torch.allclose(masks[expected], everything[expected], atol=1e-5)
        assert (masks[~expected] == NO_MASK).all()


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ("some", "'all', 'confident' or a tensor, got 'some'"),
        (torch.tensor([3, 10]), r"indices in \[0, 10\) .* got torch.int64 of shape \(2,\): \[3, 10\]"),
        (torch.tensor([-1]), r"got .*: \[-1\]"),
        (torch.zeros(10, dtype=torch.bool), r"booleans of shape \(2, 10\) .* got torch.bool of shape \(10,\)"),
        (torch.tensor([[1], [2], [3]]), r"got .* of shape \(3, 1\)"),
        (torch.tensor([0.5]), "got torch.float32"),
    ],
)
def test_wrong_queries_are_refused(model, batch, queries, message):
    with torch.no_grad(), pytest.raises(ValueError, match=message):
        model(*batch, mask_queries=queries)


def test_no_queries_at_once_are_refused(model, batch):
    with pytest.raises(ValueError, match="masks_at_once must be at least 1, got 0"):
        model(*batch, masks_at_once=0)


def test_tokens_cannot_be_segmented(model):
    with pytest.raises(ValueError, match="inputs_embeds"):
        model(None, inputs_embeds=torch.zeros(1, 9, 32))


def test_a_backbone_of_two_maps_is_refused():
    with pytest.raises(ValueError, match="three feature maps, this one has 2"):
        DetrForSegmentation(tiny_config(backbone_kwargs={"out_indices": [3, 4]}, encoder_attention_heads=8))


# Training


@pytest.mark.parametrize("training", [False, True])
def test_mask_losses_are_those_of_the_matched_queries(batch, training):
    model = tiny_segmenter(auxiliary_loss=True, dropout=0.0).train(training)
    labels = square_labels([3, 1])
    seen = []
    model.mask_head.register_forward_pre_hook(lambda head, arguments: seen.append(len(arguments[0])))
    output = model(*batch, labels=labels)
    assert seen == ([4] if training else [20])
    with torch.no_grad():
        everything = model(*batch).pred_masks
    run = (output.pred_masks > NO_MASK).flatten(2).all(2)
    assert run.sum().item() == (4 if training else 20)
    assert torch.allclose(output.pred_masks[run], everything[run], atol=1e-4)

    with torch.no_grad():
        detected = model.detr.detect(*batch)
        pairs = model.detr.match_labels(detected.logits[-1:], detected.boxes[-1:], labels).matching
    wanted = torch.cat([label["masks"] for label in labels])[pairs.target[0]].flatten(1).float()
    predicted = functional.interpolate(
        everything[pairs.image[0], pairs.query[0]][:, None], size=SIZES[0], mode="bilinear"
    )
    predicted = predicted.flatten(1)
    loss_mask, loss_dice = sigmoid_focal_loss(predicted, wanted, 4), dice_loss(predicted, wanted, 4)
    assert output.loss_dict["loss_mask"].item() == pytest.approx(loss_mask.item(), rel=1e-4)
    assert output.loss_dict["loss_dice"].item() == pytest.approx(loss_dice.item(), rel=1e-4)
    detection = model.detr(*batch, labels=[{k: v for k, v in label.items() if k != "masks"} for label in labels])
    expected = detection.loss + output.loss_dict["loss_mask"] + output.loss_dict["loss_dice"]
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert len(output.auxiliary_outputs) == 1
    assert set(output.loss_dict) - set(detection.loss_dict) == {"loss_mask", "loss_dice"}


def test_every_part_learns_and_a_frozen_detector_does_not(batch):
    model = tiny_segmenter().train()
    model(*batch, labels=square_labels([2, 1])).loss.backward()
    trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert {name for name, weight in model.named_parameters() if weight.grad is not None} == trainable
    assert any(name.startswith("detr.") for name in trainable)

    model.zero_grad()
    model.freeze_detector()
    model(*batch, labels=square_labels([2, 1])).loss.backward()
    learns = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
    parts = {name for name, _ in model.named_parameters() if not name.startswith("detr.")}
    assert parts - learns <= {"bbox_attention.k_linear.bias"}  # a softmax does not see it
    assert learns <= parts


def test_a_batch_without_objects_reaches_every_part(batch):
    """Processes that train together wait for each other's gradients, also where there is nothing to learn."""
    model = tiny_segmenter().train()
    model.freeze_detector()
    output = model(*batch, labels=square_labels([0, 0]))
    assert torch.isfinite(output.loss)
    output.loss.backward()
    for name, weight in model.named_parameters():
        if not name.startswith("detr."):
            assert torch.equal(weight.grad, torch.zeros_like(weight)), name


def test_labels_need_masks(model, batch):
    labels = [{k: v for k, v in label.items() if k != "masks"} for label in square_labels([1, 1])]
    with pytest.raises(ValueError, match="masks"):
        model(*batch, labels=labels)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(batch, reentrant):
    labels = square_labels([2, 1])
    gradients = []
    for checkpointing in (False, True):
        model = tiny_segmenter(dropout=0.0).train()
        if checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": reentrant})
        model(*batch, labels=labels).loss.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradients[1][name], gradient, rtol=1e-4, atol=1e-5), name


def test_from_detector_adds_fresh_parts_to_a_trained_detector(batch):
    torch.manual_seed(1)
    detector = DetrForObjectDetection(tiny_segmenter().config).eval()
    randomize_norms(detector)
    before = {name: weight.clone() for name, weight in detector.state_dict().items()}
    model = DetrForSegmentation.from_detector(detector).eval()
    assert model.detr is detector
    assert all(torch.equal(weight, before[name]) for name, weight in detector.state_dict().items())
    assert not any(weight.is_meta for weight in model.state_dict().values())
    with torch.no_grad():
        output = model(*batch)
        assert torch.equal(output.logits, detector(*batch).logits)
    assert torch.isfinite(output.pred_masks).all()
    assert output.pred_masks.std() > 1e-3
    assert {name.split(".")[0] for name, weight in model.named_parameters() if weight.requires_grad} == {
        "bbox_attention",
        "mask_head",
    }
    bound = (3 / 360) ** 0.5  # kaiming uniform with a = 1 over 40 channels
    assert 0.9 * bound < model.mask_head.lay1.weight.abs().max() <= bound


# The framework


def test_saved_and_loaded_again(model, batch, tmp_path):
    model.save_pretrained(tmp_path)
    loaded, info = DetrForSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    with torch.no_grad():
        assert torch.equal(loaded.eval()(*batch).pred_masks, model(*batch).pred_masks)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision(model, batch, dtype):
    half = copy.deepcopy(model).to(dtype)
    output = half(*batch, mask_queries="confident", exact_padding=True)
    assert output.pred_masks.dtype == dtype
    assert torch.isfinite(output.pred_masks).all()
    assert len(post_process_panoptic_segmentation(output)) == 2


@pytest.mark.parametrize("exact", [False, pytest.param(True, marks=pytest.mark.slow)])
@torch.no_grad()
def test_compiles_without_graph_breaks(model, batch, exact, monkeypatch):
    monkeypatch.setattr(model.config, "fast_paths", False)  # which a graph does not hold, and which round otherwise
    pixels, mask = batch
    assert model.supports_exact_padding
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    found = compiled(pixels, mask, exact_padding=exact).pred_masks
    assert torch.allclose(found, model(pixels, mask, exact_padding=exact).pred_masks, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("exact", [False, True])
@torch.no_grad()
def test_exports_for_batches_of_any_size(exact):
    """Exact padding needs a canvas of whole cells, so that sizes of feature maps can be told in advance."""

    class Masks(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = tiny_segmenter()

        def forward(self, pixels, mask):
            return self.model(pixels, mask, exact_padding=exact).pred_masks

    def canvas(sizes):
        pixels, mask = padded_batch(sizes)
        rest = (0, -pixels.shape[3] % 32, 0, -pixels.shape[2] % 32) if exact else (0, 0, 0, 0)
        return functional.pad(pixels, rest), functional.pad(mask, rest)

    masks = Masks()
    assert masks.model.supports_exact_padding
    cells = 32 if exact else 1
    height, width = (torch.export.Dim(name, min=33 // cells + 1, max=1344 // cells) for name in ("h", "w"))
    images = torch.export.Dim("b", min=2, max=64)
    shapes = {0: images, 2: cells * height, 3: cells * width}, {0: images, 1: cells * height, 2: cells * width}
    exported = torch.export.export(masks, canvas(SIZES), dynamic_shapes=shapes, strict=False).module()
    for sizes in (SIZES, [(97, 131), (50, 70), (33, 99)]):
        assert torch.allclose(exported(*canvas(sizes)), masks(*canvas(sizes)), atol=1e-4)
