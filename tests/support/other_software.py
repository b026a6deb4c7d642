"""Programs that know fixed architectures, and how each continues prompts greedily with a folder of transformers."""

import multiprocessing
import runpy
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache, cached_property
from pathlib import Path

import ctranslate2
import sentencepiece
import xllamacpp
from ctranslate2.converters import TransformersConverter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

LLAMA_CPP = Path(sys.prefix, "llama.cpp")  # where tools/setup.sh --tests puts its converter


class CTranslate2:
    # A multiple of 8, as the converter wants it for OPT, with every special token that a class would add.
    SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<|endoftext|>"]
    WORDS = [*SPECIAL, *(f"w{i}" for i in range(len(SPECIAL), 104))]

    def save_tokenizer(self, folder, family):
        words = models.WordLevel({word: i for i, word in enumerate(self.WORDS)}, unk_token="<unk>")
        PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), unk_token="<unk>", bos_token="<s>",
                                eos_token="</s>", pad_token="<pad>").save_pretrained(folder)

    def vocab_size(self, family):
        return len(self.WORDS)

    def continuations(self, folder, prompts, n_tokens):
        program = folder.with_name(folder.name + ".ct2")
        TransformersConverter(str(folder)).convert(str(program))
        generator = ctranslate2.Generator(str(program), compute_type="float32", inter_threads=1, intra_threads=1)
        text = [[self.WORDS[token] for token in prompt] for prompt in prompts]
        results = generator.generate_batch(text, max_length=n_tokens, end_token=[], include_prompt_in_result=False)
        return [result.sequences_ids[0] for result in results]


def use_llama_cpp():
    sys.path[:0] = [str(LLAMA_CPP / "gguf-py"), str(LLAMA_CPP)]


def write_gguf(folder, file):
    sys.argv[1:] = [str(folder), "--outfile", str(file), "--outtype", "f32"]
    runpy.run_path(str(LLAMA_CPP / "convert_hf_to_gguf.py"), run_name="__main__")


@cache
def gpt2_vocabulary():
    from gguf import GGUFReader  # not above: in the process that converts, this name is llama.cpp's own package

    fields = GGUFReader(LLAMA_CPP / "models/ggml-vocab-gpt-2.gguf").fields
    merges = fields["tokenizer.ggml.merges"].contents()
    return fields["tokenizer.ggml.tokens"].contents(), [tuple(merge.split(" ")) for merge in merges]


class LlamaCpp:
    # The converter reads these classes' vocabulary from tokenizer.model only, or tries that first.
    SENTENCEPIECE = {"llama", "mistral", "qwen2", "gemma", "gemma2", "phi3"}
    PIECES = 320

    def save_tokenizer(self, folder, family):
        if family in self.SENTENCEPIECE:
            text = (f"layer {i} has {7 * i} heads, head {i * i} sees token {3 * i} of {i ** 3}" for i in range(400))
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=text, model_prefix=str(folder / "tokenizer"), vocab_size=self.PIECES,
                model_type="bpe", minloglevel=2)  # no pieces of a byte: the server's reply must be UTF-8
            return
        # Of others it recognizes the tokenizer by the ids that it gives a text, so theirs is GPT-2's.
        vocabulary, merges = gpt2_vocabulary()
        tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        end = "<|endoftext|>"
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end,
                                unk_token=end).save_pretrained(folder)

    def vocab_size(self, family):
        return self.PIECES if family in self.SENTENCEPIECE else len(gpt2_vocabulary()[0])

    @cached_property
    def converter(self):
        """One process for all models: it takes longer to import PyTorch and transformers than to convert one."""
        return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), use_llama_cpp)

    def continuations(self, folder, prompts, n_tokens):
        file = folder.with_name(folder.name + ".gguf")
        self.converter.submit(write_gguf, folder, file).result()
        server = self.server(file)
        request = {"max_tokens": n_tokens, "temperature": 0, "ignore_eos": True, "return_tokens": True}
        replies = [server.handle_completions({"prompt": prompt, **request}) for prompt in prompts]
        return [reply["__verbose"]["tokens"] for reply in replies]

    def server(self, file):
        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.n_ctx, params.n_parallel, params.n_gpu_layers = 64, 1, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.warmup = params.fit_params = False
        params.port, params.cache_ram_mib = 0, 0
        params.verbosity = 10  # only then the reply has the tokens
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        return xllamacpp.Server(params)


PROGRAMS = {"CTranslate2": CTranslate2(), "llama.cpp": LlamaCpp()}
