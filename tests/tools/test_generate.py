"""`regroup generate`: sampling and chats as transformers has them, stop texts, files of prompts, terminals."""

import json
import os
import pty
import signal
import subprocess
import tty
from pathlib import Path

import pytest
import torch
from hf_models import random_llama
from tiny_runs import REGROUP, assert_done, assert_refused, regroup
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, MinPLogitsWarper, PreTrainedTokenizerFast

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
BOS, USER, BOT = "<s>", "<user>", "<bot>"
TEMPLATE = ("{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no systems') }}"
            "{% endif %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}")
LONG = 100000  # more tokens than a test waits for


def byte_tokenizer():
    """A token for each byte, so that texts of a random model have broken characters; BOS before a text."""
    vocab = {byte: i for i, byte in enumerate(ALPHABET)} | {BOS: 256, USER: 257, BOT: 258}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 256)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, additional_special_tokens=[USER, BOT])


def write_model(folder, **sizes):
    model = random_llama(vocab_size=259, num_key_value_heads=3, bos_token_id=None, eos_token_id=None, **sizes)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """model/ without an eos token; no test changes it."""
    folder = tmp_path_factory.mktemp("generate")
    write_model(folder / "model", max_position_embeddings=256)
    return folder


@pytest.fixture
def own(tmp_path):
    """The same, to change."""
    write_model(tmp_path / "model", max_position_embeddings=256)
    return tmp_path


def generate(folder, *words):
    return regroup("generate", "--model", "model", "--threads", 1, *words, cwd=folder)


def result_of(folder, *words):
    return json.loads(assert_done(generate(folder, "--json", *words)).stdout)


def ids(tokens):
    return ",".join(map(str, tokens))


def write_prompts(folder, *lines):
    path = folder / "prompts.jsonl"
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def results_of(folder, prompts, *words):
    stdout = assert_done(generate(folder, "--prompts", prompts, *words)).stdout
    return [json.loads(line) for line in stdout.splitlines()]


# --- Sampling ---


@pytest.mark.parametrize("penalty", [0.8, 1.3])
def test_greedy_tokens_with_a_repetition_penalty_are_those_of_transformers(own, penalty):
    model = random_llama(vocab_size=259, num_key_value_heads=3, bos_token_id=None, eos_token_id=None,
                         max_position_embeddings=256)
    prompt = [5, 7, 9, 11, 7]

    def there(penalty):
        tokens = torch.tensor([prompt])
        return model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=40, do_sample=False,
                              repetition_penalty=penalty, pad_token_id=0)[0, len(prompt):].tolist()

    words = ("--tokens", ids(prompt), "--max-new-tokens", 40)
    assert result_of(own, *words, "--repetition-penalty", penalty)["tokens"] == there(penalty)
    assert result_of(own, *words)["tokens"] == there(1.0) != there(penalty)


def test_min_p_draws_what_transformers_keeps(shared):
    model = random_llama(vocab_size=259, num_key_value_heads=3, max_position_embeddings=256)

    def kept(*words):
        """Which of the drawn tokens transformers' min-p of 0.2 would have kept."""
        prompt = [1, 2, 3]
        tokens = prompt + result_of(shared, "--tokens", ids(prompt), "--max-new-tokens", 60, "--temperature", 1.2,
                                    *words)["tokens"]
        with torch.no_grad():
            logits = model(torch.tensor([tokens])).logits[0, len(prompt) - 1 : -1] / 1.2
        scores = MinPLogitsWarper(0.2)(None, logits)
        return torch.isfinite(scores.gather(1, torch.tensor(tokens[len(prompt):]).unsqueeze(1))).flatten().tolist()

    assert all(kept("--min-p", 0.2))
    assert not all(kept())


@pytest.mark.parametrize("words", [("--min-p", "1.5"), ("--repetition-penalty", "0")])
def test_sampling_that_means_nothing_is_refused(shared, words):
    assert_refused(generate(shared, "--tokens", 1, *words), 2, *words)


# --- The model's generation_config.json ---


