"""Print setup.cfg's lower bounds as constraints for pip: each requirement at the oldest release that is declared."""

import configparser
import re
import sys
from pathlib import Path

config = configparser.ConfigParser()
config.read(Path(__file__).parents[2] / "setup.cfg")
required = [config["options"]["install_requires"], config["options.extras_require"]["osvif"]]
bounds = re.findall(r"^([\w.-]+)>=([\w.]+)", "\n".join(required), re.MULTILINE)
sys.stdout.write("".join(f"{name}=={oldest}\n" for name, oldest in bounds))
