"""A sandbox: a throw-away host with its own namespaces, its own /run and its own Open vSwitch.

    launch     the caller's side: probe(), enter(), and the messages to the new process and back
    process    the new process: creates the namespaces, sets them up, runs the command
    box        for tests: Sandbox, beside the calling process, and Vm, a simulated VM
    switch     Open vSwitch
    missing    the requirements that this host does not meet, with remedies

Only the standard library is imported, so that a sandbox starts fast with any Python >= 3.11.
"""

from hybridvif.testing.sandbox.box import Sandbox, Vm
from hybridvif.testing.sandbox.launch import PROMISE, enter, here, probe
from hybridvif.testing.sandbox.missing import Requirement, SandboxError

__all__ = ["PROMISE", "Requirement", "Sandbox", "SandboxError", "Vm", "enter", "here", "probe"]
