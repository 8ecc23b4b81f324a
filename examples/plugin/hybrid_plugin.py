"""An os-vif-style plugin on hybridvif: all that a plugin author has to write."""

from hybridvif import HybridVifError, Port, connect, plug, unplug


class PluginFailed(Exception):
    """What this plugin's callers catch."""


class HybridPlugin:
    """Plugs VIFs the hybrid way.

    host: where to plug; this host if none is given. The tests give a RecordingHost.
    """

    def __init__(self, host=None):
        self._host = host or connect()

    def plug(self, vif, instance):
        """Plug a VIF of an instance; PluginFailed says in one sentence why it could not be."""
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
        """Unplug a VIF, even of a VM that runs: this plugin's callers have stopped it."""
        try:
            return unplug(vif.id, self._host, force=True)
        except HybridVifError as error:
            raise PluginFailed(str(error)) from error
