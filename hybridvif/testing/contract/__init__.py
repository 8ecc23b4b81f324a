"""The contract of executors, as a test for authors of executors.

    from hybridvif.testing.contract import check_link_executor
    from my_package import MyLinks

    def test_my_executor_keeps_the_contract(sandbox):
        check_link_executor(MyLinks, sandbox)

The executor runs in a separate process inside a sandbox. The testing process stays in its own namespaces. The contract
is a table of checks (bench.Check): a start state, what others do to the host, and steps. After each step the observed
state is compared with state.simulate(), the facts with the kernel and the switch, and the rest of the host with itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from hybridvif.model.parts import Role
from hybridvif.testing.contract import links, switch
from hybridvif.testing.contract.bench import Make, Worker, require_declared
from hybridvif.testing.sandbox.box import Sandbox

__all__ = ["check_link_executor", "check_switch_executor"]


def check_link_executor(make: Make, sandbox: Sandbox | None = None, **settings: Any) -> None:
    """Check that a link executor keeps the contract. Raises AssertionError with one sentence.

    make: an executor class, or an importable function that creates an executor from Settings. settings: its fields.
    """
    require_declared(make, Role.LINK)
    with nullcontext(sandbox) if sandbox else Sandbox(ovs=False) as box, Worker(make, box, settings) as host:
        links.check(host, make.serves)  # type: ignore[attr-defined]


def check_switch_executor(
    make: Make,
    sandbox: Sandbox | None = None,
    *,
    bridges: Sequence[str] = ("br-int", "br-two"),
    prepare: str = switch.PREPARE,
    clean: str = switch.CLEAN,
    **settings: Any,
) -> None:
    """Check that a switch executor keeps the contract. Raises AssertionError with one sentence.

    make: an executor class, or an importable function that creates an executor from Settings.
    bridges: integration bridges of the switch; two if it can move a port between bridges.
    prepare: a shell script that creates the bridges. clean: a shell script that deletes the port.
    settings: fields of Settings.
    """
    require_declared(make, Role.SWITCH)
    settings.setdefault("integration_bridges", tuple(bridges))
    with nullcontext(sandbox) if sandbox else Sandbox() as box, Worker(make, box, settings) as host:
        box.run(["sh", "-ec", prepare])
        switch.check(host, make.serves, tuple(bridges), clean)  # type: ignore[attr-defined]
