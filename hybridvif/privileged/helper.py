"""hybridvif-privsep-helper: the script that starts the privileged daemon (main.py)."""

from __future__ import annotations

import gc
import os
import sys

from hybridvif.postponed import OF_OSLO, postpone


def main() -> None:
    """Start the daemon and exit; the daemon keeps running."""
    # The garbage collector would scan the modules again and again during their import.
    gc.disable()
    from hybridvif.privileged import inheritance, peer

    # The environment names the caller, and is reset with the rest of what is inherited.
    caller = peer.caller_of(os.environ)
    inheritance.reset()
    # Before main.py imports oslo.config.
    postpone(*OF_OSLO)
    from hybridvif.privileged.main import start

    start(sys.argv[1:], caller)


if __name__ == "__main__":
    main()
