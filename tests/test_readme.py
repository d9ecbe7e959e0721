"""README.md says what the code does today: its tables, its commands, its links."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time

import pytest

from service.open_encoders import open_encoders
from service.settings import ClientSettings, Settings
from tests.conftest import Server
from tests.readme_tables import OTHER_FILES, README, ROOT, filled

TEXT = README.read_text()


@pytest.fixture(scope="module")
def real_server(tmp_path_factory):
    """Serve with the packaged model, as `make serve` does."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("readme"), port=0, log_level="error")
    server = Server(settings, open_encoders(default="default", model_dir=None, threads=1), None)
    while server.http.get("/readyz").status_code == 503:
        time.sleep(0.05)
    yield server.url
    server.stop()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_tables_are_up_to_date():
    assert filled(TEXT) == TEXT, "run: python tests/readme_tables.py"


@pytest.mark.parametrize("field", [*Settings.model_fields, *ClientSettings.model_fields])
def test_every_setting_is_in_the_readme(field):
    assert f"`BITFOLD_{field.upper()}`" in TEXT


@pytest.mark.parametrize("name", OTHER_FILES)
def test_files_in_the_tree_exist(name):
    assert (ROOT / name).exists()


def test_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("bash")), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.skipif(shutil.which("curl") is None, reason="the README's examples use curl")
def test_shell_examples_run(real_server):
    (script,) = blocks("sh")
    script = script.replace("localhost:6333", real_server.removeprefix("http://"))
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    answers = done.stdout
    assert '"accepted":3' in answers
    assert answers.index("Vesuvius") < answers.index('"stages"')
    assert '"id":3' in answers


@pytest.mark.parametrize(("number", "printed"), [(0, "axis"), (1, "minilm 11 tokens, cut: []\n[384, 384] [48, 48]")])
def test_python_examples_run(real_server, capsys, number, printed):
    script = blocks("python")[number]
    names = {}
    exec(compile(script.replace("http://localhost:6333", real_server), "README.md", "exec"), names)
    names["client"].close()
    assert printed in capsys.readouterr().out


def test_every_python_example_is_run():
    assert len(blocks("python")) == 2


def test_commands_of_the_command_line_exist():
    for command in set(re.findall(r"`bitfold\s+(\w+)", TEXT)):
        done = subprocess.run(
            [sys.executable, "-m", "service.cli", command, "--help"],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stderr
