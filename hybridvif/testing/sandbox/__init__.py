"""A throw-away host: own namespaces, a private /run and an Open vSwitch of its own; gone, whatever happens.

    capability   the level of a sandbox: Level, Requirement, SandboxError
    launch       caller's side: probe(), enter()
    commands     the messages to the new process, and back
    outer        makes the namespaces, forks, waits
    inside       process 1: mounts, Open vSwitch, the command
    switch       Open vSwitch
    box          Sandbox: beside the caller, for tests
    vm           what stands in for a VM
    missing      the requirements that this host does not meet, with remedies
    kernel, environment    the system calls, and the variables of programs inside

Only the standard library is used, so it runs with any Python >= 3.11 and starts fast.
"""

from hybridvif.testing.sandbox.box import Sandbox
from hybridvif.testing.sandbox.capability import Level, Requirement, SandboxError
from hybridvif.testing.sandbox.environment import here
from hybridvif.testing.sandbox.launch import enter, probe
from hybridvif.testing.sandbox.vm import Vm

__all__ = ["Level", "Requirement", "Sandbox", "SandboxError", "Vm", "enter", "here", "probe"]
