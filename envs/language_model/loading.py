"""Finding and loading a causal language model: a hub id, a folder, or a GGUF file."""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as _logging

from bakeoff.envs.language_model.loading_checks import check_config, check_weights, tokenizer_problem
from bakeoff.errors import ModelError

transformers_logging: Any = _logging
"""Not annotated over there."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_pretrained(source: str | Path, *, device: str, dtype: str) -> tuple[Any, Any]:
    """A model in eval mode and its tokenizer.

    Args:
        source: a folder, a ``.gguf`` file, ``package:NAME`` for a Python package that carries a GGUF file, or the id of
            a model on the Hugging Face hub (the only case that may use the network).
        device: e.g. ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        dtype: ``float32``, ``bfloat16`` or ``float16``.

    Raises:
        ModelError: nothing there, not a causal language model, weights or tokenizer missing, unknown dtype or device.
    """
    if dtype not in DTYPES:
        raise ModelError(f'dtype "{dtype}" is not known; use one of {", ".join(DTYPES)}')
    check_device(device)
    place, arguments = locate(str(source))
    what = f'model "{source}" cannot be loaded as a causal language model'
    problem = None if arguments else tokenizer_problem(place)
    try:
        with quietly(errors_only=True):  # what is missing becomes our own error
            if not arguments:
                check_config(AutoConfig.from_pretrained(place, trust_remote_code=False), str(source))
            if problem is not None:
                raise ModelError(f"{what}: {problem}")
            tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **arguments)
            found: Any = AutoModelForCausalLM.from_pretrained(
                place, dtype=DTYPES[dtype], trust_remote_code=False, output_loading_info=True, **arguments
            )
            model, info = found
            check_weights(info, str(source))
            if "gguf_file" in arguments:
                model = without_quantization_mark(model)
            model = model.to(device)
    except ModelError:
        raise
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, ImportError, safetensors' own, ...
        raise ModelError(f"{what}: {first_line(error)}") from error
    return model.eval(), tokenizer


def check_device(device: str) -> None:
    """Refuse a device that is not here, before anything is loaded.

    Raises:
        ModelError: no such device, or none of it on this machine.
    """
    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ModelError(f'device "{device}" is not known; use cpu, cuda, cuda:1 or mps') from error
    if wanted.type == "cuda":
        count = torch.cuda.device_count()
        if not torch.cuda.is_available() or (wanted.index or 0) >= count:
            seen = (
                f"{count} GPU(s) can be seen here"
                if count
                else "no GPU can be seen here, or PyTorch was built without CUDA"
            )
            raise ModelError(f'device "{device}": {seen}; use device: cpu, or install PyTorch for your GPU')
    elif wanted.type == "mps" and not torch.backends.mps.is_available():
        raise ModelError(f'device "{device}": this machine has no such GPU; use device: cpu')


@contextmanager
def quietly(*, errors_only: bool = False) -> Iterator[None]:
    """Without transformers' progress bar; with ``errors_only`` also without its report on weights that a file lacks."""
    bar_was_on, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    if errors_only:
        transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar_was_on:
            transformers_logging.enable_progress_bar()


def without_quantization_mark(model: Any) -> Any:
    """The same float weights in a model that knows nothing of quantization, and so can be saved.

    transformers dequantizes a GGUF file on loading but still marks the model as quantized, and then refuses to save it.
    """
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        plain = type(model)(config)
    plain.load_state_dict(model.state_dict(), assign=True)
    # Buffers that are not in the state dict (rotary frequencies) were made on the meta device: take the loaded ones.
    for (name, buffer), (_, loaded) in zip(plain.named_buffers(), model.named_buffers(), strict=True):
        if buffer.is_meta:
            owner, _, leaf = name.rpartition(".")
            plain.get_submodule(owner).register_buffer(leaf, loaded.clone(), persistent=False)
    plain.tie_weights()
    plain.generation_config = copy.deepcopy(model.generation_config)
    for parameter in plain.parameters():
        parameter.requires_grad_(True)
    return plain


def locate(source: str) -> tuple[str, dict[str, str]]:
    """The place where transformers finds a model, and the extra arguments it needs there."""
    if source.startswith("package:"):
        source = str(_packaged_gguf(source.removeprefix("package:")))
    path = Path(source)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f'no GGUF file at "{source}"; check the path')
        return str(path.parent), {"gguf_file": path.name}
    looks_like_a_path = path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1 or os.sep == "\\"
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f'folder "{source}" holds no config.json; a model saved by save_pretrained has one')
    elif looks_like_a_path or path.exists():
        raise ModelError(f'no model folder at "{source}"; give a folder, a .gguf file or the id of a hub model')
    return source, {}


def _packaged_gguf(package: str) -> Path:
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f'no installed package "{package}"; install the one that carries the model')
    files = sorted(p for place in spec.submodule_search_locations for p in Path(place).rglob("*.gguf"))
    if len(files) != 1:
        raise ModelError(f'package "{package}" carries {len(files)} GGUF files, expected one; name the file itself')
    return files[0]


def first_line(error: BaseException) -> str:
    """An error of another library as part of one line of ours."""
    if "trust_remote_code" in str(error):
        return "it needs Python code of its own, which is never run; use a model whose architecture transformers has"
    if "Unrecognized configuration class" in str(error):
        family = str(error).partition("configuration class <class '")[2].partition("'")[0].rpartition(".")[2]
        return (
            f"transformers has no text-only language model of its family ({family}); use the text model it is built on"
        )
    if "ignore_mismatched_sizes" in str(error):
        return "weights in its files have another shape than its config.json says; they do not belong together"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}"
