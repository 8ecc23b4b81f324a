"""The verification of the daemon's privileges, in a process that has dropped none."""

from __future__ import annotations

import os

import pytest

from hybridvif.privileged import privileges
from hybridvif.privileged.privileges import PrivilegeError


def test_process_with_all_privileges_fails_the_verification() -> None:
    with pytest.raises(PrivilegeError) as caught:
        privileges.verify(narrowed=True, uid=os.getuid() + 1, gid=os.getgid() + 1)
    for lack in ("its bounding set", "SECBIT_NOROOT", "NO_NEW_PRIVS", "not dumpable", "its user", "its group"):
        assert lack in str(caught.value)
    assert str(caught.value).endswith("it answers nobody")


def test_pass_on_has_no_effect_outside_the_daemon() -> None:
    def capabilities() -> list[str]:
        with open("/proc/thread-self/status", encoding="ascii") as status:
            return [line for line in status if line.startswith("Cap")]

    before = capabilities()
    privileges.pass_on()
    assert len(before) == 5
    assert capabilities() == before


@pytest.mark.parametrize(("user", "group"), [("root", None), ("0", "0"), (None, "root"), (None, None)])
def test_account_is_found_by_name_and_number(user: str | None, group: str | None) -> None:
    uid, gid = privileges.account_of(user, group)
    assert uid == (None if user is None else 0)
    assert gid == (None if user is None and group is None else 0)


def test_missing_account_is_named_in_the_error() -> None:
    with pytest.raises(PrivilegeError, match="user: this host has no user 'nobody-here'"):
        privileges.account_of("nobody-here", None)
    with pytest.raises(PrivilegeError, match="group: this host has no group 'nobody-here'"):
        privileges.account_of(None, "nobody-here")
    assert privileges.account_of("4000000000", None) == (4000000000, None)
