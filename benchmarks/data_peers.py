"""From a JSON Lines file of LLaVA's rows to the first batch: ours, TRL's and LLaMA-Factory's start-up.

    PIVOT_SHARED_DATA=… python benchmarks/data_peers.py --folder FOLDER --rows 200000 --llamafactory SITE_PACKAGES

The same rows (data_rows.py), Qwen2.5-VL's processor, each side in a process of its own with an empty cache, then again
with the cache that the first start left. A side takes the first rows of the file, as many as its option says: what it
does per row before the first step decides how many are bearable. No model but a random tiny one is created.

* ours: data.tokenize_first=true (each row tokenised, its image looked for) and false.
* TRL: ``load_dataset("json")``, a map to messages and absolute image paths, ``SFTTrainer``, whose vision data are
  tokenised batch by batch, and the first batch of its loader.
* LLaMA-Factory: ``get_dataset`` of a ``sharegpt`` entry, which aligns and tokenises every row, opening its image to
  count its tokens; there is no batch in its figures.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import data_rows
import measure
from data_index import BATCH, Run, entry
from measure import Record, Side


class Peer:
    """A process of another library: environment, then what its subclass times."""

    def __init__(self, cache: str, data: str):
        os.environ |= {"HF_HOME": cache, "HF_DATASETS_CACHE": f"{cache}/datasets", "CUDA_VISIBLE_DEVICES": ""}
        self._cache, self._data = cache, Path(data)

    @property
    def processor(self) -> str:
        return str(self._data / "qwen2_5_vl_processor")


class Trl(Peer):
    def __init__(self, cache: str, data: str):
        super().__init__(cache, data)
        import transformers
        import trl  # noqa: F401

        self._processor = transformers.AutoProcessor.from_pretrained(self.processor)
        config = transformers.AutoConfig.from_pretrained(self.processor)
        for part, width in ((config.text_config, 128), (config.vision_config, 64)):
            part.hidden_size, part.intermediate_size = width, width
            part.num_attention_heads = 2
        config.text_config.num_hidden_layers = config.vision_config.depth = 1
        config.text_config.num_key_value_heads, config.vision_config.out_hidden_size = 2, 128
        config.text_config.layer_types = config.text_config.layer_types[:1]
        config.text_config.rope_parameters["mrope_section"] = [8, 12, 12]
        config.vision_config.num_heads, config.vision_config.fullatt_block_indexes = 2, [0]
        self._model = transformers.AutoModelForImageTextToText.from_config(config)

    def start(self, file: str) -> dict[str, float]:
        import datasets
        import trl

        marks = [time.perf_counter()]
        rows = datasets.load_dataset("json", data_files=file, split="train")
        marks.append(time.perf_counter())
        root = str(self._data)

        def converted(row: dict[str, Any]) -> dict[str, Any]:
            turns = zip(("user", "assistant"), row["conversations"], strict=True)
            messages = [{"role": role, "content": turn["value"].replace("<image>", "").strip()} for role, turn in turns]
            return {"messages": messages, "images": [f"{root}/{row['image']}"]}

        rows = rows.map(converted, remove_columns=rows.column_names)
        rows = rows.cast_column("images", datasets.Sequence(datasets.Image()))
        marks.append(time.perf_counter())
        arguments = trl.SFTConfig(
            output_dir=f"{self._cache}/out", per_device_train_batch_size=8, report_to=[], use_cpu=True, bf16=False,
            max_length=None, dataloader_num_workers=0,
        )  # fmt: skip
        trainer = trl.SFTTrainer(
            model=self._model, args=arguments, train_dataset=rows, processing_class=self._processor
        )
        next(iter(trainer.get_train_dataloader()))
        marks.append(time.perf_counter())
        names = ("load_dataset_s", "map_s", "trainer_and_first_batch_s")
        found = {name: b - a for name, a, b in zip(names, marks, marks[1:], strict=False)}
        return found | {"start_s": marks[-1] - marks[0], "start_cpu_s": time.process_time(), "rows": len(rows)}


class LlamaFactory(Peer):
    def __init__(self, cache: str, data: str, folders: str):
        super().__init__(cache, data)
        sys.path[:0] = folders.split(":")
        os.environ["DISABLE_VERSION_CHECK"] = "1"
        import llamafactory.data
        import llamafactory.hparams  # noqa: F401

    def start(self, file: str) -> dict[str, float]:
        from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
        from llamafactory.hparams import get_train_args
        from llamafactory.model import load_tokenizer

        where = Path(self._cache) / "entry"
        where.mkdir(exist_ok=True)
        columns = {"messages": "conversations", "images": "image"}
        (where / "dataset_info.json").write_text(
            json.dumps({"rows": {"file_name": file, "formatting": "sharegpt", "columns": columns}})
        )
        model, data, training, *_ = get_train_args({
            "model_name_or_path": self.processor, "stage": "sft", "do_train": True, "finetuning_type": "full",
            "dataset": "rows", "dataset_dir": str(where), "media_dir": str(self._data), "template": "qwen2_vl",
            "output_dir": f"{self._cache}/out", "report_to": "none", "use_cpu": True, "overwrite_output_dir": True,
        })  # fmt: skip
        tokens = load_tokenizer(model)
        template = get_template_and_fix_tokenizer(tokens["tokenizer"], data)
        began = time.perf_counter()
        made = get_dataset(template, model, data, training, stage="sft", **tokens)
        seconds = time.perf_counter() - began
        return {"start_s": seconds, "start_cpu_s": time.process_time(), "rows": len(made["train_dataset"])}


def first_rows(file: Path, count: int, folder: Path) -> Path:
    """The first rows of a file of rows, as a file."""
    with open(file, encoding="utf-8") as opened:
        (part := folder / f"first{count}.jsonl").write_text("".join(itertools.islice(opened, count)), encoding="utf-8")
    return part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000, help="for ours")
    parser.add_argument("--trl-rows", type=int, default=200_000)
    parser.add_argument("--factory-rows", type=int, default=1_000)
    parser.add_argument("--folder", type=Path, required=True, help="where the rows are kept")
    parser.add_argument("--llamafactory", default="", help="folders with it and what else it imports, joined by ':'")
    parser.add_argument("--json", type=Path, default=measure.RESULTS / "data_peers.json")
    args = parser.parse_args()
    data = Path(os.environ.get("PIVOT_SHARED_DATA", measure.ROOT.parent / "shared" / "data"))
    record = Record(args.json, "cpu")
    file = data_rows.prepared(data, args.folder, max(args.rows, args.trl_rows, args.factory_rows), "JSONL")
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        scratch = Path(name)

        def twice(side: str, rows: int, worker: type, arguments: tuple[Any, ...], start: Any) -> None:
            part = first_rows(file, rows, scratch)
            for which in ("first", "second"):
                made = Side(worker, *arguments)
                try:
                    found = made.ask("start", *start(part), limit=3600.0)
                except measure.SideError as error:
                    record.leave_out(f"{side}, {which}", str(error))
                    return
                finally:
                    made.close()
                record.add(f"{side}, {which}", found)
                print(f"{side:>24}, {which:>6}: {found}", flush=True)

        def ours(part: Path) -> tuple[Any, ...]:
            return entry("JSONL", part, data), str(scratch / "workdir"), 0.0, 1, False

        base = {"data.batch_size": BATCH, "data.buckets": ((512, 256),)}
        for side, first in (("ours, tokenised", True), ("ours", False)):
            changes = base | {"data.tokenize_first": first}
            given = (str(data / "qwen2_5_vl_processor"), str(scratch / f"cache {side}"), changes)
            twice(side, args.rows, Run, given, ours)
        twice("TRL", args.trl_rows, Trl, (str(scratch / "trl"), str(data)), lambda part: (str(part),))
        if args.llamafactory:
            given = (str(scratch / "factory"), str(data), args.llamafactory)
            twice("LLaMA-Factory", args.factory_rows, LlamaFactory, given, lambda part: (str(part),))
    print(f"written: {args.json}")


if __name__ == "__main__":
    main()