def say_in_generation_config(folder, **fields):
    path = folder / "model/generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_sampling_of_the_generation_config_is_the_default(own):
    words = ("--tokens", "1,2,3", "--max-new-tokens", 40)
    greedy = result_of(own, *words)
    drawn = result_of(own, *words, "--temperature", 1.5, "--top-k", 30, "--top-p", 0.9, "--min-p", 0.01)
    settings = {"temperature": 1.5, "top_k": 30, "top_p": 0.9, "min_p": 0.01}
    say_in_generation_config(own, do_sample=True, **settings)
    result = assert_done(generate(own, "--json", *words))
    assert json.loads(result.stdout) == drawn != greedy
    assert "temperature 1.5, as generation_config.json says" in result.stderr
    assert result_of(own, *words, "--temperature", 0) == greedy
    assert result_of(own, *words, "--top-k", 5) != drawn
    say_in_generation_config(own, do_sample=False)
    assert result_of(own, *words) == greedy
    assert result_of(own, *words, "--temperature", 1.5) == drawn


def test_a_repetition_penalty_of_the_generation_config_acts_as_in_transformers(own):
    say_in_generation_config(own, repetition_penalty=1.3)
    model = AutoModelForCausalLM.from_pretrained(own / "model")
    tokens = torch.tensor([[5, 7, 9, 11, 7]])
    there = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=40, do_sample=False,
                           pad_token_id=0)[0, 5:].tolist()
    words = ("--tokens", ids(tokens[0].tolist()), "--max-new-tokens", 40)
    assert result_of(own, *words)["tokens"] == there != result_of(own, *words, "--repetition-penalty", 1)["tokens"]


def test_a_config_json_from_before_generation_configs_has_the_same_keys(own):
    words = ("--tokens", "5,7,9,11,7", "--max-new-tokens", 40)
    penalised = result_of(own, *words, "--repetition-penalty", 1.3)
    (own / "model/generation_config.json").unlink()
    path = own / "model/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"repetition_penalty": 1.3, "top_k": 50.0, "top_p": 0.0}))
    assert result_of(own, *words) == penalised != result_of(own, *words, "--repetition-penalty", 1)


@pytest.mark.parametrize("as_list", [True, False])
def test_stop_texts_of_the_generation_config_end_a_continuation(own, as_list):
    words = ("--prompt", "a", "--max-new-tokens", 60, "--temperature", 1, "--seed", 2)
    whole = result_of(own, *words)
    stop = whole["text"][12:14]
    say_in_generation_config(own, stop_strings=[stop] if as_list else stop)
    assert result_of(own, *words) == result_of(own, *words, "--stop", stop) != whole
    assert result_of(own, *words, "--stop", "not in it") == whole


def test_what_the_generation_config_asks_for_and_regroup_lacks_is_named(own):
    say_in_generation_config(own, no_repeat_ngram_size=3, num_beams=1, typical_p=1.0, bad_words_ids=[[5]],
                             suppress_tokens=[])
    result = assert_done(generate(own, "--tokens", 1))
    assert "generation_config.json has no_repeat_ngram_size = 3, bad_words_ids = [[5]]" in result.stderr
    assert "num_beams" not in result.stderr


@pytest.mark.parametrize("field, value", [("temperature", "hot"), ("top_p", 1.5), ("top_k", "all"), ("do_sample", 1),
                                          ("repetition_penalty", 0), ("stop_strings", [1]), ("eos_token_id", "</s>")])
def test_a_generation_config_that_means_nothing_is_refused(own, field, value):
    say_in_generation_config(own, **{field: value})
    assert_refused(generate(own, "--tokens", 1), 1, "generation_config.json", field)


# --- What ends a continuation ---


def test_every_eos_of_the_generation_config_ends_a_continuation(own):
    tokens = result_of(own, "--prompt", "a", "--max-new-tokens", 30)["tokens"]
    end = next(i for i in range(3, 30) if tokens[i] not in tokens[:i])
    say_in_generation_config(own, eos_token_id=[258, tokens[end]])
    found = result_of(own, "--prompt", "a", "--max-new-tokens", 30)
    assert (found["tokens"], found["stopped_by"]) == (tokens[: end + 1], "eos")


def test_a_continuation_without_a_word_is_explained(shared):
    text = result_of(shared, "--prompt", "a", "--max-new-tokens", 30)["text"]
    result = assert_done(generate(shared, "--prompt", "a", "--max-new-tokens", 30, "--stop", text[0]))
    assert result.stdout == "\n"
    assert "the model ended the text before it said anything" in result.stderr


