"""A throw-away host: own namespaces, a private /run and an Open vSwitch of its own; gone, whatever happens.

    rungs        what it can be on this host: Rung, Lack, SandboxError
    launch       caller's side: probe(), enter()
    order        what crosses to the new process, and back
    outer        makes the namespaces, forks, waits
    inside       process 1: mounts, Open vSwitch, the command
    switch       Open vSwitch
    box          Sandbox: beside the caller, for tests
    vm           what stands in for a VM
    lacks, kernel, environment    what they stand on

Only the standard library is used, so it runs with any Python >= 3.11 and starts fast.
"""

from hybridvif.sandbox.box import Sandbox
from hybridvif.sandbox.environment import here
from hybridvif.sandbox.launch import enter, probe
from hybridvif.sandbox.rungs import Lack, Rung, SandboxError
from hybridvif.sandbox.vm import Vm

__all__ = ["Lack", "Rung", "Sandbox", "SandboxError", "Vm", "enter", "here", "probe"]
