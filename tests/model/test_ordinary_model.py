"""What people do to models: the same as with fast paths off, and as stock changed the same way.

Cells that are left out: stock with MobileNetV2, whose activations it drops (D16); `torch.compile` with code generation,
which takes minutes (it runs among the slow tests).
"""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
import transformers
from tiny_detr import NATIVE_BACKBONE, padded_batch, randomize_norms, tiny_config
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

from transformers_detr import DetrForObjectDetection, DetrForSegmentation
from transformers_detr.model import cpu_kernels_detr

BACKBONES: dict[str, dict[str, Any]] = {
    "timm": {"backbone": "resnet18"},
    "native": {"backbone_config": NATIVE_BACKBONE},
    "mobilenet": {"backbone": "mobilenetv2_050"},
    "dc5": {"backbone": "resnet26", "dilation": True},
}
KINDS = {"detection": DetrForObjectDetection, "segmentation": DetrForSegmentation}
OUTPUTS = ("logits", "pred_boxes", "pred_masks")
IMAGES, MASK = padded_batch([(128, 160), (96, 150)])

Change = Callable[[nn.Module], Any]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """By backbone and kind: our model, and stock with the same weights (None where stock is wrong)."""
    made = {}

    def get(backbone: str, kind: str) -> tuple[nn.Module, nn.Module | None]:
        if (backbone, kind) not in made:
            torch.manual_seed(0)
            fields = {"encoder_attention_heads": 8, "decoder_attention_heads": 8, **BACKBONES[backbone]}
            ours = KINDS[kind](tiny_config(**fields)).eval()
            randomize_norms(ours)
            stock = None
            if backbone != "mobilenet":
                folder = tmp_path_factory.mktemp("model")
                ours.save_pretrained(folder)
                stock = getattr(transformers, KINDS[kind].__name__).from_pretrained(folder).eval()
            made[backbone, kind] = ours, stock
        return made[backbone, kind]

    return get


def copies(models, backbone, kind):
    """Our model, the same with fast paths off, and stock: copies that may be changed."""
    ours, stock = models(backbone, kind)
    plain = copy.deepcopy(ours)
    plain.config.fast_paths = False
    return copy.deepcopy(ours), plain, None if stock is None else copy.deepcopy(stock)


def outputs_of(model: Any, images: Tensor = IMAGES, mask: Tensor = MASK) -> list[Tensor]:
    with torch.inference_mode():
        found = model(pixel_values=images, pixel_mask=mask)
    if not isinstance(found, dict):
        return list(found)
    return [found[name] for name in OUTPUTS if name in found]


def assert_same(ours: list[Tensor], others: list[Tensor], tolerance: float = 2e-4) -> None:
    assert len(ours) == len(others) >= 2
    for mine, theirs in zip(ours, others, strict=True):
        mine, theirs = mine.float(), theirs.float()
        assert (mine - theirs).abs().max() <= tolerance * theirs.abs().max().clamp(min=1)


def layers_of(model: nn.Module, *kinds: type) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in model.named_modules() if type(module) in kinds]


