"""The browser on a store of many trajectories.

  python -m benchmarks.browse [--trajectories=1000000] [--words=60]

K = N = 8, in one store, without problems' files. A new process opens the store as
launch.browse does and asks for pages, over HTTP: at once, while the store is being
indexed, and afterwards. Another one begins with the index that the first has kept
(warm_...). Prints one JSON line: seconds of each page by the clock and of the
processor, and MiB.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from benchmarks.store import measured, write
from sophia_jax.evals.browser import saved
from sophia_jax.evals.browser.pages import Pages
from sophia_jax.evals.browser.server import Server
from sophia_jax.evals.browser.session import Session
from sophia_jax.runs.browsing import Workdir

PAGES = {
  "first_page": "/",
  "filter": "/?status=right&role=reasoner&sort=longest",
  "random": "/?sort=random&seed=7",
  "text": "/?text=apple%20apple",
  "text_again": "/?text=apple%20apple&role=reasoner",
  "regex": "/?text=(pear|plum)%2B%24&regex=1",
  "hostile_regex": "/?text=(a%2B)%2B%24&regex=1",
  "group": "/group?{group}&at=100",
  "status": "/status.json",
}
REPEATS = 3
"""Times that a page is asked for; searches are remembered, so once."""


def browse(folder: Path) -> dict[str, float]:
  """Returns the seconds of every page."""
  session = Session([Workdir(str(folder), "a")])
  server = Server(Pages(session))
  threading.Thread(target=server.serve_forever, daemon=True).start()
  start, before = time.monotonic(), time.process_time()
  thread = threading.Thread(target=session.refresh)
  thread.start()
  found = {"page_while_indexing_s": 0.0}
  while thread.is_alive():
    spent, _ = timed(server, "/")
    longest = max(spent, found["page_while_indexing_s"])
    found["page_while_indexing_s"] = longest
    found.setdefault("page_at_start_s", spent)
    thread.join(2.0)
  found["index_s"] = time.monotonic() - start
  found["index_cpu_s"] = time.process_time() - before
  table = session.catalogue.table()
  name, digest = table.names[table.problem[100]]
  group = f"in={table.places[0].name}&id={name}&digest={digest}"
  for page, path in PAGES.items():
    repeats = REPEATS if "text" not in path else 1
    url = path.format(group=group)
    times = [timed(server, url) for _ in range(repeats)]
    clock, cpu = (statistics.median(column) for column in zip(*times))
    found |= {f"{page}_s": clock, f"{page}_cpu_s": cpu}
    if page == "first_page":
      found["first_page_cold_s"] = times[0][0]
  session.stop()
  server.shutdown()
  found["rollouts"] = table.rows
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  found["peak_mib"] = peak / 1024
  return {name: round(value, 3) for name, value in found.items()}


def warm(folder: Path) -> dict[str, float]:
  """Returns the seconds until everything is indexed once an index is kept."""
  start, before = time.monotonic(), time.process_time()
  session = Session([Workdir(str(folder), "a")])
  session.refresh()
  assert session.catalogue.ready
  return {
    "warm_index_s": round(time.monotonic() - start, 3),
    "warm_index_cpu_s": round(time.process_time() - before, 3),
    "kept_mib": round(saved.location(folder).stat().st_size / 2**20, 1),
  }


def timed(server: Server, path: str) -> tuple[float, float]:
  """Returns the seconds from asking for a page to its last byte: by the clock, and
  of the processor."""
  start, before = time.monotonic(), time.process_time()
  with urllib.request.urlopen(server.url + path.removeprefix("/")) as answer:
    answer.read()
  return time.monotonic() - start, time.process_time() - before


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--trajectories", type=int, default=1_000_000)
  parser.add_argument("--words", type=int, default=60)
  given = parser.parse_args()
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    size, _, _ = measured(
      write, folder / "trajectories", given.trajectories, given.words
    )
    found, _, _ = measured(browse, folder)
    again, _, _ = measured(warm, folder)
  mib = round(size / 2**20)
  print(json.dumps({"benchmark": "browse", "mib": mib, **found, **again}))


if __name__ == "__main__":
  main()
