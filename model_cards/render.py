"""Write the cards of the published checkpoints into this folder: python model_cards/render.py."""

from pathlib import Path

from transformers_detr.cards.published import published_card
from transformers_detr.checkpoints import CHECKPOINTS

if __name__ == "__main__":
    for checkpoint in CHECKPOINTS.values():
        path = Path(__file__).with_name(f"{checkpoint.name}.md")
        path.write_text(published_card(checkpoint), encoding="utf-8")
