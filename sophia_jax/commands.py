"""Commands outside launch/: arguments, errors of one line, exit codes.

Exit codes are those of launch/: 0 for success, 1 for an error that the user can
fix, `faults.CODE` for a fault of this program, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from sophia_jax import faults
from sophia_jax.types import SophiaError


class Parser(argparse.ArgumentParser):
  """A parser whose errors are one line with a remedy.

  Args:
    example: a command line, for --help and errors.
  """

  def __init__(self, *, example: str, **values: Any):
    super().__init__(epilog=f"example: {example}", **values)
    self.example = example

  def error(self, message: str) -> NoReturn:
    """Ends the command with exit code 1."""
    _report(f"{message}; see --help. Example: {self.example}")
    sys.exit(1)


def run(
  work: Callable[[], int], interrupted: str = "nothing is written"
) -> int:
  """Does the work of a command and returns the exit code.

  Args:
    interrupted: says what Ctrl-C leaves behind.
  """
  try:
    return work()
  except SophiaError as e:
    _report(str(e))
    return 1
  except KeyboardInterrupt:
    print(f"interrupted; {interrupted}", file=sys.stderr)
    return 130
  except Exception as e:
    line, code = faults.line_of(e)
    _report(line)
    return code


def _report(text: str) -> None:
  print(f"error: {faults.shortened(text)}", file=sys.stderr)
