"""Random Llama models of transformers, and the logits that transformers and Regroup give for them."""

import os
import subprocess

import numpy as np
import torch
from tiny_runs import assert_done, regroup
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

LOGITS = os.environ["REGROUP_LOGITS_BINARY"]

# On models this small, threads cost more time than they save.
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
torch.set_num_threads(1)

VOCAB_SIZE = 97
TOKENS = torch.randint(VOCAB_SIZE, (1, 40), generator=torch.Generator().manual_seed(1))

def random_llama(rope_theta=700.0, scaling=None, dtype=torch.float32, **sizes):
    """A Llama whose weights, norm gains included, are large enough to show in the logits."""
    fields = dict(vocab_size=VOCAB_SIZE, hidden_size=60, intermediate_size=88, num_hidden_layers=2,
                  num_attention_heads=6, max_position_embeddings=64, initializer_range=0.15)
    rope = {"rope_theta": rope_theta, **(scaling or {"rope_type": "default"})}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**fields, **sizes}, rope_parameters=rope))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.to(dtype).eval()  # save and load a model below float32: .to() rounds the rotary angles too


def output_of(*words):
    """What `regroup WORDS` prints; it must succeed."""
    return assert_done(regroup(*words, env=ONE_THREAD)).stdout


@torch.no_grad()
def logits_there(model):
    return model(TOKENS).logits[0].float().numpy()


def logits_here(folder, dtype="fp32"):
    tokens = [str(token) for token in TOKENS[0].tolist()]
    result = subprocess.run([LOGITS, str(folder), dtype, *tokens], capture_output=True,
                            timeout=120, env=ONE_THREAD)
    assert result.returncode == 0, result.stderr.decode()
    return np.frombuffer(result.stdout, np.float32).reshape(len(tokens), VOCAB_SIZE)


def load_there(folder, dtype=torch.float32):
    """The model as transformers loads it, without missing or surplus tensors."""
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype,
                                                         output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not report[kind], report
    return model.eval()
