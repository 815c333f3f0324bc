"""Space with the application and page of `detr serve`, on the port of Spaces.

models.txt lists the models, one per line: a name on the Hub or a subfolder. If the variable or secret
DETR_SERVE_TOKEN of the Space is set, clients must send it as bearer token.
"""

import os
from pathlib import Path

from transformers_detr.serving.app import create_app
from transformers_detr.serving.limits import Limits
from transformers_detr.serving.model_registry import model_loaders
from transformers_detr.serving.server import LOGGING, make_server

PORT = 7860

if __name__ == "__main__":
    os.chdir(Path(__file__).parent)
    limits = Limits()
    loaders = model_loaders(Path("models.txt").read_text(encoding="utf-8").splitlines())
    app = create_app(
        loaders,
        limits,
        token=os.environ.get("DETR_SERVE_TOKEN"),
        allow_hosts=["*"],  # the Hub's proxy decides who gets here, and under which name
        allow_origins=["*"],
        embed_in=["https://huggingface.co"],
    )
    make_server(app, "0.0.0.0", int(os.environ.get("PORT", PORT)), limits, log_config=LOGGING).run()
