"""python -P -m hybridvif: the command."""

import sys

if not sys.flags.safe_path and not __file__.startswith(f"{sys.path[0]}/"):
    # `python -m` without -P has put the working directory first, where others may have put an argparse.py.
    del sys.path[0]

from hybridvif.cli import main

sys.exit(main())
