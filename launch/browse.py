"""The rollouts of a workdir as pages, of a run in flight as well.

Groups with image, tiles, captions and answers side by side; filters with counts,
search, the same problem over rounds, two workdirs beside each other, tokens,
curves. Serves this machine alone; from another one use ssh -L 8000:localhost:8000.

Example:
  python -m launch.browse --workdir=runs/quickstart
  python -m launch.browse --workdir=W --against=W2 --port=8001
  python -m launch.browse --workdir=W --page=train-17 --out=train-17.html
  python -m launch.browse --workdir=W --export=inspect --out=logs
"""

from pathlib import Path

from absl import flags

from launch import cli
from sophia_jax.evals.browser import inspect_logs
from sophia_jax.evals.browser.pages import Pages
from sophia_jax.evals.browser.server import Server
from sophia_jax.evals.browser.session import Session
from sophia_jax.files import write_text
from sophia_jax.runs.browsing import Workdir

EXAMPLE = "python -m launch.browse --workdir=runs/quickstart"


def main() -> None:
  given = (flags.FLAGS.workdir, flags.FLAGS.against)
  session = Session(
    [Workdir(path, letter) for path, letter in zip(given, "ab") if path]
  )
  pages = Pages(session)
  if flags.FLAGS.page or flags.FLAGS.export:
    session.refresh()
    _write(session, pages)
    return
  server = Server(pages, flags.FLAGS.host, flags.FLAGS.port)
  session.start()
  print(f"{server.url} (Ctrl-C ends it)", flush=True)
  try:
    server.serve_forever()
  except KeyboardInterrupt:
    print("ended")
  finally:
    session.stop()
    server.server_close()


def _write(session: Session, pages: Pages) -> None:
  """Writes the page of a problem, or logs of all stores."""
  name = flags.FLAGS.page
  out = Path(flags.FLAGS.out or ("page.html" if name else "inspect-logs"))
  if name:
    write_text(out, pages.offline(name))
    print(f"page: {out}")
  if flags.FLAGS.export:
    written = inspect_logs.write(session, out)
    print(f"{len(written)} logs in {out}; inspect view --log-dir={out}")


if __name__ == "__main__":
  flags.DEFINE_string("workdir", None, "Workdir of a run; only read.")
  flags.DEFINE_string("against", "", "Second workdir, to compare with.")
  flags.DEFINE_string(
    "host",
    "127.0.0.1",
    "Address to listen on; with any other than this machine's own, images and "
    "texts are shown to everybody who can reach it.",
  )
  flags.DEFINE_integer("port", 8000, "Port; 0: any that is free.")
  flags.DEFINE_string(
    "page", None, "Id of a problem: write its page as one file, and end."
  )
  flags.DEFINE_enum(
    "export",
    None,
    ["inspect"],
    "Write every store as a log of inspect-ai, and end.",
  )
  flags.mark_flags_as_mutual_exclusive(["page", "export"])
  flags.DEFINE_string(
    "out",
    None,
    "File of the page, page.html if absent; directory of the logs, "
    "inspect-logs if absent.",
  )
  cli.start(main, EXAMPLE, ("workdir",))
