"""Turns a GGUF file of the Llama architecture into a model folder in Hugging Face layout.

GGUF is llama.cpp's format: weights (mostly quantized), configuration and tokenizer in one file.
transformers reads it and writes the folder. This script adds what transformers silently ignores:
missing and left-over tensors, scaled RoPE, and how some tokenizers split text.

Weights are written in fp16 or fp32 where most of the file is, else in bf16: a quantized weight has
fewer digits than bf16.
"""

import argparse
import json
import os
import shutil
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from gguf import MODEL_ARCH, GGUFReader, get_tensor_name_map
from safetensors import SafetensorError
from script_support import Problem, bad_request, check_output_folder, progress, run_script
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.utils import logging

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
REQUIRED = ("llama.context_length", "llama.attention.layer_norm_rms_epsilon")  # transformers would fill in a default
DIGITS_APART = ("smollm", "starcoder")
SPLITTING_RULES = ("gpt-2", "llama-bpe", *DIGITS_APART)
ROOM_FOR_THE_REST = 2**25
IS_FILE_WHOLE = "Is it all of a dense Llama? Download or convert it again."


def main(arguments):
    options = parse_arguments(arguments)
    check_request(options)
    replace_progress_bars()
    with explained(options.file), TemporaryDirectory() as folder:
        # an empty folder, because transformers prefers a tokenizer.json beside the file
        Path(folder, "model.gguf").symlink_to(options.file.resolve())
        model, weights, tokenizer = read_gguf(options, folder)
    with folder_written_atomically(options.to.resolve()) as folder:
        require_space(folder, sum(weight.nbytes for weight in weights.values()) + ROOM_FOR_THE_REST)
        print(f"writing {options.to}", file=sys.stderr)
        model.save_pretrained(folder, state_dict=weights)
        if tokenizer:
            tokenizer.save_pretrained(folder)
    print(f"{options.to}: a Llama of {model.num_parameters():,} parameters in {model.dtype}")


def replace_progress_bars():
    """transformers draws its bars into files and pipes too."""
    logging.disable_progress_bar()
    modeling_gguf_pytorch_utils.tqdm = lambda tensors, **_: progress("reading tensors", iterable=tensors, unit="tensor")


