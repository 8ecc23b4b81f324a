"""The contract of an executor, for whoever writes one: run it in your own tests.

    from hybridvif.testing.contract import check_link_executor
    from my_package import MyLinks

    def test_my_executor_keeps_the_contract(sandbox):
        check_link_executor(MyLinks, sandbox)

The executor runs in a process of its own inside a sandbox; the testing process stays in its own namespaces. Every step
is tried from every starting state: what is observed after it must be what steps.simulate() says. What is foreign must
be refused, and found as it was to the bit.
"""

from hybridvif.testing.contract.links import check_link_executor
from hybridvif.testing.contract.switch import check_switch_executor

__all__ = ["check_link_executor", "check_switch_executor"]
