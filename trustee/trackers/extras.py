"""Whether the packages of the trackers are installed, found out without importing them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from trustee.errors import InputError


def require_trackers(names: Sequence[str]) -> None:
    """Refuse trackers whose packages are not installed.

    Raises:
        InputError: naming the trackers and the line that installs them.
    """
    missing = [name for name in dict.fromkeys(names) if find_spec(name) is None]
    if missing:
        plural = "s are" if len(missing) > 1 else " is"
        raise InputError(
            f"run.report_to names {' and '.join(missing)}, and the package{plural} not installed: "
            f"pip install 'trustee[{','.join(missing)}]', or leave it out of run.report_to"
        )
