"""Linear layers and convolutions of one pixel that are given to oneDNN: the same function, the same gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from transformers_detr.model import onednn_detr
from transformers_detr.model.onednn_detr import DetrLinear, convolve_pixels, goes_to_onednn

TOKENS = (2, 120, 96)  # 23,040 numbers


@pytest.fixture
def layers():
    torch.manual_seed(0)
    ours, plain = DetrLinear(96, 40), nn.Linear(96, 40)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


@pytest.fixture
def calls(monkeypatch):
    seen = []

    def counted(*args, **kwargs):
        seen.append(args[0].shape)
        return convolve_pixels(*args, **kwargs)

    monkeypatch.setattr(onednn_detr, "convolve_pixels", counted)
    return seen


needs_both = pytest.mark.skipif(
    not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()),
    reason="torch was built without MKL or oneDNN",
)


@needs_both
def test_linear_layer_is_a_linear_layer(layers, calls):
    results = []
    for layer in layers:
        tokens = torch.randn(TOKENS, generator=torch.Generator().manual_seed(1)).requires_grad_()
        output = layer(tokens)
        gradients = torch.autograd.grad(output.square().sum(), (tokens, layer.weight, layer.bias))
        results.append((output, *gradients))
    assert calls == [(2, 96, 1, 120)]
    assert results[0][0].is_contiguous()
    for ours, plain in zip(*results, strict=True):
        assert torch.allclose(ours, plain, rtol=1e-4, atol=1e-4 * plain.abs().max().item())


@pytest.mark.parametrize(
    "tokens",
    [torch.randn(3, 96), torch.randn(1, 100, 96), torch.randn(2, 2, 120, 96), torch.randn(TOKENS).double()],
    ids=["two axes", "few tokens", "four axes", "double"],
)
def test_other_inputs_go_the_usual_way(layers, calls, tokens):
    ours, plain = (layer.to(tokens.dtype) for layer in layers)
    assert torch.equal(ours(tokens), plain(tokens))
    assert not calls


@needs_both
@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (1, 4)])
def test_convolution_of_one_pixel(stride, groups):
    torch.manual_seed(0)
    features = torch.randn(2, 16, 41, 37).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(8, 16 // groups, 1, 1), torch.randn(8)
    assert goes_to_onednn(features)
    expected = nn.functional.conv2d(features.double(), weight.double(), bias.double(), stride, groups=groups)
    assert torch.allclose(convolve_pixels(features, weight, bias, stride, groups), expected.float(), atol=1e-5)


@needs_both
def test_where_onednn_is_off_nothing_is_dilated():
    torch._C._set_mkldnn_enabled(False)  # the public context manager warns of Intel's GPUs
    try:
        assert not goes_to_onednn(torch.randn(2, 16, 41, 37))
    finally:
        torch._C._set_mkldnn_enabled(True)


def test_graphs_hold_linear_layers(layers):
    exported = torch.export.export(layers[0], (torch.randn(TOKENS),))
    called = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert called == {"aten.linear.default"}
