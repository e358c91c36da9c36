"""TRL's side of benchmarks.round, which has an environment to itself.

  python benchmarks/round_trl.py TASK

TASK is JSON with the fields of benchmarks.round_task.Task. For each line on standard
input one round is made, and its seconds are a JSON line on standard output.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

TRAINED = ("model.language_model", "lm_head")
_MISSING = re.compile(r"operator torchvision::(\w+) does not exist")


def load_torchvision() -> Any:
  """Imports torchvision where its compiled operators do not fit torch's build.

  Its Python part only needs them declared; they are never called.

  Returns:
    What keeps the declarations alive.
  """
  declared = torch.library.Library("torchvision", "DEF")
  while True:
    try:
      import torchvision  # noqa: F401

      return declared
    except RuntimeError as e:
      missing = _MISSING.search(str(e))
      if not missing:
        raise
      declared.define(f"{missing[1]}(Tensor x) -> Tensor")
      for name in [k for k in sys.modules if k.split(".")[0] == "torchvision"]:
        del sys.modules[name]


_DECLARED = load_torchvision()

import transformers  # noqa: E402
from datasets import Dataset  # noqa: E402
from PIL import Image  # noqa: E402
from transformers.models.got_ocr2 import GotOcr2ImageProcessor  # noqa: E402
from transformers.models.internvl import (  # noqa: E402
  InternVLProcessor,
  InternVLVideoProcessor,
)
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

TEMPLATE = (
  "{% for turn in messages %}<|im_start|>{{ turn.role + '\n' }}"
  "{% if turn.content is string %}{{ turn.content }}{% else %}"
  "{% for part in turn.content %}{% if part.type == 'image' %}"
  "{{ '<IMG_CONTEXT>\n' }}{% else %}{{ part.text }}{% endif %}{% endfor %}"
  "{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The turns of benchmarks.rollout_embedded's prompts."""


class Timed(GRPOTrainer):
  """A GRPOTrainer that knows how long its parts take."""

  def __init__(self, *args: Any, **kwargs: Any):
    self.seconds = {"sampling": 0.0, "scoring": 0.0}
    self.prompt_ids: Sequence[int] = ()
    super().__init__(*args, **kwargs)

  def _generate_single_turn(
    self, prompt_ids: Any, *args: Any, **kw: Any
  ) -> Any:
    self.prompt_ids = prompt_ids[0]
    return super()._generate_single_turn(prompt_ids, *args, **kw)

  def _generate(self, *args: Any, **kwargs: Any) -> Any:
    start = time.perf_counter()
    found = super()._generate(*args, **kwargs)
    self.seconds["sampling"] = time.perf_counter() - start
    return found

  def _generate_and_score_completions(self, inputs: Any) -> Any:
    start = time.perf_counter()
    found = super()._generate_and_score_completions(inputs)
    both = time.perf_counter() - start
    self.seconds["scoring"] = both - self.seconds["sampling"]
    return found


class Gate(transformers.TrainerCallback):
  """Waits for a line before every update, and answers with its seconds."""

  def __init__(self, answers: Any):
    self._answers = answers
    self.trainer: Any = None

  def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
    if not sys.stdin.readline():
      raise SystemExit(0)
    self._start = time.perf_counter(), time.process_time()

  def on_step_end(self, *args: Any, **kwargs: Any) -> None:
    wall, cpu = self._start
    whole = time.perf_counter() - wall
    seconds = self.trainer.seconds
    line = {
      **seconds,
      "update": whole - sum(seconds.values()),
      "whole": whole,
      "cpu": time.process_time() - cpu,
      "prompt_ids": [int(i) for i in self.trainer.prompt_ids],
    }
    print(json.dumps(line), file=self._answers, flush=True)


def processor(task: dict[str, Any]) -> InternVLProcessor:
  """Returns what renders prompts and cuts images, one tile an image."""
  words = transformers.AutoTokenizer.from_pretrained(
    task["checkpoint"],
    extra_special_tokens={
      "start_image_token": "<img>",
      "end_image_token": "</img>",
      "context_image_token": "<IMG_CONTEXT>",
      "video_token": "<|endoftext|>",  # none is shown
    },
  )
  side = {"height": task["side"], "width": task["side"]}
  return InternVLProcessor(
    image_processor=GotOcr2ImageProcessor(
      size=side, crop_to_patches=False, max_patches=1, min_patches=1
    ),
    tokenizer=words,
    video_processor=InternVLVideoProcessor(size=side),
    image_seq_length=task["tokens_per_tile"],
    chat_template=TEMPLATE,
  )


def problems(task: dict[str, Any]) -> Dataset:
  turns = [
    {"role": "system", "content": task["system"]},
    {"role": "user", "content": task["question"]},
  ]
  return Dataset.from_list(
    [
      {"prompt": turns, "image": Image.open(path).convert("RGB")}
      for path in task["pictures"]
    ]
  )


def even(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
  """Rewards an even first id, as benchmarks.round_ours.even does."""
  return [float(ids[0] % 2 == 0) for ids in completion_ids]


def trainer(task: dict[str, Any], gate: Gate) -> Timed:
  """Makes a trainer whose rounds are updates, all of one batch."""
  model = transformers.InternVLForConditionalGeneration.from_pretrained(
    task["checkpoint"], dtype=torch.float32
  )
  for name, parameter in model.named_parameters():
    parameter.requires_grad_(name.startswith(TRAINED))
  steps = task["questions"] * task["n"] // task["batch"]
  config = GRPOConfig(
    output_dir=task["output"],
    per_device_train_batch_size=task["batch"],
    gradient_accumulation_steps=steps,
    steps_per_generation=steps,
    num_generations=task["n"],
    max_completion_length=task["new"],
    max_steps=task["rounds"],
    beta=task["kl"],
    epsilon=task["clip"],
    loss_type="grpo",
    learning_rate=task["learning_rate"],
    weight_decay=task["weight_decay"],
    max_grad_norm=task["clip_norm"],
    lr_scheduler_type="constant",
    temperature=1.0,
    top_p=1.0,
    top_k=0,
    generation_kwargs={"suppress_tokens": task["banned"]},
    shuffle_dataset=False,
    gradient_checkpointing=False,
    bf16=False,
    use_cpu=not torch.cuda.is_available(),
    save_strategy="no",
    logging_strategy="no",
    report_to=[],
    disable_tqdm=True,
  )
  made = Timed(
    model=model,
    reward_funcs=even,
    args=config,
    train_dataset=problems(task),
    processing_class=processor(task),
    callbacks=[gate],
  )
  gate.trainer = made
  return made


def main() -> None:
  # Libraries print; only answers belong on standard output.
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)
  torch.set_num_threads(os.cpu_count() or 1)
  trainer(json.loads(sys.argv[1]), Gate(answers)).train()


if __name__ == "__main__":
  main()
