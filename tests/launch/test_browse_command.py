"""launch.browse as a user types it."""

import signal
import urllib.request

from tests.evals.browser import browsed
from tests.launch.commands import assert_refused


def test_it_serves_until_it_is_interrupted(start, command, tmp_path):
  workdir = browsed.sophia_run(tmp_path / "w")
  before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*")}
  serving = start("launch.browse", f"--workdir={workdir}", "--port=0")
  try:
    url = serving.stdout.readline().split()[0]
    with urllib.request.urlopen(url) as answer:
      assert b"Rollouts" in answer.read()
    serving.send_signal(signal.SIGINT)
    out, err = serving.communicate(timeout=60)
  finally:
    serving.kill()
  assert (serving.returncode, out, err) == (0, "ended\n", "")
  file = tmp_path / "page.html"
  one = ("--page=p-1", f"--out={file}")
  assert command("launch.browse", f"--workdir={workdir}", *one).returncode == 0
  assert "caption 1" in file.read_text(encoding="utf-8")
  absent = command("launch.browse", f"--workdir={workdir}", "--page=absent")
  assert_refused(absent, "'absent'", "no store")
  assert {p: p.stat().st_mtime_ns for p in workdir.rglob("*")} == before
