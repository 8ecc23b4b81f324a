"""hybridvif-privsep-helper: the script that starts the privileged daemon (startup.py)."""

from __future__ import annotations

import gc
import warnings

from hybridvif.postponed import OF_OSLO, postpone


def main() -> None:
    """Start the daemon and end; the daemon goes on."""
    # Python would look for garbage in what is being imported, again and again: a twelfth of the time (startup.py).
    gc.disable()
    # It would be told to the caller as the daemon's words. oslo.privsep imports eventlet where that is installed.
    warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")
    # Before oslo.config is imported, by startup.py among others.
    postpone(*OF_OSLO)
    from hybridvif.privileged import startup

    startup.main()


if __name__ == "__main__":
    main()
