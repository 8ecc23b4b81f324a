"""Our executors fulfill the shipped contract."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from hybridvif.executors.brctl import BrctlExecutor
from hybridvif.executors.ivs import IvsExecutor
from hybridvif.executors.netlink.executor import NetlinkExecutor
from hybridvif.executors.ovsdb.executor import OvsdbExecutor
from hybridvif.executors.ovsdbapp_executor import ReplicaExecutor
from hybridvif.executors.pyroute2_executor import PyrouteExecutor
from hybridvif.executors.vsctl import VsctlExecutor
from hybridvif.testing.contract import check_link_executor, check_switch_executor
from hybridvif.testing.sandbox.box import Sandbox
from tests.support.ivs import program_path_with_ivs
from tests.support.ovsdb_proxy import judged


@pytest.mark.parametrize("make", [NetlinkExecutor, PyrouteExecutor, BrctlExecutor])
def test_our_link_executors_keep_the_contract(sandbox: Sandbox, make: Any) -> None:
    check_link_executor(make, sandbox)


@pytest.mark.parametrize("make", [OvsdbExecutor, ReplicaExecutor, VsctlExecutor])
def test_our_switch_executors_keep_the_contract(sandbox: Sandbox, tmp_path: Path, make: Any) -> None:
    options = {"integration_bridges": ("br-int", "br-two")}
    with judged(sandbox, tmp_path, options) if make is OvsdbExecutor else nullcontext(options) as led:
        check_switch_executor(make, sandbox, **led)


def test_ivs_ctl_keeps_the_contract_with_a_stand_in(sandbox: Sandbox, tmp_path: Path) -> None:
    check_switch_executor(IvsExecutor, sandbox, program_path=program_path_with_ivs(tmp_path))
