"""The package installs all files of etc/."""

from __future__ import annotations

import configparser
import json
from pathlib import Path

from hybridvif.cli import parse_arguments

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "share/man/man1": "etc/man/hybridvif.1",
    "share/bash-completion/completions": "etc/completions/hybridvif",
    "share/zsh/site-functions": "etc/completions/_hybridvif",
}
"""Files in the directories of man(1) and the shells."""


def test_every_file_of_etc_is_installed_under_its_own_path() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    installed = {
        f"{directory.removeprefix('share/hybridvif/')}/{Path(file).name}": file
        for directory, files in setup["options.data_files"].items()
        for file in files.split()
        if ELSEWHERE.get(directory) != file
    } | {file: file for file in ELSEWHERE.values()}
    assert ELSEWHERE.items() <= {(key, file.strip()) for key, file in setup["options.data_files"].items()}
    there = {str(path.relative_to(ROOT)) for path in (ROOT / "etc").rglob("*") if path.is_file()}
    # configparser returns option names in lower case.
    assert {path.lower(): path for path in there} == {path.lower(): file for path, file in installed.items()}


def test_the_page_for_deployers_names_every_file() -> None:
    page = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
    for path in (ROOT / "etc").rglob("*"):
        if path.is_file():
            assert str(path.relative_to(ROOT)) in page


def test_container_runs_a_command_that_the_parser_accepts() -> None:
    config = json.loads((ROOT / "deploy/container/config.json").read_text(encoding="utf-8"))
    program, *words = config["command"].split()
    args = parse_arguments(words)
    assert program == "/opt/hybridvif/bin/hybridvif"
    assert args.file in {entry["dest"] for entry in config["config_files"]}
    # What kolla demands of an entry (set_configs.py, validate_config).
    assert all({"source", "dest", "owner", "perm"} <= set(entry) for entry in config["config_files"])
