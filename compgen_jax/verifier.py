"""Verdicts on traces given as text, in plain Python: for a model that is trained elsewhere.

A *line* is a problem as `compgen_jax.export` writes it: a dict with at least `trace` (the golden
trace), `alphabet` and `reserved`. This file needs nothing but the standard library, so it can be
copied to where it is needed. With TRL (GRPO; verl calls a reward function with the line as
`extra_info` instead):

  lines = datasets.load_dataset('json', data_files='problems.jsonl', split='train')
  trainer = trl.GRPOTrainer(
    model='MODEL', reward_funcs=verifier.reward, train_dataset=lines,
  )  # after SFT on `prompt` and `trace`, which teaches the form
  trainer.train()

Words are compared, not characters: white space is free, and what follows the first `end` does not
count.
"""

SEGMENTS_PER_STEP = 4  # label, routing mechanism, skill (and operand), label (and result)


def segments(text: str, line: dict) -> list[tuple[str, str]]:
  """(marker, letters behind it) of a text, up to and including the first `end`.

  Letters before the first marker come behind the marker ''.
  """
  found: list[tuple[str, str]] = []
  for word in text.split():
    is_letters = set(word) <= set(line['alphabet']) and word not in line['reserved']
    if not is_letters:
      found.append((word, ''))
    elif found:
      found[-1] = (found[-1][0], found[-1][1] + word)
    else:
      found.append(('', word))
    if word == 'end' and not is_letters:
      break
  return found


def verify(line: dict, trace: str) -> dict:
  """Judges one trace of one problem; agrees with `compgen_jax.task.verify.verify`.

  Args:
    line: the problem.
    trace: what a model wrote after the line's `prompt`.

  Returns:
    A dict. `answer` bool: the trace ends, and the letters between its last `=` and its `end` are
    the answer. `structure` bool: the right modules in the right order, every string named by its
    label. `strict` bool: the trace is the golden one (the only right one, for a composition has one
    result). `first_wrong_step` int or None: the first step (from 1) that is not the golden trace's;
    depth + 1 is the answer's part; None where `strict`.
  """
  said, golden = segments(trace, line), segments(line['trace'], line)
  markers_ok = [marker for marker, _ in said] == [marker for marker, _ in golden]
  silent_ok = all(not ours or theirs for (_, ours), (_, theirs) in zip(said, golden))
  at = _first_difference(said, golden)
  return {
    'answer': said[-2:] == golden[-2:],
    'structure': markers_ok and silent_ok,
    'strict': at is None,
    'first_wrong_step': None if at is None else at // SEGMENTS_PER_STEP + 1,
  }


def _first_difference(said: list[tuple[str, str]], golden: list[tuple[str, str]]) -> int | None:
  """The index of the first segment in which two traces differ, or None."""
  for i, wanted in enumerate(golden):
    if i >= len(said) or said[i] != wanted:
      return i
  return None  # both end with `end`


def reward(prompts, completions, trace, alphabet, reserved, **others) -> list[float]:
  """1 where a completion's answer is right, else 0; called by TRL with the lines' columns."""
  del prompts, others
  lines = [{'trace': t, 'alphabet': a, 'reserved': r} for t, a, r in zip(trace, alphabet, reserved)]
  return [float(verify(line, said)['answer']) for line, said in zip(lines, completions)]


# For people ---------------------------------------------------------------------------------------


def where(line: dict, trace: str) -> str:
  """Where a trace goes wrong, such as `first wrong step: 3 of 4 (operand of interleave)`."""
  said, golden = segments(trace, line), segments(line['trace'], line)
  at = _first_difference(said, golden)
  if at is None:
    return 'every step right'
  depth = len(golden) // SEGMENTS_PER_STEP
  step, place = divmod(at, SEGMENTS_PER_STEP)
  if step == depth:
    is_answer = place == 0 and at < len(said) and said[at][0] == '='
    return f'all {depth} steps right, ' + ('the answer wrong' if is_answer else 'no answer and end')
  routing, skill = golden[4 * step + 1][0], golden[4 * step + 2][0]
  what = 'structure'
  if at < len(said) and said[at][0] == golden[at][0] and golden[at][1]:
    what = f'operand of {routing}' if place == 2 else f'result of {skill}'
  return f'first wrong step: {step + 1} of {depth} ({what})'


def compare(line: dict, trace: str) -> str:
  """A trace step by step, a line each. Below a step that is wrong stands the golden one; the first
  is marked.
  """
  ours, theirs = _steps(trace, line), _steps(line['trace'], line)
  lines, marked = [], False
  for i in range(min(max(len(ours), len(theirs)), len(theirs) + 1)):
    said = ours[i] if i < len(ours) else '(nothing)'
    golden = theirs[i] if i < len(theirs) else '(nothing)'
    if said == golden:
      lines.append(f'    {said}')
      continue
    lines.append(f'  x {said}' + ('' if marked else '   <-- first wrong step'))
    lines.append(f'    golden: {golden}')
    marked = True
  if len(ours) > len(theirs) + 1:
    lines.append(f'  x ... and {len(ours) - len(theirs) - 1} more')
  return '\n'.join(lines)


def _steps(text: str, line: dict) -> list[str]:
  """A trace cut where a step (a label and a module behind it) or the answer begins."""
  found = segments(text, line)
  steps: list[list[str]] = []
  for i, (marker, letters) in enumerate(found):
    follower = found[i + 1][0] if i + 1 < len(found) else ''
    starts_step = _is_label(marker) and not letters and follower[:1].islower() and follower != 'end'
    if not steps or starts_step or marker == '=':
      steps.append([])
    spaced = ' '.join(letters) if letters in line['reserved'] else letters
    steps[-1] += [word for word in (marker, spaced) if word]
  return [' '.join(words) for words in steps]


def _is_label(marker: str) -> bool:
  return marker[:1].isupper()
