"""Run the command line with `python -m trustee`."""

from trustee.cli import main

raise SystemExit(main())