def test_a_continuation_ends_before_a_stop_text(shared):
    words = ("--prompt", "a", "--max-new-tokens", 60, "--temperature", 1, "--seed", 2)
    whole = result_of(shared, *words)
    text, tokens = whole["text"], whole["tokens"]
    begin = next(i for i in range(10, len(text) - 2) if text[i : i + 2].isascii() and text.find(text[i : i + 2]) == i)
    stop = text[begin : begin + 2]
    found = result_of(shared, *words, "--stop", "not in it", "--stop", stop)
    assert (found["text"], found["stopped_by"]) == (text[:begin], "stop")
    assert found["tokens"] == tokens[: len(found["tokens"])] != tokens
    printed = assert_done(generate(shared, *words, "--stop", stop)).stdout
    assert printed == text[:begin] + "\n"
    assert result_of(shared, *words, "--stop", "not in it") == whole


def test_a_blank_is_a_stop_text_and_nothing_is_not(shared):
    assert_done(generate(shared, "--prompt", "a", "--stop", "\n"))
    assert_refused(generate(shared, "--prompt", "a", "--stop", ""), 2, "--stop", "expected a text")


def test_ids_need_a_tokenizer_for_a_stop_text(own):
    words = ("--tokens", "1,2", "--max-new-tokens", 4, "--stop", "x")
    assert result_of(own, *words)["text"] == result_of(own, "--tokens", "1,2", "--max-new-tokens", 4,
                                                       "--stop", "y")["text"] is not None
    (own / "model/tokenizer.json").unlink()
    assert_refused(generate(own, *words), 2, "tokenizer.json", "no --stop")


def test_a_tokenizer_that_dies_is_an_error(tmp_path):
    write_model(tmp_path / "model", max_position_embeddings=LONG + 10)
    command = [REGROUP, "generate", "--model", "model", "--prompt", "a", "--stop", "none", "--max-new-tokens", str(LONG)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not children.read_text():
            assert process.poll() is None
        os.kill(int(children.read_text()), signal.SIGKILL)
        output = process.communicate(timeout=60)
    assert_refused(subprocess.CompletedProcess(command, process.returncode, *output), 1, "ended when asked to")


# --- Files of prompts ---


def test_results_of_a_file_are_those_of_each_prompt_alone(shared):
    lines = [{"prompt": "one", "id": 7}, {"tokens": [1, 2, 3, 4], "id": "x"}, {"prompt": "two", "more": {"a": [1]}},
             "\n", {"prompt": "longer"}, {"prompt": "six"}]
    words = ("--max-new-tokens", 12, "--temperature", 1, "--stop", "e", "--stop", "t")
    found = results_of(shared, write_prompts(shared, *lines), *words, "--seed", 3)
    assert {result["stopped_by"] for result in found} == {"stop", "length"}
    alone = []
    for number, line in enumerate(lines):
        if line == "\n":
            continue
        prompt = ("--prompt", line.pop("prompt")) if "prompt" in line else ("--tokens", ids(line.pop("tokens")))
        alone.append(line | result_of(shared, *prompt, *words, "--seed", 3 + number))
    assert found == alone


def test_more_prompts_than_are_computed_at_once_keep_their_order(shared):
    prompts = write_prompts(shared, *({"prompt": "ab" if i % 3 else "abc", "id": i} for i in range(40)))
    found = results_of(shared, prompts, "--max-new-tokens", 5, "--temperature", 1)
    assert [result["id"] for result in found] == list(range(40))
    for i in (0, 17, 39):
        alone = result_of(shared, "--prompt", "ab" if i % 3 else "abc", "--max-new-tokens", 5, "--temperature", 1,
                          "--seed", i)
        assert found[i] == {"id": i} | alone


def test_ids_without_stop_texts_need_no_tokenizer(own):
    (own / "model/tokenizer.json").unlink()
    [result] = results_of(own, write_prompts(own, {"tokens": [1, 2]}), "--max-new-tokens", 2)
    assert result["text"] is None and len(result["tokens"]) == 2


GOOD = {"prompt": "a"}


@pytest.mark.parametrize("lines, exit_code, parts", [
    ([], 1, ["holds no prompts"]),
    (["\n"], 1, ["holds no prompts"]),
    ([GOOD, "{\n"], 1, [":2", "not valid JSON"]),
    ([GOOD, [1]], 1, [":2"]),
    ([GOOD, {"id": 1}], 1, [":2", "exactly one"]),
    ([{"prompt": "a", "tokens": [1]}], 1, [":1", "exactly one"]),
    ([{"prompt": 1}], 1, [":1", "prompt is 1"]),
    ([{"tokens": [1, "x"]}], 1, [":1", "tokens"]),
    ([{"prompt": "a", "text": "mine"}], 1, [":1", '"text"']),
    ([GOOD, GOOD, {"tokens": [1, 259]}], 2, [":3", "259"]),
    ([GOOD, {"tokens": []}], 2, [":2", "no tokens"]),
    ([GOOD, {"prompt": "a" * 300}], 2, [":2", "301 tokens", "256"]),
    ([{"messages": [{"role": "user", "content": "a"}]}], 2, [":1", "--chat"]),
])
def test_a_bad_line_is_named_before_any_work(shared, lines, exit_code, parts):
    prompts = write_prompts(shared, *lines)
    assert_refused(generate(shared, "--prompts", prompts), exit_code, "prompts.jsonl", *parts)


def test_prompts_may_come_from_a_pipe(shared):
    result = regroup("generate", "--model", "model", "--prompts", "/dev/stdin", "--max-new-tokens", 2, cwd=shared,
                     input='{"prompt": "a"}')
    assert json.loads(assert_done(result).stdout) == result_of(shared, "--prompt", "a", "--max-new-tokens", 2)


def test_prompts_come_from_one_place(shared):
    assert_refused(generate(shared, "--prompts", shared / "none.jsonl"), 1, "none.jsonl")
    assert_refused(generate(shared, "--prompts", "x", "--prompt", "a"), 2, "--prompts")
    assert_refused(generate(shared, "--tokens", 1, "--chat"), 2, "--chat", "--tokens")


def test_tokens_that_only_other_files_name_bring_a_warning(own):
    path = own / "model/tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": "<pad>"}))
    words = ("--max-new-tokens", 1, "--prompt")
    done = assert_done(generate(own, *words, "a<pad>"))
    assert "model: tokenizer.json lacks 1 of the tokens" in done.stderr and '"<pad>"' in done.stderr
    path.unlink()
    assert "lacks" not in assert_done(generate(own, *words, "a<pad>")).stderr


