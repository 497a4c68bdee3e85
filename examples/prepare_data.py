"""From raw rows to masked token ids: what becomes of a data set before a model sees it.

    python examples/prepare_data.py
    accelerate launch --config_file accelerate_configs/ddp.yaml --num_processes 2 examples/prepare_data.py --output runs/prepare_data_2

Takes a few rows that stand below, or --data FILE.jsonl, and the tokenizer of quickstart/base (`bash launch/quickstart.sh`)
or of --model DIR. The steps are the kit's own functions, which `sft data prepare RUN.yaml` runs over a whole data set
with a cache, a ledger of what became of every row, and packing; `sft data show RUN.yaml` draws what this prints.
"""

import argparse
import itertools
import json
import os
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import AutoTokenizer, DataCollatorForSeq2Seq

from sft.data.convert import Converter, ConvertSettings
from sft.data.encode import Encoder
from sft.data.loss import EncodeSettings
from sft.data.sample import BadRow, Chat
from sft.data.tokenizer import read_tokenizer

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--model", type=Path, default="quickstart/base")
parser.add_argument("--data", type=Path, help="JSON lines; default: the rows in this file")
parser.add_argument("--output", type=Path, default="runs/prepare_data")
parser.add_argument("--max_length", type=int, default=256, help="tokens; longer rows are cut at their end")
args = parser.parse_args()
for path in filter(None, (args.model / "config.json", args.data)):
    if not path.is_file():
        parser.error(f"there is no {path}; bash launch/quickstart.sh brings quickstart/base")

RAW = [
    # chats, as most data sets have them
    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]},
    # ShareGPT
    {"conversations": [{"from": "human", "value": "A prime?"}, {"from": "gpt", "value": "Seven."}]},
    # alpaca
    {"instruction": "Say it in capitals.", "input": "hello", "output": "HELLO"},
    # prompt and completion
    {"prompt": "The capital of France is", "completion": " Paris."},
    # several turns: each answer is learned
    {"messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Red and blue?"}, {"role": "assistant", "content": "Purple."},
        {"role": "user", "content": "And yellow?"}, {"role": "assistant", "content": "Brown."},
    ]},
    # rows that nothing can be learned from: no answer, and an answer that is null
    {"messages": [{"role": "user", "content": "Anyone there?"}]},
    {"messages": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": None}]},
]  # fmt: skip
rows = [] if args.data else RAW
for number, line in enumerate(args.data.open(encoding="utf-8") if args.data else [], start=1):
    try:
        rows.append(json.loads(line))
    except ValueError as error:
        parser.error(f"{args.data}:{number} is no JSON: {error}")

# --- each process takes its share of the rows; alone, it takes them all
processes = PartialState(cpu=not torch.cuda.is_available())
if processes.num_processes != int(os.environ.get("WORLD_SIZE", 1)):
    raise SystemExit(f"{os.environ['WORLD_SIZE']} processes were launched, and accelerate sees one")
with processes.split_between_processes(list(enumerate(rows, start=1))) as share:
    # --- 1: whatever shape a row has, it becomes a chat, prompt and completion, or text, or is refused with a reason
    converter = Converter(ConvertSettings())
    samples, refused = {}, []
    for number, row in share:
        try:
            _, samples[number] = converter.convert(row)
        except BadRow as bad:
            refused.append((number, f"{bad.what}; {bad.fix}"))

    # --- 2: the chat template renders it, the tokenizer cuts it up, and a mask says which tokens are learned
    files = read_tokenizer(str(args.model))
    encoder = Encoder(files, EncodeSettings(assistant_only_loss=True, max_length=args.max_length))
    encoded = dict(zip(samples, encoder.encode(list(samples.values())), strict=True))

    # --- 3: labels are the tokens themselves, and -100, which the loss passes over, where nothing is learned
    prepared = []
    for number, row in encoded.items():
        if isinstance(row, BadRow) or row.answer == "lost":
            refused.append(
                (number, row.what if isinstance(row, BadRow) else "--max_length cuts all of its answer")
            )
            continue
        labels = [token if learned else -100 for token, learned in zip(row.ids, row.mask, strict=True)]
        prepared.append((number, {"input_ids": list(row.ids), "labels": labels}))

    # --- 4: transformers' own template and mask give the same, which is how one knows
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    agreed = 0
    for number, row in prepared:
        if isinstance(samples[number], Chat):
            own = tokenizer.apply_chat_template(
                samples[number].messages, return_dict=True, return_assistant_tokens_mask=True
            )
            mask = [int(label != -100) for label in row["labels"]]
            if (row["input_ids"], mask) != (
                own["input_ids"][: len(mask)],
                own["assistant_masks"][: len(mask)],
            ):
                raise SystemExit(f"row {number} is not what transformers makes of it")
            agreed += 1

# --- every process gets everything; one shows and writes it
prepared, refused, agreed = (gather_object(part) for part in (prepared, refused, [agreed]))
if processes.is_main_process:
    if not prepared:
        raise SystemExit(f"nothing is left of {len(rows)} rows: {refused}")
    for number, row in prepared[:8]:
        pairs = zip(row["input_ids"], row["labels"], strict=True)
        parts = [
            (learned, tokenizer.decode([token for token, _ in run]))
            for learned, run in itertools.groupby(pairs, key=lambda pair: pair[1] != -100)
        ]
        print(f"row {number}: " + "".join(f"[[{text}]]" if learned else text for learned, text in parts))
    for number, reason in sorted(refused):
        print(f"row {number} is left out: {reason}")
    print(f"{len(prepared)} of {len(rows)} rows prepared; transformers agrees on the {sum(agreed)} chats")

    # --- 5: rows of unlike length are padded to a batch, which the mask hides from attention and the loss passes over
    batch = DataCollatorForSeq2Seq(tokenizer)([row for _, row in prepared[:4]])
    padding = 1 - batch["attention_mask"].float().mean()
    print(
        f"a batch of {batch['input_ids'].shape[0]} x {batch['input_ids'].shape[1]} tokens, {padding:.0%} padding"
    )

    # Written as they are, the rows are a data set that a run file trains: dataset_name: runs/prepare_data/train.jsonl
    args.output.mkdir(parents=True, exist_ok=True)
    with (args.output / "train.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for _, row in prepared)
    print(args.output / "train.jsonl")
processes.destroy_process_group()