def fixed_noise(shape: torch.Size) -> Tensor:
    """Noise that depends on the shape alone, so that two models of other names get the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


# Changes: each takes a model, and returns what is called in its place


def replaced_convolution(model):
    name, old = layers_of(model, nn.Conv2d)[0]
    new = nn.Conv2d(3, old.out_channels, old.kernel_size, old.stride, old.padding, bias=True)
    with torch.no_grad():
        new.weight.copy_(0.7 * old.weight)
        new.bias.copy_(fixed_noise(new.bias.shape))
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)
    return model


def _adapted(config_class, **options):
    def change(model):
        peft = pytest.importorskip("peft")
        convolutions = [name for name, layer in layers_of(model, nn.Conv2d) if layer.groups == 1][:6:2]
        projections = [name for name, _ in layers_of(model, nn.Linear) if name.endswith(("q_proj", "v_proj"))]
        config = getattr(peft, config_class)(r=2, target_modules=convolutions + projections, **options)
        adapted = peft.get_peft_model(model, config).eval()
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.copy_(0.3 * fixed_noise(parameter.shape))
        before = outputs_of(adapted)
        merged = adapted.merge_and_unload()
        assert_same(outputs_of(merged), before)
        return merged

    change.__name__ = config_class
    return change


def dynamically_quantized(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch moves this tool to another package
        quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert not layers_of(quantized, nn.Linear)
    return quantized


def weights_in_int8(model):
    torchao = pytest.importorskip("torchao.quantization")
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
    linear = [layer for _, layer in layers_of(model, nn.Linear)]
    assert linear
    assert all(type(layer.weight) is not nn.Parameter for layer in linear)
    return model


def pruned(model):
    for _, layer in layers_of(model, nn.Conv2d, nn.Linear):
        prune.l1_unstructured(layer, "weight", 0.2)
    return model


def hooked(model):
    """The hooks change what every convolution, norm and linear layer gives."""
    leaves = [module for module in model.modules() if not list(module.children())]
    changed = [leaf for leaf in leaves if isinstance(leaf, nn.Conv2d | nn.Linear) or "BatchNorm" in type(leaf).__name__]
    model.seen = set()
    for leaf in changed:
        leaf.register_forward_hook(lambda module, inputs, output: (model.seen.add(module), 0.95 * output)[1])

    def run(**inputs):
        found = model(**inputs)
        missing = [module for module in changed if module not in model.seen]
        assert all("mask" in name or "bbox_attention" in name for name, m in model.named_modules() if m in missing)
        return found

    return run


def replicated(model):
    """As `torch.nn.parallel.replicate` does it."""
    replicas = {module: module._replicate_for_data_parallel() for module in model.modules()}
    for module, replica in replicas.items():
        for name, child in module._modules.items():
            replica._modules[name] = None if child is None else replicas[child]
        for name, value in module._parameters.items():
            if value is None:
                replica._parameters[name] = None
            else:
                setattr(replica, name, value.detach().clone())
        for name, value in module._buffers.items():
            replica._buffers[name] = None if value is None else value.clone()
    return replicas[model]


def offloaded(model):
    return accelerate.cpu_offload(model, execution_device=torch.device("cpu"), offload_buffers=True)


def copied(model):
    return copy.deepcopy(model)


def pickled(model):
    return pickle.loads(pickle.dumps(model))


CHEAP = [
    replaced_convolution,
    _adapted("LoraConfig"),
    _adapted("LoHaConfig"),
    _adapted("LoKrConfig"),
    dynamically_quantized,
    weights_in_int8,
    pruned,
    hooked,
    replicated,
    offloaded,
    copied,
    pickled,
]


class Graph(nn.Module):
    """Tensors in, tensors out."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values, pixel_mask):
        found = self.model(pixel_values=pixel_values, pixel_mask=pixel_mask, return_dict=True)
        return tuple(found[name] for name in OUTPUTS if name in found)


ONES = torch.ones_like(MASK)


