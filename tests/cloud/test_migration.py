"""The hand-over of a live migration between two hosts, under the calls of Nova's driver: hybridvif beside os-vif.

Neither plugin is called while the VM moves. Open vSwitch sends packets to the old place until its revalidators, which
run every max-revalidator milliseconds, have replaced the cached flow. When they count the last packets from the old
place, Open vSwitch learns it again (XC_NORMAL in ofproto-dpif-xlate-cache.c), until the VM sends the next packet. So
the lost pings depend on the moment of the move, which is random here.
"""

from __future__ import annotations

import random
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import pairwise
from math import comb
from pathlib import Path
from statistics import quantiles
from subprocess import PIPE, Popen
from tempfile import TemporaryFile
from typing import IO

import pytest

from hybridvif.testing.sandbox.box import Vm
from tests.cloud.hosts import Machine, host_of, join, note
from tests.functional.conftest import make_port, until
from tests.functional.test_repair import QBR
from tests.nova.compute import Nova

HANDOVER = Path(__file__).with_name("handover.py")
PORT, PEER = make_port(1, mtu=1450), make_port(2, mtu=1450)
ADDRESS, PEER_ADDRESS = "10.0.0.1", "10.0.0.2"
ROUNDS = 20
"""Live migrations of each side, per interval."""
INTERVALS = (500, 100)
"""Milliseconds between two runs of the revalidators: the default and the minimum."""
LEVEL = 0.001
"""Probability of a failure if both sides lose the same."""
WITHOUT_IPV6 = "ip link set eth0 down; echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6; ip link set eth0 up"
"""A paused VM sends nothing. Linux would send router solicitations, and Open vSwitch learns the old place again."""
PHASES = ("before", "paused", "resumed", "after")


class Route:
    """Source and destination of a live migration, whose integration bridges are connected. A peer is at the source.

    Both plugins are called on the same hosts, because each ovs-vswitchd counts its flows in an order of its own, which
    decides about the place that it learns last.
    """

    def __init__(self, labs: list[Machine], novas: dict[str, list[Nova]]) -> None:
        self.labs, self._novas = labs, novas
        assert novas["ours"][0].call("plug_vifs", PEER)["ok"]
        self.peer = labs[0].vm(PEER, 2)
        self.peer.boot()

    def migrate(self, who: str) -> dict[str, float]:
        """Plug at the destination, move the VM, unplug at the source. Return the lost pings by phase.

        The peer sends one every 10 ms. As in a migration by libvirt, both taps exist from the plug at the destination
        to the end of the source. The VM is silent at the destination until it has been paused at the source.
        """
        source, destination = self._novas[who]
        for lab in self.labs:
            lab.sh("ovs-appctl revalidator/purge")  # no flow of the round before
        assert source.call("plug_vifs", PORT)["ok"]
        vm, moved = source.lab.vm(PORT, 1), destination.lab.vm(PORT, 1, attached=False)
        with vm, moved, TemporaryFile("w+") as output:
            vm.run(["sh", "-ec", WITHOUT_IPV6])
            assert until(lambda: self.peer.ping(ADDRESS, timeout=1).returncode == 0)
            with self.pinging(output) as ping:
                assert destination.call("pre_live_migration", PORT)["ok"]
                silence(moved)
                moved.attach(PORT.names.bridge)
                assert until(lambda: destination.lab.link(QBR)["operstate"] == "UP")
                with self.switch(source, vm, "pause") as pause, self.switch(destination, moved, "resume") as resume:
                    time.sleep(random.uniform(0.3, 0.3 + INTERVALS[0] / 1000))
                    paused, resumed = act(pause), act(resume)
                # If no announcement comes after the last count, the next packet of the VM is its answer to ARP.
                assert until(lambda: self.peer.ping(ADDRESS, timeout=1).returncode == 0, 40)
                moved_at = time.time()
                vm.shut_down()
                assert source.call("unplug", PORT)["ok"]
                time.sleep(0.3)
                source.lab.box.send_signal(ping, signal.SIGINT)
                ping.wait(20)
            output.seek(0)
            sent = sent_of(output.read())
        assert destination.call("unplug", PORT)["ok"]
        for lab, bridges in zip(self.labs, ({PEER.names.bridge}, set()), strict=True):
            assert {name for name in lab.links() if name[:3] == "qbr"} == bridges
        lost = [moment for number, moment in sent.items() if number < 0]
        # A ping that was sent just before the pause can be lost too.
        ends = (paused - 0.02, resumed, moved_at, float("inf"))
        starts = (0.0, *ends)
        counts = {
            phase: len([moment for moment in lost if start <= moment < end])
            for phase, start, end in zip(PHASES, starts, ends, strict=False)
        }
        moments = [round((moment - paused) * 1000) for moment in (resumed, *sorted(lost)[:1], *sorted(lost)[-1:])]
        return {
            "pings": len(sent),
            "lost": len(lost),
            **counts,
            **dict(zip(("resumed ms", "first lost ms", "last lost ms"), moments, strict=False)),
        }

    def revalidate_every(self, milliseconds: int) -> None:
        """Set the interval of the revalidators on both hosts."""
        for lab in self.labs:
            lab.sh(f"ovs-vsctl set Open_vSwitch . other_config:max-revalidator={milliseconds}")

    @contextmanager
    def pinging(self, output: IO[str]) -> Iterator[Popen[str]]:
        """Ping the VM every 10 ms from the peer."""
        argv = ["nsenter", f"--net=/run/netns/{self.peer.namespace}", "ping", "-n", "-D", "-i", "0.01", ADDRESS]
        with self.labs[0].box.popen(argv, stdout=output) as ping:
            yield ping

    @contextmanager
    def switch(self, nova: Nova, vm: Vm, verb: str) -> Iterator[Popen[str]]:
        """Start the program that pauses or resumes a VM."""
        argv = ["nsenter", f"--net=/run/netns/{vm.namespace}", sys.executable, "-I", str(HANDOVER)]
        with nova.lab.box.popen([*argv, verb, ADDRESS, PORT.mac], stdin=PIPE, stdout=PIPE) as program:
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
            yield program