# --- Chats ---


def write_template(folder, place):
    if place == "file":
        return (folder / "chat_template.jinja").write_text(TEMPLATE)
    path = folder / "tokenizer_config.json"
    templates = {"string": TEMPLATE, "list": [{"name": "other", "template": "{{ 1 }}"},
                                              {"name": "default", "template": TEMPLATE}]}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": templates[place]}))


@pytest.mark.parametrize("place", ["file", "string", "list"])
def test_a_chat_has_the_tokens_that_transformers_gives_it(own, place):
    write_template(own / "model", place)
    tokenizer = AutoTokenizer.from_pretrained(own / "model")

    def there(messages):
        return tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)["input_ids"]

    user = [{"role": "user", "content": "Hé <s>?"}]
    talk = [*user, {"role": "bot", "content": "b"}, {"role": "user", "content": "c"}]
    words = ("--chat", "--max-new-tokens", 1)
    found = result_of(own, "--prompt", user[0]["content"], *words)["prompt_tokens"]
    assert found == there(user)
    assert found[:2] == [256, 257] and found[-1] == 258
    results = results_of(own, write_prompts(own, {"messages": talk}, {"prompt": user[0]["content"]}), *words)
    assert [result["prompt_tokens"] for result in results] == [there(talk), there(user)]


def test_a_template_sees_the_keys_of_messages_in_their_order(own):
    (own / "model/chat_template.jinja").write_text("{% for m in messages %}{{ m | tojson }}{% endfor %}")
    messages = [{"role": "user", "tool_calls": [{"name": "get", "arguments": {"location": "Paris", "days": 3}}]}]
    text = AutoTokenizer.from_pretrained(own / "model").apply_chat_template(messages, tokenize=False)
    prompts = write_prompts(own, {"z": 1, "messages": messages, "a": {"y": 1, "b": 2}})
    result = results_of(own, prompts, "--chat", "--max-new-tokens", 1)[0]
    tokenizer = AutoTokenizer.from_pretrained(own / "model")
    assert result["prompt_tokens"] == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert list(result)[:2] == ["z", "a"] and list(result["a"]) == ["y", "b"]