def traced(model):
    """With a mask of ones, which must not make the mask a constant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = torch.jit.trace(Graph(model), (IMAGES, ONES), check_trace=False)
    return lambda pixel_values, pixel_mask: graph(pixel_values, pixel_mask)


def _onnx(dynamo):
    def change(model, tmp_path_factory=None):
        onnxruntime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
        model.set_attn_implementation("eager")
        path = tmp_path_factory.mktemp("onnx") / "model.onnx"
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                Graph(model),
                (IMAGES, ONES),
                path,
                input_names=["pixel_values", "pixel_mask"],
                dynamo=dynamo,
                opset_version=18,
                verbose=False,
            )
        session = onnxruntime.InferenceSession(path)

        def run(pixel_values, pixel_mask):
            feed = {"pixel_values": pixel_values.numpy(), "pixel_mask": pixel_mask.numpy()}
            return [torch.from_numpy(np.asarray(value)) for value in session.run(None, feed)]

        return run

    change.__name__ = "onnx_by_dynamo" if dynamo else "onnx_by_tracing"
    return change


def exported(model):
    with torch.no_grad():
        program = torch.export.export(Graph(model), (IMAGES, ONES))
    graph = program.module()
    return lambda pixel_values, pixel_mask: graph(pixel_values, pixel_mask)


def compiled(model):
    torch._dynamo.reset()
    return torch.compile(Graph(model), backend="aot_eager")


COSTLY = [traced, _onnx(False), _onnx(True), exported, compiled]


def check(models, backbone, kind, change, with_stock, **options):
    ours, plain, stock = copies(models, backbone, kind)
    unchanged = outputs_of(ours)
    changed = outputs_of(change(ours, **options))
    # A last digit can move a dynamically quantized value by a whole step; see the test of equal tokens.
    tolerance = 0.05 if change is dynamically_quantized else 2e-4
    assert_same(changed, outputs_of(change(plain, **options)), tolerance)
    if kind == "segmentation" and change in (dynamically_quantized, weights_in_int8, hooked):
        return unchanged, changed  # stock's mask head reads weights past its layers, and fails or calls no hook
    if change in (dynamically_quantized, offloaded):
        return unchanged, changed  # stock reads the weights of an embedding past the layer, and finds none
    if with_stock and stock is not None:
        assert_same(changed, outputs_of(change(stock, **options)), 1e-3)
    return unchanged, changed


SAMPLE = [("timm", "detection"), ("native", "segmentation"), ("mobilenet", "detection")]
"""Cells of the default run; the slow tests take all."""
CELLS = [
    pytest.param(backbone, kind, marks=() if (backbone, kind) in SAMPLE else pytest.mark.slow)
    for backbone in BACKBONES
    for kind in KINDS
]


@pytest.mark.parametrize(("backbone", "kind"), CELLS)
@pytest.mark.parametrize("change", CHEAP, ids=lambda change: change.__name__)
@pytest.mark.current_stock
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_changed_models(models, backbone, kind, change):
    unchanged, changed = check(models, backbone, kind, change, with_stock=True)
    if change in (replicated, offloaded, copied, pickled):
        assert_same(changed, unchanged, 1e-5)
    else:
        assert (changed[0] - unchanged[0]).abs().max() > 1e-4  # the change has an effect at all


def test_quantized_layers_given_equal_tokens(models):
    ours, plain = (dynamically_quantized(model) for model in copies(models, "timm", "detection")[:2])
    tokens = fixed_noise(torch.Size((2, 400, 32)))
    with torch.no_grad():
        found = [model(inputs_embeds=tokens, pixel_mask=ONES[:, :20, :20]) for model in (ours, plain)]
    assert torch.equal(found[0].logits, found[1].logits)
    assert torch.equal(found[0].pred_boxes, found[1].pred_boxes)


def cells(backbones, kinds):
    return [(backbone, kind) for backbone in backbones for kind in kinds]


@pytest.mark.parametrize(("backbone", "kind"), cells(["timm"], ["detection"]))
@pytest.mark.parametrize("change", [traced, exported], ids=lambda change: change.__name__)
def test_graphs(models, backbone, kind, change, tmp_path_factory):
    options = {"tmp_path_factory": tmp_path_factory} if "onnx" in change.__name__ else {}
    unchanged, changed = check(models, backbone, kind, change, with_stock=False, **options)
    assert_same(changed, unchanged, 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "kind"), cells(BACKBONES, KINDS))
@pytest.mark.parametrize("change", COSTLY, ids=lambda change: change.__name__)
def test_all_graphs(models, backbone, kind, change, tmp_path_factory):
    options = {"tmp_path_factory": tmp_path_factory} if "onnx" in change.__name__ else {}
    unchanged, changed = check(models, backbone, kind, change, with_stock=False, **options)
    assert_same(changed, unchanged, 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_code(models, kind):
    ours, _, _ = copies(models, "timm", kind)
    torch._dynamo.reset()
    assert_same(outputs_of(torch.compile(Graph(ours))), outputs_of(ours))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_flop_counter_counts_the_same_in_every_mode(models, backbone, kind):
    ours, plain, _ = copies(models, backbone, kind)
    counts = set()
    for model in (ours, plain):
        for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
            with mode(), FlopCounterMode(display=False) as counter:
                model(pixel_values=IMAGES, pixel_mask=MASK)
            counts.add(counter.get_total_flops())
    assert len(counts) == 1
    assert counts.pop() > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_half_precision(models, backbone, kind, dtype, tolerance):
    ours, plain, _ = copies(models, backbone, kind)
    found = outputs_of(ours.to(dtype))
    assert_same(found, outputs_of(plain.to(dtype)), tolerance)
    assert all(value.dtype == dtype and value.isfinite().all() for value in found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_fast_paths_are_taken_and_change_nothing(models, backbone, kind, monkeypatch):
    calls = []
    folded = cpu_kernels_detr._Normed.run

    def counted(self, features):
        calls.append(self.folded(features) is not None)
        return folded(self, features)

    monkeypatch.setattr(cpu_kernels_detr._Normed, "run", counted)
    ours, plain, _ = copies(models, backbone, kind)
    with torch.no_grad():
        found = ours(pixel_values=IMAGES, pixel_mask=MASK)
    assert any(calls) == (backbone != "mobilenet")
    calls.clear()
    assert_same([found[name] for name in OUTPUTS if name in found], outputs_of(plain))
    assert not calls


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_train_after_surgery_then_save_and_load(models, backbone, kind, tmp_path):
    ours, _, _ = copies(models, backbone, kind)
    model = replaced_by_equal(ours).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.3]])} for _ in range(2)]
    if kind == "segmentation":
        labels = [{**label, "masks": torch.ones(1, *IMAGES.shape[-2:])} for label in labels]
    for _ in range(2):
        optimizer.zero_grad()
        model(pixel_values=IMAGES, pixel_mask=MASK, labels=labels).loss.backward()
        optimizer.step()
    expected = outputs_of(model.eval())
    model.save_pretrained(tmp_path)
    for mine, theirs in zip(outputs_of(KINDS[kind].from_pretrained(tmp_path).eval()), expected, strict=True):
        assert torch.equal(mine, theirs)


def replaced_by_equal(model):
    name, old = layers_of(model, nn.Conv2d)[0]
    new = nn.Conv2d(3, old.out_channels, old.kernel_size, old.stride, old.padding, bias=False)
    with torch.no_grad():
        new.weight.copy_(0.7 * old.weight)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)
    return model
