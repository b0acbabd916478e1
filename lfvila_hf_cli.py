"""The console script `lfvila-hf`: lfvila_hf/cli.py, run without importing the package that it lies in.

`import lfvila_hf` registers models with transformers, which takes seconds; `lfvila-hf --help` needs none of it. The
sub-commands import the package themselves.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path


def main() -> int:
    """Run the command line and return its exit status."""
    package = find_spec("lfvila_hf")  # finds it and does not import it
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
