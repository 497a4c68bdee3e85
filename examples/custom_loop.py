"""Fine-tune a chat model in plain PyTorch: what a trainer does, line by line, on one process or several.

    python examples/custom_loop.py
    accelerate launch --config_file accelerate_configs/ddp.yaml --num_processes 2 examples/custom_loop.py --output runs/custom_loop_2

Needs quickstart/base and quickstart/data (`bash launch/quickstart.sh`), or --model DIR and --data DIR with chats in
train.jsonl and test.jsonl. The same command goes on from its last checkpoint. Both commands print the same losses.
"""

import argparse
import json
import os
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--model", type=Path, default="quickstart/base")
parser.add_argument("--data", type=Path, default="quickstart/data")
parser.add_argument("--output", type=Path, default="runs/custom_loop")
parser.add_argument("--steps", type=int, default=10)
parser.add_argument("--rows_per_step", type=int, default=4, help="over all processes and micro-batches")
parser.add_argument("--batch_size", type=int, default=2, help="rows of one micro-batch of one process")
parser.add_argument("--learning_rate", type=float, default=1e-4)
parser.add_argument("--bf16", action="store_true", help="compute in bfloat16; the weights stay float32")
parser.add_argument("--save_every", type=int, default=5)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
if not (args.model / "config.json").is_file() or not (args.data / "train.jsonl").is_file():
    parser.error(f"no {args.model} or no {args.data}/train.jsonl: bash launch/quickstart.sh brings both")
MAX_LENGTH, MAX_GRAD_NORM, TEST_ROWS, NO_LOSS = 256, 1.0, 15, -100  # cross_entropy passes over -100


def read_chats(path: Path) -> list[dict[str, torch.Tensor]]:
    """Tokenize chats. Only what the assistant says is learned."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        messages = json.loads(line)["messages"]
        chat = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        ids, said = (torch.tensor(chat[name][:MAX_LENGTH]) for name in ("input_ids", "assistant_masks"))
        if said[1:].any():  # else the cut has left nothing to learn
            rows.append({"ids": ids, "mask": torch.ones_like(ids), "labels": ids.where(said == 1, NO_LOSS)})
    return rows


def collate(rows: list[dict[str, torch.Tensor]]) -> list[torch.Tensor]:
    """Pad rows on the right to the longest."""
    pads = {"ids": tokenizer.pad_token_id, "mask": 0, "labels": NO_LOSS}
    return [pad_sequence([row[name] for row in rows], True, pad).to(device) for name, pad in pads.items()]


def score(model, ids_BT: torch.Tensor, mask_BT: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
    """Return three sums: the loss, the tokens that were guessed right, and the tokens that carry loss."""
    logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT).logits[:, :-1].float()
    labels_BT = labels_BT[:, 1:]  # token t is guessed from those before it
    loss = cross_entropy(logits_BTV.transpose(1, 2), labels_BT, ignore_index=NO_LOSS, reduction="sum")
    return torch.stack([loss, (logits_BTV.argmax(-1) == labels_BT).sum(), (labels_BT != NO_LOSS).sum()])


# --- processes: a launcher says in the environment which of how many this is
world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
gpu = torch.cuda.is_available()
device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if gpu else "cpu")
if args.rows_per_step % (args.batch_size * world):
    parser.error(f"--rows_per_step is no multiple of --batch_size {args.batch_size} x {world} processes")
if world > 1:
    dist.init_process_group("nccl" if gpu else "gloo")
add_up = dist.all_reduce if world > 1 else (lambda tensor: None)
say = print if rank == 0 else (lambda line: None)

# --- data and model: the same on every process
tokenizer = AutoTokenizer.from_pretrained(args.model)
train, test = read_chats(args.data / "train.jsonl"), read_chats(args.data / "test.jsonl")[:TEST_ROWS]
steps_per_epoch = len(train) // args.rows_per_step
if steps_per_epoch == 0 or not test:
    raise SystemExit(f"too few chats in {args.data}, or the chat template has no generation markers")
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).to(device).train()
parallel = DistributedDataParallel(model) if world > 1 else model
optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=0.0)
schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / args.steps)
autocast = torch.autocast(device.type, torch.bfloat16, enabled=args.bf16)

# --- resume
parts, done = {"model": model, "optimizer": optimizer, "schedule": schedule}, 0
checkpoint = args.output / "checkpoint.pt"
settings = {name: str(value) for name, value in vars(args).items()} | {"processes": str(world)}
if checkpoint.exists():
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if state["settings"] != settings:
        raise SystemExit(f"{checkpoint} is of other settings; choose another --output, or remove it")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    done = state["step"]
say(f"{world} x {device.type}, {len(train)} chats, from step {done}")

# --- train
for step in range(done, args.steps):
    # Random numbers follow from seed, step and rank, so that a checkpoint need not hold their state.
    torch.manual_seed(args.seed + step * world + rank)
    epoch, place = divmod(step, steps_per_epoch)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(args.seed + epoch))
    rows = [train[index] for index in order[place * args.rows_per_step :][: args.rows_per_step]]
    starts = range(rank * args.batch_size, args.rows_per_step, world * args.batch_size)
    batches = [collate(rows[start : start + args.batch_size]) for start in starts]
    # Each token of the step weighs the same, whichever process and micro-batch it lies in.
    tokens = sum((row["labels"][1:] != NO_LOSS).sum() for row in rows)
    loss = torch.zeros((), device=device)
    for number, batch in enumerate(batches, start=1):
        # Gradients are exchanged with the last micro-batch. DDP averages them; the sum is wanted.
        with parallel.no_sync() if world > 1 and number < len(batches) else nullcontext():
            with autocast:  # bfloat16 has the range of float32: its gradients need no scaling
                share = score(parallel, *batch)[0] / tokens
            (share * world).backward()
        loss += share.detach()
    add_up(loss)
    norm, rate = clip_grad_norm_(model.parameters(), MAX_GRAD_NORM), schedule.get_last_lr()[0]
    say(f"step {step + 1}/{args.steps}  loss {loss:.6f}  grad_norm {norm:.6f}  lr {rate:.3e}")
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    if rank == 0 and ((step + 1) % args.save_every == 0 or step + 1 == args.steps):
        args.output.mkdir(parents=True, exist_ok=True)
        state = {name: part.state_dict() for name, part in parts.items()}
        torch.save({**state, "step": step + 1, "settings": settings}, f"{checkpoint}.new")
        os.replace(f"{checkpoint}.new", checkpoint)  # whole, or the one before

# --- evaluate: each row on one process, so that none counts twice though some processes have fewer
model.eval()
sums = torch.zeros(3, dtype=torch.float64, device=device)
for row in test[rank::world]:
    with torch.no_grad(), autocast:  # not `parallel`: its forward may wait for the other processes
        sums += score(model, *collate([row]))
add_up(sums)
loss, right, tokens = sums.tolist()
say(f"held out  loss {loss / tokens:.6f}  accuracy {right / tokens:.6f}  tokens {tokens:.0f}")
if rank == 0:
    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
if world > 1:
    dist.destroy_process_group()
