"""The plugins of os-vif: `hybridvif`, and the drop-in that replaces `ovs` if the configuration enables it.

os-vif wraps the exceptions of a plugin: PlugException and UnplugException have our message in their text. Our
exception, with its report, is `kwargs["err"]`.
"""

from __future__ import annotations

import logging
import socket
import threading
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import os_vif
from os_vif import objects
from os_vif.plugin import PluginBase
from oslo_config import cfg
from vif_plug_ovs.ovs import OvsPlugin

from hybridvif.client.host import Host, connect
from hybridvif.engine import config, converge
from hybridvif.engine.config import set_in_files
from hybridvif.engine.goals import goal_for_unplug
from hybridvif.model.errors import InvalidInput, Refused, UnplugFailed
from hybridvif.model.names import names_of
from hybridvif.model.settings import Settings
from hybridvif.osvif import checked_names, objection, port_of

LOG = logging.getLogger(__name__)
OVS = "ovs"
"""Name of the plugin that Nova uses on every host."""


class HybridPath:
    """Plug and unplug of hybrid ports, in front of the class of a plugin, which gets all other VIFs.

    The host is connected at the first port, so a start needs no daemon.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]  # of the plugin
        self._connecting = threading.Lock()
        self._host: Host | None = None

    def plug(self, vif: Any, instance_info: Any) -> None:
        """Plug a VIF. Raises HybridVifError with the report for a hybrid port; for others, as the plugin."""
        if self._serves(vif):
            report = converge.plug(port_of(vif, instance_info, self._set_options), self._connected())
            if report.reason:
                LOG.info("%s", report.reason)
        else:
            super().plug(vif, instance_info)  # type: ignore[misc]

    def unplug(self, vif: Any, instance_info: Any) -> None:
        """Unplug a VIF, by default even if its VM runs: Nova also unplugs after a failed detach. Raises as plug().

        A converted port is not unplugged while its VM runs: Nova may still take it for a hybrid port.
        """
        if not self._serves(vif):
            super().unplug(vif, instance_info)  # type: ignore[misc]
            return
        checked_names(vif)
        host = self._connected()
        force = not config.is_set(cfg.CONF, "unplug_running") or host.settings.unplug_running == "force"
        goal = replace(goal_for_unplug(vif.id, force=force), spare_native=True)
        converge.only_report(converge.converge([goal], host), UnplugFailed)

    def _serves(self, vif: Any) -> bool:
        """Return True if hybridvif plugs this VIF."""
        raise NotImplementedError

    def _connected(self) -> Host:
        """Return the host, with the configuration of the program. Raises ConfigurationError."""
        with self._connecting:
            if self._host is None:
                self._host = connect()
            return self._host

    @cached_property
    def _set_options(self) -> dict[str, Any]:
        """The options of os-vif for ports that a file sets. Raises ConfigurationError."""
        return set_in_files(cfg.CONF, ("network_device_mtu", "isolate_vif"))

    @cached_property
    def _settings(self) -> Settings:
        """The settings of the program, without a daemon. Raises ConfigurationError."""
        return config.settings_of(cfg.CONF)


# os-vif is an extra, which is not installed for the type check.
class HybridPlugin(HybridPath, PluginBase):  # type: ignore[misc]
    """The plugin `hybridvif`: it plugs a VIFBridge as a hybrid port and refuses any other VIF."""

    @classmethod
    def load(cls, plugin_name: str) -> Self:
        """Return the plugin. If [hybridvif] answer_to_ovs is set, also install the drop-in for `ovs`."""
        plugin: Self = super().load(plugin_name)
        config.register(cfg.CONF)
        if cfg.CONF[config.GROUP].answer_to_ovs:
            answer_to_ovs()
        return plugin

    def describe(self) -> Any:
        """Return the supported VIF types and port profiles."""
        any_version = {"min_version": "1.0", "max_version": "1.0"}
        profile = objects.host_info.HostPortProfileInfo(
            profile_object_name=objects.vif.VIFPortProfileOpenVSwitch.__name__, **any_version
        )
        bridge = objects.host_info.HostVIFInfo(
            vif_object_name=objects.vif.VIFBridge.__name__, supported_port_profiles=[profile], **any_version
        )
        return objects.host_info.HostPluginInfo(plugin_name="hybridvif", vif_info=[bridge])

    def _serves(self, vif: Any) -> bool:
        if not isinstance(vif, objects.vif.VIFBridge):
            raise InvalidInput(
                f"port {vif.id}: the plugin 'hybridvif' takes a VIFBridge, not a {type(vif).__name__}; ask for 'ovs'"
            )
        if reason := objection(vif, self._settings):
            raise Refused(f"port {vif.id}: {reason}, which 'hybridvif' does not serve; ask for the plugin 'ovs'")
        return True


class HybridOvsPlugin(HybridPath, OvsPlugin):  # type: ignore[misc]
    """The plugin `ovs` of os-vif, in which hybridvif plugs the hybrid ports. All other VIFs are delegated."""

    def _serves(self, vif: Any) -> bool:
        if not self._is_hybrid(vif):
            return False
        if reason := objection(vif, self._settings):
            LOG.info("port %s is left to os-vif's own plugin: %s", vif.id, reason)
        return not reason

    def _is_hybrid(self, vif: Any) -> bool:
        """Return True for a VIFBridge, and for a port that changed to another firewall but still has its qbr."""
        if isinstance(vif, objects.vif.VIFBridge):
            return True
        if not isinstance(vif, objects.vif.VIFOpenVSwitch) or self.config.per_port_bridge:
            return False
        try:
            # In the network namespace of the caller, without a daemon: a host without hybrid ports may have none.
            return bool(socket.if_nametoindex(names_of(vif.id).bridge))
        except (OSError, InvalidInput):
            return False


def answer_to_ovs() -> None:
    """Replace `ovs` by the drop-in in os-vif's table, in any loading order."""
    manager = os_vif._EXT_MANAGER
    if manager is None:
        return
    for extension in manager.extensions:
        if extension.name == OVS:
            extension.plugin = HybridOvsPlugin
    manager[OVS].obj = HybridOvsPlugin.load(OVS)


def class_answering_to_ovs() -> str:
    """Return the name of the class that os-vif uses as the plugin `ovs`, with the configuration of this program."""
    os_vif.initialize(reset=True)
    cls = type(os_vif._EXT_MANAGER[OVS].obj)
    return f"{cls.__module__}.{cls.__qualname__}"
