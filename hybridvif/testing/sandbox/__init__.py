"""A sandbox: a throw-away host with its own namespaces, its own /run and its own Open vSwitch.

    capability   the level of a sandbox: Level, Requirement, SandboxError
    launch       the caller's side: probe(), enter()
    commands     the messages to the new process, and back
    outer        creates the namespaces, forks, waits
    inside       process 1: mounts, Open vSwitch, the command
    switch       Open vSwitch
    box          Sandbox: for tests, beside the calling process
    vm           a simulated VM
    missing      the requirements that this host does not meet, with remedies
    kernel, environment    system calls, and the environment variables of programs inside

Only the standard library is imported, so that a sandbox starts fast with any Python >= 3.11.
"""

from hybridvif.testing.sandbox.box import Sandbox
from hybridvif.testing.sandbox.capability import Level, Requirement, SandboxError
from hybridvif.testing.sandbox.environment import here
from hybridvif.testing.sandbox.launch import enter, probe
from hybridvif.testing.sandbox.vm import Vm

__all__ = ["Level", "Requirement", "Sandbox", "SandboxError", "Vm", "enter", "here", "probe"]
