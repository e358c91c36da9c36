"""The prompts of SOPHIA, in our words, and how they are filled.

What each must achieve is in the comment above it. Text written by a model is
put in by concatenation, never by `str.format`: a caption may hold braces.
"""

from __future__ import annotations

import dataclasses
import re

# Asks for everything the picture shows and reveals nothing of the question, so
# that a caption cannot answer it; only what is described can reward it.
CAPTION = """\
Describe this image so completely that someone who cannot see it could redraw it.

Report only what is visible; do not interpret, solve or guess. Cover, where present:
- Text, symbols, formulas and numbers: copy every one exactly, with its position, size and style.
- Diagrams: list each node, and for every connection its two ends, the kind of line (solid, dashed, curved), its direction and its label.
- Charts and tables: title, axes with units and scale, legend, and every mark, bar, point or cell with its value and colour.
- Geometric figures: each point, line, angle, curve and shape, how they meet, with all labels, lengths, angles and marks of equality, right angles or parallels.
- Objects: from front to back, each with its number, colour, size, shape and place relative to the others.
- People: posture, expression, gestures and clothing.

Go through the image region by region and leave nothing out, however small."""

# Lets a text-only reasoner "see": a worked example fixes the manner, then the
# caption stands in for the image. It must end in a form the verifier reads and
# speak of the image, since the answer is later learnt from pixels.
_SIMULATED_VISION = """\
You are looking at an image. What you see is given to you below as visual information. Here is an example.

### Question
What is the area of the shaded triangle?

### Visual information
A rectangle ABCD is drawn with solid black lines; A is bottom left, B bottom right, C top right, D top left. Side AB is labelled "8 cm" below, side BC is labelled "5 cm" on the right. A diagonal runs from A to C. The triangle ABC, below the diagonal, is filled in grey.

### Response
In the image, the shaded triangle ABC has its right angle at B, because ABCD is a rectangle. Its legs are AB = 8 cm and BC = 5 cm. The area of a right triangle is half the product of its legs, so it is 8 · 5 / 2 = 20. As a check: the diagonal halves the rectangle, whose area is 8 · 5 = 40, and half of 40 is 20.

**Final answer**

\\boxed{20}

Now answer the question below in the same manner.
- Reason step by step and in detail, from the given visual information.
- When you notice that you go over the same ground again, stop and conclude.
- Where the answer is text from the image, copy it exactly as it is written there.
- Speak of "the image", as one who sees it; never mention a description, a caption or visual information.
- End with the heading **Final answer** and, below it, the answer in \\boxed{}.

### Question
"""
_VISUAL_INFORMATION = "\n\n### Visual information\n"
_RESPONSE = "\n\n### Response\n"

# For trajectories that think at length, and for every evaluation: it names the
# tags the trajectories have, asks for checking, and states what may be spent.
_SLOW_THINKING = (
  "You are an expert at problems that need careful reasoning about images and "
  "text. First think inside <think> and </think>: make sure you understand "
  "what is asked and what is shown, plan an approach, derive the result step "
  "by step, and verify it again and again, by another route where there is "
  "one; when a check fails, go back and correct yourself. After </think>, "
  "give a clear solution that stands on its own and ends with the answer in "
  "\\boxed{}. Write in the language of the question. You may use up to ",
  " tokens in total.",
)

# A video is described frame by frame, for a model that only reads: first what is
# there, then what changes. What bears on the question must be in it, the answer
# must not.
FIRST_VIEW = """\
This is the first frame of a video that a moving camera has taken. Describe it for someone who cannot see it: the objects, where each one is in the frame, and how they lie to each other. End with what bears on the question below. Do not answer the question.

Question: {question}"""
NEXT_VIEW = """\
These are two frames of a video that a moving camera has taken, the later one last. Describe the later one for someone who cannot see it, in three short parts. Do not answer the question.

- Action: how the camera has moved or turned from the first frame to the second.
- Change: what has come into view, what has left it, what has moved.
- Question: what in the second frame bears on the question below.

Question: {question}"""

