"""Any system call of the daemon fails with any error: the result is reported, and the next plug converges."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybridvif import Status, plug
from tests.faults.conftest import report_of
from tests.faults.test_kills import Trial
from tests.functional.conftest import Lab, make_port
from tests.support.figures import note
from tests.support.sizes import FULL
from tests.support.strace import attached, failing_with, injected, require_strace

pytestmark = pytest.mark.prove
PORT = make_port()
ERRORS = ("EPERM", "ENOMEM", "ENOBUFS", "EBUSY", "EINTR", "ENOSPC", "EMFILE", "EIO")
CALLS = ("socket", "sendto,sendmsg", "recvfrom,recvmsg", "openat", "write", "connect", "poll,epoll_wait")
FIRST = ("EPERM", "ENOBUFS"), ("sendto,sendmsg", "openat")


def test_kernel_error_is_reported_and_repaired_by_next_call(lab: Lab, tmp_path: Path) -> None:
    require_strace()
    trial = Trial(lab)
    untyped = failures = 0
    errors, calls = (ERRORS, CALLS) if FULL else FIRST
    for call in calls:
        for error in errors:
            for when in ("1", "2", "3+2") if FULL else ("2",):
                log = tmp_path / "log"
                with attached(trial.warm(), failing_with(call, error, when), log):
                    report = report_of(lambda: plug(PORT, lab.host))
                failures += injected(log)
                untyped += not report.ok and not (report.reason and report.status in Status)
                where = f"{call} {error} {when}"
                trial.survived(where, report, trial.empty, trial.whole)
                trial.plugged(where)
                trial.unplugged(where)
    wrong = trial.counts["plugs_wrong"] + trial.counts["unplugs_wrong"]
    note("errno", injected=failures, untyped=untyped, wrong=wrong, false_ok=trial.counts["false_ok"])
    assert trial.faults == []
    assert untyped == 0
    assert failures > 0
