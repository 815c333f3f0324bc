import typer
from PIL import Image
from typer.testing import CliRunner

from transformers_detr.cli.scenes import scenes as scenes_command
from transformers_detr.data.synthetic import make_scene


def test_command(tmp_path):
    app = typer.Typer()
    app.command()(scenes_command)
    arguments = ["--images", "3", "--output", str(tmp_path / "out"), "--seed", "4"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "3 scenes" in result.output
    with Image.open(tmp_path / "out" / "images" / "000002.png") as image:
        assert image.tobytes() == make_scene(4, 2).image.tobytes()
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2
    assert "exists already" in again.output