def test_a_model_without_a_chat_template_is_no_chat_model(shared):
    assert_refused(generate(shared, "--prompt", "a", "--chat"), 2, "has no chat template", "--chat")


def test_messages_that_the_template_refuses_are_named(own):
    write_template(own / "model", "file")
    good = {"messages": [{"role": "user", "content": "a"}]}
    for bad, part in (([{"role": "system", "content": "a"}], "no systems"), ([], "messages"), ("a", "messages"),
                      ([{"content": "a"}], "messages")):
        prompts = write_prompts(own, good, {"messages": bad})
        assert_refused(generate(own, "--prompts", prompts, "--chat"), 1, "prompts.jsonl:2", part)


def test_a_folders_code_is_never_run(own):
    write_template(own / "model", "string")
    path = own / "model/tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {
        "tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}}))
    (own / "model/mine.py").write_text(f"open({str(own / 'was_run')!r}, 'w')")
    assert result_of(own, "--prompt", "a", "--chat", "--max-new-tokens", 1)["prompt_tokens"][:2] == [256, 257]
    assert not (own / "was_run").exists()


# --- Terminals ---


def read_all(descriptor):
    """What a pseudo-terminal gives until its other side is closed, which Linux reports as an error."""
    found = b""
    try:
        while piece := os.read(descriptor, 4096):
            found += piece
    except OSError:
        pass
    return found


def on_terminal(folder, *words):
    """What the command writes to a terminal that changes nothing of it."""
    outside, inside = pty.openpty()
    tty.setraw(inside)
    with subprocess.Popen([REGROUP, "generate", "--model", "model", *map(str, words)], cwd=folder, stdout=inside,
                          stderr=subprocess.PIPE) as process:
        os.close(inside)
        found = read_all(outside)
        assert process.wait(timeout=60) == 0, process.stderr.read()
    os.close(outside)
    return found.decode()


@pytest.mark.parametrize("words", [("--prompt", "a"), ("--prompt", "a", "--stop", "e", "--stop", "zz"),
                                   ("--tokens", "1,2")])
def test_a_terminal_gets_the_same_text(shared, words):
    words = (*words, "--max-new-tokens", 80, "--temperature", 1)
    assert on_terminal(shared, *words) == assert_done(generate(shared, *words)).stdout


def test_a_text_that_its_decoder_rewrites_begins_again(tmp_path):
    random_llama(vocab_size=3, num_key_value_heads=3, bos_token_id=None,
                 eos_token_id=None).save_pretrained(tmp_path / "model")
    tokenizer = Tokenizer(models.WordLevel({"x": 0, "'": 1, "m": 2}, unk_token="x"))
    tokenizer.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace("'m", " am")])
    tokenizer.save(str(tmp_path / "model/tokenizer.json"))
    words = ("--prompt", "x", "--max-new-tokens", 20, "--temperature", 2)
    [*before, last] = on_terminal(tmp_path, *words).splitlines(keepends=True)
    assert before and last == assert_done(generate(tmp_path, *words)).stdout


def test_text_appears_as_it_grows_until_ctrl_c(tmp_path):
    write_model(tmp_path / "model", max_position_embeddings=LONG + 10)
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(tmp_path)
        os.execv(REGROUP, [REGROUP, "generate", "--model", "model", "--prompt", "a", "--max-new-tokens", str(LONG)])
    found = b""
    while len(found) < 20:
        found += os.read(terminal, 4096)
    os.write(terminal, b"\x03")
    found += read_all(terminal)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 130, found
    assert b"interrupted" in found and b"error" not in found


def test_results_before_ctrl_c_are_whole_lines(tmp_path):
    write_model(tmp_path / "model", max_position_embeddings=LONG + 10)
    prompts = write_prompts(tmp_path, {"tokens": [1], "id": 1}, {"tokens": [1, 2], "id": 2})
    with subprocess.Popen([REGROUP, "generate", "--model", "model", "--prompts", prompts, "--max-new-tokens", "1500"],
                          cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, stderr = process.communicate(timeout=60)
    assert (process.returncode, rest) == (130, ""), stderr
    assert json.loads(first)["id"] == 1
    assert "prompt" in stderr and "interrupted" in stderr and "error" not in stderr
