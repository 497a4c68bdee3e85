"""What the recipe (sft/training/train.py) does at its heart: a chat model, a LoRA adapter and TRL's SFTTrainer.

    python examples/sft_minimal.py
    accelerate launch --config_file accelerate_configs/ddp.yaml --num_processes 2 examples/sft_minimal.py --output runs/sft_minimal_2

Needs quickstart/base and quickstart/data (`bash launch/quickstart.sh`), or --model DIR and --data DIR with chats in
train.jsonl and test.jsonl. The same command goes on from its last checkpoint. It prints the losses of lora_loop.py,
and with --lora_r 0, --learning_rate 1e-4 those of custom_loop.py.

What the recipe has beyond this page: a run file, data that is checked, prepared once and cached, the order of rows
kept over any number of processes, checkpoints that are whole or absent, a stop in order at a signal or a time limit,
events, and errors that say what to do.
"""

import argparse
import os
from pathlib import Path

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--model", type=Path, default="quickstart/base")
parser.add_argument("--data", type=Path, default="quickstart/data")
parser.add_argument("--output", type=Path, default="runs/sft_minimal")
parser.add_argument("--steps", type=int, default=10)
parser.add_argument("--rows_per_step", type=int, default=4, help="over all processes and micro-batches")
parser.add_argument("--batch_size", type=int, default=2, help="rows of one micro-batch of one process")
parser.add_argument("--learning_rate", type=float, default=5e-4)
parser.add_argument("--lora_r", type=int, default=16, help="rank of the adapter; 0 trains every weight")
parser.add_argument("--bf16", action="store_true", help="compute in bfloat16")
parser.add_argument("--save_every", type=int, default=5)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
if not (args.model / "config.json").is_file() or not (args.data / "train.jsonl").is_file():
    parser.error(f"no {args.model} or no {args.data}/train.jsonl: bash launch/quickstart.sh brings both")
TEST_ROWS = 15

# Four processes instead of one would make the batch four times as large without a word: the rows of a step are what
# is asked for, and accumulation follows.
world = int(os.environ.get("WORLD_SIZE", 1))
accumulation, rest = divmod(args.rows_per_step, args.batch_size * world)
if rest:
    parser.error(f"--rows_per_step is no multiple of --batch_size {args.batch_size} x {world} processes")


class Lines(TrainerCallback):
    """Print a line a step, from one process."""

    def on_log(self, arguments, state, control, logs=None, **_):
        """Print what the trainer logs of a step."""
        if state.is_world_process_zero and "loss" in logs:
            loss, norm, rate = (logs[name] for name in ("loss", "grad_norm", "learning_rate"))
            step = f"step {state.global_step}/{state.max_steps}"
            print(f"{step}  loss {loss:.6f}  grad_norm {norm:.6f}  lr {rate:.3e}")


config = SFTConfig(
    output_dir=str(args.output),
    # the model: in float32 on disk and in the optimizer; bf16 computes in bfloat16
    model_init_kwargs={"dtype": "float32"},
    bf16=args.bf16,
    use_cpu=not torch.cuda.is_available(),  # without it, processes without GPUs would train side by side
    gradient_checkpointing=False,  # a small model has the memory
    # the data: answers are learned, not questions
    assistant_only_loss=True,
    max_length=256,
    # the steps
    max_steps=args.steps,
    per_device_train_batch_size=args.batch_size,
    gradient_accumulation_steps=accumulation,
    learning_rate=args.learning_rate,
    lr_scheduler_type="linear",
    max_grad_norm=1.0,
    seed=args.seed,
    # SFTTrainer averages over batches, whatever their length: in one batch, each token weighs the same
    per_device_eval_batch_size=TEST_ROWS,
    logging_steps=1,
    save_steps=args.save_every,
    disable_tqdm=True,
    report_to="none",
)
files = {split: str(args.data / f"{split}.jsonl") for split in ("train", "test")}
data = load_dataset("json", data_files=files)
lora = LoraConfig(
    r=args.lora_r, lora_alpha=2 * args.lora_r, target_modules="all-linear", task_type="CAUSAL_LM"
)
trainer = SFTTrainer(
    model=str(args.model),
    args=config,
    train_dataset=data["train"],
    eval_dataset=data["test"].select(range(min(TEST_ROWS, len(data["test"])))),
    peft_config=lora if args.lora_r else None,
    callbacks=[Lines()],
)
trainer.remove_callback(PrinterCallback)
if trainer.accelerator.num_processes != world:
    raise SystemExit(
        f"{world} processes were launched, and accelerate sees {trainer.accelerator.num_processes}"
    )

# transformers writes trainer_state.json last. A directory without it was being written when the run was killed.
whole = [path.parent for path in args.output.glob("checkpoint-*/trainer_state.json")]
newest = max(whole, key=lambda path: int(path.name.partition("-")[2]), default=None)
trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
found = trainer.evaluate()
trainer.save_model()
if trainer.is_world_process_zero():
    print(f"held out  loss {found['eval_loss']:.6f}  accuracy {found['eval_mean_token_accuracy']:.6f}")
trainer.accelerator.end_training()
