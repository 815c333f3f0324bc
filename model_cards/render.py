"""Render all cards into this folder: python model_cards/render.py."""

from pathlib import Path

from bundled_card import bundled_card
from published_card import published_card
from transformers_detr.hub.bundled_model import NAME
from transformers_detr.hub.published_checkpoints import CHECKPOINTS

if __name__ == "__main__":
    cards = {checkpoint.name: published_card(checkpoint) for checkpoint in CHECKPOINTS.values()} | {
        NAME: bundled_card()
    }
    for name, card in cards.items():
        Path(__file__).with_name(f"{name}.md").write_text(card, encoding="utf-8")
