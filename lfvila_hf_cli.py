"""Console script `lfvila-hf`: run lfvila_hf/cli.py without importing the package around it.

`import lfvila_hf` registers models with transformers and takes seconds, which `--help` and wrong arguments do not need.
The sub-commands import the package themselves.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path


def main() -> int:
    """Run the command line and return its exit status."""
    package = find_spec("lfvila_hf")  # does not import it
    if package is None or package.origin is None:
        raise ModuleNotFoundError("lfvila_hf is not installed")
    spec = spec_from_file_location("lfvila_hf_cli_table", Path(package.origin).with_name("cli.py"))
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"{Path(package.origin).with_name('cli.py')} cannot be loaded")
    cli = module_from_spec(spec)
    sys.modules[spec.name] = cli  # where its classes look for their annotations
    spec.loader.exec_module(cli)
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
