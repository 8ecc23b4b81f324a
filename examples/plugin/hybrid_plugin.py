"""A plugin in the style of os-vif, based on hybridvif."""

from hybridvif import HybridVifError, Port, connect, plug, unplug


class PluginFailed(Exception):
    """The error of this plugin."""


class HybridPlugin:
    """A plugin for hybrid VIFs.

    host: where to plug; this host if none is given. The tests give a RecordingHost.
    """

    def __init__(self, host=None):
        self._host = host or connect()

    def plug(self, vif, instance):
        """Plug a VIF of an instance. Raises PluginFailed."""
        try:
            port = Port(
                id=vif.id,
                mac=vif.address,
                instance_id=instance.uuid,
                mtu=vif.network.mtu or 1500,
                bridge=vif.network.bridge,
            )
            return plug(port, self._host)
        except HybridVifError as error:
            raise PluginFailed(str(error)) from error

    def unplug(self, vif):
        """Unplug a VIF. force, because the callers of this plugin have stopped the VM. Raises PluginFailed."""
        try:
            return unplug(vif.id, self._host, force=True)
        except HybridVifError as error:
            raise PluginFailed(str(error)) from error
