"""Measure base and tuned model on the samples of one process; the base is loaded once for both.

    python -m sft.export.evaluate JOB RANK

is how `sft.export.gather` starts one of several. Each writes a line of JSON a sample into `rank-<n>.jsonl` beside the job.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from sft.errors import ExitCode, UserError
from sft.export.generate import Engine
from sft.export.generation import GenerationSettings
from sft.export.job import FAILED, Job, Side
from sft.export.metrics import load_metrics
from sft.export.samples import EvalSample
from sft.export.turns import Turns

SHORTEST, LONGEST = 16, 512
"""Tokens of an answer, between which the longest reference decides."""
Tell = Callable[[dict[str, Any]], None]


def measure(job: Job, rank: int, tell: Tell) -> None:
    """Measure the samples rank, rank + N, rank + 2N, ..., of base and tuned model.

    Args:
        tell: takes one sample of one side at a time: id, side, loss, tokens, scores, prediction.

    Raises:
        UserError: the model cannot be loaded, the adapter does not fit it, or a metric fails.
    """
    samples = job.samples[rank :: job.processes]
    device = ("cuda" if torch.cuda.is_available() else "cpu") if job.device == "auto" else job.device
    if device == "cuda":
        device = f"cuda:{rank % torch.cuda.device_count()}"
    elif job.processes > 1:
        cores = len(os.sched_getaffinity(0)) // job.processes
        torch.set_num_threads(max(1, min(torch.get_num_threads(), cores)))
    for engine, adapter, side in _sides(job, device):
        _measure(job, samples, engine, adapter, side, tell)


def _sides(job: Job, device: str) -> Iterator[tuple[Engine, str | None, Side]]:
    """Load what is measured, one after the other: never two models at a time."""
    subject = job.subject
    if subject.adapters:
        # The base is measured before the adapter is on it. It is what `disable_adapter` leaves of the two, but also
        # where the adapter holds biases or whole embeddings, which cannot be switched off.
        engine = Engine(subject, device=device, dtype=job.dtype)
        yield engine, None, "base"
        engine.attach(job.adapter)
        yield engine, job.adapter, "tuned"
        return
    assert subject.untrained is not None
    settings = {"base": subject.untrained, "base_told_by": "model_name_or_path of the run file"}
    engine = Engine(dataclasses.replace(subject, **settings), device=device, dtype=job.dtype)
    engine.widen(1 + max(max(sample.input_ids) for sample in job.samples))
    yield engine, None, "base"
    del engine
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    yield Engine(subject, device=device, dtype=job.dtype), None, "tuned"


def _measure(
    job: Job, samples: Sequence[EvalSample], engine: Engine, adapter: str | None, side: Side, tell: Tell
) -> None:
    metrics = load_metrics(job.metrics)
    turns = engine.turns(adapter)
    header = turns.header() if metrics else []
    settings = GenerationSettings(
        max_new_tokens=job.max_new_tokens or (_longest(job, header) if metrics else 1)
    )
    for first in range(0, len(samples), job.batch_size):
        batch = samples[first : first + job.batch_size]
        losses = engine.losses([(sample.input_ids, sample.labels) for sample in batch], adapter)
        answers: list[tuple[str, str, str]] = [("", "", "")] * len(batch)
        if metrics:
            answers = _answers(batch, engine, adapter, turns, header, settings)
        for sample, (loss, tokens), (prompt, reference, prediction) in zip(
            batch, losses, answers, strict=True
        ):
            row = job.rows.get(sample.origin) if sample.origin is not None else None
            scores = {
                metric.name: metric.score(prediction, reference, row, f"{sample.id} ({sample.place})")
                for metric in metrics
            }
            told = {"id": sample.id, "side": side, "loss": loss, "tokens": tokens, "scores": scores}
            if metrics:
                told |= {"prompt": prompt, "reference": reference, "prediction": prediction}
            tell(told)


def _longest(job: Job, header: Sequence[int]) -> int:
    """Allow twice the longest reference, of all samples, so that it is the same in every process."""
    edges = (sample.answer(header) for sample in job.samples)
    longest = max((stop - start for start, stop in filter(None, edges)), default=1)
    return max(SHORTEST, min(2 * longest, LONGEST))


def _answers(
    batch: Sequence[EvalSample],
    engine: Engine,
    adapter: str | None,
    turns: Turns,
    header: Sequence[int],
    settings: GenerationSettings,
) -> list[tuple[str, str, str]]:
    """Return prompt, reference and prediction of each sample, as text."""
    edges = []
    for sample in batch:
        found = sample.answer(header)
        if found is None:
            raise UserError(
                f"no prompt can be told from the sample {sample.id} ({sample.place}): all of it carries loss or packing"
                " has cut it, and the chat template does not show where its answer begins",
                "eval_metrics",
                "measure loss and perplexity alone (--tasks loss), or train with assistant_only_loss: true",
            )
        edges.append(found)
    prompts = [sample.input_ids[:start] for sample, (start, _) in zip(batch, edges, strict=True)]
    made = engine.complete(prompts, adapter, settings)
    return [
        (
            turns.tokenizer.decode(list(prompt), skip_special_tokens=False),
            turns.decode(sample.input_ids[start:stop]),
            turns.decode(ids),
        )
        for sample, (start, stop), prompt, ids in zip(batch, edges, prompts, made, strict=True)
    ]


def main() -> int:
    """Measure one rank's share of a job that lies in a file."""
    path, rank = Path(sys.argv[1]), int(sys.argv[2])
    # What the terminal sends to everybody is the parent's to answer: it ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with path.open("rb") as file:
        job: Job = pickle.load(file)
    with path.with_name(f"rank-{rank}.jsonl").open("w", encoding="utf-8") as out:

        def tell(one: dict[str, Any]) -> None:
            out.write(json.dumps(one) + "\n")
            out.flush()

        try:
            measure(job, rank, tell)
        except UserError as error:
            problems = [dataclasses.astuple(problem) for problem in error.problems]
            told = {"problems": problems, "exit_code": int(error.exit_code)}
            path.with_name(FAILED.format(rank)).write_text(json.dumps(told), encoding="utf-8")
            return int(error.exit_code)
    return int(ExitCode.DONE)


if __name__ == "__main__":
    sys.exit(main())
