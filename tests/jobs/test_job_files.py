"""Job files: as they were, and as clusters read them."""

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from configs import grpo, internvl3_8b, quickstart
from sophia_jax.jobs import gke, machines, slurm
from sophia_jax.jobs.job import JobConfig
from sophia_jax.types import SophiaError
from tests.jobs import golden

SHELLCHECK = shutil.which("shellcheck") or shutil.which(
  "shellcheck", path=str(Path(sys.executable).parent)
)
ON_GKE = [name for name in golden.JOBS if name.startswith("gke")]


@pytest.fixture(params=golden.JOBS)
def name(request):
  return request.param


def test_files_are_the_golden_ones(name):
  directory = golden.DIRECTORY / name
  kept = {p.name: p.read_text("utf-8") for p in directory.iterdir()}
  assert golden.files(name) == kept, "python -m tests.jobs.golden"


# ---------------------------------------------------------------------- scripts
def scripts(name):
  """The scripts of a job, those inside YAML as well."""
  for file, text in golden.files(name).items():
    if not file.endswith(".yaml"):
      yield text
      continue
    for document in yaml.safe_load_all(text):
      if "run" in document:
        yield "#!/usr/bin/env bash\n" + document["run"]
      for each in document.get("spec", {}).get("replicatedJobs", ()):
        _, option, script = container(each)["command"]
        assert option == "-c"
        yield "#!/usr/bin/env bash\n" + script


def test_bash_reads_every_script(name):
  for text in scripts(name):
    done = subprocess.run(
      ["bash", "-n"], input=text, capture_output=True, text=True
    )
    assert not done.stderr and not done.returncode


@pytest.mark.skipif(not SHELLCHECK, reason="no shellcheck")
def test_shellcheck_finds_nothing(name):
  for text in scripts(name):
    done = subprocess.run(
      [SHELLCHECK, "-"], input=text, capture_output=True, text=True
    )
    assert not done.returncode, done.stdout


# -------------------------------------------------------------------- Kubernetes
def jobset(name):
  return yaml.safe_load(golden.files(name)["jobset.yaml"])


def container(job):
  pod = job["template"]["spec"]["template"]["spec"]
  (only,) = pod["containers"]
  return only


def closed(schema):
  """A schema that takes no key which it does not name."""
  if isinstance(schema, list):
    return [closed(each) for each in schema]
  if not isinstance(schema, dict):
    return schema
  found = {key: closed(value) for key, value in schema.items()}
  if isinstance(schema.get("properties"), dict):
    found["additionalProperties"] = False
  return found


@pytest.fixture(scope="module")
def check_jobset():
  """Raises an error for what JobSet's own schema and rules refuse."""
  jsonschema = pytest.importorskip("jsonschema")
  path = Path(__file__).parent / "jobset-v1alpha2.json"
  schema = closed(json.loads(path.read_text("utf-8"))["schema"])

  def check(values):
    jsonschema.Draft7Validator(schema).validate(values)
    spec = values["spec"]
    jobs = spec["replicatedJobs"]
    names = [job["name"] for job in jobs]
    # Its CEL rules and its webhook's.
    assert "startupPolicy" not in spec or not any(
      "dependsOn" in j for j in jobs
    )
    assert len(set(names)) == len(names)
    for place, job in enumerate(jobs):
      needed = [other["name"] for other in job.get("dependsOn", ())]
      assert set(needed) <= set(names[:place])
      assert len(set(needed)) == len(needed)
      pods = job["template"]["spec"]["parallelism"]
      name, last = values["metadata"]["name"], job["replicas"] - 1
      longest = f"{name}-{job['name']}-{last}-{pods - 1}-abcde"
      assert len(longest) <= 63
    assert set(spec["successPolicy"]["targetReplicatedJobs"]) <= set(names)

  return check


@pytest.mark.parametrize("name", ON_GKE)
def test_a_jobset_is_one(name, check_jobset):
  check_jobset(jobset(name))


def test_a_mistake_in_a_jobset_is_found(check_jobset):
  jsonschema = pytest.importorskip("jsonschema")
  values = jobset("gke-gpu")
  wrong = copy.deepcopy(values)
  wrong["spec"]["failurePolicy"]["maxRestart"] = 3
  with pytest.raises(jsonschema.ValidationError, match="maxRestart"):
    check_jobset(wrong)
  wrong = copy.deepcopy(values)
  wrong["spec"]["replicatedJobs"].reverse()
  with pytest.raises(AssertionError):
    check_jobset(wrong)


@pytest.mark.parametrize("name", ON_GKE)
def test_its_jobs_are_jobs_of_kubernetes(name):
  kubernetes = pytest.importorskip("kubernetes_validate")
  for job in jobset(name)["spec"]["replicatedJobs"]:
    values = {
      "apiVersion": "batch/v1",
      "kind": "Job",
      **{"metadata": {"name": job["name"]}, **job["template"]},
    }
    values["metadata"]["name"] = job["name"]
    for version in ("1.31", "1.34"):
      kubernetes.validate(values, version, strict=True)


