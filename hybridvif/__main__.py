"""python -m hybridvif: the command."""

import sys

from hybridvif.cli import main

sys.exit(main())
