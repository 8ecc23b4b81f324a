"""What os-vif loads: the plugin `hybridvif`, and the drop-in that answers to `ovs` where the configuration says so.

os-vif wraps what a plugin raises: PlugException and UnplugException carry our sentence in their text, and our
exception, with its report, as `kwargs["err"]`.
"""

from __future__ import annotations

import logging
import socket
import threading
from functools import cached_property
from typing import Any, Self

import os_vif
from os_vif import objects
from os_vif.plugin import PluginBase
from oslo_config import cfg
from vif_plug_ovs.ovs import OvsPlugin

from hybridvif.client.host import Host, connect
from hybridvif.engine import api, config
from hybridvif.model.errors import InvalidInput, Refused
from hybridvif.model.names import names_of
from hybridvif.model.settings import Settings
from hybridvif.osvif.options import set_in_files
from hybridvif.osvif.translation import names_as_asked, not_for_us, port_of

LOG = logging.getLogger(__name__)
OVS = "ovs"
"""The name that Nova asks for, whatever the host has."""


class HybridPath:
    """The hybrid ports of this process; connected when the first of them comes, so that a host starts without us."""

    def __init__(self) -> None:
        self._connecting = threading.Lock()
        self._host: Host | None = None

    @property
    def host(self) -> Host:
        """This host, with the program's own configuration. Raises ConfigurationError."""
        with self._connecting:
            if self._host is None:
                self._host = connect()
            return self._host

    @cached_property
    def set_options(self) -> dict[str, Any]:
        """os-vif's options that a file sets, and that are a port's. Raises ConfigurationError."""
        return set_in_files(cfg.CONF, ("network_device_mtu", "isolate_vif"))

    @cached_property
    def settings(self) -> Settings:
        """The program's own configuration, for which no daemon is needed. Raises ConfigurationError."""
        return config.settings_of(cfg.CONF)

    def plug(self, vif: Any, instance_info: Any) -> None:
        """Plug one. Raises HybridVifError."""
        api.plug(port_of(vif, instance_info, self.set_options), self.host)

    def unplug(self, vif: Any) -> None:
        """Unplug one, by default even if its VM runs: os-vif's callers unplug after a detach that failed, too."""
        names_as_asked(vif)
        host = self.host
        force = not config.is_set(cfg.CONF, "unplug_running") or host.settings.unplug_running == "force"
        api.unplug(vif.id, host, force=force)


class HybridPlugin(PluginBase):  # type: ignore[misc]  # os-vif is an extra, and not there when types are checked
    """The plugin `hybridvif`: a VIFBridge is plugged the hybrid way, any other VIF is refused."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._path = HybridPath()

    @classmethod
    def load(cls, plugin_name: str) -> Self:
        """The plugin; and, where [hybridvif] answer_to_ovs says so, the drop-in put in the place of `ovs`."""
        plugin: Self = super().load(plugin_name)
        config.register(cfg.CONF)
        if cfg.CONF[config.GROUP].answer_to_ovs:
            answer_to_ovs()
        return plugin

    def describe(self) -> Any:
        """The VIF types and port profiles that it takes."""
        profile = objects.host_info.HostPortProfileInfo(
            profile_object_name=objects.vif.VIFPortProfileOpenVSwitch.__name__, min_version="1.0", max_version="1.0"
        )
        bridge = objects.host_info.HostVIFInfo(
            vif_object_name=objects.vif.VIFBridge.__name__,
            min_version="1.0",
            max_version="1.0",
            supported_port_profiles=[profile],
        )
        return objects.host_info.HostPluginInfo(plugin_name="hybridvif", vif_info=[bridge])

    def plug(self, vif: Any, instance_info: Any) -> None:
        """Plug a VIFBridge. Raises HybridVifError, which carries the report."""
        self._require_ours(vif, not_for_us(vif, self._path.settings))
        self._path.plug(vif, instance_info)

    def unplug(self, vif: Any, instance_info: Any) -> None:  # noqa: ARG002  # os-vif's signature
        """Unplug a VIFBridge. Raises HybridVifError, which carries the report."""
        self._require_ours(vif, not_for_us(vif, self._path.settings))
        self._path.unplug(vif)

    @staticmethod
    def _require_ours(vif: Any, beyond: str) -> None:
        if not isinstance(vif, objects.vif.VIFBridge):
            raise InvalidInput(
                f"port {vif.id}: the plugin 'hybridvif' takes a VIFBridge, not a {type(vif).__name__}; ask for 'ovs'"
            )
        if beyond:
            raise Refused(f"port {vif.id}: {beyond}, which 'hybridvif' does not serve; ask for the plugin 'ovs'")


class HybridOvsPlugin(OvsPlugin):  # type: ignore[misc]  # as above
    """os-vif's own plugin `ovs`, with the hybrid ports done by hybridvif; all other VIFs are delegated unchanged."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._path = HybridPath()

    def plug(self, vif: Any, instance_info: Any) -> None:
        """Plug it: a hybrid port ourselves. Raises HybridVifError for those, what os-vif raises for others."""
        if not self._is_hybrid(vif) or self._delegated(vif, not_for_us(vif, self._path.settings)):
            super().plug(vif, instance_info)
        else:
            self._path.plug(vif, instance_info)

    def unplug(self, vif: Any, instance_info: Any) -> None:
        """Unplug it, in the same way."""
        if not self._is_hybrid(vif) or self._delegated(vif, not_for_us(vif, self._path.settings)):
            super().unplug(vif, instance_info)
        else:
            self._path.unplug(vif)

    def _is_hybrid(self, vif: Any) -> bool:
        """A VIFBridge; or a port that Neutron has made over to another firewall and that still has its qbr."""
        if isinstance(vif, objects.vif.VIFBridge):
            return True
        if not isinstance(vif, objects.vif.VIFOpenVSwitch) or self.config.per_port_bridge:
            return False
        try:
            # Of the caller's own network, and without the daemon, which a host without hybrid ports may not have.
            return bool(socket.if_nametoindex(names_of(vif.id).bridge))
        except (OSError, InvalidInput):
            return False

    @staticmethod
    def _delegated(vif: Any, beyond: str) -> bool:
        if beyond:
            LOG.info("port %s is left to os-vif's own plugin: %s", vif.id, beyond)
        return bool(beyond)


def answer_to_ovs() -> None:
    """Put the drop-in in the place of `ovs` in os-vif's table, whether os-vif loads that before or after us."""
    manager = os_vif._EXT_MANAGER
    if manager is None:
        return
    for extension in manager.extensions:
        if extension.name == OVS:
            extension.plugin = HybridOvsPlugin
    manager[OVS].obj = HybridOvsPlugin.load(OVS)


def class_answering_to_ovs() -> str:
    """The class to which os-vif hands a VIF of the plugin `ovs` in a program with this configuration."""
    os_vif.initialize(reset=True)
    cls = type(os_vif._EXT_MANAGER[OVS].obj)
    return f"{cls.__module__}.{cls.__qualname__}"
