"""The os-vif plugins: how Nova reaches hybridvif. Nothing of os-vif is imported before os-vif asks for a plugin.

    options        what a file sets in os-vif's own section, [os_vif_ovs]
    translation    a VIF of os-vif -> Port
    plugins        what os-vif loads: `hybridvif`, and the drop-in for `ovs`

docs/osvif.md says how to use them.
"""