def silence(vm: Vm) -> None:
    """Take the address from a VM that another host still runs. It knows its peer, as the memory of the other does."""
    known = f"ip neighbor replace {PEER_ADDRESS} lladdr {PEER.mac} dev eth0 nud permanent"
    vm.run(["sh", "-ec", f"{WITHOUT_IPV6}; ip address flush dev eth0; {known}"])


def act(program: Popen[str]) -> float:
    """Let a program act. Return the moment of that."""
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write("\n")
    program.stdin.flush()
    return float(program.stdout.readline())


def sent_of(output: str) -> dict[int, float]:
    """Return the moment at which each ping was sent, by its number. The number of a lost one is negative."""
    replies = re.findall(r"\[(\d+\.\d+)\] .* icmp_seq=(\d+) ttl=.* time=([\d.]+) ms", output)
    sent = {int(number): float(received) - float(trip) / 1000 for received, number, trip in replies}
    for before, after in pairwise(sorted(sent)):
        step = (sent[after] - sent[before]) / (after - before)
        sent |= {-number: sent[before] + step * (number - before) for number in range(before + 1, after)}
    return sent


def probability(ours: list[float], theirs: list[float]) -> float:
    """Return how probable so many pairs with more on our side are, if both sides are the same (one-sided sign test)."""
    pairs = [mine > other for mine, other in zip(ours, theirs, strict=True) if mine != other]
    return float(sum(comb(len(pairs), count) for count in range(sum(pairs), len(pairs) + 1)) / 2 ** len(pairs))


@pytest.fixture(scope="module")
def route(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Route]:
    """Two hosts, and on each a Nova with hybridvif and one with os-vif.

    New devices have no IPv6. Otherwise those of os-vif send frames with MAC addresses of their own, and whenever Open
    vSwitch learns one, it runs its revalidators early.
    """
    directory = tmp_path_factory.mktemp("migration")
    with ExitStack() as stack:
        labs = [stack.enter_context(host_of(directory / f"lab{n}", n, is_connected=False)) for n in (1, 2)]
        join(labs[0], labs[1], "br-int")
        for lab in labs:
            lab.sh("echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6")
        novas = {
            who: [
                stack.enter_context(closing(Nova(lab, directory / f"{who}{number}", ours=who == "ours")))
                for number, lab in enumerate(labs, 1)
            ]
            for who in ("ours", "theirs")
        }
        yield Route(labs, novas)


@pytest.mark.parametrize("interval", INTERVALS)
def test_live_migration_loses_no_more_pings_than_with_osvif(route: Route, interval: int) -> None:
    """Each side is the first in every second pair."""
    route.revalidate_every(interval)
    rounds: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
    for number in range(ROUNDS):
        for who in sorted(rounds, reverse=number % 2 == 1):
            rounds[who].append(route.migrate(who))
            note("migration-round", who=who, interval=interval, pair=number + 1, **rounds[who][-1])
    lost = {who: [figures["lost"] for figures in rounds[who]] for who in rounds}
    chance = probability(lost["ours"], lost["theirs"])
    for who, runs in rounds.items():
        low, middle, high = quantiles(lost[who], n=4)
        spread = {"quartiles": f"{low:g} to {high:g}", "range": f"{min(lost[who]):g} to {max(lost[who]):g}"}
        phases = {phase: sum(figures[phase] for figures in runs) for phase in PHASES}
        note("migration", who=who, interval=interval, rounds=ROUNDS, median=middle, **spread, **phases, chance=chance)
    assert chance > LEVEL, lost
    # One round may be disturbed by other work of this machine.
    assert sum(figures["before"] + figures["after"] > 0 for figures in rounds["ours"]) <= 1, rounds["ours"]