def test_a_server_is_ready_once_it_has_answered():
  jobs = {j["name"]: j for j in jobset("gke-tpu")["spec"]["replicatedJobs"]}
  assert list(jobs) == ["policy", "easy", "difficult", "trainer", "report"]
  policy = container(jobs["policy"])
  probe = policy["startupProbe"]
  assert f"--ready_file={probe['exec']['command'][-1]}" in policy["command"][-1]
  # Longer than launch.serve itself waits.
  assert probe["periodSeconds"] * probe["failureThreshold"] > golden.START_S
  assert jobs["trainer"]["dependsOn"] == [
    {"name": name, "status": "Ready"}
    for name in ("policy", "easy", "difficult")
  ]
  assert jobs["report"]["dependsOn"] == [
    {"name": "trainer", "status": "Complete"}
  ]
  script = container(jobs["trainer"])["command"][-1]
  host = gke.host(golden.job(*golden.JOBS["gke-tpu"]), "policy", 3, 0)
  assert f"http://{host}:30000" in script
  assert jobs["policy"]["replicas"] == 4


# ---------------------------------------------------------------------- machines
# Slices of several hosts as `xpk workload create --dry-run` (1.16) has them, the
# others from Google's tables: v6e:2x4 is two hosts of four chips in xpk.
@pytest.mark.parametrize(
  ("text", "hosts", "chips", "sky"),
  [
    ("v5p:4x4x4", 16, 4, "tpu-v5p-128"),
    ("v5p:2x2x1", 1, 4, "tpu-v5p-8"),
    ("v4:4x8x8", 64, 4, "tpu-v4-512"),
    ("v6e:8x8", 16, 4, "tpu-v6e-64"),
    ("v6e:2x4", 1, 8, "tpu-v6e-8"),
    ("v6e:1x1", 1, 1, "tpu-v6e-1"),
    ("v5e:16x16", 64, 4, "tpu-v5litepod-256"),
    ("h100:32", 4, 8, "H100:8"),
    ("a100:4", 1, 4, "A100-80GB:4"),
    ("cpu:2", 1, 0, ""),
  ],
)
def test_hosts_of_a_topology(text, hosts, chips, sky):
  found = machines.read(text)
  assert (found.hosts, found.chips, found.sky) == (hosts, chips, sky)


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("v9:4x4", "known kinds are v4"),
    ("v5p:4x4", "write its size as in v5p:4x4x4"),
    ("v6e:", "write its size as in v6e:4x4"),
    ("h100:12", "12 chips on hosts of 8"),
    ("v5p:1x2x3", "6 chips on hosts of 4"),
  ],
)
def test_a_topology_that_no_cluster_has(text, said):
  with pytest.raises(SophiaError, match=said):
    machines.read(text)


# ---------------------------------------------------------------------- refusals
def refused(said, target, module, servers=None, **overrides):
  flat = {k.replace("__", "."): v for k, v in overrides.items()}
  with pytest.raises(SophiaError) as e:
    found = golden.job(target, module, servers, flat)
    slurm.files(found) if target == "slurm" else gke.files(found, 1.0)
  assert said in str(e.value)


def test_what_cannot_run_is_refused():
  refused("Slurm manages no TPUs", "slurm", grpo, topology="v5p:4x4x4")
  refused("not in config.topologies", "gke", grpo, topology="v5p:8x8x8")
  refused("'polcy'; did you mean 'policy'?", "gke", grpo, "polcy:2")
  refused("write policy:4,easy:2", "gke", grpo, "policy:many")
  refused("'policy' stands twice", "gke", grpo, "policy:1,policy:2")
  refused("a server has one", "gke", grpo, job__server="v5p:4x4x4")
  refused("config.prepare", "slurm", quickstart, "policy:1")
  refused(
    "name servers for each of its models",
    "gke",
    internvl3_8b,
    "easy:1,difficult:1",
    topology="v5p:4x4x4",
    policy__engine="embedded",
  )
  refused(
    "samples from",
    "slurm",
    quickstart,
    "policy:1",
    prepare=None,
  )
  refused("use lower case", "gke", grpo, job__name="two_words")
  refused("hosts are named by it", "gke", grpo, job__name="a" * 60)


@pytest.mark.parametrize(
  ("values", "said"),
  [
    ({"port": 80}, "port is 80"),
    ({"restarts": -1}, "restarts is -1"),
    ({"hosts": 0}, "hosts is 0"),
    ({"image": "a b"}, "image has white space"),
    ({"sbatch": ("--x\nrm",)}, "a line break"),
    ({"queue": "a\nb"}, "queue has white space"),
  ],
)
def test_settings_that_no_file_can_hold(values, said):
  with pytest.raises(ValueError, match=said):
    JobConfig(**values)