def require_space(folder, n_bytes):
    """Throws Problem unless the folder's disk has n_bytes free."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise Problem(
            folder,
            f"the disk is full: {free:,} bytes are free, {n_bytes:,} are needed next",
            "Make room, or write to another disk.",
        )


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(
        description="Turns a GGUF file of the Llama architecture into a Hugging Face model folder.",
        epilog="example: tools/import_gguf.py model.Q4_1.gguf --to model-hf",
    )
    parser.add_argument("file", type=Path, metavar="FILE.gguf")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="dtype of the weights (default: fp16 or fp32 where most of the file is, else bf16)",
    )
    parser.add_argument("--force", action="store_true", help="replace a model that Regroup wrote")
    return parser.parse_args(arguments)


def check_request(options):
    if not options.file.is_file():
        raise bad_request(options.file, "is not a file", "Give a .gguf file.")
    check_output_folder("--to", options.to.resolve().parent)
    folder, holds_file = options.to, options.to.resolve() in options.file.resolve().parents
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not options.force or holds_file or not is_regroup_model(folder):
        raise bad_request(
            folder,
            "exists and is not empty",
            "Name another folder. --force replaces only a model that Regroup wrote, and not the "
            "folder that FILE.gguf is in.",
        )


def is_regroup_model(folder):
    try:
        return "regroup" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


@contextmanager
def explained(path):
    """Turns what the libraries throw while they read a file into a Problem that names the file."""
    try:
        yield
    except (Problem, MemoryError):
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise Problem(path, f"cannot be read as a GGUF file ({why})", IS_FILE_WHOLE) from error


class BoundedReader(GGUFReader):
    """GGUFReader returns empty arrays beyond the end of a file; this reader raises ValueError."""

    def _get(self, offset, dtype, count=1, override_order=None):
        end = int(offset) + int(count) * np.dtype(dtype).itemsize
        if end > len(self.data):
            raise ValueError(f"it has {len(self.data):,} bytes, and its header says at least {end:,}")
        return super()._get(offset, dtype, count, override_order)


def read_gguf(options, folder):
    """Returns the model without its weights, the weights, and the tokenizer or None."""
    with np.errstate(all="ignore"):  # sizes that overflow are refused
        reader = BoundedReader(options.file)
    keys = {key: field.contents() for key, field in reader.fields.items()}
    check_keys(options.file, keys)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    config = AutoConfig.from_pretrained(folder, gguf_file="model.gguf")
    for unused in ("_model_name_or_path", "unk_token_id"):
        vars(config).pop(unused, None)
    config.regroup = {"imported_from": options.file.name}  # the mark that lets --force replace it
    read_rope_scaling(options.file, config, keys, tensors.pop("rope_freqs.weight", None))
    model = bare_model(options.file, config, tensors, options.dtype or usual_dtype(tensors))
    tokenizer = read_tokenizer(options.file, folder, keys)
    return model, read_weights(options.file, model), tokenizer


def check_keys(path, keys):
    architecture = keys.get("general.architecture")
    if architecture != "llama":
        raise Problem(path, f'has the architecture "{architecture}"', 'Give a model of "llama".')
    for key in REQUIRED:
        if key not in keys:
            raise Problem(path, f"has no {key}", IS_FILE_WHOLE)


def read_rope_scaling(path, config, keys, divisors):
    """Writes the RoPE scaling into config. For Llama 3, GGUF has only the divisors of the frequencies."""
    kind = keys.get("llama.rope.scaling.type", "linear")
    old_factor = keys.get("llama.rope.scale_linear", 1.0)
    factor = 1.0 if kind == "none" else keys.get("llama.rope.scaling.factor", old_factor)
    unscaled = LlamaRotaryEmbedding(config).inv_freq
    divisors = factor * torch.tensor([1.0] if divisors is None else divisors.data)
    factor = divisors.max().item()
    if factor != 1:
        config.rope_parameters |= {"rope_type": "linear", "factor": factor}
    if divisors.min() < factor:
        config.rope_parameters |= {
            "rope_type": "llama3",
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    scaled = LlamaRotaryEmbedding(config).inv_freq
    if kind not in ("none", "linear") or not torch.allclose(unscaled / divisors, scaled, 1e-4, 0):
        what = "scales RoPE neither linearly nor as Llama 3.1 to 3.3 do"
        raise Problem(path, what, "Give a model without that.")


def usual_dtype(tensors):
    n_values = Counter()
    for tensor in tensors.values():
        n_values[tensor.tensor_type.name] += tensor.n_elements
    most = max(n_values, key=n_values.get, default=None)
    return {"F16": "fp16", "F32": "fp32"}.get(most, "bf16")


def bare_model(path, config, tensors, dtype):
    """The model on the meta device. Throws Problem unless the file has exactly its tensors."""
    if config.num_hidden_layers > len(tensors):
        raise Problem(path, "has fewer tensors than layers", IS_FILE_WHOLE)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype])
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    expected = {
        names.get_name(name, [".weight"]): list(parameter.shape)
        for name, parameter in model.named_parameters()
    }
    present = {name: tensor.shape.tolist()[::-1] for name, tensor in tensors.items()}
    wrong = [
        f"{name} is {present.get(name, 'missing')}, expected is {expected.get(name, 'none')}"
        for name in sorted(expected.keys() | present.keys())
        if expected.get(name) != present.get(name)
    ]
    if wrong:
        what = f"has {len(wrong)} wrong tensors: {'; '.join(wrong[:3])}"
        raise Problem(path, what, IS_FILE_WHOLE)
    return model


def read_weights(path, model):
    """Returns {Hugging Face name: tensor}. A model from from_pretrained could not be saved."""
    loaded = modeling_gguf_pytorch_utils.load_gguf_checkpoint(
        path, return_tensors=True, model_to_load=model, torch_dtype=model.dtype
    )
    for name, weight in loaded["tensors"].items():
        if not weight.isfinite().all():
            what = f"{name} has values that are not finite in {model.dtype}"
            raise Problem(path, what, "Give another --dtype; if all fail, the file is damaged.")
    return loaded["tensors"]


def read_tokenizer(path, folder, keys):
    """The tokenizer; None and a note where its ids may differ from llama.cpp's."""
    model, rule = (keys.get(f"tokenizer.ggml.{key}", "none") for key in ("model", "pre"))
    if model == "gpt2" and rule in SPLITTING_RULES:
        tokenizer = AutoTokenizer.from_pretrained(
            folder,
            gguf_file="model.gguf",
            model_max_length=keys["llama.context_length"],
            add_bos_token=rule == "llama-bpe",  # a default, which the file may override
        )
        backend = tokenizer.backend_tokenizer
        backend.model.ignore_merges = rule == "llama-bpe"
        if rule in DIGITS_APART:
            steps = [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
            backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
        tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        if tokens == keys["tokenizer.ggml.tokens"]:
            return tokenizer
    print(
        f"note: {path}: no tokenizer.json is written, because transformers may not read its tokenizer "
        f"({model}, splitting rule {rule}) as llama.cpp does. Copy the original model's.",
        file=sys.stderr,
    )
    return None


@contextmanager
def folder_written_atomically(target):
    """Yields a temporary folder beside `target` and renames it to target on success."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as temporary:
        new = Path(temporary, "new")
        new.mkdir()
        try:
            yield new
        except SafetensorError as error:  # safetensors raises it when the disk is full
            raise OSError(str(error)) from error
        for file in new.iterdir():
            file.chmod(new.stat().st_mode & 0o666)  # safetensors makes files that only their owner may read
            with open(file, "rb") as written:
                os.fsync(written)
        if target.exists():
            target.rename(Path(temporary, "old"))
        new.rename(target)


if __name__ == "__main__":
    run_script(main)
