"""Fine-tune a chat model in a loop of your own, with accelerate for processes, precision and checkpoints.

    python examples/custom_loop_accelerate.py
    accelerate launch --config_file accelerate_configs/ddp.yaml --num_processes 2 examples/custom_loop_accelerate.py --output runs/custom_loop_accelerate_2

Read custom_loop.py first: this is the same training, and prints the same losses. Needs quickstart/base and
quickstart/data (`bash launch/quickstart.sh`), or --model DIR and --data DIR with chats in train.jsonl and test.jsonl.
The same command goes on from its last checkpoint.
"""

import argparse
import json
import os
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, get_scheduler, set_seed

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--model", type=Path, default="quickstart/base")
parser.add_argument("--data", type=Path, default="quickstart/data")
parser.add_argument("--output", type=Path, default="runs/custom_loop_accelerate")
parser.add_argument("--steps", type=int, default=10)
parser.add_argument("--rows_per_step", type=int, default=4, help="over all processes and micro-batches")
parser.add_argument("--batch_size", type=int, default=2, help="rows of one micro-batch of one process")
parser.add_argument("--learning_rate", type=float, default=1e-4)
parser.add_argument("--mixed_precision", choices=("no", "bf16", "fp16"), help="else as launched")
parser.add_argument("--save_every", type=int, default=5)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
if not (args.model / "config.json").is_file() or not (args.data / "train.jsonl").is_file():
    parser.error(f"no {args.model} or no {args.data}/train.jsonl: bash launch/quickstart.sh brings both")
MAX_LENGTH, MAX_GRAD_NORM, TEST_ROWS, NO_LOSS = 256, 1.0, 15, -100


def read_chats(path: Path) -> list[dict[str, list[int]]]:
    """Tokenize chats. Only what the assistant says is learned."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        messages = json.loads(line)["messages"]
        chat = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        ids, said = chat["input_ids"][:MAX_LENGTH], chat["assistant_masks"][:MAX_LENGTH]
        if any(said[1:]):  # else the cut has left nothing to learn
            labels = [token if mine else NO_LOSS for token, mine in zip(ids, said, strict=True)]
            rows.append({"input_ids": ids, "labels": labels})
    return rows


def score(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return of each row the loss, the tokens that were guessed right, and the tokens that carry loss, as sums."""
    labels_BT = batch.pop("labels")[:, 1:]  # token t is guessed from those before it
    logits_BTV = model(**batch).logits[:, :-1].float()
    loss_BT = cross_entropy(logits_BTV.transpose(1, 2), labels_BT, ignore_index=NO_LOSS, reduction="none")
    counted_BT = (loss_BT, logits_BTV.argmax(-1) == labels_BT, labels_BT != NO_LOSS)
    return torch.stack([each_BT.sum(1) for each_BT in counted_BT], dim=1)


# --- processes. `cpu` must be said: without it, two processes without GPUs would train side by side.
accelerator = Accelerator(
    cpu=not torch.cuda.is_available(),
    mixed_precision=args.mixed_precision,
    # The seed alone decides the order of the rows, on any number of processes.
    dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=args.seed),
    step_scheduler_with_optimizer=False,  # else the schedule goes on by one step a process
)
world = accelerator.num_processes
if world != int(os.environ.get("WORLD_SIZE", 1)):
    raise SystemExit(f"{os.environ['WORLD_SIZE']} processes were launched, and accelerate sees {world}")
accumulation, rest = divmod(args.rows_per_step, args.batch_size * world)
if rest:
    parser.error(f"--rows_per_step is no multiple of --batch_size {args.batch_size} x {world} processes")

# --- data and model
set_seed(args.seed)
tokenizer = AutoTokenizer.from_pretrained(args.model)
train, test = read_chats(args.data / "train.jsonl"), read_chats(args.data / "test.jsonl")[:TEST_ROWS]
steps_per_epoch = len(train) // args.rows_per_step
if steps_per_epoch == 0 or not test:
    raise SystemExit(f"too few chats in {args.data}, or the chat template has no generation markers")
collate = DataCollatorForSeq2Seq(tokenizer)  # pads the labels, too
loader = DataLoader(train, args.batch_size, shuffle=True, drop_last=True, collate_fn=collate)
test_loader = DataLoader(test, args.batch_size, collate_fn=collate)
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=0.0)
schedule = get_scheduler("linear", optimizer, num_warmup_steps=0, num_training_steps=args.steps)
model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
loader, test_loader = accelerator.prepare(loader, test_loader)

# --- resume
settings = {name: str(value) for name, value in vars(args).items()} | {"processes": str(world)}
found = max(args.output.glob("checkpoint-*[0-9]"), key=lambda path: int(path.name[11:]), default=None)
done = int(found.name[11:]) if found else 0
if found:
    if json.loads((found / "settings.json").read_text()) != settings:
        raise SystemExit(f"{found} is of other settings; choose another --output, or remove it")
    accelerator.load_state(str(found))
accelerator.print(f"{world} x {accelerator.device.type}, {len(train)} chats, from step {done}")

# --- train
batches = None
for step in range(done, args.steps):
    # Random numbers follow from seed, step and process: accelerate passes over a state that it cannot load.
    set_seed(args.seed + step * world + accelerator.process_index)
    epoch, place = divmod(step, steps_per_epoch)
    if batches is None or place == 0:
        loader.set_epoch(epoch)
        batches = iter(accelerator.skip_first_batches(loader, place * accumulation))
    # Each token of the step weighs the same, whichever process and micro-batch it lies in.
    micro_batches = [next(batches) for _ in range(accumulation)]
    tokens = accelerator.reduce(sum((batch["labels"][:, 1:] != NO_LOSS).sum() for batch in micro_batches))
    loss = torch.zeros((), device=accelerator.device)
    for number, batch in enumerate(micro_batches, start=1):
        # Gradients are exchanged with the last micro-batch. DDP averages them; the sum is wanted.
        with accelerator.no_sync(model) if number < accumulation else nullcontext():
            share = score(batch)[:, 0].sum() / tokens
            accelerator.backward(share * world)
        loss += share.detach()
    loss, rate = accelerator.reduce(loss), schedule.get_last_lr()[0]
    norm = accelerator.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
    accelerator.print(f"step {step + 1}/{args.steps}  loss {loss:.6f}  grad_norm {norm:.6f}  lr {rate:.3e}")
    optimizer.step()
    if not accelerator.optimizer_step_was_skipped:  # fp16: a step whose gradients overflowed
        schedule.step()
    optimizer.zero_grad()
    if (step + 1) % args.save_every == 0 or step + 1 == args.steps:
        checkpoint = args.output / f"checkpoint-{step + 1}"
        accelerator.save_state(f"{checkpoint}.new")
        accelerator.wait_for_everyone()  # each process has written a file
        if accelerator.is_main_process:
            Path(f"{checkpoint}.new", "settings.json").write_text(json.dumps(settings))
            os.replace(f"{checkpoint}.new", checkpoint)  # whole, or not there

# --- evaluate: processes whose rows run out repeat some, and gather_for_metrics leaves those out
model.eval()
with torch.no_grad():
    rows = torch.cat([accelerator.gather_for_metrics(score(batch)) for batch in test_loader])
assert len(rows) == len(test)
loss, right, tokens = rows.double().sum(0).tolist()
accelerator.print(f"held out  loss {loss / tokens:.6f}  accuracy {right / tokens:.6f}  tokens {tokens:.0f}")
if accelerator.is_main_process:
    accelerator.unwrap_model(model).save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
accelerator.end_training()
