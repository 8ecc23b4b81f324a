"""The checks of doctor for os-vif: the plugin that is loaded under the name `ovs`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint, entry_points

from hybridvif.cli.check_result import CheckResult, failed, info, passed
from hybridvif.model.settings import Settings
from hybridvif.optional import found


def osvif_findings(settings: Settings) -> Iterator[CheckResult]:
    """Check os-vif. Yields nothing if it is neither installed nor configured."""
    name = "os-vif"
    if found("os_vif") is None:
        if settings.answer_to_ovs:
            remedy = "pip install 'hybridvif[osvif]', in the environment of nova-compute"
            yield failed(name, "[hybridvif] answer_to_ovs is set, and os-vif is not installed here", remedy)
        return
    from hybridvif.osvif.plugins import class_answering_to_ovs

    try:
        yield check_class(class_answering_to_ovs(), settings)
    except Exception as error:  # noqa: BLE001  # whatever a third party's plugin raises; os-vif lets it through, too
        text = f"os-vif cannot load its plugins: {type(error).__name__}: {error}".rstrip(".")
        yield failed(name, text, "nova-compute cannot start; fix or uninstall the plugin that raises this")
    yield from check_duplicates(list(entry_points(group="os_vif", name="ovs")), settings)


def check_class(cls: str, settings: Settings) -> CheckResult:
    """Check the class that os-vif uses for `ovs`."""
    ours = cls.startswith("hybridvif.")
    if settings.answer_to_ovs and not ours:
        text = f"{cls} answers to 'ovs', though [hybridvif] answer_to_ovs is set"
        return failed("os-vif", text, "reinstall hybridvif[osvif] in the environment of nova-compute")
    if ours:
        return passed("os-vif", f"{cls} answers to 'ovs': hybrid ports are plugged by hybridvif")
    text = f"{cls} answers to 'ovs'; hybridvif answers to 'hybridvif' alone"
    return info("os-vif", text, "set [hybridvif] answer_to_ovs = true")


def check_duplicates(points: Sequence[EntryPoint], settings: Settings) -> Iterator[CheckResult]:
    """Report several plugins named `ovs`. Without answer_to_ovs the order of directories decides."""
    if len(points) < 2:
        return
    where = ", ".join(sorted(f"{point.value} ({point.dist.name if point.dist else 'unknown'})" for point in points))
    text = f"{len(points)} plugins are called 'ovs': {where}"
    if settings.answer_to_ovs:
        yield info("os-vif, doubles", f"{text}; hybridvif takes the place of all of them")
    else:
        yield failed(
            "os-vif, doubles", f"{text}; the order of directories decides which one is used", "uninstall all but one"
        )
