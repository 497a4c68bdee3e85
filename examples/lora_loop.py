"""Train a LoRA adapter in plain PyTorch with PEFT: the base stays as it is, a few small matrices are learned.

    python examples/lora_loop.py
    accelerate launch --config_file accelerate_configs/ddp.yaml --num_processes 2 examples/lora_loop.py --output runs/lora_loop_2

Read custom_loop.py first, which needs the same and has the same loop. What differs is marked LoRA.
"""

import argparse
import json
import os
from pathlib import Path

import torch
import torch.distributed as dist
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--model", type=Path, default="quickstart/base")
parser.add_argument("--data", type=Path, default="quickstart/data")
parser.add_argument("--output", type=Path, default="runs/lora_loop")
parser.add_argument("--steps", type=int, default=10)
parser.add_argument("--rows_per_step", type=int, default=4, help="over all processes and micro-batches")
parser.add_argument("--batch_size", type=int, default=2, help="rows of one micro-batch of one process")
parser.add_argument("--learning_rate", type=float, default=5e-4, help="ten times what all weights would take")
parser.add_argument("--lora_r", dest="r", type=int, default=16, help="columns of the small matrices")
parser.add_argument("--bf16", action="store_true", help="base and computing in bfloat16, adapter in float32")
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
        if any(said[1:]):
            labels = [token if mine else NO_LOSS for token, mine in zip(ids, said, strict=True)]
            rows.append({"input_ids": ids, "labels": labels})
    return rows


def score(rows: list[dict[str, list[int]]]) -> torch.Tensor:
    """Return three sums: the loss, the tokens that were guessed right, and the tokens that carry loss."""
    batch = collate(rows).to(device)
    labels_BT = batch.pop("labels")[:, 1:]
    logits_BTV = model(**batch).logits[:, :-1].float()
    loss = cross_entropy(logits_BTV.transpose(1, 2), labels_BT, ignore_index=NO_LOSS, reduction="sum")
    return torch.stack([loss, (logits_BTV.argmax(-1) == labels_BT).sum(), (labels_BT != NO_LOSS).sum()])


# --- processes and data
world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
gpu = torch.cuda.is_available()
device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if gpu else "cpu")
if args.rows_per_step % (args.batch_size * world):
    parser.error(f"--rows_per_step is no multiple of --batch_size {args.batch_size} x {world} processes")
if world > 1:
    dist.init_process_group("nccl" if gpu else "gloo")
add_up = dist.all_reduce if world > 1 else (lambda tensor: None)
say = print if rank == 0 else (lambda line: None)
tokenizer = AutoTokenizer.from_pretrained(args.model)
collate = DataCollatorForSeq2Seq(tokenizer)
train, test = read_chats(args.data / "train.jsonl"), read_chats(args.data / "test.jsonl")[:TEST_ROWS]
steps_per_epoch = len(train) // args.rows_per_step
if steps_per_epoch == 0 or not test:
    raise SystemExit(f"too few chats in {args.data}, or the chat template has no generation markers")

# --- LoRA: W x becomes W x + alpha/r * B (A x). A starts at random (hence the seed), B at zero: no change at first.
torch.manual_seed(args.seed)
base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16 if args.bf16 else torch.float32)
lora = LoraConfig(r=args.r, lora_alpha=2 * args.r, target_modules="all-linear", task_type="CAUSAL_LM")
model = get_peft_model(base, lora).to(device).train()
trained = [weight for weight in model.parameters() if weight.requires_grad]
say(f"{sum(weight.numel() for weight in trained):,} of {model.num_parameters():,} weights are trained")
optimizer = torch.optim.AdamW(trained, lr=args.learning_rate, weight_decay=0.0)
schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / args.steps)
autocast = torch.autocast(device.type, torch.bfloat16, enabled=args.bf16)

# --- resume
checkpoint, done = args.output / "checkpoint.pt", 0
settings = {name: str(value) for name, value in vars(args).items()} | {"processes": str(world)}
if checkpoint.exists():
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if state["settings"] != settings:
        raise SystemExit(f"{checkpoint} is of other settings; choose another --output, or remove it")
    set_peft_model_state_dict(model, state["adapter"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    done = state["step"]
say(f"{world} x {device.type}, {len(train)} chats, from step {done}")

# --- train
for step in range(done, args.steps):
    torch.manual_seed(args.seed + step * world + rank)
    epoch, place = divmod(step, steps_per_epoch)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(args.seed + epoch))
    rows = [train[index] for index in order[place * args.rows_per_step :][: args.rows_per_step]]
    tokens = sum(label != NO_LOSS for row in rows for label in row["labels"][1:])
    loss = torch.zeros((), device=device)
    for start in range(rank * args.batch_size, args.rows_per_step, world * args.batch_size):
        with autocast:
            part = score(rows[start : start + args.batch_size])[0] / tokens
        part.backward()
        loss += part.detach()
    # LoRA: so few gradients that no DDP is needed to send them while the others are computed.
    for tensor in [loss, *(weight.grad for weight in trained)]:
        add_up(tensor)
    norm, rate = clip_grad_norm_(trained, MAX_GRAD_NORM), schedule.get_last_lr()[0]
    say(f"step {step + 1}/{args.steps}  loss {loss:.6f}  grad_norm {norm:.6f}  lr {rate:.3e}")
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    if rank == 0 and ((step + 1) % args.save_every == 0 or step + 1 == args.steps):
        args.output.mkdir(parents=True, exist_ok=True)
        state = {"adapter": get_peft_model_state_dict(model), "step": step + 1, "settings": settings}
        state |= {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
        torch.save(state, f"{checkpoint}.new")  # LoRA: without the base, so a few MB
        os.replace(f"{checkpoint}.new", checkpoint)

# --- evaluate
model.eval()
sums = torch.zeros(3, dtype=torch.float64, device=device)
for row in test[rank::world]:
    with torch.no_grad(), autocast:
        sums += score([row])
add_up(sums)
loss, right, tokens = sums.tolist()
say(f"held out  loss {loss / tokens:.6f}  accuracy {right / tokens:.6f}  tokens {tokens:.0f}")

# --- LoRA: save the adapter, and merge it into the base for those who have no PEFT
if rank == 0:
    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    PeftModel.from_pretrained(base, args.output).merge_and_unload().save_pretrained(args.output / "merged")
    tokenizer.save_pretrained(args.output / "merged")
if world > 1:
    dist.destroy_process_group()
