"""A part of the GPU suite that ends as it is asked to."""

import sys
import time

print('{"name": "first", "s": 1}', flush=True)
if "--wrong" in sys.argv:
  print('{"name": "second", "ok": false}', flush=True)
if "--hang" in sys.argv:
  time.sleep(600)
if "--fail" in sys.argv:
  sys.exit("the GPU has fallen off the bus")
