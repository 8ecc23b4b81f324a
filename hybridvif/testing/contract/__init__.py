"""The contract of executors, as a test for authors of executors.

    from hybridvif.testing.contract import check_link_executor
    from my_package import MyLinks

    def test_my_executor_keeps_the_contract(sandbox):
        check_link_executor(MyLinks, sandbox)

The executor runs in a separate process inside a sandbox. The testing process stays in its own namespaces. The check
applies every step from every start state, and compares the observed state with steps.simulate(). Steps on foreign
objects must be refused without any change.
"""

from hybridvif.testing.contract.links import check_link_executor
from hybridvif.testing.contract.switch import check_switch_executor

__all__ = ["check_link_executor", "check_switch_executor"]
