"""Loads job groups as SkyPilot does; run by `make test-sky`."""

import sys

from sky.utils import dag_utils

for path in sys.argv[1:]:
  group = dag_utils.load_job_group_from_yaml(path)
  tasks = {task.name: task.num_nodes for task in group.tasks}
  assert group.is_job_group() and group.primary_tasks == ["trainer"], path
  assert "trainer" in tasks, tasks
  print(f"{path}: {group.name} {tasks}")
