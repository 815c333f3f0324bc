"""The site builds without a warning, and every link inside it leads somewhere."""

import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from guides import REPOSITORY


class Page(HTMLParser):
    """Collects what a page links to and the places in it that can be linked to."""

    def __init__(self, text):
        super().__init__()
        self.links, self.places = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.places.update(values[name] for name in ("id", "name") if values.get(name))
        self.links += [values[name] for name in ("href", "src") if values.get(name)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(folder / "trees")]
    done = subprocess.run([*command, str(REPOSITORY / "docs"), str(folder / "html")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.mark.slow  # half a minute
def test_links_inside_lead_somewhere(site):
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    assert len(pages) > 18
    broken, checked = [], 0
    for path, page in pages.items():
        for link in page.links:
            address = urlsplit(link)
            if address.scheme or address.netloc:
                continue
            target = path if not address.path else (path.parent / unquote(address.path)).resolve()
            checked += 1
            if not target.exists():
                broken.append(f"{path.relative_to(site)} → {link}: no such file")
            elif address.fragment and target in pages and unquote(address.fragment) not in pages[target].places:
                broken.append(f"{path.relative_to(site)} → {link}: no such place")
    assert checked > 500
    assert not broken, "\n".join(broken)


@pytest.mark.slow
def test_reference_has_the_docstrings_and_every_verb(site):
    from typer.main import get_command

    from transformers_detr.cli import app

    model = (site / "reference" / "model.html").read_text(encoding="utf-8")
    assert 'id="transformers_detr.model.modeling_detr.DetrForObjectDetection.forward"' in model
    command_line = Page((site / "reference" / "command-line.html").read_text(encoding="utf-8"))
    assert {f"detr-{verb}" for verb in get_command(app).commands} <= command_line.places