# Asks where reasoning leads, of a model that sees nothing else: it must not
# correct the reasoning.
READING = """\
Below are a question and someone's reasoning about it. Choose the option that this reasoning leads to, whether or not it is right. Reply with one letter and nothing else.

### Question
{question}

### Reasoning
{reasoning}

### Answer
"""


def filled(template: str, **texts: str) -> str:
  """Returns a template with texts in the place of their {names}.

  Put together piece by piece: a text may itself hold "{question}".
  """
  names = "|".join(map(re.escape, texts))
  pieces = re.split(rf"\{{({names})\}}", template)
  return "".join(
    texts[piece] if i % 2 else piece for i, piece in enumerate(pieces)
  )


# One fact a line, so that a line that cannot be read costs that fact alone. The
# clauses are a model's words and come last.
_ATOMIC_FACTS = """\
Below are the numbered clauses of a description of an image. List every atomic fact that a clause states about what the image shows, one a line, in this form:

number | kind | fact

The kind is "object" where the fact is that something is there, "attribute" where it is a colour, number, size, shape, material, text or state of something, and "relation" where it is how two things stand to each other. Write each fact as a whole sentence that can be understood alone. Leave out clauses that state nothing visible. Write nothing else.

Clauses:
"""
_CHECK = """\
Look at the image. Is the statement below true of it? Answer with one word, yes or no.

Statement: """


def atomic_facts(clauses: str) -> str:
  """Returns the prompt that asks for the atomic facts of numbered clauses."""
  return _ATOMIC_FACTS + clauses


def check_fact(fact: str) -> str:
  """Returns the prompt that asks whether an image shows a fact."""
  return _CHECK + fact


def simulated_vision(question: str, caption: str) -> str:
  """Returns the reasoner's prompt f(x_q, c): example, question, caption."""
  return "".join(
    (
      _SIMULATED_VISION,
      question.strip(),
      _VISUAL_INFORMATION,
      caption.strip(),
      _RESPONSE.rstrip(),
    )
  )


def slow_thinking(token_budget: int) -> str:
  """Returns the system prompt of slow thinking, with the tokens it may take."""
  before, after = _SLOW_THINKING
  return f"{before}{token_budget:d}{after}"


_PLACES = {
  "reasoning": ("{caption}", "{question}"),
  "first_view": ("{question}",),
  "next_view": ("{question}",),
  "reading": ("{question}", "{reasoning}"),
}
"""Places that a prompt must have."""


@dataclasses.dataclass(frozen=True)
class Prompts:
  """The prompts of a run; a small model takes short ones from its config."""

  system: str | None = None
  """The policy's default system prompt; None: InternVL's own."""
  caption: str = CAPTION
  """Prompt that asks the policy for a caption; it does not show the
  question."""
  slow_thinking: str = slow_thinking(16384)
  """System prompt of trajectories that think in tags, and of evaluation."""
  reasoning: str = ""
  """Holds {caption} and {question} where they go; "": `simulated_vision`."""
  first_view: str = FIRST_VIEW
  """Prompt of a describer for a first frame; holds {question}."""
  next_view: str = NEXT_VIEW
  """Prompt of a describer for a frame and the one before; holds {question}."""
  reading: str = READING
  """Prompt of a reader, which answers from reasoning alone; holds {question} and
  {reasoning}."""

  def __post_init__(self) -> None:
    for name, places in _PLACES.items():
      text = getattr(self, name)
      for place in places if text else ():
        if place not in text:
          raise ValueError(f"{name} has no {place}, where a text is put in")

  def reason(self, question: str, caption: str) -> str:
    """Returns the reasoner's prompt f(x_q, c)."""
    if not self.reasoning:
      return simulated_vision(question, caption)
    return filled(self.reasoning, caption=caption, question=question)
