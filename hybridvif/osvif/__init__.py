"""The os-vif plugins, for Nova. os-vif is imported only when it loads a plugin.

    translation    a VIF of os-vif -> Port
    plugins        the plugin `hybridvif`, and the drop-in for `ovs`

docs/osvif.md describes their use.
"""
