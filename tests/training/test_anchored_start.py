import pytest
import torch

from transformers_detr import DetrForObjectDetection
from transformers_detr.model.position_embedding_detr import sine_position_embedding
from transformers_detr.training.anchored_start import embed_places, grid_of_anchors, start_anchored


@pytest.mark.parametrize("count", [1, 7, 30, 100])
def test_anchors_cover_the_image_evenly(count):
    places, pitch = grid_of_anchors(count)
    assert places.shape == (count, 2)
    everywhere = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0))
    assert torch.cdist(everywhere, places).min(1).values.max() < 1.1 * pitch
    assert places.mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.06)


def test_places_are_embedded_as_cells_are(tiny_model):
    config = tiny_model().config
    cells = sine_position_embedding(None, (1, 4, 5), config.d_model, torch.device("cpu"))[0]  # (D, h, w)
    places = torch.tensor([[3 / 4, 2 / 5], [1 / 4, 5 / 5]])  # cell (i, j) lies at ((i + 1) / h, (j + 1) / w)
    torch.testing.assert_close(
        embed_places(places, config), torch.stack([cells[:, 2, 1], cells[:, 0, 4]]), atol=1e-4, rtol=0
    )


def test_attention_is_centered_on_the_anchors_before_anything_is_learned(tiny_model):
    torch.manual_seed(0)
    model = tiny_model().eval()
    pixel_values = torch.randn(1, 3, 256, 256)

    def distances():
        with torch.no_grad():
            maps = model(pixel_values=pixel_values, output_attentions=True).cross_attentions[0].mean(1)[0]  # (Q, S)
        side = round(maps.shape[1] ** 0.5)
        row, column = torch.meshgrid(*[(torch.arange(side) + 1.0) / side] * 2, indexing="ij")
        centers = maps @ torch.stack([row.flatten(), column.flatten()], dim=1)
        return (centers - grid_of_anchors(model.config.num_queries)[0]).norm(dim=1)

    before = distances()
    start_anchored(model)
    after = distances()
    assert after.max() < 0.25
    assert after.mean() < before.mean() / 2


def test_what_it_makes_is_plain_detr(tiny_model, tmp_path):
    model = tiny_model().eval()
    names = set(model.state_dict())
    start_anchored(model)
    assert set(model.state_dict()) == names
    model.save_pretrained(tmp_path)
    pixel_values = torch.randn(1, 3, 64, 64)
    again = DetrForObjectDetection.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(pixel_values=pixel_values).logits, model(pixel_values=pixel_values).logits)


def test_learned_positions_are_refused(tiny_model):
    with pytest.raises(ValueError, match="learned positions"):
        start_anchored(tiny_model(position_embedding_type="learned"))
