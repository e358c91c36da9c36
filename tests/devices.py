"""Several devices on a CPU, for processes that tests start."""

import os


def host_devices(count: int) -> str:
  """Returns XLA_FLAGS with so many devices, beside what the tests set."""
  given = os.environ.get("XLA_FLAGS", "")
  return f"{given} --xla_force_host_platform_device_count={count}".strip()
