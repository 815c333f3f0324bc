"""Attention maps of one image: equal to those of a plain forward, whatever the attention implementation."""

import pytest
import torch
from tiny_detr import padded_batch, randomize_norms, tiny_config

from transformers_detr import DetrForObjectDetection, DetrForSegmentation
from transformers_detr.explanation.attention import decoder_attention, encoder_attention, image_attention

SIZES = {DetrForObjectDetection: {}, DetrForSegmentation: {"d_model": 128, "encoder_attention_heads": 8}}


@pytest.fixture(scope="module")
def image():
    return torch.randn(1, 3, 96, 160, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=[DetrForObjectDetection, DetrForSegmentation], ids=lambda kind: kind.__name__)
def model(request):
    torch.manual_seed(0)
    model = request.param(tiny_config(**SIZES[request.param])).eval()
    randomize_norms(model)
    return model


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("layer", [-1, 0])
def test_maps_are_those_of_the_forward(model, image, implementation, layer):
    model.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = model(image, output_attentions=True)
    model.set_attn_implementation(implementation)
    seen = image_attention(model, image, layer)
    encoder = seen.encoder_attention([(0.05, 0.99), (1, 0)], layer)
    h, w = 3, 5
    close = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(seen.decoder_attention.flatten(1), outputs.cross_attentions[layer][0].mean(0), **close)
    rows = outputs.encoder_attentions[layer][0].mean(0)[[(h - 1) * w, w - 1]]  # lower left, upper right cell
    torch.testing.assert_close(encoder.flatten(1), rows, **close)
    torch.testing.assert_close(seen.logits, outputs.logits[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(seen.pred_boxes, outputs.pred_boxes[0], **close)
    assert seen.decoder_attention.shape == (10, h, w)
    assert encoder.shape == (2, h, w)


def test_each_alone(model, image):
    both = image_attention(model, image)
    encoder = both.encoder_attention([(0.5, 0.5)])
    assert torch.equal(decoder_attention(model, image), both.decoder_attention)
    assert torch.equal(encoder_attention(model, image, [(0.5, 0.5)]), encoder)
    torch.testing.assert_close(both.decoder_attention.sum((1, 2)), torch.ones(10))
    torch.testing.assert_close(encoder.sum((1, 2)), torch.ones(1))


def test_half_precision_gives_float32(image):
    torch.manual_seed(0)
    model = DetrForObjectDetection(tiny_config()).eval()
    full = decoder_attention(model, image)
    half = decoder_attention(model.to(torch.bfloat16), image)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, atol=0.02, rtol=0)


def test_what_is_refused(model, image):
    with pytest.raises(ValueError, match=r"pixel_values must be one image.*\(2, 3"):
        decoder_attention(model, padded_batch([(64, 64), (64, 64)])[0])
    with pytest.raises(ValueError, match=r"between 0 and 1, got \(1\.2, 0\)"):
        encoder_attention(model, image, [(1.2, 0)])
    with pytest.raises(ValueError, match="from -2 to 1, as the decoder has 2, got 2"):
        decoder_attention(model, image, layer=2)
    with pytest.raises(ValueError, match="from -2 to 1, as the encoder has 2, got -3"):
        encoder_attention(model, image, [(0, 0)], layer=-3)
