"""Train a LoRA adapter in a loop of your own with accelerate and PEFT.

    python examples/lora_loop_accelerate.py
    accelerate launch --config_file accelerate_configs/ddp.yaml --num_processes 2 examples/lora_loop_accelerate.py --output runs/lora_loop_accelerate_2

Read custom_loop_accelerate.py first, which needs the same and has the same loop, and lora_loop.py. What differs is
marked LoRA.
"""

import argparse
import json
import os
from pathlib import Path

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, get_scheduler, set_seed

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--model", type=Path, default="quickstart/base")
parser.add_argument("--data", type=Path, default="quickstart/data")
parser.add_argument("--output", type=Path, default="runs/lora_loop_accelerate")
parser.add_argument("--steps", type=int, default=10)
parser.add_argument("--rows_per_step", type=int, default=4, help="over all processes and micro-batches")
parser.add_argument("--batch_size", type=int, default=2, help="rows of one micro-batch of one process")
parser.add_argument("--learning_rate", type=float, default=5e-4)
parser.add_argument("--lora_r", dest="r", type=int, default=16, help="columns of the small matrices")
parser.add_argument("--mixed_precision", choices=("no", "bf16"), help="else as launched")
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


def score(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return of each row the loss, the tokens that were guessed right, and the tokens that carry loss, as sums."""
    labels_BT = batch.pop("labels")[:, 1:]
    logits_BTV = model(**batch).logits[:, :-1].float()
    loss_BT = cross_entropy(logits_BTV.transpose(1, 2), labels_BT, ignore_index=NO_LOSS, reduction="none")
    counted_BT = (loss_BT, logits_BTV.argmax(-1) == labels_BT, labels_BT != NO_LOSS)
    return torch.stack([each_BT.sum(1) for each_BT in counted_BT], dim=1)


# --- processes and data
accelerator = Accelerator(  # the arguments are explained in custom_loop_accelerate.py
    cpu=not torch.cuda.is_available(),
    mixed_precision=args.mixed_precision,
    dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=args.seed),
    step_scheduler_with_optimizer=False,
)
world = accelerator.num_processes
if world != int(os.environ.get("WORLD_SIZE", 1)):
    raise SystemExit(f"{os.environ['WORLD_SIZE']} processes were launched, and accelerate sees {world}")
tokenizer = AutoTokenizer.from_pretrained(args.model)
train, test = read_chats(args.data / "train.jsonl"), read_chats(args.data / "test.jsonl")[:TEST_ROWS]
steps_per_epoch = len(train) // args.rows_per_step
accumulation, rest = divmod(args.rows_per_step, args.batch_size * world)
if rest or not steps_per_epoch or not test:
    parser.error(f"--rows_per_step: a multiple of {args.batch_size * world}, at most {len(train)} chats")
collate = DataCollatorForSeq2Seq(tokenizer)
loader = DataLoader(train, args.batch_size, shuffle=True, drop_last=True, collate_fn=collate)
test_loader = DataLoader(test, args.batch_size, collate_fn=collate)

# --- LoRA: the seed decides how the adapter starts; only its weights go to the optimizer
set_seed(args.seed)
base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
lora = LoraConfig(r=args.r, lora_alpha=2 * args.r, target_modules="all-linear", task_type="CAUSAL_LM")
model = get_peft_model(base, lora).train()
trained = [weight for weight in model.parameters() if weight.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=args.learning_rate, weight_decay=0.0)
schedule = get_scheduler("linear", optimizer, num_warmup_steps=0, num_training_steps=args.steps)
model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
loader, test_loader = accelerator.prepare(loader, test_loader)

# --- resume
checkpoint, done = args.output / "checkpoint.pt", 0
settings = {name: str(value) for name, value in vars(args).items()} | {"processes": str(world)}
if checkpoint.exists():
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if state["settings"] != settings:
        raise SystemExit(f"{checkpoint} is of other settings; choose another --output, or remove it")
    set_peft_model_state_dict(accelerator.unwrap_model(model), state["adapter"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    done = state["step"]
accelerator.print(f"{world} x {accelerator.device.type}, {len(train)} chats, from step {done}")

# --- train
batches = None
for step in range(done, args.steps):
    set_seed(args.seed + step * world + accelerator.process_index)
    epoch, place = divmod(step, steps_per_epoch)
    if batches is None or place == 0:
        loader.set_epoch(epoch)
        batches = iter(accelerator.skip_first_batches(loader, place * accumulation))
    micro_batches = [next(batches) for _ in range(accumulation)]
    tokens = accelerator.reduce(sum((batch["labels"][:, 1:] != NO_LOSS).sum() for batch in micro_batches))
    loss = torch.zeros((), device=accelerator.device)
    for batch in micro_batches:  # LoRA: gradients are so few that each micro-batch may exchange them
        share = score(batch)[:, 0].sum() / tokens
        accelerator.backward(share * world)
        loss += share.detach()
    loss, rate = accelerator.reduce(loss), schedule.get_last_lr()[0]
    norm = accelerator.clip_grad_norm_(trained, MAX_GRAD_NORM)
    accelerator.print(f"step {step + 1}/{args.steps}  loss {loss:.6f}  grad_norm {norm:.6f}  lr {rate:.3e}")
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    if accelerator.is_main_process and ((step + 1) % args.save_every == 0 or step + 1 == args.steps):
        # LoRA: the adapter alone, a few MB. accelerator.save_state would write the base with it each time.
        args.output.mkdir(parents=True, exist_ok=True)
        state = {"adapter": get_peft_model_state_dict(accelerator.unwrap_model(model)), "settings": settings}
        state |= {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "step": step + 1}
        torch.save(state, f"{checkpoint}.new")
        os.replace(f"{checkpoint}.new", checkpoint)

# --- evaluate
model.eval()
with torch.no_grad():
    rows = torch.cat([accelerator.gather_for_metrics(score(batch)) for batch in test_loader])
loss, right, tokens = rows.double().sum(0).tolist()
accelerator.print(f"held out  loss {loss / tokens:.6f}  accuracy {right / tokens:.6f}  tokens {tokens:.0f}")
if accelerator.is_main_process:
    accelerator.unwrap_model(model).save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
accelerator.end_training()
