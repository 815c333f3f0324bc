"""`python -m transformers_detr.cli`, which `accelerate launch --module` and debuggers need."""

from transformers_detr.cli import main

main()
