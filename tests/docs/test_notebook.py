"""The notebook for Colab runs from top to bottom without network."""

import os
import re

import nbformat
import pytest
from guides import REPOSITORY
from nbclient import NotebookClient

PATH = REPOSITORY / "docs" / "notebooks" / "first_steps.ipynb"


def test_notebook_holds_no_results():
    """They would be out of date sooner or later, and make every change large."""
    cells = [cell for cell in nbformat.read(PATH, as_version=4).cells if cell.cell_type == "code"]
    assert cells
    assert not [cell for cell in cells if cell.outputs or cell.execution_count]


@pytest.mark.slow  # a minute
def test_notebook_runs_without_network(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody answers there
    for name in ("HF_HUB_OFFLINE", "PYDEVD_DISABLE_FILE_VALIDATION"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    notebook = nbformat.read(PATH, as_version=4)
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": os.fspath(tmp_path)}})
    client.execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )
    before, after = (float(re.search(rf"AP {when}: ([\d.]+)", printed)[1]) for when in ("before", "after"))
    assert 2 < before <= 100  # without training it would be 0.0
    assert 2 < after <= 100
