"""hybridvif-privsep-helper: the script that starts the privileged daemon (main.py)."""

from __future__ import annotations

import gc
import os
import sys

from hybridvif.postponed import OF_OSLO, postpone


def main() -> None:
    """Start the daemon and end; the daemon goes on."""
    # Python would look for garbage in what is being imported, again and again: a twelfth of the time (main.py).
    gc.disable()
    from hybridvif.privileged import inheritance, peer

    # The environment names the caller, and is reset with all else that is inherited.
    caller = peer.caller_of(os.environ)
    inheritance.reset()
    # Before oslo.config is imported, by main.py among others.
    postpone(*OF_OSLO)
    from hybridvif.privileged.main import start

    start(sys.argv[1:], caller)


if __name__ == "__main__":
    main()
