"""Import and export of InternVL3-2B, against plain safetensors, in /dev/shm."""

from __future__ import annotations

import sys

from benchmarks import checkpoint
from benchmarks.gpu.common import arguments, shared_memory


def main() -> None:
  args = arguments(__doc__)
  size = "toy" if args.dry else "internvl3_2b"
  folder = shared_memory()
  sys.argv = ["benchmarks.checkpoint", f"--size={size}", "--repeats=1"]
  sys.argv += [f"--folder={folder}"] if folder else []
  sys.argv += ["--what=import"] if args.dry else ["--what=import,export"]
  checkpoint.main()


if __name__ == "__main__":
  main()
