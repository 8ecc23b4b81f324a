"""One version of all that is released, and links that work outside of the repository."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import hybridvif

ROOT = Path(__file__).parents[2]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def home() -> str:
    config = configparser.ConfigParser(delimiters=("=",))
    config.read(ROOT / "setup.cfg")
    return config["metadata"]["url"]


def test_packages_have_the_version_of_the_library() -> None:
    assert re.match(r"hybridvif \((.*)-\d+\) ", text_of("debian/changelog"))[1] == hybridvif.__version__  # type: ignore[index]
    assert re.findall(r"^Version: +(.*)$", text_of("packaging/hybridvif.spec"), re.M) == [hybridvif.__version__]
    assert re.findall(r"^%changelog\n.* - (.*)-\d+$", text_of("packaging/hybridvif.spec"), re.M) == [
        hybridvif.__version__
    ]


def test_links_of_the_readme_work_on_an_index_page() -> None:
    links = re.findall(r"\]\(([^)]+)\)", text_of("README.md"))
    assert len(links) > 10
    for link in links:
        name = re.fullmatch(rf"{re.escape(home())}/(?:src|raw)/branch/master/([^#]+)(?:#.*)?", link)
        assert name is not None, link
        assert (ROOT / name[1]).exists(), link


def test_packages_and_project_have_one_home() -> None:
    assert home() in re.findall(r"^Homepage: (.*)$", text_of("debian/control"), re.M)
    assert home() in re.findall(r"^URL: +(.*)$", text_of("packaging/hybridvif.spec"), re.M)


def test_files_of_the_package_fit_those_of_etc() -> None:
    """The Debian package has no group of Open vSwitch, which it could not remove."""
    lines = {line for line in text_of("debian/hybridvif.sysusers").splitlines() if not line.startswith("#")}
    assert lines == {line for line in text_of("etc/sysusers.d/hybridvif.conf").splitlines() if line.startswith("u ")}
    assert (
        text_of("debian/hybridvif.tmpfiles").splitlines()[-1]
        == text_of("etc/tmpfiles.d/hybridvif.conf").splitlines()[-1]
    )
